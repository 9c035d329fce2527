"""The language stage: labels, codes, scripts, thresholds, and the user's mistakes."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.engine.mapping import apply_edits
from stages.language import Language, LanguageConfig
from stages.language_paragraphs import language_spans, paragraphs
from stages.stage import ASSETS, StageError
from tests.web_stages import ready, run

TEXTS = {
    "en": "The committee will meet again next week to discuss the results of the survey in detail.",
    "de": "Der Ausschuss wird sich nächste Woche erneut treffen, um die Ergebnisse der Umfrage zu besprechen.",
    "fr": "Le comité se réunira de nouveau la semaine prochaine pour discuter des résultats de l'enquête.",
    "ru": "Комитет снова соберётся на следующей неделе, чтобы подробно обсудить результаты опроса.",
    "ja": "委員会は来週再び集まり、調査の結果について詳しく話し合う予定です。",
    "zh": "委员会将于下周再次开会，详细讨论这次调查的结果。",
    "ar": "ستجتمع اللجنة مرة أخرى الأسبوع المقبل لمناقشة نتائج الاستطلاع بالتفصيل.",
    "hi": "समिति अगले सप्ताह फिर से मिलेगी और सर्वेक्षण के परिणामों पर विस्तार से चर्चा करेगी।",
}


def test_labels_codes_and_scripts() -> None:
    values, decision = run(ready(Language(LanguageConfig())), text=list(TEXTS.values()))
    assert values.column("language").to_pylist() == list(TEXTS)
    assert values.column("language_iso639_3").to_pylist() == ["eng", "deu", "fra", "rus", "jpn", "zho", "ara", "hin"]
    scripts = ["Latn", "Latn", "Latn", "Cyrl", "Jpan", "Hani", "Arab", "Deva"]
    assert values.column("language_script").to_pylist() == scripts
    assert all(0.65 <= score <= 1 for score in values.column("language_score").to_pylist())
    assert decision.rule == [None] * 8


def test_keep_drops_with_the_label_as_detail() -> None:
    _, decision = run(ready(Language(LanguageConfig(keep=("en", "de")))), text=list(TEXTS.values()))
    assert decision.rule == [None, None] + ["not_kept"] * 6
    assert decision.detail[2] == "fr"


def test_scores_and_lengths_under_the_threshold_keep_their_label() -> None:
    texts = ["", "ok", TEXTS["en"]]
    values, decision = run(ready(Language(LanguageConfig(min_length=3, min_score=1.0))), text=texts)
    assert None not in values.column("language").to_pylist()
    assert decision.rule[:2] == ["too_short", "too_short"] and (decision.value[1], decision.threshold[1]) == (2, 3)
    assert decision.rule[2] == "low_score" and decision.threshold[2] == 1.0
    assert decision.value[2] == values.column("language_score").to_pylist()[2]


def test_bad_input_gets_a_label() -> None:
    texts = ["\x00\x00", "\n\n\n", "\r\t\x0b", "1234 !!!", "𝕳𝖊𝖑𝖑𝖔 👍", "a" * 3_000_000, None]
    values, _ = run(ready(Language(LanguageConfig())), text=pa.array(texts, pa.string()))
    assert all(values.column("language").to_pylist())


def test_newlines_part_words_and_only_the_beginning_counts() -> None:
    german_tail = TEXTS["en"].replace(" ", "\n") + " " + TEXTS["de"] * 30
    short, whole = (ready(Language(LanguageConfig(max_characters=n, first_look=None))) for n in (80, None))
    assert run(short, text=[german_tail])[0].column("language").to_pylist() == ["en"]
    assert run(whole, text=[german_tail])[0].column("language").to_pylist() == ["de"]


def test_unknown_labels_in_keep_are_refused_with_the_right_one() -> None:
    with pytest.raises(StageError, match=r"language\.keep: .*did you mean 'en'"):
        ready(Language(LanguageConfig(keep=("de", "en-GB"))))


@pytest.mark.parametrize("content", [None, b"", b"not a model at all", b"half"])
def test_a_missing_or_broken_model_is_found_in_setup(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "model.ftz"
    if content is not None:
        path.write_bytes((ASSETS / "lid.176.ftz").read_bytes()[:400_000] if content == b"half" else content)
    with pytest.raises(StageError, match="language: "):
        ready(Language(LanguageConfig(model=str(path))))


def test_the_shipped_model_is_the_published_one_with_its_notice() -> None:
    assert hashlib.md5((ASSETS / "lid.176.ftz").read_bytes()).hexdigest() == "340156704bb8c8e50c4abf35a7ec2569"
    assert "CC BY-SA 3.0" in (ASSETS / "lid.176.LICENSE.txt").read_text()


def test_capitals_and_decomposed_letters_are_read_as_small_composed_ones() -> None:
    import unicodedata

    plain = list(TEXTS.values())
    capitals = [text.upper() for text in plain]
    apart = [unicodedata.normalize("NFD", text) for text in plain]
    values, _ = run(ready(Language(LanguageConfig())), text=plain + capitals + apart)
    assert values.column("language").to_pylist() == list(TEXTS) * 3
    as_written, _ = run(ready(Language(LanguageConfig(lower_case=False))), text=capitals)
    assert as_written.column("language").to_pylist() != list(TEXTS)


def test_a_label_is_written_in_the_scripts_of_the_text() -> None:
    texts = ["机场大巴", "мама", "ok 委员会将于下周再次开会", "ᏣᎳᎩ ᎦᏬᏂᎯᏍᏗ", "12:30", "Сuccess in Lаtin"]
    values, decision = run(ready(Language(LanguageConfig(min_score=0, min_script_share=0.1))), text=texts)
    labels, scripts, shares = (values.column(f"language{end}").to_pylist() for end in ("", "_script", "_script_share"))
    assert labels[0] in ("zh", "ja", "yue", "wuu") and scripts[0] == "Hani"
    assert scripts[1] == "Cyrl" and shares[1] == 1.0
    assert labels[2] == "zh" and 0.1 <= shares[2] < 1
    assert scripts[3] == "Cher" and shares[3] == 0.0 and shares[4] is None
    assert decision.rule == [None, None, None, "script_mismatch", None, None]
    assert (decision.value[3], decision.threshold[3]) == (0.0, 0.1)


def test_the_share_of_each_script_is_a_column_where_asked_for() -> None:
    values, _ = run(ready(Language(LanguageConfig(scripts=True, max_characters=3))), text=["abc где", ""])
    assert values.column("language_scripts").to_pylist() == [
        [{"script": "Latn", "share": 0.5}, {"script": "Cyrl", "share": 0.5}],
        [],
    ]


def test_scores_of_single_languages_and_languages_by_other_names() -> None:
    config = LanguageConfig(keep=("eng", "deu_Latn"), min_score=0, min_scores={"ger": 1.0})
    _, decision = run(ready(Language(config)), text=list(TEXTS.values()))
    assert decision.rule[:3] == [None, "low_score", "not_kept"] and decision.threshold[1] == 1.0
    with pytest.raises(StageError, match=r"language\.min_scores: .*did you mean 'de'"):
        ready(Language(LanguageConfig(min_scores={"de-AT": 0.1})))


def test_a_language_kept_in_one_of_its_scripts() -> None:
    texts = [
        "Скупштина ће се поново састати следеће недеље у Београду.",
        "Skupština će se ponovo sastati sledeće nedelje u Beogradu.",
    ]
    values, decision = run(ready(Language(LanguageConfig(keep=("sr_Cyrl",), min_score=0))), text=texts)
    assert values.column("language_script").to_pylist() == ["Cyrl", "Latn"]
    assert decision.rule == [None, "not_kept"]


def test_a_first_look_ends_the_matter_only_if_it_is_sure() -> None:
    text = TEXTS["fr"] + TEXTS["de"] * 40
    looks = [
        run(ready(Language(LanguageConfig(first_look=look, max_characters=None))), text=[text])[0]
        for look in (len(TEXTS["fr"]), 3, None)
    ]
    assert [values.column("language").to_pylist() for values in looks] == [["fr"], ["de"], ["de"]]
    assert looks[1].equals(looks[2])  # `Le ` alone is not sure enough: the whole was read


def test_a_spread_sample_sees_past_the_menus() -> None:
    page = "Home About Contact Login Shop Cart News Terms Privacy " * 8 + TEXTS["fr"] * 30
    beginning, whole = (
        run(ready(Language(LanguageConfig(sample=sample, max_characters=300, first_look=None))), text=[page])[0]
        for sample in ("beginning", "spread")
    )
    assert (beginning["language"].to_pylist(), whole["language"].to_pylist()) == (["en"], ["fr"])


MIXED = "\n".join([TEXTS["en"], "Hi", TEXTS["en"], TEXTS["de"], "Ja", TEXTS["de"], TEXTS["fr"], ""])


def test_paragraphs_give_shares_and_runs() -> None:
    config = LanguageConfig(paragraphs=True, min_share=0.5)
    values, decision = run(ready(Language(config)), text=[MIXED, TEXTS["de"], "", "\n\n"])
    row = values.slice(0, 1).to_pylist()[0]
    spans = row["language_spans"]
    assert [span["language"] for span in spans] == ["en", "de", "fr"]
    assert [MIXED[span["start"] : span["end"]].split("\n")[0] for span in spans] == [
        TEXTS[x] for x in ("en", "de", "fr")
    ]
    assert spans[0]["start"] == 0 and spans[-1]["end"] == len(MIXED)
    shares = {share["language"]: share["share"] for share in row["language_shares"]}
    assert shares["de"] == (spans[1]["end"] - spans[1]["start"]) / len(MIXED) and sum(shares.values()) == pytest.approx(
        1
    )
    assert row["language_share"] == shares[row["language"]] < 0.5
    assert decision.rule[0] == "mixed" and decision.threshold[0] == 0.5
    assert values.column("language_shares").to_pylist()[1:3] == [[{"language": "de", "share": 1.0}], []]
    assert values.column("language_share").to_pylist()[2] is None


def test_paragraphs_of_other_languages_are_cut() -> None:
    config = LanguageConfig(paragraphs=True, cut=True, keep=("de", "fr"), min_score=0)
    stage = ready(Language(config))
    assert stage.edits and not Language(LanguageConfig()).edits
    _, decision = run(stage, text=[MIXED, TEXTS["de"], TEXTS["en"]])
    assert apply_edits(MIXED, decision.edits[0]) == "\n".join([TEXTS["de"], "Ja", TEXTS["de"], TEXTS["fr"], ""])
    assert list(decision.edits) == [0] and decision.rule == [None, None, "not_kept"]


def test_a_text_of_which_nothing_would_stay_is_dropped() -> None:
    text = "Home About Contact Login Shop Cart News\n" * 3 + (TEXTS["de"] + "\n") * 3
    config = LanguageConfig(
        paragraphs=True, cut=True, keep=("en",), min_score=0, max_characters=60, paragraph_length=200
    )
    values, decision = run(ready(Language(config)), text=[text])
    assert values.column("language").to_pylist() == ["en"]
    assert {span["language"] for span in values.column("language_spans").to_pylist()[0]} == {"de"}
    assert decision.rule == ["not_kept"] and decision.detail == ["de"] and not decision.edits


@given(st.text(alphabet=st.sampled_from("ab \né\x00漢"), max_size=200), st.integers(1, 30))
def test_paragraphs_and_runs_cover_the_text(text: str, length: int) -> None:
    cuts = paragraphs(text, length)
    assert "".join(text[start:end] for start, end in cuts) == text
    assert all(start < end for start, end in cuts)
    spans = language_spans(text, "xx", length, 0.5, lambda part: ("a" if "a" in part else "b", 0.5))
    assert "".join(text[span.start : span.end] for span in spans) == text
    assert all(one.language != other.language for one, other in itertools.pairwise(spans))


def test_short_paragraphs_take_their_neighbours_label() -> None:
    def best(part: str) -> tuple[str, float]:
        return part[:2].lower(), 0.2 if "?" in part else 0.9

    def labels(text: str, main: str = "xx") -> list[tuple[str, str]]:
        return [(text[s.start : s.end], s.language) for s in language_spans(text, main, 5, 0.5, best)]

    assert labels("aaaaa\nb\nccccc") == [("aaaaa\nb\n", "aa"), ("ccccc", "cc")]
    assert labels("aaaaa\nb\nccccc", main="cc") == [("aaaaa\n", "aa"), ("b\nccccc", "cc")]
    assert labels("b\nccccc") == [("b\nccccc", "cc")]
    assert labels("aaaaa\nbbbb?\nccccc") == [("aaaaa\nbbbb?\n", "aa"), ("ccccc", "cc")]
    assert labels("b\nc") == [("b\nc", "xx")]
    assert labels("bbb\nccc") == [("bbb\nccc", "bb")]  # together they are long enough
    assert labels("") == []


@pytest.mark.parametrize(
    "knobs", [{"cut": True}, {"cut": True, "paragraphs": True}, {"min_share": 0.5}, {"min_scores": {"de": 2}}]
)
def test_knobs_that_contradict_each_other_are_refused(knobs: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"needs `keep`|set `paragraphs: true`|less than or equal to 1"):
        LanguageConfig(**knobs)


def test_bad_input_passes_through_every_option() -> None:
    config = LanguageConfig(paragraphs=True, scripts=True, cut=True, keep=("en",), max_characters=None, sample="spread")
    texts = ["\x00\n\x00", "\n" * 1000, "a\u0301\u0316" * 3000, "word " * 200_000, "\u2028\r\v", "𝕳" * 1000, None]
    values, _ = run(ready(Language(config)), text=pa.array(texts, pa.string()))
    assert all(values.column("language").to_pylist())
