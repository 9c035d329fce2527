"""The `normalize` stage: mojibake repaired, NFC, no control characters, plain line ends and white space.

Nothing here rewrites what an author chose: curly quotes, full-width forms, ligatures and indentation stay. The result
is a fixed point, so normalising twice changes nothing.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa
import regex

from stages.batch import Batch
from stages.mojibake import repair
from stages.stage import Decision, Limit, MapStage, StageConfig, knob, register

_MAX_ROUNDS = 8  # each repair can uncover another (mojibake of mojibake); real text settles after one

# One class for everything that clean text does not hold: controls but \n and \t, blanks but the space, line and
# paragraph separators, zero-width and direction marks, lone surrogates, noncharacters.
_SUSPECT = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\xa0\xad\u061c\u1680\u180e\u2000-\u200f\u2028-\u202f\u205f-\u206f"
    "\ud800-\udfff\ufdd0-\ufdef\ufeff\ufff9-\ufffb\ufffe\uffff]"
)
_LINE_END = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
_BLANK = re.compile(
    "[\xa0\u1680\u2000-\u200a\u202f\u205f]"
)  # not U+3000, which Chinese and Japanese lines are set with
_TERMINAL = re.compile("\x1b\\[[0-?]*[ -/]*[@-~]")  # a terminal's colours, as in pasted logs
_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_SURROGATE = re.compile("[\ud800-\udfff]")
# Thai, Lao, Burmese and Khmer mark word breaks by the zero-width space. Joiners change letters in Arabic, the Indic
# scripts and Mongolian, and bind emoji; in other places they are what an editor or a copy left behind.
_BREAKS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
_JOINED = (
    "\u0600-\u08ff\u0900-\u109f\u1780-\u18af\u200d\u20e3\u203c-\u3299\ua8e0-\ua8ff\uaa60-\uaa7f\ufb50-\ufdcf\ufe0f"
    "\ufe70-\ufefc\U00011000-\U00011fff\U0001e900-\U0001e95f\U0001f000-\U0001faff\xa9\xae"
)
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u061c\u180e\u200e\u200f\u202a-\u202e\u2060-\u206f"
    "\ufdd0-\ufdef\ufeff\ufff9-\ufffb\ufffe\uffff]"
    f"|(?<![{_BREAKS}])\u200b|\u200b(?![{_BREAKS}])|(?<![{_JOINED}])[\u200c\u200d]|[\u200c\u200d](?=\\s|\\Z)"
)
_TRAILING = re.compile("[ \t\u3000]+(?=\n|\\Z)")
_MANY_BLANK = re.compile("\n{3,}")
_MARKS = 1000
_MARK_RUN = regex.compile(rf"(\p{{M}}{{{_MARKS},}}+)")


class Normalized(NamedTuple):
    """A normalised text, the code points that were removed as invisible, and the lines that ftfy repaired."""

    text: str
    removed: int
    repaired: int


def normalize(text: str, mojibake: bool = True) -> Normalized:
    """The text in normal form; `mojibake` repairs lines that were decoded with a wrong charset."""
    removed = repaired = 0
    for _ in range(_MAX_ROUNDS):
        before = text
        if mojibake and not text.isascii():
            text, lines = repair(text)
            repaired += lines
        if _SUSPECT.search(text):
            text = _LINE_END.sub("\n", text)
            if _SURROGATE.search(text):
                text = _PAIR.sub(lambda pair: pair[0].encode("utf-16-le", "surrogatepass").decode("utf-16-le"), text)
                text = _SURROGATE.sub("\ufffd", text)
            text, count = _TERMINAL.subn("", text)
            removed += count
            text = _BLANK.sub(" ", text)
            text, count = _INVISIBLE.subn("", text)
            removed += count
        text = _composed(text)
        text = _white_space(text)
        if text == before:
            return Normalized(text, removed, repaired)
    # never seen to end here with repairs; without them every step only shortens or composes, so this settles
    rest = normalize(text, mojibake=False)
    return Normalized(rest.text, removed + rest.removed, repaired)


def _composed(text: str) -> str:
    """NFC, but for runs of a thousand combining marks and more, which no language has: ordering them takes quadratic time."""
    if text.isascii():
        return text
    if len(text) > _MARKS and _MARK_RUN.search(text):
        return "".join(part if _MARK_RUN.fullmatch(part) else _composed(part) for part in _MARK_RUN.splititer(text))
    return text if unicodedata.is_normalized("NFC", text) else unicodedata.normalize("NFC", text)


def _white_space(text: str) -> str:
    """No blanks at line ends, no more than one empty line in a row, none at either end."""
    if " \n" in text or "\t\n" in text or "\u3000\n" in text or text[-1:] in (" ", "\t", "\u3000"):
        text = _TRAILING.sub("", text)
    if "\n\n\n" in text:
        text = _MANY_BLANK.sub("\n\n", text)
    return text.strip("\n") if text[:1] == "\n" or text[-1:] == "\n" else text


class NormalizeConfig(StageConfig):
    """Knobs of `normalize`."""

    mojibake: bool = knob(
        True, "repair text that was decoded with a wrong charset, where a cheap test finds any", "ftfy"
    )


@register
class Normalize(MapStage):
    """Replaces `text` by its normal form; a text with nothing left is dropped (`empty`).

    Removed: C0 and C1 controls but tab and newline, terminal escapes, soft hyphens, byte order marks, zero-width and
    direction marks (joiners stay where they shape letters or emoji, zero-width spaces where they part words),
    noncharacters. Lone surrogates become U+FFFD; no-break and other blanks a space; all line ends a newline.
    """

    name = "normalize"
    version = 2
    config_model = NormalizeConfig
    libraries: ClassVar[tuple[str, ...]] = ("ftfy",)
    config: NormalizeConfig

    def provides(self) -> dict[str, pa.DataType]:
        """The text in normal form."""
        return {"text": pa.string()}

    def measures(self) -> dict[str, pa.DataType]:
        """Besides the text: whether it changed, its new length in code points, what was removed, lines repaired."""
        return {
            "text": pa.string(),
            "normalize_changed": pa.bool_(),
            "normalize_characters": pa.int64(),
            "normalize_removed": pa.int64(),
            "normalize_repaired_lines": pa.int64(),
        }

    def limits(self) -> list[Limit]:
        """The length under which nothing is left."""
        return [Limit("normalize_characters", "empty", 1)]

    def setup(self, assets: Mapping[str, Path]) -> None:
        """Import ftfy now, so that a missing package is found before the first record."""
        normalize("probe \u00e2\u20ac\u201c", self.config.mojibake)

    def measure(self, batch: Batch) -> pa.Table:
        """One normalisation a row."""
        columns: dict[str, list[Any]] = {name: [] for name in self.measures()}
        for text in batch.texts():
            result = normalize(text, self.config.mojibake)
            row = (result.text, result.text != text, len(result.text), result.removed, result.repaired)
            for values, value in zip(columns.values(), row, strict=True):
                values.append(value)
        return pa.table({name: pa.array(columns[name], kind) for name, kind in self.measures().items()})

    def decide(self, values: pa.Table) -> Decision:
        """One rule: `empty`."""
        decision = Decision.keep(values.num_rows)
        length = np.asarray(values.column("normalize_characters").to_pylist(), dtype=np.float64)
        decision.drop_where(length < 1, "empty", length, 1)
        return decision
