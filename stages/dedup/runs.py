"""Copied runs of words: found in one document, compared byte by byte in the other, and cut where no word or mark is torn apart."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import takewhile
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from stages.characters import CORE, JOINER, MARK, UNSPACED, Bytes, Ints, Keys, classes
from stages.dedup.anchors import byte_places
from stages.words import tokenise

BEFORE, AFTER = 1, 2  # a letter of a script with spaces stands right before a cut, right behind it
MARKED = 4  # the word behind begins with a mark, which belongs to the character before it

CUT: dict[str, pa.DataType] = {  # a verified cut of a document: code points [start, end), words [first, last)
    "start": pa.int64(),
    "end": pa.int64(),
    "first": pa.int64(),
    "last": pa.int64(),
    "tail": pa.int64(),  # where the cut begins if it goes to the text's end: before white space
    "joins": pa.int64(),  # `BEFORE`, `AFTER`, both or neither
}
RUN: dict[str, pa.DataType] = {  # words of a document that may be a copy
    "bytes": pa.large_binary(),  # from the run's first word up to the word behind it, or the text's end
    "solid": pa.int64(),  # of these bytes, up to the end of its last word
    "at": pa.int64(),  # its first word
    "size": pa.int64(),  # in words
    "skip": pa.int64(),  # words at its beginning that stay, as they belong to the kept copy
    "start": pa.int64(),  # edges, see `edges`
    "end": pa.int64(),
    "clean": pa.int64(),
    "clean_last": pa.int64(),
    "first": pa.int64(),
    "last": pa.int64(),
    "tail": pa.int64(),
    "joins": pa.int64(),
    "kept_at": pa.int64(),  # the first word of the copy that stays
    "kept_place": pa.int64(),  # and its document
}


class Words(NamedTuple):
    """A text and its words."""

    text: str
    data: Bytes  # its UTF-8
    key: Keys
    start: Ints  # code points
    end: Ints
    begin: Ints  # bytes
    stop: Ints


def read_words(text: str) -> Words:
    """The words of a text."""
    words = tokenise([text])
    data = np.frombuffer(text.encode("utf-8", "surrogatepass"), dtype=np.uint8)
    places = byte_places(data, np.stack([words.start, words.end], axis=1).ravel()).reshape(-1, 2)
    begin, stop = np.ascontiguousarray(places[:, 0]), np.ascontiguousarray(places[:, 1])
    return Words(text, data, words.key, words.start, words.end, begin, stop)


def common_runs(words: Words, at: Ints, kept: Ints, kept_at: Ints, k: int, place: int, protect: bool) -> dict[str, Any]:
    """Copied runs of k words, side by side in both documents, as one: columns of `RUN`, and `kept` (places).

    Run `at[i]` of this document is a copy of run `kept_at[i]` of the document at `kept[i]`. With `protect`, words that also belong
    to the copy that stays (in this document, overlapping) are skipped.
    """
    order = np.argsort(at)
    at, kept, kept_at = at[order], kept[order], kept_at[order]
    ends = np.flatnonzero((np.diff(at) != 1) | (np.diff(kept_at) != 1) | (np.diff(kept) != 0))
    firsts, lasts = np.append(0, ends + 1), np.append(ends, len(at) - 1)
    rows: list[dict[str, Any]] = []
    for one, other in zip(firsts.tolist(), lasts.tolist(), strict=True):
        first, size = int(at[one]), int(at[other]) - int(at[one]) + k
        behind = int(words.begin[first + size]) if first + size < len(words.key) else len(words.data)
        low = int(words.begin[first])
        overlap = int(kept_at[one]) + k - first if protect and int(kept[one]) == place else 0
        skip = max(0, overlap)
        rows.append(
            {
                "bytes": words.data[low:behind].tobytes(),
                "solid": int(words.stop[first + size - 1]) - low,
                "at": first,
                "size": size,
                "skip": skip,
                **edges(words, first + skip, first + size),
                "kept_at": int(kept_at[one]),
                "kept_place": int(kept[one]),
            }
        )
    columns: dict[str, Any] = {name: pa.array([row[name] for row in rows], kind) for name, kind in RUN.items()}
    return {**columns, "kept": kept[firsts]}


def edges(words: Words, first: int, last: int) -> dict[str, int]:
    """Where the words [first, last) can be cut out: never between a letter and a mark or joiner that belongs to it.

    `start` and `end` are code points; `clean` is the end of the last word that has no joiner behind it (`clean_last`: the word
    after it), `start` if none is; `tail` the end of what is no white space before `start`; `joins` tells of letters before `start`
    and at the beginning of the word behind.
    """
    table, text = classes(), words.text
    while first < last and table[ord(text[int(words.start[first])])] & MARK:
        first += 1
    if first == last:
        here = int(words.end[last - 1])
        return {
            "start": here,
            "end": here,
            "clean": here,
            "clean_last": last,
            "first": first,
            "last": last,
            "tail": here,
            "joins": 0,
        }
    start, end = int(words.start[first]), int(words.end[last - 1])
    clean = last
    while clean > first and _hangs_on(text, int(words.end[clean - 1])):
        clean -= 1
    tail = start
    while tail and text[tail - 1].isspace():
        tail -= 1
    before = table[ord(text[start - 1])] if start else 0
    after = table[ord(text[int(words.start[last])])] if last < len(words.key) else 0
    joins = BEFORE * _in_word(before) + AFTER * _in_word(after) + MARKED * bool(after & MARK)
    return {
        "start": start,
        "end": end,
        "clean": int(words.end[clean - 1]) if clean > first else start,
        "clean_last": clean,
        "first": first,
        "last": last,
        "tail": tail,
        "joins": joins,
    }


def _in_word(kind: Any) -> bool:
    """Whether a character with these class bits goes together with letters beside it."""
    return bool(kind & CORE) and not kind & UNSPACED


def _hangs_on(text: str, at: int) -> bool:
    """Whether the character at a place belongs to the one before it."""
    return at < len(text) and bool(classes()[ord(text[at])] & (MARK | JOINER))


def verified(words: Words, run: Mapping[str, Any], both: bool) -> list[dict[str, Any]]:
    """The cut that a run makes in its document if it stands in this one, which keeps it; with `both`, also the cut here."""
    first, size, solid = run["kept_at"], run["size"], run["solid"]
    low = int(words.begin[first])
    if first + size > len(words.key) or int(words.stop[first + size - 1]) != low + solid:
        return []
    if words.data[low : low + solid].tobytes() != run["bytes"][:solid]:
        return []
    behind = int(words.begin[first + size]) if first + size < len(words.key) else len(words.data)
    here = words.data[low + solid : behind].tobytes().decode("utf-8", "surrogatepass")
    there = run["bytes"][solid:].decode("utf-8", "surrogatepass")
    common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(here, there, strict=False)))
    cuts = [_cut(run, there, common)]
    if both:
        cuts.append(_cut(edges(words, first, first + size), here, common))
    return cuts


def _cut(edge: Mapping[str, Any], gap: str, common: int) -> dict[str, Any]:
    """A cut with as much of the gap behind its last word as is common to both places."""
    marked = bool(edge["joins"] & MARKED)
    while common and (_hangs_on(gap, common) or (marked and common == len(gap))):
        common -= 1
    whole = common > 0 or not _hangs_on(gap, 0)
    end, last = (edge["end"] + common, edge["last"]) if whole else (edge["clean"], edge["clean_last"])
    if whole and edge["tail"] == 0 and not marked:  # nothing but white space is left before it: none behind it, either
        end += len(gap) - common - len(gap[common:].lstrip())
    joins = edge["joins"] & (BEFORE | AFTER if end == edge["end"] + len(gap) else BEFORE)
    columns = ("start", "first", "tail")
    return {**{name: edge[name] for name in columns}, "end": max(end, edge["start"]), "last": last, "joins": joins}


def joined_cuts(cuts: np.ndarray, length: int) -> tuple[list[dict[str, Any]], int, int]:
    """Edits of a text of `length` code points, the words that they take, and the longest run of them; `cuts` has the columns of `CUT`."""
    start, end, first, last, tail, joins = range(6)
    edits: list[dict[str, Any]] = []
    tails: list[int] = []
    sides: list[int] = []  # of each edit: BEFORE of its first cut, AFTER of the one that reaches farthest
    for row in cuts[np.lexsort((cuts[:, end], cuts[:, start]))].tolist():
        if row[end] <= row[start]:
            continue
        if edits and row[start] <= edits[-1]["end"]:
            if row[end] > edits[-1]["end"]:
                edits[-1]["end"] = row[end]
                sides[-1] = sides[-1] & BEFORE | row[joins] & AFTER
        else:
            edits.append({"start": row[start], "end": row[end], "replacement": ""})
            tails.append(row[tail])
            sides.append(row[joins])
    for edit, side in zip(edits, sides, strict=True):
        edit["replacement"] = " " if side == BEFORE | AFTER else ""  # else both sides would be one word
    if edits and edits[-1]["end"] == length:  # nothing stays behind it: no white space before it, either
        edits[-1]["start"] = tails[-1]
        edits[-1]["replacement"] = ""
        if len(edits) > 1 and edits[-2]["end"] >= tails[-1]:
            edits[-2:] = [{"start": edits[-2]["start"], "end": length, "replacement": ""}]
    gone = longest = 0
    reach = opened = 0
    for row in cuts[np.lexsort((cuts[:, last], cuts[:, first]))].tolist():
        opened = row[first] if row[first] > reach else min(opened, row[first])
        gone += max(0, row[last] - max(row[first], reach))
        reach = max(reach, row[last])
        longest = max(longest, reach - opened)
    return edits, gone, longest
