"""Merges across words: what a chunk is, that any encoder gives what the trainer learned, and that it compresses better."""

import json
import random
from collections import Counter

import numpy as np
import pytest
import regex

from tests.test_bpe import library, ours, table_of
from tests.tokens_corpus import NASTY, python_texts
from tokenizer_training.vocabulary.bpe import byte_ids, token_bytes, train_bpe
from tokenizer_training.vocabulary.chunks import chunk_ends, chunk_rules
from tokenizer_training.vocabulary.config import TokenizerConfig
from tokenizer_training.vocabulary.folder import bpe_tokenizer
from tokenizer_training.vocabulary.merging import replay
from tokenizer_training.vocabulary.pairs import DONE, grow, new_merger
from tokenizer_training.vocabulary.patterns import PATTERNS, split_rules
from tokenizer_training.vocabulary.pretokenize import ends_of
from tokenizer_training.vocabulary.superword import train_superwords

WORDS = [
    "of",
    "the",
    "in",
    "to",
    "and",
    "a",
    "is",
    "that",
    "for",
    "it",
    "was",
    "on",
    "as",
    "with",
    "be",
    "by",
    "at",
    "this",
    "from",
    "which",
    "or",
    "are",
    "not",
    "an",
    "have",
    "Don't",
    "it's",
]


def prose(seed, sentences=1500):
    """Sentences whose words follow one another as in a language: some pairs and triples are common."""
    generator = random.Random(seed)
    lexicon = WORDS + [
        "".join(generator.choices("abcdefghiklmnoprstuv", k=generator.randrange(2, 9))) for _ in range(400)
    ]
    weights = [1 / (rank + 1) for rank in range(len(lexicon))]
    followers = {word: generator.choices(lexicon, weights, k=4) for word in lexicon}
    made = []
    for _ in range(sentences):
        word = generator.choices(lexicon, weights)[0]
        words = []
        for _ in range(generator.randrange(3, 20)):
            words.append(word)
            word = generator.choice(
                followers[word] if generator.random() < 0.7 else generator.choices(lexicon, weights)
            )
        made.append(" ".join(words).capitalize() + generator.choice([".", "!", "?", ", 1984.", ":\n"]))
    return [" ".join(made[at : at + 10]) for at in range(0, sentences, 10)]


TEXTS = prose(1) + python_texts(20) + NASTY


def counted(expression, texts=TEXTS):
    return Counter(piece.encode() for text in texts for piece in regex.findall(expression, text))


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("digits", [None, 1])
def test_a_chunk_is_a_row_of_whole_pretokens(pattern, digits):
    rules = split_rules(pattern, digits)
    chunks = chunk_rules(rules, 3)
    split = bpe_tokenizer(
        TokenizerConfig(pattern=pattern, digits=digits, superword={"words": 3}), np.zeros((0, 2), np.int32)
    ).pre_tokenizer
    longest = 0
    for text in TEXTS:
        pieces = [text[start:stop] for _, (start, stop) in split.pre_tokenize_str(text)]
        assert pieces == regex.findall(chunks.regex, text) and "".join(pieces) == text
        words = regex.findall(rules.regex, text)
        for piece in pieces:
            parts = []
            while sum(map(len, parts)) < len(piece):
                parts.append(words.pop(0))
            assert "".join(parts) == piece and len(parts) <= 3
            longest = max(longest, len(parts))
            for part in parts[1:]:
                assert regex.fullmatch(r" [\p{L}\p{M}]+('\w+)?|'\w+", part)
                assert not regex.search(r"[\p{N}\n.!?:]", piece[len(parts[0]) :])
    assert longest == 3


@pytest.mark.parametrize("pattern", PATTERNS)
def test_compiled_chunks_are_those_of_the_expression(pattern):
    generator = random.Random(4)
    alphabet = [
        *"aAbZéſsStTreEmdlD1² \n\r/.,'_!-",
        "中",
        "ก",
        "\u0301",
        "\u00a0",
        "ǅ",
        "ʰ",
        "   ",
        " a",
        " b",
        "'s",
        "'LL",
    ]
    rules = split_rules(pattern)
    for words in (2, 4):
        chunks = chunk_rules(rules, words)
        for _ in range(400):
            text = "".join(generator.choices(alphabet, k=60))
            ends = chunk_ends(text.encode(), rules, words).tolist()
            assert ends == ends_of(text, chunks).tolist()
        for text in [*TEXTS, "a " * 9000, "a" * 9000 + " b c"]:
            assert chunk_ends(text.encode(), rules, words).tolist() == ends_of(text, chunks).tolist()


def segments(chunks, merges, special):
    """How the trainer's machine cuts each chunk: lists of ids."""
    data, offsets, counts = table_of(chunks)
    machine = new_merger(
        data,
        byte_ids(special),
        offsets,
        np.ones_like(counts),
        np.ones(special + 256, np.int32),
        len(merges),
        1,
        10**9,
        [],
    )
    while (status := replay(machine, merges)) != DONE:
        machine = grow(machine, status)
    found, at = [], 1
    for length in np.diff(offsets).tolist():
        ids = []
        while length > 1 and machine.node[at, 0] >= 0:
            ids.append(int(machine.node[at, 0]))
            at += int(machine.spans[ids[-1]])
        at += length > 1
        found.append(ids)
    return found


@pytest.mark.parametrize(
    ("pattern", "words"), [("llama3", 4), ("gpt2", 2), ("o200k", 4), ("qwen3.5", 8), ("tekken", 3)]
)
def test_the_library_encodes_as_the_trainer_segments(pattern, words):
    config = TokenizerConfig(vocab_size=1600, pattern=pattern, superword={"start": 1200, "words": words})
    first = train_bpe(*table_of(counted(config.rules().regex)), config.first_stage())
    chunks = counted(chunk_rules(config.rules(), words).regex)
    merges = train_superwords(*table_of(chunks), first, config.vocab_size)
    assert len(merges) == 1600 - 326 and np.array_equal(merges[: len(first)], first) and len(first) == 1200 - 326
    tokens = token_bytes(merges)
    assert any(regex.fullmatch(rb" ?\w+( \w+)+", token) for token in tokens[1200:])
    tokenizer = bpe_tokenizer(config, merges)
    tokenizer.encode_special_tokens = True
    spelled = [chunk.decode() for chunk in chunks]
    for ids, encoding in zip(segments(chunks, merges, 70), tokenizer.encode_batch(spelled), strict=True):
        assert ids == encoding.ids or len(encoding.ids) == 1
    plain = bpe_tokenizer(
        TokenizerConfig(vocab_size=1600, pattern=pattern), train_bpe(*table_of(counted(config.rules().regex)), 1600)
    )
    held_back = prose(1, 1800)[150:]
    sizes = [sum(len(e.ids) for e in t.encode_batch(held_back)) for t in (plain, tokenizer)]
    assert sizes[1] < 0.97 * sizes[0]
    for text, encoding in zip(TEXTS, tokenizer.encode_batch(TEXTS), strict=True):
        assert tokenizer.decode(encoding.ids) == text


def test_the_second_stage_goes_on_as_the_library_would_on_whole_chunks():
    # without a first stage, the second one is plain BPE on the chunks
    chunks = counted(chunk_rules(split_rules("llama3"), 4).regex)
    made = train_superwords(*table_of(chunks), np.zeros((0, 2), np.int32), 900)
    assert [tuple(pair) for pair in made.tolist()] == library(chunks, 900) == ours(chunks, 900)
    for least, longest in [(1, None), (5, 6)]:
        made = train_superwords(*table_of(chunks), np.zeros((0, 2), np.int32), 900, least, longest)
        assert [tuple(pair) for pair in made.tolist()] == ours(chunks, 900, least, longest)
    first = np.array(ours(chunks, 700))
    assert [tuple(pair) for pair in train_superwords(*table_of(chunks), first, 900).tolist()] == ours(chunks, 900)


def test_a_folder_names_its_merges_once():
    config = TokenizerConfig(vocab_size=900, superword={"start": 600})
    first = train_bpe(*table_of(counted(config.rules().regex)), 600)
    merges = train_superwords(*table_of(counted(chunk_rules(config.rules(), 4).regex)), first, 900)
    model = json.loads(bpe_tokenizer(config, merges).to_str())["model"]
    assert len(model["vocab"]) == 900 and len(model["merges"]) == 900 - 326
