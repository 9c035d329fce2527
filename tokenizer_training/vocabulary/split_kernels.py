"""The compiled loops of pre-tokenisation: where a pre-token ends, where endless runs are cut, what is NFC already.

They work on UTF-8 bytes. Bytes that are not UTF-8 do no harm here but have no meaning: check first.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stages.jit import bare_kernel, inlined_kernel

# Sets of classes as bits (1 << class), see characters.py; the loops below want plain numbers.
_LETTERS = 0b000_0011_1110
_MARKS = 0b000_0100_0000
_NUMBERS = 0b000_1000_0000
_SPACES = 0b111_0000_0000
_OTHERS = 0b000_0000_0001
_UPPERS = 0b000_0111_1010  # upper and title case, modifiers, letters without case, marks
_LOWERS = 0b000_0111_0100  # lower case, modifiers, letters without case, marks
_BOTH = 0b000_0111_0000
_LOWER, _MARK, _NUMBER, _NEWLINE, _SPACE = 2, 6, 7, 9, 10

GPT2, _QWEN35, O200K = 0, 2, 3
# The ASCII characters below @, but for line ends, digits and the apostrophe, as bits: each may head a word.
HEADS = sum(1 << code for code in range(0x40) if not (0x30 <= code <= 0x39 or code in (0x0A, 0x0D, 0x27)))


@inlined_kernel
def _read(data: Any, at: int, stop: int, classes: Any) -> Any:
    """The class of the character at `at` (below `stop`), and where the next one begins."""
    first = np.int64(data[at])
    if first < 0x80:
        return np.int64(classes[first]), at + 1
    if first < 0xE0:
        if at + 2 > stop:
            return np.int64(0), stop
        return np.int64(classes[(first & 0x1F) << 6 | (data[at + 1] & 0x3F)]), at + 2
    if first < 0xF0:
        if at + 3 > stop:
            return np.int64(0), stop
        return (
            np.int64(classes[(first & 0x0F) << 12 | (np.int64(data[at + 1]) & 0x3F) << 6 | (data[at + 2] & 0x3F)]),
            at + 3,
        )
    if at + 4 > stop:
        return np.int64(0), stop
    code = (
        (first & 0x07) << 18
        | (np.int64(data[at + 1]) & 0x3F) << 12
        | (np.int64(data[at + 2]) & 0x3F) << 6
        | (data[at + 3] & 0x3F)
    )
    if code >= 0x110000:
        return np.int64(0), at + 4
    return np.int64(classes[code]), at + 4


@inlined_kernel
def _run(data: Any, at: int, stop: int, classes: Any, members: int) -> int:
    """Where the characters of the set `members` that begin at `at` end."""
    while at < stop:
        first = data[at]
        if first < 0x80:
            if not (members >> np.int64(classes[first])) & 1:
                break
            at += 1
        else:
            found, after = _read(data, at, stop, classes)
            if not (members >> found) & 1:
                break
            at = after
    return at


@bare_kernel
def _numbers(data: Any, at: int, stop: int, classes: Any, most: int) -> int:
    """Where at most `most` digits (0: any number) that begin at `at` end."""
    if most == 0:
        return _run(data, at, stop, classes, _NUMBERS)
    for _ in range(most):
        if at == stop:
            break
        found, after = _read(data, at, stop, classes)
        if found != _NUMBER:
            break
        at = after
    return at


@bare_kernel
def _contraction(data: Any, at: int, stop: int, any_case: bool) -> int:
    """The end of 's 't 're 've 'm 'll 'd at the apostrophe at `at`, or `at`.

    In any case the engine also takes U+017F, the long s, for an s; it knows no other relative of these letters.
    """
    if at + 1 >= stop:
        return at
    first = data[at + 1]
    if any_case:
        if first == 0xC5:
            return at + 3 if at + 2 < stop and data[at + 2] == 0xBF else at
        first |= 0x20
    if first == 0x73 or first == 0x74 or first == 0x6D or first == 0x64:
        return at + 2
    if at + 2 < stop:
        second = data[at + 2]
        if any_case:
            second |= 0x20
        if (first == 0x72 or first == 0x76) and second == 0x65:
            return at + 3
        if first == 0x6C and second == 0x6C:
            return at + 3
    return at


@bare_kernel
def _spaces(data: Any, at: int, stop: int, classes: Any, lines: bool) -> int:
    r"""The end of `\s*[\r\n]+` (with `lines`), else of `\s+(?!\S)`, else of `\s+`."""
    place, last, line = at, at, at
    while place < stop:
        found, after = _read(data, place, stop, classes)
        if not (_SPACES >> found) & 1:
            break
        if found == _NEWLINE:
            line = after
        last = place
        place = after
    if lines and line > at:
        return line
    if place < stop and last > at:
        return last
    return place


@bare_kernel
def _cased(data: Any, at: int, stop: int, classes: Any, upper_alone: bool) -> int:
    """The end of o200k's word at `at` without what may precede and follow it, or `at`.

    `[upper]*[lower]+` takes the upper set as far as it goes, then gives back until the lower set finds a character: one of
    both sets. Only if there is none, `[upper]+[lower]*` (with `upper_alone`) takes them all.
    """
    place, both = at, at
    found = np.int64(0)
    while place < stop:
        found, after = _read(data, place, stop, classes)
        if not (_UPPERS >> found) & 1:
            break
        place = after
        if (_BOTH >> found) & 1:
            both = place
    if place < stop and found == _LOWER:
        return _run(data, place, stop, classes, _LOWERS)
    if both > at:
        return both
    return place if upper_alone else at


@bare_kernel
def _gpt2(data: Any, at: int, stop: int, classes: Any, digits: int) -> int:
    if data[at] == 0x27:
        end = _contraction(data, at, stop, False)
        if end > at:
            return end
    found, place = _read(data, at, stop, classes)
    if found == _SPACE and place < stop:
        found, after = _read(data, place, stop, classes)
    else:
        after = place
        place = at
    if (_LETTERS >> found) & 1:
        return _run(data, after, stop, classes, _LETTERS)
    if found == _NUMBER:
        return _numbers(data, place, stop, classes, digits)
    if not (_SPACES >> found) & 1:
        return _run(data, after, stop, classes, _OTHERS | _MARKS)
    return _spaces(data, at, stop, classes, False)


@inlined_kernel
def next_end(data: Any, at: int, stop: int, classes: Any, style: int, digits: int) -> int:
    """The end of the pre-token that begins at `at`.

    `data`: uint8[N], UTF-8. 0 <= at < stop <= N, both where characters begin; the text ends at `stop`. `classes`: see
    `character_classes`. `style`, `digits`: as in `Rules`, style not -1. Reads no further than `stop`.
    """
    # Most pre-tokens are a space and a word of ASCII: those at once.
    place = at
    if data[at] == 0x20 or (style != GPT2 and HEADS >> np.int64(data[at] & 0x3F) & 1 and data[at] < 0x40):
        place += 1
    start = place
    if style >= O200K:
        while place < stop and 0x41 <= data[place] <= 0x5A:
            place += 1
        while place < stop and 0x61 <= data[place] <= 0x7A:
            place += 1
    else:
        while place < stop and 0x61 <= data[place] | 0x20 <= 0x7A:
            place += 1
    if place > start and place < stop and data[place] < 0x80:
        if style == O200K and data[place] == 0x27:
            return _contraction(data, place, stop, True)
        return place
    if style == GPT2:
        return _gpt2(data, at, stop, classes, digits)
    first, place = _read(data, at, stop, classes)
    second, after = np.int64(_NEWLINE), place  # nothing that a word or punctuation could begin with
    if place < stop:
        second, after = _read(data, place, stop, classes)
    if first == _NUMBER:
        return _numbers(data, at, stop, classes, digits)
    others = _OTHERS | _MARKS
    if style >= O200K:
        if first != _NEWLINE:
            end = at
            if (_LETTERS >> first) & 1:
                end = _cased(data, at, stop, classes, True)
            else:
                end = _cased(data, place, stop, classes, first != _MARK)
                if end == place and first != _MARK:
                    end = at  # nothing follows, and what may precede a word is none
            if end > at:
                if style == O200K and end < stop and data[end] == 0x27:
                    end = _contraction(data, end, stop, True)
                return end
    else:
        if data[at] == 0x27:
            end = _contraction(data, at, stop, True)
            if end > at:
                return end
        letters = _LETTERS
        if style == _QWEN35:
            letters, others = _LETTERS | _MARKS, _OTHERS
        if (letters >> first) & 1:
            return _run(data, place, stop, classes, letters)
        if first != _NEWLINE and (letters >> second) & 1:
            return _run(data, after, stop, classes, letters)
    if first == _SPACE:
        end = after if (others >> second) & 1 else at
    else:
        end = place if (others >> first) & 1 else at
    if end > at:
        end = _run(data, end, stop, classes, others)
        while end < stop and (data[end] == 0x0A or data[end] == 0x0D or (style >= O200K and data[end] == 0x2F)):
            end += 1
        return end
    return _spaces(data, at, stop, classes, True)


@bare_kernel
def run_cuts(data: Any, start: int, stop: int, classes: Any, longest: int, cuts: Any) -> int:
    """Where the text from `start` to `stop` is cut for its endless runs, see above: written to `cuts`, ascending.

    `cuts`: int64[M]; M of `room_for_cuts`. Returns how many there are. `longest`: at least 4.
    """
    count = 0
    done = cuts[len(cuts) - 4 :]  # for each kind of run, the end of the last one
    for kind in range(4):
        done[kind] = start
    kinds = (_LETTERS | _MARKS, _NUMBERS, _SPACES, _OTHERS | _MARKS)
    place = start + longest  # a run of more than `longest` bytes holds one of these places, and reaches to both sides
    while place < stop:
        at = place
        while at > start and data[at] & 0xC0 == 0x80:
            at -= 1
        found, _ = _read(data, at, stop, classes)
        for kind in range(4):
            members = kinds[kind]
            if not (members >> found) & 1 or at < done[kind]:
                continue
            low = at
            while low > done[kind]:
                before = low - 1
                while before > start and data[before] & 0xC0 == 0x80:
                    before -= 1
                other, _ = _read(data, before, stop, classes)
                if not (members >> other) & 1:
                    break
                low = before
            high = _run(data, at, stop, classes, members)
            done[kind] = high
            cut = low + longest
            while cut < high:
                where = cut
                while data[where] & 0xC0 == 0x80:
                    where -= 1
                cuts[count] = where
                count += 1
                cut += longest
        place += longest
    # Runs of marks that follow letters and precede others overlap: sorted by insertion, as nearly all are in place.
    kept = 0
    for number in range(count):
        cut = cuts[number]
        slot = kept
        while slot > 0 and cuts[slot - 1] > cut:
            slot -= 1
        if slot == 0 or cuts[slot - 1] != cut:
            for moved in range(kept, slot, -1):
                cuts[moved] = cuts[moved - 1]
            cuts[slot] = cut
            kept += 1
    return kept


@bare_kernel
def pretoken_ends(
    data: Any, start: int, stop: int, classes: Any, style: int, digits: int, longest: int, cuts: Any, ends: Any
) -> int:
    """The ends of all pre-tokens from `start` to `stop`, after the cuts for endless runs: written to `ends`.

    `cuts`: int64, room for `run_cuts`. `ends`: int64, room for stop - start. Returns how many pre-tokens there are.
    """
    cut_count = run_cuts(data, start, stop, classes, longest, cuts) if stop - start > longest else 0
    count = 0
    at = start
    for number in range(cut_count + 1):
        border = cuts[number] if number < cut_count else stop
        while at < border:
            at = next_end(data, at, border, classes, style, digits)
            ends[count] = at
            count += 1
    return count


@bare_kernel
def is_nfc(data: Any, start: int, stop: int, forms: Any) -> bool:
    """Whether the text from `start` to `stop` is surely its own NFC."""
    at = start
    marked = False
    while at < stop:
        if data[at] < 0xCC:  # below U+0300
            if data[at] >= 0x80:
                at += 1
            at += 1
            marked = False
            continue
        form, at = _read(data, at, stop, forms)
        if form == 2 or (form == 1 and marked):
            return False
        marked = form == 1
    return True


@bare_kernel
def mark_changed(data: Any, offsets: Any, forms: Any, changed: Any) -> None:
    """For each text i, from offsets[i] to offsets[i + 1], whether NFC may change it: written to `changed`."""
    for number in range(len(changed)):
        changed[number] = not is_nfc(data, offsets[number], offsets[number + 1], forms)
