"""Texts of like length together, for models whose rounding depends on the shape of a computation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

STEP = 64  # tokens; texts are padded to the next multiple


class Padded(NamedTuple):
    """Texts that go through a model together: their rows, then ids and mask (int64, same shape) of as many rows or more."""

    rows: list[int]
    ids: np.ndarray
    mask: np.ndarray


def padded(encoded: Sequence[Sequence[int]], longest: int, batch_tokens: int, padding: int) -> Iterator[Padded]:
    """Token ids of texts, none more than `longest`, padded to one of a few lengths and always as many as `batch_tokens` allows.

    Rows that are missing are made of padding, so the shape, and with it the rounding, depends on a text's own length and
    not on its neighbours.
    """
    by_length: dict[int, list[int]] = {}
    for row, some in enumerate(encoded):
        by_length.setdefault(min(longest, -(-max(1, len(some)) // STEP) * STEP), []).append(row)
    for length, rows in sorted(by_length.items()):
        together = max(1, batch_tokens // length)
        for at in range(0, len(rows), together):
            part = rows[at : at + together]
            ids = np.full((together, length), padding, dtype=np.int64)
            mask = np.zeros((together, length), dtype=np.int64)
            mask[:, 0] = 1  # a row without any token to look at would be NaN
            for place, row in enumerate(part):
                ids[place, : len(encoded[row])] = encoded[row]
                mask[place, : len(encoded[row])] = 1
            yield Padded(part, ids, mask)
