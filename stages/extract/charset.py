"""From the bytes of a page to a string: which character encoding, and how to decode what is broken.

The order: byte order mark, strict UTF-8, what the HTTP header and the page's own `<meta>` declare, detection. The
HTML standard lets the header win over everything but the mark; real servers send a default header for files of any
encoding, and valid UTF-8 is never an accident, so a declaration is believed only as far as the bytes bear it out.
"""

from __future__ import annotations

import codecs
import re

# Labels of the WHATWG Encoding Standard (https://encoding.spec.whatwg.org/#names-and-labels), with underscores and
# blanks as hyphens, to Python's codec for the encoding that browsers use for them: often a superset of the one named.
# Only what is listed here is ever decoded, so that a page cannot ask for "zip" or "unicode_escape".
_LABELS = {
    "utf-8": "utf-8 utf8 unicode-1-1-utf-8 unicode11utf8 unicode20utf8 x-unicode20utf8 utf-8-sig",
    "utf-16-le": "utf-16 utf-16le utf16 utf-16-le csunicode iso-10646-ucs-2 ucs-2 unicode unicodefeff",
    "utf-16-be": "utf-16be utf-16-be unicodefffe",
    "cp1252": "ascii us-ascii ansi-x3.4-1968 iso-8859-1 iso8859-1 iso88591 latin1 latin-1 l1 ibm819 cp819 cp1252 windows-1252 "
    "x-cp1252 iso-ir-100 csisolatin1 iso-8859-1:1987 x-user-defined ansi",
    "iso8859-2": "iso-8859-2 iso8859-2 iso88592 latin2 latin-2 l2 iso-ir-101 csisolatin2",
    "iso8859-3": "iso-8859-3 iso8859-3 iso88593 latin3 l3 csisolatin3",
    "iso8859-4": "iso-8859-4 iso8859-4 iso88594 latin4 l4 csisolatin4",
    "iso8859-5": "iso-8859-5 iso8859-5 iso88595 cyrillic csisolatincyrillic iso-ir-144",
    "iso8859-6": "iso-8859-6 iso8859-6 iso88596 arabic asmo-708 ecma-114 csisolatinarabic iso-8859-6-e iso-8859-6-i",
    "iso8859-7": "iso-8859-7 iso8859-7 iso88597 greek greek8 ecma-118 elot-928 sun-eu-greek csisolatingreek",
    "iso8859-8": "iso-8859-8 iso8859-8 iso88598 hebrew visual logical iso-8859-8-e iso-8859-8-i csisolatinhebrew",
    "iso8859-10": "iso-8859-10 iso8859-10 latin6 l6 csisolatin6",
    "iso8859-13": "iso-8859-13 iso8859-13",
    "iso8859-14": "iso-8859-14 iso8859-14",
    "iso8859-15": "iso-8859-15 iso8859-15 iso885915 latin9 latin-9 l9 csisolatin9",
    "iso8859-16": "iso-8859-16 iso8859-16",
    "cp866": "ibm866 cp866 866 csibm866",
    "koi8-r": "koi8-r koi8 koi koi8r cskoi8r",
    "koi8-u": "koi8-u koi8-ru",
    "mac-roman": "macintosh mac x-mac-roman csmacintosh",
    "mac-cyrillic": "x-mac-cyrillic x-mac-ukrainian",
    "cp874": "windows-874 cp874 tis-620 tis620 iso-8859-11 iso8859-11 dos-874",
    "cp1250": "windows-1250 cp1250 x-cp1250 win-1250",
    "cp1251": "windows-1251 cp1251 x-cp1251 win-1251 win1251",
    "cp1253": "windows-1253 cp1253 x-cp1253",
    "cp1254": "windows-1254 cp1254 x-cp1254 iso-8859-9 iso8859-9 iso88599 latin5 latin-5 l5 csisolatin5",
    "cp1255": "windows-1255 cp1255 x-cp1255",
    "cp1256": "windows-1256 cp1256 x-cp1256",
    "cp1257": "windows-1257 cp1257 x-cp1257",
    "cp1258": "windows-1258 cp1258 x-cp1258",
    "gb18030": "gb18030 gbk gb2312 gb-2312 gb-2312-80 gb2312-80 x-gbk cp936 ms936 chinese csgb2312 iso-ir-58 csiso58gb231280",
    "big5hkscs": "big5 big-5 big5-hkscs cn-big5 x-x-big5 csbig5 cp950",
    "euc_jis_2004": "euc-jp x-euc-jp eucjp cseucpkdfmtjapanese",
    "iso2022_jp_2": "iso-2022-jp csiso2022jp",
    "cp932": "shift-jis shift_jis sjis x-sjis ms-kanji ms932 windows-31j csshiftjis cp932",
    "cp949": "euc-kr euckr cp949 ms949 windows-949 ks-c-5601-1987 ks-c-5601-1989 ksc5601 ksc-5601 korean cseuckr csksc56011987 "
    "iso-ir-149 uhc",
}
_CODECS = {label.replace("_", "-"): codec for codec, labels in _LABELS.items() for label in labels.split()}

_BOMS = (  # the UTF-32 mark begins with the UTF-16 one
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_META = re.compile(
    rb"""<meta\b[^>]{0,512}?\bcharset\s*=\s*["']?\s*([A-Za-z0-9_:.\-]{2,40})|<\?xml\b[^>]{0,256}?\bencoding\s*=\s*["']([A-Za-z0-9_:.\-]{2,40})""",
    re.IGNORECASE,
)
_META_BYTES = 16_384  # the standard looks at 1,024; real pages put scripts before the declaration
_DETECT_BYTES = 131_072
_ISO_2022_JP = (b"\x1b$B", b"\x1b$@", b"\x1b(J", b"\x1b$(D")
_HIGH_LETTERS = re.compile("[\u0080-\uffff]")
_LETTERS = re.compile(r"[A-Za-z\u0080-\uffff]")
_TAG = re.compile(r"<[^>]*>")

_STRAY_SHARE = 0.05  # UTF-8 with at most this share of its multi-byte sequences broken is still UTF-8
_LATIN_SHARE = 0.3  # a Western page with more non-ASCII letters than this is another encoding read as Latin-1


def codec_of(label: str | None) -> str | None:
    """Python's codec for a declared label, or None for what is unknown or not a text encoding of the web."""
    if not label:
        return None
    return _CODECS.get(label.strip().strip("\"'").lower().replace("_", "-").replace(" ", "-"))


def meta_charset(data: bytes) -> str | None:
    """The codec that the page declares for itself, in `<meta>` or in an XML declaration."""
    match = _META.search(data, 0, _META_BYTES)
    if match is None:
        return None
    codec = codec_of((match.group(1) or match.group(2)).decode("ascii"))
    # a declaration that can be read as ASCII is no UTF-16; the standard reads such a page as UTF-8
    return "utf-8" if codec in ("utf-16-le", "utf-16-be") else codec


def decode(data: bytes, header: str | None = None) -> tuple[str, str]:
    """The page as a string without NULs or a byte order mark, and the codec that was used.

    `header` is the charset parameter of the HTTP Content-Type. Bytes that the codec cannot decode become U+FFFD; this
    never raises. Detection looks at 128 KiB (half from each end).
    """
    for mark, codec in _BOMS:
        if data.startswith(mark):
            return _finish(data[len(mark) :].decode(codec, "replace")), codec
    declared = codec_of(header)
    if (wide := _without_mark(data)) is not None:
        return _finish(data.decode(wide, "replace")), wide
    if (
        b"\x1b" in data
        and any(escape in data for escape in _ISO_2022_JP)
        and (text := _strict(data, "iso2022_jp_2")) is not None
    ):
        return _finish(text), "iso2022_jp_2"
    if (text := _strict(data, "utf-8")) is not None:
        return _finish(text), "utf-8"
    if (text := _nearly_utf8(data)) is not None:
        return _finish(text), "utf-8"
    codec = _choose(data, declared, meta_charset(data))
    return _finish(data.decode(codec, "replace")), codec


def _finish(text: str) -> str:
    """NULs end a page early in C parsers; the standard drops them too."""
    return text.replace("\x00", "").removeprefix("\ufeff")


def _strict(data: bytes, codec: str) -> str | None:
    try:
        return data.decode(codec)
    except UnicodeDecodeError:
        return None


def _without_mark(data: bytes) -> str | None:
    """UTF-16 without a mark: markup is ASCII, so much of every second byte is NUL."""
    head = data[:1024]
    if head.count(0) * 16 < len(head) or len(head) < 8:
        return None
    even, odd = head[0::2].count(0), head[1::2].count(0)
    if odd > 8 * even:
        return "utf-16-le"
    return "utf-16-be" if even > 8 * odd else None


def _nearly_utf8(data: bytes) -> str | None:
    """The text if it is UTF-8 with a few broken places: a cut sequence, one pasted Latin-1 word."""
    text = data.decode("utf-8", "replace")
    broken = text.count("\ufffd") - data.count(b"\xef\xbf\xbd")
    whole = len(_HIGH_LETTERS.findall(text)) - broken
    return text if whole > 0 and broken <= max(1, _STRAY_SHARE * whole) and whole > 2 * broken else None


def _western(text: str) -> bool:
    """Whether a Latin-1 reading of a page is plausible: few of its letters are accented."""
    bare = _TAG.sub(" ", text[:_DETECT_BYTES])
    letters = len(_LETTERS.findall(bare))
    return len(_HIGH_LETTERS.findall(bare)) <= max(3, _LATIN_SHARE * letters)


def _choose(data: bytes, header: str | None, meta: str | None) -> str:
    """The codec for bytes that are not UTF-8: the first declaration that they bear out, else what is detected."""
    # a Latin-1 header is a server's default far more often than a statement about the file
    order = (meta, header) if header == "cp1252" else (header, meta)
    for codec in order:
        if codec is None or codec in ("utf-8", "utf-16-le", "utf-16-be"):
            continue
        text = data.decode(codec, "replace")
        broken = text.count("\ufffd")
        if broken > max(2, 0.01 * len(text)) or (codec == "cp1252" and not _western(text)):
            continue
        return codec
    from resiliparse.parse.encoding import detect_encoding

    detected = codec_of(detect_encoding(data, max_len=_DETECT_BYTES, html5_compatible=False) or "")
    return detected if detected not in (None, "utf-8", "utf-16-le", "utf-16-be") else "cp1252"
