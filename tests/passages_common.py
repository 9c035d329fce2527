"""Runs a stage that edits texts, and carries its edits out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pyarrow as pa

from pipeline.engine.mapping import apply_edits
from stages.batch import Batch
from stages.stage import Edit, GroupStage
from tests.group_runner import run_group


def shards(texts: Sequence[str | None], cuts: Sequence[int] = (), **columns: Sequence[Any]) -> list[pa.Table]:
    """Documents d0, d1, ... in shards that end at `cuts`; all of one source unless `source` says otherwise."""
    rows: dict[str, Any] = {
        "id": pa.array([f"d{i}" for i in range(len(texts))], pa.string()),
        "text": pa.array(texts, pa.large_string()),
        "source": pa.array(columns.pop("source", ["s"] * len(texts)), pa.string()),
        **columns,
    }
    table = pa.table(rows)
    bounds = [0, *cuts, len(texts)]
    return [table.slice(low, high - low) for low, high in pairwise(bounds)]


def run(stage: GroupStage, tables: Sequence[pa.Table], **runner: Any) -> list[dict[str, Any]]:
    """Each document's row: the provided columns, its verdict, its `edits`, and `after`: its text, None where it was dropped."""
    stage.setup({})
    edits: list[list[Edit]] = []
    provided = stage.columns

    def columns(batch: Batch, verdicts: pa.Table) -> dict[str, pa.Array]:
        edits.extend([Edit(**one) for one in changes or ()] for changes in verdicts.column("edits").to_pylist())
        return provided(batch, verdicts)

    stage.columns = columns  # type: ignore[method-assign]
    rows = [row for table in run_group(stage, tables, **runner) for row in table.to_pylist()]
    for row, changes in zip(rows, edits, strict=True):
        assert all(one.start < one.end for one in changes)
        assert all(one.end < other.start for one, other in pairwise(changes))
        assert not changes or changes[-1].end <= len(row["text"])
        assert not changes or row["rule"] is None
        row["edits"] = [tuple(one) for one in changes]
        row["after"] = None if row["rule"] else apply_edits(row["text"] or "", changes)
    return rows


def texts_after(stage: GroupStage, tables: Sequence[pa.Table], **runner: Any) -> list[str | None]:
    """What is left of each text; None where the document was dropped."""
    return [row["after"] for row in run(stage, tables, **runner)]
