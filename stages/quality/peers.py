"""What other systems count under the names of the rules, written anew from what their code does, in plain Python.

datatrove 0.10.1, Dolma's Gopher tagger, DCLM's baseline filters. Ours are compiled and count once for all rules; these are here so
that a corpus can be filtered as another system would have, and so that the difference can be measured (docs/rules.md).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from stages.batch import Batch
from stages.quality.tokens import spacy_spans

NAN = float("nan")

# Characters that datatrove calls punctuation: a word made of them alone is a symbol. Control characters but the newline are among them.
SYMBOLS = frozenset(
    "!/—”:％１〈&(、━\\【#%「」，】；+^]~“《„';’{|∶´[=-`*．（–？！：$～«〉,><》)?）。…@_.\"}►»"
    + "".join(map(chr, (*range(9), 11, 12, *range(13, 32), *range(127, 160))))
)

# Stops by which datatrove ends a line: Unicode's Sentence_Terminal as of version 15, and three Khmer marks; no quotation marks.
STOPS = frozenset(
    chr(code)
    for part in [
        "21",
        "2E",
        "3F",
        "589",
        "61D-61F",
        "6D4",
        "700-702",
        "7F9",
        "837",
        "839",
        "83D-83E",
        "964-965",
        "104A-104B",
        "1362",
        "1367-1368",
        "166E",
        "1735-1736",
        "17D4-17D6",
        "17D9-17DA",
        "1803",
        "1809",
        "1944-1945",
        "1AA8-1AAB",
        "1B5A-1B5B",
        "1B5E-1B5F",
        "1B7D-1B7E",
        "1C3B-1C3C",
        "1C7E-1C7F",
        "203C-203D",
        "2047-2049",
        "2E2E",
        "2E3C",
        "2E53-2E54",
        "3002",
        "A4FF",
        "A60E-A60F",
        "A6F3",
        "A6F7",
        "A876-A877",
        "A8CE-A8CF",
        "A92F",
        "A9C8-A9C9",
        "AA5D-AA5F",
        "AAF0-AAF1",
        "ABEB",
        "FE52",
        "FE56-FE57",
        "FF01",
        "FF0E",
        "FF1F",
        "FF61",
        "10A56-10A57",
        "10F55-10F59",
        "10F86-10F89",
        "11047-11048",
        "110BE-110C1",
        "11141-11143",
        "111C5-111C6",
        "111CD",
        "111DE-111DF",
        "11238-11239",
        "1123B-1123C",
        "112A9",
        "1144B-1144C",
        "115C2-115C3",
        "115C9-115D7",
        "11641-11642",
        "1173C-1173E",
        "11944",
        "11946",
        "11A42-11A43",
        "11A9B-11A9C",
        "11C41-11C42",
        "11EF7-11EF8",
        "11F43-11F44",
        "16A6E-16A6F",
        "16AF5",
        "16B37-16B38",
        "16B44",
        "16E98",
        "1BC9F",
        "1DA88",
    ]
    for code in range(int(part.split("-")[0], 16), int(part.split("-")[-1], 16) + 1)
)


def spacy_words(batch: Batch) -> list[list[str]]:
    """The words of `words: spacy`, as strings."""
    return [[text[a:b] for a, b in spans] for text, spans in zip(batch.texts(), spacy_spans(batch), strict=True)]


# ---- datatrove


def later(parts: Sequence[str]) -> tuple[int, int]:
    """How many parts repeat an earlier one, and the characters in those."""
    seen: set[str] = set()
    copies = characters = 0
    for part in parts:
        if part in seen:
            copies += 1
            characters += len(part)
        else:
            seen.add(part)
    return copies, characters


def datatrove_copies(text: str) -> tuple[float, float, float, float]:
    """Shares of duplicate lines, of their characters, of duplicate paragraphs, of theirs."""
    if not text:
        return 0.0, 0.0, 0.0, 0.0
    lines, blocks = re.split(r"\n+", text), re.split(r"\n{2,}", text.strip())
    (copies, characters), (block_copies, block_characters) = later(lines), later(blocks)
    return (
        copies / len(lines),
        characters / len(text),
        block_copies / len(blocks),
        block_characters / len(text),
    )


def ngram_shares(text: str, words: Sequence[str]) -> list[float]:
    """Shares of the text's characters in the top 2- to 4-gram and in later copies of 5- to 10-grams, compared as joined strings."""
    shares = []
    for n in (2, 3, 4):
        grams = Counter(" ".join(words[at : at + n]) for at in range(len(words) - n + 1))
        top = grams.most_common(1)
        shares.append(len(top[0][0]) * top[0][1] / len(text) if top else 0.0)
    for n in range(5, 11):
        seen: set[str] = set()
        repeated = at = 0
        while at < len(words) - n + 1:
            gram = "".join(words[at : at + n])
            if gram in seen:
                repeated += len(gram)
                at += n
            else:
                seen.add(gram)
                at += 1
        shares.append(repeated / len(text) if text else 0.0)
    return shares


def symbol(word: str) -> bool:
    """Whether datatrove takes a word for a symbol, which is not counted among the words."""
    return SYMBOLS.issuperset(word)


def gopher_lines(text: str, bullets: tuple[str, ...]) -> tuple[float, float]:
    """Shares of lines that begin with a bullet and that end with an ellipsis; blank lines are lines."""
    lines = text.splitlines()
    if not lines:
        return 0.0, 0.0
    return (
        sum(line.lstrip().startswith(bullets) for line in lines) / len(lines),
        sum(line.rstrip().endswith(("...", "…")) for line in lines) / len(lines),
    )


def fineweb_lines(text: str, short: int) -> tuple[float, float, float]:
    """Shares of lines that end with a stop, of lines of at most `short` characters, and of characters in duplicate lines."""
    lines = [line for line in text.split("\n") if line.strip()]
    if not lines:
        return 0.0, 0.0, 0.0
    return (
        sum(line[-1] in STOPS for line in lines) / len(lines),
        sum(len(line) <= short for line in lines) / len(lines),
        later(lines)[1] / len(text.replace("\n", "")),
    )


# ---- Dolma


def dolma_copies(text: str) -> tuple[float, float, float, float]:
    """As `datatrove_copies`; paragraphs are not looked at."""
    lines = text.split("\n") if text else []
    counts = Counter(lines)
    repeated = {line: count for line, count in counts.items() if count > 1}
    letters = sum(map(len, text.split()))
    return (
        sum(repeated.values()) / max(len(lines), 1),
        sum(len(line) * count for line, count in repeated.items()) / max(letters, 1),
        NAN,
        NAN,
    )


# ---- DCLM


def dclm_copies(text: str) -> tuple[float, float, float, float]:
    """As `datatrove_copies`: all copies count, and a single part is none."""
    shares = []
    for separator in ("\n", "\n\n"):
        parts = [part for part in map(str.strip, text.split(separator)) if part]
        repeated = {part: count for part, count in Counter(parts).items() if count > 1}
        whole = sum(map(len, parts))
        if len(parts) < 2:
            shares += [0.0, 0.0]
        else:
            shares += [
                sum(repeated.values()) / len(parts),
                sum(len(part) * count for part, count in repeated.items()) / whole,
            ]
    return shares[0], shares[1], shares[2], shares[3]
