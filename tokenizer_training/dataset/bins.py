"""Compiled parts of packing: where documents longer than a row are cut, and best-fit-decreasing.

A piece is a stretch of one document that goes into one row whole; a document that fits into a row is one piece.
"""

from __future__ import annotations

import numpy as np

from stages.jit import kernel

ENDS, MAY_END, STARTS, TURN = 1, 2, 4, 8  # properties of a token, see `boundaries.py`

# index of the only set bit of a 64-bit number, by multiplication (Leiserson, Prokop, Randall 1998)
_DEBRUIJN = np.uint64(0x03F79D71B4CB0A89)
_LOWEST = np.zeros(64, np.int64)
for _bit in range(64):
    _LOWEST[((int(_DEBRUIJN) << _bit) % 2**64) >> 58] = _bit


@kernel
def lowest_bit(word):  # type: ignore[no-untyped-def]
    """The number of the lowest set bit of a uint64 that is not 0."""
    return _LOWEST[((word & (~word + np.uint64(1))) * _DEBRUIJN) >> np.uint64(58)]


@kernel
def cut(tokens, flags, starts, lengths, capacity, near, search, avail, turns, documents, offsets, sizes, gaps, count):  # type: ignore[no-untyped-def]
    """Cut documents of one shard into pieces of at most `capacity` tokens; returns the number of pieces so far.

    `starts`, `lengths`: int64, of each document in `tokens`; `count`: pieces that stand in the outputs already, to which these
    are appended (`documents`: number within the window, offsets, sizes). A document that is too long is cut behind a token
    that ends a sentence or line: at the last such place at least `near` and less than `search` tokens short of a full row for
    whose gap `avail` says that a whole document is there to fill it exactly (`gaps`: its length, else 0); else at the last such
    place less than `search` short; else after `capacity` tokens. `search` 0: there at once. With `turns`, before a turn of a
    user if the row holds one.
    """
    touched = np.int64(0)
    if search:  # the processor waits for many of these at once, but below for one after the other
        for document in range(len(starts)):
            if lengths[document] > capacity:
                place = starts[document] + capacity - near
                touched ^= np.int64(tokens[place - 1]) ^ np.int64(tokens[place - 33 if place > 33 else 0])
    for document in range(len(starts)):
        at, end = starts[document], starts[document] + lengths[document]
        while end - at > capacity:
            stop = at + capacity
            gap, found = 0, False
            if turns:
                place = stop
                while place > at:
                    if flags[tokens[place]] & TURN:
                        stop, found = place, True
                        break
                    place -= 1
            if not found and search:
                place, low = stop - near, stop - search  # where some document may fill the gap
                while place > low:
                    kind = flags[tokens[place - 1]]
                    if kind & ENDS or (kind & MAY_END and flags[tokens[place]] & STARTS):
                        missing = stop - place
                        if avail[missing] > 0:
                            gap, found = missing, True
                            avail[missing] -= 1
                            stop = place
                            break
                    place -= 1
                if not found:
                    place = stop
                    while place > low:
                        kind = flags[tokens[place - 1]]
                        if kind & ENDS or (kind & MAY_END and flags[tokens[place]] & STARTS):
                            stop = place
                            break
                        place -= 1
            documents[count], offsets[count], sizes[count], gaps[count] = document, at, stop - at, gap
            count += 1
            at = stop
        documents[count], offsets[count], sizes[count], gaps[count] = document, at, end - at, 0
        count += 1
    return count + (touched >> 62)  # token ids are smaller: nothing is added, and the reading is not optimised away


@kernel
def fit(lengths, gaps, capacity, rows):  # type: ignore[no-untyped-def]
    """Best-fit-decreasing: writes the row of each piece into `rows` (int64) and returns the number of rows.

    A piece with a gap gets a row with an earlier unplaced piece of exactly that length if there is one. The others are placed longest first,
    ties to the earlier, into the row with the least space that they fit in, ties to the one changed last. Rows by the space
    they have left are lists; a bit set over the spaces, and one over its words, finds the list.
    """
    pieces = len(lengths)
    first = np.full(capacity + 2, -1, np.int64)  # of the pieces of each length, in their order
    later = np.empty(pieces, np.int64)
    for at in range(pieces - 1, -1, -1):
        rows[at] = -1
        later[at] = first[lengths[at]]
        first[lengths[at]] = at
    made = 0
    for at in range(pieces):
        if gaps[at]:
            partner = first[gaps[at]]
            if partner >= 0:
                first[gaps[at]] = later[partner]
                rows[at] = made
                rows[partner] = made
                made += 1
    open_row = np.full(capacity + 1, -1, np.int64)  # the row changed last among those with this space
    below = np.empty(pieces, np.int64)  # the row under it
    words = np.zeros((capacity >> 6) + 1, np.uint64)
    tops = np.zeros((len(words) >> 6) + 1, np.uint64)
    one = np.uint64(1)
    for length in range(capacity, 0, -1):
        at = first[length]
        while at >= 0:
            if rows[at] < 0:
                space = -1
                word = length >> 6
                bits = words[word] >> np.uint64(length & 63) << np.uint64(length & 63)
                if bits:
                    space = (word << 6) + lowest_bit(bits)
                else:
                    word += 1
                    top = word >> 6
                    bits = tops[top] >> np.uint64(word & 63) << np.uint64(word & 63)
                    while bits == 0 and top + 1 < len(tops):
                        top += 1
                        bits = tops[top]
                    if bits:
                        word = (top << 6) + lowest_bit(bits)
                        space = (word << 6) + lowest_bit(words[word])
                if space >= 0:
                    row = open_row[space]
                    open_row[space] = below[row]
                    if below[row] < 0:
                        words[space >> 6] ^= one << np.uint64(space & 63)
                        if words[space >> 6] == 0:
                            tops[space >> 12] ^= one << np.uint64((space >> 6) & 63)
                else:
                    space, row = capacity, made
                    made += 1
                rows[at] = row
                left = space - length
                if left:
                    below[row] = open_row[left]
                    open_row[left] = row
                    if words[left >> 6] == 0:
                        tops[left >> 12] |= one << np.uint64((left >> 6) & 63)
                    words[left >> 6] |= one << np.uint64(left & 63)
            at = later[at]
    return made


@kernel
def arrange(rows, made, seed, documents, offsets, sizes, shards, lines):  # type: ignore[no-untyped-def]
    """Puts the rows of a window in a shuffled order and their pieces behind each other, as they stand in the window.

    `lines`: int64 (4, pieces) of row, offset, length, shard, which are written; `shards`: by document. Returns the most pieces of a row. The
    shuffle is Fisher and Yates' with SplitMix64 (Steele et al. 2014) from `seed` (uint64) on.
    """
    place = np.arange(made)
    state = seed
    for last in range(made - 1, 0, -1):
        state += np.uint64(0x9E3779B97F4A7C15)
        x = state
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
        other = np.int64(((x >> np.uint64(32)) * np.uint64(last + 1)) >> np.uint64(32))
        place[last], place[other] = place[other], place[last]
    starts = np.zeros(made + 1, np.int64)
    for piece in range(len(rows)):
        starts[place[rows[piece]] + 1] += 1
    most = 0
    for row in range(made):
        most = starts[row + 1] if starts[row + 1] > most else most
        starts[row + 1] += starts[row]
    for piece in range(len(rows)):
        row = place[rows[piece]]
        at = starts[row]
        starts[row] = at + 1
        lines[0, at], lines[1, at], lines[2, at] = row, offsets[piece], sizes[piece]
        lines[3, at] = shards[documents[piece]]
    return most


@kernel
def chain(offsets, lengths, capacity, filled, held, rows, starts, sizes):  # type: ignore[no-untyped-def]
    """Rows cut from the stream of a shard's documents; row 0 is the one that is open, with `filled` tokens of `held` documents.

    Writes spans (row, start, size) and returns (spans, the row that is open then, its tokens, its documents, documents cut, their tokens,
    most documents in a row). What follows in row and shard is one span.
    """
    spans = row = cut_documents = cut_tokens = most = 0
    for document in range(len(offsets)):
        at, end = offsets[document], offsets[document] + lengths[document]
        if filled + lengths[document] > capacity:
            cut_documents += 1
            cut_tokens += lengths[document]
        while at < end:
            room = capacity - filled
            take = end - at if end - at < room else room
            if spans and rows[spans - 1] == row and starts[spans - 1] + sizes[spans - 1] == at:
                sizes[spans - 1] += take
            else:
                rows[spans], starts[spans], sizes[spans] = row, at, take
                spans += 1
            at += take
            filled += take
            held += 1
            most = held if held > most else most
            if filled == capacity:
                row += 1
                filled = held = 0
    return spans, row, filled, held, cut_documents, cut_tokens, most


@kernel
def in_proportion(sizes, taken, first, order):  # type: ignore[no-untyped-def]
    """Writes into `order` which group each place from `first` on goes to; `taken` (places before, by group) is carried on.

    The j-th of a group of s among N places may come from floor(j N / s) on and before ceil((j + 1) N / s): of the groups that may,
    the one that must soonest, the first of equals. So every prefix of n places holds more than n s / N - 1 and fewer than
    n s / N + 1 of each group (Tijdeman 1980, "The chairman assignment problem").
    """
    total = sizes.sum()
    for place in range(len(order)):
        best, soonest = -1, 0
        for group in range(len(sizes)):
            if taken[group] < sizes[group] and taken[group] * total < (first + place + 1) * sizes[group]:
                deadline = -(-(taken[group] + 1) * total // sizes[group])
                if best < 0 or deadline < soonest:
                    best, soonest = group, deadline
        order[place] = best
        taken[best] += 1
