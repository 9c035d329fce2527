"""What the removal of documents from an index would bring back: documents of later runs that were dropped in their favour."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from pipeline.dedup_index.commands import found
from pipeline.dedup_index.directory import local_parts, required
from pipeline.engine.store import Store
from pipeline.status import run_directory
from pipeline.yamlfile import ConfigError

COLUMNS = ("id", "url", "fate", "stage", "rule", "kept_id", "similarity")
SHOWN = 50  # documents listed for each run
pc: Any = pyarrow.compute  # its stubs know too little of what these functions take


def whatif_remove(path: str, ids: Sequence[str], runs: Sequence[str]) -> str:
    """Which of the documents the index holds, and what was dropped in favour of them by `runs`. Raises `ConfigError`."""
    facts = required(path)
    held: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory(prefix="gristmill-index-") as spare:
        for part in local_parts(path, facts, Path(spare)):
            for id_, run in found(part, ids):
                held.setdefault(id_, []).append(run)
    lines = [
        f"{id_}: " + (f"in the index, run {', '.join(held[id_])}" if id_ in held else "not in the index") for id_ in ids
    ]
    for run in runs:
        store = run_directory(run)
        kept, dropped = in_ledger(store, set(ids))
        lines.append(f"{run}: {len(dropped):,} dropped in favour of them, which would be judged again by a new run")
        for row in dropped[:SHOWN]:
            similarity = "" if row["similarity"] is None else f", similarity {row['similarity']:.3f}"
            address = f" {row['url']}" if row["url"] else ""
            lines.append(f"  {row['id']}{address}: {row['stage']}:{row['rule']} for {row['kept_id']}{similarity}")
        if len(dropped) > SHOWN:
            lines.append(f"  and {len(dropped) - SHOWN:,} more")
        if kept:
            lines.append(f"  {len(kept):,} of them are in this run's documents/ and stay there")
    return "\n".join(lines)


def in_ledger(store: Store, ids: set[str]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of a run's ledger: those of kept documents with these ids, and those dropped in favour of one of them."""
    kept: list[dict[str, Any]] = []
    dropped: list[dict[str, Any]] = []
    wanted = pa.array(sorted(ids), pa.string())
    files = [name for name in store.files("ledger") if name.endswith(".parquet")]
    if not files:
        raise ConfigError(f"{store.root}: has no ledger; give a run directory that is finished")
    for name in files:
        with contextlib.closing(store.open(name)) as handle:
            for batch in pq.ParquetFile(handle).iter_batches(columns=list(COLUMNS)):
                own = pc.and_(pc.equal(batch.column("fate"), "kept"), pc.is_in(batch.column("id"), value_set=wanted))
                kept += batch.filter(own).to_pylist()
                gone = pc.and_(
                    pc.is_in(batch.column("kept_id"), value_set=wanted), pc.equal(batch.column("fate"), "dropped")
                )
                dropped += batch.filter(gone).to_pylist()
    return kept, dropped
