"""The extract stage: charsets, limits, every method, metadata, broken pages."""

from __future__ import annotations

import builtins
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from stages.extract import Extract, ExtractConfig
from stages.extract.charset import codec_of, decode, meta_charset
from stages.extract.metadata import iso_date, read_metadata
from stages.extract.methods import near_sentences
from stages.extract.page import Page
from stages.stage import StageError
from tests.web_stages import ready, run

METHODS = ("gristmill", "trafilatura", "resiliparse")  # justext takes only long paragraphs, so it has a test of its own
SENTENCES = {
    "ru": "Добрый день, это обычный русский текст, который нужно прочитать без ошибок и без потерь.",
    "ja": "これは日本語の文章です。文字コードの判定を試すための、普通の長さの文章になります。カタカナも含みます。",
    "zh": "这是一段普通的中文文字，用来测试字符编码的检测是否正确，希望结果没有错误。",
    "ko": "이것은 문자 인코딩 감지를 시험하기 위한 평범한 한국어 문장입니다. 결과가 올바르기를 바랍니다.",
    "el": "Αυτό είναι ένα συνηθισμένο ελληνικό κείμενο για τη δοκιμή της κωδικοποίησης χαρακτήρων.",
    "de": "Schöne Grüße aus München, das ist ein gewöhnlicher deutscher Text über Größe und Maß.",
    "cs": "Příliš žluťoučký kůň úpěl ďábelské ódy, a to je obyčejný český text bez chyb.",
}


def article(text: str = SENTENCES["de"], head: str = "", body: str = "") -> str:
    paragraphs = "".join(f"<p>{number}. {text}</p>" for number in range(4))
    return (
        f"<!DOCTYPE html><html><head>{head}</head><body><nav><ul><li><a href='/'>Home</a></li><li><a href='/x'>Imprint</a>"
        f"</li></ul></nav><main><article><h1>Heading</h1>{paragraphs}</article></main>{body}</body></html>"
    )


def extract(pages: list[Any], charsets: list[str | None] | None = None, **knobs: Any) -> tuple[pa.Table, Any]:
    kind = pa.binary() if any(isinstance(page, bytes) for page in pages) else pa.string()
    columns = {"html": pa.array(pages, kind), "url": pa.array(["https://site.example/a/b"] * len(pages), pa.string())}
    if charsets is not None:
        columns["html_charset"] = pa.array(charsets, pa.string())
    return run(ready(Extract(ExtractConfig(**knobs))), **columns)


@pytest.mark.parametrize(
    ("language", "charset", "lie"),
    [
        ("ru", "windows-1251", "iso-8859-1"), ("ru", "koi8-r", "utf-8"), ("ja", "shift_jis", "iso-8859-1"),
        ("ja", "euc_jp", "utf-8"), ("ja", "iso2022_jp", "utf-8"), ("zh", "gb18030", "iso-8859-1"), ("zh", "gbk", "utf-8"),
        ("ko", "euc-kr", "iso-8859-1"), ("el", "iso8859-7", "latin1"), ("de", "iso-8859-1", "utf-8"),
        ("cs", "iso-8859-2", "utf-8"), ("ja", "utf-16", "iso-8859-1"), ("ru", "utf-16-le", None), ("ru", "utf-16-be", "utf-8"),
        ("zh", "utf-32", None), ("ko", "utf-8-sig", "euc-kr"), ("ja", "utf-8", "shift_jis"),
    ],
)  # fmt: skip
def test_decode_with_a_true_a_lying_and_no_header(language: str, charset: str, lie: str | None) -> None:
    page = article(SENTENCES[language])
    data = page.encode(charset)
    for header in (charset, lie, None):
        assert decode(data, header)[0] == page, header


def test_decode_prefers_meta_to_a_default_header_and_a_real_header_to_meta() -> None:
    page = article(
        "Zażółć gęślą jaźń, to jest zwykły polski tekst o niczym szczególnym.", '<meta charset="iso-8859-2">'
    )
    assert decode(page.encode("iso-8859-2"), "ISO-8859-1") == (page, "iso8859-2")
    assert decode(page.encode("cp1250"), "windows-1250") == (page, "cp1250")


def test_decode_mends_nearly_valid_utf8_and_never_raises() -> None:
    page = article(SENTENCES["ru"])
    cut = page.encode()[: page.encode().index("Добрый".encode()) + 5] + b"</p>" + page.encode()
    text, codec = decode(cut, "windows-1251")
    assert codec == "utf-8" and text.count("\ufffd") == 1 and text.endswith(page)
    for data in (
        b"",
        b"\x00",
        b"\xff",
        b"\xff\xfe",
        b"\x80" * 99,
        bytes(range(256)) * 40,
        b"\x1b$B\xff",
        b"<meta charset=utf-16>\xe9",
    ):
        assert "\x00" not in decode(data, "no-such-charset")[0]


def test_only_text_encodings_of_the_web_are_decoded() -> None:
    assert [codec_of(x) for x in ("zip", "rot13", "unicode_escape", "utf-7", "idna", "", None)] == [None] * 7
    assert [codec_of(x) for x in ("UTF8", '"Shift_JIS"', " GB2312 ", "x-sjis", "latin1")] == [
        "utf-8",
        "cp932",
        "gb18030",
        "cp932",
        "cp1252",
    ]
    assert meta_charset(b'<META http-equiv="Content-Type" content="text/html; charset=windows-1251">') == "cp1251"
    assert meta_charset(b'<?xml version="1.0" encoding="koi8-r"?>') == "koi8-r"
    assert meta_charset(b"<meta name=x content=y><p>charset=koi8-r") is None


@pytest.mark.parametrize("method", METHODS)
def test_main_text_of_an_article_without_its_navigation(method: str) -> None:
    values, decision = extract([article().encode("latin-1")], method=method)
    (text,) = values.column("text").to_pylist()
    assert text.count("Schöne Grüße") == 4 and "Heading" in text and "Imprint" not in text
    assert decision.rule == [None]
    assert values.column("extract_charset").to_pylist() == ["cp1252"]
    assert values.column("extract_chars").to_pylist() == [len(text)]


@pytest.mark.parametrize("method", METHODS)
def test_tables_and_comments_are_knobs(method: str) -> None:
    table = "<table><tr><th>Cell A</th><th>Cell B</th></tr><tr><td>one of two</td><td>two of two</td></tr></table>"
    page = article().replace("</article>", f"<p>{SENTENCES['de']}</p>{table}<p>{SENTENCES['cs']}</p></article>")
    texts = [
        extract([page], method=method, include_tables=kept)[0].column("text").to_pylist()[0] for kept in (True, False)
    ]
    assert ["two of two" in text for text in texts] == [True, False]
    remark = "<section id='comments' class='comments'><div class='comment'><p>A reader remarks that this is all quite wrong.</p></div></section>"
    page = article(body=remark)
    texts = [
        extract([page], method=method, include_comments=kept)[0].column("text").to_pylist()[0] for kept in (True, False)
    ]
    assert ["reader remarks" in text for text in texts] == [True, False]


def test_justext_keeps_long_paragraphs_by_the_stop_words_of_the_page_s_language() -> None:
    long = (
        "Das ist ein gewöhnlicher deutscher Text, der lang genug ist, dass man ihn für den Inhalt der Seite halten kann. "
        * 3
    )
    for page in (
        article(long),
        article(long).replace("<html", '<html lang="de-AT"'),
        article(long).replace("gewöhn", "\x10gewöhn\ufffe"),  # libraries below jusText raise on what no XML may hold
    ):
        values, decision = extract([page, b"", b"<p>x", "<a" * 9, "</figcaption>"], method="justext")
        (text, *others) = values.column("text").to_pylist()
        assert text.count("gewöhn") == 12 and "Imprint" not in text and others == [""] * 4
        assert decision.rule == [None, *["empty"] * 4] and not decision.failed


def test_favor_moves_between_precision_and_recall() -> None:
    page = article(body="<div>far</div>" * 9 + "<footer><p>All rights reserved</p></footer>")
    sizes = {
        favor: extract([page], method="resiliparse", favor=favor)[0].column("extract_chars").to_pylist()[0]
        for favor in ("precision", "balanced", "recall")
    }
    assert sizes["precision"] <= sizes["balanced"] < sizes["recall"]
    long = "A sentence that is long enough to count as one, with more than sixty characters."
    assert near_sentences("\n".join(["menu"] * 9 + ["near", long, "near"] + ["far"] * 9)).split("\n") == (
        ["menu"] * 2 + ["near", long, "near"] + ["far"] * 2
    )


def test_metadata() -> None:
    head = """<title> A  title &amp; more </title><meta name="Author" content="Ann Author">
      <meta property="article:published_time" content="2021-03-04T10:00:00+01:00"><link rel="canonical" href="/canonical#x">"""
    page = article(head=head, body='<a rel="nofollow License" href="//cc.example/by/4.0/">CC</a>').replace(
        "<html", '<html lang="de-AT"'
    )
    for method in METHODS:
        (row,) = extract([page], method=method)[0].to_pylist()
        assert {name: row[name] for name in ("title", "author", "published", "canonical_url", "declared_language", "licence")} == {
            "title": "A title & more", "author": "Ann Author", "published": "2021-03-04",
            "canonical_url": "https://site.example/canonical#x", "declared_language": "de-AT",
            "licence": "https://cc.example/by/4.0/",
        }  # fmt: skip


def test_metadata_from_linked_data_and_broken_pages() -> None:
    script = '<script type="application/ld+json">{"author": [{"@type": "Person", "name": "J\\u00f6rg"}], "datePublished": "2019-05-06", </script>'
    assert read_metadata(Page(article(head=script)))[:3] == ("Heading", "Jörg", "2019-05-06")
    assert read_metadata(Page("")) == (None,) * 6
    odd = '<link rel=canonical href="http://[::1"><a rel=license href="javascript:x()"></a><meta name=author content="https://a.example">'
    assert read_metadata(Page(odd), "not a url") == (None,) * 6


@pytest.mark.parametrize(
    ("value", "day"),
    [("2020-1-2", "2020-01-02"), ("20200102", "2020-01-02"), ("2020/01/02 10:11", "2020-01-02"), ("2. 1. 2020", "2020-01-02"),
     ("Thu, 02 Jan 2020 10:00:00 GMT", "2020-01-02"), ("January 2, 2020", "2020-01-02"), ("03/04/2020", None), ("2020-13-45", None),
     ("0000-01-01", None), ("99999999", None), ("soon", None), ("", None), (None, None), ("2020", None)],
)  # fmt: skip
def test_dates(value: str | None, day: str | None) -> None:
    assert iso_date(value) == day


@pytest.mark.parametrize("method", METHODS)
def test_limits_come_before_the_parsers(method: str) -> None:
    deep = "<html><body>" + "<div>" * 100_000 + "<p>deep</p>"
    pages = [
        deep,
        article() + "<br>" * 3000,
        article() + " " * 50_000,
        article(),
        article().replace("<article>", "<div>" * 300),
    ]
    values, decision = extract(pages, method=method, max_bytes=40_000, max_tags=2000)
    assert decision.rule == ["too_large", "too_many_tags", "too_large", None, "too_deep"]
    assert decision.value[0] == len(deep) and decision.threshold[0] == 40_000 and decision.value[1] > 3000
    assert values.column("text").to_pylist()[:3] == [None] * 3
    _, decision = extract([deep, "<b>" * 100_000, "<table><tr><td>" * 30_000], method=method)
    assert decision.rule == ["too_deep"] * 3 and decision.threshold == [256] * 3


@pytest.mark.parametrize("method", METHODS)
def test_broken_pages_get_a_verdict_each(method: str) -> None:
    pages = [b"", b"\x00\x00", b"\xff\xfe", b"<a", b"</" * 5000, b"<!--", b"<script>document.write('x')</script>", b"\x1f\x8b\x08binary" * 50,
             b"<html><body><svg><math><table><![CDATA[", b"&#0;&#xD800;&#x110000;", b"<?xml version='1.0' encoding='utf-8'?><html></html>"]  # fmt: skip
    values, decision = extract([*pages, article().encode()], method=method)
    assert decision.rule[-1] is None and not decision.failed
    assert decision.rule[:4] == ["empty"] * 4 and decision.rule[6] == "shell"
    for text in values.column("text").to_pylist():
        assert text is None or "\x00" not in text


@pytest.mark.parametrize("method", METHODS)
def test_a_nul_or_a_surrogate_inside_a_page_loses_nothing_after_it(method: str) -> None:
    page = article().replace("1. ", "1\x00. ").replace("2. ", "2&#xD83D;. ").encode()
    (text,) = extract([page], method=method)[0].column("text").to_pylist()
    assert text.count("Schöne Grüße") == 4


def test_rows_without_html_pass_with_their_text() -> None:
    table = {
        "html": pa.array([None, None, article()], pa.string()),
        "text": pa.array(["as it was ", None, "old"], pa.string()),
    }
    values, decision = run(ready(Extract(ExtractConfig())), **table)
    assert values.column("text").to_pylist()[:2] == ["as it was ", None]
    assert decision.rule == [None, "empty", None]
    assert "Schöne" in values.column("text").to_pylist()[2]


def test_an_exception_of_a_parser_fails_its_row_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = ready(Extract(ExtractConfig(method="resiliparse")))
    whole = stage._reader._text_of

    def sometimes(page: Page) -> str:
        if "boom" in page.text:
            raise RecursionError("secret words of the page")
        return whole(page)

    monkeypatch.setattr(stage._reader, "_text_of", sometimes)
    _, decision = run(stage, html=[article("boom"), article()])
    assert decision.rule == ["error", None] and decision.failed == {0} and decision.detail[0] == "RecursionError"


def test_output_does_not_depend_on_the_pages_before() -> None:
    stage = ready(Extract(ExtractConfig()))
    first, _ = run(stage, html=[article()])
    run(stage, html=[article(f"{SENTENCES['de']} {number}") for number in range(5)] + [article()] * 5)
    again, _ = run(stage, html=[article()])
    assert first.equals(again)


def test_a_broken_installation_is_found_in_setup(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def broken(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("trafilatura"):
            raise ImportError("lxml.html.clean module is now a separate project lxml_html_clean")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", broken)
    with pytest.raises(StageError, match=r"pip install .*lxml_html_clean"):
        Extract(ExtractConfig(method="trafilatura")).setup({})


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        (
            {"method": "resiliparse", "fast": False},
            "fast: False is for method trafilatura; method resiliparse has no such choice",
        ),
        ({"fast": False}, "fast: False is for method trafilatura; method gristmill"),
        ({"method": "resiliparse", "format": "markdown"}, "format: 'markdown' is for method gristmill or trafilatura"),
        (
            {"method": "justext", "favor": "recall"},
            "favor: 'recall' is for method gristmill or trafilatura or resiliparse",
        ),
        ({"method": "trafilatura", "model": "x.npz"}, "model: 'x.npz' is for method gristmill"),
    ],
)
def test_a_knob_that_a_method_cannot_honour_is_refused(knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ExtractConfig(**knobs)
