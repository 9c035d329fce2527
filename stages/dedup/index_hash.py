"""What an index holds of a document: keys of its LSH bands, a short MinHash signature, a 128-bit hash of the text.

A stored signature has one byte for each permutation: the top 8 bits of the mixed 64-bit minimum (b-bit minwise hashing, Li and
König 2010, with b = 8). Two documents of Jaccard similarity J agree in a byte with probability J + (1 - J) / 256, so that
`estimate` is unbiased, with standard error sqrt(P * (1 - P) / permutations) * 256 / 255, P being that probability.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, model_validator
from xxhash import xxh3_64_intdigest, xxh3_128_intdigest

from stages.dedup.hashing import mix
from stages.dedup.minhash import band_keys, signatures
from stages.dedup.shingles import shingles
from stages.stage import knob

CHANCE = 1 / 256  # that bytes of two different minima agree
SCHEME = "datasketch affine64, top byte of fmix64"  # how signatures are made; an index of another scheme is refused


class IndexParameters(BaseModel):
    """How documents are hashed for an index; two indexes are comparable where all of these are equal."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ngram: int = knob(
        5,
        "words in a shingle; a shorter document is one shingle",
        "FineWeb (Penedo et al. 2024), on deduplication: 5-grams",
        ge=1,
        le=100,
    )
    bands: int = knob(
        14,
        "LSH bands; a document of similarity s to one in the index is compared with it with probability 1 - (1 - s^rows)^bands",
        "FineWeb: 14 by 8",
        ge=1,
        le=1000,
    )
    rows: int = knob(8, "MinHash values in a band", "FineWeb: 14 by 8", ge=1, le=100)
    permutations: int = knob(
        256,
        "MinHash values kept of each document, a byte each, by which similarity is estimated: at least bands times rows; the"
        " standard error at similarity 0.8 is 0.4 / sqrt(permutations)",
        "b-bit minwise hashing (Li and König 2010), b = 8",
        ge=8,
        le=65536,
        multiple_of=8,
    )
    seed: int = knob(1, "seed of datasketch's permutations", "datasketch's default", ge=0, le=2**32 - 1)
    scope: Literal["source", "global"] = knob(
        "global", "source: a document is compared only with those of an input source of the same name; global: with all"
    )

    @model_validator(mode="after")
    def _bands_fit(self) -> IndexParameters:
        if self.permutations < self.bands * self.rows:
            raise ValueError(
                f"permutations: bands times rows ({self.bands * self.rows}) are needed at least, got {self.permutations}"
            )
        return self


class Hashed(NamedTuple):
    """The documents of a batch that have a text."""

    kept: np.ndarray  # (n,) int64: their rows in the batch; blank texts are left out
    exact: np.ndarray  # (n, 2) uint64: the text's hash, whitespace normalised
    worded: np.ndarray  # (m,) int64: which of the n have words, and so bands and a signature
    bands: np.ndarray  # (m, bands) uint64
    signatures: np.ndarray  # (n, permutations) uint8; zero for those without words


def hash_documents(texts: Sequence[str], sources: Sequence[Any], parameters: IndexParameters) -> Hashed:
    """Hash texts as `parameters` say. `sources` (strings or None, one a text) matter with scope `source` alone."""
    kept, exact = [], []
    for row, text in enumerate(texts):
        plain = " ".join(text.split())
        if not plain:
            continue
        source = _encoded(sources[row] or "") if parameters.scope == "source" else b""
        # the length in front keeps (source "a", text "bc") apart from ("ab", "c")
        whole = xxh3_128_intdigest(len(source).to_bytes(8, "little") + source + _encoded(plain))
        kept.append(row)
        exact.append((whole >> 64, whole & (2**64 - 1)))
    sets = list(shingles([texts[row] for row in kept], parameters.ngram))
    worded = np.array([place for place, values in enumerate(sets) if len(values)], dtype=np.int64)
    narrow = np.zeros((len(kept), parameters.permutations), dtype=np.uint8)
    keys = np.zeros((0, parameters.bands), dtype=np.uint64)
    if len(worded):
        whole_values = signatures([sets[i] for i in worded.tolist()], parameters.permutations, parameters.seed)
        narrow[worded] = narrow_signatures(whole_values)
        scope = np.zeros(len(worded), dtype=np.uint64)
        if parameters.scope == "source":
            named = {name: xxh3_64_intdigest(_encoded(name or "")) for name in {sources[row] for row in kept}}
            scope = np.array([named[sources[kept[i]]] for i in worded.tolist()], dtype=np.uint64)
        used = np.ascontiguousarray(whole_values[:, : parameters.bands * parameters.rows])
        keys = np.ascontiguousarray(band_keys(used, parameters.bands, scope)[:, :, 0])
    return Hashed(np.array(kept, dtype=np.int64), np.array(exact, dtype=np.uint64).reshape(-1, 2), worded, keys, narrow)


def narrow_signatures(values: np.ndarray) -> np.ndarray:
    """Signatures (n, k) uint64 as they are stored: (n, k) uint8."""
    return (mix(values.ravel()) >> np.uint64(56)).astype(np.uint8).reshape(values.shape)


def estimate(same: np.ndarray | int, permutations: int) -> np.ndarray:
    """The Jaccard similarity that `same` equal bytes of `permutations` speak for, 0 to 1."""
    share = np.asarray(same, dtype=np.float64) / permutations
    return np.maximum(0.0, (share - CHANCE) / (1 - CHANCE))


def standard_error(similarity: float, permutations: int) -> float:
    """Standard error of `estimate` at a true similarity."""
    agree = similarity + (1 - similarity) * CHANCE
    return float(np.sqrt(agree * (1 - agree) / permutations) / (1 - CHANCE))


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
