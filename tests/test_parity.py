"""Parity-aware merges: those of the definition, those of the library but for its ties, and languages treated more alike."""

import json
import random
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from tests.test_bpe import FIRST, invented, ours, stretch, table_of
from tokenizer_training.config import TokenizerError
from tokenizer_training.vocabulary.bpe import BYTES_BY_ID, token_bytes
from tokenizer_training.vocabulary.byte_level import CHARACTER_OF_BYTE
from tokenizer_training.vocabulary.parity import Table, gini, train_parity

RANK = {byte: FIRST + number for number, byte in enumerate(BYTES_BY_ID.tolist())}


def corpus(seed, sizes=(60, 40, 20), most=(9000, 900, 90)):
    generator = random.Random(seed)
    alphabets = {"en": stretch("a", "z"), "ru": stretch("а", "я"), "zh": stretch("一", "俿")}
    return {
        name: Counter(
            {word: generator.randrange(1, top) for word in list(invented(letters, seed + at, 300, 3000))[:size]}
        )
        for at, ((name, letters), size, top) in enumerate(zip(alphabets.items(), sizes, most, strict=True))
    }


def tables(words):
    return {name: Table(*table_of(counter)) for name, counter in words.items()}


def textbook(words, merges, min_frequency=2, development=None, smaller_first=True):
    """The definition: the worst language's best pair, counted anew for every merge."""
    text = {name: [([RANK[b] for b in word], n) for word, n in counter.items()] for name, counter in words.items()}
    tests = text
    if development is not None:
        tests = {name: [([RANK[b] for b in w], n) for w, n in counter.items()] for name, counter in development.items()}
    size = {name: sum(len(word) * n for word, n in tests[name]) for name in tests}
    active = sorted(text)
    made = []
    while len(made) < merges and active:
        tokens = {name: sum(len(word) * n for word, n in tests[name]) for name in tests}
        if development is not None:
            worst = max(active, key=lambda name: tokens[name])
        else:
            worst = min(active, key=lambda name: size[name] / tokens[name])
        pairs = Counter()
        for word, n in text[worst]:
            for pair in pairwise(word):
                pairs[pair] += n
        order = 1 if smaller_first else -1
        best = min(pairs, key=lambda pair: (-pairs[pair], order * pair[0], order * pair[1]), default=None)
        if best is None or pairs[best] < min_frequency:
            active.remove(worst)
            continue
        token = FIRST + 256 + len(made)
        made.append(best)
        for one in [*text.values(), *(tests.values() if tests is not text else ())]:
            for word, _ in one:
                at = 0
                while at < len(word) - 1:
                    if (word[at], word[at + 1]) == best:
                        word[at : at + 2] = [token]
                    at += 1
    return made


def parity(words, vocab_size, *arguments, **knobs):
    return [tuple(pair) for pair in train_parity(tables(words), vocab_size, *arguments, **knobs).tolist()]


@pytest.mark.parametrize("seed", range(4))
def test_merges_are_those_of_the_definition(seed):
    words = corpus(seed)
    assert parity(words, 326 + 150) == textbook(words, 150)
    assert parity(words, 326 + 400, 40) == textbook(words, 400, 40)
    held_back = {name: Counter({word: 1 + n % 3 for word, n in counter.items()}) for name, counter in words.items()}
    made = parity(words, 326 + 150, development=tables(held_back))
    assert made == textbook(words, 150, development=held_back) != parity(words, 326 + 150)


def library(words, merges, development=None):
    """ParityBpeTrainer on the same words: balanced by bytes to a token, or on a development set."""
    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split("\n", "removed"), byte_level])

    def texts(counters):
        return [["\n".join([word.decode()] * n) for word, n in counters[name].items()] for name in sorted(counters)]

    known = {} if development is None else {"dev_iterators": texts(development)}
    trainer = trainers.ParityBpeTrainer(
        num_merges=merges, min_frequency=2, ratio=None if development else [1.0] * len(words)
    )
    trainer.train_from_iterator(tokenizer, train_iterators=texts(words), **known)
    return [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]


def spelled(merges):
    tokens = ["".join(CHARACTER_OF_BYTE[byte] for byte in token) for token in token_bytes(np.array(merges))]
    return [(tokens[left], tokens[right]) for left, right in merges]


@pytest.mark.parametrize("seed", range(4))
def test_merges_are_those_of_the_library_where_no_counts_are_equal(seed):
    generator = random.Random(seed)
    words = {
        name: Counter(
            {
                bytes(generator.choices(letters, k=generator.randrange(2, 7))): generator.randrange(1, most)
                for _ in range(300)
            }
        )
        for name, letters, most in [("aa", b"abcdef", 3000), ("bb", b"ghijk", 2000), ("cc", b"lmnop", 900)]
    }
    held_back = {name: Counter({word: 1 + n % 7 for word, n in counter.items()}) for name, counter in words.items()}
    for development in (None, held_back):
        made = parity(words, 326 + 45, development=development and tables(development))
        assert made == textbook(words, 45, development=development, smaller_first=False)  # so there were no ties
        assert spelled(made) == library(words, 45, development)


def test_languages_are_treated_more_alike():
    words = {
        "en": invented(stretch("a", "z"), 1, 3000, 60_000),
        "ru": invented(stretch("а", "я"), 2, 3000, 6000),
        "hi": invented(stretch("अ", "ह"), 3, 3000, 600),
    }

    def tokens_to_a_byte(merges):
        found = []
        for counter in words.values():
            left = textbook_length(counter, merges)
            found.append(left / sum(len(word) * n for word, n in counter.items()))
        return found

    plain = ours(sum(words.values(), Counter()), 326 + 400)
    fair = parity(words, 326 + 400)
    assert gini(tokens_to_a_byte(fair)) < 0.3 * gini(tokens_to_a_byte(plain))
    half = parity(words, 326 + 400, share=0.5)
    assert half[:200] == plain[:200] and half[200:] != plain[200:]
    assert gini(tokens_to_a_byte(half)) < gini(tokens_to_a_byte(plain))


def textbook_length(counter, merges):
    """Tokens that a table has after merges, made one by one."""
    ranks = {pair: FIRST + 256 + number for number, pair in enumerate(merges)}
    total = 0
    for word, n in counter.items():
        ids = [RANK[byte] for byte in word]
        while True:
            best = min((ranks.get(pair, 10**9) for pair in pairwise(ids)), default=10**9)
            if best == 10**9:
                break
            at = next(i for i, pair in enumerate(pairwise(ids)) if ranks.get(pair) == best)
            ids[at : at + 2] = [best]
        total += len(ids) * n
    return total


def test_gini():
    assert gini([1, 1, 1]) == 0 == gini([]) == gini([0, 0])
    assert gini([0, 0, 1]) == pytest.approx(2 / 3)


def test_one_language_is_plain_bpe_and_none_is_nothing():
    words = corpus(5)["en"]
    assert parity({"en": words}, 700) == ours(words, 700)
    assert parity({}, 700) == []
    assert parity({"en": Counter()}, 700) == []
    assert parity({"en": words, "xx": Counter()}, 700) == ours(words, 700)


def test_a_development_set_of_other_languages_is_refused():
    words = corpus(5)
    with pytest.raises(
        TokenizerError, match="the development set has en; expected the languages of the counts, en, ru, zh"
    ):
        parity(words, 500, development=tables({"en": words["en"]}))
