"""Kept rows of a run, by id: of documents/, chat/, preferences/ and prompts/; and whether the run can be read at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import facts as run_facts
from pipeline.engine.lease import holder
from pipeline.engine.store import Store
from pipeline.report import scan
from pipeline.yamlfile import ConfigError
from stages.conversation import KINDS, LISTS, transcript

FOLDERS = ("documents", *KINDS.values())
_TALK = ("messages", "prompt", "chosen", "rejected", "answer")
_SHOWN = ("id", "url", "source", "text", *_TALK)


def kept_folders(run: Path, columns: Sequence[str] = _SHOWN) -> Iterator[tuple[Path, list[str]]]:
    """Where kept rows are, and which of these columns each has."""
    for name in FOLDERS:
        folder = run / name
        have = scan.columns_of(folder)
        if have:
            yield folder, [column for column in columns if column in have]


def kept_rows(run: Path, ids: set[str], columns: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """Kept rows by id, each with a `text`, `url`, `source` and these other columns; unknown ids are left out."""
    found: dict[str, dict[str, Any]] = {}
    if not ids:
        return found
    for folder, names in kept_folders(run, (*_SHOWN, *columns)):
        for row in rows_where(folder, "id", pa.array(sorted(ids), pa.string()), names):
            found[row["id"]] = {**row, "text": row["text"] if "text" in row else _talk(row)}
    return found


def rows_where(folder: Path, name: str, values: pa.Array, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Rows of a folder's parts whose column `name` is one of the values, in order; with `part`, the name of their file.

    The other columns are read of row groups that hold such a row, no more.
    """
    if name not in scan.columns_of(folder):
        return
    for group in scan.row_groups(folder, [name]):
        here = (batch.column(0) for batch in scan.batches([group], [name], rows=65536))
        if not any(pc.any(pc.is_in(column, value_set=values)).as_py() for column in here):
            continue
        for batch in scan.batches([group], list(dict.fromkeys([name, *columns])), rows=256):
            for row in batch.filter(pc.is_in(batch.column(name), value_set=values)).to_pylist():
                yield {**row, "part": group.path.stem}


def _talk(row: dict[str, Any]) -> str:
    """A row of chat/, preferences/ or prompts/ as people read it."""
    lists = [row.get("messages", row.get("prompt")), *(row.get(name) for name in LISTS[1:])]
    answer = row.get("answer")
    return transcript(lists) + (f"\n\n[answer]\n{answer}" if answer else "")


def with_ledger(store: Store, command: str) -> tuple[Path, dict[str, Any]]:
    """The folder and run.json of a run that `command` may read. Raises `ConfigError` where it is elsewhere, live, or without a ledger."""
    run = store.local
    if run is None:
        raise ConfigError(
            f"{command}: needs a local run directory; copy the run's ledger/, samples/ and documents/ first"
        )
    if holder(store) is not None:
        raise ConfigError(f"{run}: a run is live here; use `{command}` when it is done")
    if not scan.parts(run / "ledger"):
        raise ConfigError(f"{run}: has no ledger yet; let the run finish its stages first")
    facts = run_facts.read(store)
    assert facts is not None
    return run, facts
