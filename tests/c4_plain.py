"""C4's line rules in plain Python: the slow twin of `stages/quality/c4_lines.py`."""

from __future__ import annotations

import re

from stages.characters import CLOSERS, CLOSING_QUOTES, RUN_STOPS, SENTENCE_STOPS, UNSPACED_RANGES, WIDE_STOPS
from stages.quality.c4_lines import CITATION, LINE_RULES, Judged, LineKnobs, ascii_lower
from stages.words import tokenise

TERMINAL = tuple(SENTENCE_STOPS + CLOSING_QUOTES)
NO_SPACES = re.compile("[" + "".join(f"{chr(first)}-{chr(last)}" for first, last in UNSPACED_RANGES) + r"\s]+")
STOPS, CLOSING, WIDE = map(re.escape, (RUN_STOPS, CLOSERS, WIDE_STOPS))
SENTENCE_END = re.compile(
    rf"(?<![{STOPS}])[{STOPS}]"
    rf"(?:[{STOPS}]*+[{CLOSING}]*+(?=\s++[^a-z]|\s*+$)|(?<=[{WIDE}])[{STOPS}]*+[{CLOSING}]*+)"
)


def count_sentences(line: str) -> int:
    last, count = 0, 0
    for end in SENTENCE_END.finditer(line):
        last, count = end.end(), count + 1
    return count + (last < len(line))


def judge(text: str, knobs: LineKnobs) -> Judged:
    """The text without its marks is judged; what is cut of it, and the marks, are cut of the text."""
    marks = [mark.span() for mark in CITATION.finditer(text)] if knobs.citations else []
    stays = [place for place in range(len(text)) if not any(start <= place < end for start, end in marks)]
    found = judge_lines("".join(text[place] for place in stays), knobs)
    gone = {place for place, _ in enumerate(text)} - {
        stays[place] for place in range(len(stays)) if not any(start <= place < end for start, end in found.cuts)
    }
    edges = sorted(place for place in gone if place - 1 not in gone)
    ends = sorted(place + 1 for place in gone if place + 1 not in gone)
    return found._replace(cuts=list(zip(edges, ends, strict=True)), citations=len(marks))


def judge_lines(text: str, knobs: LineKnobs) -> Judged:
    cut_by = dict.fromkeys(LINE_RULES, 0)
    cuts: list[tuple[int, int]] = []
    kept = sentences = start = tail = 0  # tail: end of the last kept line that is not blank
    cut_since = blank_since = False  # since that line: a line was cut, a blank one kept
    for raw in text.split("\n"):
        end = start + len(raw) + 1
        line = raw.strip()
        if not line:
            cut = cut_since and (blank_since or not kept)
            blank_since = True
        else:
            rule = line_rule(line, len(tokenise([raw]).key), knobs)
            cut = rule is not None
            if rule is None:
                kept += 1
                sentences += count_sentences(line)
                tail = end - 1
                cut_since = blank_since = False
            else:
                cut_by[rule] += 1
                cut_since = True
        if cut:
            cuts.append((start, min(end, len(text))))
        start = end
    if cut_since:
        cuts = [one for one in cuts if one[0] < tail] + [(tail, len(text))]
    return Judged(cuts, cut_by, kept, sentences, 0)


def line_rule(line: str, words: int, knobs: LineKnobs) -> str | None:
    if knobs.max_word_length is not None and max(map(len, NO_SPACES.split(line))) > knobs.max_word_length:
        return "long_word"
    if knobs.terminal_punctuation and (not line.endswith(TERMINAL) or line.endswith(("...", "…"))):
        return "no_terminal_punctuation"
    if knobs.min_line_words is not None and words < knobs.min_line_words:
        return "few_words"
    lower = ascii_lower(line)
    if knobs.javascript and "javascript" in lower:
        return "javascript"
    return "policy" if any(phrase and ascii_lower(phrase) in lower for phrase in knobs.policy_phrases) else None
