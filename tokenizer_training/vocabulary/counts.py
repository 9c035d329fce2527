"""The counts table: how often each pre-token occurs, by source, domain and language. Everything that training needs of a corpus.

A Parquet file sorted by (source, domain, language, pretoken), each by its UTF-8 bytes, without equal rows, in row groups of
ROW_GROUP rows. Its metadata (key METADATA, JSON) says how it was counted, and what. Equal corpora give equal bytes whatever the
number of files, their order, the memory, or restarts; `counts_merge.py` adds tables up, `counts_read.py` reads them.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from tokenizer_training.config import TokenizerError, knob
from tokenizer_training.corpus.documents import FIELDS, Fields, document_tables, hash64
from tokenizer_training.corpus.files import Stretch, open_parquet
from tokenizer_training.dataset.layout import schema
from tokenizer_training.vocabulary.characters import character_classes
from tokenizer_training.vocabulary.chunks import chunk_ends, chunk_rules
from tokenizer_training.vocabulary.count_table import PretokenTable, add_digest, read_only
from tokenizer_training.vocabulary.patterns import CUSTOM, PATTERNS, Rules, split_rules
from tokenizer_training.vocabulary.pretokenize import LONGEST_RUN, changed_by_nfc, ends_of, room_for_cuts, to_nfc

FORMAT = 1
METADATA = b"tokenizer_training.counts"
ROW_GROUP = 1 << 16
GROUPING = ("source", "domain", "language")
COUNTS = schema(source=pa.string(), domain=pa.string(), language=pa.string(), pretoken=pa.string(), count=pa.int64())
# what must be the same in tables that are merged; `pattern` is only a name of the expression
SETTINGS = ("format", "regex", "normalization", "longest_run", "characters")
SUMS = ("documents", "bytes", "pretokens", "dropped_rows", "dropped_pretokens")
Group = tuple[str, str, str]
Unit = tuple[Path, Stretch | None]  # a file of documents, or a stretch of it
Done = Callable[[int, int], None]  # documents and bytes of text counted so far


class CountConfig(BaseModel):
    """How a corpus is counted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pattern: str = knob("llama3", f"how text is cut into pre-tokens: {', '.join(PATTERNS)} or {CUSTOM}", "Llama 3")
    digits: int | None = knob(None, "most digits in a pre-token: 1, 2 or 3; null: as the pattern has it", ge=1, le=3)
    regex: str | None = knob(None, f"the expression of the pattern {CUSTOM}, in the syntax of a tokenizer.json")
    normalization: Literal["none", "nfc"] = knob("none", "nfc: texts are brought to NFC before they are cut")
    words: int | None = knob(
        None, "count chunks of up to so many words, for a second stage of merges, instead of pre-tokens", ge=2, le=16
    )
    memory_bytes: int = knob(
        512 << 20, "memory of the table of one process; beyond it sorted parts are written to disk", ge=1 << 20
    )

    @property
    def rules(self) -> Rules:
        """How text is cut; `TokenizerError` for what cannot be."""
        rules = self.pretoken_rules
        return rules if self.words is None else chunk_rules(rules, self.words)

    @property
    def pretoken_rules(self) -> Rules:
        """How text is cut into pre-tokens."""
        if self.words is not None and self.pattern == CUSTOM:
            raise TokenizerError(f"words: chunks of words are known for named patterns, not for {CUSTOM}")
        return split_rules(self.pattern, self.digits, self.regex)


@cache
def _characters() -> str:
    return hashlib.sha256(character_classes().tobytes()).hexdigest()[:16]


def counted_as(config: CountConfig) -> dict[str, Any]:
    """The part of a table's metadata that says how it was counted."""
    rules = config.rules
    return {
        "format": FORMAT,
        "pattern": rules.pattern,
        "regex": rules.regex,
        "digits": rules.digits,
        "normalization": config.normalization,
        "longest_run": LONGEST_RUN,
        "characters": _characters(),
    }


class CountsWriter:
    """Writes sorted rows as a counts table; `close` adds the metadata."""

    def __init__(self, path: Path) -> None:
        self._writer = pq.ParquetWriter(
            path, COUNTS, compression="zstd", use_dictionary=list(GROUPING), write_statistics=list(GROUPING)
        )
        self._held: list[pa.Table] = []
        self._rows = 0

    def write(self, table: pa.Table) -> None:
        """The next rows."""
        self._held.append(table)
        self._rows += table.num_rows
        while self._rows >= ROW_GROUP:
            self._flush(ROW_GROUP)

    def _flush(self, rows: int) -> None:
        # one chunk a column, as pages end where chunks do
        held = pa.concat_tables(self._held)
        self._writer.write_table(held.slice(0, rows).combine_chunks(), row_group_size=ROW_GROUP)
        self._held = [held.slice(rows)]
        self._rows -= rows

    def close(self, facts: dict[str, Any] | None = None) -> None:
        """Write what is left, and the metadata unless the file is to be thrown away."""
        if facts is not None:
            while self._rows:
                self._flush(min(self._rows, ROW_GROUP))
            self._writer.add_key_value_metadata({METADATA.decode(): json.dumps(facts, sort_keys=True)})
        self._writer.close()


def sorted_tables(table: PretokenTable, groups: Sequence[Group]) -> Iterable[pa.Table]:
    """The rows of a table of counts as Arrow tables of up to ROW_GROUP rows; groups[i] is group i."""
    order = sorted(range(len(groups)), key=groups.__getitem__)
    ranks = np.empty(len(groups), np.int64)
    ranks[order] = np.arange(len(groups))
    names = [_strings([group[column] for group in groups]) for column in range(len(GROUPING))]
    slots = table.sorted_slots(ranks)
    for start in range(0, len(slots), ROW_GROUP):
        some = slots[start : start + ROW_GROUP]
        data, offsets = table.bytes_of(some)
        pretokens = pa.Array.from_buffers(
            pa.string(), len(some), [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(data)]
        )
        places = _integers(table.groups_of(some))
        columns = [column.take(places) for column in names]
        yield pa.table([*columns, pretokens, _integers(table.values_of(some))], schema=COUNTS)


def _strings(texts: list[str]) -> pa.Array:
    """As `pa.array` of them, which would import pandas if it is installed: half a second for some names."""
    raw = [text.encode("utf-8") for text in texts]
    offsets = np.zeros(len(raw) + 1, np.int32)
    np.cumsum([len(text) for text in raw], out=offsets[1:])
    return pa.Array.from_buffers(pa.string(), len(raw), [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(raw))])


def _integers(values: np.ndarray) -> pa.Array:
    return pa.Array.from_buffers(pa.int64(), len(values), [None, pa.py_buffer(values)])


def numbers(column: Any) -> np.ndarray:
    """A column of numbers without nulls, not copied. Its `to_numpy` would import pandas if it is installed."""
    found: np.ndarray = np.frombuffer(column.buffers()[1], column.type.to_pandas_dtype())
    return found[column.offset : column.offset + len(column)]


def string_buffers(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """The bytes (uint8[N]) and offsets (int64[n + 1]) of a string or large_string column, the bytes not copied."""
    empty = np.frombuffer(b"", np.uint8)  # read-only, as the others: one type of array for the compiled loops
    if len(column) == 0:
        return empty, np.zeros(1, np.int64)
    _, places, data = column.buffers()
    kind = np.int64 if pa.types.is_large_string(column.type) else np.int32
    offsets = np.frombuffer(places, kind)[column.offset : column.offset + len(column) + 1].astype(np.int64)
    return read_only(np.frombuffer(data, np.uint8)) if data is not None and data.size else empty, offsets


class _Counting:
    """Counting one unit of work: the table, its groups, and what was spilled."""

    def __init__(self, config: CountConfig, folder: Path) -> None:
        self.config, self.folder = config, folder
        self.rules = config.rules
        self.table = PretokenTable()
        self.groups: dict[Group, int] = {}
        self.seeds: dict[int, int] = {}
        self.digest = np.zeros(2, np.int64)
        self.spilled: list[Path] = []
        self.facts: dict[str, Any] = {**counted_as(config), "minimum_count": 1, **dict.fromkeys(SUMS, 0)}

    def batch(self, documents: pa.Table) -> None:
        """Count documents: columns text and those of GROUPING."""
        texts: Any = documents.column("text").combine_chunks()
        if self.config.normalization == "nfc":
            texts = _normalised(texts)
        data, offsets = string_buffers(texts)
        style = self.rules.style
        ends = _all_ends(data, offsets, self.config) if style < 0 else np.empty(0, np.int64)
        self.facts["documents"] += len(texts)
        self.facts["bytes"] += int(offsets[-1] - offsets[0])
        groups = self._group_numbers(documents)
        add_digest(data, offsets, self._seeds()[groups], self.digest)
        longest = int(np.diff(offsets).max(initial=0))
        self.table.count(
            (data, offsets),
            groups,
            ends,
            character_classes(),
            (style, self.rules.digits, LONGEST_RUN),
            room_for_cuts(longest),
            self.spill,
            self.config.memory_bytes,
        )

    def _group_numbers(self, documents: pa.Table) -> np.ndarray:
        columns: list[Any] = [documents.column(name).combine_chunks().dictionary_encode() for name in GROUPING]
        places = [numbers(column.indices).astype(np.int64) for column in columns]
        sizes = [max(1, len(column.dictionary)) for column in columns]
        mixed = (places[0] * sizes[1] + places[1]) * sizes[2] + places[2]
        found, inverse = np.unique(mixed, return_inverse=True)
        known = np.empty(len(found), np.int64)
        for at, code in enumerate(found.tolist()):
            parts = (code // sizes[2] // sizes[1], code // sizes[2] % sizes[1], code % sizes[2])
            group = tuple(str(c.dictionary[p]) for c, p in zip(columns, parts, strict=True))
            known[at] = self.groups.setdefault(group, len(self.groups))  # type: ignore[arg-type]
        return known[inverse]

    def _seeds(self) -> np.ndarray:
        """A number for each group that is the same in every process."""
        for group, number in list(self.groups.items())[len(self.seeds) :]:
            self.seeds[number] = hash64(*group) >> 33
        return np.array(list(self.seeds.values()), np.int64)

    def spill(self) -> None:
        """Write the table as it is to disk, and empty it."""
        path = self.folder / f"{len(self.spilled):05d}.parquet"
        writer = CountsWriter(path)
        for rows in sorted_tables(self.table, list(self.groups)):
            writer.write(rows)
        writer.close({})
        self.spilled.append(path)
        self.table.clear()


def _normalised(texts: pa.Array) -> pa.Array:
    data, offsets = string_buffers(texts)
    changed = changed_by_nfc(data, offsets)
    if not changed.any():
        return texts
    made = [to_nfc(text) for text in texts.filter(pa.array(changed)).to_pylist()]
    return pc.replace_with_mask(texts, pa.array(changed), pa.array(made, texts.type))


def _all_ends(data: np.ndarray, offsets: np.ndarray, config: CountConfig) -> np.ndarray:
    """The ends, in `data`, of the pre-tokens of all texts by a custom expression, or of their chunks."""
    rules, words = config.pretoken_rules, config.words
    texts = ((data[a:b].tobytes(), a) for a, b in itertools.pairwise(offsets.tolist()))
    if words is None:
        found = [ends_of(raw, rules) + at for raw, at in texts]
    else:
        found = [chunk_ends(raw, rules, words) + at for raw, at in texts]
    return np.concatenate(found) if found else np.empty(0, np.int64)


def put(temporary: Path, out: Path) -> None:
    """Give a file that is whole its final name. The temporary one is nobody else's, not even that of a process that outlived a
    run that was killed and still counts the same file."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(out)


def count_documents(
    files: Sequence[str | Path],
    config: CountConfig,
    out: str | Path,
    fields: Fields = FIELDS,
    stretch: Stretch | None = None,
) -> dict[str, Any]:
    """`count_units` of documents files (Parquet or JSONL), or of one stretch of each."""
    return count_units([(Path(file), stretch) for file in files], config, out, fields)


def count_units(
    units: Sequence[Unit], config: CountConfig, out: str | Path, fields: Fields = FIELDS, done: Done | None = None
) -> dict[str, Any]:
    """Count the pre-tokens of documents files, or stretches of them, into the counts table `out`.

    Each document counts once, whatever its `repeat`. Memory: `config.memory_bytes`, a batch of documents, and half as much again
    as the table for sorting; what does not fit is spilled beside `out` and merged. It depends on nothing but its
    files, and writes atomically. `done` is told the documents and bytes so far after each unit. Returns the metadata.
    """
    from tokenizer_training.vocabulary.counts_merge import merge_rows

    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
        counting = _Counting(config, Path(folder))
        facts = counting.facts
        for file, stretch in units:
            for documents in document_tables(file, ["text", *GROUPING], fields, stretch):
                counting.batch(documents)
            if done is not None:
                done(facts["documents"], facts["bytes"])
        facts["inputs"] = "".join(f"{part % 2**64:016x}" for part in counting.digest.tolist())
        temporary = Path(folder) / "whole.parquet"
        writer = CountsWriter(temporary)
        rows: Iterable[pa.Table]
        if counting.spilled:
            counting.spill()
            rows = merge_rows(counting.spilled, Path(folder))
        else:
            rows = sorted_tables(counting.table, list(counting.groups))
        pretokens = 0
        for table in rows:
            pretokens += pc.sum(table.column("count")).as_py() or 0
            writer.write(table)
        facts["pretokens"] = pretokens
        writer.close(facts)
        put(temporary, out)
    return facts


def part_path(
    folder: Path, file: Path, config: CountConfig, fields: Fields = FIELDS, stretch: Stretch | None = None
) -> Path:
    """Where the counts of one documents file, or of a stretch of it, are kept until all are merged.

    The name is a fingerprint of the file (path, size, time of change), the names of its columns, and how it is counted: what
    lies there is whole (it is written atomically) and holds what counting again would give.
    """
    facts = file.stat()
    known = [str(file.resolve()), facts.st_size, facts.st_mtime_ns, stretch, list(fields), counted_as(config)]
    return folder / f"{hashlib.sha256(json.dumps(known).encode()).hexdigest()[:32]}.parquet"


def counts_facts(path: str | Path) -> dict[str, Any]:
    """How a counts table was counted, and what: its metadata. `TokenizerError` if the file is no counts table."""
    file = open_parquet(Path(path), COUNTS.names)
    found = (file.schema_arrow.metadata or {}).get(METADATA) or (file.metadata.metadata or {}).get(METADATA)
    if found is None:
        raise TokenizerError(
            f"{path}: not a counts table (no metadata {METADATA.decode()}); make one with the command `count`"
        )
    facts: dict[str, Any] = json.loads(found)
    if facts.get("format") != FORMAT:
        raise TokenizerError(f"{path}: counts table of format {facts.get('format')}; this version reads {FORMAT}")
    return facts
