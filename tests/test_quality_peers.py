"""With datatrove's definitions and spaCy's words the four families decide as datatrove 0.10.1 does (recorded verdicts)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from stages.batch import Batch
from stages.quality.c4 import C4, C4Config
from stages.quality.fineweb import FineWeb, FineWebConfig
from stages.quality.gopher import Gopher, GopherConfig
from stages.quality.gopher_repetition import GopherRepetition, RepetitionConfig
from stages.quality.rules import RuleStage
from stages.stage import Decision
from tests.peer_texts import texts
from tests.web_stages import ready

RECORDED = json.loads((Path(__file__).parent / "recorded" / "datatrove_0.10.1.json").read_text())
PEER = {"definition": "datatrove", "words": "spacy"}


def stage(place: int) -> RuleStage:
    """Our stage for a recorded filter."""
    made: Sequence[RuleStage] = (
        GopherRepetition(RepetitionConfig.model_validate(PEER)),
        Gopher(GopherConfig.model_validate(PEER)),
        C4(C4Config.model_validate({**PEER, "terminal_punctuation": False})),
        C4(C4Config.model_validate(PEER)),
        FineWeb(FineWebConfig.model_validate({**PEER, "max_duplicate_line_characters": 0.01})),
    )
    return ready(made[place])


def decisions(place: int) -> Decision:
    one = stage(place)
    return one.decide(one.measure(Batch(pa.table({"text": texts()}))))


@pytest.mark.parametrize("place", range(5))
def test_the_same_documents_are_kept(place: int) -> None:
    ours = [rule is None for rule in decisions(place).rule]
    theirs = [row[place][0] is None for row in RECORDED]
    assert 40 < sum(theirs) < 200, "the texts tell something"
    assert [number for number, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1]] == []


@pytest.mark.parametrize("place", [2, 3])
def test_c4_leaves_the_same_text(place: int) -> None:
    decision = decisions(place)
    for row, text in enumerate(texts()):
        kept = RECORDED[row][place][1]
        if kept is None:
            continue
        for edit in reversed(decision.edits.get(row, [])):
            text = text[: edit.start] + edit.replacement + text[edit.end :]
        assert text == kept


def test_our_words_decide_otherwise_somewhere() -> None:
    ours = ready(Gopher(GopherConfig(definition="datatrove")))
    rules = ours.decide(ours.measure(Batch(pa.table({"text": texts()})))).rule
    assert [rule is None for rule in rules] != [row[1][0] is None for row in RECORDED]
