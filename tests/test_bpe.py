"""Merges learned from counts: those of tokenizers' BpeTrainer, those of a textbook, and what the library cannot count."""

import json
import os
import random
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers

from tests.tokens_corpus import ARTICLES, NASTY, python_texts
from tokenizer_training.config import TokenizerError
from tokenizer_training.vocabulary.bpe import BYTES_BY_ID, token_bytes, train_bpe
from tokenizer_training.vocabulary.byte_level import CHARACTER_OF_BYTE
from tokenizer_training.vocabulary.special import SPECIAL_TOKENS

SEPARATOR = "\ue000"
FIRST = len(SPECIAL_TOKENS)


def table_of(counter):
    """Words (bytes) and their counts as the three arrays."""
    words = list(counter)
    offsets = np.zeros(len(words) + 1, np.int64)
    np.cumsum([len(word) for word in words], out=offsets[1:])
    return np.frombuffer(b"".join(words), np.uint8), offsets, np.array([counter[word] for word in words], np.int64)


def ours(counter, vocab_size, min_frequency=2, longest=None, special_tokens=SPECIAL_TOKENS):
    made = train_bpe(*table_of(counter), vocab_size, min_frequency, longest, special_tokens)
    return [tuple(pair) for pair in made.tolist()]


def library(counter, vocab_size, min_frequency=2, longest=None):
    """The merges of tokenizers' trainer, fed each word as often as it counts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Split(SEPARATOR, "removed")

    def texts():
        for word, count in counter.items():
            spelled = "".join(CHARACTER_OF_BYTE[byte] for byte in word)
            for done in range(0, count, 1000):
                yield SEPARATOR.join([spelled] * min(1000, count - done))

    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=None if longest is None else longest + 1,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(), trainer)
    ids = tokenizer.get_vocab()
    return [(ids[a], ids[b]) for a, b in json.loads(tokenizer.to_str())["model"]["merges"]]


def textbook(counter, merges, min_frequency=2, longest=10**9):
    """The definition, counted anew for every merge."""
    rank = {byte: FIRST + number for number, byte in enumerate(BYTES_BY_ID.tolist())}
    words = [([rank[byte] for byte in word], count) for word, count in counter.items()]
    width = dict.fromkeys(rank.values(), 1)
    made = []
    while len(made) < merges:
        pairs = Counter()
        for word, count in words:
            for pair in pairwise(word):
                if width[pair[0]] + width[pair[1]] <= longest:
                    pairs[pair] += count
        best = min(pairs, key=lambda pair: (-pairs[pair], pair), default=None)
        if best is None or pairs[best] < min_frequency:
            break
        token = FIRST + 256 + len(made)
        width[token] = width[best[0]] + width[best[1]]
        made.append(best)
        for word, _ in words:
            at = 0
            while at < len(word) - 1:
                if (word[at], word[at + 1]) == best:
                    word[at : at + 2] = [token]
                at += 1
    return made


def cut_words(texts):
    return Counter(word.encode() for text in texts for word in re.findall(r" ?\w+|\s+|[^\w\s]+", text))


def invented(letters, seed, words=4000, occurrences=60_000):
    """Words over an alphabet whose frequencies fall as in a language."""
    generator = random.Random(seed)
    pieces = ["".join(generator.choices(letters, k=generator.choice([1, 1, 2, 2, 3]))) for _ in range(300)]
    lexicon = ["".join(generator.choices(pieces, k=generator.choice([1, 2, 2, 3]))) for _ in range(words)]
    weights = [1 / (rank + 1) for rank in range(words)]
    return Counter(word.encode() for word in generator.choices(lexicon, weights, k=occurrences))


def stretch(first, last):
    return "".join(chr(code) for code in range(ord(first), ord(last) + 1))


def noise(seed, size=60_000):
    generator = random.Random(seed)
    data = bytes(generator.choices(range(256), [1 + 200 / (byte + 1) for byte in range(256)], k=size))
    words, at = Counter(), 0
    while at < size:
        length = generator.randrange(1, 40)
        words[data[at : at + length]] += 1
        at += length
    return words


CORPORA = {
    "latin": lambda: invented(stretch("a", "z") + "éüñß", 1),
    "chinese": lambda: invented(stretch("一", "俿"), 2),
    "russian": lambda: invented(stretch("а", "я"), 3),
    "arabic": lambda: invented(stretch("ء", "ي"), 4),
    "code": lambda: cut_words(python_texts(30, 20_000)),
    "spaces": lambda: Counter(
        {(a * i + b * j).encode(): 1 + i * j % 7 for a in " \n" for b in "\t x" for i in range(1, 30) for j in range(9)}
    ),
    "noise": lambda: noise(5),
    "tiny": lambda: Counter({b"ab": 1, b"a": 3, b"": 4, b"aaa": 2}),
    "nasty": lambda: cut_words(NASTY + list(ARTICLES.values())),
    "ties": lambda: Counter({bytes([97 + i, 97 + j, 97 + k]): 5 for i in range(9) for j in range(9) for k in range(9)}),
    "one letter": lambda: Counter({b"a" * n: 1 + n % 4 for n in range(1, 90)}),
    "none": lambda: Counter(),
}


@pytest.mark.parametrize("name", CORPORA)
def test_merges_are_those_of_the_library(name):
    words = CORPORA[name]()
    for vocab_size, least, longest in [(327, 2, None), (400, 1, None), (1500, 2, 6), (6000, 2, None), (6000, 9, 3)]:
        made = ours(words, vocab_size, least, longest)
        assert made == library(words, vocab_size, least, longest), (vocab_size, least, longest)
        assert made or name == "none" or least == 9


def test_merges_are_those_of_the_library_at_32k():
    root = Path(os.__file__).parent
    files = [
        *sorted(root.glob("*.py"))[:60],
        *sorted((root / "asyncio").glob("*.py")),
        *sorted((root / "email").glob("*.py")),
    ]
    words = cut_words([file.read_text("utf-8", "replace") for file in files])
    words += invented(stretch("一", "俿"), 6, 20_000, 200_000) + invented(stretch("а", "я"), 7, 20_000, 200_000)
    made = ours(words, 32_768)
    assert len(made) == 32_768 - 326 and made == library(words, 32_768)
    assert ours(words, 8192) == made[: 8192 - 326]


@pytest.mark.parametrize("seed", range(60))
def test_merges_are_those_of_the_definition(seed):
    generator = random.Random(seed)
    letters = "abcdefgh"[: generator.choice([1, 2, 2, 3, 8])].encode()
    words = Counter()
    for _ in range(generator.choice([1, 5, 40])):
        words[bytes(generator.choices(letters, k=generator.choice([0, 1, 2, 5, 30])))] += generator.choice([0, 1, 2, 9])
    least, longest = generator.choice([1, 2, 4]), generator.choice([1, 2, 3, 5, 1000])
    assert ours(words, 326 + 50, least, longest) == textbook(words, 50, least, longest)


def test_a_pair_seen_more_than_two_billion_times_is_merged():
    # tokenizers counts pairs in 32 bits, overflows, and drops such a pair without a word
    # (benchmarks/tokens/training.py --overflow shows it)
    words = Counter({b"ab": 2_200_000_000, b"cd": 5, b"abab": 2**60})
    assert ours(words, 330)[:3] == textbook(words, 3)
    assert token_bytes(np.array(ours(words, 330)))[326] == b"ab"
    with pytest.raises(TokenizerError, match="at most 2\\^63 - 1 can be counted"):
        ours(Counter({b"ab": 2**62, b"abc": 2**61}), 330)


def test_broken_tables_are_refused():
    with pytest.raises(TokenizerError, match="count -1; expected 0 or more"):
        ours({b"ab": -1}, 330)
    data, offsets, counts = table_of(Counter({b"ab": 3, b"c": 2}))
    for wrong in ((data, offsets[:-1], counts), (data[:-1], offsets, counts), (data, offsets[::-1].copy(), counts)):
        with pytest.raises(TokenizerError, match="does not fit together"):
            train_bpe(*wrong, 330)


@pytest.mark.timeout(60)
def test_a_word_of_a_megabyte_takes_no_longer_than_its_bytes():
    long = bytes(random.Random(1).choices(b"ab", k=1_000_000))
    made = ours(Counter({long: 1, b"ab" * 3: 2, b"a" * 1_000_000: 1}), 326 + 200)
    assert len(made) == 200


def test_no_token_spells_a_special_token():
    special = (*SPECIAL_TOKENS, "<x>", "abcd")
    words = Counter({b"<x>": 9, b"abcd": 8, b"abcdabcd": 7, b"x>": 6})
    made = ours(words, 326 + 2 + 30, special_tokens=special)
    tokens = token_bytes(np.array(made), special)[len(special) :]
    assert b"<x>" not in tokens and b"abcd" not in tokens
    assert b"x>" in tokens and len(set(tokens)) == len(tokens)


def test_the_order_of_words_and_split_counts_do_not_matter():
    words = CORPORA["code"]()
    expected = ours(words, 2000)
    pairs = [(word, count) for word, count in words.items()]
    random.Random(1).shuffle(pairs)
    assert ours(dict(pairs), 2000) == expected
    data, offsets, counts = table_of(words)
    halves = counts // 2
    joined = (
        np.concatenate([data, data]),
        np.concatenate([offsets, offsets[1:] + len(data)]),
        np.concatenate([halves, counts - halves]),
    )
    assert [tuple(pair) for pair in train_bpe(*joined, 2000).tolist()] == expected
