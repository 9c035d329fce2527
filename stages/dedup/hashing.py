"""Vectorised 64- and 128-bit hashing of integer columns."""

from __future__ import annotations

import numpy as np

_SHIFT = np.uint64(33)
_FIRST, _SECOND = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)
_LANES = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD1B54A32D192ED03))  # two starts, two independent halves of a key


def mix(values: np.ndarray) -> np.ndarray:
    """MurmurHash3's 64-bit finaliser (`fmix64`, Appleby): a bijection of uint64 in which every bit reaches every bit."""
    values = values ^ (values >> _SHIFT)
    values *= _FIRST
    values ^= values >> _SHIFT
    values *= _SECOND
    values ^= values >> _SHIFT
    return values


def hash_columns(*columns: np.ndarray) -> np.ndarray:
    """A 128-bit hash of each row of equally shaped uint64 columns, as (..., 2) uint64; the order of columns counts."""
    lanes = []
    for start in _LANES:
        state = np.full(columns[0].shape, start, dtype=np.uint64)
        for column in columns:
            state = mix(state ^ column)
        lanes.append(state)
    return np.stack(lanes, axis=-1)
