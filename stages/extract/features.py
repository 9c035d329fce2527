"""What the block model looks at: one row of numbers a block, about the block, what stands around it, and where it stands.

Every number is a function of counts of the page's bytes, so that a page's rows are equal on every machine.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from stages.extract.blocks import (
    BREAKS,
    CAPITALS,
    COMMAS,
    DIGITS,
    LAST,
    LENGTH,
    LINKED,
    LINKS,
    STOPS,
    WORDS,
    Blocks,
    Floats,
)
from stages.extract.parse import HEADING_1, Ints, Tree
from stages.extract.tags import BLOCK, FLAGS, NUMBER
from stages.jit import kernel

# Elements around a block, a bit each.
AROUND: dict[str, str] = {
    "nav": "nav menu",
    "footer": "footer",
    "header": "header",
    "aside": "aside",
    "article": "article",
    "main": "main",
    "form": "form fieldset",
    "table": "table",
    "list": "ul ol dl dir",
    "quote": "blockquote",
    "figure": "figure figcaption",
    "pre": "pre listing plaintext xmp",
    "section": "section",
    "paragraph": "p",
    "heading": "h1 h2 h3 h4 h5 h6",
    "item": "li dd dt",
    "cell": "td th",
    "code": "code kbd samp tt var",
    "button": "button label legend",
    "strong": "b strong em i",
}
BITS = np.zeros(len(FLAGS), dtype=np.int32)
for _bit, _names in enumerate(AROUND.values()):
    for _name in _names.split():
        BITS[NUMBER[_name]] |= 1 << _bit
PARAGRAPH_BIT = 1 << list(AROUND).index("paragraph")

# What the block's own container is, as a number in which neighbours are alike.
KINDS: tuple[str, ...] = (
    "div", "section", "article", "main", "td", "th", "li", "dd", "dt", "p", "blockquote", "pre", "figcaption", "h1", "h2", "h3",
    "h4", "h5", "h6", "summary", "legend", "header", "footer", "aside", "nav", "form", "address", "option", "center", "body",
)  # fmt: skip
KIND = np.zeros(len(FLAGS), dtype=np.float32)
for _place, _name in enumerate(KINDS):
    KIND[NUMBER[_name]] = _place + 1

LEVELS = 5  # regions around a block: its container, then each larger one that holds notably more
NEAR = (-3, -2, -1, 1, 2, 3)
OWN = (
    "length", "words", "link_share", "stops", "commas", "ends_sentence", "ends_colon", "digit_share", "capital_share", "word_length",
    "links", "breaks", "kind", "depth", "inline_depth", "cue", "cue_min", "cue_max", "cue_sum", "hidden",
)  # fmt: skip
REGION = (
    "length",
    "link_share",
    "stops_density",
    "blocks",
    "share_of_page",
    "paragraph_share",
    "cue",
    "before",
    "long_share",
)
NEIGHBOUR = ("length", "link_share", "stops", "kind", "same_region")
WINDOW = ("text_3", "links_3", "text_10", "links_10")
PAGE = (
    "page_length",
    "page_blocks",
    "page_link_share",
    "page_stops_density",
    "page_paragraph_share",
    "position",
    "index",
    "from_end",
    "after_h1",
    "h1_distance",
)

NAMES: tuple[str, ...] = (
    *OWN,
    *(f"in_{name}" for name in AROUND),
    *(f"region{level}_{name}" for level in range(LEVELS) for name in REGION),
    *(f"near{offset:+d}_{name}" for offset in NEAR for name in NEIGHBOUR),
    *WINDOW,
    *PAGE,
)
_AT_AROUND = len(OWN)
_AT_REGION = _AT_AROUND + len(AROUND)
_AT_NEAR = _AT_REGION + LEVELS * len(REGION)
_AT_WINDOW = _AT_NEAR + len(NEAR) * len(NEIGHBOUR)
_AT_PAGE = _AT_WINDOW + len(WINDOW)
_N_AROUND, _N_REGION, _N_NEIGHBOUR, _N_NEAR = len(AROUND), len(REGION), len(NEIGHBOUR), len(NEAR)
_OFFSETS = np.array(NEAR, dtype=np.int64)
LONG = 80  # a block of so many characters outside links is prose


def features(tree: Tree, blocks: Blocks) -> tuple[Floats, Ints]:
    """[blocks, len(NAMES)] for the model, and [blocks, LEVELS, 2] the blocks [from, to) of the regions around each block."""
    count = len(blocks.first)
    rows = np.zeros((count, len(NAMES)), np.float32)
    regions = np.zeros((count, LEVELS, 2), np.int32)
    if count:
        _fill(tree.tag, tree.parent, tree.last, blocks, rows, regions)
    return rows, regions


@kernel
def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0


@kernel
def _fill(
    tags: npt.NDArray[np.int16],
    parents: Ints,
    lasts: Ints,
    blocks: Blocks,
    rows: Floats,
    regions: Ints,
) -> None:
    first, container, text, cue, hidden = blocks.first, blocks.container, blocks.text, blocks.cue, blocks.hidden
    nodes, count = tags.size, first.size
    # sums over the blocks before each block
    length_to, linked_to, stops_to = np.zeros(count + 1), np.zeros(count + 1), np.zeros(count + 1)
    long_to, paragraph_to = np.zeros(count + 1), np.zeros(count + 1)
    # from the top down: what stands around a node
    around, depth = np.zeros(nodes, np.int32), np.zeros(nodes, np.int32)
    low, high, total = np.zeros(nodes, np.float32), np.zeros(nodes, np.float32), np.zeros(nodes, np.float32)
    block_from = np.zeros(nodes + 1, np.int32)  # blocks that start before a node
    block = 0
    for node in range(nodes):
        block_from[node] = block
        if block < count and first[block] == node:
            block += 1
        parent = parents[node]
        own = cue[node]
        around[node] = BITS[tags[node]]
        if parent >= 0:
            around[node] |= around[parent]
            depth[node] = depth[parent] + 1
            low[node], high[node], total[node] = min(low[parent], own), max(high[parent], own), total[parent] + own
        else:
            low[node], high[node], total[node] = min(own, np.float32(0)), max(own, np.float32(0)), own
    block_from[nodes] = block
    first_h1 = -1
    for block in range(count):
        length, linked, stops = text[block, LENGTH], text[block, LINKED], text[block, STOPS]
        length_to[block + 1] = length_to[block] + length
        linked_to[block + 1] = linked_to[block] + linked
        stops_to[block + 1] = stops_to[block] + stops
        long_to[block + 1] = long_to[block] + (length if length - linked >= LONG else 0)
        in_paragraph = around[first[block]] & PARAGRAPH_BIT
        paragraph_to[block + 1] = paragraph_to[block] + (length if in_paragraph else 0)
        if first_h1 < 0 and container[block] >= 0 and tags[container[block]] == HEADING_1:
            first_h1 = block
    page_length = length_to[count]

    for block in range(count):
        row = rows[block]
        node, box = first[block], container[block]
        length, linked = text[block, LENGTH], text[block, LINKED]
        words = max(1, text[block, WORDS])
        last = text[block, LAST]
        row[0] = math.log(1.0 + length)
        row[1] = math.log(1.0 + words)
        row[2] = _share(linked, length)
        row[3] = text[block, STOPS]
        row[4] = text[block, COMMAS]
        row[5] = 1.0 if last == 46 or last == 33 or last == 63 else 0.0
        row[6] = 1.0 if last == 58 else 0.0
        row[7] = _share(text[block, DIGITS], length)
        row[8] = _share(text[block, CAPITALS], length)
        row[9] = length / words
        row[10] = text[block, LINKS]
        row[11] = text[block, BREAKS]
        row[12] = KIND[tags[box]] if box >= 0 else 0.0
        row[13] = depth[box] if box >= 0 else 0.0
        row[14] = depth[node] - row[13]
        if box >= 0:
            row[15], row[16], row[17], row[18] = cue[box], low[box], high[box], total[box]
            row[19] = hidden[box]
        bits = around[node]
        for bit in range(_N_AROUND):
            row[_AT_AROUND + bit] = (bits >> bit) & 1

        region, before_length, level = box, 0.0, 0
        while level < LEVELS:
            if region >= 0:
                low_block, high_block = block_from[region], block_from[lasts[region]]
            else:
                low_block, high_block = 0, count
            size = length_to[high_block] - length_to[low_block]
            if level == 0 or region < 0 or size > 1.2 * before_length + 20:
                at = _AT_REGION + level * _N_REGION
                row[at] = math.log(1.0 + size)
                row[at + 1] = _share(linked_to[high_block] - linked_to[low_block], size)
                row[at + 2] = _share(100.0 * (stops_to[high_block] - stops_to[low_block]), size)
                row[at + 3] = high_block - low_block
                row[at + 4] = _share(size, page_length)
                row[at + 5] = _share(paragraph_to[high_block] - paragraph_to[low_block], size)
                row[at + 6] = cue[region] if region >= 0 else 0.0
                row[at + 7] = _share(length_to[block] - length_to[low_block], size)
                row[at + 8] = _share(long_to[high_block] - long_to[low_block], size)
                regions[block, level, 0], regions[block, level, 1] = low_block, high_block
                before_length = size
                level += 1
            if region < 0:
                if level < LEVELS and level > 0:  # the page itself is the last region, as often as it takes
                    at, came = _AT_REGION + level * _N_REGION, _AT_REGION + (level - 1) * _N_REGION
                    row[at : at + _N_REGION] = row[came : came + _N_REGION]
                    regions[block, level] = regions[block, level - 1]
                    level += 1
                continue
            region = parents[region]
            while region >= 0 and not FLAGS[tags[region]] & BLOCK:
                region = parents[region]

        for place in range(_N_NEAR):
            other = block + _OFFSETS[place]
            at = _AT_NEAR + place * _N_NEIGHBOUR
            if 0 <= other < count:
                row[at] = math.log(1.0 + text[other, LENGTH])
                row[at + 1] = _share(text[other, LINKED], text[other, LENGTH])
                row[at + 2] = text[other, STOPS]
                row[at + 3] = KIND[tags[container[other]]] if container[other] >= 0 else 0.0
                row[at + 4] = 1.0 if regions[block, 1, 0] <= other < regions[block, 1, 1] else 0.0
            else:
                row[at] = -1.0
        for place in range(2):
            reach = 3 if place == 0 else 10
            low_block, high_block = max(0, block - reach), min(count, block + reach + 1)
            size = length_to[high_block] - length_to[low_block]
            row[_AT_WINDOW + 2 * place] = math.log(1.0 + size)
            row[_AT_WINDOW + 2 * place + 1] = _share(linked_to[high_block] - linked_to[low_block], size)
        at = _AT_PAGE
        row[at] = math.log(1.0 + page_length)
        row[at + 1] = math.log(1.0 + count)
        row[at + 2] = _share(linked_to[count], page_length)
        row[at + 3] = _share(100.0 * stops_to[count], page_length)
        row[at + 4] = _share(paragraph_to[count], page_length)
        row[at + 5] = _share(length_to[block], page_length)
        row[at + 6] = math.log(1.0 + block)
        row[at + 7] = math.log(1.0 + count - block)
        row[at + 8] = 1.0 if 0 <= first_h1 < block else 0.0
        row[at + 9] = min(max(block - first_h1, -50), 200) if first_h1 >= 0 else -99.0
