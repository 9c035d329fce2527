"""C4's rules as datatrove 0.10.1 applies them, written anew from what its code does, in plain Python.

It differs from the paper, and from `c4_lines`: lines end at any line separator and are joined by one newline; only `. ? ! " '` end a
line, and only `...` is an ellipsis; words are runs without white space, counted with citation marks; "lorem ipsum" and `{` count only
in lines that no rule before has cut.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from stages.quality.c4_lines import LINE_RULES, Judged, LineKnobs

_CITATION = re.compile(r"\[\d*]|\[edit]|\[citation needed]")
_ENDS = (".", "?", "!", '"', "'")


def judge_lines(text: str, knobs: LineKnobs, count_sentences: Callable[[str], int]) -> tuple[Judged, bool, bool]:
    """What the line rules find in one text, and whether they met "lorem ipsum" and `{`."""
    cut_by = dict.fromkeys(LINE_RULES, 0)
    kept: list[
        tuple[int, int, int]
    ] = []  # what stays, in pieces: from, to, the line separator that stays before it (-1: none)
    sentences = lines = citations = 0
    lorem = bracket = False
    at = 0
    separator = -1  # the end of the last kept line
    for raw in text.splitlines(keepends=True):
        line = raw.strip()
        start = at + raw.find(line)
        at += len(raw)
        marks = [mark.span() for mark in _CITATION.finditer(line)] if knobs.citations else []
        rule, lower = _line_rule(line, marks, knobs)
        if rule is None:
            lorem |= "lorem ipsum" in lower
            if knobs.javascript and "javascript" in lower:
                rule = "javascript"
            else:
                bracket |= "{" in _without(line, marks)
                rule = "policy" if any(phrase.lower() in lower for phrase in knobs.policy_phrases) else None
        if rule is not None:
            cut_by[rule] += 1
            continue
        sentences += count_sentences(_without(line, marks))
        lines += 1
        citations += len(marks)
        done = 0
        for a, b in (*marks, (len(line), len(line))):
            kept.append((start + done, start + a, -1 if done else separator))
            done = b
        separator = at - 1
    return Judged(_gaps(text, kept), cut_by, lines, sentences, citations), lorem, bracket


def _line_rule(line: str, marks: list[tuple[int, int]], knobs: LineKnobs) -> tuple[str | None, str]:
    """The first rule that cuts a stripped line, but for phrases; and what the phrases are looked for in."""
    words = line.split()
    clean = _without(line, marks)
    if knobs.max_word_length is not None and any(len(word) > knobs.max_word_length for word in words):
        return "long_word", ""
    if knobs.terminal_punctuation and (not clean.endswith(_ENDS) or clean.endswith("...")):
        return "no_terminal_punctuation", ""
    if knobs.min_line_words is not None and len(words) < knobs.min_line_words:
        return "few_words", ""
    return None, clean.lower()


def _without(line: str, marks: list[tuple[int, int]]) -> str:
    for start, end in reversed(marks):
        line = line[:start] + line[end:]
    return line


def _gaps(text: str, kept: list[tuple[int, int, int]]) -> list[tuple[int, int]]:
    """What to remove so that the kept pieces stay, without white space at the text's ends."""
    pieces = [
        piece for start, end, separator in kept for piece in ((separator, separator + 1), (start, end)) if piece[0] >= 0
    ]
    while pieces and not text[slice(*pieces[0])].strip():
        pieces.pop(0)
    while pieces and not text[slice(*pieces[-1])].strip():
        pieces.pop()
    if pieces:
        start, end = pieces[0]
        pieces[0] = (end - len(text[start:end].lstrip()), end)
        start, end = pieces[-1]
        pieces[-1] = (start, start + len(text[start:end].rstrip()))
    bounds = [0, *(place for piece in pieces for place in piece), len(text)]
    return [(start, end) for start, end in zip(bounds[::2], bounds[1::2], strict=True) if start < end]
