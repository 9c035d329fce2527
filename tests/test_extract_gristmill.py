"""Our own extractor: what it keeps of pages of many kinds, how it writes it, its model's file, and that nothing stops it."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.extract import Extract, ExtractConfig
from stages.extract.blocks import LENGTH, LINKED, WORDS, Cues, find_blocks
from stages.extract.formulas import has_formulas, to_tex, with_formulas
from stages.extract.gristmill import LEAST, THRESHOLDS, Extractor, choose, with_headings
from stages.extract.metadata import Metadata, read_metadata
from stages.extract.model import DEPTH, Trees, load_model, predict, save_model
from stages.extract.page import Page
from stages.extract.render import render
from stages.extract.signals import read_signals
from stages.stage import ASSETS, StageError
from tests.web_stages import ready

MODEL = ASSETS / "extract" / "blocks.npz"
NO_CUES = Cues(np.zeros(16, np.uint64), np.zeros(16, np.float32))


def blocks_of(page: str) -> list[tuple[str, int, int]]:
    """(text, length, linked length) of each block."""
    tree = Page(page).tree
    blocks = find_blocks(tree, NO_CUES)
    found = []
    for block in range(len(blocks.first)):
        keep = np.arange(len(blocks.first)) == block
        found.append((render(tree, blocks, keep), int(blocks.text[block, LENGTH]), int(blocks.text[block, LINKED])))
    return found


def whole(page: str, markdown: bool = False) -> str:
    tree = Page(page).tree
    blocks = find_blocks(tree, NO_CUES)
    return render(tree, blocks, np.ones(len(blocks.first), np.bool_), markdown)


def test_blocks_are_what_a_reader_sees_as_paragraphs() -> None:
    page = """<div>loose <b>bold</b>ly<p>one<br>line<p>two<br><br>three</div>four<ul><li><a href=x>all</a><li>half<a href=y>half</a></ul>
    <script>no</script><p> &nbsp; </p><p>in <i aria-hidden=true>ICON</i>side <span style="display: none">secret</span></p><button>press</button>after"""
    assert blocks_of(page) == [
        ("loose boldly", 11, 0), ("one\nline", 7, 0), ("two", 3, 0), ("three", 5, 0), ("four", 4, 0), ("- all", 3, 3),
        ("- halfhalf", 8, 4), ("in side", 6, 0), ("press", 5, 0), ("after", 5, 0),
    ]  # fmt: skip
    assert [length for _, length, _ in blocks_of("<p>中文字<p>한국어<p>ไทย<p>a&amp;b<p>é")] == [6, 6, 3, 3, 1]
    blocks = find_blocks(Page("<p>Drei kurze Worte. Und mehr, viel mehr!").tree, NO_CUES)
    assert blocks.text[0, WORDS] == 7


PAGE = """<h1>Title &amp; more</h1><p>One <b>bold</b>text with <code>x = 1</code> in  it.<br>next line</p>
<ul><li>a<li>b <ul><li>b1</li></ul><li><p>c</p><p>c second</p></ul><h2>Two</h2><ol><li>first<li>second</ol>
<blockquote><p>quoted<br>twice</p><p>again</p></blockquote>
<table><tr><th>k</th><th>v</th><th>w</th></tr><tr><td>1</td><td></td><td>3</td></tr><tr><td>4<td><p>5</p><p>6</p><td>7</table>
<pre class="language-python"><code>def f():
    return 1

x = 2
</code></pre><p>After<br></p><p>&lt;b&gt; &nbsp; x</p>"""


def test_text() -> None:
    assert whole(PAGE).split("\n") == [
        "Title & more", "One boldtext with x = 1 in it.", "next line", "- a", "- b", "- b1", "- c", "c second", "Two", "1. first",
        "2. second", "quoted", "twice", "again", "k | v | w", "1 |  | 3", "4 | 5 6 | 7", "def f():", "    return 1", "", "x = 2",
        "After", "<b>   x",
    ]  # fmt: skip


def test_markdown() -> None:
    assert whole(PAGE, markdown=True) == (
        "# Title & more\n\nOne boldtext with `x = 1` in it.\nnext line\n\n- a\n- b\n  - b1\n- c\n  c second\n\n## Two\n\n"
        "1. first\n2. second\n\n> quoted\n> twice\n>\n> again\n\n| k | v | w |\n| --- | --- | --- |\n| 1 |  | 3 |\n| 4 | 5 6 | 7 |\n\n"
        "```python\ndef f():\n    return 1\n\nx = 2\n```\n\nAfter\n\n<b>   x"
    )


def test_a_layout_table_is_no_table() -> None:
    long = "A cell with a great deal of text in it, as pages had that were laid out by tables. " * 8
    assert "|" not in whole(f"<table><tr><td>menu<td>{long}<td>more</table>", markdown=True)


def test_nested_quotes_and_lists_stay_in_bounds() -> None:
    deep = "<blockquote><ul><li>" * 60 + "x<br>y" + "\n" * 50
    for markdown in (False, True):
        assert "x\n" in whole(deep, markdown) and len(whole(deep, markdown)) < 5000


ARTICLES = {
    "de": (
        "Der Stadtrat hat am Dienstag beschlossen, die alte Brücke zu erneuern, und die Arbeiten beginnen im Mai.",
        "Startseite Kontakt Impressum",
    ),
    "en": (
        "The city council decided on Tuesday to renew the old bridge, and the works will begin in May next year.",
        "Home Contact Imprint",
    ),
    "zh": (
        "市议会星期二决定翻修旧桥，工程将于明年五月开始，预计需要两年时间，费用由市政府承担。",
        "首页 联系我们 版权",
    ),
    "ja": (
        "市議会は火曜日に古い橋を改修することを決定し、工事は来年の五月に始まる予定である。費用は市が負担する。",
        "ホーム お問い合わせ",
    ),
    "ar": (
        "قرر مجلس المدينة يوم الثلاثاء تجديد الجسر القديم، وستبدأ الأعمال في شهر مايو من العام القادم.",
        "الرئيسية اتصل بنا",
    ),
    "he": (
        "מועצת העיר החליטה ביום שלישי לחדש את הגשר הישן, והעבודות יתחילו בחודש מאי של השנה הבאה.",
        "דף הבית צור קשר",
    ),
    "th": ("สภาเมืองมีมติเมื่อวันอังคารให้ปรับปรุงสะพานเก่า และงานจะเริ่มในเดือนพฤษภาคมปีหน้า คาดว่าจะใช้เวลาสองปี", "หน้าแรก ติดต่อเรา"),
    "hi": ("नगर परिषद ने मंगलवार को पुराने पुल के नवीनीकरण का निर्णय लिया, और काम अगले साल मई में शुरू होगा।", "मुखपृष्ठ संपर्क"),
    "ru": (
        "Городской совет во вторник решил обновить старый мост, и работы начнутся в мае следующего года.",
        "Главная Контакты",
    ),
    "ko": ("시의회는 화요일에 오래된 다리를 보수하기로 결정했으며, 공사는 내년 5월에 시작될 예정이다.", "홈 연락처"),
}


@pytest.fixture(scope="module")
def extractor() -> Extractor:
    return Extractor(MODEL)


@pytest.mark.parametrize("language", ARTICLES)
def test_an_article_in_any_script_without_its_furniture(language: str, extractor: Extractor) -> None:
    sentence, menu = ARTICLES[language]
    links = "".join(f'<li><a href="/{number}">{word}</a></li>' for number, word in enumerate(menu.split()))
    related = "".join(f'<li><a href="/r{number}">{sentence[:20]} {number}</a></li>' for number in range(6))
    paragraphs = "".join(f"<p>{sentence} {sentence}</p>" for _ in range(5))
    page = (
        f'<html><head><title>x</title></head><body><header class="site-header"><nav><ul>{links}</ul></nav></header>'
        f'<div class="layout"><article class="post"><h1>{sentence[:25]}</h1>{paragraphs}</article>'
        f'<aside class="sidebar related"><h3>…</h3><ul>{related}</ul></aside></div><footer><ul>{links}</ul><p>© 2020</p></footer></body></html>'
    )
    text = extractor(Page(page))
    assert text.count(sentence) == 10
    assert menu.split()[0] not in text and "©" not in text and f"{sentence[:20]} 3" not in text


def test_documentation_forum_and_product_pages(extractor: Extractor) -> None:
    manual = (
        '<body><div class="sphinxsidebar"><ul>'
        + "<li><a href=#>chapter</a></li>" * 20
        + '</ul></div><div class="document"><div class="body" role="main">'
        "<h1>Installing</h1><p>Run the installer from a shell, and answer the questions that it asks about the target folder.</p>"
        '<pre class="highlight language-sh">./configure --prefix=/usr\nmake install</pre><p>After that, the command is in your path, and its manual page too.</p>'
        "</div></div></body>"
    )
    text = extractor(Page(manual))
    assert (
        "./configure --prefix=/usr\nmake install" in text and "chapter" not in text and "answer the questions" in text
    )
    posts = "".join(
        f'<div class="post"><div class="author"><a href=/u{n}>user{n}</a></div><div class="postbody"><p>I had the same problem with version {n}, '
        "and found that the cable was loose; it works since I changed it for a shorter one.</p></div></div>"
        for n in range(6)
    )
    text = extractor(
        Page(f'<body><nav><a href=/>Board index</a></nav><h2>Printer stops</h2><div id="posts">{posts}</div></body>')
    )
    assert all(f"version {number}," in text for number in range(6))


def test_threshold_and_its_fallback() -> None:
    likely = np.array([0.2, 0.9, 0.6, 0.5], np.float32)
    assert choose(likely, 0.55).tolist() == [False, True, True, False]
    assert choose(likely / 3, 0.55).tolist() == [False, True, True, True]
    assert choose(np.zeros(0, np.float32), 0.5).tolist() == []
    assert THRESHOLDS["recall"] < THRESHOLDS["balanced"] < THRESHOLDS["precision"] and 0 < LEAST < 1


def test_a_heading_right_before_kept_text_stays() -> None:
    tree = Page(
        "<h1>One</h1><h2>Two</h2><p>text</p><h2><a href=x>Link</a></h2><p>text</p><h2>Far</h2><div>no</div><h2>Last</h2>"
    ).tree
    blocks = find_blocks(tree, NO_CUES)
    likely = np.array([0.3, 0.3, 0.9, 0.3, 0.9, 0.4, 0.0, 0.4], np.float32)
    kept = with_headings(tree, blocks, likely, likely > 0.5)
    assert kept.tolist() == [True, True, True, False, True, False, False, False]
    assert with_headings(tree, blocks, likely / 2, likely > 0.5).tolist() == (likely > 0.5).tolist()


def test_modes_keep_more_or_less() -> None:
    rng = random.Random(3)
    parts = [
        f"<p>{'some words here, ' * rng.randint(1, 12)}<a href=x>{'link ' * rng.randint(0, 9)}</a></p>"
        for _ in range(60)
    ]
    sizes = [len(Extractor(MODEL, favor)(Page("".join(parts)))) for favor in ("precision", "balanced", "recall")]
    assert sizes == sorted(sizes) and sizes[0] < sizes[2]


def test_trees_against_a_plain_walk() -> None:
    rng = np.random.default_rng(1)
    trees = Trees(
        rng.integers(0, 7, (9, 2**DEPTH - 1)).astype(np.int16),
        rng.normal(size=(9, 2**DEPTH - 1)).astype(np.float32),
        rng.normal(size=(9, 2**DEPTH)).astype(np.float32),
    )
    rows = rng.normal(size=(40, 7)).astype(np.float32)
    for row, found in zip(rows, predict(trees, rows), strict=True):
        logit = 0.0
        for feature, threshold, leaf in zip(*trees, strict=True):
            node = 0
            while node < 2**DEPTH - 1:
                node = 2 * node + (1 if row[feature[node]] <= threshold[node] else 2)
            logit += float(leaf[node - (2**DEPTH - 1)])
        assert abs(found - 1 / (1 + np.exp(-logit))) < 1e-6


def test_the_model_s_file_comes_back_and_broken_ones_are_told(tmp_path: Path) -> None:
    model = load_model(MODEL)
    save_model(model, tmp_path / "copy.npz")
    again = load_model(tmp_path / "copy.npz")
    assert all(
        np.array_equal(a, b) for one, other in zip(model, again, strict=True) for a, b in zip(one, other, strict=True)
    )
    (tmp_path / "short.npz").write_bytes(MODEL.read_bytes()[:5000])
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    for name in ("short.npz", "other.npz", "none.npz"):
        stage = Extract(ExtractConfig(model=str(tmp_path / name)))
        with pytest.raises(
            StageError, match=rf"extract.model: .*{name} cannot be used: .*; give the path of a block model"
        ):
            stage.setup({"model": tmp_path / name})


@pytest.mark.parametrize(
    ("markup", "tex"),
    [
        ('<math><mfrac><mi>a</mi><mi>b</mi></mfrac></math>', r"$\frac{a}{b}$"),
        ('<math display="block"><semantics><mi>x</mi><annotation encoding="application/x-tex">x &lt; 1</annotation></semantics></math>', "$$x < 1$$"),
        ('<script type="math/tex; mode=display">e=mc^2</script>', "$$e=mc^2$$"),
        ('<script type="math/tex">a</script>', "$a$"),
        ('<img class="latex" alt="\\pi r^2" src=x>', r"$\pi r^2$"),
        ('<span class="mwe-math-element"><span class="mwe-math-mathml-inline" style="display: none;"><math><annotation encoding="application/x-tex">'
         '{\\displaystyle y}</annotation></math></span><img class="mwe-math-fallback-image-inline" aria-hidden="true" alt="{\\displaystyle y}"></span>', "$y$"),
    ],
)  # fmt: skip
def test_formulas(markup: str, tex: str) -> None:
    page = Page(f"<p>so {markup} it is</p>")
    assert has_formulas(page.tree)
    tree = Page(with_formulas(page.text)).tree
    blocks = find_blocks(tree, NO_CUES)
    assert render(tree, blocks, np.ones(len(blocks.first), np.bool_)) == f"so {tex} it is"


@pytest.mark.parametrize(
    "piece",
    [
        "<math>",
        "<math ",
        "<math></math>",
        "<script type=math/tex>",
        '<script type="math/tex">',
        "<math><annotation ",
        "<img class=tex ",
    ],
)
def test_formulas_that_never_end_take_linear_time(piece: str) -> None:
    assert with_formulas(f"a{piece * 100_000}z").startswith("a")


def test_pages_without_formulas_are_not_searched_twice() -> None:
    assert not has_formulas(
        Page('<script type="text/javascript">math()</script><img alt="text" src="/context.png"><p>math tex</p>').tree
    )
    assert (
        to_tex("<msubsup><mi>x</mi><mn>1</mn><mn>2</mn></msubsup><mo>=</mo><msqrt><mn>2</mn></msqrt></mi><mtext>if")
        == r"x_{1}^{2} = \sqrt{2}\text{if}"
    )


@pytest.mark.parametrize(
    ("page", "signal"),
    [
        (
            '<html><head><title>App</title></head><body><div id="root"></div><script src=/app.js></script></body></html>',
            "shell",
        ),
        ("<html><frameset cols='20,80'><frame src=a><frame src=b></frameset></html>", "frames"),
        ("<html><head><title>404 - Page not found</title></head><body><p>Sorry.</p></body></html>", "soft_404"),
        (
            "<html><head><title>Seite nicht gefunden | Stadt</title></head><body><p>Leider.</p></body></html>",
            "soft_404",
        ),
        ("<!doctype html><html amp lang=en><head><title>x</title></head><body><p>text</p></body></html>", "amp"),
        ("<!doctype html><html ⚡><head><title>x</title></head><body><p>text</p></body></html>", "amp"),
        (
            "<html><head><title>Peugeot 404: a history</title></head><body><script></script><p>" + "long text " * 200,
            None,
        ),
        (
            "<html class='amp-free' example><head><title>Found in 2404 places</title></head><body><p>text</p>"
            + "word " * 50,
            None,
        ),
    ],
)
def test_pages_that_are_no_documents(page: str, signal: str | None, extractor: Extractor) -> None:
    parsed = Page(page)
    found = read_signals(parsed, read_metadata(parsed), extractor(parsed))
    assert [name for name, value in found._asdict().items() if value] == ([signal] if signal else [])


def test_signals_are_rules_that_decide_alone(extractor: Extractor) -> None:
    pages = [
        "<title>404 Not Found</title><p>There is nothing here that you could read, whatever you do.</p>",
        '<html amp><link rel=canonical href="https://a.example/full"><title>x</title><p>A text that stands on the full page as well, word by word.</p>',
        "<script>x</script><div id=app></div>",
    ]
    rules = {}
    for amp, soft in (("keep", True), ("drop", False)):
        stage = ready(Extract(ExtractConfig(amp=amp, soft_404=soft)))
        rules[amp] = stage.decide(stage.measure(batch(pages))).rule
    assert rules == {"keep": ["soft_404", None, "shell"], "drop": [None, "amp", "shell"]}


def batch(pages: list[str]):  # type: ignore[no-untyped-def]
    import pyarrow as pa

    from stages.batch import Batch

    return Batch(pa.table({"html": pages, "url": ["https://a.example/x"] * len(pages)}))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=600))
def test_no_bytes_stop_it(page: bytes) -> None:
    judge(page)


PIECES = (
    "<p>", "</p>", "<div class='main-content'>", "</div>", "<table><tr><td>", "</table>", "<ul><li>", "<li>", "</ul>", "<pre>", "</pre>", "<code>",
    "</code>", "<a href=x>", "</a>", "<blockquote>", "<br>", "<br><br>", "<h1>", "</h1>", "<svg>", "</svg>", "<math>", "</math>", "<script>", "</script>",
    "<span hidden>", "</span>", "<!--", "-->", "<title>", "<td>", "<ol><li>", "&amp;", "&nbsp;", "\n", "  ", "words, and more. ", "字。", "x" * 90, "<i aria-hidden=true>",
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=80))
def test_no_markup_stops_it(pieces: list[str]) -> None:
    judge("".join(pieces).encode())


def judge(page: bytes) -> Metadata:
    parsed = Page(page.decode("utf-8", "replace"), page)
    for markdown in (False, True):
        text = extractor_for(markdown)(parsed)
        assert "\x00" not in text or b"\x00" in page
    if has_formulas(parsed.tree):
        with_formulas(parsed.text)
    metadata = read_metadata(parsed)
    read_signals(parsed, metadata, "")
    return metadata


EXTRACTORS: dict[bool, Extractor] = {}  # made once


def extractor_for(markdown: bool) -> Extractor:
    if markdown not in EXTRACTORS:
        EXTRACTORS[markdown] = Extractor(MODEL, comments=True, markdown=markdown)
    return EXTRACTORS[markdown]
