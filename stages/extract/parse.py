"""Bytes of a page to a tree of elements and texts in flat arrays, in one pass.

What the HTML Standard's parser does that changes where text stands is done: raw text, comments, implied end tags, scopes, void
elements, self-closing in SVG and MathML (and everywhere in a page with an XML declaration). What it does to mend broken
markup by moving elements (adoption agency, foster parenting) is not: text stays where it is written. Any depth and any bytes take
linear time.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from stages.extract.tags import (
    BLOCK,
    CLOSES_P,
    FLAGS,
    HEAD,
    KEYS,
    NUMBER,
    OTHER,
    RAW,
    SCOPE,
    SPECIAL,
    TEXT,
    VALUES,
    VOID,
)
from stages.jit import kernel

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int32]

LT, GT, SLASH, BANG, QUESTION, DASH, EQUALS = (ord(char) for char in "<>/!?-=")
A, BODY, BR, DD, DT, HEADING_1, HEADING_6 = (NUMBER[name] for name in ("a", "body", "br", "dd", "dt", "h1", "h6"))
HEAD_TAG, HTML, LI, MATH, OL, OPTGROUP, OPTION, P = (
    NUMBER[name] for name in ("head", "html", "li", "math", "ol", "optgroup", "option", "p")
)
SVG, TABLE, TBODY, TD, TFOOT, TH, THEAD, TR, UL = (
    NUMBER[name] for name in ("svg", "table", "tbody", "td", "tfoot", "th", "thead", "tr", "ul")
)
ADDRESS, DIV, BUTTON = (NUMBER[name] for name in ("address", "div", "button"))
assert list(range(HEADING_1, HEADING_6 + 1)) == [NUMBER[f"h{level}"] for level in range(1, 7)]

FNV, PRIME, SLOT = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3), np.uint64(len(KEYS) - 1)
LONGEST_NAME = 24


class Tree(NamedTuple):
    """The nodes of a page, in document order. A node's descendants are those up to `last` of it.

    `begin` and `end` are places in the page: of a text, or of the attributes of an element's start tag.
    """

    page: Bytes
    tag: npt.NDArray[np.int16]  # number of the element; 0 is a text, 1 an element that `tags` does not name
    begin: Ints
    end: Ints
    parent: Ints  # -1 for what stands in no element
    last: Ints  # one behind the last descendant
    link: npt.NDArray[np.bool_]  # a text inside <a href>
    depth: int  # of the deepest element


def parse(page: bytes) -> Tree:
    """The tree of a page in UTF-8 (bytes that are not stay as they are)."""
    data = np.frombuffer(page, dtype=np.uint8)
    marks = np.append(np.flatnonzero(data == LT).astype(np.int32), np.int32(len(page)))
    most = 2 * len(marks)  # a tag is at most one element, after one text
    tag, link = np.zeros(most, np.int16), np.zeros(most, np.bool_)
    begin, end, parent, last = (np.zeros(most, np.int32) for _ in range(4))
    xml = page[:256].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<?xml")
    count, depth = _build(data, marks, xml, tag, begin, end, parent, last, link)
    return Tree(data, tag[:count], begin[:count], end[:count], parent[:count], last[:count], link[:count], depth)


@kernel
def is_space(byte: int) -> bool:
    """HTML's white space."""
    return byte == 32 or byte == 10 or byte == 9 or byte == 13 or byte == 12


@kernel
def is_letter(byte: int) -> bool:
    """An ASCII letter."""
    return 97 <= byte <= 122 or 65 <= byte <= 90


@kernel
def read_name(page: Bytes, at: int) -> tuple[int, int]:
    """The number of the element whose name starts at `at`, and the place behind the name."""
    value = FNV
    start = at
    while at < page.size:
        byte = page[at]
        if byte == GT or byte == SLASH or is_space(byte):
            break
        if 65 <= byte <= 90:
            byte += 32
        value = (value ^ np.uint64(byte)) * PRIME
        at += 1
    if at - start > LONGEST_NAME:
        return OTHER, at
    slot = value & SLOT
    while KEYS[slot] != np.uint64(0):
        if KEYS[slot] == value:
            return VALUES[slot], at
        slot = (slot + np.uint64(1)) & SLOT
    return OTHER, at


@kernel
def tag_end(page: Bytes, at: int) -> int:
    """The place of the `>` that ends a tag, quoted values passed over; the size of the page if there is none."""
    size = page.size
    while at < size:
        byte = page[at]
        if byte == GT:
            return at
        at += 1
        if byte == EQUALS:
            while at < size and is_space(page[at]):
                at += 1
            if at < size and (page[at] == 34 or page[at] == 39):
                quote = page[at]
                at += 1
                while at < size and page[at] != quote:
                    at += 1
                at += 1
            else:
                while at < size and page[at] != GT and not is_space(page[at]):
                    at += 1
    return size


@kernel
def comment_end(page: Bytes, at: int) -> int:
    """The place behind a comment that starts at `at` (`<!--`)."""
    size = page.size
    at += 4
    if at < size and page[at] == GT:
        return at + 1
    if at + 1 < size and page[at] == DASH and page[at + 1] == GT:
        return at + 2
    while at + 2 < size:
        if page[at] == DASH and page[at + 1] == DASH:
            if page[at + 2] == GT:
                return at + 3
            if page[at + 2] == BANG and at + 3 < size and page[at + 3] == GT:
                return at + 4
        at += 1
    return size


@kernel
def raw_end(page: Bytes, marks: Ints, mark: int, tag: int) -> int:
    """The place of the end tag that ends raw text; `mark` is the first `<` that may begin it."""
    size = page.size
    while marks[mark] + 2 < size:
        at = marks[mark]
        if page[at + 1] == SLASH:
            found, _ = read_name(page, at + 2)
            if found == tag:
                return at
        mark += 1
    return size


@kernel
def has_href(page: Bytes, begin: int, end: int) -> bool:
    """Whether `href` stands among the attributes."""
    for at in range(begin, end - 3):
        if (
            (page[at] | 32) == 104
            and (page[at + 1] | 32) == 114
            and (page[at + 2] | 32) == 101
            and (page[at + 3] | 32) == 102
        ):
            return True
    return False


@kernel
def closed_by_start(tag: int, stack: Ints, top: int, tags: npt.NDArray[np.int16], open_count: Ints) -> int:
    """How many open elements are left once the start of `tag` has ended those that it implies the end of."""
    flags = FLAGS[tag]
    if tag == LI or tag == DD or tag == DT:  # ends an item of its own kind
        first, second = (LI, LI) if tag == LI else (DD, DT)
        at = top - 1 if open_count[first] + open_count[second] > 0 else -1
        while at >= 0:
            found = tags[stack[at]]
            if found == first or found == second:
                top = at
                break
            if FLAGS[found] & SPECIAL and found != ADDRESS and found != DIV and found != P:
                break
            at -= 1
    elif (tag == OPTION or tag == OPTGROUP) and top > 0:
        if tags[stack[top - 1]] == OPTION:
            top -= 1
        if tag == OPTGROUP and top > 0 and tags[stack[top - 1]] == OPTGROUP:
            top -= 1
    elif tag == TD or tag == TH or tag == TR or tag == TBODY or tag == THEAD or tag == TFOOT:
        at = top - 1
        while at >= 0 and tags[stack[at]] != TABLE:
            found = tags[stack[at]]
            cell = found == TD or found == TH
            row = found == TR and tag != TD and tag != TH
            group = (found == TBODY or found == THEAD or found == TFOOT) and tag != TD and tag != TH and tag != TR
            if cell or row or group:
                top = at
            elif FLAGS[found] & SCOPE:
                break
            if open_count[TABLE] == 0 and not (cell or row or group):
                break
            at -= 1
    if flags & CLOSES_P and open_count[P] > 0:
        at = top - 1
        while at >= 0:
            found = tags[stack[at]]
            if found == P:
                top = at
                break
            if FLAGS[found] & SCOPE or found == BUTTON:
                break
            at -= 1
    if HEADING_1 <= tag <= HEADING_6 and top > 0 and HEADING_1 <= tags[stack[top - 1]] <= HEADING_6:
        top -= 1
    return top


@kernel
def closed_by_end(tag: int, stack: Ints, top: int, tags: npt.NDArray[np.int16], open_count: Ints) -> int:
    """How many open elements are left after the end tag of `tag`; `top` if it ends none."""
    heading = HEADING_1 <= tag <= HEADING_6
    if not heading and open_count[tag] == 0:
        return top
    flags = FLAGS[tag]
    at = top - 1
    while at >= 0:
        found = tags[stack[at]]
        if found == tag or (heading and HEADING_1 <= found <= HEADING_6):
            return at
        if tag == TABLE:
            pass
        elif tag == TR or tag == TBODY or tag == THEAD or tag == TFOOT or tag == TD or tag == TH:
            if found == TABLE:
                return top
        elif FLAGS[found] & SCOPE or (tag == LI and (found == UL or found == OL)) or (tag == P and found == BUTTON):
            return top
        elif not flags & SPECIAL and FLAGS[found] & SPECIAL:
            return top
        at -= 1
    return top


@kernel
def blank(page: Bytes, begin: int, end: int) -> bool:
    """Whether a stretch holds nothing but white space."""
    for at in range(begin, end):
        if not is_space(page[at]):
            return False
    return True


@kernel
def _build(
    page: Bytes,
    marks: Ints,
    xml: bool,
    tags: npt.NDArray[np.int16],
    begins: Ints,
    ends: Ints,
    parents: Ints,
    lasts: Ints,
    links: npt.NDArray[np.bool_],
) -> tuple[int, int]:
    """Fill the arrays; returns the number of nodes and the greatest depth. `marks`: where `<` stands, and the page's size."""
    size = page.size
    stack = np.empty(tags.size + 1, np.int32)
    open_count = np.zeros(FLAGS.size, np.int32)
    count = top = deepest = foreign = 0
    link = -1  # the open <a href>
    text = at = mark = 0
    after_block = True
    while at <= size:
        while marks[mark] < at:
            mark += 1
        at = marks[mark]
        following = page[at + 1] if at + 1 < size else 0
        closing = following == SLASH
        name_at = at + 2 if closing else at + 1
        is_tag = name_at < size and is_letter(page[name_at])
        if at < size and not is_tag and not closing and following != BANG and following != QUESTION:
            at += 1  # a `<` in the text
            continue
        tag, behind = read_name(page, name_at) if is_tag else (OTHER, name_at)
        flags = FLAGS[tag]

        # the text before; white space counts only between inline elements
        if at > text:
            ends_line = at == size or (is_tag and flags & BLOCK != 0)
            if not ((after_block or ends_line) and blank(page, text, at)):
                tags[count], begins[count], ends[count], lasts[count] = TEXT, text, at, count + 1
                parents[count] = stack[top - 1] if top else -1
                links[count] = link >= 0
                count += 1
                after_block = False
        if at == size:
            break

        if not is_tag:
            if following == BANG and at + 3 < size and page[at + 2] == DASH and page[at + 3] == DASH:
                at = comment_end(page, at)
            else:  # a declaration, or what the standard calls a bogus comment
                if foreign and following == BANG and at + 8 < size and page[at + 2] == 91:  # <![CDATA[
                    at += 9
                    text = at
                    continue
                while at < size and page[at] != GT:
                    at += 1
                at += 1
            text = at
            if at > size:
                at = text = size
            continue

        stop = tag_end(page, behind)
        was = top
        if closing and tag != BR and tag != BODY and tag != HTML:
            top = closed_by_end(tag, stack, top, tags, open_count)
        elif not closing:
            top = closed_by_start(tag, stack, top, tags, open_count)
            if open_count[HEAD_TAG] and not flags & HEAD:  # whatever cannot stand in the head ends it
                for place in range(was):
                    if tags[stack[place]] == HEAD_TAG:
                        top = min(top, place)
                        break
        while was > top:
            was -= 1
            node = stack[was]
            lasts[node] = count
            open_count[tags[node]] -= 1
            if tags[node] == SVG or tags[node] == MATH:
                foreign -= 1
            if node == link:
                link = -1
        if flags & BLOCK or tag == BR:
            after_block = True

        if not closing or tag == BR:
            if (tag == HTML or tag == BODY or tag == HEAD_TAG) and open_count[tag]:
                at = text = min(stop + 1, size)
                continue
            tags[count], begins[count], ends[count], lasts[count] = tag, behind, min(stop, size), count + 1
            parents[count] = stack[top - 1] if top else -1
            empty = flags & VOID or (page[stop - 1] == SLASH and (xml or foreign > 0) and stop - 1 >= behind)
            if flags & RAW and not foreign and not empty and stop < size:
                first = stop + 1
                while marks[mark] < first:
                    mark += 1
                until = raw_end(page, marks, mark, tag)
                if until > first:
                    child = count + 1
                    tags[child], begins[child], ends[child], lasts[child] = TEXT, first, until, child + 1
                    parents[child] = count
                    lasts[count] = child + 1
                    count += 1
                count += 1
                at = tag_end(page, min(until + 2, size))
                at = text = min(at + 1, size)
                continue
            if not empty:
                if top + 1 > deepest:
                    deepest = top + 1
                stack[top] = count
                top += 1
                open_count[tag] += 1
                if tag == SVG or tag == MATH:
                    foreign += 1
                if tag == A and has_href(page, behind, stop):
                    link = count
            count += 1
        at = text = min(stop + 1, size)
    for place in range(top):
        lasts[stack[place]] = count
    return count, deepest
