"""`apply` of a group stage that cannot take a row in: that row has its own verdict, the others theirs."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.apply import apply
from tests import toy_stages


def test_a_row_that_a_group_stage_cannot_take_in(tmp_path: Path) -> None:
    texts = ["one text", "two [[group]] [[segv]]", "one more text", "three"]
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(texts)))
    assert apply(toy_stages.First.name, source, tmp_path / "out.jsonl", [], "inline", None, print) == 0
    verdicts = [json.loads(line)["verdict"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert verdicts == ["keep", "toy.first:crash", "toy.first:again", "keep"]
