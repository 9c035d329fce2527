"""What characters lines are made of: counts by kind, in one compiled loop."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from stages.characters import CORE, NUMBER, SPACE, UPPER, Bytes, Ints, Table, classes
from stages.jit import kernel
from stages.words import decode

KINDS = ("letters", "capitals", "numbers", "white", "other", "parentheses")


def kinds(data: Bytes, begin: Ints, end: Ints) -> npt.NDArray[np.int64]:
    """For each stretch of UTF-8, how many characters of each of KINDS: [stretches, 6].

    Letters are with their marks; capitals are among the letters; `other` is what is neither letter, number, white space nor one of
    `? ! , .`; parentheses are among the others.
    """
    return _kinds(data, begin, end, classes())


@kernel
def _kinds(data: Bytes, begin: Ints, end: Ints, table: Table) -> npt.NDArray[np.int64]:
    counts = np.zeros((len(begin), 6), np.int64)
    for row in range(len(begin)):
        at, stop = begin[row], end[row]
        while at < stop:
            code: Any = np.int64(data[at])
            after: Any = at + 1
            if code >= 0x80:
                code, after = decode(data, at, stop)
            kind = table[code]
            at = after
            if kind & NUMBER:
                counts[row, 2] += 1
            elif kind & CORE:
                counts[row, 0] += 1
                counts[row, 1] += (kind & UPPER) != 0
            elif kind & SPACE:
                counts[row, 3] += 1
            elif code not in (33, 44, 46, 63):  # ! , . ?
                counts[row, 4] += 1
                counts[row, 5] += code in (40, 41)
    return counts
