"""The guess at a page's language before its text is extracted: which text it reads, charsets, and pages that are broken."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import read_config
from pipeline.yamlfile import ConfigError
from stages import language_guess
from stages.language import Language, LanguageConfig
from stages.language_guess import SURE, LanguageGuess, LanguageGuessConfig, guess, page_text
from stages.language_model import Identifier, load
from stages.stage import ASSETS, StageError
from tests.support import pipeline, sample_pages, write_config, write_warc
from tests.test_language import TEXTS
from tests.toy_stages import run_toy
from tests.web_stages import ready, run


@pytest.fixture(scope="module")
def model() -> Identifier:
    return load(ASSETS / "lid.176.ftz")


def page(text: str, head: str = "", menu: str = "") -> str:
    return f"<html><head><title>T</title>{head}</head><body><nav><a>{menu}</a></nav><p>{text}</p></body></html>"


@pytest.mark.parametrize("language", TEXTS)
def test_pages_in_utf8(language: str, model: Identifier) -> None:
    label, score, _ = guess(page(TEXTS[language] * 3).encode(), model)
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
    label, score, _ = guess(html, model)
    assert isinstance(label, str) and 0 <= score <= 1


def test_a_page_without_text_has_no_language_and_plain_text_is_read(model: Identifier) -> None:
    assert guess(b"<html><body><script>var x</script></body></html>", model) == ("und", 0.0, [])
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
        row for row in kept for label, score, _ in [guess(pages[row], model)] if label != labels[row] and score >= SURE
    ]
    assert len(kept) >= 30 and len(lost) <= len(kept) // 10  # pages half translated: either language is right


# ---- the stage


def judged(pages: list[bytes | None], **knobs: object) -> tuple[list[dict], list[str | None]]:
    values, decision = run(ready(LanguageGuess(LanguageGuessConfig(**knobs))), html=pa.array(pages, pa.large_binary()))
    return values.to_pylist(), decision.rule


def test_pages_surely_in_other_languages_are_dropped_and_the_ledger_is_told() -> None:
    pages = [page(TEXTS[name] * 3).encode() for name in ("en", "de", "fr")] + [b"<p></p>", None]
    stage = ready(LanguageGuess(LanguageGuessConfig(keep=("eng", "deu_Latn"))))
    values, decision = run(stage, html=pa.array(pages, pa.large_binary()))
    assert decision.rule == [None, None, "not_kept", None, None]
    score = values.column("language_guess_score").to_pylist()
    assert (decision.detail[2], decision.value[2], decision.threshold[2]) == ("fr", score[2], SURE)
    assert values.column("language_guess").to_pylist() == ["en", "de", "fr", "und", None] and score[3:] == [0.0, None]
    assert stage.provides() == {} and stage.consumes == ()


def test_a_page_that_changes_its_language_half_way_is_kept_for_either() -> None:
    two = page(f"<p>{TEXTS['de'] * 4}</p><p>{TEXTS['en'] * 3}</p>").encode()
    (row,), rules = judged([two], keep=["en"], sure=0)
    assert row["language_guess"] == "de" and "en" in row["language_guess_halves"] and rules == [None]
    assert judged([two], keep=["de"], sure=0)[1] == [None] and judged([two], keep=["fr"], sure=0)[1] == ["not_kept"]


def test_only_a_sure_guess_drops() -> None:
    mixed = page(f"{TEXTS['en']} {TEXTS['de']}").encode()
    (row,), _ = judged([mixed], keep=["en"])
    score, label = row["language_guess_score"], row["language_guess"]
    assert 0 < score < 1
    assert judged([mixed], keep=["ja"], sure=score)[1] == ["not_kept"]
    assert judged([mixed], keep=["ja"], sure=min(1.0, score + 1e-9))[1] == [None]
    assert judged([mixed], keep=["ja", label], sure=0)[1] == [None]
    assert judged([b"<p></p>"], keep=["ja"], sure=0)[1] == [None], "und is no other language"


def test_a_script_does_not_narrow_a_guess() -> None:
    latin = page("Skupština će se ponovo sastati sledeće nedelje u Beogradu i razgovarati o tome. " * 3).encode()
    (row,), _ = judged([latin], keep=["en"])
    assert judged([latin], keep=[f"{row['language_guess']}_Cyrl", "sr_Cyrl"], sure=0)[1] == [None]


def test_columns_of_the_wrong_type_and_strings_with_anything_in_them() -> None:
    stage = ready(LanguageGuess(LanguageGuessConfig(keep=("en",))))
    values, decision = run(stage, html=[1, 2], html_charset=[True, None])
    assert values.to_pylist() == [dict.fromkeys(stage.measures())] * 2
    text = page(TEXTS["fr"] * 3)
    values, decision = run(
        stage, html=[text, "\x00", "x" * (1 << 20), ""], html_charset=["latin-1", "bogus", None, "utf-16"]
    )
    assert values.column("language_guess")[0].as_py() == "fr" and decision.rule[0] == "not_kept"


def test_keep_is_needed_and_must_be_known() -> None:
    with pytest.raises(StageError, match=r"language_guess\.keep: .*did you mean 'de'"):
        ready(LanguageGuess(LanguageGuessConfig(keep=("de-AT",))))
    for knobs in ({}, {"keep": []}):
        with pytest.raises(ValueError, match="keep"):
            LanguageGuessConfig(**knobs)


@pytest.fixture
def crawl(tmp_path: Path) -> Path:
    pages = [(f"https://{name}.example/", page(text * 6).encode()) for name, text in TEXTS.items()]
    write_warc(tmp_path / "a.warc.gz", pages)
    return write_config(
        tmp_path / "c.yaml",
        name="guess",
        input={"source": "web", "format": "warc", "paths": [str(tmp_path / "a.warc.gz")]},
        stages=[{"language_guess": {"keep": ["en", "de"]}}, {"extract": {"method": "resiliparse"}}, "language"],
    )


def fates(out: Path) -> dict[str, tuple[str | None, str | None, str | None]]:
    rows = pq.read_table(out / "ledger").to_pylist()
    return {row["url"].split("//")[1].split(".")[0]: (row["stage"], row["rule"], row["detail"]) for row in rows}


def test_a_crawl_and_a_changed_knob(crawl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    code, said = run_toy(crawl, out, debug=True)
    assert code == 0, said
    kept = {"en", "de"}
    assert fates(out) == {n: (None,) * 3 if n in kept else ("language_guess", "not_kept", n) for n in TEXTS}
    documents = pq.read_table(next((out / "documents").glob("*.parquet")))
    assert sorted(documents.column("language").to_pylist()) == sorted(kept)
    assert not [name for name in documents.column_names if "guess" in name]
    for row in pq.read_table(out / "ledger").to_pylist():
        assert (row["threshold"], row["value"] is not None) == ((SURE, True) if row["rule"] else (None, False))

    looked = []
    measure = LanguageGuess.measure
    monkeypatch.setattr(LanguageGuess, "measure", lambda self, batch: looked.append(len(batch)) or measure(self, batch))
    code, said = run_toy(crawl, out, "language_guess.keep=[en, fr]", "language_guess.sure=0.5", debug=True)
    assert code == 0, said
    assert {name for name, (stage, _, _) in fates(out).items() if stage is None} == {"en", "fr"}
    assert looked == [], "decided again from scores"


def test_apply(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "html": page(TEXTS["fr"] * 3)},
        {"id": "b", "html": page(TEXTS["en"] * 3)},
        {"id": "c", "html": None},
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = pipeline(
        "apply", "language_guess", tmp_path / "in.jsonl", tmp_path / "out.jsonl", "--executor", "inline", "--set", "keep=[en]"
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["verdict"] for row in found] == ["language_guess:not_kept", "keep", "keep"]


def test_it_stands_before_extract_and_names_its_mistakes(crawl: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'de'"):
        run_toy(crawl, tmp_path / "out", "language_guess.keep=[de-AT]")
    with pytest.raises(
        ConfigError, match=r"language_guess needs `html`, which ends with `extract`: put `language_guess` before it"
    ):
        read_config(crawl, ["stages=[extract, {language_guess: {keep: [en]}}]"])
    with pytest.raises(ConfigError, match=r"language_guess\.keep"):
        read_config(crawl, ["stages=[language_guess, extract]"])
