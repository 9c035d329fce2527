"""Kernels that turn texts into ids: pre-tokens, a cache of those seen, and for the others byte-pair merging.

The cache is one open-addressing table of buckets of two slots, four uint64 a slot:

    0, 1   the pre-token. Up to 15 bytes: the bytes themselves, little-endian and padded with zeros, and their number in the top
           byte. Longer: a hash of the bytes, and their number with the top bit set; the bytes lie in the arena.
    2      its ids: their number in the low 32 bits; above them the first, or where they begin in the list of ids, if there are more
           than three or the pre-token is long
    3      the second and the third id; for long pre-tokens where their bytes begin in the arena

A slot whose field 1 is 0 is free; the second of a bucket is filled after the first. `used` counts slots, ids and arena bytes
taken. A pre-token that finds no room is merged anew each time.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stages.jit import bare_kernel, kernel
from tokenizer_training.encoding.merges import merge_by_heap, merge_scanning
from tokenizer_training.vocabulary.characters import OTHER
from tokenizer_training.vocabulary.patterns import GPT2_STYLE, O200K_STYLE
from tokenizer_training.vocabulary.pretokenize import next_end

INLINE = 15  # bytes of a word that the table itself holds
LONGEST_CACHED = 256  # bytes; longer words hardly come twice
SCAN = 40  # symbols up to which looking for the lowest rank each time is faster than keeping a heap

ONE: Any = np.uint64(1)
TWO: Any = np.uint64(2)
THREE: Any = np.uint64(3)
HOT = 1 << 15  # slots of the small table before it, one a place, which stays in the processor's cache
HOT_MASK: Any = np.uint64(HOT - 1)
THIRTYTWO: Any = np.uint64(32)
TOP: Any = np.uint64(63)
LONG: Any = np.uint64(1 << 63)
LOW32: Any = np.uint64(0xFFFFFFFF)
ZERO: Any = np.uint64(0)
# odd constants for multiplicative hashing: 2^64 divided by the golden ratio, and a prime
MIX: Any = np.uint64(0x9E3779B97F4A7C15)
MIX2: Any = np.uint64(0xC2B2AE3D27D4EB4F)

# What remains of the first and the second eight bytes of a word of n bytes, and n itself in the top byte
FIRST: Any = np.array([(1 << 8 * min(n, 8)) - 1 for n in range(INLINE + 1)], np.uint64)
SECOND: Any = np.array([(1 << 8 * max(n - 8, 0)) - 1 for n in range(INLINE + 1)], np.uint64)
LENGTH: Any = np.array([n << 56 for n in range(INLINE + 1)], np.uint64)

CASED = O200K_STYLE  # styles from this on cut words where lower case turns to upper

# Eight bytes at once
CASES: Any = np.uint64(0x2020202020202020)
ASCII: Any = np.uint64(0x7F7F7F7F7F7F7F7F)
TOPS: Any = np.uint64(0x8080808080808080)
ONES: Any = np.uint64(0x0101010101010101)
FROM_A: Any = np.uint64(0x1F1F1F1F1F1F1F1F)  # carries letters from "a" on into the top bit of their byte
AFTER_Z: Any = np.uint64(0x0505050505050505)  # and what follows "z"
SEVEN: Any = np.uint64(7)
FIFTYSIX: Any = np.uint64(56)


@bare_kernel
def key_of(data: Any, words: Any, at: Any, end: Any) -> Any:
    """Fields 0 and 1 of the slot of the word `data[at:end]`."""
    size = end - at
    if size <= INLINE:
        w = at >> 3
        shift = np.uint64((at & 7) << 3)
        middle = words[w + 1]
        first = ((words[w] >> shift) | ((middle << ONE) << (TOP - shift))) & FIRST[size]
        second = ((middle >> shift) | ((words[w + 2] << ONE) << (TOP - shift))) & SECOND[size]
        return first, second | LENGTH[size]
    first = np.uint64(size)
    place = at
    while place + 8 <= end:
        w = place >> 3
        shift = np.uint64((place & 7) << 3)
        first = (first ^ ((words[w] >> shift) | ((words[w + 1] << ONE) << (TOP - shift)))) * MIX
        first ^= first >> THIRTYTWO
        place += 8
    while place < end:
        first = (first ^ np.uint64(data[place])) * MIX
        place += 1
    first ^= first >> THIRTYTWO
    return first, LONG | np.uint64(size)


@bare_kernel
def slot_of(table: Any, arena: Any, data: Any, at: Any, size: Any, first: Any, second: Any) -> Any:
    """Where the slot of a pre-token begins in the table: its own, or the free one where it would go."""
    mask = np.uint64((table.shape[0] >> 3) - 1)
    mixed = first * MIX + second * MIX2
    bucket = (mixed ^ (mixed >> THIRTYTWO)) & mask
    while True:
        for base in (np.int64(bucket << THREE), np.int64(bucket << THREE) + 4):
            there = table[base + 1]
            if there == ZERO:
                return base
            if there == second and table[base] == first:
                if size <= INLINE:
                    return base
                start = np.int64(table[base + 3])
                same = True
                for k in range(size):
                    if arena[start + k] != data[at + k]:
                        same = False
                        break
                if same:
                    return base
        bucket = (bucket + ONE) & mask


@bare_kernel
def put(
    table: Any,
    ids: Any,
    arena: Any,
    used: Any,
    base: Any,
    first: Any,
    second: Any,
    data: Any,
    at: Any,
    size: Any,
    symbols: Any,
    number: Any,
) -> None:
    """Fill a free slot with a pre-token and its ids; there is room."""
    table[base] = first
    table[base + 1] = second
    place = symbols[0]
    if size > INLINE or number > 3:
        place = used[1]
        for k in range(number):
            ids[place + k] = symbols[k]
        used[1] += number
    table[base + 2] = (np.uint64(place) << THIRTYTWO) | np.uint64(number)
    if size > INLINE:
        table[base + 3] = np.uint64(used[2])
        for k in range(size):
            arena[used[2] + k] = data[at + k]
        used[2] += size
    elif number <= 3:
        more = np.uint64(symbols[1]) if number > 1 else ZERO
        last = np.uint64(symbols[2]) if number > 2 else ZERO
        table[base + 3] = more | (last << THIRTYTWO)
    used[0] += 1


@kernel
def put_tokens(
    data: Any,
    words: Any,
    ends: Any,
    numbers: Any,
    merging: Any,
    byte_ids: Any,
    pairs: Any,
    table: Any,
    ids: Any,
    arena: Any,
    used: Any,
) -> None:
    """Put pre-tokens into the table: with `merging` as merging makes them, else each as the one id `numbers` says."""
    longest = 0
    at = 0
    for i in range(ends.shape[0]):
        if ends[i] - at > longest:
            longest = ends[i] - at
        at = ends[i]
    symbols = np.empty(longest + 1, np.int64)
    before = np.empty(longest, np.int64)
    after = np.empty(longest, np.int64)
    heap = np.empty(3 * longest + 1, np.int64)
    at = 0
    for i in range(ends.shape[0]):
        size = ends[i] - at
        number = 1
        if merging:
            for k in range(size):
                symbols[k] = byte_ids[data[at + k]]
            number = merge_by_heap(pairs, symbols, size, before, after, heap)
        else:
            symbols[0] = numbers[i]
        first, second = key_of(data, words, at, ends[i])
        base = slot_of(table, arena, data, at, size, first, second)
        if table[base + 1] == ZERO:
            put(table, ids, arena, used, base, first, second, data, at, size, symbols, number)
        at = ends[i]


@bare_kernel
def encode_rows(
    data: Any,
    words: Any,
    row_ends: Any,
    classes: Any,
    style: Any,
    digits: Any,
    before_word: Any,
    byte_ids: Any,
    pairs: Any,
    table: Any,
    ids: Any,
    arena: Any,
    used: Any,
    limits: Any,
    scratch: Any,
    hot: Any,
    out: Any,
    offsets: Any,
) -> Any:
    """Write the ids of all rows to `out`, and where each row's end to `offsets[1:]`; returns how many there are.

    `data` is uint8, `words` the same bytes as uint64, with 32 bytes or more after the last row. `row_ends`: int64.
    `classes`, `style`, `digits`: as `next_end` wants them. `before_word`: whether an ASCII character joins the word after it (bool[128]).
    `used` and `limits`: slots, ids, arena bytes; used[3] counts the pre-tokens that had to be merged. `out` has room for as many
    ids as there are bytes, and three more. `scratch` is int64, six for each byte of the longest pre-token; if one is longer, minus its
    length is returned, and nothing else is of use. `hot`: uint64, four for each of HOT slots, copies of the table's slots of short words
    that were met last.

    `next_end` knows every pre-token. The commonest, all of ASCII and before a character of ASCII, are found here; words
    eight bytes at a time. Where patterns look at case, a word is at most its first letter in upper case and the others in lower.
    """
    room = scratch.shape[0] // 6
    symbols = scratch[:room]
    before = scratch[room : 2 * room]
    after = scratch[2 * room : 3 * room]
    heap = scratch[3 * room :]
    mask = np.uint64((table.shape[0] >> 3) - 1)
    cased = style >= CASED
    fold = ZERO if cased else CASES
    made: Any = 0
    at: Any = 0
    warm: Any = 0
    for row in range(row_ends.shape[0]):
        stop = row_ends[row]
        while at < stop:
            byte = data[at]
            end = at
            if byte < 0x80 and before_word[byte]:
                end += 1
            if cased and 0x41 <= data[end] <= 0x5A:
                end += 1
            begun = end
            while True:
                w = end >> 3
                shift = np.uint64((end & 7) << 3)
                eight = (words[w] >> shift) | ((words[w + 1] << ONE) << (TOP - shift))
                lower = (eight | fold) & ASCII  # of bytes from 0x80 on the top bit is looked at below
                others = (~((lower + FROM_A) & ~(lower + AFTER_Z)) | eight) & TOPS
                if others != ZERO:
                    # the lowest top bit that is set, as a number of bytes
                    end += np.int64(((((others & (~others + ONE)) >> SEVEN) - ONE) & ONES) * ONES >> FIFTYSIX)
                    break
                end += 8
            if end == begun or end >= stop or data[end] >= 0x80 or (cased and data[end] == 0x27):
                end = at
                space = byte == 0x20
                following = data[at + 1]
                if space and at + 1 < stop and following == 0x20:  # spaces before something else, which keeps the last
                    end = at + 2
                    while end < stop and data[end] == 0x20:
                        end += 1
                    following = data[end]
                    end = end - 1 if end < stop and following < 0x80 and not 9 <= following <= 13 else at
                elif style != GPT2_STYLE and 0x30 <= byte <= 0x39:
                    end = at + 1
                    while end < stop and end - at < digits and 0x30 <= data[end] <= 0x39:
                        end += 1
                    if end < stop and end - at < digits and data[end] >= 0x80:
                        end = at
                elif style != GPT2_STYLE and space and at + 1 < stop and 0x30 <= following <= 0x39:
                    end = at + 1
                elif space or (byte < 0x80 and classes[byte] == OTHER):  # punctuation, with line feeds after it
                    end = at + 1
                    while end < stop and data[end] < 0x80 and classes[data[end]] == OTHER:
                        end += 1
                    if (end == at + 1 and (space or end == stop or 0x61 <= (data[end] | 0x20) <= 0x7A)) or (
                        end < stop and data[end] >= 0x80
                    ):
                        end = at
                    elif style != GPT2_STYLE:
                        while end < stop and (data[end] == 0x0A or data[end] == 0x0D or (cased and data[end] == 0x2F)):
                            end += 1
                if end == at:
                    end = next_end(data, at, stop, classes, style, digits)
            size = end - at
            found = False
            if size <= INLINE:
                w = at >> 3
                shift = np.uint64((at & 7) << 3)
                middle = words[w + 1]
                first = ((words[w] >> shift) | ((middle << ONE) << (TOP - shift))) & FIRST[size]
                second = (((middle >> shift) | ((words[w + 2] << ONE) << (TOP - shift))) & SECOND[size]) | LENGTH[size]
                mixed = first * MIX + second * MIX2
                mixed ^= mixed >> THIRTYTWO
                warm = np.int64((mixed & HOT_MASK) << TWO)
                if ((hot[warm] ^ first) | (hot[warm + 1] ^ second)) == ZERO:
                    value = hot[warm + 2]
                    others = hot[warm + 3]
                    out[made] = np.int64(value >> THIRTYTWO)
                    out[made + 1] = np.int64(others & LOW32)
                    out[made + 2] = np.int64(others >> THIRTYTWO)
                    made += np.int64(value & LOW32)
                    at = end
                    continue
                bucket = mixed & mask
                while True:
                    base = np.int64(bucket << THREE)
                    one = ((table[base] ^ first) | (table[base + 1] ^ second)) == ZERO
                    two = ((table[base + 4] ^ first) | (table[base + 5] ^ second)) == ZERO
                    if one | two:
                        found = True
                        base += 4 if two else 0
                        break
                    if table[base + 5] == ZERO:
                        base += 0 if table[base + 1] == ZERO else 4
                        break
                    bucket = (bucket + ONE) & mask
            else:
                first, second = key_of(data, words, at, end)
                base = slot_of(table, arena, data, at, size, first, second)
                found = table[base + 1] != ZERO
            if found:
                value = table[base + 2]
                number = np.int64(value & LOW32)
                place = np.int64(value >> THIRTYTWO)
                if number <= 3 and size <= INLINE:
                    others = table[base + 3]
                    hot[warm] = first
                    hot[warm + 1] = second
                    hot[warm + 2] = value
                    hot[warm + 3] = others
                    out[made] = place
                    out[made + 1] = np.int64(others & LOW32)
                    out[made + 2] = np.int64(others >> THIRTYTWO)
                else:
                    for k in range(number):
                        out[made + k] = ids[place + k]
                made += number
            else:
                used[3] += 1
                if size > room:
                    return -size
                for k in range(size):
                    symbols[k] = byte_ids[data[at + k]]
                if size <= SCAN:
                    number = merge_scanning(pairs, symbols, size, heap)
                else:
                    number = merge_by_heap(pairs, symbols, size, before, after, heap)
                for k in range(number):
                    out[made + k] = symbols[k]
                made += number
                if (
                    size <= LONGEST_CACHED
                    and used[0] < limits[0]
                    and used[1] + number <= limits[1]
                    and used[2] + size <= limits[2]
                ):
                    put(table, ids, arena, used, base, first, second, data, at, size, symbols, number)
            at = end
        offsets[row + 1] = made
    return made
