from __future__ import annotations

import random
import sys

import numpy as np
import pytest
from datasketch import MinHash

from stages.dedup import shingles as module
from stages.dedup.hashing import hash_columns
from stages.dedup.minhash import band_keys, signatures
from stages.dedup.shingles import jaccard, shingles
from stages.words import lower_words

ODD = [
    "",
    " ",
    "!?",
    "one",
    "One TWO",
    "a b c d e",
    "a b c d e f",
    "snake_case 3.14 naïve İstanbul ΣΑΣ ὈΔΥΣΣΕΎΣ ﬁne",
    "日本語のテキストは空白がない。次の文",
    "नमस्ते दुनिया ไทยไม่มีช่องว่าง",
    "nul\x00byte\udc80lone\ud800surrogate end",
    "\U0001d7d8\U0001d7d9 ½ ² 𐐀𐐁 emoji 👍🏽 x",
    "word",
    "-" * 50,
]


def reference(text: str, ngram: int) -> set[tuple[str, ...]]:
    words = lower_words(text)
    return {tuple(words[i : i + ngram]) for i in range(max(1, len(words) - ngram + 1))} if words else set()


def assert_same_sets(texts: list[str], ngram: int) -> None:
    """Hashes stand for n-grams one to one, within and across texts."""
    found = list(shingles(texts, ngram))
    assert len(found) == len(texts)
    by_hash = {}
    for text, values in zip(texts, found, strict=True):
        expected = reference(text, ngram)
        assert values.dtype == np.uint64 and (np.diff(values.astype(object)) > 0).all()
        assert len(values) == len(expected), text[:100]
        by_hash[text] = (set(values.tolist()), expected)
    for mine, theirs in by_hash.values():
        for other, expected in by_hash.values():
            assert len(mine & other) == len(theirs & expected)


@pytest.mark.parametrize("ngram", [1, 2, 5])
def test_shingles_are_the_word_ngrams_of_lower_words(ngram):
    rng = random.Random(4)
    alphabet = "aab cB_9é日本 .\n-Σİ\x00"
    texts = ODD + ["".join(rng.choices(alphabet, k=rng.randint(0, 300))) for _ in range(60)]
    assert_same_sets(texts, ngram)


def test_every_code_point_is_in_a_word_or_between_as_for_the_regular_expression():
    every = [chr(point) for point in range(sys.maxunicode + 1)]
    in_word = np.array([bool(module.WORD.fullmatch(char)) for char in every])
    assert np.array_equal(module._character_values() != 0, in_word)


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64])
def test_chunks_cut_words_without_a_trace(monkeypatch, chunk):
    texts = [*ODD, "unspaced" * 40 + " end", "x" * 100]
    expected = [values.tolist() for values in shingles(texts, 3)]
    monkeypatch.setattr(module, "CHUNK", chunk)
    assert [values.tolist() for values in shingles(texts, 3)] == expected


def test_words_longer_than_the_table_of_multipliers_are_hashed_in_full():
    long = "x" * 200_000
    assert_same_sets([long, long[:-1], long[:-1] + "y", "y" + long[1:], long + "x", "a " + long], 2)


def test_words_that_differ_in_order_or_cut_differ():
    assert_same_sets(["ab c", "a bc", "c ab", "ba c", "abc", "a b c", "aa bb", "bb aa", "aabb", "abab", "baba"], 2)


def test_signatures_equal_datasketch():
    rng = np.random.default_rng(0)
    sets = [np.unique(rng.integers(0, 2**64, size, dtype=np.uint64)) for size in (1, 2, 5, 1000, 40_000, 3)]
    found = signatures(sets, 112, seed=7)
    for values, signature in zip(sets, found, strict=True):
        theirs = MinHash(112, seed=7, hashfunc=int, scheme="affine64")
        theirs.update_batch(values.tolist())
        assert np.array_equal(theirs.hashvalues, signature)
    assert signatures([], 112, seed=7).shape == (0, 112)


def test_signatures_estimate_jaccard():
    shared = np.arange(8000, dtype=np.uint64)
    a, b = signatures([shared, shared[2000:]], 2000, seed=1)
    assert abs((a == b).mean() - 0.75) < 0.04


def test_band_keys_are_equal_where_band_scope_and_rows_are():
    signature = np.arange(24, dtype=np.uint64).reshape(1, 24).repeat(3, axis=0)
    signature[1, 5] = 99
    keys = band_keys(signature, 6, np.array([1, 1, 2], dtype=np.uint64))
    assert keys.shape == (3, 6, 2)
    assert (keys[0] == keys[1]).all(axis=1).tolist() == [True, False, True, True, True, True]
    assert not (keys[0] == keys[2]).any()
    same_rows = band_keys(np.ones((1, 24), dtype=np.uint64), 6, np.zeros(1, dtype=np.uint64))
    assert len({key.tobytes() for key in same_rows[0]}) == 6


def test_hash_columns_depends_on_the_order_of_columns():
    a, b = np.array([1, 2], dtype=np.uint64), np.array([2, 1], dtype=np.uint64)
    keys = hash_columns(a, b)
    assert len({key.tobytes() for key in (*keys, *hash_columns(a, a))}) == 4
    assert not (keys[:, 0] == keys[:, 1]).any()


def test_jaccard_of_sorted_sets():
    rng = random.Random(1)
    for _ in range(200):
        a = set(rng.sample(range(30), rng.randint(1, 20)))
        b = set(rng.sample(range(30), rng.randint(0, 20)))
        arrays = [np.array(sorted(values), dtype=np.uint64) for values in (a, b)]
        assert jaccard(*arrays) == jaccard(*reversed(arrays)) == len(a & b) / len(a | b)
    top = np.array([2**64 - 1], dtype=np.uint64)
    assert jaccard(top, top) == 1.0
