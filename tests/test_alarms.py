"""A stage that drops too much of a source: said at the end of the run, in run.json and in the report, or the end of the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.apply import parse_spec
from pipeline.config import resolve
from pipeline.run import Options, run
from pipeline.yamlfile import ConfigError, Located

WIPED = "dedup.exact dropped 118 of the 120 documents of source 'spam' that reached it (98.3 %), more than dedup.exact.alarm_share = 0.5"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A source of two texts 120 times over, one of 200 texts, one of 20 copies, too small to raise an alarm."""
    texts = {
        "spam": [f"text {n % 2}" for n in range(120)] + ["", "", ""],
        "web": [f"words of page {n // 2 if n < 100 else n}" for n in range(200)],
        "tiny": ["again"] * 20,
    }
    for source, rows in texts.items():
        (tmp_path / f"{source}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))
    return tmp_path


def config(corpus: Path, *stages: Any, **sections: Any) -> Any:
    inputs = [
        {"source": source, "format": "jsonl", "paths": [str(corpus / f"{source}.jsonl")]}
        for source in ("spam", "web", "tiny")
    ]
    data = {"name": "a", "input": inputs, "stages": list(stages), "engine": {"executor": "inline"}, **sections}
    return resolve(Located(data, "c.yaml", {}))


def carry_out(corpus: Path, *stages: Any, **sections: Any) -> tuple[int, list[str], dict[str, Any]]:
    said: list[str] = []
    code = run(config(corpus, *stages, **sections), Options(str(corpus / "run")), said.append)
    return code, said, json.loads((corpus / "run" / "run.json").read_text())


def warned(said: list[str]) -> list[str]:
    return [line.removeprefix("warning: ") for line in said if line.startswith("warning: ")]


def test_a_source_that_is_wiped_out_is_said_everywhere(corpus: Path) -> None:
    code, said, facts = carry_out(corpus, "normalize", "dedup.exact")
    assert code == 0
    (alarm,) = warned(said)
    assert alarm.startswith(WIPED) and facts["alarms"] == [alarm]
    assert [line for line in said if "warning" in line] == said[-2:-1]  # behind the summary
    page = (corpus / "run" / "report.html").read_text()
    assert "1 thing needs a look" in page and "dropped 118 of the 120 documents" in page
    exact = facts["stages"][-1]
    assert exact["by_source"] == {
        "spam": {"in": 120, "dropped": 118}, "tiny": {"in": 20, "dropped": 19}, "web": {"in": 200, "dropped": 50}
    }  # fmt: skip
    assert facts["stages"][1]["by_source"] == {"spam": {"in": 123, "dropped": 3}}
    again = carry_out(corpus, "normalize", "dedup.exact")
    assert "stages: everything is done already" in again[1] and warned(again[1]) == [alarm]


def test_other_shares_compute_nothing_again(corpus: Path) -> None:
    carry_out(corpus, "dedup.exact")
    code, said, facts = carry_out(corpus, {"dedup.exact": {"alarm_share": 0.2}})
    assert code == 0 and "stages: everything is done already" in said
    assert [alarm.split(" documents")[0] for alarm in facts["alarms"]] == [
        "dedup.exact dropped 118 of the 123", "dedup.exact dropped 50 of the 200"
    ]  # fmt: skip
    assert carry_out(corpus, {"dedup.exact": {"alarm_share": None}})[2]["alarms"] == []
    assert carry_out(corpus, {"dedup.exact": {"alarm_share": 0.99}})[2]["alarms"] == []


def test_the_end_of_the_run(corpus: Path) -> None:
    tokenizer = {"vocab_size": 400}
    code, said, facts = carry_out(corpus, "normalize", {"dedup.exact": {"alarm": "fail"}}, tokenizer=tokenizer)
    assert code == 1 and facts["status"] == "failed" and facts["sections"] == {}
    assert facts["error"].startswith(WIPED) and facts["alarms"] == [facts["error"]]
    assert warned(said) == [] and f"error: {facts['error']}" in said
    assert (corpus / "run" / "report.html").exists() and not (corpus / "run" / "tokenizer").exists()


def test_any_stage_that_drops_may_have_one(corpus: Path) -> None:
    filtered = {"quality.gopher": {"alarm_share": 0.9}}
    _, _, facts = carry_out(corpus, filtered, "dedup.exact")
    assert [alarm.split(" that")[0] for alarm in facts["alarms"]] == [
        "quality.gopher dropped 123 of the 123 documents of source 'spam'",
        "quality.gopher dropped 200 of the 200 documents of source 'web'",
    ]


def test_where_it_would_say_nothing_it_is_refused(corpus: Path) -> None:
    with pytest.raises(ConfigError, match=r"diversity\.alarm_share: diversity drops nothing; leave it out"):
        config(corpus, {"diversity": {"alarm_share": 0.5}})
    with pytest.raises(ConfigError, match="alarm_share"):
        config(corpus, {"dedup.exact": {"alarm_share": 2}})
    with pytest.raises(ConfigError, match="`alarm_share` holds for the whole stage"):
        config(corpus, "language", {"quality.gopher": {"by_language": {"de": {"alarm_share": 0.5}}}})
    for knob in ("alarm_share=0.1", "dedup.exact.alarm=fail"):
        with pytest.raises(ConfigError, match=r"expected a knob of dedup\.exact"):
            parse_spec("dedup.exact", [knob])
