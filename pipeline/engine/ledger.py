"""ledger/: one row for each record read, what became of it and why."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.engine.exchange import Sorter
from pipeline.engine.rows import LEDGER_SCHEMA, LOST_SCHEMA
from pipeline.engine.writers import GROUP_ROWS, TableWriter
from stages.pii.scrub import scrub_url


class Lost:
    """Ledger rows of records that end in this phase."""

    def __init__(self, writer: TableWriter) -> None:
        self.writer = writer
        self.fates: dict[str, Counter[str]] = {}  # by source
        self.ended: dict[str, dict[str, Counter[str]]] = {}  # by stage and source

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
            source, fate = column["source"][i], verdict["fate"]
            self.fates.setdefault(source, Counter())[fate] += 1
            self.ended.setdefault(verdict["stage"], {}).setdefault(source, Counter())[fate] += 1
            rows.append(
                {
                    "id": column["id"][i],
                    "record_id": scrubbed(column["record_id"][i]),
                    "url": scrubbed(column["url"][i]),
                    "source": source,
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
    """What the ledger says of kept rows; `detail` is what a stage put right in them."""
    rows = table.num_rows
    columns: dict[str, Any] = {
        "id": table.column("id"),
        "record_id": pa.array([scrubbed(u) for u in table.column("record_id").to_pylist()], type=pa.string()),
        "url": pa.array([scrubbed(u) for u in table.column("url").to_pylist()], type=pa.string()),
        "source": table.column("source"),
        "file": table.column("_file"),
        "offset": table.column("_offset"),
        **({"detail": table.column("fixed")} if "fixed" in table.column_names else {}),
        "fate": pa.array(["kept"] * rows, type=pa.string()),
    }
    arrays = [columns[f.name] if f.name in columns else pa.nulls(rows, f.type) for f in LEDGER_SCHEMA]
    return pa.table([*arrays, table.column("_seq")], schema=LOST_SCHEMA)


class WholeLedger:
    """A shard's whole ledger: what every phase lost and what was kept, sorted into the order of the input.

    Sorted on disk where it is large: a shard of short lines has a million rows.
    """

    def __init__(self) -> None:
        self._sorter = Sorter(pa.schema([("shard", pa.int32()), *LEDGER_SCHEMA, ("row", pa.int64())]), None)

    def add(self, table: pa.Table) -> None:
        """Add rows of `LOST_SCHEMA`, in any order."""
        shard = pa.array(np.zeros(table.num_rows, dtype=np.int32))
        columns = [shard, *table.cast(LOST_SCHEMA).columns]
        self._sorter.add(
            pa.table(columns, schema=pa.schema([("shard", pa.int32()), *LEDGER_SCHEMA, ("row", pa.int64())]))
        )

    def add_file(self, file: IO[bytes] | Path) -> None:
        """Add the rows of a file that a phase left."""
        with pq.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches(batch_size=GROUP_ROWS):
                self.add(pa.Table.from_batches([batch]))

    def write(self, path: Path) -> int:
        """Write the file; returns the number of rows."""
        writer = TableWriter(path, LEDGER_SCHEMA)
        for table in self._sorter.sorted():
            writer.add(table.select(LEDGER_SCHEMA.names))
        writer.close()
        return writer.rows
