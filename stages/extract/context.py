"""The second look at a block: what the first model thinks of it, of its neighbours, and of the regions that it stands in."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from stages.extract.blocks import LENGTH, Blocks, Floats, Numbers
from stages.extract.features import LEVELS, Ints
from stages.jit import kernel

NEAR = (-4, -3, -2, -1, 1, 2, 3, 4)
NAMES: tuple[str, ...] = (
    "first",
    *(f"first{offset:+d}" for offset in NEAR),
    *(f"first_region{level}_{kind}" for level in range(LEVELS) for kind in ("length", "blocks")),
    "first_window3",
    "first_window10",
    "first_page",
    "first_most",
    "first_total",
    "first_so_far",
)
SURELY_NOT = 0.03  # a probability under which nothing was ever kept
_N_NEAR = len(NEAR)
_OFFSETS = np.array(NEAR, dtype=np.int64)
_AT_REGION = 1 + _N_NEAR
_AT_PAGE = _AT_REGION + 2 * LEVELS


def context(blocks: Blocks, regions: Ints, first: Floats) -> Floats:
    """[blocks, len(NAMES)] from the first model's probabilities."""
    rows = np.zeros((len(first), len(NAMES)), np.float32)
    if len(first):
        _fill(blocks.text, regions, first, rows)
    return rows


def unsettled(first: Floats, rows: Floats) -> npt.NDArray[np.bool_]:
    """Which blocks are worth the second look: not those that the first model rules out among others of their kind."""
    asked: npt.NDArray[np.bool_] = (first >= SURELY_NOT) | (rows[:, _AT_PAGE + 1] >= SURELY_NOT)
    return asked


@kernel
def _fill(text: Numbers, regions: Ints, first: Floats, rows: Floats) -> None:
    count = first.size
    length_to, likely_to, sum_to = np.zeros(count + 1), np.zeros(count + 1), np.zeros(count + 1)
    most = 0.0
    for block in range(count):
        length = text[block, LENGTH]
        length_to[block + 1] = length_to[block] + length
        likely_to[block + 1] = likely_to[block] + length * first[block]
        sum_to[block + 1] = sum_to[block] + first[block]
        most = max(most, first[block])
    for block in range(count):
        row = rows[block]
        row[0] = first[block]
        for place in range(_N_NEAR):
            other = block + _OFFSETS[place]
            row[1 + place] = first[other] if 0 <= other < count else -1.0
        for level in range(LEVELS):
            low, high = regions[block, level, 0], regions[block, level, 1]
            row[_AT_REGION + 2 * level] = (likely_to[high] - likely_to[low]) / max(
                length_to[high] - length_to[low], 1.0
            )
            row[_AT_REGION + 2 * level + 1] = (sum_to[high] - sum_to[low]) / max(high - low, 1)
        for place in range(2):
            reach = 3 if place == 0 else 10
            low, high = max(0, block - reach), min(count, block + reach + 1)
            row[_AT_PAGE + place] = (likely_to[high] - likely_to[low]) / max(length_to[high] - length_to[low], 1.0)
        row[_AT_PAGE + 2] = likely_to[count] / max(length_to[count], 1.0)
        row[_AT_PAGE + 3] = most
        row[_AT_PAGE + 4] = math.log(1.0 + likely_to[count])
        row[_AT_PAGE + 5] = likely_to[block + 1] / max(likely_to[count], 1.0)
