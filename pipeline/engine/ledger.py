"""ledger/: one row for each record read, what became of it and why."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.engine.rows import LEDGER_SCHEMA, LOST_SCHEMA
from pipeline.engine.store import Store
from pipeline.engine.writers import TableWriter
from stages.pii.scrub import scrub_url


class Lost:
    """Ledger rows of records that end in this phase."""

    def __init__(self, writer: TableWriter) -> None:
        self.writer = writer
        self.fates: dict[str, Counter[str]] = {}

    def add(self, table: pa.Table, verdicts: list[dict[str, Any]]) -> None:
        """Add rows with their verdicts (fate, stage, rule, ...), aligned."""
        if not verdicts:
            return
        column = {
            name: table.column(name).to_pylist()
            for name in ("id", "record_id", "url", "source", "_file", "_offset", "_seq")
        }
        rows = []
        for i, verdict in enumerate(verdicts):
            self.fates.setdefault(column["source"][i], Counter())[verdict["fate"]] += 1
            rows.append(
                {
                    "id": column["id"][i],
                    "record_id": scrubbed(column["record_id"][i]),
                    "url": scrubbed(column["url"][i]),
                    "source": column["source"][i],
                    "file": column["_file"][i],
                    "offset": column["_offset"][i],
                    "_seq": column["_seq"][i],
                    "kept_id": None,
                    "similarity": None,
                    **verdict,
                }
            )
        self.writer.add(pa.Table.from_pylist(rows, schema=LOST_SCHEMA))


def scrubbed(url: str | None) -> str | None:
    """A URL or record name without personal data, for the ledger."""
    return None if url is None else scrub_url(url)


def ledger_facts(table: pa.Table) -> pa.Table:
    """What the ledger says of kept rows."""
    rows = table.num_rows
    columns: dict[str, Any] = {
        "id": table.column("id"),
        "record_id": pa.array([scrubbed(u) for u in table.column("record_id").to_pylist()], type=pa.string()),
        "url": pa.array([scrubbed(u) for u in table.column("url").to_pylist()], type=pa.string()),
        "source": table.column("source"),
        "file": table.column("_file"),
        "offset": table.column("_offset"),
        "fate": pa.array(["kept"] * rows, type=pa.string()),
    }
    arrays = [columns[f.name] if f.name in columns else pa.nulls(rows, f.type) for f in LEDGER_SCHEMA]
    return pa.table([*arrays, table.column("_seq")], schema=LOST_SCHEMA)


def write_ledger(store: Store, before: Iterable[str], path: Path, kept: list[pa.Table], lost_now: pa.Table) -> int:
    """The shard's whole ledger: what every phase lost and what was kept, in the order of the input."""
    tables = [lost_now, *kept]
    for earlier in before:
        with contextlib.closing(store.open(earlier)) as handle:
            tables.append(pq.read_table(handle))
    whole = pa.concat_tables([t.cast(LOST_SCHEMA) for t in tables])
    whole = whole.take(pc.sort_indices(whole, sort_keys=[("_seq", "ascending")])).drop_columns(["_seq"])
    writer = TableWriter(path, LEDGER_SCHEMA)
    writer.add(whole)
    writer.close()
    return whole.num_rows
