from __future__ import annotations

import random
import sys

import numpy as np
import pytest
from datasketch import MinHash

from stages.batch import encoded
from stages.dedup import shingles as module
from stages.dedup.hashing import hash_columns
from stages.dedup.minhash import band_keys, candidate_probability, permutations, signatures
from stages.dedup.shingles import jaccard, shingles, similarities
from tests.shingle_twin import shingle_set

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


def assert_same_sets(texts: list[str], ngram: int, letters: bool = False) -> None:
    """Hashes stand for n-grams one to one, within and across texts."""
    found = list(shingles(texts, ngram, letters))
    assert len(found) == len(texts)
    by_hash = {}
    for text, values in zip(texts, found, strict=True):
        expected = shingle_set(text, ngram, letters)
        assert values.dtype == np.uint64 and len(set(values.tolist())) == len(values) and 0 not in values
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
    assert_same_sets(texts, ngram, letters=True)


def test_every_code_point_is_in_a_word_or_between_as_for_the_regular_expression():
    every = [chr(point) for point in range(sys.maxunicode + 1)]
    in_word = np.array([bool(module._WORD.fullmatch(char)) for char in every])
    for letters in (False, True):
        kinds = module._kinds(letters)
        assert np.array_equal(kinds != 0, in_word)
        assert {kinds[ord(letter)] for letter in "字かไລမក々"} == {2 if letters else 1}
        assert {kinds[ord(letter)] for letter in "aéйカ한अ٣๑_"} == {1}


def test_what_stands_around_a_text_does_not_matter(monkeypatch):
    texts = [*ODD, "unspaced" * 40 + " end", "x" * 100]
    expected = [values.tolist() for values in shingles(texts, 3)]
    for chunk in (1, 30, 200):
        monkeypatch.setattr(module, "CHUNK", chunk)
        assert [values.tolist() for values in shingles(texts, 3)] == expected


def test_long_words_are_hashed_in_full():
    long = "x" * 200_000
    assert_same_sets([long, long[:-1], long[:-1] + "y", "y" + long[1:], long + "x", "a " + long], 2)


def test_the_compiled_loop_is_the_plain_one():
    data, bounds = encoded([*ODD, "a b c d e f g a b c d e"])
    compiled = module._shingles(data, bounds, module._kinds(True), 3)
    with np.errstate(over="ignore"):
        plain = module._shingles.py_func(data, bounds, module._kinds(True), 3)
    assert all(np.array_equal(a, b) for a, b in zip(compiled, plain, strict=True))


def test_words_that_differ_in_order_or_cut_differ():
    assert_same_sets(["ab c", "a bc", "c ab", "ba c", "abc", "a b c", "aa bb", "bb aa", "aabb", "abab", "baba"], 2)


@pytest.mark.parametrize("scheme", ["affine64", "affine32", "legacy"])
@pytest.mark.parametrize(("count", "seed"), [(1, 0), (112, 1), (300, 2**32 - 1)])
def test_permutations_are_those_of_datasketch(scheme, count, seed):
    theirs = MinHash(count, seed=seed, scheme=scheme).permutations
    assert all(np.array_equal(a, b) for a, b in zip(permutations(count, seed, scheme), theirs, strict=True))


@pytest.mark.parametrize("scheme", ["affine64", "affine32", "legacy"])
def test_signatures_equal_datasketch(scheme, monkeypatch):
    rng = np.random.default_rng(0)
    sets = [np.unique(rng.integers(0, 2**64, size, dtype=np.uint64)) for size in (1, 2, 5, 1000, 40_000, 3)]
    monkeypatch.setattr("stages.dedup.minhash.BLOCK", 2000)
    found = signatures(sets, 112, seed=7, scheme=scheme)
    width = (lambda value: value) if scheme == "affine64" else (lambda value: value & 0xFFFFFFFF)
    for values, signature in zip(sets, found, strict=True):
        theirs = MinHash(112, seed=7, hashfunc=width, scheme=scheme)
        theirs.update_batch(values.tolist())
        assert np.array_equal(theirs.hashvalues, signature)
    assert signatures([], 112, seed=7).shape == (0, 112)


def test_the_probability_of_a_candidate():
    assert candidate_probability(0.8, 14, 8) == pytest.approx(0.924, abs=0.001)  # FineWeb's figure for its bands
    assert candidate_probability(np.array([0.0, 1.0]), 9, 13).tolist() == [0, 1]


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


def test_jaccard():
    rng = random.Random(1)
    sets = []
    for _ in range(200):
        a = set(rng.sample(range(1, 30), rng.randint(1, 20)))
        b = set(rng.sample(range(1, 30), rng.randint(0, 20)))
        sets += [a, b]
        arrays = [np.array(list(values), dtype=np.uint64) for values in (a, b)]
        assert jaccard(*arrays) == len(a & b) / len(a | b)
    top = np.array([2**64 - 1], dtype=np.uint64)
    assert jaccard(top, top) == 1.0
    first, second = rng.choices(range(0, 400, 2), k=500), rng.choices(range(400), k=500)
    values = np.array([value for one in sets for value in one], dtype=np.uint64)
    bounds = np.cumsum([0] + [len(one) for one in sets])
    expected = [len(sets[a] & sets[b]) / len(sets[a] | sets[b]) for a, b in zip(first, second, strict=True)]
    assert similarities(values, bounds, np.array(first), np.array(second)).tolist() == expected
