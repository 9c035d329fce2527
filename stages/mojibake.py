"""Repair of text that was decoded with a wrong charset, behind a gate that clean text passes at once.

ftfy decides what is mojibake and how to undo it; its own test for that reads 2 to 3 million characters a second. The gate
before it reads 5 to 28 million and lets through only what holds a character that UTF-8's lead bytes become in one of
the charsets that ftfy knows, followed by one that its continuation bytes become.
"""

from __future__ import annotations

import re
from functools import cache

# The charsets of ftfy.chardata.CHARMAP_ENCODINGS that real mojibake comes from, by Python codec; "sloppy" codecs are
# ftfy's, for Windows charsets as browsers read them.
_CHARSETS = (
    "latin-1",
    "sloppy-windows-1252",
    "sloppy-windows-1251",
    "sloppy-windows-1250",
    "sloppy-windows-1253",
    "sloppy-windows-1254",
    "sloppy-windows-1257",
    "iso-8859-2",
    "macroman",
    "cp437",
)
_LEADS = range(0xC2, 0xF5)
_CONTINUATIONS = range(0x80, 0xC0)
# Leads of Latin and Cyrillic. After others only symbols count, and letters that end no word in the charset's languages.
_BEFORE_LETTERS = {0xC2, 0xC3, 0xC4, 0xC5, 0xD0, 0xD1}
_RARE_LETTERS = range(0x80, 0x90)
_QUOTES_OF_MACROMAN = range(0xD2, 0xD6)  # l’été would look like Armenian
_MAX_LINE = 1_000_000  # characters; longer lines are data, and ftfy takes seconds on them


@cache
def gate() -> re.Pattern[str]:
    """Matches in every text that ftfy would repair but for single exotic pairs, and in few others."""
    import ftfy.bad_codecs  # noqa: F401 - registers the sloppy codecs

    follows: dict[str, set[str]] = {"Ã": {" "}}  # "Ã " was "à" before its no-break space became a plain one
    for charset in _CHARSETS:
        chars = {byte: bytes([byte]).decode(charset, "replace") for byte in (*_LEADS, *_CONTINUATIONS)}
        for lead in _LEADS:
            if charset == "macroman" and lead in _QUOTES_OF_MACROMAN:
                continue
            after = {
                chars[c]
                for c in _CONTINUATIONS
                if lead in _BEFORE_LETTERS or c in _RARE_LETTERS or not chars[c].isalpha()
            }
            if chars[lead] != "\ufffd":
                follows.setdefault(chars[lead], set()).update(after - {"\ufffd"})
    leads_of: dict[str, set[str]] = {}
    for lead_char, after in follows.items():
        leads_of.setdefault(_class(after), set()).add(lead_char)
    pairs = "|".join(f"(?<={_class(leads)}){after_class}" for after_class, leads in sorted(leads_of.items()))
    anything = _class(set().union(*follows.values()))
    # C1 controls are Windows-1252 punctuation read as Latin-1; the look-ahead refuses most letters in one step
    return re.compile(f"{_class(set(follows))}(?={anything})(?:{pairs})|[\x80-\x84\x86-\x9f]")


def repair(text: str) -> tuple[str, int]:
    """The text with ftfy's repairs of its encoding, line by line, and how many lines changed."""
    if text.isascii() or not gate().search(text):
        return text, 0
    from ftfy import TextFixerConfig, fix_encoding

    config = TextFixerConfig(unescape_html=False, explain=False)
    lines = text.split("\n")
    repaired = 0
    for number, line in enumerate(lines):
        if len(line) <= _MAX_LINE and not line.isascii() and gate().search(line):
            fixed = fix_encoding(line, config)
            if fixed != line:
                lines[number] = fixed
                repaired += 1
    return ("\n".join(lines), repaired) if repaired else (text, 0)


def _class(characters: set[str]) -> str:
    return f"[{''.join(re.escape(character) for character in sorted(characters))}]"
