"""The numbers of a report as one long Parquet table: a row is one value."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tokenizer_training.dataset.layout import atomic, schema

SCHEMA = schema(tokenizer=pa.string(), scope=pa.string(), group=pa.string(), metric=pa.string(), value=pa.float64())
# scope -> where its groups stand in the facts
GROUPED = {
    "language": ("by_language",),
    "source": ("by_source",),
    "domain": ("by_domain",),
    "script": ("by_script",),
    "parallel": ("parallel", "languages"),
    "parallel_user": ("parallel_user", "languages"),
    "counted_language": ("counted", "by_language"),
    "counted_source": ("counted", "by_source"),
    "counted_domain": ("counted", "by_domain"),
}
SINGLE = ("total", "vocabulary", "parallel", "parallel_user", "health", "speed")


def rows_of(facts: dict[str, Any]) -> Iterator[tuple[str, str, str, float]]:
    """(scope, group, metric, value) of every number in one tokenizer's facts."""
    yield from (("report", "", key, float(value)) for key, value in facts.items() if _number(value))
    for scope in SINGLE:
        yield from ((scope, "", key, float(value)) for key, value in facts.get(scope, {}).items() if _number(value))
    yield from (("class", name, "tokens", float(n)) for name, n in facts["health"]["classes"].items())
    yield from (("token_length", size, "tokens", float(n)) for size, n in facts["health"]["token_lengths"].items())
    for scope, place in GROUPED.items():
        groups: Any = facts
        for key in place:
            groups = groups.get(key, {})
        for name, row in groups.items():
            yield from ((scope, name, key, float(value)) for key, value in row.items() if _number(value))
    lengths = facts.get("normalized_sequence_length", {})
    for scope, found in lengths.items():
        if scope == "total" and _number(found):
            yield "total", "", "normalized_sequence_length", float(found)
        elif isinstance(found, dict):
            for name, value in found.items():
                if _number(value):
                    yield scope.removeprefix("by_"), name, "normalized_sequence_length", float(value)
    for point in facts["size_curve"]:
        for key in ("tokens", "bytes_per_token"):
            yield "size_curve", str(point["vocab_size"]), key, float(point[key])
    for cost in facts["costs"]:
        name = f"{cost['layers']}x{cost['width']}x{cost['context']}"
        for point in cost["points"]:
            yield f"cost {name}", str(point["vocab_size"]), "flops_per_byte", float(point["flops_per_byte"])
        yield f"cost {name}", "", "best_vocab_size", float(cost["best_vocab_size"])
    for kind, probes in facts["probes"].items():
        for probe in probes:
            yield f"probe {kind}", probe["text"], "tokens", float(len(probe["tokens"]))
    for rank, count in facts["rank_frequency"]:
        yield "rank_frequency", str(rank), "seen", float(count)


def write_table(reports: list[dict[str, Any]], path: Path) -> None:
    """Write the table atomically."""
    rows = [(facts["name"], *row) for facts in reports for row in rows_of(facts)]
    columns = [pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), SCHEMA, strict=True)]
    with atomic(path) as temporary:
        pq.write_table(pa.Table.from_arrays(columns, schema=SCHEMA), temporary, compression="zstd")


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
