"""From a documents file to an encoded file: the tokens of each document, and where it will stand in the dataset.

An encoded file is an Arrow IPC file, one row for each copy of a document that `repeat` asks for, in runs (record batches)
sorted by place, with what is known about all of them beside the last, empty batch. How it is cut into runs depends on the
knob `memory`; what it says depends on the documents, the tokenizer and the seed. Validation, shards and packing are
decided later, without encoding again.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages.jit import kernel
from tokenizer_training.config import TokenizerError
from tokenizer_training.corpus.documents import FIELDS, PHASE_BITS, PHASES, Fields, document_tables, phase_names
from tokenizer_training.dataset.boundaries import token_flags, vocabulary_bytes
from tokenizer_training.dataset.config import PackConfig
from tokenizer_training.dataset.conversations import conversation_tables, holds_conversations, joined_turns
from tokenizer_training.dataset.layout import atomic, schema, sha256_of
from tokenizer_training.dataset.places import hashes
from tokenizer_training.encoding.encoder import Encoder
from tokenizer_training.vocabulary.special import ROLES

META = b"gristmill"
RUN_SHARE = 4  # a run takes this part of the memory: its documents, and their copies in order while they are written
ROW_BYTES = 120  # what a row takes besides its tokens and its id
COLUMNS = ("id", "text", "source", "dup_cluster", "repeat", "mix_group", PHASES)


def encoded_schema(dtype: str) -> pa.Schema:
    """Columns of an encoded file."""
    return schema(
        key=pa.uint64(),  # place of this copy in the dataset: hash of (seed, id, copy)
        id=pa.large_string(),
        copy=pa.int32(),  # 0 for the first
        source=pa.large_string(),
        group=pa.large_string(),  # of the mix, empty where there was none
        cluster=pa.uint64(),  # hash of the duplicate cluster, which decides the split
        repeat=pa.int32(),
        bytes=pa.int64(),  # UTF-8 bytes of the text
        length=pa.int64(),  # tokens, without the end token
        tokens=pa.large_list(pa.field("item", pa.from_numpy_dtype(np.dtype(dtype)), False)),
    )


class Encoded(NamedTuple):
    """Documents with their tokens: `table` has COLUMNS without the text, `tokens[offsets[i] : offsets[i + 1]]` are those of row i."""

    table: pa.Table
    bytes: np.ndarray  # int64
    phases: np.ndarray  # int64 (rows, phases): how many copies stand in each
    tokens: np.ndarray
    offsets: np.ndarray


def encode_documents(
    documents_path: str | Path,
    tokenizer_dir: str | Path,
    out_path: str | Path,
    config: PackConfig,
    fields: Fields = FIELDS,
) -> dict[str, Any]:
    """Encode one file of documents or conversations to one encoded file, written atomically.

    Uses `seed`, `memory`, `encoder` and `verify_every` of the config. Returns counts: documents, copies, tokens (of copies, end tokens included),
    bytes, tokens by group of the mix, and the smallest and largest cluster hash (null without documents).
    """
    source, out = Path(documents_path), Path(out_path)
    encoder = Encoder(tokenizer_dir, config.encoder, config.verify_every)
    chat = holds_conversations(source, fields)
    phases = [] if chat else phase_names(source)
    counts: Counter[str] = Counter()
    mixture: Counter[str] = Counter()
    lowest, highest = [], []
    out.parent.mkdir(parents=True, exist_ok=True)
    kind = encoded_schema(encoder.dtype.name)
    with atomic(out) as temporary, pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, kind) as writer:
        for run in _runs(_encoded(source, encoder, chat, phases, fields, counts), config.memory // RUN_SHARE):
            clusters = hashes("cluster", run.table.column("dup_cluster"))
            lowest.append(int(clusters.min()))
            highest.append(int(clusters.max()))
            lengths = np.diff(run.offsets)
            repeats = run.table.column("repeat").to_numpy().astype(np.int64)
            counts["documents"] += len(repeats)
            counts["copies"] += int(repeats.sum())
            counts["tokens"] += int(((lengths + 1) * repeats).sum())
            counts["bytes"] += int((run.bytes * repeats).sum())
            mixture.update(_mixture(run, phases, lengths))
            for batch in _sorted_copies(run, clusters, repeats, config, kind):
                writer.write_batch(batch)
        facts = {
            "tokenizer_sha256": encoder.sha256,
            "seed": config.seed,
            "vocab_size": encoder.vocab_size,
            "dtype": encoder.dtype.name,
            "eos_id": encoder.eos_id,
            "special_ids": encoder.special_ids,
            "kind": "chat" if chat else "text",
            "boundaries": _boundaries(encoder),
            "phases": phases,
            "source": {"file": source.name, "sha256": sha256_of(source), "documents": counts["documents"]},
            **{name: counts[name] for name in ("documents", "copies", "tokens", "bytes")},
            **({"without_target": counts["without_target"]} if chat else {}),
            "encoding": encoder.facts(),
            "mixture": dict(sorted((+mixture).items())),
            "cluster_min": min(lowest, default=None),
            "cluster_max": max(highest, default=None),
        }
        empty: Any = pa.RecordBatch.from_arrays([pa.array([], field.type) for field in kind], schema=kind)
        writer.write_batch(empty, custom_metadata={META: json.dumps(facts).encode()})
    return facts


def _boundaries(encoder: Encoder) -> str:
    turns = [encoder.special_ids[ROLES[role]] for role in ("system", "user") if ROLES[role] in encoder.special_ids]
    return token_flags(vocabulary_bytes(encoder.tokenizer, encoder.vocab_size), turns)


def _encoded(
    path: Path, encoder: Encoder, chat: bool, phases: list[str], fields: Fields, counts: Counter[str]
) -> Iterator[Encoded]:
    """Batches of a file with their tokens; conversations without a token to train on are left out and counted."""
    row = 0
    for table in conversation_tables(path, fields) if chat else document_tables(path, COLUMNS, fields):
        if chat:
            table, size, tokens, offsets, without = joined_turns(table, encoder, path)
            counts["without_target"] += without
        else:
            tokens, offsets = encoder.encode_column(table.column("text"))
            size = pc.binary_length(table.column("text")).to_numpy().astype(np.int64)
            table = table.drop_columns(["text"])
        if table.num_rows:
            repeats = table.column("repeat").to_numpy().astype(np.int64)
            yield Encoded(table, size, _phase_counts(table, phases, repeats, path, row), tokens, offsets)
        row += table.num_rows


def _phase_counts(table: pa.Table, names: list[str], repeats: np.ndarray, path: Path, row: int) -> np.ndarray:
    """int64 (rows, phases): how many copies stand in each phase; null means all in the first."""
    if not names:
        return np.zeros((table.num_rows, 0), np.int64)
    column: Any = table.column(PHASES).combine_chunks()
    counts = np.stack([column.field(name).fill_null(0).to_numpy().astype(np.int64) for name in names], axis=1)
    unknown = column.is_null().to_numpy(zero_copy_only=False)
    counts[unknown] = 0
    counts[unknown, 0] = repeats[unknown]
    wrong = (counts.min(axis=1) < 0) | (counts.sum(axis=1) != repeats)
    if wrong.any():
        at = int(np.flatnonzero(wrong)[0])
        raise TokenizerError(
            f"{path}: row {row + at} has the phases {counts[at].tolist()}, which do not sum to its repeat {repeats[at]}"
        )
    return counts


def _runs(batches: Iterator[Encoded], limit: int) -> Iterator[Encoded]:
    """Batches joined until they take `limit` bytes."""
    held: list[Encoded] = []
    size = 0
    for batch in batches:
        held.append(batch)
        copies = int(batch.table.column("repeat").to_numpy().sum())
        size += batch.tokens.nbytes + copies * ROW_BYTES + batch.table.nbytes
        if size >= limit:
            yield _joined(held)
            held, size = [], 0
    if held:
        yield _joined(held)


def _joined(held: list[Encoded]) -> Encoded:
    if len(held) == 1:
        return held[0]
    offsets = np.concatenate([[0], np.cumsum(np.concatenate([np.diff(batch.offsets) for batch in held]))])
    tokens = np.empty(offsets[-1], held[0].tokens.dtype)
    table = pa.concat_tables([batch.table for batch in held]).combine_chunks()
    size, phases = (np.concatenate([getattr(batch, name) for batch in held]) for name in ("bytes", "phases"))
    at = 0
    while held:  # so that no more than one batch is there twice
        batch = held.pop(0)
        tokens[at : at + len(batch.tokens)] = batch.tokens
        at += len(batch.tokens)
    return Encoded(table, size, phases, tokens, offsets)


@kernel
def gather(tokens, starts, lengths, out):  # type: ignore[no-untyped-def]
    """Stretches of `tokens` one after the other."""
    at = 0
    for row in range(len(starts)):
        for place in range(starts[row], starts[row] + lengths[row]):
            out[at] = tokens[place]
            at += 1


def _sorted_copies(
    run: Encoded, clusters: np.ndarray, repeats: np.ndarray, config: PackConfig, kind: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """The copies of a run by place, in batches of bounded size."""
    rows = np.repeat(np.arange(len(repeats)), repeats)
    copies = np.arange(len(rows)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    keys = hashes(str(config.seed), run.table.column("id"), rows, copies)
    if run.phases.shape[1]:  # the first bits of a place are its phase, so that places go phase by phase
        ends = np.cumsum(run.phases, axis=1)[rows]
        phase = (ends <= copies[:, None]).sum(axis=1).astype(np.uint64)
        keys = phase << np.uint64(64 - PHASE_BITS) | keys >> np.uint64(PHASE_BITS)
    order = np.argsort(keys, kind="stable")
    lengths = np.diff(run.offsets)
    sizes = np.cumsum((lengths * run.tokens.itemsize + ROW_BYTES)[rows[order]])
    limit = config.memory // RUN_SHARE
    start = 0
    while start < len(order):
        before = int(sizes[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(sizes, before + limit, "right")))
        mine = order[start:stop]
        row = rows[mine]
        small = run.table.take(pa.array(row))
        length = lengths[row]
        tokens = np.empty(int(length.sum()), run.tokens.dtype)
        gather(run.tokens, run.offsets[:-1][row], length, tokens)
        offsets = np.concatenate([[0], np.cumsum(length)])
        values: dict[str, Any] = {
            "key": keys[mine],
            "copy": copies[mine].astype(np.int32),
            "cluster": clusters[row],
            "bytes": run.bytes[row],
            "length": length,
            "id": small.column("id").combine_chunks(),
            "source": small.column("source").combine_chunks(),
            "group": small.column("mix_group").combine_chunks(),
            "repeat": small.column("repeat").combine_chunks(),
            "tokens": pa.LargeListArray.from_arrays(offsets, pa.array(tokens), type=kind.field("tokens").type),
        }
        arrays = [v if isinstance(v, pa.Array) else pa.array(v) for v in (values[field.name] for field in kind)]
        yield pa.RecordBatch.from_arrays(arrays, schema=kind)
        start = stop


def _mixture(run: Encoded, names: list[str], lengths: np.ndarray) -> dict[str, int]:
    """Tokens of the copies, end tokens included, by group of the mix (and phase: `phase: group`); empty without a mix."""
    encoded: Any = run.table.column("mix_group").combine_chunks().dictionary_encode()
    groups: list[str] = encoded.dictionary.to_pylist()
    codes = encoded.indices.to_numpy()
    copies = run.phases if names else run.table.column("repeat").to_numpy().astype(np.int64)[:, None]
    found: Counter[str] = Counter()
    for place, name in enumerate(names or [""]):
        sums = np.bincount(codes, (lengths + 1) * copies[:, place], minlength=len(groups))
        for group, tokens in zip(groups, sums.tolist(), strict=True):
            if group:
                found[f"{name}: {group}" if name else group] += int(tokens)
    return dict(found)


def open_encoded(path: Path, columns: list[str] | None = None) -> Any:
    """The batches of an encoded file: memory-mapped, or read into memory where only some columns are wanted."""
    try:
        if columns is None:
            return pa.ipc.open_file(pa.memory_map(str(path)))
        with pa.OSFile(str(path)) as file:
            names = pa.ipc.open_file(file).schema.names
        if missing := [name for name in columns if name not in names]:
            raise TokenizerError(f"{path}: no column {', '.join(missing)}; not written by `encode`")
        options = pa.ipc.IpcReadOptions(included_fields=[names.index(name) for name in columns])
        return pa.ipc.open_file(pa.OSFile(str(path)), options=options)
    except (pa.ArrowInvalid, OSError) as error:
        raise TokenizerError(f"{path}: not written by `encode` ({error})") from None


def encoded_facts(path: Path) -> dict[str, Any]:
    """What `encode_documents` returned, read back from the encoded file."""
    reader = open_encoded(path)
    count = reader.num_record_batches
    metadata = (reader.get_batch_with_custom_metadata(count - 1)[1] if count else None) or {}
    if META not in metadata:
        raise TokenizerError(f"{path}: not written by `encode`")
    facts: dict[str, Any] = json.loads(metadata[META])
    return facts
