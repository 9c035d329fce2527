"""Language labels and scripts: ISO 639-3 for the labels of lid.176, ISO 15924 for the characters of a text."""

from __future__ import annotations

import numpy as np

# ISO 639-1 and ISO 639-3, in pairs
_PAIRS = """
af afr am amh an arg ar ara as asm av ava az aze ba bak be bel bg bul bh bho bn ben bo bod br bre bs bos ca cat ce che
co cos cs ces cv chv cy cym da dan de deu dv div el ell en eng eo epo es spa et est eu eus fa fas fi fin fr fra fy fry
ga gle gd gla gl glg gn grn gu guj gv glv he heb hi hin hr hrv ht hat hu hun hy hye ia ina id ind ie ile io ido is isl
it ita ja jpn jv jav ka kat kk kaz km khm kn kan ko kor ku kur kv kom kw cor ky kir la lat lb ltz li lim lo lao lt lit
lv lav mg mlg mk mkd ml mal mn mon mr mar ms msa mt mlt my mya ne nep nl nld nn nno no nor oc oci or ori os oss pa pan
pl pol ps pus pt por qu que rm roh ro ron ru rus sa san sc srd sd snd sh hbs si sin sk slk sl slv so som sq sqi sr srp
su sun sv swe sw swa ta tam te tel tg tgk th tha tk tuk tl tgl tr tur tt tat ug uig uk ukr ur urd uz uzb vi vie vo vol
wa wln yi yid yo yor zh zho
"""

# Labels of lid.176 are names of Wikipedia editions. Three-letter ones are ISO 639-3 codes but for `als` (Alemannic
# there, Tosk Albanian in the standard); `bh` is the Bhojpuri edition; `eml` (retired by the standard) and `nah` (a
# group of languages) have no code of their own and keep the label.
_ISO639_3 = dict(zip(_PAIRS.split()[0::2], _PAIRS.split()[1::2], strict=True)) | {"als": "gsw"}


def iso639_3(label: str) -> str | None:
    """The ISO 639-3 code for a label: one of lid.176, or one that begins with an ISO 639-3 code (`eng_Latn`)."""
    base, *script = label.replace("-", "_").split("_")
    if script and len(base) == 3:
        return base
    return _ISO639_3.get(base, base if len(base) == 3 else None)


# Letters of each script as inclusive ranges of code points (Unicode 16, Scripts.txt), the scripts of living languages.
_SCRIPTS: dict[str, tuple[tuple[int, int], ...]] = {
    "Latn": (
        (0x41, 0x5A), (0x61, 0x7A), (0xAA, 0xAA), (0xBA, 0xBA), (0xC0, 0xD6), (0xD8, 0xF6), (0xF8, 0x2B8),
        (0x1E00, 0x1EFF), (0x2C60, 0x2C7F), (0xA722, 0xA787), (0xA78B, 0xA7FF), (0xAB30, 0xAB64), (0xFB00, 0xFB06),
        (0xFF21, 0xFF3A), (0xFF41, 0xFF5A),
    ),
    "Grek": ((0x370, 0x373), (0x376, 0x37D), (0x37F, 0x37F), (0x386, 0x386), (0x388, 0x3E1), (0x3F0, 0x3FF), (0x1F00, 0x1FFE)),
    "Copt": ((0x3E2, 0x3EF), (0x2C80, 0x2CFF)),
    "Cyrl": ((0x400, 0x484), (0x487, 0x52F), (0x1C80, 0x1C8A), (0x1D2B, 0x1D2B), (0x2DE0, 0x2DFF), (0xA640, 0xA69F)),
    "Armn": ((0x531, 0x556), (0x559, 0x58A), (0xFB13, 0xFB17)),
    "Hebr": ((0x591, 0x5F4), (0xFB1D, 0xFB4F)),
    "Arab": (
        (0x610, 0x61A), (0x620, 0x63F), (0x641, 0x64A), (0x656, 0x65F), (0x66E, 0x66F), (0x671, 0x6D3), (0x6D5, 0x6EF),
        (0x6FA, 0x6FF), (0x750, 0x77F), (0x870, 0x8FF), (0xFB50, 0xFDFF), (0xFE70, 0xFEFC),
    ),
    "Syrc": ((0x710, 0x74F), (0x860, 0x86A)),
    "Thaa": ((0x780, 0x7B1),),
    "Nkoo": ((0x7C0, 0x7FA),),
    "Deva": ((0x900, 0x950), (0x955, 0x963), (0x966, 0x97F), (0xA8E0, 0xA8FF)),
    "Beng": ((0x980, 0x9FE),),
    "Guru": ((0xA01, 0xA76),),
    "Gujr": ((0xA81, 0xAFF),),
    "Orya": ((0xB01, 0xB77),),
    "Taml": ((0xB82, 0xBFA),),
    "Telu": ((0xC00, 0xC7F),),
    "Knda": ((0xC80, 0xCF3),),
    "Mlym": ((0xD00, 0xD7F),),
    "Sinh": ((0xD81, 0xDF4),),
    "Thai": ((0xE01, 0xE3A), (0xE40, 0xE5B)),
    "Laoo": ((0xE81, 0xEDF),),
    "Tibt": ((0xF00, 0xFD4), (0xFD9, 0xFDA)),
    "Mymr": ((0x1000, 0x109F), (0xA9E0, 0xA9FE), (0xAA60, 0xAA7F)),
    "Geor": ((0x10A0, 0x10FA), (0x10FC, 0x10FF), (0x1C90, 0x1CBF), (0x2D00, 0x2D2D)),
    "Hang": ((0x1100, 0x11FF), (0x3131, 0x318E), (0xA960, 0xA97C), (0xAC00, 0xD7FB), (0xFFA0, 0xFFDC)),
    "Ethi": ((0x1200, 0x1399), (0x2D80, 0x2DDE), (0xAB01, 0xAB2E)),
    "Cher": ((0x13A0, 0x13FD), (0xAB70, 0xABBF)),
    "Cans": ((0x1400, 0x167F), (0x18B0, 0x18F5)),
    "Tglg": ((0x1700, 0x171F),),
    "Khmr": ((0x1780, 0x17F9), (0x19E0, 0x19FF)),
    "Mong": ((0x1806, 0x18AA),),
    "Limb": ((0x1900, 0x194F),),
    "Tale": ((0x1950, 0x1974),),
    "Talu": ((0x1980, 0x19DF),),
    "Bugi": ((0x1A00, 0x1A1F),),
    "Lana": ((0x1A20, 0x1AAD),),
    "Bali": ((0x1B00, 0x1B7E),),
    "Sund": ((0x1B80, 0x1BBF), (0x1CC0, 0x1CC7)),
    "Lepc": ((0x1C00, 0x1C4F),),
    "Olck": ((0x1C50, 0x1C7F),),
    "Tfng": ((0x2D30, 0x2D7F),),
    "Hira": ((0x3041, 0x3096), (0x309D, 0x309F)),
    "Kana": ((0x30A1, 0x30FA), (0x30FD, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF6F), (0xFF71, 0xFF9D)),
    "Bopo": ((0x3105, 0x312F), (0x31A0, 0x31BF)),
    "Hani": ((0x2E80, 0x2FD5), (0x3005, 0x3007), (0x3021, 0x3029), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAD9), (0x20000, 0x323AF)),
    "Yiii": ((0xA000, 0xA4C6),),
    "Lisu": ((0xA4D0, 0xA4FF),),
    "Vaii": ((0xA500, 0xA62B),),
    "Java": ((0xA980, 0xA9DF),),
    "Mtei": ((0xAAE0, 0xAAF6), (0xABC0, 0xABF9)),
    "Adlm": ((0x1E900, 0x1E95F),),
}  # fmt: skip

_NAMES = ("Zyyy", *_SCRIPTS)
_JAPANESE = ("Hani", "Hira", "Kana")
_RANGES = sorted((first, last, code) for code, name in enumerate(_NAMES) for first, last in _SCRIPTS.get(name, ()))
# boundaries of alternating gaps and ranges: what stands before the first letter, between two ranges, and after is Zyyy
_STARTS = np.array([0] + [edge for first, last, _ in _RANGES for edge in (first, last + 1)], dtype=np.uint32)
_CODES = np.array([0] + [code for _, _, script in _RANGES for code in (script, 0)], dtype=np.int64)


def script_of(text: str) -> str:
    """The ISO 15924 code of the script that most letters of a text belong to; `Zyyy` if it has none.

    Han, Hiragana and Katakana count as `Jpan` together where a tenth of them is kana; ties go to the first in code
    point order of the scripts' first letters.
    """
    if text.isascii():
        return "Latn" if any(character.isalpha() for character in text) else "Zyyy"
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    counts = np.bincount(_CODES[np.searchsorted(_STARTS, points, side="right") - 1], minlength=len(_NAMES))
    han, hiragana, katakana = (int(counts[_NAMES.index(name)]) for name in _JAPANESE)
    counts[0] = 0
    best = _NAMES[int(counts.argmax())]
    kana = hiragana + katakana
    if kana * 10 >= han + kana > 0 and han + kana >= int(counts.max()):
        return "Jpan"
    return best if counts.any() else "Zyyy"
