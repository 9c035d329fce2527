"""The elements of HTML that matter to extraction: their numbers, and what a parser and an extractor know of each.

Sources: HTML Standard, sections 13.2.5 and 13.2.6 (tokenisation, tree construction), 15.3 (how elements are displayed).
"""

from __future__ import annotations

import numpy as np

# A bit each, in `FLAGS[tag]`.
VOID = 1  # has no content and no end tag
RAW = 2  # its content is text up to its own end tag
BLOCK = 4  # begins and ends a line of text
CLOSES_P = 8  # its start ends an open paragraph
SPECIAL = 16  # the end tag of an inline element does not reach beyond it
SCOPE = 32  # nor does that of any other element
SKIPPED = 64  # what it holds is never text of the page
HEAD = 128  # may stand in the head

_WORDS = {
    VOID: "area base br col embed hr img input link meta param source track wbr basefont bgsound frame keygen",
    RAW: "script style textarea title xmp iframe noembed noscript",
    BLOCK: "address article aside blockquote body button caption center col colgroup dd details dialog dir div dl dt fieldset "
    "figcaption figure footer form frameset h1 h2 h3 h4 h5 h6 head header hgroup hr html legend li listing main menu nav "
    "noframes ol optgroup option p plaintext pre search section summary table tbody td tfoot th thead tr ul xmp "
    "template script style noscript title iframe",
    CLOSES_P: "address article aside blockquote center details dialog dir div dl fieldset figcaption figure footer form "
    "h1 h2 h3 h4 h5 h6 header hgroup hr listing main menu nav ol p plaintext pre search section summary table ul xmp dd dt li",
    SPECIAL: "address applet area article aside base basefont bgsound blockquote body br button caption center col colgroup "
    "dd details dir div dl dt embed fieldset figcaption figure footer form frame frameset h1 h2 h3 h4 h5 h6 head header "
    "hgroup hr html iframe img input keygen li link listing main marquee menu meta nav noembed noframes noscript object "
    "ol p param plaintext pre script search section select source style summary table tbody td template textarea tfoot "
    "th thead title tr track ul wbr xmp",
    SCOPE: "applet caption html table td th marquee object template",
    SKIPPED: "script style textarea title iframe noembed noscript template svg select datalist canvas audio video object "
    "applet map head rt rp rtc",
    HEAD: "base basefont bgsound link meta title noscript script style template object",
}
_INLINE = (
    "a abbr acronym b bdi bdo big cite code data del dfn em font i ins kbd label mark meter nobr output picture progress q "
    "rb rp rt rtc ruby s samp small span strike strong sub sup svg time tt u var video audio canvas math annotation "
    "semantics amp-img slot map datalist"
)

NAMES: tuple[str, ...] = (
    "#text",
    "#other",
    *sorted({name for words in (*_WORDS.values(), _INLINE) for name in words.split()}),
)
NUMBER = {name: number for number, name in enumerate(NAMES)}
TEXT, OTHER = 0, 1

FLAGS = np.zeros(len(NAMES), dtype=np.int32)
for _bit, _names in _WORDS.items():
    for _name in _names.split():
        FLAGS[NUMBER[_name]] |= _bit

_SLOTS = 1024  # of the hash table; a power of two
_FNV, _PRIME = 0xCBF29CE484222325, 0x100000001B3


def name_hash(name: str) -> int:
    """FNV-1a of a lower-case name, 64 bits."""
    value = _FNV
    for byte in name.encode():
        value = ((value ^ byte) * _PRIME) & 0xFFFFFFFFFFFFFFFF
    return value


def hash_table(names: dict[str, int], slots: int) -> tuple[np.ndarray, np.ndarray]:
    """Open addressing: hashes (uint64, 0 for empty) and numbers (int32), `slots` each, a power of two."""
    keys, values = np.zeros(slots, dtype=np.uint64), np.zeros(slots, dtype=np.int32)
    for name, number in names.items():
        place = name_hash(name) & (slots - 1)
        while keys[place]:
            place = (place + 1) & (slots - 1)
        keys[place], values[place] = name_hash(name), number
    return keys, values


KEYS, VALUES = hash_table({name: number for name, number in NUMBER.items() if not name.startswith("#")}, _SLOTS)
