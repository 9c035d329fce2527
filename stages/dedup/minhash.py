"""MinHash signatures with datasketch's permutations, their LSH bands, and how many bands of how many rows fit a threshold."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Literal

import numpy as np

from stages.characters import Ints, Keys
from stages.dedup.hashing import hash_columns
from stages.dedup.hashing import mix as mix64
from stages.jit import kernel

Scheme = Literal["affine64", "affine32", "legacy"]
BLOCK = 1 << 18  # hashes permuted at a time, unless one set has more
_MERSENNE = np.uint64((1 << 61) - 1)
_LOW, _HALF = np.uint64(2**32 - 1), np.uint64(32)


@cache
def permutations(count: int, seed: int, scheme: Scheme = "affine64") -> tuple[Keys, Keys]:
    """The permutations x -> a * x + b of `datasketch.MinHash(count, seed, scheme=scheme)`: a and b, (count,) uint64 each.

    Drawn here in the same way, from numpy's frozen `RandomState`: importing datasketch, and scipy with it, takes a second a process.
    """
    draw = np.random.RandomState(seed).randint
    if scheme == "legacy":
        pairs = [(draw(1, _MERSENNE, dtype=np.uint64), draw(0, _MERSENNE, dtype=np.uint64)) for _ in range(count)]
        a, b = np.array(pairs, dtype=np.uint64).T
    else:
        width, kind = (64, np.uint64) if scheme == "affine64" else (32, np.uint32)
        a = draw(0, 1 << (width - 1), count, dtype=kind) * kind(2) + kind(1)  # odd, so that no two values meet
        b = draw(0, 1 << width, count, dtype=kind)
    return np.ascontiguousarray(a, dtype=np.uint64), np.ascontiguousarray(b, dtype=np.uint64)


def signatures(sets: Sequence[np.ndarray], count: int, seed: int, scheme: Scheme = "affine64") -> np.ndarray:
    """MinHash signatures, (sets, count) uint64, of sets of 64-bit hashes, none of them empty.

    Equal to `datasketch.MinHash(count, seed, scheme=scheme)` updated with the same hashes, or with their lower 32 bits for the
    schemes that take no more.
    """
    out = np.empty((len(sets), count), dtype=np.uint64)
    first = 0
    while first < len(sets):
        end, size = first, 0
        while end < len(sets) and (end == first or size + len(sets[end]) <= BLOCK):
            size += len(sets[end])
            end += 1
        bounds = np.cumsum([0] + [len(values) for values in sets[first:end]], dtype=np.int64)
        out[first:end] = _signatures(
            np.concatenate(sets[first:end]), bounds, *permutations(count, seed, scheme), scheme
        )
        first = end
    return out


def _signatures(values: Keys, bounds: Ints, a: Keys, b: Keys, scheme: Scheme) -> Keys:
    if scheme == "legacy":
        out = np.empty((len(bounds) - 1, len(a)), dtype=np.uint64)
        _legacy_minima(values & _LOW, bounds, a, b, out)
        return out
    fours = -len(a) % 4
    a, b, count = np.pad(a, (0, fours)), np.pad(b, (0, fours)), len(a)
    out = np.empty((len(bounds) - 1, len(a)), dtype=np.uint64)
    if scheme == "affine64":
        _minima(mix64(values), bounds, a, b, out)
        return out[:, :count]
    _minima(_mix32(values), bounds, a << _HALF, b << _HALF, out)  # 32-bit arithmetic in the upper halves of 64 bits
    return out[:, :count] >> _HALF


def _mix32(values: Keys) -> Keys:
    """MurmurHash3's 32-bit finaliser (`fmix32`, Appleby) of the lower halves."""
    low = (values & _LOW).astype(np.uint32)
    low ^= low >> np.uint32(16)
    low *= np.uint32(0x85EBCA6B)
    low ^= low >> np.uint32(13)
    low *= np.uint32(0xC2B2AE35)
    low ^= low >> np.uint32(16)
    return low.astype(np.uint64)


@kernel
def _minima(values: Keys, bounds: Ints, a: Keys, b: Keys, out: Keys) -> None:
    """The least a * x + b of each set under each permutation, whose number is a multiple of four.

    Four permutations stay in registers while the values stream by, several at a time. (`min` instead of the comparison, or a mask,
    halves the speed.)
    """
    for row in range(len(bounds) - 1):
        some = values[bounds[row] : bounds[row + 1]]
        for column in range(0, len(a), 4):
            a0, a1, a2, a3 = a[column], a[column + 1], a[column + 2], a[column + 3]
            b0, b1, b2, b3 = b[column], b[column + 1], b[column + 2], b[column + 3]
            least0 = least1 = least2 = least3 = np.uint64(0xFFFFFFFFFFFFFFFF)
            for at in range(len(some)):
                value = some[at]
                permuted = value * a0 + b0
                least0 = permuted if permuted < least0 else least0
                permuted = value * a1 + b1
                least1 = permuted if permuted < least1 else least1
                permuted = value * a2 + b2
                least2 = permuted if permuted < least2 else least2
                permuted = value * a3 + b3
                least3 = permuted if permuted < least3 else least3
            out[row, column], out[row, column + 1] = least0, least1
            out[row, column + 2], out[row, column + 3] = least2, least3


@kernel
def _legacy_minima(values: Keys, bounds: Ints, a: Keys, b: Keys, out: Keys) -> None:
    """As datasketch before 2.0: (a * x + b mod 2**64) mod 2**61 - 1, its lower 32 bits."""
    for row in range(len(bounds) - 1):
        for column in range(len(a)):
            least = _LOW
            for at in range(bounds[row], bounds[row + 1]):
                least = min(least, (values[at] * a[column] + b[column]) % _MERSENNE & _LOW)
            out[row, column] = least


def band_keys(signature: np.ndarray, bands: int, scope: np.ndarray) -> np.ndarray:
    """128-bit keys, (documents, bands, 2) uint64: equal where a band's number, all its rows and the scope (uint64) are.

    `signature` is (documents, bands * rows).
    """
    documents = len(signature)
    rows = signature.reshape(documents, bands, -1)
    number = np.broadcast_to(np.arange(bands, dtype=np.uint64), (documents, bands))
    scopes = np.broadcast_to(scope[:, None], (documents, bands))
    return hash_columns(number, scopes, *(rows[:, :, row] for row in range(rows.shape[2])))


def agreement(values: Keys, bounds: Ints, first: Ints, second: Ints) -> np.ndarray:
    """The share of equal values in pairs of signatures: an estimate of the Jaccard similarity of their sets.

    Signature s is `values[bounds[s]:bounds[s + 1]]`, all of one length n; the standard error is sqrt(s * (1 - s) / n).
    """
    found: np.ndarray = _agreement(values, bounds, first, second)
    return found


@kernel
def _agreement(values: Keys, bounds: Ints, first: Ints, second: Ints) -> Any:
    found = np.empty(len(first), np.float64)
    for pair in range(len(first)):
        a, b = bounds[first[pair]], bounds[second[pair]]
        length = bounds[first[pair] + 1] - a
        equal = 0
        for at in range(length):
            equal += values[a + at] == values[b + at]
        found[pair] = equal / length
    return found


def candidate_probability(similarity: float | np.ndarray, bands: int, rows: int) -> Any:
    """The probability that a pair of that Jaccard similarity shares a band (Leskovec, Rajaraman and Ullman, section 3.4)."""
    return 1 - (1 - similarity**rows) ** bands


@cache
def best_bands(threshold: float, count: int) -> tuple[int, int]:
    """Bands and rows, of at most `count` permutations, with the least sum of the areas of false candidates and false misses.

    The choice of `datasketch.MinHashLSH(threshold, count)`, whose weights are equal by default.
    """
    from datasketch import MinHashLSH

    chosen = MinHashLSH(threshold=threshold, num_perm=count)
    return chosen.b, chosen.r
