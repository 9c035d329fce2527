"""Places on the globe exact enough to be somebody's: decimal degrees with four places (about ten metres), or degrees, minutes and seconds."""

from __future__ import annotations

import re
from collections.abc import Iterator

from stages.pii.cues import cue, cued
from stages.pii.entities import Span

# One number that a pair may begin with is looked for first; a pair is two with little between.
GATE = re.compile(rb"\d\.\d{4}")
DECIMAL = re.compile(
    rb"[-+]?\d{1,2}\.\d{4,15}(\xb0? ?[NS])?(?: ?[,;/|] ?|, ?(?:lon(?:gitude)?|lng)['\"]?[:=] ?['\"]?|[ \t]| and (?:longitude )?|['\"]?,\s{0,4}['\"]?(?:lon(?:gitude)?|lng)['\"]?\s?[:=]\s?['\"]?)"
    rb"[-+]?(1[0-7]\d|\d{1,2})\.\d{4,15}(\xb0? ?[EW])?(?![\w.]\d|[A-Za-z0-9])",
)
DMS = re.compile(
    rb"\d{1,2}\xb0 ?\d{1,2}(?:\.\d+)?(?:['\xb4?]|&#39;) ?(?:\d{1,2}(?:\.\d+)?(?:\"|''|\?|&quot;) ?)?[NS][ ,;/]{0,3}\d{1,3}\xb0 ?\d{1,2}(?:\.\d+)?(?:['\xb4?]|&#39;) ?(?:\d{1,2}(?:\.\d+)?(?:\"|''|\?|&quot;) ?)?[EWO](?![A-Za-z])"
)
CUES = cue("gps", "co-?ordinates?", "coords?", "lat\\w*", "lon\\w*", "lng", "location\\w*", "position\\w*", "geo\\w*", "map\\w*", "point", "wgs ?84", "koordinaten?", "coordenadas", "coordonn[ée]es",
           "standort", "ubicaci[óo]n", "where\\w*", "q", "ll", "координаты", "坐标", "located")  # fmt: skip


def coordinates(text: str, folded: bytes) -> Iterator[Span]:
    """All pairs of latitude and longitude."""
    done = 0
    for gate in GATE.finditer(folded):
        start = gate.start()
        if start < done:
            continue
        start -= start > 0 and folded[start - 1 : start].isdigit()
        if start and folded[start - 1 : start] in (b"-", b"+"):
            start -= 1
        before = folded[start - 1 : start] if start else b""
        if before.isalnum() or before in (b".", b"_"):
            continue
        found = DECIMAL.match(folded, start)
        if found is None or abs(float(re.match(rb"[-+]?[\d.]+", found[0])[0])) > 90:  # type: ignore[index]  # it begins so
            continue
        done = found.end()
        lettered = found[1] is not None and found[3] is not None
        score = 0.9 if lettered or before == b"@" else 0.7 if cued(text, start, CUES, 40) else 0.2
        yield Span(start, done, "COORDINATES", score)
    if b"\xb0" in folded:
        for found in DMS.finditer(folded):
            yield Span(found.start(), found.end(), "COORDINATES", 0.9)
