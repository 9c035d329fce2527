r"""The rules of C4: cut lines that are no sentences, then drop what is left too short.

Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer", section 2.2, with the line
rules that its published code adds (words over 1,000 characters, policy notices, citation marks). Lines are judged stripped and without
citation marks; words are those of `stages.words`, so that lines of scripts without spaces count as many. As in the paper, a page
with a curly bracket or "lorem ipsum" anywhere is dropped (some code looks only at the lines that are left). The bad-words rule is not
here: it belongs to toxicity. Blank lines between kept lines stay, one where lines between them were cut.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import numpy as np
import pyarrow as pa

from stages.batch import Batch
from stages.quality import c4_datatrove
from stages.quality.c4_lines import LINE_RULES, LineKnobs, count_sentences, holds_any, judge_all
from stages.quality.rules import Rule, RuleConfig, RuleStage, limits, table
from stages.quality.tokens import sentence_counter
from stages.stage import Decision, Edit, Limit, StageConfig, knob, register
from stages.words import batch_words

PAPER = "C4 (Raffel et al. 2020)"
CODE = "C4's code in TensorFlow Datasets; datatrove 0.10"
P = "quality_c4_"


class C4Config(RuleConfig):
    """Line rules cut lines, the others drop documents; null or false switches a rule off.

    With `mode: tag` nothing is cut, either.
    """

    definition: Literal["paper", "datatrove"] = knob(
        "paper",
        "what is counted: as the paper's words say, in any script, or as datatrove's code does (`stages/quality/c4_datatrove.py`)",
        PAPER,
    )
    words: Literal["ours", "spacy"] = knob(
        "ours",
        "with `definition: datatrove`, whose sentences are counted: ours, or those of spaCy's rules for the row's language",
        "datatrove 0.10",
    )

    terminal_punctuation: bool = knob(
        True,
        "cut lines that do not end with terminal punctuation (of any script) or a closing quote, or that end with an ellipsis; "
        "FineWeb turns this off",
        source=PAPER,
    )
    min_line_words: int | None = knob(3, "cut lines with fewer words", source=PAPER, ge=0)
    max_word_length: int | None = knob(
        1000,
        "cut lines with a longer run of characters without white space (scripts without spaces aside)",
        source=CODE,
        ge=1,
    )
    javascript: bool = knob(True, "cut lines with the word javascript", source=PAPER)
    policy_phrases: tuple[str, ...] = knob(
        ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies"),
        "cut lines with one of these phrases (any case)",
        source=CODE,
    )
    citations: bool = knob(True, "remove [1], [], [edit] and [citation needed] from kept lines", source=CODE)
    lorem_ipsum: bool = knob(True, "drop documents with placeholder text", source=PAPER)
    curly_bracket: bool = knob(True, "drop documents with a curly bracket", source=PAPER)
    min_sentences: int | None = knob(5, "drop documents with fewer sentences in the lines kept", source=PAPER, ge=0)


SPAN = pa.struct([("start", pa.int64()), ("end", pa.int64())])


@register
class C4(RuleStage):
    """Cuts lines that are not sentences; drops documents with too little left, code or placeholder text."""

    name = "quality.c4"
    version = 2
    prefix = P
    config_model = C4Config
    decide_knobs = ("lorem_ipsum", "curly_bracket", "min_sentences")
    config: C4Config

    def __init__(self, config: StageConfig) -> None:
        super().__init__(config)
        self.edits = self.config.mode == "drop"

    def counted(self) -> dict[str, pa.DataType]:
        return {
            P + "lorem_ipsum": pa.bool_(),
            P + "curly_bracket": pa.bool_(),
            P + "sentences": pa.int32(),  # in the lines kept
            P + "lines_kept": pa.int32(),  # not blank
            **{f"{P}lines_{rule}": pa.int32() for rule in LINE_RULES},  # cut by this rule, the first that applied
            P + "citations": pa.int32(),  # removed
            P + "cuts": pa.list_(SPAN),  # code points of the input text to remove: in order, disjoint
        }

    def rules(self) -> list[Rule]:
        knobs = self.config
        return [
            Rule("lorem_ipsum", P + "lorem_ipsum", "max", 0 if knobs.lorem_ipsum else None),
            Rule("curly_bracket", P + "curly_bracket", "max", 0 if knobs.curly_bracket else None),
            Rule("min_sentences", P + "sentences", "min", knobs.min_sentences),
            Rule("no_lines_left", P + "lines_kept", "min", 1),
        ]

    def limits(self) -> list[Limit]:
        return limits(rule for rule in self.rules() if rule.name == "min_sentences")

    def count(self, batch: Batch) -> pa.Table:
        texts, utf8 = batch.texts(), batch.utf8()
        if self.config.definition == "datatrove":
            judged = [
                c4_datatrove.judge_lines(text, self._line_knobs(), counter)
                for text, counter in zip(texts, self._counters(batch), strict=True)
            ]
            found = [one for one, _, _ in judged]
            flags = [[lorem for _, lorem, _ in judged], [bracket for _, _, bracket in judged]]
        else:
            found = judge_all(texts, *utf8, batch_words(batch), self._line_knobs())
            flags = [holds_any(*utf8, phrases).tolist() for phrases in (["lorem ipsum"], ["{", "}"])]
        values = {
            P + "lorem_ipsum": flags[0],
            P + "curly_bracket": flags[1],
            P + "sentences": [one.sentences for one in found],
            P + "lines_kept": [one.kept for one in found],
            P + "citations": [one.citations for one in found],
            P + "cuts": spans([one.cuts for one in found]),
        }
        for rule in LINE_RULES:
            values[f"{P}lines_{rule}"] = [one.cut_by[rule] for one in found]
        return table(self.counted(), values)

    def _line_knobs(self) -> LineKnobs:
        return LineKnobs(**{name: getattr(self.config, name) for name in LineKnobs._fields})

    def _counters(self, batch: Batch) -> list[Callable[[str], int]]:
        """For each row, what counts the sentences of a line."""
        if self.config.words == "ours":
            return [count_sentences] * len(batch)
        return [sentence_counter(label) for label in batch.values("language")]

    def decide(self, values: pa.Table) -> Decision:
        decision = super().decide(values)
        if self.config.mode == "tag":
            return decision
        return edits_of(decision, values.column(P + "cuts"))


def edits_of(decision: Decision, cuts: pa.ChunkedArray) -> Decision:
    """The decision with the cuts of each kept row, a column of type list<SPAN>, as edits."""
    whole = cuts.combine_chunks()
    bounds = whole.offsets.to_pylist()
    start, end = (whole.values.field(name).to_pylist() for name in ("start", "end"))
    for row, (first, last) in enumerate(pairwise(bounds)):
        if first < last and decision.rule[row] is None:
            decision.edits[row] = [Edit(start[place], end[place], "") for place in range(first, last)]
    return decision


def spans(rows: list[list[tuple[int, int]]]) -> pa.ListArray:
    """Each row's pairs of places as a column of type list<SPAN>."""
    places = np.array([pair for pairs in rows for pair in pairs], dtype=np.int64).reshape(-1, 2)
    bounds = np.concatenate([[0], np.cumsum([len(pairs) for pairs in rows], dtype=np.int32)]).astype(np.int32)
    columns = [pa.array(places[:, side].copy()) for side in (0, 1)]
    return pa.ListArray.from_arrays(pa.array(bounds), pa.StructArray.from_arrays(columns, fields=list(SPAN)))
