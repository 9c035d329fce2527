"""The definition of dedup's words and shingles in plain Python."""

from __future__ import annotations

import re

from stages.characters import UNSPACED_RANGES


def shingle_words(text: str, letters: bool = False) -> list[str]:
    r"""Runs of `\w` in lower case; with `letters` each letter of a script without spaces alone."""
    runs = re.findall(r"\w+", text.lower())
    if not letters:
        return runs
    words = []
    for run in runs:
        word = ""
        for character in run:
            if character.isalpha() and any(first <= ord(character) <= last for first, last in UNSPACED_RANGES):
                words += [word, character] if word else [character]
                word = ""
            else:
                word += character
        words += [word] if word else []
    return words


def shingle_set(text: str, ngram: int = 5, letters: bool = False) -> set[tuple[str, ...]]:
    """The n-grams of the words; of a shorter text one of all its words."""
    words = shingle_words(text, letters)
    return {tuple(words[i : i + ngram]) for i in range(max(1, len(words) - ngram + 1))} if words else set()
