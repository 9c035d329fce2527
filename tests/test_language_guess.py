"""The guess at a page's language before its text is extracted: which text it reads, charsets, and pages that are broken."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages import language_guess
from stages.language import Language, LanguageConfig
from stages.language_guess import SURE, guess, page_text
from stages.language_model import Identifier, load
from stages.stage import ASSETS
from tests.support import sample_pages
from tests.test_language import TEXTS
from tests.web_stages import ready, run


@pytest.fixture(scope="module")
def model() -> Identifier:
    return load(ASSETS / "lid.176.ftz")


def page(text: str, head: str = "", menu: str = "") -> str:
    return f"<html><head><title>T</title>{head}</head><body><nav><a>{menu}</a></nav><p>{text}</p></body></html>"


@pytest.mark.parametrize("language", TEXTS)
def test_pages_in_utf8(language: str, model: Identifier) -> None:
    label, score = guess(page(TEXTS[language] * 3).encode(), model)
    assert label == language and score >= SURE


@pytest.mark.parametrize(
    ("language", "charset", "named"),
    [("ru", "windows-1251", True), ("ja", "shift_jis", True), ("zh", "gb18030", True), ("de", "cp1252", False), ("fr", "latin-1", True),
     ("ru", "koi8-r", False), ("ru", "utf-16", False), ("ru", "utf-8", True)],
)  # fmt: skip
def test_charsets(language: str, charset: str, named: bool, model: Identifier) -> None:
    html = page(TEXTS[language].replace("’", "'") * 3, f'<meta charset="{charset}">' if named else "")
    assert guess(html.encode(charset), model)[0] == language
    assert guess(html.encode(charset), model, charset)[0] == language


def test_what_readers_do_not_see_is_not_read() -> None:
    hidden = "this is not text that anyone would read at all " * 3
    html = (
        f"<p>{'Some words that are long enough to be read by all. '}</p><script>{hidden}</script><SCRIPT\n>{hidden}</SCRIPT>"
        f"<!-- > {hidden} < --><style>{hidden}</style><textarea>{hidden}</textarea><pre>{hidden}</pre>"
        "<p>And after &uuml;bermut and\n\n  &amp; more of it, there is an end to everything.</p><b> x </b>"
    )
    assert page_text(html.encode()) == (
        "Some words that are long enough to be read by all. And after übermut and & more of it, there is an end to everything."
    )


def test_long_runs_go_before_menus(model: Identifier) -> None:
    html = page(TEXTS["de"] * 8, menu="</a><a>".join(["Contact and more about us"] * 40))
    assert "Contact" not in page_text(html.encode()) and guess(html.encode(), model)[0] == "de"
    assert "Contact" in page_text(page(TEXTS["de"], menu="Contact and more about us").encode())


def test_only_the_beginning_is_read_and_characters_are_not_cut() -> None:
    text = page_text(page("é" * 10_000).encode())
    assert text == "é" * language_guess.ENOUGH
    assert page_text(("<p>x" + "漢" * 5000 + "</p>").encode()) == "x" + "漢" * (language_guess.ENOUGH - 1)


@pytest.mark.parametrize(
    "html",
    [b"", b"<", b">" * 9, b"\x00" * 50, b"<p>\xff\xfe\xfd" + b"\x80" * 50 + b"</p>", b"<script>" * 50_000, b"<!--" * 50_000, b"<p>" * 200_000,
     b"\xff\xfe<\x00", b"<p>&#xD800;&#1114112;&bogus;&#0; and more text here</p>", b"<meta charset=bogus><p>\xe9" + b"x" * 30 + b"</p>"],
)  # fmt: skip
def test_broken_pages_never_raise(html: bytes, model: Identifier) -> None:
    label, score = guess(html, model)
    assert isinstance(label, str) and 0 <= score <= 1


def test_a_page_without_text_has_no_language_and_plain_text_is_read(model: Identifier) -> None:
    assert guess(b"<html><body><script>var x</script></body></html>", model) == ("und", 0.0)
    assert guess(TEXTS["fr"].encode(), model)[0] == "fr"


@given(st.binary(max_size=300), st.sampled_from([b"", b"<script>", b"<p>", b"<!--", b"\xff\xfe"]))
def test_any_bytes(data: bytes, before: bytes) -> None:
    text = page_text(before + data)
    assert len(text) <= language_guess.ENOUGH
    text.encode("utf-8", "replace")


def test_it_agrees_with_the_language_of_the_extracted_text(model: Identifier) -> None:
    from stages.extract.extract import Extract, ExtractConfig

    pages = [body for _, body in sample_pages(40)]
    texts = run(ready(Extract(ExtractConfig(method="resiliparse"))), html=pages)[0].column("text").to_pylist()
    values, decision = run(ready(Language(LanguageConfig())), text=[text or "" for text in texts])
    kept = [row for row, rule in enumerate(decision.rule) if rule is None]
    labels = values.column("language").to_pylist()
    lost = [
        row for row in kept for label, score in [guess(pages[row], model)] if label != labels[row] and score >= SURE
    ]
    assert len(kept) >= 30 and len(lost) <= len(kept) // 10  # pages half translated: either language is right
