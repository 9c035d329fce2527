"""Where copies of documents stand: the first 64 bits of SHA-256, for a whole column of ids at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from stages.jit import kernel


def _fractions(count: int, root: int) -> list[int]:
    """The first 32 bits of the fractional parts of the square or cube roots of the first primes (FIPS 180-4, 4.2.2 and 5.3.3)."""
    primes: list[int] = []
    number = 2
    while len(primes) < count:
        if all(number % prime for prime in primes):
            primes.append(number)
        number += 1
    found = []
    for prime in primes:
        low, high = 0, 1 << 40  # floor(prime ** (1 / root) * 2 ** 32), exactly
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if middle**root <= prime << (32 * root) else (low, middle)
        found.append(low & 0xFFFFFFFF)
    return found


_START = np.array(_fractions(8, 2), np.uint64)
_ROUNDS = np.array(_fractions(64, 3), np.uint64)
_LOW = np.uint64(0xFFFFFFFF)


@kernel
def _turned(x, by):  # type: ignore[no-untyped-def]
    return ((x >> np.uint64(by)) | (x << np.uint64(32 - by))) & _LOW


@kernel
def _hash64(message, size, w):  # type: ignore[no-untyped-def]
    """The first 64 bits of SHA-256 over `message[:size]`, which is overwritten behind that (FIPS 180-4, 6.2); `w`: uint64[64]."""
    blocks = (size + 8) // 64 + 1
    for at in range(size, blocks * 64):
        message[at] = 0
    message[size] = 128
    for at in range(8):
        message[blocks * 64 - 1 - at] = (size * 8 >> (8 * at)) & 255
    h = _START.copy()
    for block in range(blocks):
        for t in range(16):
            at = block * 64 + 4 * t
            w[t] = (
                np.uint64(message[at]) << np.uint64(24)
                | np.uint64(message[at + 1]) << np.uint64(16)
                | np.uint64(message[at + 2]) << np.uint64(8)
                | np.uint64(message[at + 3])
            )
        for t in range(16, 64):
            a, b = w[t - 15], w[t - 2]
            low = _turned(a, 7) ^ _turned(a, 18) ^ (a >> np.uint64(3))
            high = _turned(b, 17) ^ _turned(b, 19) ^ (b >> np.uint64(10))
            w[t] = (w[t - 16] + low + w[t - 7] + high) & _LOW
        a, b, c, d = h[0], h[1], h[2], h[3]
        e, f, g, i = h[4], h[5], h[6], h[7]
        for t in range(64):
            high = _turned(e, 6) ^ _turned(e, 11) ^ _turned(e, 25)
            first = i + high + ((e & f) ^ ((e ^ _LOW) & g)) + _ROUNDS[t] + w[t]
            low = _turned(a, 2) ^ _turned(a, 13) ^ _turned(a, 22)
            second = low + ((a & b) ^ (a & c) ^ (b & c))
            i, g, f, e = g, f, e, (d + first) & _LOW
            d, c, b, a = c, b, a, (first + second) & _LOW
        h[0], h[1], h[2], h[3] = (h[0] + a) & _LOW, (h[1] + b) & _LOW, (h[2] + c) & _LOW, (h[3] + d) & _LOW
        h[4], h[5], h[6], h[7] = (h[4] + e) & _LOW, (h[5] + f) & _LOW, (h[6] + g) & _LOW, (h[7] + i) & _LOW
    return h[0] << np.uint64(32) | h[1]


@kernel
def _hashes(prefix, data, offsets, rows, copies, longest, out):  # type: ignore[no-untyped-def]
    """Hashes of prefix, NUL, the id of each of `rows` and, where `copies` are not -1, NUL and the copy in decimal."""
    message = np.empty(len(prefix) + longest + 128, np.uint8)
    w = np.empty(64, np.uint64)
    for at in range(len(prefix)):
        message[at] = prefix[at]
    message[len(prefix)] = 0
    digits = np.empty(20, np.uint8)
    for number in range(len(rows)):
        size = len(prefix) + 1
        for at in range(offsets[rows[number]], offsets[rows[number] + 1]):
            message[size] = data[at]
            size += 1
        copy = copies[number]
        if copy >= 0:
            message[size] = 0
            size += 1
            count = 0
            while True:
                digits[count] = 48 + copy % 10
                count += 1
                copy //= 10
                if copy == 0:
                    break
            for at in range(count - 1, -1, -1):
                message[size] = digits[at]
                size += 1
        out[number] = _hash64(message, size, w)


def bytes_and_offsets(column: Any) -> tuple[np.ndarray, np.ndarray]:
    """The UTF-8 of a large_string array without nulls (uint8), and int64 offsets into it, without a copy."""
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    _, offsets, data = column.buffers()
    found = np.frombuffer(offsets, np.int64)[column.offset : column.offset + len(column) + 1]
    return (np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)), found


def hashes(prefix: str, ids: Any, rows: np.ndarray | None = None, copies: np.ndarray | None = None) -> np.ndarray:
    """`documents.hash64(prefix, id)`, or `hash64(prefix, id, copy)`, as uint64: of all ids, or of those at `rows`.

    `ids`: large_string without nulls; `rows`, `copies`: int64 of equal length.
    """
    data, offsets = bytes_and_offsets(ids)
    rows = np.arange(len(ids)) if rows is None else rows
    copies = np.full(len(rows), -1, np.int64) if copies is None else copies
    out = np.empty(len(rows), np.uint64)
    longest = int(np.diff(offsets).max(initial=0))
    _hashes(
        np.frombuffer(prefix.encode(), np.uint8),
        data,
        offsets,
        rows.astype(np.int64),
        copies.astype(np.int64),
        longest,
        out,
    )
    return out
