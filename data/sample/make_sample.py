"""How data/sample was made: real pages of Debian documentation packages, plus seeded damage, as WARC files.

Not run by users. To make it again (Debian 12 with `apt-get update` done, dpkg, and this project's dependencies):

    python data/sample/make_sample.py --work /tmp/sample

Downloads the packages of packages.tsv at exactly those versions (no installation), picks pages by hash, and rewrites
data/sample/*.warc.gz and manifest.jsonl.gz. Same packages, same bytes: no clock, no unseeded randomness, gzip mtime 0.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import random
import re
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import lxml.html

sys.path.insert(0, str(Path(__file__).parent))
import sample_text as own
from sample_warc import Page, member, write

HERE = Path(__file__).parent
MAX_PAGE = 27_000  # bytes of HTML; longer pages are left out (but for one large one)
LARGE_PAGE = ("postgresql-doc-15", "app-psql.html")

# package -> (folder inside it, host, {folder name of a language: (ISO 639-1, pages wanted)}); "" is no subfolder
HANDBOOK = {
    **{k: (k[:2], 54) for k in ("de-DE", "es-ES", "fr-FR", "it-IT", "ja-JP", "pt-BR")},
    **{k: (k[:2], 38) for k in ("ru-RU", "zh-CN", "en-US")},
    **{k: (k[:2], 18) for k in ("ar-MA", "ca-ES", "fa-IR", "id-ID")},
    **{k: (k[:2], 8) for k in ("nl-NL", "pl-PL", "sv-SE", "tr-TR", "vi-VN", "cs-CZ")},
    "nb-NO": ("no", 18),
}
APACHE = {"en": 40, "fr": 44, "de": 24, "es": 24, "ja": 28, "ko": 26, "tr": 24, "zh-cn": 15}
OFFICE = {
    "el": 22,
    "pl": 22,
    "ko": 22,
    "cs": 16,
    "ru": 16,
    "hu": 12,
    "fi": 12,
    "sv": 12,
    "tr": 12,
    "nl": 12,
    "da": 10,
    "vi": 10,
    "zh-tw": 8,
}


def rank(*parts: str) -> bytes:
    """A seeded sort key: the same "random" order in every run."""
    return hashlib.sha256("\0".join(("gristmill sample 1", *parts)).encode()).digest()


def decode(body: bytes) -> str:
    """The page as text: strict UTF-8, else the charset that its meta element names."""
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError:
        named = re.search(rb"charset=[\"']?([\w-]+)", body[:3000])
        return body.decode(named.group(1).decode() if named else "iso-8859-1")


def declare(html: str, charset: str | None) -> str:
    """The page with its own charset declarations replaced by one meta element, or by none."""
    html = re.sub(r"^\s*<\?xml[^>]*\?>\s*", "", html)
    html = re.sub(r"<meta[^>]*charset\s*=[^>]*>", "", html, flags=re.I)
    if charset is None:
        return html
    meta = f'<meta http-equiv="Content-Type" content="text/html; charset={charset}">'
    return re.sub(r"(<head[^>]*>)", lambda m: m.group(1) + meta, html, count=1, flags=re.I)


def blocks(html: str) -> set[str]:
    """The texts of a page's longer paragraphs."""
    tree = lxml.html.fromstring(html.encode(), parser=lxml.html.HTMLParser(encoding="utf-8"))
    found = (" ".join(e.text_content().split()) for e in tree.iter("p", "li", "h1", "h2", "h3", "dd"))
    return {text for text in found if len(text) > 40}


def translated(html: str, english: str) -> bool:
    """Whether at most a tenth of the paragraphs stand word for word in the English page of the same name."""
    own_blocks = blocks(html)
    return bool(own_blocks) and len(own_blocks & blocks(english)) <= 0.1 * len(own_blocks)


def plain(html: str) -> str:
    """A page's longer paragraphs, in their order as far as they stand in the HTML unbroken."""
    return "\n".join(sorted(blocks(html), key=lambda block: (html.find(block), block)))


def unpack(work: Path, package: str, version: str) -> Path:
    """Download (once) and unpack a package without installing it."""
    tree = work / "tree" / package
    if not tree.is_dir():
        (work / "deb").mkdir(parents=True, exist_ok=True)
        if not list((work / "deb").glob(f"{package}_*.deb")):
            command = ["apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", f"{package}={version}"]
            subprocess.run(command, cwd=work / "deb", check=True)
        (deb,) = (work / "deb").glob(f"{package}_*.deb")
        subprocess.run(["dpkg", "-x", str(deb), str(tree)], check=True)
    return tree


def pick(
    files: list[Path], wanted: int, keep: Callable[[Path, str], bool] = lambda p, h: True
) -> Iterator[tuple[Path, str]]:
    """The first `wanted` acceptable files in hash order, with their text."""
    files = [f for f in files if not f.is_symlink() and f.stat().st_size <= MAX_PAGE]
    for path in sorted(files, key=lambda f: rank(*f.parts[-4:])):
        if wanted <= 0:
            return
        html = decode(path.read_bytes())
        if len(html) > 1200 and keep(path, html):
            wanted -= 1
            yield path, html


def real_pages(trees: dict[str, Path]) -> list[Page]:
    """Unchanged pages of the packages, as UTF-8 or in the charset that they came in."""
    pages: list[Page] = []

    def add(path: Path, url: str, package: str, language: str, kind: str = "page") -> None:
        body = path.read_bytes()
        named = re.search(rb"charset\s*=\s*[\"']?([\w-]+)", body[:3000])
        charset = named.group(1).decode().lower() if named else "utf-8"
        try:
            body.decode("utf-8")
            charset = "utf-8"
        except UnicodeDecodeError:
            pass
        pages.append(Page(url, body, package, language, kind, charset, content_type=f"text/html; charset={charset}"))

    base = trees["debian-handbook"] / "usr/share/doc/debian-handbook/html"
    for folder, (language, wanted) in HANDBOOK.items():

        def keep(path: Path, html: str, folder: str = folder) -> bool:
            return folder == "en-US" or translated(html, decode((base / "en-US" / path.name).read_bytes()))

        for path, _ in pick(sorted((base / folder).glob("*.html")), wanted, keep):
            add(path, f"https://{language}.handbook.example/{path.name}", "debian-handbook", language)

    for language in ("en", "de", "fr", "it", "ja", "ko", "nl", "pt", "ru", "zh-cn"):
        package = "debian-faq" if language == "en" else f"debian-faq-{language}"
        for path, _ in pick(sorted((trees[package] / "usr/share/doc").rglob("FAQ/**/*.html")), 20):
            add(path, f"http://faq-{language}.example.org/faq/{path.name}", package, language[:2])

    base = trees["apache2-doc"] / "usr/share/doc/apache2-doc/manual"
    for folder, wanted in APACHE.items():

        def keep(path: Path, html: str, folder: str = folder) -> bool:
            twin = base / "en" / path.relative_to(base / folder)
            return folder == "en" or (twin.is_file() and translated(html, decode(twin.read_bytes())))

        for path, _ in pick(sorted((base / folder).rglob("*.html")), wanted, keep):
            name = path.relative_to(base / folder)
            add(path, f"https://www.webserver-docs.example/2.4/{folder}/{name}", "apache2-doc", folder[:2])

    for language, wanted in OFFICE.items():
        package = f"libreoffice-help-{language}"
        for path, _ in pick(sorted((trees[package] / "usr/share/libreoffice/help").rglob("text/**/*.html")), wanted):
            name = path.relative_to(trees[package] / "usr/share/libreoffice/help")
            add(path, f"https://help.office.example/{name}", package, language[:2], "boilerplate")

    for package, pattern, host, wanted in (
        ("postgresql-doc-15", "html/[a-z]*-*.html", "database.example.net/docs/15", 80),
        ("sqlite3-doc", "sqlite3/*.html", "small-database.example", 60),
        ("rust-doc", "html/book/ch*.html", "book.rustacean.example", 50),
    ):
        files = sorted((trees[package] / "usr/share/doc").glob(f"**/{pattern}"))
        for path, _ in pick(files, wanted, lambda _, html: len(" ".join(blocks(html))) > 1500):
            add(path, f"https://{host}/{path.name}", package, "en")

    names = None
    for package in ("llvm-14-doc", "llvm-15-doc", "llvm-16-doc"):  # real near-duplicates: three releases of a manual
        base = trees[package] / f"usr/share/doc/{package}/html"
        if names is None:
            chosen = pick(sorted(base.glob("*.html")) + sorted(base.glob("CommandGuide/*.html")), 30)
            names = [path.relative_to(base) for path, _ in chosen]
        release = package.split("-")[1]
        for name in names:
            if (base / name).is_file() and (base / name).stat().st_size <= 2 * MAX_PAGE:
                add(
                    base / name,
                    f"https://releases.compiler.example/{release}.0.0/docs/{name}",
                    package,
                    "en",
                    "release",
                )

    path = next(trees[LARGE_PAGE[0]].rglob(LARGE_PAGE[1]))
    add(path, f"https://database.example.net/docs/15/{path.name}", LARGE_PAGE[0], "en", "large")
    return pages


def recode(page: Page, charset: str, declared: str, number: int) -> Page:
    """The page in another charset, its declarations right (by header, by meta, or both), wrong, or gone."""
    label = {"right": charset, "wrong": "utf-8" if charset != "utf-8" else "iso-8859-1", "missing": None}[declared]
    place = number % 3  # 0 both, 1 header only, 2 meta only
    html = declare(page.text(), label if place != 1 else None)
    body = html.encode(charset, "xmlcharrefreplace")
    header = "text/html" if label is None or place == 2 else f"text/html; charset={label}"
    host = "old-web.example"
    url = re.sub(r"^https?://([^/]+)/", rf"http://{page.language}.{host}/\1/", page.url)
    return replace(page, url=url, body=body, charset=charset, declared=declared, content_type=header, kind="charset")


CHARSETS = (  # language, charset, how many of (right, missing, wrong)
    ("fr", "iso-8859-1", 9, 4, 3), ("de", "windows-1252", 6, 3, 3), ("es", "iso-8859-1", 6, 3, 2),
    ("ru", "windows-1251", 6, 4, 3), ("ru", "koi8-r", 4, 3, 2), ("ja", "shift_jis", 6, 4, 3), ("ja", "euc-jp", 4, 2, 1),
    ("ko", "euc-kr", 4, 3, 2), ("zh", "gb18030", 6, 4, 3), ("pl", "iso-8859-2", 3, 2, 1), ("cs", "windows-1250", 3, 2, 1),
    ("tr", "iso-8859-9", 3, 1, 1), ("it", "utf-16", 2, 0, 0), ("pt", "utf-8", 0, 3, 4),
)  # fmt: skip


def insert(html: str, top: str, bottom: str = "") -> str:
    """HTML put after the body's start and before its end."""
    html = re.sub(r"(<body[^>]*>)", lambda m: m.group(1) + top, html, count=1, flags=re.I)
    head, end, tail = html.rpartition("</body>")
    return head + bottom + end + tail if end else html + bottom


def edit(html: str, rng: random.Random) -> str:
    """A seeded light edit of a page's paragraphs: one dropped, some words changed, a line about the copy added."""
    parts = re.split(r"(<p\b[^>]*>.*?</p>)", html, flags=re.S)
    spots = [i for i in range(1, len(parts), 2) if len(parts[i]) > 120]
    if len(spots) > 3:
        parts[rng.choice(spots)] = ""
    for i in rng.sample(spots, min(3, len(spots))):
        words = parts[i].split(" ")
        for j in range(1, len(words) - 1):
            if rng.random() < 0.03 and "<" not in words[j] and ">" not in words[j] and words[j + 1][:1].isalpha():
                words[j] = words[j + 1]
        parts[i] = " ".join(words)
    return insert("".join(parts), "", f"<p>Mirror copy no. {rng.randrange(100, 999)}.</p>")


def variants(pages: list[Page]) -> list[Page]:
    """Copies and planted content: everything here is a changed or repeated real page, or our own text."""
    rng = random.Random(20240101)
    changeable = [p for p in pages if p.package in ("debian-handbook", "apache2-doc") and p.charset == "utf-8"]
    by_language: dict[str, list[Page]] = {}
    for page in sorted(
        changeable + [p for p in pages if p.kind == "boilerplate"], key=lambda p: rank("variant", p.url)
    ):
        by_language.setdefault(page.language, []).append(page)
    out: list[Page] = []
    for language, charset, *counts in CHARSETS:
        pool = by_language[language]
        for declared, count in zip(("right", "missing", "wrong"), counts, strict=True):
            out += [
                recode(pool.pop() if len(pool) > 4 else pool[n % len(pool)], charset, declared, n) for n in range(count)
            ]

    def some(count: int, salt: str, languages: tuple[str, ...] = ()) -> list[Page]:
        pool = [p for p in changeable if not languages or p.language in languages]
        return sorted(pool, key=lambda p: rank(salt, p.url))[:count]

    for n, page in enumerate(some(48, "near")):
        url = page.url.replace("https://", f"http://mirror{n % 3}.example.net/")
        out.append(replace(page, url=url, body=edit(page.text(), rng).encode(), kind="near_duplicate"))
    for n, page in enumerate(some(34, "exact")):
        out.append(
            replace(
                page,
                url=page.url.replace("https://", "https://cache.example.com/") + f"?session={n:04x}",
                kind="exact_duplicate",
            )
        )
    for n, page in enumerate(some(84, "site", tuple(own.SITE))):
        html = insert(page.text(), *own.site(page.language, n))
        url = f"https://www.{own.BLOGS[n % len(own.BLOGS)]}/{page.language}/{2019 + n % 5}/{page.url.rsplit('/', 1)[1]}"
        html = html.replace("</head>", own.LICENCE_LINK[page.package] + "</head>", 1)
        out.append(replace(page, url=url, body=html.encode(), kind="site"))
    for n, page in enumerate(some(40, "pii", tuple(own.CONTACT))):
        html = insert(page.text(), "", own.contact(page.language, n))
        url = page.url.replace("https://", "https://team.example.com/") + (
            "?user=jane.roe@example.com" if n % 8 == 0 else ""
        )
        out.append(replace(page, url=url, body=html.encode(), kind="pii"))
    for n, page in enumerate(some(26, "blocked")):
        out.append(replace(page, url=own.BLOCKED_URLS[n % len(own.BLOCKED_URLS)] + f"{n}.html", kind="blocked_url"))
    for n, page in enumerate(some(6, "deep")):
        out.append(replace(page, url=f"http://192.0.2.{n + 1}/{page.url.rsplit('/', 1)[1]}", kind="ip_host"))
    for name, language, html in own.pages():
        out.append(Page(f"https://odd-pages.example/{name}.html", html.encode("utf-8"), "own", language, "low_quality"))
    return out


def servers(pages: list[Page]) -> list[Page]:
    """Records that are not plain 200 HTML responses, made of our own short texts and of a few real pages."""
    real = sorted(
        (p for p in pages if p.package == "debian-handbook" and p.kind == "page"), key=lambda p: rank("server", p.url)
    )
    site = "https://errors.example.org/"
    out = [
        Page(f"{site}{code}/{n}", own.error_page(status).encode(), "own", "en", "http_status", status=status,
             headers=[("Location", f"{site}new/{n}")] if code in (301, 302) else [])
        for code, status in ((404, "404 Not Found"), (301, "301 Moved Permanently"), (302, "302 Found"),
                             (500, "500 Internal Server Error"), (403, "403 Forbidden"), (410, "410 Gone"))
        for n in range(4)
    ]  # fmt: skip
    for name, kind, body in own.other_types():
        out.append(Page(f"https://files.example.org/{name}", body, "own", "", "content_type", content_type=kind))
    for n, page in enumerate(real[:28]):
        url = page.url.replace("https://", "https://served.example.org/")
        if n < 4:
            out.append(replace(page, url=url, content_type=None, declared="missing", kind="no_content_type"))
        elif n < 8:
            out.append(replace(page, url=url, content_type="application/xhtml+xml", kind="xhtml"))
        elif n < 14:
            out.append(
                replace(
                    page,
                    url=url,
                    body=gzip.compress(page.body, 9, mtime=0),
                    headers=[("Content-Encoding", "gzip")],
                    kind="gzip_body",
                )
            )
        elif n < 18:
            cut = [page.body[i : i + 4000] for i in range(0, len(page.body), 4000)]
            body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in cut) + b"0\r\n\r\n"
            out.append(
                replace(page, url=url, body=body, headers=[("Transfer-Encoding", "chunked")], kind="chunked_body")
            )
        elif n < 22:
            out.append(replace(page, url=url, record="resource", kind="resource"))
        elif n < 25:
            text = plain(page.text())
            out.append(
                replace(
                    page, url=url, body=text.encode(), content_type="text/plain", record="conversion", kind="conversion"
                )
            )
        else:
            out.append(replace(page, url=url, content_type="text/plain", kind="html_as_text"))
    return out


def damaged(pages: list[Page]) -> list[Page]:
    """Pages for the last file whose records will be broken while they are written."""
    real = sorted(
        (p for p in pages if p.package == "debian-handbook" and p.kind == "page"), key=lambda p: rank("damage", p.url)
    )
    kinds = [
        "http_length_long",
        "http_length_short",
        "warc_length_long",
        "warc_length_short",
        "corrupt_member",
        "no_http_header",
    ]
    kinds += ["bad_date", "garbage_between", "truncated_member"]  # the truncated one ends the file
    return [replace(p, url=p.url.replace("https://", "https://broken.example.org/"), kind="damaged", damage=k)
            for p, k in zip(real, kinds, strict=False)]  # fmt: skip


def main() -> None:
    """Make the sample."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for downloaded and unpacked packages")
    work = parser.parse_args().work.resolve()
    rows = [line.split("\t") for line in (HERE / "packages.tsv").read_text().splitlines()[1:]]
    trees = {row[0]: unpack(work, row[0], row[1]) for row in rows}
    pages = real_pages(trees)
    everything = pages + variants(pages) + servers(pages)
    everything.sort(key=lambda p: rank("order", p.url, p.kind))
    broken = damaged(pages)
    around = everything[: 7 * len(broken)]  # seven good pages before each damaged one
    rest = everything[len(around) :]
    shares = [rest[i * len(rest) // 3 : (i + 1) * len(rest) // 3] for i in range(3)]
    shares.append([page for i, bad in enumerate(broken) for page in [*around[i * 7 : i * 7 + 7], bad]])
    manifest: list[dict[str, object]] = []
    for n, share in enumerate(shares):
        name = f"crawl-{n:05d}.warc.gz" if n < 3 else "crawl-00003-damaged.warc.gz"
        write(name, share, manifest, datetime(2024, 3, 1 + 7 * n, 6, 0, 0))
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in manifest)
    (HERE / "manifest.jsonl.gz").write_bytes(member(lines.encode()))
    print(
        f"{len(manifest)} pages, {sum(f.stat().st_size for f in HERE.iterdir() if f.is_file()):,} bytes, zlib {zlib.ZLIB_VERSION}"
    )


if __name__ == "__main__":
    main()
