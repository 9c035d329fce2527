"""The input cut into shards by bytes, in (source, file key, position) order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from pipeline.config import InputConfig
from pipeline.files import InputError, InputFile, list_files, read_paths_file
from pipeline.readers import preflight, split
from pipeline.readers.record import ReadOptions, Segment


@dataclass(frozen=True)
class Shard:
    """One unit's worth of input: stretches of files, in order."""

    index: int
    segments: tuple[Segment, ...]
    versions: tuple[str, ...]  # of each segment's file: what changes when the file does
    size: int  # stored bytes


def unit_name(shard: Shard) -> str:
    """A map unit is called by its shard."""
    return f"{shard.index:05d}"


def find_input(inputs: Iterable[InputConfig]) -> list[tuple[InputFile, InputConfig]]:
    """Every input file with its input's config, sorted by (source, file key). Raises `InputError`."""
    found: list[tuple[InputFile, InputConfig]] = []
    for entry in inputs:
        paths = list(entry.paths or ())
        if entry.paths_file is not None:
            paths = read_paths_file(entry.paths_file)
        if not paths:
            raise InputError(f"input {entry.source!r}: no paths; list files, globs or URLs under `paths`")
        found += [(file, entry) for file in list_files(entry.source, entry.format, paths, entry.storage_options)]
    found.sort(key=lambda pair: (pair[0].source, pair[0].key))
    for (a, _), (b, _) in pairwise(found):
        if (a.source, a.key) == (b.source, b.key):
            raise InputError(
                f"two files have the key {a.key!r} in source {a.source!r}: {a.url} and {b.url}; give one of them another `source`"
            )
    return found


def options(entry: InputConfig) -> ReadOptions:
    """What a reader needs to know of an input."""
    return ReadOptions(
        text_field=entry.text_field,
        id_field=entry.id_field,
        kind=entry.kind,
        fields=dict(entry.fields),
        verifier=entry.verifier,
        storage_options=dict(entry.storage_options),
    )


def check_input(files: Iterable[tuple[InputFile, InputConfig]]) -> None:
    """Find the user's mistakes that a look at the files shows (a missing text column). Raises `InputError`."""
    for file, entry in files:
        preflight(file, options(entry))


def cut(files: Iterable[tuple[InputFile, InputConfig]], shard_bytes: int) -> list[Shard]:
    """Shards of about `shard_bytes`: large files are split, small ones put together. Depends on the files alone."""
    shards: list[Shard] = []
    segments: list[Segment] = []
    versions: list[str] = []
    size = 0

    def close() -> None:
        nonlocal segments, versions, size
        if segments:
            shards.append(Shard(len(shards), tuple(segments), tuple(versions), size))
        segments, versions, size = [], [], 0

    for file, entry in files:
        parts = split(file, shard_bytes, options(entry))
        for part in parts:
            weight = max(1, file.size // len(parts))
            if segments and size + weight > shard_bytes:
                close()
            segments.append(part)
            versions.append(f"{file.size}:{file.version}")
            size += weight
    close()
    return shards
