"""From a page's tree to its blocks: the runs of text that a reader sees as one line or paragraph, and what each is like."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from stages.extract.parse import EQUALS, FNV, PRIME, Bytes, Ints, Tree, is_space
from stages.extract.tags import BLOCK, FLAGS, NUMBER, SKIPPED, TEXT, name_hash
from stages.jit import kernel

Floats = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.int64]

A, BR, SCRIPT, STYLE = NUMBER["a"], NUMBER["br"], NUMBER["script"], NUMBER["style"]
CLASS, ID, ROLE, ITEMPROP, HIDDEN, ARIA_HIDDEN, STYLE_NAME = (
    np.uint64(name_hash(name)) for name in ("class", "id", "role", "itemprop", "hidden", "aria-hidden", "style")
)
# Words of elements that hide the text of a formula, and of those that hold readers' comments.
MATH, COMMENTS = (
    np.array([name_hash(word) for word in words.split()], np.uint64)
    for words in (
        "math mwe",
        "comment comments commentlist disqus kommentare kommentar commentaires comentarios commenti reacties",
    )
)
MOST_TOKENS = 16  # of one element's class and id

# Columns of `Blocks.text`: what is counted in a block.
LENGTH, LINKED, WORDS, STOPS, COMMAS, DIGITS, CAPITALS, LINKS, BREAKS, LAST = range(10)
MEASURES = 10


class Cues(NamedTuple):
    """What words in class, id, role and itemprop tell of an element: a hash table, as `tags.hash_table` makes them."""

    keys: npt.NDArray[np.uint64]
    values: Floats


class Blocks(NamedTuple):
    """The blocks of a page, in order, and cues of its elements.

    Lengths are in code points without white space; letters of Chinese, Japanese and Korean count two, as they say about as much.
    """

    first: Ints  # first text
    behind: Ints  # one behind the last text
    container: Ints  # nearest block element, -1 for none
    text: Numbers  # [blocks, MEASURES]
    of: Ints  # [nodes]: the block that a text belongs to, -1 for none
    cue: Floats  # [nodes]: what class, id and role of an element say, > 0 for content
    hidden: npt.NDArray[np.bool_]  # [nodes]: the element or one around it is not shown
    comment: npt.NDArray[np.bool_]  # whether it stands among readers' comments


def find_blocks(tree: Tree, cues: Cues) -> Blocks:
    """The blocks of a page. What an inline element hides belongs to none."""
    nodes = len(tree.tag)
    cue, hidden = np.zeros(nodes, np.float32), np.zeros(nodes, np.bool_)
    of = np.full(nodes, -1, np.int32)
    first, behind, container = (np.empty(nodes, np.int32) for _ in range(3))
    text = np.zeros((nodes, MEASURES), np.int64)
    comment = np.zeros(nodes, np.bool_)
    count = _find(tree[:7], cues, of, cue, hidden, comment, first, behind, container, text)
    container = container[:count]
    among = (container >= 0) & comment[container]
    return Blocks(first[:count], behind[:count], container, text[:count], of, cue, hidden, among)


@kernel
def next_attribute(page: Bytes, at: int, end: int) -> tuple[np.uint64, int, int, int]:
    """(hash of the lower-case name, value begin, value end, where to go on) of the attribute at or after `at`; hash 0 for none."""
    while at < end and (is_space(page[at]) or page[at] == 47):
        at += 1
    if at >= end:
        return np.uint64(0), end, end, end
    name = FNV
    first = at
    while at < end and (page[at] != EQUALS or at == first) and not is_space(page[at]) and page[at] != 47:
        byte = page[at]
        if 65 <= byte <= 90:
            byte += 32
        name = (name ^ np.uint64(byte)) * PRIME
        at += 1
    while at < end and is_space(page[at]):
        at += 1
    if at >= end or page[at] != EQUALS:
        return name, at, at, at
    at += 1
    while at < end and is_space(page[at]):
        at += 1
    if at < end and (page[at] == 34 or page[at] == 39):
        quote = page[at]
        value = at + 1
        at = value
        while at < end and page[at] != quote:
            at += 1
        return name, value, at, min(at + 1, end)
    value = at
    while at < end and not is_space(page[at]):
        at += 1
    return name, value, at, at


@kernel
def token_hashes(page: Bytes, begin: int, end: int, out: npt.NDArray[np.uint64], count: int) -> int:
    """Hashes of the words of an attribute's value, appended to `out` from `count` on; returns the new count.

    A word is a run of letters, lower-cased; `mainContent`, `main-content` and `main_content2` are all `main` and `content`.
    """
    value = FNV
    length = 0
    for at in range(begin, end + 1):
        byte = page[at] if at < end else np.uint8(32)
        upper = 65 <= byte <= 90
        letter = upper or 97 <= byte <= 122
        starts = upper and length > 0 and 97 <= page[at - 1] <= 122
        if (not letter or starts) and length > 0:
            if count < out.size:
                out[count] = value
                count += 1
            value = FNV
            length = 0
        if letter:
            value = (value ^ np.uint64(byte | 32)) * PRIME
            length += 1
    return count


@kernel
def element_tokens(page: Bytes, begin: int, end: int, out: npt.NDArray[np.uint64]) -> tuple[int, bool]:
    """Hashes of the words in class, id, role and itemprop of an element, and whether it is hidden."""
    count = 0
    hidden = False
    at = begin
    while True:
        name, value, value_end, at = next_attribute(page, at, end)
        if name == np.uint64(0):
            return count, hidden
        if name == CLASS or name == ID or name == ROLE or name == ITEMPROP:
            count = token_hashes(page, value, value_end, out, count)
        elif name == HIDDEN:
            hidden = True
        elif name == ARIA_HIDDEN:
            hidden = hidden or value_end - value == 4  # "true"
        elif name == STYLE_NAME:
            hidden = hidden or hides(page, value, value_end)


@kernel
def hides(page: Bytes, begin: int, end: int) -> bool:
    """Whether a style says `display: none` or `visibility: hidden`."""
    for at in range(begin, end):
        if page[at] == 58 and at + 1 < end:  # a colon
            word = at + 1
            while word < end and is_space(page[word]):
                word += 1
            if (
                word + 3 < end
                and page[word] | 32 == 110
                and page[word + 1] | 32 == 111
                and page[word + 2] | 32 == 110
                and at - begin >= 7
                and page[at - 1] | 32 == 121
            ):
                return True  # ...y: non...
            if (
                word + 5 < end
                and page[word] | 32 == 104
                and page[word + 1] | 32 == 105
                and page[word + 2] | 32 == 100
                and page[at - 1] | 32 == 121
            ):
                return True  # ...y: hid...
    return False


@kernel
def cue_of(hashes: npt.NDArray[np.uint64], count: int, cues: Cues) -> np.float32:
    """The sum of what the known words say; a word counts once."""
    total = np.float32(0)
    last_slot = np.uint64(cues.keys.size - 1)
    for token in range(count):
        seen = False
        for before in range(token):
            seen = seen or hashes[before] == hashes[token]
        slot = hashes[token] & last_slot
        while not seen and cues.keys[slot] != np.uint64(0):
            if cues.keys[slot] == hashes[token]:
                total += cues.values[slot]
                break
            slot = (slot + np.uint64(1)) & last_slot
    return total


@kernel
def measure_text(page: Bytes, begin: int, end: int, linked: bool, sums: Numbers) -> None:
    """Add what a text holds to a block's measures."""
    length = words = stops = commas = digits = capitals = 0
    inside = False
    last = 0
    at = begin
    while at < end:
        byte = page[at]
        if is_space(byte):
            inside = False
            at += 1
            continue
        if not inside:
            words += 1
            inside = True
        if byte < 128:
            at += 1
            if byte == 38:  # an entity is one character, &nbsp; none
                stop = at
                while stop < end and stop - at < 10 and (page[stop] > 64 or 48 <= page[stop] <= 57 or page[stop] == 35):
                    stop += 1
                if stop < end and page[stop] == 59:
                    if stop - at == 4 and page[at] == 110 and page[at + 1] == 98:
                        inside = False
                        at = stop + 1
                        continue
                    at = stop + 1
            length += 1
            if 48 <= byte <= 57:
                digits += 1
            elif 65 <= byte <= 90:
                capitals += 1
            elif byte == 46 or byte == 33 or byte == 63:
                after: Any = page[at] if at < end else np.uint8(32)
                if is_space(after) or after == 34 or after == 39 or after == 41 or after == 60 or after == 0xE2:
                    stops += 1
            elif byte == 44 or byte == 59:
                commas += 1
            last = byte
            continue
        size = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
        second = page[at + 1] if at + 1 < end else np.uint8(0)
        third = page[at + 2] if at + 2 < end else np.uint8(0)
        length += 2 if 0xE3 <= byte <= 0xED or (byte == 0xEF and 0xA4 <= second <= 0xAB) else 1
        last = byte
        # 。！？ ؟ ۔ । … and the full-width comma, ideographic comma, Arabic comma
        if (byte == 0xE3 and second == 0x80 and third == 0x82) or (
            byte == 0xEF and second == 0xBC and (third == 0x81 or third == 0x9F or third == 0x8E)
        ):
            stops += 1
            last = 46
        elif (
            (byte == 0xD8 and second == 0x9F)
            or (byte == 0xDB and second == 0x94)
            or (byte == 0xE0 and second == 0xA5 and (third == 0xA4 or third == 0xA5))
        ):
            stops += 1
            last = 46
        elif (
            (byte == 0xE3 and second == 0x80 and third == 0x81)
            or (byte == 0xEF and second == 0xBC and third == 0x8C)
            or (byte == 0xD8 and second == 0x8C)
        ):
            commas += 1
        elif byte == 0xC2 and second == 0xA0:  # a no-break space
            length -= 1
            inside = False
        at += size
    sums[LENGTH] += length
    sums[WORDS] += words
    sums[STOPS] += stops
    sums[COMMAS] += commas
    sums[DIGITS] += digits
    sums[CAPITALS] += capitals
    if linked:
        sums[LINKED] += length
    if length:
        sums[LAST] = last


@kernel
def has_any(hashes: npt.NDArray[np.uint64], count: int, words: npt.NDArray[np.uint64]) -> bool:
    """Whether one of some words is among the first `count` hashes."""
    for token in range(count):
        for word in words:
            if hashes[token] == word:
                return True
    return False


@kernel
def _find(
    tree: tuple[Bytes, npt.NDArray[np.int16], Ints, Ints, Ints, Ints, npt.NDArray[np.bool_]],
    cues: Cues,
    of: Ints,
    cue: Floats,
    hidden: npt.NDArray[np.bool_],
    comment: npt.NDArray[np.bool_],
    first: Ints,
    behind: Ints,
    container: Ints,
    text: Numbers,
) -> int:
    page, tags, begins, ends, parents, lasts, links = tree
    around = np.full(tags.size, -1, np.int32)  # nearest block element of each node, itself included
    hashes = np.empty(MOST_TOKENS, np.uint64)
    count = 0
    is_open = False  # whether the last block may go on
    breaks = 0
    node = 0
    while node < tags.size:
        parent = parents[node]
        box = around[parent] if parent >= 0 else -1
        tag = tags[node]
        if tag == TEXT:
            around[node] = box
            if not is_open or container[count - 1] != box:
                first[count], container[count] = node, box
                count += 1
                is_open = True
            behind[count - 1] = node + 1
            of[node] = count - 1
            measure_text(page, begins[node], ends[node], links[node], text[count - 1])
            if links[node] and tags[node - 1] == A:
                text[count - 1, LINKS] += 1
            if text[count - 1, LENGTH] > 0:
                breaks = 0
            node += 1
            continue
        flags = FLAGS[tag]
        if flags & SKIPPED:
            if flags & BLOCK and tag != SCRIPT and tag != STYLE:
                is_open = False
            node = lasts[node]
            continue
        around[node] = node if flags & BLOCK else box
        hidden[node] = parent >= 0 and hidden[parent]
        comment[node] = parent >= 0 and comment[parent]
        if ends[node] > begins[node] and tag != A:
            tokens, is_hidden = element_tokens(page, begins[node], ends[node], hashes)
            cue[node] = cue_of(hashes, tokens, cues)
            comment[node] = comment[node] or has_any(hashes, tokens, COMMENTS)
            if is_hidden and not flags & BLOCK and not has_any(hashes, tokens, MATH):
                node = lasts[node]
                continue
            hidden[node] = hidden[node] or is_hidden
        if flags & BLOCK:
            is_open = False
        elif tag == BR:
            breaks += 1
            if is_open:
                text[count - 1, BREAKS] += 1
                if breaks > 1:
                    is_open = False
        node += 1
    return _without_empty(count, of, first, behind, container, text)


@kernel
def _without_empty(count: int, of: Ints, first: Ints, behind: Ints, container: Ints, text: Numbers) -> int:
    """Drop the blocks in which there is nothing to see; returns how many are left."""
    kept = 0
    for block in range(count):
        there = text[block, LENGTH] > 0
        for node in range(first[block], behind[block]):
            if of[node] == block:
                of[node] = kept if there else -1
        if there:
            first[kept], behind[kept], container[kept] = first[block], behind[block], container[block]
            text[kept] = text[block]
            kept += 1
    return kept
