r"""The lines and paragraphs of a batch, and what is counted by character: found in one compiled loop, shared by every rule about lines.

A line is what stands between newlines, stripped of white space; blank ones are never counted. A paragraph is a run of lines without
a blank one between them, joined by newlines. White space is what `str.isspace` says. Equal lines (and paragraphs) have equal 64-bit keys;
different ones have different keys except by accident (about 2^-64 a pair). `lines` and `paragraphs` say the same in plain Python.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from stages.batch import Batch, encoded
from stages.characters import CLOSER, SPACE, STOP, TERMINAL, WIDE_STOP, Bools, Bytes, Ints, Keys, Table, classes
from stages.jit import kernel
from stages.words import BASE, decode, mix


def lines(text: str) -> list[str]:
    """The lines of a text."""
    return [line for line in map(str.strip, text.split("\n")) if line]


def paragraphs(text: str) -> list[str]:
    """The paragraphs of a text."""
    blocks = itertools.groupby(map(str.strip, text.split("\n")), key=bool)
    return ["\n".join(block) for some, block in blocks if some]


@dataclass(frozen=True)
class Lines:
    """The lines and paragraphs of several documents: row r's lines are `[rows[r], rows[r + 1])` in the arrays of lines."""

    rows: Ints
    begin: Ints  # bytes in the batch's UTF-8
    end: Ints
    length: Ints  # code points
    key: Keys
    terminal: Bools  # ends with terminal punctuation or a closing quote
    ellipsis: Bools  # ends with `...` or `…`
    paragraph_rows: Ints
    paragraph_length: Ints  # code points
    paragraph_key: Keys
    characters: Ints  # code points of each row
    newlines: Ints
    hashes: Ints  # `#`
    ellipses: Ints  # `...` and `…`, without overlaps

    @property
    def counts(self) -> Ints:
        """Lines a row."""
        return np.diff(self.rows)

    def total(self, values: np.ndarray) -> Ints:
        """The sum over each row of one integer (or bool) a line."""
        sums = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
        return sums[self.rows[1:]] - sums[self.rows[:-1]]

    def starting(self, data: Bytes, heads: tuple[str, ...]) -> Bools:
        """Which lines begin with one of the strings, in the batch's UTF-8."""
        return _starting(data, self.begin, self.end, *encoded([head for head in heads if head]))


def batch_lines(batch: Batch) -> Lines:
    """The lines of the batch's texts, computed once for all stages."""
    return batch.derived("lines", lambda: find_lines(*batch.utf8()))


def find_lines(data: Bytes, bounds: Ints) -> Lines:
    """The lines of texts in UTF-8 (`stages.batch.encoded`)."""
    count = len(bounds) - 1
    newlines = _count_newlines(data, bounds)
    most = int(newlines.sum()) + count
    rows, paragraph_rows = np.zeros(count + 1, np.int64), np.zeros(count + 1, np.int64)
    begin, end, length = (np.empty(most, np.int64) for _ in range(3))
    key, paragraph_key = np.empty(most, np.uint64), np.empty(most, np.uint64)
    terminal, ellipsis = np.empty(most, np.bool_), np.empty(most, np.bool_)
    paragraph_length = np.empty(most, np.int64)
    characters, hashes, ellipses = (np.zeros(count, np.int64) for _ in range(3))
    found, blocks = _find_lines(
        data, bounds, classes(), rows, begin, end, length, key, terminal, ellipsis,
        paragraph_rows, paragraph_length, paragraph_key, characters, hashes, ellipses,
    )  # fmt: skip
    return Lines(
        rows=rows,
        begin=begin[:found],
        end=end[:found],
        length=length[:found],
        key=key[:found],
        terminal=terminal[:found],
        ellipsis=ellipsis[:found],
        paragraph_rows=paragraph_rows,
        paragraph_length=paragraph_length[:blocks],
        paragraph_key=paragraph_key[:blocks],
        characters=characters,
        newlines=newlines,
        hashes=hashes,
        ellipses=ellipses,
    )


@kernel
def _count_newlines(data: Bytes, bounds: Ints) -> Ints:
    counts = np.zeros(len(bounds) - 1, np.int64)
    for row in range(len(counts)):
        for at in range(bounds[row], bounds[row + 1]):
            counts[row] += data[at] == 10
    return counts


@kernel
def _find_lines(
    data: Bytes,
    bounds: Ints,
    table: Table,
    rows: Ints,
    begin: Ints,
    end: Ints,
    length: Ints,
    key: Keys,
    terminal: Bools,
    ellipsis: Bools,
    paragraph_rows: Ints,
    paragraph_length: Ints,
    paragraph_key: Keys,
    characters: Ints,
    hashes: Ints,
    ellipses: Ints,
) -> tuple[int, int]:
    """Write the lines and paragraphs of all rows; how many of each there are."""
    count = blocks = 0
    for row in range(len(bounds) - 1):
        at, stop = bounds[row], bounds[row + 1]
        place = np.int64(0)  # of the character, in code points
        block_length, block_hash = np.int64(0), np.uint64(0)  # of the paragraph so far
        dots = np.int64(0)  # in a run
        hash_marks = marks = np.int64(0)
        while True:
            first = first_byte = last = last_byte = np.int64(
                -1
            )  # of the characters that are no white space; last: after it
            hashed, solid = (
                np.uint64(0),
                np.uint64(0),
            )  # of the line so far; up to its last character that is no white space
            line_dots = final = np.int64(0)  # at the line's end; its last character
            while at < stop:
                code: Any = np.int64(data[at])
                after: Any = at + 1
                if code == 10:
                    break
                if code >= 0x80:
                    code, after = decode(data, at, stop)
                if first < 0:
                    if (table[code] & SPACE) != 0:
                        dots = np.int64(0)
                        place += 1
                        at = after
                        continue
                    first, first_byte = place, at
                hashed = hashed * BASE + np.uint64(code + 1)
                place += 1
                at = after
                if code > 46:
                    dots = np.int64(0)
                    if code < 0x80:  # no white space, and nothing else that is looked for
                        last, last_byte, solid, final, line_dots = place, after, hashed, code, dots
                        continue
                if code == 46:
                    dots += 1
                    marks += dots % 3 == 0
                else:
                    dots = np.int64(0)
                if (table[code] & SPACE) == 0:
                    last, last_byte, solid, final, line_dots = place, after, hashed, code, dots
                    hash_marks += code == 35
                    marks += code == 0x2026
            if first >= 0:
                begin[count], end[count], length[count] = first_byte, last_byte, last - first
                key[count] = mix(solid + np.uint64(last - first))
                terminal[count] = (table[final] & TERMINAL) != 0
                ellipsis[count] = line_dots >= 3 or final == 0x2026
                block_length += last - first + 1
                block_hash = block_hash * BASE + key[count]
                count += 1
            if block_length > 0 and (first < 0 or at >= stop):
                paragraph_length[blocks] = block_length - 1
                paragraph_key[blocks] = mix(block_hash + np.uint64(block_length))
                blocks += 1
                block_length, block_hash = np.int64(0), np.uint64(0)
            if at >= stop:
                break
            at += 1  # the newline
            place += 1
            dots = np.int64(0)
        characters[row], hashes[row], ellipses[row] = place, hash_marks, marks
        rows[row + 1], paragraph_rows[row + 1] = count, blocks
    return count, blocks


@kernel
def _starting(data: Bytes, begin: Ints, end: Ints, heads: Bytes, bounds: Ints) -> Bools:
    found = np.zeros(len(begin), np.bool_)
    for line in range(len(begin)):
        for head in range(len(bounds) - 1):
            size = bounds[head + 1] - bounds[head]
            same = begin[line] + size <= end[line]
            for place in range(size):
                if not same:
                    break
                same = data[begin[line] + place] == heads[bounds[head] + place]
            found[line] |= same
    return found


@kernel
def sentence_end(data: Bytes, at: Any, stop: Any, place: Any, table: Table) -> tuple[Any, Any]:
    """Where the sentence that begins at a byte (code point `place`) of a stripped line ends: byte and code point.

    At a run of stops, and the quotes and brackets that close it, before the end of the line or before white space and something other
    than a small ASCII letter (so that "e.g. this" goes on); after stops of scripts that put no space behind them, anywhere; else with the line.
    """
    behind_stop = False
    while at < stop:
        code: Any = np.int64(data[at])
        after: Any = at + 1
        if code >= 0x80:
            code, after = decode(data, at, stop)
        kind = table[code]
        if (kind & STOP) == 0 or behind_stop:
            behind_stop = (kind & STOP) != 0
            at, place = after, place + 1
            continue
        end, end_place, closing = after, place + 1, False  # of the run of stops and of what closes it
        while end < stop:
            next_code, next_after = decode(data, end, stop)
            bits = table[next_code]
            if not closing and (bits & STOP) != 0:
                end = next_after
            elif (bits & CLOSER) != 0:
                end, closing = next_after, True
            else:
                break
            end_place += 1
        if end >= stop or (kind & WIDE_STOP) != 0:
            return end, end_place
        next_code, next_after = decode(data, end, stop)
        spaces, beyond = 0, end
        while (table[next_code] & SPACE) != 0:  # the line is stripped: something follows
            beyond, spaces = next_after, spaces + 1
            next_code, next_after = decode(data, beyond, stop)
        if spaces > 0 and not 97 <= next_code <= 122:
            return end, end_place
        behind_stop = True
        at, place = after, place + 1
    return at, place
