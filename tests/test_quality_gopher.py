"""Gopher's quality rules: values worked out by hand, every rule on its own."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from stages.batch import Batch
from stages.quality.gopher import Gopher, GopherConfig
from stages.quality.stop_words import language_code, load
from stages.stage import ASSETS, StageError
from stages.words import tokenise

P = "quality_gopher_"
GOOD = "The men of the town have to be with us, and that is that. "


def gopher(**knobs: object) -> Gopher:
    stage = Gopher(GopherConfig(**knobs))
    stage.setup({name: Path(path) for name, path in stage.assets().items()})
    return stage


def measure(stage: Gopher, texts: list[str | None], languages: list[str | None] | None = None) -> pa.Table:
    columns: dict[str, list[str | None]] = {"text": texts}
    if languages is not None:
        columns["language"] = languages
    values = stage.measure(Batch(pa.table({name: pa.array(column, pa.string()) for name, column in columns.items()})))
    assert values.schema == pa.schema(list(stage.measures().items()))
    return values


def test_values_by_hand() -> None:
    text = "- The cat # and 12 dogs...\n\n• to be…\nend"
    row = measure(gopher(), [text]).to_pylist()[0]
    assert row[P + "words"] == 8  # The cat and 12 dogs to be end
    assert row[P + "mean_word_length"] == pytest.approx((3 + 3 + 3 + 2 + 4 + 2 + 2 + 3) / 8)
    assert row[P + "hash_ratio"] == pytest.approx(1 / 8)
    assert row[P + "ellipsis_ratio"] == pytest.approx(2 / 8)
    assert row[P + "bullet_lines"] == pytest.approx(2 / 3)
    assert row[P + "ellipsis_lines"] == pytest.approx(2 / 3)
    assert row[P + "alphabetic_words"] == pytest.approx(7 / 8)
    assert row[P + "stop_words"] == 3  # and, to, be: case counts


CASES = {
    "min_words": GOOD,
    "max_words": GOOD * 10_000,
    "min_mean_word_length": "a b the of " * 20,
    "max_mean_word_length": "the of " + "incomprehensibilities " * 60,
    "max_hash_ratio": GOOD * 5 + "# " * 10,
    "max_ellipsis_ratio": GOOD * 5 + "… ... " * 6 + "end",
    "max_bullet_lines": "\n".join(["- " + GOOD] * 11 + [GOOD]),
    "max_ellipsis_lines": "\n".join([GOOD + "..."] * 2 + [GOOD] * 4),
    "min_alphabetic_words": GOOD * 5 + "1234 " * 20,
    "min_stop_words": "Every sentence here says something else about it " * 10,
}


@pytest.mark.parametrize("rule", CASES)
def test_each_rule_drops_what_it_is_for_and_can_be_switched_off(rule: str) -> None:
    stage = gopher()
    decision = stage.decide(measure(stage, [CASES[rule], GOOD * 5]))
    assert decision.rule == [rule, None]
    knob = getattr(stage.config, rule)
    assert decision.threshold[0] == knob
    assert (decision.value[0] < knob) if rule.startswith("min") else (decision.value[0] > knob)
    off = gopher(**{rule: None})
    assert off.decide(measure(off, [CASES[rule]])).rule == [None]
    assert rule not in {limit.rule for limit in off.limits()}


def test_thresholds_belong_to_what_is_kept() -> None:
    stage = gopher()
    assert stage.decide(measure(stage, ["the of " + "word " * 48])).rule == [None]  # 50 words
    assert stage.decide(measure(stage, ["the of " + "word " * 47])).rule == ["min_words"]


def test_stop_words_follow_the_language() -> None:
    german = "Der Mann und die Frau gehen nicht in das Haus. "
    values = measure(gopher(), [german] * 5, ["de", "deu_Latn", "en", "xx", None])
    assert values.column(P + "stop_words").to_pylist() == [5, 5, 0, None, 0]  # und die nicht in das
    decision = gopher(min_words=None).decide(values)
    assert decision.rule == [None, None, "min_stop_words", None, "min_stop_words"]
    assert decision.skipped == {"min_stop_words": 1}
    without = measure(gopher(default_language=None), [german])
    assert without.column(P + "stop_words").to_pylist() == [None]


def test_scripts_without_spaces_have_no_word_length() -> None:
    stage = gopher(default_language=None)
    decision = stage.decide(measure(stage, ["这是一个很长的中文句子。" * 10, "ภาษาไทยไม่มีช่องว่าง" * 10]))
    assert decision.rule == [None, None]
    assert decision.skipped["min_mean_word_length"] == decision.skipped["max_mean_word_length"] == 2


def test_shipped_lists_hold_single_words_and_the_papers_english() -> None:
    path = ASSETS / "quality" / "stop_words.json"
    lists = json.loads(path.read_text(encoding="utf-8"))
    assert set(lists["en"]) == {"the", "be", "to", "of", "and", "that", "have", "with"}
    assert {"de", "fr", "es", "it", "pt", "nl", "sv", "pl", "cs", "ru", "uk"} <= set(lists)
    assert all(len(keys) == len(set(lists[language])) for language, keys in load(path).items())
    assert language_code("deu_Latn") == language_code("de-AT") == "de" and language_code("tlh") == "tlh"


@pytest.mark.parametrize("content", ["not json", '["the"]', '{"en": ["two words"]}', '{"en": [1]}'])
def test_a_broken_list_is_a_clear_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "stops.json"
    path.write_text(content)
    with pytest.raises(StageError, match=r"stops\.json.*expected a JSON object"):
        gopher(stop_words=str(path))


def test_own_lists(tmp_path: Path) -> None:
    path = tmp_path / "stops.json"
    path.write_text('{"tlh": ["ghaH", "je"]}')
    values = measure(gopher(stop_words=str(path)), ["ghaH je je", "the"], ["tlh", "en"])
    assert values.column(P + "stop_words").to_pylist() == [2, None]


def test_bad_input_and_batches() -> None:
    stage = gopher()
    texts = [None, "", "\0\0", "\n" * 1000, "#" * 1000, "😀" * 100, GOOD * 5]
    together = measure(stage, texts)
    alone = pa.concat_tables([measure(stage, [text]) for text in texts])
    assert together.equals(alone)
    assert np.isfinite(together.column(P + "hash_ratio").to_numpy()).all()
    assert stage.decide(together).rule == ["min_words"] * 6 + [None]
    assert (
        tokenise([]).counts.tolist() == []
        and stage.measure(Batch(pa.table({"text": pa.array([], pa.string())}))).num_rows == 0
    )


def test_knobs_are_checked() -> None:
    with pytest.raises(ValidationError):
        GopherConfig(max_bullet_lines=1.5)
    with pytest.raises(ValidationError):
        GopherConfig(min_word=3)
