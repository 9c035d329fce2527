"""Where the segments of a file meet: a segment that began at a false record start is read again from the right place.

A record start is found by looking for its magic bytes, which a payload may hold too (an archive inside an archive). The
segment before knows where its last record truly ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pipeline.engine.shards import Shard
from pipeline.readers import carry, restart

Place = tuple[str, str, int]  # source, file key, where the segment was planned to begin


@dataclass
class Span:
    """What a unit notes of a segment that it has read: where its first record and the first one behind it start."""

    first: int | None
    next: int | None


def false_start(
    shards: Iterable[Shard],
    spans_of: Callable[[Shard], Mapping[Place, Span] | None],
    starts: Mapping[Place, int | None],
) -> tuple[Shard, Place, int | None] | None:
    """The first segment that was read from a wrong place: its shard, its place, and where it begins (None: it is empty).

    `starts` are corrections made before. Only archives are cut where record starts must be looked for.
    """
    expected: dict[tuple[str, str], int | None] = {}  # file -> where its next record starts
    for shard in shards:
        spans = spans_of(shard)
        if spans is None:
            return None
        for segment in shard.segments:
            if segment.format not in ("warc", "wet"):
                continue
            file, place = (segment.source, segment.key), (segment.source, segment.key, segment.begin)
            span = spans.get(place, Span(None, None))
            start = starts.get(place, segment.begin)
            read = (
                segment
                if place not in starts
                else replace(segment, begin=start if start is not None else segment.size, exact=True)
            )
            again = restart(read, expected.get(file, 0), span)
            if again is not None:
                return shard, place, again.begin if again.begin < segment.size else None
            expected[file] = carry(expected.get(file, 0), span)
    return None


def spans_from(noted: list[dict[str, Any]]) -> dict[Place, Span]:
    """The spans of a unit's manifest."""
    return {(s["source"], s["key"], s["planned"]): Span(s["first"], s["next"]) for s in noted}
