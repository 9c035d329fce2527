r"""Exact all-pairs Jaccard similarity by an inverted index, with no hashing of signatures and none of the code under test.

A document is the set of its 5-grams of words, `\w+` in the lower-case text; of a shorter document all its words are one 5-gram.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numba import njit

WORD = re.compile(r"\w+")
GRAM = 5


class Pairs(NamedTuple):
    """Pairs of row numbers (low < high) and their Jaccard similarity."""

    low: np.ndarray
    high: np.ndarray
    similarity: np.ndarray


class Sets(NamedTuple):
    """Sets of shingle numbers, each sorted, one after another: those of row i are `items[starts[i]:starts[i + 1]]`.

    Numbers are given by how many documents hold a shingle, the rarest first.
    """

    items: np.ndarray
    starts: np.ndarray


def shingle_sets(texts: Sequence[str]) -> Sets:
    """The sets of the texts; each shingle is a string until it has its number."""
    numbers: dict[str, int] = {}
    rows = []
    for text in texts:
        words = WORD.findall(text.lower())
        grams = (
            {" ".join(words[place : place + GRAM]) for place in range(max(1, len(words) - GRAM + 1))} if words else ()
        )
        rows.append(np.array([numbers.setdefault(gram, len(numbers)) for gram in grams], dtype=np.int64))
    starts = np.cumsum([0] + [len(row) for row in rows])
    items = np.concatenate(rows) if rows else np.empty(0, dtype=np.int64)
    held = np.bincount(items, minlength=len(numbers))
    place = np.empty(len(numbers), dtype=np.int64)
    place[np.argsort(held, kind="stable")] = np.arange(len(numbers))
    items = place[items]
    for first, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        items[first:end].sort()
    return Sets(items, starts)


def all_pairs(sets: Sets, threshold: float) -> Pairs:
    """Every pair of documents of at least that similarity, above 0.

    Prefix filter (Bayardo et al. 2007): two sets that share so much share one of the rarest `size - ceil(threshold * size) + 1`
    members of each. What shares one is compared in full.
    """
    sizes = np.diff(sets.starts)
    prefixes = np.where(sizes > 0, sizes - np.ceil(threshold * sizes - 1e-9).astype(np.int64) + 1, 0)
    prefixes = np.minimum(prefixes, sizes)
    row = np.repeat(np.arange(len(sizes)), prefixes)
    within = np.arange(len(row)) - np.repeat(np.cumsum(prefixes) - prefixes, prefixes)
    shingle = sets.items[sets.starts[row] + within]
    order = np.argsort(shingle, kind="stable")
    shingle, row = shingle[order], row[order]
    run = np.flatnonzero(np.append(True, shingle[1:] != shingle[:-1]))
    postings = np.zeros(int(sets.items.max(initial=-1)) + 2, dtype=np.int64)
    np.add.at(postings, shingle[run] + 1, np.diff(np.append(run, len(shingle))))
    return Pairs(*_join(sets.items, sets.starts, prefixes, np.cumsum(postings), row, threshold))


def similarity(sets: Sets, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The Jaccard similarity of given pairs, 0 of two empty sets."""
    return _similarity(sets.items, sets.starts, low, high)


def cached(texts: Sequence[str], threshold: float, folder: Path | None) -> Pairs:
    """`all_pairs` of the texts, kept in a file of the folder that is named after them."""
    digest = hashlib.sha256(str(threshold).encode())
    for text in texts:
        digest.update(len(text).to_bytes(8, "little") + text.encode("utf-8", "surrogatepass"))
    if folder is None:
        return all_pairs(shingle_sets(texts), threshold)
    path = folder / f"pairs-{digest.hexdigest()[:16]}.npz"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(path, **all_pairs(shingle_sets(texts), threshold)._asdict())
    with np.load(path) as found:
        return Pairs(found["low"], found["high"], found["similarity"])


@njit(cache=True)
def _common(items: np.ndarray, starts: np.ndarray, a: int, b: int) -> int:
    i, j, common = starts[a], starts[b], 0
    while i < starts[a + 1] and j < starts[b + 1]:
        if items[i] == items[j]:
            common += 1
            i += 1
            j += 1
        elif items[i] < items[j]:
            i += 1
        else:
            j += 1
    return common


@njit(cache=True)
def _similarity(items: np.ndarray, starts: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    found = np.zeros(len(low))
    for pair in range(len(low)):
        common = _common(items, starts, low[pair], high[pair])
        a, b = low[pair], high[pair]
        union = starts[a + 1] - starts[a] + starts[b + 1] - starts[b] - common
        if union > 0:
            found[pair] = common / union
    return found


@njit(cache=True)
def _join(
    items: np.ndarray,
    starts: np.ndarray,
    prefixes: np.ndarray,
    postings: np.ndarray,
    rows: np.ndarray,
    threshold: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    room, count = 1024, 0
    low, high, similar = np.empty(room, np.int64), np.empty(room, np.int64), np.empty(room)
    seen = np.full(len(prefixes), -1)
    for b in range(len(prefixes)):
        size = starts[b + 1] - starts[b]
        for place in range(starts[b], starts[b] + prefixes[b]):
            for posting in range(postings[items[place]], postings[items[place] + 1]):
                a = rows[posting]
                if a >= b:
                    break  # the rows of a shingle stand in order
                if seen[a] == b:
                    continue
                seen[a] = b
                other = starts[a + 1] - starts[a]
                if min(size, other) < threshold * max(size, other):
                    continue
                common = _common(items, starts, a, b)
                value = common / (size + other - common)
                if value < threshold:
                    continue
                if count == room:
                    room *= 2
                    low = np.append(low, np.empty(count, np.int64))
                    high = np.append(high, np.empty(count, np.int64))
                    similar = np.append(similar, np.empty(count))
                low[count], high[count], similar[count] = a, b, value
                count += 1
    return low[:count], high[:count], similar[:count]
