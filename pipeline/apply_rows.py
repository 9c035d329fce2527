"""The rows of a user's file as a stage sees them, and what is said of a file that it cannot read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.config import StageSpec
from pipeline.engine.rows import DATE, PAYLOAD_HASH, payload_hash
from pipeline.readers.conversation import BadRow, Conversation, conversation, guess_kind
from pipeline.readers.rows import seconds_of
from pipeline.tables import Chunk, clean
from pipeline.yamlfile import ConfigError
from stages.batch import Batch
from stages.conversation import CONVERSATION

STRINGS = {"text": pa.large_string(), "url": pa.string(), "source": pa.string(), "language": pa.string()}
GIVEN = ("id", "source")  # a file need not have them
HASH = "payload_hash"  # nor this: it is taken of `html`


def check_columns(spec: StageSpec, source: Path, first: Chunk, added: dict[str, pa.DataType]) -> None:
    """Raise `ConfigError` if the file lacks a column that the stage reads, or holds something else in one it writes."""
    if not len(first) and not first.names:
        return
    only = spec.config.only
    needs = {"html" if name == HASH else name: "" for name in spec.stage_class.needs if name not in GIVEN}
    if only is not None:
        needs |= {n: f" for `only: {{{n}: ...}}`" for n in ("language", "source") if getattr(only, n) is not None}
    if spec.config.by_language:
        needs["language"] = " for `by_language`"
    if getattr(spec.config, "compare", "text") != "text":
        raise ConfigError(
            f"{spec.kind}.compare: {spec.config.compare} is for conversations, which apply gives to map stages alone; "  # type: ignore[attr-defined]
            "use it in a run, or apply it to a file whose `text` is the prompt"
        )
    have = first.scalars()
    for name, why in needs.items():
        if name not in first.names and name not in CONVERSATION:
            names = ", ".join(first.names)
            raise ConfigError(f"{source}: {spec.kind} needs the column {name!r}{why}; the file has {names}")
        if first.table is not None and name in STRINGS and not _is_text(first.table.schema.field(name).type):
            kind = first.table.schema.field(name).type
            raise ConfigError(f"{source}: {spec.kind} reads the column {name!r} as strings, but it holds {kind}")
    for name, kind in added.items():
        if name in first.names and name not in STRINGS and name not in CONVERSATION:
            try:
                have.column(name).cast(kind)
            except (KeyError, pa.ArrowException):
                what = have.column(name).type if name in have.column_names else "nested values"
                raise ConfigError(
                    f"{source}: {spec.kind} writes the column {name!r} as {kind}, but it holds {what}; rename it"
                ) from None


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    views = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    return any(is_kind(kind) for is_kind in views)


def as_batch(chunk: Chunk, first: int, conversations: bool = False) -> Batch:
    """A chunk as a stage sees it: `id` a string (the row's number where there is none), texts as strings, no nested values
    but conversations, in whatever shape the rows have them.
    """
    table = chunk.scalars()
    have = set(chunk.names)
    columns: dict[str, pa.Array | pa.ChunkedArray] = {}
    ids = chunk.values("id") if "id" in have else [None] * len(chunk)
    columns["id"] = pa.array([clean(str(first + i if v is None else v)) for i, v in enumerate(ids)], pa.string())
    for name, kind in STRINGS.items():
        if name in have:
            columns[name] = pa.array([clean(v) if isinstance(v, str) else None for v in chunk.values(name)], kind)
    columns.setdefault("source", pa.array([""] * len(chunk), pa.string()))
    if "html" in have:
        pages = chunk.values("html")
        if any(isinstance(page, bytes) for page in pages):
            columns["html"] = pa.array([page if isinstance(page, bytes) else None for page in pages], pa.large_binary())
        else:
            pages = [clean(page) if isinstance(page, str) else None for page in pages]
            columns["html"] = pa.array(pages, pa.large_string())
        columns[HASH] = pa.array([_hash(page) for page in pages], PAYLOAD_HASH)
    if conversations:
        columns |= _conversations(chunk)
    if "date" in have:
        columns["date"] = pa.array([seconds_of(value) for value in chunk.values("date")], pa.int64()).cast(DATE)
    return Batch(table).with_columns(columns)


def _conversations(chunk: Chunk) -> dict[str, pa.Array]:
    """The columns of `CONVERSATION`, null in rows that hold none, and their rendering."""
    kind = guess_kind(set(chunk.names))
    rows = chunk.rows if chunk.rows is not None else chunk.table.to_pylist() if chunk.table is not None else []
    found: list[Conversation | None] = []
    for row in rows:
        try:
            found.append(conversation(row, kind, {}, None))
        except BadRow:
            found.append(None)
    columns = {n: pa.array([getattr(one, n, None) for one in found], t) for n, t in CONVERSATION.items()}
    columns["kind"] = pa.array([kind] * len(rows), pa.string())
    return {**columns, "text": pa.array([one.text if one else None for one in found], pa.large_string())}


def _hash(page: Any) -> bytes | None:
    data = page.encode() if isinstance(page, str) else page
    return payload_hash(data) if isinstance(data, bytes) else None
