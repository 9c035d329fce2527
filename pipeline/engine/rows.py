"""What a row looks like on its way: ids, the columns of phases, documents, ledger and samples."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from xxhash import xxh3_128_digest

from pipeline.engine.store import Store
from pipeline.readers.record import Record
from stages.conversation import CONVERSATION, MESSAGES
from stages.stage import Stage

DATE = pa.timestamp("s", tz="UTC")

# Places of a record, kept through the phases and left out of documents/: its place in the shard, file key, offset.
PLACE = {"_seq": pa.int64(), "_file": pa.string(), "_offset": pa.int64()}

READ_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("record_id", pa.string()),
        ("url", pa.string()),
        ("source", pa.string()),
        ("date", DATE),
        *PLACE.items(),
        ("text", pa.large_string()),
        ("html", pa.large_binary()),
        ("html_charset", pa.string()),
        ("http_opt_out", pa.string()),
    ]
)

PAYLOAD_HASH = pa.binary(16)  # the column `payload_hash`, which stands for `html` where that is not stored

DOCUMENT_COLUMNS = {  # every documents/ file begins with these; stage columns follow
    "id": pa.string(),
    "record_id": pa.string(),
    "url": pa.string(),
    "text": pa.string(),
    "source": pa.string(),
    "date": DATE,
    "language": pa.string(),
    "language_score": pa.float64(),
    "licence": pa.string(),
    "repeat": pa.int32(),
}

CONVERSATION_COLUMNS: dict[str, dict[str, pa.DataType]] = {  # of each kind, between `id`, `source` and stage columns
    "chat": {"messages": MESSAGES},
    "preference": {"prompt": MESSAGES, "chosen": MESSAGES, "rejected": MESSAGES},
    "prompt": {"prompt": MESSAGES, "answer": pa.string(), "verifier": pa.string()},
}
_VERDICT = (  # what the ledger and the samples say of a verdict
    ("stage", pa.string()),
    ("rule", pa.string()),
    ("value", pa.float64()),
    ("threshold", pa.float64()),
    ("kept_id", pa.string()),
    ("similarity", pa.float64()),
    ("detail", pa.string()),
)

LEDGER_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("record_id", pa.string()),
        ("url", pa.string()),
        ("source", pa.string()),
        ("file", pa.string()),
        ("offset", pa.int64()),
        ("fate", pa.string()),
        *_VERDICT,
    ]
)

LOST_SCHEMA = LEDGER_SCHEMA.append(pa.field("_seq", pa.int64()))  # ledger rows of one phase, before they are merged

SAMPLE_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("url", pa.string()),
        ("source", pa.string()),
        *_VERDICT,
        ("text", pa.large_string()),
    ]
)


def record_id(source: str, key: str, offset: int, sub: int) -> str:
    """A record's id: the first 32 hex digits of SHA-256 over where it stands.

    Unique by construction, and independent of shards, workers and order: (source, file key, offset of the compressed member
    or row number, offset inside the member), joined by newlines, which none of the four can hold unescaped.
    """
    place = "\n".join((source, key.replace("\\", "\\\\").replace("\n", "\\n"), str(offset), str(sub)))
    return hashlib.sha256(place.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def payload_hash(payload: bytes) -> bytes:
    """XXH3 of a payload, 128 bits."""
    return xxh3_128_digest(payload)


def rows_table(
    rows: Sequence[tuple[int, str, str, Record]], hashed: bool = False, conversations: bool = False
) -> pa.Table:
    """Read records as a table of `READ_SCHEMA`; each row is (place in the shard, source, file key, record).

    `hashed` adds `payload_hash`, null where a record came as text; `conversations` the columns of `CONVERSATION`, null there too.
    """
    columns: dict[str, list[Any]] = {name: [] for name in READ_SCHEMA.names}
    for seq, source, key, record in rows:
        columns["id"].append(record_id(source, key, record.offset, record.sub))
        columns["record_id"].append(record.record_id)
        columns["url"].append(record.url)
        columns["source"].append(source)
        columns["date"].append(record.date)
        columns["_seq"].append(seq)
        columns["_file"].append(key)
        columns["_offset"].append(record.offset)
        columns["text"].append(record.text)
        columns["html"].append(record.html)
        columns["html_charset"].append(record.charset)
        columns["http_opt_out"].append(record.opt_out)
    arrays = []
    for field in READ_SCHEMA:
        kind = pa.int64() if field.name == "date" else field.type
        array = pa.array(columns[field.name], type=kind)
        arrays.append(array.cast(DATE) if field.name == "date" else array)
    table = pa.table(arrays, schema=READ_SCHEMA)
    for name, kind in CONVERSATION.items() if conversations else ():
        values = [getattr(record.conversation, name, None) for *_, record in rows]
        table = table.append_column(name, pa.array(values, kind))
    if not hashed:
        return table
    hashes = [None if page is None else payload_hash(page) for page in columns["html"]]
    return table.append_column("payload_hash", pa.array(hashes, PAYLOAD_HASH))


def without_payload(table: pa.Table) -> pa.Table:
    """Rows as they are stored where their payloads are read again."""
    return table.drop_columns(["html"]) if "html" in table.column_names else table


STORED_BATCH = 256  # rows of a stored shard handed on at once


def stored_rows(store: Store, path: str) -> Iterator[tuple[pa.Table, int]]:
    """A stored shard in tables, each with the place of its first row.

    Never more than a row group at once: those are cut by bytes, so 256 rows of a megabyte each are not all in memory.
    """
    row = 0
    with contextlib.closing(store.open(path)) as handle, pq.ParquetFile(handle) as parquet:
        for group in range(parquet.num_row_groups):
            for batch in parquet.iter_batches(batch_size=STORED_BATCH, row_groups=[group]):
                yield pa.Table.from_batches([batch]), row
                row += batch.num_rows


def documents_schema(stages: Iterable[Stage]) -> pa.Schema:
    """The columns of documents/ after these stages."""
    return _schema(DOCUMENT_COLUMNS, [stage for stage in stages if "messages" not in stage.needs])


def conversations_schema(kind: str, stages: Iterable[Stage]) -> pa.Schema:
    """The columns of chat/, preferences/ or prompts/ after these stages. Their `text` is only a rendering, and left out."""
    first = {"id": pa.string(), "source": pa.string(), **CONVERSATION_COLUMNS[kind], "record_id": pa.string()}
    return _schema(first, stages, left_out=("text", *CONVERSATION))


def _schema(first: dict[str, pa.DataType], stages: Iterable[Stage], left_out: Sequence[str] = ()) -> pa.Schema:
    fields: dict[str, pa.DataType] = dict(first)
    for stage in stages:
        for name in set(stage.consumes) - set(DOCUMENT_COLUMNS):
            fields.pop(name, None)
        for name, kind in stage.provides().items():
            if name not in first and name not in left_out:
                fields[name] = pa.string() if pa.types.is_large_string(kind) else kind
    return pa.schema(list(fields.items()))


def as_documents(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Rows at the end of the stages as rows of documents/; a column that no stage wrote is null (`repeat` 1)."""
    columns = []
    for field in schema:
        if field.name in table.column_names:
            columns.append(table.column(field.name).cast(field.type))
        elif field.name == "repeat":
            columns.append(pa.array([1] * table.num_rows, type=field.type))
        else:
            columns.append(pa.nulls(table.num_rows, field.type))
    return pa.table(columns, schema=schema)


def of_kind(table: pa.Table, kind: str) -> pa.Table:
    """The rows of one kind: `text`, or a kind of conversation, whose `messages` are called as its folder calls them."""
    if "kind" not in table.column_names:
        return table if kind == "text" else table.slice(0, 0)
    found = table.filter(pc.equal(pc.fill_null(table.column("kind"), "text"), kind))
    if kind not in ("preference", "prompt"):
        return found
    return found.rename_columns(["prompt" if name == "messages" else name for name in found.column_names])
