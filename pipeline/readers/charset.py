"""Bytes to text, and text to text that Arrow can hold."""

from __future__ import annotations

import codecs

BOMS = (  # UTF-32 before UTF-16: the one begins with the other
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
SEVEN_BIT = ("iso-2022", "iso2022", "hz", "csiso2022")  # valid ASCII, so UTF-8 would swallow them
DETECT = 1 << 16  # bytes that the detector sees


def valid(text: str) -> str:
    """The text with every lone surrogate replaced by U+FFFD; pairs are joined."""
    if text.isascii():
        return text
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def decode_text(data: bytes, declared: str | None = None) -> str:
    """Text of unknown charset: byte order mark, strict UTF-8, the declared charset, then a detector.

    Strict UTF-8 comes before declarations and detectors: other text is hardly ever valid UTF-8 by chance, and both are
    often wrong. Bytes that the charset lacks become U+FFFD.
    """
    for bom, charset in BOMS:
        if data.startswith(bom):
            return data[len(bom) :].decode(charset, "replace")
    known = _known(declared)
    if known is not None and known.startswith(SEVEN_BIT):
        return valid(data.decode(known, "replace"))
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        pass
    if known is None or known in ("utf-8", "ascii"):
        from resiliparse.parse.encoding import detect_encoding

        known = _known(detect_encoding(data[:DETECT])) or "cp1252"
    return valid(data.decode(known, "replace"))


def _known(charset: str | None) -> str | None:
    """Python's name of a text charset, as browsers read its label (ISO-8859-1 means windows-1252); None if unknown."""
    if not charset:
        return None
    from resiliparse.parse.encoding import map_encoding_to_html5

    try:
        name = map_encoding_to_html5(charset, fallback_utf8=False) or charset
        info = codecs.lookup(name)
        b"a".decode(info.name)  # codecs that are none of text ("rot13", "zlib") raise
        return info.name
    except Exception:  # codecs.lookup raises many kinds for odd labels
        return None
