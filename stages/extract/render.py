"""Kept blocks as plain text or Markdown.

Text: a line a block, list items with `-` or their number, cells of a table's row joined by ` | `, preformatted text as it stands. Markdown
adds headings, quotes, fences with the language that the page names, inline code and table rules. White space is that of the page as a
browser would show it.
"""

from __future__ import annotations

import html
import re

import numpy as np
import numpy.typing as npt

from stages.extract.blocks import LENGTH, Blocks
from stages.extract.parse import HEADING_1, HEADING_6, Bytes, Ints, Tree, is_space
from stages.extract.tags import NUMBER, TEXT
from stages.jit import kernel

BR, CODE, LI, OL, PRE, QUOTE, TABLE, TD, TH, TR = (
    NUMBER[name] for name in ("br", "code", "li", "ol", "pre", "blockquote", "table", "td", "th", "tr")
)
DEEPEST = 8  # indents and quotes beyond are not shown
CELL_BLOCKS, CELL_LENGTH = 3, 400  # a row with larger cells is layout, not data
PREFIX = 8 + 4 * DEEPEST  # the most that stands before the text of a line
TRAILING = re.compile("[ \xa0]+(?=\n|$)")


def render(tree: Tree, blocks: Blocks, keep: npt.NDArray[np.bool_], markdown: bool = False) -> str:
    """The text of the kept blocks, in order."""
    if not keep.any():
        return ""
    lines = int(np.count_nonzero(tree.page == 10)) + len(tree.tag) + len(keep)
    out = np.empty(len(tree.page) + (PREFIX + 8) * (lines + 2), np.uint8)
    size = _write(tree, blocks, keep, markdown, out)
    text = out[:size].tobytes().decode("utf-8", "replace")
    if "&" in text:
        text = html.unescape(text)
    if "\xa0" in text:
        text = TRAILING.sub("", text.replace("\xa0", " "))
    return text.strip("\n")


def in_data_rows(tree: Tree, blocks: Blocks) -> npt.NDArray[np.bool_]:
    """Which blocks stand in a row of a table of data."""
    count = len(blocks.first)
    cell_of, row_of = np.full(count, -1, np.int32), np.full(count, -1, np.int32)
    ordinal, is_data = np.zeros(len(tree.tag), np.int32), np.zeros(len(tree.tag), np.bool_)
    _cells(tree, blocks, np.ones(count, np.bool_), cell_of, row_of, ordinal, is_data)
    found: npt.NDArray[np.bool_] = (row_of >= 0) & is_data[row_of]
    return found


@kernel
def put(out: Bytes, at: int, what: bytes) -> int:
    """Write a constant; returns the place behind it."""
    for place in range(len(what)):
        out[at + place] = what[place]
    return at + len(what)


@kernel
def put_number(out: Bytes, at: int, number: int) -> int:
    """Write a positive number in decimal."""
    digits = 1
    power = 10
    while power <= number:
        power *= 10
        digits += 1
    for place in range(digits):
        power //= 10
        out[at + place] = 48 + (number // power) % 10
    return at + digits


@kernel
def new_line(out: Bytes, at: int, quotes: int, indent: int) -> int:
    """Begin a line inside quotes and a list item."""
    out[at] = 10
    at += 1
    for _ in range(quotes):
        at = put(out, at, b"> ")
    for _ in range(indent):
        at = put(out, at, b"  ")
    return at


@kernel
def put_language(page: Bytes, begin: int, end: int, out: Bytes, at: int) -> int:
    """Write what follows `language-`, `lang-` or `brush:` in an element's attributes, if anything does."""
    for place in range(begin, end - 5):
        if (
            page[place] | 32 == 108
            and page[place + 1] | 32 == 97
            and page[place + 2] | 32 == 110
            and page[place + 3] | 32 == 103
        ):
            start = place + 4
            while start < end and 97 <= page[start] | 32 <= 122:  # ...uage
                start += 1
            if start < end and page[start] == 45:
                start += 1
                stop = start
                while (
                    stop < end
                    and stop - start < 20
                    and (
                        97 <= page[stop] | 32 <= 122
                        or 48 <= page[stop] <= 57
                        or page[stop] == 43
                        or page[stop] == 35
                        or page[stop] == 45
                    )
                ):
                    out[at] = page[stop]
                    at += 1
                    stop += 1
                return at
    return at


@kernel
def nearest(node: int, first: int, second: int, until: int, tags: npt.NDArray[np.int16], parents: Ints) -> int:
    """The nearest element of one of two kinds around a node (itself included), not beyond one of a third; -1 for none."""
    while node >= 0:
        if tags[node] == first or tags[node] == second:
            return node
        if tags[node] == until:
            return -1
        node = parents[node]
    return -1


@kernel
def _cells(
    tree: Tree,
    blocks: Blocks,
    keep: npt.NDArray[np.bool_],
    cell_of: Ints,
    row_of: Ints,
    ordinal: Ints,
    is_data: npt.NDArray[np.bool_],
) -> None:
    """The cell and row of each kept block, each list item's and cell's number, and which rows are data."""
    tags, parents = tree.tag, tree.parent
    numbers = np.zeros(tags.size, np.int32)
    for node in range(tags.size):
        tag = tags[node]
        if (tag == LI or tag == TD or tag == TH) and parents[node] >= 0:
            numbers[parents[node]] += 1
            ordinal[node] = numbers[parents[node]]
    held, lengths, filled = np.zeros(tags.size, np.int32), np.zeros(tags.size, np.int64), np.zeros(tags.size, np.int32)
    for block in range(keep.size):
        if not keep[block] or blocks.container[block] < 0:
            continue
        cell = nearest(blocks.container[block], TD, TH, TABLE, tags, parents)
        row = parents[cell] if cell >= 0 else -1
        if row < 0 or tags[row] != TR:
            continue
        cell_of[block], row_of[block] = cell, row
        filled[row] += held[cell] == 0
        held[cell] += 1
        lengths[cell] += blocks.text[block, LENGTH]
        if filled[row] > 1:
            is_data[row] = True
    for block in range(keep.size):
        cell = cell_of[block]
        if cell >= 0 and (held[cell] > CELL_BLOCKS or lengths[cell] > CELL_LENGTH):
            is_data[row_of[block]] = False


@kernel
def _write(tree: Tree, blocks: Blocks, keep: npt.NDArray[np.bool_], markdown: bool, out: Bytes) -> int:
    page, tags, begins, ends, parents, lasts = tree.page, tree.tag, tree.begin, tree.end, tree.parent, tree.last
    cell_of, row_of = np.full(keep.size, -1, np.int32), np.full(keep.size, -1, np.int32)
    ordinal, is_data = np.zeros(tags.size, np.int32), np.zeros(tags.size, np.bool_)
    _cells(tree, blocks, keep, cell_of, row_of, ordinal, is_data)
    marked = np.zeros(tags.size, np.bool_)  # list items that have their mark
    at = 0
    block = pre = row = item = table = -1  # of the text before
    row_cells = columns = 0
    code_until = -1  # where inline code ends
    quotes = indent = 0
    space = is_blank = False
    for node in range(tags.size):
        if code_until >= 0 and node >= code_until:
            at = put(out, at, b"`")
            code_until = -1
        tag = tags[node]
        if tag != TEXT:
            if tag == BR and block >= 0 and not is_blank and row < 0:
                at = new_line(out, at, quotes, indent) if markdown else put(out, at, b"\n")
                is_blank, space = True, False
            elif tag == BR:
                space = not is_blank
            elif (
                tag == CODE
                and markdown
                and pre < 0
                and code_until < 0
                and node + 1 < tags.size
                and tags[node + 1] == TEXT
            ):
                inside = blocks.of[node + 1]
                if inside >= 0 and keep[inside] and nearest(parents[node], PRE, PRE, TABLE, tags, parents) < 0:
                    code_until = lasts[node]
            continue
        mine = blocks.of[node]
        if mine < 0 or not keep[mine]:
            continue
        starts_code = code_until >= 0 and tags[node - 1] == CODE
        if mine != block:
            box = blocks.container[mine]
            now_pre = nearest(box, PRE, PRE, TABLE, tags, parents)
            now_row = row_of[mine] if row_of[mine] >= 0 and is_data[row_of[mine]] and now_pre < 0 else -1
            if pre >= 0 and now_pre != pre:
                while at > 0 and (out[at - 1] == 10 or out[at - 1] == 32):
                    at -= 1
                if markdown:
                    at = new_line(out, at, quotes, indent)
                    at = put(out, at, b"```")
            if row >= 0 and now_row != row:
                if markdown:
                    at = put(out, at, b" |")
                    if columns == 0:  # the first row of a table is its head
                        columns = max(row_cells, 1)
                        at = new_line(out, at, quotes, indent)
                        at = put(out, at, b"|")
                        for _ in range(min(columns, 40)):
                            at = put(out, at, b" --- |") if at + 8 < out.size else at
                row_cells = 0
            if is_blank and at > 0:  # a break at the end of a block
                while at > 0 and (out[at - 1] == 10 or out[at - 1] == 32 or out[at - 1] == 62):
                    at -= 1
            now_item = nearest(box, LI, LI, TABLE, tags, parents)
            if now_row >= 0 and now_row == row:
                cell = ordinal[cell_of[mine]]
                if cell > row_cells:
                    while row_cells < cell and row_cells < 40:
                        at = put(out, at, b" | ") if row_cells > 0 else at
                        row_cells += 1
                    row_cells = max(row_cells, cell)
                else:
                    at = put(out, at, b" ")
            else:
                was_quotes = quotes
                quotes = indent = 0
                outer = box
                while outer >= 0 and markdown:
                    if tags[outer] == QUOTE and quotes < DEEPEST:
                        quotes += 1
                    elif tags[outer] == LI and outer != now_item and indent < DEEPEST:
                        indent += 1
                    outer = parents[outer]
                if now_item >= 0 and marked[now_item] and indent < DEEPEST and markdown:
                    indent += 1
                now_table = parents[now_row] if now_row >= 0 else -1
                while now_table >= 0 and tags[now_table] != TABLE:
                    now_table = parents[now_table]
                if now_table != table:
                    columns, table = 0, now_table
                if at > 0:
                    together = (
                        (now_item >= 0 and item >= 0)
                        or (now_row >= 0 and row >= 0 and columns > 0)
                        or (now_pre >= 0 and now_pre == pre)
                    )
                    if markdown and not together:
                        at = new_line(out, at, min(quotes, was_quotes), 0)
                    at = new_line(out, at, quotes, indent)
                else:
                    at = new_line(out, at, quotes, indent)
                if now_item >= 0 and not marked[now_item]:
                    marked[now_item] = True
                    if parents[now_item] >= 0 and tags[parents[now_item]] == OL:
                        at = put_number(out, at, ordinal[now_item])
                        at = put(out, at, b". ")
                    else:
                        at = put(out, at, b"- ")
                    if markdown and indent < DEEPEST:
                        indent += 1  # of lines that follow
                if markdown and box >= 0 and HEADING_1 <= tags[box] <= HEADING_6:
                    for _ in range(tags[box] - HEADING_1 + 1):
                        at = put(out, at, b"#")
                    at = put(out, at, b" ")
                if markdown and now_pre >= 0 and now_pre != pre:
                    at = put(out, at, b"```")
                    before = at
                    at = put_language(page, begins[now_pre], ends[now_pre], out, at)
                    if at == before and now_pre + 1 < tags.size and tags[now_pre + 1] == CODE:
                        at = put_language(page, begins[now_pre + 1], ends[now_pre + 1], out, at)
                    if at == before and parents[now_pre] >= 0:
                        at = put_language(page, begins[parents[now_pre]], ends[parents[now_pre]], out, at)
                    at = new_line(out, at, quotes, indent)
                if now_row >= 0:
                    at = put(out, at, b"| ") if markdown else at
                    row_cells = 1
                    while row_cells < ordinal[cell_of[mine]] and row_cells < 40:
                        at = put(out, at, b" | ")
                        row_cells += 1
            block, pre, row, item = mine, now_pre, now_row, now_item
            space, is_blank = False, True
        if pre >= 0:
            for place in range(begins[node], ends[node]):
                byte = page[place]
                if byte == 10:
                    if not (is_blank and place == begins[node] and tags[max(node - 1, 0)] == PRE):
                        at = new_line(out, at, quotes, indent) if markdown else put(out, at, b"\n")
                elif byte != 13:
                    out[at] = byte
                    at += 1
                is_blank = False
            continue
        for place in range(begins[node], ends[node]):
            byte = page[place]
            if is_space(byte):
                space = not is_blank
                continue
            if space:
                out[at] = 32
                at += 1
                space = False
            if starts_code:
                at = put(out, at, b"`")
                starts_code = False
            out[at] = byte
            at += 1
            is_blank = False
        if starts_code:
            code_until = -1
    if code_until >= 0:
        at = put(out, at, b"`")
    if pre >= 0:
        while at > 0 and (out[at - 1] == 10 or out[at - 1] == 32):
            at -= 1
        if markdown:
            at = new_line(out, at, quotes, indent)
            at = put(out, at, b"```")
    if row >= 0 and markdown:
        at = put(out, at, b" |")
    return at
