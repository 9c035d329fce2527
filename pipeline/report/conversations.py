"""What the report shows of chat/, preferences/ and prompts/."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.report import scan
from stages.conversation import KINDS
from training.report import human

SHOWN = 12  # names in a line
COUNTED = ("source", "language", "verifier", "chat_tags", "fixed")


def conversations(run: Path) -> list[dict[str, Any]]:
    """Of each folder that the run has: its rows, by source, language, tag and repair."""
    found = []
    for folder in KINDS.values():
        have = scan.columns_of(run / folder)
        if not have:
            continue
        columns = [name for name in (*COUNTED, "chat_turns") if name in have]
        counted: dict[str, Counter[str]] = {name: Counter() for name in COUNTED if name in have}
        rows = turns = 0
        for batch in scan.batches(scan.row_groups(run / folder, columns), columns):
            rows += batch.num_rows
            for name, counter in counted.items():
                counter.update(_names(name, batch.column(name)))
            if "chat_turns" in have:
                turns += sum(n or 0 for n in batch.column("chat_turns").to_pylist())
        facts = [(name.removeprefix("chat_"), _line(counter)) for name, counter in counted.items() if counter]
        found.append(
            {"folder": folder, "rows": rows, "turns": turns / rows if rows and turns else None, "facts": facts}
        )
    return found


def _names(name: str, column: pa.Array) -> Iterator[str]:
    for value in column.to_pylist():
        if name == "fixed":
            yield from (value or "").split(", ") if value else ()
        elif isinstance(value, list):
            yield from value
        elif value is not None:
            yield value


def _line(counter: Counter[str]) -> str:
    order = sorted(counter, key=lambda name: (-counter[name], name))
    more = f" and {len(order) - SHOWN:,} more" if len(order) > SHOWN else ""
    return ", ".join(f"{human.shown(name, 60)} {counter[name]:,}" for name in order[:SHOWN]) + more
