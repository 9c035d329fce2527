"""Documents looked up in the parts of an index: equal texts, else the best of those that share a band."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from stages.dedup.index_format import Part
from stages.dedup.index_hash import Hashed, IndexParameters, estimate
from stages.jit import kernel

LIMIT = 256  # signatures of one key that a document is compared with: the first ones, equal signatures counted once
_NONE = np.int64(-1)


class Matches(NamedTuple):
    """The best match of each of n documents."""

    part: np.ndarray  # (n,) int64: which part, -1 for none
    row: np.ndarray  # (n,) int64: its row there
    similarity: np.ndarray  # (n,) float64: 1 for an equal text, else as estimated
    exact: np.ndarray  # (n,) bool


def look_up(parts: Sequence[Part], hashed: Hashed, parameters: IndexParameters) -> Matches:
    """The best match of each document that has a text: an equal text in the earliest part, else the most similar
    signature among those that share a band, of equally similar ones the first in the earliest part.
    """
    count = len(hashed.kept)
    matches = Matches(
        np.full(count, _NONE), np.full(count, _NONE), np.zeros(count, dtype=np.float64), np.zeros(count, dtype=bool)
    )
    for number, part in enumerate(parts):
        keys, rows = part.keys(None)
        open_ = np.flatnonzero(~matches.exact)
        found = np.asarray(equal_texts(hashed.exact[open_], keys, part.low, rows))
        hit = open_[found >= 0]
        matches.part[hit], matches.row[hit] = number, found[found >= 0]
        matches.similarity[hit], matches.exact[hit] = 1.0, True
        part.release()
    near = np.flatnonzero(~matches.exact[hashed.worded])
    documents = hashed.worded[near]
    if not len(documents):
        return matches
    signatures, bands = hashed.signatures[documents], hashed.bands[near]
    best = np.zeros(len(documents), dtype=np.int64)  # equal bytes of the best so far, of any part
    for number, part in enumerate(parts):
        same, row = np.zeros(len(documents), dtype=np.int64), np.full(len(documents), _NONE)
        for band in range(parameters.bands):
            keys, rows = part.keys(band)
            most_similar(bands, signatures, band, keys, rows, part.signatures, LIMIT, same, row)
            part.release()
        better = same > best
        best[better] = same[better]
        matches.part[documents[better]], matches.row[documents[better]] = number, row[better]
    matches.similarity[documents] = estimate(best, parameters.permutations)
    return matches


@kernel
def first_of(keys: Any, key: Any) -> Any:
    """Where the first of sorted, evenly spread 64-bit `keys` stands that is not below `key`.

    Interpolation while it gains, since keys are hashes; then halving, since many may be equal. One or two pages of a large file.
    """
    low, high = 0, len(keys)
    for step in range(128):
        if low >= high:
            break
        if step < 4 and high - low > 16:
            bottom, top = keys[low], keys[high - 1]
            if key <= bottom:
                return low
            if key > top:
                return high
            share = float(key - bottom) / float(top - bottom)
            middle = low + int(share * (high - 1 - low))
            middle = min(max(middle, low), high - 1)
        else:
            middle = (low + high) // 2
        if keys[middle] < key:
            low = middle + 1
        else:
            high = middle
    return low


@kernel
def equal_texts(hashes: Any, keys: Any, lows: Any, rows: Any) -> Any:
    """For each text's hash, (n, 2) uint64, the first row with the same; -1 for none."""
    out = np.full(len(hashes), -1, np.int64)
    for i in range(len(hashes)):
        at = first_of(keys, hashes[i, 0])
        while at < len(keys) and keys[at] == hashes[i, 0]:
            if lows[at] == hashes[i, 1]:
                out[i] = rows[at]
                break
            at += 1
    return out


@kernel
def most_similar(
    bands: Any,
    signatures: Any,
    band: Any,
    keys: Any,
    rows: Any,
    stored: Any,
    limit: Any,
    same: Any,
    best: Any,
) -> Any:
    """Compare each document with the rows of its key in one band; `same` and `best` (int64, one a document) hold the
    greatest number of equal bytes so far and the row that has it, the lower of two equal ones.
    """
    for i in range(len(bands)):
        key = bands[i, band]
        at = first_of(keys, key)
        end = min(at + limit, len(keys))
        while at < end and keys[at] == key:
            if rows[at] >= 2147483648:  # an earlier row has this signature, and so do those that follow
                break
            row = np.int64(rows[at])
            at += 1
            if row == best[i]:
                continue
            count = 0
            for j in range(signatures.shape[1]):
                count += signatures[i, j] == stored[row, j]
            if count > same[i] or (count == same[i] and (best[i] < 0 or row < best[i])):
                same[i] = count
                best[i] = row
    return None
