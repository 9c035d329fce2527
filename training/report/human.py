"""Numbers, durations and hostile text, made fit for people's eyes."""

from __future__ import annotations

import math
import re
from datetime import datetime
from typing import Any

# Characters that would be invisible, reorder the line, or be refused by an HTML parser; tab and line end stay.
_UNSHOWABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\uffff\ud800-\udfff]"
)


def count(value: Any) -> str:
    """An integer with thousands separators; an en dash for what is no number."""
    return f"{value:,.0f}" if _finite(value) else "–"


def short(value: Any) -> str:
    """A number in at most about five characters: 950, 12.3k, 4.56M."""
    if not _finite(value):
        return "–"
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def size(value: Any) -> str:
    """Bytes in decimal units: 812 B, 3.41 MB."""
    if not _finite(value):
        return "–"
    for step, unit in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(value) >= step:
            scaled = value / step
            return f"{scaled:,.{0 if scaled >= 100 else 1 if scaled >= 10 else 2}f} {unit}"
    return f"{value:.0f} B"


def number(value: Any) -> str:
    """A measured value: integers whole, others to four significant digits."""
    if isinstance(value, bool) or not _finite(value):
        return "–" if value is None else str(value)
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{value:,.0f}"
    return f"{value:,.{1 if abs(value) < 1000 else 0}f}" if 100 <= abs(value) < 1e15 else f"{value:.4g}"


def percent(part: Any, whole: Any) -> str:
    """A share with enough digits that little is not shown as nothing: 12.3 %, 0.04 %, <0.01 %."""
    if not _finite(part) or not _finite(whole) or not whole:
        return "–"
    share = 100 * part / whole
    if 0 < share < 0.01:
        return "<0.01 %"
    text = f"{share:.1f}" if share >= 1 or share == 0 else f"{share:.2f}"
    return f"{'>99.9' if text == '100.0' and part < whole else text} %"


def duration(seconds: Any) -> str:
    """Seconds as 0.42 s, 12.3 s, 4 min 10 s, 3 h 05 min, 2 d 4 h."""
    if not _finite(seconds):
        return "–"
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400:,} d {whole % 86400 // 3600} h"


def moment(text: Any) -> str:
    """An ISO time as 2024-05-01 12:30:00 UTC; anything else as it is."""
    try:
        when = datetime.fromisoformat(str(text))
    except ValueError:
        return str(text)
    return when.strftime("%Y-%m-%d %H:%M:%S") + (f" {when.tzname()}" if when.tzinfo else "")


def shown(text: Any, limit: int = 4000) -> str:
    """Text with its control and direction characters spelled out, cut after `limit` characters; not yet HTML-escaped."""
    whole = "" if text is None else str(text)
    cut = _UNSHOWABLE.sub(lambda m: "\n" if m.group() == "\r" else f"⟨U+{ord(m.group()):04X}⟩", whole[:limit])
    return cut + ("…" if len(whole) > limit else "")


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
