"""An index directory or URL as a whole: parts come and go, and index.json, written last, says which count."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

from pipeline.engine.store import TEMPORARY, Store, sha256_file
from pipeline.yamlfile import ConfigError
from stages.dedup.index_build import differing
from stages.dedup.index_format import (
    INDEX,
    PART,
    IndexFacts,
    Part,
    PartEntry,
    PartFacts,
    below,
    open_part,
    read_index,
)
from stages.dedup.index_hash import IndexParameters
from stages.stage import StageError

LOCK = f"{TEMPORARY}lock"


def existing(path: str) -> IndexFacts | None:
    """What an index holds; None where there is none. Raises `ConfigError` for one that cannot be read."""
    try:
        return read_index(path)
    except FileNotFoundError:
        return None
    except (StageError, OSError, ValueError, ImportError) as error:
        text = str(error) if isinstance(error, StageError) else f"{below(path, INDEX)}: cannot be read: {error}"
        raise ConfigError(text) from None


def required(path: str) -> IndexFacts:
    """What an index holds. Raises `ConfigError` where there is none."""
    facts = existing(path)
    if facts is None:
        raise ConfigError(
            f"{below(path, INDEX)}: there is no such index; check the path, or write one with `index:` in a config or with"
            " `python -m pipeline index build`"
        )
    return facts


def check_parameters(path: str, wanted: IndexParameters) -> None:
    """Raise `ConfigError` if there is an index of other parameters."""
    facts = existing(path)
    if facts is not None and facts.parameters != wanted:
        raise ConfigError(
            f"index: {below(path, INDEX)} was built with other parameters: {differing(wanted, facts.parameters)}; set the same,"
            " or another path"
        )


def entry_of(facts: IndexFacts, run: str) -> PartEntry | None:
    """The part that holds a run alone, if there is one."""
    return next((part for part in facts.parts if {one.run for one in part.runs} == {run}), None)


def build_folder(path: str, spare: Path, name: str) -> Path:
    """Where a new part is made: inside the index, so that it need only be renamed; for a URL below `spare`."""
    store = Store(below(path))
    return (spare if store.local is None else store.local.absolute() / "parts") / f"{TEMPORARY}{name}"


def local_parts(path: str, facts: IndexFacts, spare: Path) -> list[Part]:
    """All parts of an index as local folders; those of a URL are copied once. `spare`: an existing local folder."""
    store, found = Store(below(path)), []
    for number, entry in enumerate(facts.parts):
        copy = spare / f"{number}-{PART}"
        try:
            copy.write_bytes(store.read(f"parts/{entry.folder}/{PART}"))
        except FileNotFoundError:
            raise ConfigError(
                f"{below(path, 'parts', entry.folder, PART)}: is not there, though {INDEX} lists it; build the index again"
            ) from None
        if sha256_file(copy) != entry.sha256:
            raise ConfigError(
                f"{below(path, 'parts', entry.folder, PART)}: is damaged (another SHA-256 than {INDEX} says); build the index again"
            )
        found.append(open_part(below(path, "parts", entry.folder), copy))
    return found


def put_part(path: str, folder: Path, facts: PartFacts, name: str, replaces: Collection[str]) -> PartEntry:
    """Put a finished part, made in `folder`, into an index, in place of the parts that hold the runs `replaces`.

    Raises `ConfigError` if the index has other parameters, or holds such a run merged with others.
    """
    store = Store(below(path))
    with _locked(store):
        check_parameters(path, facts.parameters)
        before = existing(path) or IndexFacts(facts.parameters, ())
        gone = [part for part in before.parts if {run.run for run in part.runs} & set(replaces)]
        for part in gone:
            if others := [run.run for run in part.runs if run.run not in replaces]:
                named = next(run.run for run in part.runs if run.run in replaces)
                raise ConfigError(
                    f"{below(path, INDEX)}: the run {named!r} is merged with others ({others[0]}, ...), so its part cannot be"
                    f" replaced; take it out with `python -m pipeline index remove {path} --run {named}` and run again"
                )
        entry = _store_part(store, folder, facts, name)
        parts = [part for part in before.parts if part not in gone]
        place = before.parts.index(gone[0]) if gone else len(parts)
        parts.insert(min(place, len(parts)), entry)
        _commit(store, before, tuple(parts))
    return entry


def replace_parts(path: str, before: IndexFacts, made: dict[str, tuple[Path, PartFacts, str] | None]) -> None:
    """A new generation with parts replaced: by folder name, the new one (where it was made, its facts, its name) or None.

    Raises `ConfigError` if the index changed since `before` was read.
    """
    store = Store(below(path))
    with _locked(store):
        if required(path) != before:
            raise ConfigError(f"{below(path, INDEX)} was changed by someone else meanwhile; run the command again")
        parts: list[PartEntry] = []
        for part in before.parts:
            if part.folder not in made:
                parts.append(part)
            elif (new := made[part.folder]) is not None:
                parts.append(_store_part(store, *new))
        _commit(store, before, tuple(parts))


def _commit(store: Store, before: IndexFacts, parts: tuple[PartEntry, ...]) -> None:
    """Write index.json, then remove the folders that it no longer lists."""
    if parts != before.parts or not store.exists(INDEX):
        after = replace(before, parts=parts, generation=before.generation + 1)
        store.write(INDEX, after.to_json())
        if read_index(store.root) != after:
            raise ConfigError(f"{store.root}/{INDEX} was changed by another writer at the same time; run again")
    listed = {part.folder for part in parts}
    for part in before.parts:
        if part.folder not in listed:
            store.remove(f"parts/{part.folder}")


def _store_part(store: Store, folder: Path, facts: PartFacts, name: str) -> PartEntry:
    """Move or upload a part. Its folder is named by its content, so that equal parts have equal names."""
    digest = sha256_file(folder / PART)
    entry = PartEntry(f"{name}-{digest[:16]}", digest, facts.runs)
    target = f"parts/{entry.folder}"
    if store.local is None:
        for file in [*facts.files, PART]:
            with store.writing(f"{target}/{file}") as temporary:
                shutil.copyfile(folder / file, temporary)
        shutil.rmtree(folder, ignore_errors=True)
        return entry
    final = store.local / target
    if final.exists():
        shutil.rmtree(final)  # the same bytes, or what is left of a removal that was cut short
    for path in folder.iterdir():
        with path.open("rb") as handle:
            os.fsync(handle.fileno())
    final.parent.mkdir(parents=True, exist_ok=True)
    folder.rename(final)
    return entry


@contextlib.contextmanager
def _locked(store: Store) -> Iterator[None]:
    """One writer at a time, where the index is local. At a URL the last one wins, and the others notice it."""
    if store.local is None:
        yield
        return
    store.local.mkdir(parents=True, exist_ok=True)
    with (store.local / LOCK).open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
