"""`python -m pipeline index ...`: build from files, merge, look into, take documents out."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.apply_rows import as_batch
from pipeline.dedup_index.directory import (
    build_folder,
    check_parameters,
    existing,
    local_parts,
    put_part,
    replace_parts,
    required,
)
from pipeline.mistakes import NAME, explain
from pipeline.overrides import split_override
from pipeline.tables import file_kind, read_chunks
from pipeline.yamlfile import ConfigError
from stages.dedup.index_build import Documents, Selection, build_part, differing, merge_parts
from stages.dedup.index_format import INDEX, Part, PartFacts, below
from stages.dedup.index_hash import IndexParameters, standard_error

PIECE = 100_000  # documents held at a time while building

Say = Callable[[str], None]


def build(path: str, inputs: Sequence[Path], run: str | None, overrides: Sequence[str], say: Say) -> str:
    """Add the texts of JSONL or Parquet files to an index, as the run `run`; what was done. Raises `ConfigError`."""
    for source in inputs:
        _check_text(source)
    name = run if run is not None else inputs[0].name.split(".")[0]
    if not re.fullmatch(NAME, name):
        raise ConfigError(f"--run {name}: expected letters, digits and any of _ . - (the first a letter or a digit)")
    parameters = _parameters(path, overrides)
    with tempfile.TemporaryDirectory(prefix="gristmill-index-") as spare:
        pieces: list[Selection] = []
        for number, documents in enumerate(_pieces(inputs)):
            folder = Path(spare) / f"{number:05d}"
            facts = build_part(documents, parameters, name, folder)
            pieces.append(Selection(folder))
            say(f"index: {facts.documents:,} documents in piece {number + 1}")
        target = build_folder(path, Path(spare), name)
        shutil.rmtree(target, ignore_errors=True)
        facts = merge_parts(pieces, target)
        put_part(path, target, facts, name, {name})
    return f"{path}: {_sized(facts)}, as run {name}"


def _parameters(path: str, overrides: Sequence[str]) -> IndexParameters:
    """Those of the index that is there, or the defaults, with `KNOB=VALUE`s."""
    facts = existing(path)
    data: dict[str, Any] = facts.parameters.model_dump() if facts is not None else {}
    for override in overrides:
        names, value = split_override(override, "ngram=5")
        data[".".join(map(str, names))] = value
    try:
        parameters = IndexParameters.model_validate(data)
    except ValidationError as error:
        found = explain(error, IndexParameters, data, help="`python -m pipeline stages index`")
        raise ConfigError("\n".join(f"--set: {text}" for _, text in found)) from None
    check_parameters(path, parameters)
    return parameters


def _check_text(source: Path) -> None:
    file_kind(source)
    first = next(read_chunks(source))
    if len(first) and "text" not in first.names:
        raise ConfigError(f"{source}: an index needs the column 'text'; the file has {', '.join(first.names)}")


def _pieces(inputs: Sequence[Path]) -> Iterator[list[Documents]]:
    """All rows in pieces; at least one."""
    held: list[Documents] = []
    rows = first = 0
    for source in inputs:
        for chunk in read_chunks(source):
            batch = as_batch(chunk, first)
            held.append(Documents(batch.values("id"), batch.values("source"), batch.texts()))
            first += len(chunk)
            rows += len(chunk)
            if rows >= PIECE:
                yield held
                held, rows = [], 0
    if held or not first:
        yield held


def merge(out: str, inputs: Sequence[str]) -> str:
    """One index of several, in one part; what was done. Raises `ConfigError`."""
    if existing(out) is not None:
        raise ConfigError(f"{below(out, INDEX)}: there is an index already; name one that is not there yet")
    indexes = [required(path) for path in inputs]
    for path, facts in zip(inputs, indexes, strict=True):
        if facts.parameters != indexes[0].parameters:
            raise ConfigError(
                f"{below(path, INDEX)}: was built with other parameters than {inputs[0]}:"
                f" {differing(indexes[0].parameters, facts.parameters)}; only equal ones can be merged"
            )
    runs = [run for facts in indexes for run in facts.runs]
    twice = next((run for run in runs if runs.count(run) > 1), None)
    if twice is not None:
        raise ConfigError(f"the run {twice!r} is in two of the indexes; take it out of one with `index remove --run`")
    with tempfile.TemporaryDirectory(prefix="gristmill-index-") as spare:
        selections = []
        for number, (path, facts) in enumerate(zip(inputs, indexes, strict=True)):
            (Path(spare) / str(number)).mkdir()
            selections += [Selection(part.folder) for part in local_parts(path, facts, Path(spare) / str(number))]
        if not selections:
            raise ConfigError("the indexes hold no run; there is nothing to merge")
        target = build_folder(out, Path(spare), "merged")
        shutil.rmtree(target, ignore_errors=True)
        made = merge_parts(selections, target)
        put_part(out, target, made, "merged", ())
    return f"{out}: {_sized(made)}, of {len(runs)} runs"


def info(path: str, verify: bool) -> str:
    """What an index holds; with `verify` every file is read and compared with its SHA-256. Raises `ConfigError`."""
    facts = required(path)
    parameters = facts.parameters
    lines = [
        f"{path}: generation {facts.generation}, {len(facts.parts)} parts",
        "  " + ", ".join(f"{name} {value}" for name, value in parameters.model_dump().items()),
        f"  standard error of a similarity of 0.8: {standard_error(0.8, parameters.permutations):.3f}; compared with"
        f" probability {1 - (1 - 0.8**parameters.rows) ** parameters.bands:.3f}",
    ]
    total = size = 0
    with tempfile.TemporaryDirectory(prefix="gristmill-index-") as spare:
        for entry, part in zip(facts.parts, local_parts(path, facts, Path(spare)), strict=True):
            names = ", ".join(f"{run.run} ({run.documents:,})" for run in part.facts.runs)
            lines.append(f"  {entry.folder}: {_sized(part.facts)}: {names}")
            total, size = total + len(part), size + part.facts.size
            if verify and (damaged := list(part.damaged_files())):
                raise ConfigError(
                    f"{below(path, 'parts', entry.folder, damaged[0])}: is damaged (another SHA-256 than part.json says); build the"
                    " part again, or take its runs out with `index remove --run`"
                )
    lines.append(f"  {total:,} documents, {size:,} bytes" + (": every file is as it was written" if verify else ""))
    return "\n".join(lines)


def remove(path: str, ids: Sequence[str], runs: Sequence[str]) -> str:
    """Take documents, or all of runs, out of an index: a new generation without them, the old files gone. What was done."""
    facts = required(path)
    unknown = next((run for run in runs if run not in facts.runs), None)
    if unknown is not None:
        raise ConfigError(f"--run {unknown}: {path} holds no such run; it holds {', '.join(facts.runs) or 'none'}")
    taken = 0
    made: dict[str, tuple[Path, PartFacts, str] | None] = {}
    with tempfile.TemporaryDirectory(prefix="gristmill-index-") as spare:
        for entry, part in zip(facts.parts, local_parts(path, facts, Path(spare)), strict=True):
            selection = Selection(part.folder, frozenset(ids), frozenset(runs))
            gone = [run.run for run in entry.runs if run.run in runs]
            if len(gone) == len(entry.runs):
                made[entry.folder] = None
                taken += len(part)
            elif gone or found(part, ids):
                name = entry.folder.rpartition("-")[0]
                target = build_folder(path, Path(spare), f"{name}-{len(made)}")
                shutil.rmtree(target, ignore_errors=True)
                after = merge_parts([selection], target)
                made[entry.folder] = (target, after, name)
                taken += len(part) - after.documents
        if made:
            replace_parts(path, facts, made)
    what = f"{taken:,} document" + ("" if taken == 1 else "s")
    return f"{path}: took out {what}" + ("" if made else ": the index does not hold them")


def found(part: Part, ids: Sequence[str]) -> list[tuple[str, str]]:
    """(id, run) of each of the part's documents that has one of these ids."""
    import pyarrow as pa
    import pyarrow.compute

    if not ids:
        return []
    wanted = pa.array(sorted(set(ids)), pa.string())
    hits: list[tuple[str, str]] = []
    start = 0
    for batch in part.ids():
        mask = pyarrow.compute.is_in(batch.column(0), value_set=wanted).to_pylist()
        hits += [(batch.column(0)[row].as_py(), part.run_of(start + row)) for row, hit in enumerate(mask) if hit]
        start += len(batch)
    return hits


def _sized(facts: PartFacts) -> str:
    each = f" ({facts.size / facts.documents:.0f} each)" if facts.documents else ""
    return f"{facts.documents:,} documents, {facts.size:,} bytes{each}"
