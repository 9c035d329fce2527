"""The lines, paragraphs or sentences of a batch, each with a 128-bit key of its folded form: found in one compiled loop.

A line is what stands between newlines, without white space around it; blank ones are none. A paragraph is a run of lines without a
blank one between them. A sentence ends as `stages.lines.sentence_end` has it, and never goes over the end of a line.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from stages.batch import Batch
from stages.characters import SPACE, Bytes, Ints, Keys, Table, classes
from stages.dedup.folding import Fold, fold_table
from stages.jit import kernel
from stages.lines import sentence_end
from stages.words import batch_words, decode

KINDS = ("line", "paragraph", "sentence")
LINE, PARAGRAPH, SENTENCE = range(3)
_FIRST, _SECOND = np.uint64(0x9FB21C651E98DF25), np.uint64(0xD6E8FEB86659FD93)  # odd multipliers, one a half of a key


@dataclass(frozen=True)
class Units:
    """The units of several documents: row r's are `[rows[r], rows[r + 1])` in the other arrays, in the order of the text."""

    rows: Ints
    start: Ints  # code points within the row's text
    end: Ints
    breaks: Ints  # newlines between the end of the unit before (or the text's start) and this one
    words: Ints
    folded: Ints  # characters that are left of it folded; 0: nothing, and its key means nothing
    key: Keys  # (units, 2)
    begin_byte: Ints  # in the batch's UTF-8
    end_byte: Ints
    characters: Ints  # code points of each row

    @property
    def row(self) -> Ints:
        """The row of each unit."""
        return np.repeat(np.arange(len(self.rows) - 1, dtype=np.int64), np.diff(self.rows))


def batch_units(batch: Batch, kind: int, folds: tuple[Fold, ...]) -> Units:
    """The units of the batch's texts."""
    data, bounds = batch.utf8()
    words = batch_words(batch)
    count = len(bounds) - 1
    most = 1 + (len(data) if kind == SENTENCE else int(np.count_nonzero(data == 10)) + count)
    rows, characters = np.zeros(count + 1, np.int64), np.zeros(count, np.int64)
    numbers, key = np.empty((most, 7), np.int64), np.empty((most, 2), np.uint64)
    found = _find(
        data, bounds, kind, classes(), fold_table(folds), "whitespace" in folds, words.start, words.rows, rows, numbers, key, characters
    )  # fmt: skip
    start, end, breaks, inside, folded, begin, stop = numbers[:found].T.copy()
    return Units(rows, start, end, breaks, inside, folded, key[:found].copy(), begin, stop, characters)


@kernel
def _find(
    data: Bytes,
    bounds: Ints,
    kind: int,
    table: Table,
    fold: Any,
    squeeze: bool,
    word_start: Ints,
    word_rows: Ints,
    rows: Ints,
    numbers: Ints,
    key: Keys,
    characters: Ints,
) -> int:
    """Write each unit's seven numbers and its key; how many units there are."""
    count = 0
    for row in range(len(bounds) - 1):
        own = count
        at, stop = bounds[row], bounds[row + 1]
        place = breaks = np.int64(0)
        opened = False  # a paragraph is
        while True:
            first: Any = np.int64(-1)  # of the line without white space around it: bytes, and code points
            last: Any = np.int64(-1)
            first_place: Any = np.int64(0)
            last_place: Any = np.int64(0)
            while at < stop and data[at] != 10:
                code: Any = np.int64(data[at])
                after: Any = at + 1
                if code >= 0x80:
                    code, after = decode(data, at, stop)
                place += 1
                if (table[code] & SPACE) == 0:
                    if first < 0:
                        first, first_place = at, place - 1
                    last, last_place = after, place
                at = after
            if first < 0:
                opened = False
            elif kind == SENTENCE:
                begin, begin_place = first, first_place
                while begin < last:
                    end, end_place = sentence_end(data, begin, last, begin_place, table)
                    _put(numbers, count, begin_place, end_place, breaks, begin, end)
                    count += 1
                    breaks = np.int64(0)
                    begin, begin_place = end, end_place
                    while begin < last:
                        code, after = decode(data, begin, last)
                        if (table[code] & SPACE) == 0:
                            break
                        begin, begin_place = after, begin_place + 1
            elif opened:
                numbers[count - 1, 1], numbers[count - 1, 6] = last_place, last
                breaks = np.int64(0)
            else:
                _put(numbers, count, first_place, last_place, breaks, first, last)
                count += 1
                breaks = np.int64(0)
                opened = kind == PARAGRAPH
            if at >= stop:
                break
            at += 1
            place += 1
            breaks += 1
        characters[row], rows[row + 1] = place, count
        word, words_end = word_rows[row], word_rows[row + 1]
        for unit in range(own, count):
            words = np.int64(0)
            while word < words_end and word_start[word] < numbers[unit, 1]:
                words += word_start[word] >= numbers[unit, 0]
                word += 1
            numbers[unit, 3] = words
            numbers[unit, 4] = _fold_key(data, numbers[unit, 5], numbers[unit, 6], table, fold, squeeze, key, unit)
    return count


@kernel
def _put(numbers: Ints, count: int, start: Any, end: Any, breaks: Any, begin_byte: Any, end_byte: Any) -> None:
    numbers[count, 0], numbers[count, 1], numbers[count, 2] = start, end, breaks
    numbers[count, 5], numbers[count, 6] = begin_byte, end_byte


@kernel
def _fold_key(
    data: Bytes, at: Any, stop: Any, table: Table, fold: Any, squeeze: bool, key: Keys, unit: int
) -> np.int64:
    """Write the key of a unit's folded form; how many characters that has."""
    first, second = np.uint64(0), np.uint64(0)
    count = np.int64(0)
    gap = False
    while at < stop:
        code: Any = np.int64(data[at])
        after: Any = at + 1
        if code >= 0x80:
            code, after = decode(data, at, stop)
        at = after
        if squeeze and (table[code] & SPACE) != 0:
            gap = True
            continue
        value = fold[code]
        if value < 0:
            continue
        if gap and count > 0:
            count += 1
            first, second = _absorb(first, second, np.uint64(33))
        gap = False
        count += 1
        first, second = _absorb(first, second, np.uint64(value + 1))
    key[unit, 0], key[unit, 1] = first ^ np.uint64(count), second
    return count


@kernel
def _absorb(first: np.uint64, second: np.uint64, value: np.uint64) -> tuple[np.uint64, np.uint64]:
    """Each half with one value more: a bijection of the half, and of the value, by multiplication and shift."""
    first = (first ^ value) * _FIRST
    first ^= first >> np.uint64(29)
    second = (second + value) * _SECOND
    second ^= second >> np.uint64(32)
    return first, second
