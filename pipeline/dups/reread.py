"""Texts that a run no longer has: their records read from the input again, through the stages before the one that dropped them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.config import RunConfig, StageSpec
from pipeline.dups.cluster import ELSEWHERE, Member
from pipeline.dups.texts import Text
from pipeline.engine.assets import hash_assets, local_copy
from pipeline.engine.mapping import MapRunner
from pipeline.engine.rows import record_id, rows_table
from pipeline.engine.shards import check_input, find_input, options
from pipeline.files import InputError, InputFile, open_input
from pipeline.readers import open_segment, split
from pipeline.readers.archive import CUTTABLE
from pipeline.readers.record import Limits, ReadOptions, Record, Segment
from pipeline.readers.stream import detect_codec
from pipeline.status import config_of
from pipeline.yamlfile import ConfigError
from stages.batch import Batch
from stages.stage import StageError


def read_again(run: Path, facts: Mapping[str, Any], missing: Sequence[tuple[Member, str | None]]) -> list[Text]:
    """The text of each record as the stage beside it saw it, or why it cannot be had; not scrubbed yet."""
    if not missing:
        return []
    try:
        config = config_of(str(run), dict(facts), None, [])
        found = find_input(config.input)
        check_input(found)
    except (ConfigError, InputError) as error:
        return [Text(None, f"not there, and the input cannot be read again: {error}") for _ in missing]
    files = {(file.source, file.key): (file, options(entry)) for file, entry in found}
    texts: list[Text] = []
    runners: dict[str, MapRunner] = {}  # by stage
    for member, stage in missing:
        try:
            file = files.get((member.source, member.file))
            record = _record(config, *file, member) if file is not None else None
            if member.fate == ELSEWHERE:
                texts.append(Text(None, "not there: a document of another run"))
                continue
            if record is None:
                texts.append(Text(None, f"not there, and the input has no such record any more: {member.file}"))
                continue
            text = _through(config, member, record, stage, runners)
            where = "the input, read again" + (f", through the stages before {stage}" if stage else "")
            date = None if record.date is None else datetime.fromtimestamp(record.date, UTC)
            texts.append(Text(text or None, where if text else "no text comes out when it is read again", date))
        except (ConfigError, StageError, OSError, KeyError) as error:
            texts.append(Text(None, f"not there, and cannot be made again: {type(error).__name__}: {error}"))
    return texts


def _record(config: RunConfig, file: InputFile, reading: ReadOptions, member: Member) -> Record | None:
    """A member's record; None if it is not there any more."""
    limits = Limits(max_record_bytes=config.engine.max_record_bytes)
    for segment in _segments(file, reading, member.offset or 0, config.engine.shard_bytes):
        with contextlib.closing(open_segment(segment, limits)) as reader:
            for record in reader:
                if record_id(file.source, file.key, record.offset, record.sub) == member.id:
                    return record
                if record.offset > (member.offset or 0):
                    return None
    return None


def _segments(file: InputFile, reading: ReadOptions, offset: int, shard_bytes: int) -> Iterator[Segment]:
    """The segments that may hold the record at an offset: of archives whose members can be found alone, that member."""
    parts = split(file, shard_bytes, reading)
    if file.format in ("warc", "wet"):
        with open_input(file.url, reading.storage_options) as opened:
            codec = detect_codec(opened.read(64), file.key)
        if codec in CUTTABLE:
            yield replace(parts[0], begin=offset, end=offset + 1, exact=True, codec=codec)
            return
    first = [part.begin if file.format == "parquet" else part.base_row for part in parts]  # row numbers
    for part, begin, end in zip(parts, first, [*first[1:], None], strict=True):
        if file.format not in ("jsonl", "parquet") or (begin <= offset and (end is None or offset < end)):
            yield part


def _through(
    config: RunConfig, member: Member, record: Record, stage: str | None, runners: dict[str, MapRunner]
) -> str | None:
    """The record's text after the map stages before `stage`; those that compare documents change no text that is kept whole."""
    talks = record.conversation is not None
    batch = Batch(rows_table([(0, member.source, member.file, record)], conversations=talks))
    for spec in _before(config, stage):
        if spec.name not in runners:
            runners[spec.name] = _runner(config, spec)
        batch = runners[spec.name](batch).after
    text = batch.values("text")[0]
    return text if isinstance(text, str) else None


def _runner(config: RunConfig, spec: StageSpec) -> MapRunner:
    """A stage, set up."""
    runner, hashes = MapRunner(spec, config.engine.record_seconds), hash_assets([spec])
    runner.setup(lambda path: local_copy(path, hashes[path]))
    return runner


def _before(config: RunConfig, stage: str | None) -> Iterator[StageSpec]:
    for spec in config.stages:
        if spec.name == stage:
            return
        if spec.stage_class.kind == "map":
            yield spec
