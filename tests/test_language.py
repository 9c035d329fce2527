"""The language stage: labels, codes, scripts, thresholds, and the user's mistakes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa
import pytest

from stages.language import Language, LanguageConfig
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
    short, whole = (ready(Language(LanguageConfig(max_characters=n))) for n in (80, None))
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
