"""The sample's own words: site furniture, planted (fake) contacts, odd pages, error pages. Written for this project."""

from __future__ import annotations

import json
import struct
import zlib

DESCRIPTION = (
    "pages of Debian documentation packages under synthetic URLs, with planted fakes and damage; see README.md"
)

BLOGS = ("homelab-notes.example", "admin-diary.example", "penguin-weekly.example", "serverfarm.example.net",
         "tuxblog.example.org", "kernel-panic.example.com", "rackspace-garden.example")  # fmt: skip

LICENCE_LINK = {
    "debian-handbook": '<link rel="license" href="https://creativecommons.org/licenses/by-sa/3.0/">',
    "apache2-doc": '<link rel="license" href="https://www.apache.org/licenses/LICENSE-2.0">',
}

# language -> (menu words, cookie sentence, button, side heading, footer)
SITE = {
    "en": ("Home News Articles Tutorials Forum Shop Jobs About Contact Newsletter Archive Tags Login Register Search Help",
           "We use cookies to improve your experience on this site. By continuing you agree to our privacy policy.",
           "Accept all", "Related articles", "All rights reserved. Terms of use. Imprint."),
    "de": ("Startseite Aktuelles Artikel Anleitungen Forum Laden Stellen Über Kontakt Rundbrief Archiv Themen Anmelden Registrieren Suche Hilfe",
           "Wir verwenden Cookies, um Ihnen das beste Erlebnis auf dieser Seite zu bieten. Mehr in der Datenschutzerklärung.",
           "Alle annehmen", "Ähnliche Artikel", "Alle Rechte vorbehalten. Nutzungsbedingungen. Impressum."),
    "fr": ("Accueil Actualités Articles Tutoriels Forum Boutique Emplois Équipe Contact Lettre Archives Mots-clés Connexion Inscription Recherche Aide",
           "Nous utilisons des cookies pour améliorer votre visite. En continuant, vous acceptez notre politique de confidentialité.",
           "Tout accepter", "Articles liés", "Tous droits réservés. Conditions d'utilisation. Mentions légales."),
    "es": ("Inicio Noticias Artículos Tutoriales Foro Tienda Empleo Nosotros Contacto Boletín Archivo Etiquetas Entrar Registro Buscar Ayuda",
           "Usamos cookies para mejorar su experiencia en este sitio. Al continuar acepta nuestra política de privacidad.",
           "Aceptar todo", "Artículos relacionados", "Todos los derechos reservados. Condiciones de uso. Aviso legal."),
    "it": ("Inizio Notizie Articoli Guide Forum Negozio Lavoro Noi Contatti Bollettino Archivio Temi Entra Registrati Cerca Aiuto",
           "Usiamo i cookie per migliorare la visita. Continuando accettate la nostra informativa sulla riservatezza.",
           "Accetta tutto", "Articoli simili", "Tutti i diritti riservati. Condizioni d'uso. Note legali."),
    "pt": ("Início Notícias Artigos Tutoriais Fórum Loja Empregos Sobre Contato Boletim Arquivo Etiquetas Entrar Registrar Buscar Ajuda",
           "Usamos cookies para melhorar sua experiência neste site. Ao continuar, você aceita nossa política de privacidade.",
           "Aceitar tudo", "Artigos relacionados", "Todos os direitos reservados. Termos de uso. Aviso legal."),
    "ru": ("Главная Новости Статьи Уроки Форум Магазин Вакансии Проект Контакты Рассылка Архив Метки Вход Регистрация Поиск Помощь",
           "Мы используем файлы cookie, чтобы сайт работал лучше. Продолжая, вы соглашаетесь с политикой конфиденциальности.",
           "Принять все", "Похожие статьи", "Все права защищены. Условия использования."),
    "ja": ("ホーム ニュース 記事 入門 掲示板 店舗 求人 案内 連絡 通信 保管庫 タグ ログイン 登録 検索 ヘルプ",
           "当サイトでは利便性向上のためクッキーを使用しています。閲覧を続けると利用に同意したものとみなします。",
           "すべて許可", "関連記事", "無断転載を禁じます。利用規約。"),
}  # fmt: skip


def site(language: str, n: int) -> tuple[str, str]:
    """Menu, cookie notice, side bar and footer around a page's body: (what comes before, what comes after)."""
    menu, cookies, button, related, footer = SITE[language]
    words = menu.split(" ")
    links = "".join(f'<li><a href="/{language}/{i}">{word}</a></li>' for i, word in enumerate(words))
    side = "".join(
        f'<li><a href="/{language}/a{n * 7 + i}">{words[(n + i) % 16]} {words[(n * 3 + i) % 16]}</a></li>'
        for i in range(18)
    )
    script = f"<script>window.pageNumber={n};function track(){{return document.title.length;}}track();</script>"
    top = (
        f'<div class="cookie-banner" id="cookies"><p>{cookies}</p><button>{button}</button></div>'
        f'<header><nav class="menu"><ul>{links}</ul></nav></header>{script}<main class="content">'
    )
    bottom = (
        f'</main><aside class="sidebar"><h3>{related}</h3><ul>{side}</ul></aside>'
        f'<footer class="footer"><ul>{links}</ul><p>© {2015 + n % 9}. {footer}</p></footer>'
    )
    return top, bottom


# language -> sentence with planted contacts. Names are invented; numbers come from ranges set aside for fiction and
# tests (US 555-01xx, Ofcom, BNetzA and ARCEP drama numbers, card and IBAN test numbers, RFC 5737 and 2606 names).
CONTACT = {
    "en": "Questions about this page? Write to {mail}, call +44 20 7946 0{n:03d} or +1 202-555-01{m:02d}, or ask {name} at the desk. Orders were paid with the card {card} from the host {ip}.",
    "de": "Fragen zu dieser Seite? Schreiben Sie an {mail} oder rufen Sie +49 30 23125 {n:03d} an; {name} hilft gern. Überweisungen bitte auf das Konto {iban}, Anmeldung von {ip} aus.",
    "fr": "Une question sur cette page ? Écrivez à {mail} ou appelez le +33 1 99 00 {m:02d} {k:02d} ; {name} vous répondra. Le paiement se fait par carte {card} ou sur le compte {iban}.",
    "es": "¿Preguntas sobre esta página? Escriba a {mail} o llame al +1 202-555-01{m:02d}; {name} le atenderá. El pago se hizo con la tarjeta {card} desde {ip}.",
    "it": "Domande su questa pagina? Scrivete a {mail} oppure chiamate +1 202-555-01{m:02d}; {name} vi risponderà. Il pagamento va sul conto {iban}.",
    "pt": "Perguntas sobre esta página? Escreva para {mail} ou ligue para +1 202-555-01{m:02d}; {name} responderá. O pagamento foi feito com o cartão {card}.",
    "ru": "Вопросы об этой странице? Пишите на {mail} или звоните +1 202-555-01{m:02d}, ответит {name}. Оплата прошла картой {card} с адреса {ip}.",
    "ja": "このページについてのご質問は {mail} または +1 202-555-01{m:02d} までご連絡ください。担当は {name} です。お支払いはカード {card} で確認しました。",
}  # fmt: skip
NAMES = ("Jane Roe", "Max Mustermann", "Marie Dupont", "Juan Pérez", "Ola Nordmann", "Mario Rossi")
MAILS = (
    "jane.roe@example.com",
    "max.mustermann@example.org",
    "m.dupont@mail.example.net",
    "webmaster@team.example.com",
)
CARDS = ("4111 1111 1111 1111", "5555-5555-5555-4444", "378282246310005", "4012888888881881")
IBANS = ("DE89 3704 0044 0532 0130 00", "FR1420041010050500013M02606", "GB82 WEST 1234 5698 7654 32")
ADDRESSES = ("192.0.2.44", "198.51.100.7", "203.0.113.99", "2001:db8::7334")


def contact(language: str, n: int) -> str:
    """A paragraph of fake personal data."""
    text = CONTACT[language].format(
        mail=MAILS[n % 4], name=NAMES[n % 6], card=CARDS[n % 4], iban=IBANS[n % 3], ip=ADDRESSES[n % 4],
        n=n * 13 % 1000, m=n * 7 % 100, k=n * 11 % 100,
    )  # fmt: skip
    return f"<p>{text}</p>"


# URLs whose words a URL filter knows; the pages behind them are harmless documentation.
BLOCKED_URLS = (
    "https://free-porn-videos.example/watch/", "http://www.xxx-cams.example/live/", "https://casino-bonus.example/slots/",
    "https://online-poker.example.net/tables/", "http://adult-dating.example/profile/", "https://sexshop.example/item/",
    "https://bet365-betting.example/odds/", "https://forum.example.org/nude-pics/thread/", "http://escort-girls.example/city/",
    "https://www.example.com/viagra-pharmacy/order/", "https://jackpot-casino.example/roulette/", "https://hentai-tube.example/clip/",
    "https://warez-crack.example/keygen/",
)  # fmt: skip

LOREM = (
    "Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod tempor incididunt ut labore et dolore magna "
    "aliqua. Ut enim ad minim veniam, quis nostrud exercitation ullamco laboris nisi ut aliquip ex ea commodo consequat. "
)


def _html(title: str, body: str, language: str = "en") -> str:
    return f'<!DOCTYPE html><html lang="{language}"><head><meta charset="utf-8"><title>{title}</title></head><body>{body}</body></html>'


def pages() -> list[tuple[str, str, str]]:
    """Pages that quality filters, or careless parsers, should stumble over: (name, language, HTML)."""
    out: list[tuple[str, str, str]] = []

    def add(name: str, body: str, language: str = "en") -> None:
        out.append((name, language, _html(name.replace("-", " "), body, language)))

    for n in range(4):
        add(f"placeholder-{n}", f"<h1>New site {n}</h1>" + f"<p>{LOREM}</p>" * (3 + n))
        add(
            f"price-list-{n}",
            "<table>"
            + "".join(f"<tr><td>Part {n}-{i}</td><td>{i * 17 % 89}.{n}0</td></tr>" for i in range(60))
            + "</table>",
        )
        line = "Buy the best server hosting now and save on every plan you choose this week."
        add(f"repeated-offer-{n}", f"<p>{line}</p>" * (25 + n))
        add(
            f"shouting-{n}",
            "<p>" + "LIMITED OFFER!!! CLICK HERE NOW!!! BEST PRICE >>> 100% FREE $$$ *** " * (8 + n) + "</p>",
        )
        bullets = "".join(f"<li>item {i} of the long list</li>" for i in range(40))
        add(f"bullets-{n}", f"<h1>Checklist {n}</h1><ul>{bullets}</ul>")
        more = "".join(
            f"<p>Today we look at topic number {i} and why everybody talks about it...</p>" for i in range(12)
        )
        add(f"teasers-{n}", more)
        code = "".join(
            f"<p>function handler{i}(event) {{ if (event.key == {i}) {{ return state[{i}]; }} }}</p>" for i in range(14)
        )
        add(f"code-dump-{n}", code)
        add(f"script-needed-{n}", "<p>Please enable JavaScript in your browser to view this page.</p>" * 2)
    add("tiny", "<p>OK</p>")
    add("empty-body", "")
    add("spaces-only", "<p>&nbsp;&nbsp; \t\n</p>" * 5)
    add("emoji", "<p>" + "😀 🎉 👩‍👩‍👧 🚀 " * 40 + "</p>")
    add("number-stream", "<p>" + " ".join(str(i * i) for i in range(700)) + "</p>")
    add("hash-tags", "<p>" + " ".join(f"#tag{i}" for i in range(200)) + "</p>")
    prose = "A page may hold a byte that no text should hold, and a reader has to go on all the same, line after line. "
    add("nul-bytes", f"<p>{prose}\x00\x00{prose}</p><p>{prose * 3}\x00</p>")
    add("control-characters", f"<p>{prose}\x07\x08\x1b[31m{prose}\x0c</p><p>{prose * 3}</p>")
    add("lone-surrogate-entity", f"<p>{prose}&#xD800;&#xDFFF;&#0;&#x110000;{prose * 4}</p>")
    add("deep-nesting", "<div>" * 1500 + f"<p>{prose * 4}</p>" + "</div>" * 1500)
    add("unclosed-tags", "<div><p><b><i>" * 40 + prose * 5)
    add("one-long-word", "<p>" + "abcdefghij" * 3000 + "</p>")
    add(
        "mojibake",
        "<p>"
        + "Ã¼ber die schÃ¶nen GÃ¤rten hinter dem Haus wurde im Ãœbrigen schon lange nichts mehr gesagt. " * 6
        + "</p>",
        "de",
    )
    hostile = "<script>alert(1)</script>&lt;script&gt;alert('x')&lt;/script&gt; &lt;img src=x onerror=alert(1)&gt; "
    add(
        "markup-in-text",
        f"<h1>&lt;b&gt;markup&lt;/b&gt; in text</h1><p>{hostile}{prose * 4}</p><p>{{{{ 7 * 7 }}}} ${{HOME}} &lt;|endoftext|&gt; {prose}</p>",
    )
    add("right-to-left-override", f"<p>\u202e{prose * 2}\u202c\u200b\u200b{prose * 2}\ufeff</p>")
    add(
        "frames",
        "<iframe src='https://frames.example.org/inner.html'></iframe><noscript>Your browser shows no frames.</noscript>",
    )
    out.append(("no-html-at-all", "en", prose * 6))
    out.append(("empty-document", "", ""))
    return out


def error_page(status: str) -> str:
    """A server's page for a status."""
    return _html(
        status, f"<h1>{status}</h1><p>The server could not give you this page. Try the start page instead.</p>"
    )


def other_types() -> list[tuple[str, str, bytes]]:
    """Responses that are no HTML: (name, content type, bytes)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
    png = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0\xff\x80\0", 9)) + chunk(b"IEND", b"")
    rows = [{"id": i, "name": f"item {i}", "price": i * 3} for i in range(40)]
    urls = "".join(f"<url><loc>https://www.example.com/{i}</loc></url>" for i in range(30))
    pdf = b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[]/Count 0>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n"
    return [
        ("pixel.png", "image/png", png),
        ("mislabelled.html", "text/html", png),
        ("items.json", "application/json", json.dumps(rows).encode()),
        ("style.css", "text/css", b"body { margin: 0; color: #222; }\n" * 20),
        ("app.js", "text/javascript; charset=utf-8", b"export const add = (a, b) => a + b;\n" * 20),
        ("sitemap.xml", "application/xml", f"<?xml version='1.0'?><urlset>{urls}</urlset>".encode()),
        ("robots.txt", "text/plain", b"User-agent: *\nDisallow: /private/\n"),
        ("notes.txt", "text/plain; charset=utf-8", b"The shop is closed on Monday. Deliveries come on Tuesday morning.\n" * 8),
        ("empty.pdf", "application/pdf", pdf),
        ("blob.bin", "application/octet-stream", bytes(range(256)) * 4),
        ("feed.rss", "application/rss+xml", b"<rss version='2.0'><channel><title>News</title></channel></rss>"),
        ("odd-type.html", "TEXT/HTML ; Charset = \"utf-8\"", _html("odd", "<p>The header of this page is written oddly.</p>").encode()),
        ("broken-type.html", ";;;", _html("broken", "<p>The type of this page is no type.</p>").encode()),
    ]  # fmt: skip
