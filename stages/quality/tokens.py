"""Which words the rules count: ours, or those of other systems, so that their thresholds and decisions can be compared."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Literal, TypeAlias

import numpy as np
import xxhash

from stages.batch import Batch
from stages.quality.stop_words import language_code
from stages.words import Words, batch_words, word_key

WordKnob: TypeAlias = Literal["ours", "spacy", "whitespace"]
Spans: TypeAlias = list[tuple[int, int]]

_RUN = re.compile(r"\S+")


def word_knob() -> Any:
    """The knob `words`."""
    from stages.stage import knob

    return knob(
        "ours",
        "what a word is: ours (`stages/words.py`: Unicode words, punctuation is none), spacy (the tokens of spaCy's rules for the "
        "row's language, punctuation among them, as datatrove counts: 20 to 50 times slower), or whitespace (as Dolma counts)",
        "this project; datatrove 0.10; Dolma",
    )


def counted_words(batch: Batch, kind: WordKnob) -> Words:
    """The words of the batch's texts, of the kind that is asked for, computed once for all stages."""
    match kind:
        case "ours":
            return batch_words(batch)
        case "spacy":
            return batch.derived("words.spacy", lambda: words_at(batch.texts(), spacy_spans(batch)))
        case "whitespace":
            return batch.derived(
                "words.whitespace",
                lambda: words_at(
                    batch.texts(), [[run.span() for run in _RUN.finditer(text)] for text in batch.texts()]
                ),
            )


def words_at(texts: Sequence[str], spans: Sequence[Spans]) -> Words:
    """Words at the given places."""
    strings = [text[a:b] for text, some in zip(texts, spans, strict=True) for a, b in some]
    places = np.array([place for some in spans for place in some], dtype=np.int64).reshape(-1, 2)
    return Words(
        np.concatenate([[0], np.cumsum([len(some) for some in spans], dtype=np.int64)]),
        places[:, 0],
        places[:, 1],
        np.array([_key(string) for string in strings], np.uint64),
        np.array([any(map(str.isalpha, string)) for string in strings], np.bool_),
        np.zeros(len(strings), np.bool_),
    )


def strings(batch: Batch, words: Words) -> list[str]:
    """The words of all rows, as strings."""
    places = zip(words.start.tolist(), words.end.tolist(), words.row.tolist(), strict=True)
    texts = batch.texts()
    return [texts[row][start:end] for start, end, row in places]


def key_of(kind: WordKnob) -> Callable[[str], int]:
    """The function that gives a word of this kind its key. Ours raises `ValueError` for what is not one word."""
    return word_key if kind == "ours" else _key


def _key(string: str) -> int:
    return xxhash.xxh3_64_intdigest(string.encode("utf-8", "surrogatepass"))


def spacy_spans(batch: Batch) -> list[Spans]:
    """Where the tokens of spaCy's blank pipelines stand in each text, white space stripped, computed once for all stages.

    Languages that spaCy has no rules for, and rows without a label, are read by its English rules.
    """

    def find() -> list[Spans]:
        return [
            _spans(tokenizer(language_code(label) if label else "en"), text)
            for text, label in zip(batch.texts(), batch.values("language"), strict=True)
        ]

    return batch.derived("words.spacy.spans", find)


_TOKENIZERS: dict[str, Any] = {}


def tokenizer(language: str) -> Any:
    """spaCy's blank pipeline of a language with its rule for sentences; English where there is none (or it needs more packages)."""
    if language not in _TOKENIZERS:
        import spacy

        try:
            found = spacy.blank(language)
            found("a b")
        except (ImportError, ValueError):
            found = tokenizer("en") if language != "en" else spacy.blank("en")
        if "sentencizer" not in found.pipe_names:
            found.add_pipe("sentencizer")
        _TOKENIZERS[language] = found
    return _TOKENIZERS[language]


def _spans(nlp: Any, text: str) -> Spans:
    nlp.max_length = len(text) + 10
    spans = []
    with nlp.memory_zone():
        for token in nlp.make_doc(text):
            string = token.text
            stripped = string.strip()
            if stripped:
                first = token.idx + string.index(stripped)
                spans.append((first, first + len(stripped)))
    return spans


@cache
def sentence_counter(language: str | None) -> Callable[[str], int]:
    """What counts the sentences of a line by spaCy's rules for a language, as labels name it."""
    nlp = tokenizer(language_code(language) if language else "en")

    def count(line: str) -> int:
        nlp.max_length = len(line) + 10
        with nlp.memory_zone():
            return sum(bool(sentence.text.strip()) for sentence in nlp(line).sents)

    return count
