"""The section `index`: a part of the run's curated documents, made in parallel, put into an index as a whole."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipeline.config import RunConfig
from pipeline.dedup_index.config import IndexConfig
from pipeline.dedup_index.directory import build_folder, check_parameters, entry_of, existing, put_part
from pipeline.engine.journal import digest
from pipeline.engine.store import TEMPORARY, sha256_file
from pipeline.engine.work import Call
from stages.dedup.index_build import (
    Documents,
    Selection,
    build_part,
    finish_part,
    merge_documents,
    merge_keys,
)
from stages.dedup.index_format import PART, PartFacts, RunOfPart
from stages.dedup.index_hash import IndexParameters

LIBRARIES = ("datasketch", "numpy", "xxhash")
BATCH = 1024  # documents hashed at a time

Calls = Callable[[str, list[Call]], list[Any]]  # a title and calls -> their results


def check(config: RunConfig) -> None:
    """Before the first record is read: an index that is there must be comparable. Raises `ConfigError`."""
    if config.index is not None:
        check_parameters(config.index.path, config.index.parameters)


def present(config: IndexConfig, run: str, facts: dict[str, Any]) -> bool:
    """Whether the index still holds the part that the section wrote."""
    index = existing(config.path)
    entry = entry_of(index, run) if index is not None else None
    return entry is not None and entry.sha256 == facts.get("sha256")


def write_index(config: IndexConfig, run: str, documents: list[Path], local: Path, calls: Calls) -> dict[str, Any]:
    """Bring the run's part of the index up to date; the section's facts.

    A piece for each file of documents, kept below phases/ until the part stands, so that a killed run need not make it again; then
    the pieces are merged, band by band.
    """
    check_parameters(config.path, config.parameters)
    pieces = local / "phases" / "index"
    pieces.mkdir(parents=True, exist_ok=True)
    arguments = {"parameters": config.parameters, "run": run, "folder": pieces}
    made: list[Path] = calls(
        "index",
        [Call(f"index {path.stem}", hash_part, {"documents": path, **arguments}) for path in documents],
    )
    selections = [Selection(folder) for folder in made]
    target = build_folder(config.path, pieces, run)
    shutil.rmtree(target, ignore_errors=True)
    merged = {"selections": selections, "folder": target}
    (runs,) = calls("index documents", [Call("index documents", merge_documents, merged)])
    calls(
        "index bands",
        [
            Call(f"index {'texts' if which is None else f'band {which}'}", merge_keys, {**merged, "which": which})
            for which in (None, *range(config.bands))
        ],
    )
    finish = {"folder": target, "parameters": config.parameters, "runs": runs or [RunOfPart(run, 0)]}
    (facts,) = calls("index files", [Call("index files", finish_part, finish)])
    part: PartFacts = facts
    entry = put_part(config.path, target, part, run, {run})
    shutil.rmtree(pieces, ignore_errors=True)
    return {
        "path": config.path,
        "part": entry.folder,
        "sha256": entry.sha256,
        "documents": part.documents,
        "bytes": part.size,
        "bytes_per_document": round(part.size / part.documents, 1) if part.documents else None,
    }


def hash_part(documents: Path, parameters: IndexParameters, run: str, folder: Path) -> Path:
    """The piece of one file of documents, in a worker; its folder, which is named by what it is made of."""
    name = digest([documents.name, sha256_file(documents), parameters.model_dump(mode="json"), run])
    final, temporary = folder / name, folder / f"{TEMPORARY}{name}"
    if (final / PART).exists():
        return final
    for left in (final, temporary):
        shutil.rmtree(left, ignore_errors=True)
    build_part(read_documents(documents), parameters, run, temporary)
    temporary.rename(final)
    return final


def read_documents(path: Path) -> Iterator[Documents]:
    """A file of documents/ in batches."""
    with pq.ParquetFile(path) as parquet:
        for batch in parquet.iter_batches(batch_size=BATCH, columns=["id", "source", "text"]):
            columns = [batch.column(name).to_pylist() for name in ("id", "source", "text")]
            yield Documents(*columns)
