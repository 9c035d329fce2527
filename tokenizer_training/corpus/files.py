"""Files of a corpus: finding them, and reading Parquet or JSONL (plain, gzip, zstd) in batches of bounded size."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tokenizer_training.config import TokenizerError

PARQUET = (".parquet",)
JSONL = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz", ".jsonl.zst", ".ndjson.zst")
BATCH_BYTES = 16 << 20  # of decoded data read at a time; one row may have more
MOST_ROWS = 1 << 16
STRETCH_BYTES = 256 << 20  # of a large file: what one unit of work reads
Stretch = tuple[
    int, int
]  # from and to: bytes of a JSONL file (the lines that begin there), or row groups of a Parquet file
COMPRESSION = {".gz": "gzip", ".zst": "zstd"}


def find_documents(paths: Sequence[str | Path]) -> list[Path]:
    """Parquet and JSONL files named by files and folders (searched through), sorted within each folder.

    Files and folders whose name begins with `.` or `_` are left out of folders. An error if there is none.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            files.extend(
                file
                for file in sorted(path.rglob("*"))
                if file.is_file()
                and (is_parquet(file) or is_jsonl(file))
                and not any(part.startswith((".", "_")) for part in file.relative_to(path).parts)
            )
        elif not path.is_file():
            raise TokenizerError(f"{path}: no such file or folder; expected documents in Parquet or JSONL")
        elif not is_parquet(path) and not is_jsonl(path):
            raise TokenizerError(f"{path}: expected a name that ends in {', '.join(PARQUET + JSONL)}")
        else:
            files.append(path)
    if not files:
        raise TokenizerError(f"no .parquet or .jsonl file in {', '.join(map(str, paths))}; expected documents")
    return files


def is_parquet(path: Path) -> bool:
    """Whether a file's name says Parquet."""
    return path.name.lower().endswith(PARQUET)


def is_jsonl(path: Path) -> bool:
    """Whether a file's name says JSONL."""
    return path.name.lower().endswith(JSONL)


def open_parquet(path: Path, needed: Sequence[str]) -> pq.ParquetFile:
    """An opened Parquet file that has the needed columns."""
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise TokenizerError(f"{path}: not a readable Parquet file ({error})") from None
    missing = [name for name in needed if name not in file.schema_arrow.names]
    if missing:
        raise TokenizerError(f"{path}: no column {', '.join(missing)}; it has {', '.join(file.schema_arrow.names)}")
    return file


def stretches(path: Path, size: int = STRETCH_BYTES) -> list[Stretch | None]:
    """A file as stretches of about `size` bytes (of a Parquet file before compression), which together are the file.

    A function of the file alone. [None], the whole file, for a small one and for compressed JSONL.
    """
    cuts = [0]
    if is_parquet(path):
        file, held = open_parquet(path, []), 0
        for group in range(file.num_row_groups):
            if held >= size:
                cuts.append(group)
                held = 0
            held += file.metadata.row_group(group).total_byte_size
        cuts.append(file.num_row_groups)
    elif path.suffix.lower() not in COMPRESSION:
        whole = path.stat().st_size
        cuts += [*range(size, whole - size // 2, size), whole]
    return list(pairwise(cuts)) if len(cuts) > 2 else [None]


def parquet_tables(
    path: Path, needed: Sequence[str], wanted: Sequence[str], stretch: Stretch | None = None
) -> Iterator[pa.Table]:
    """Batches of the wanted columns, as far as the file has them, of about `BATCH_BYTES`."""
    file = open_parquet(path, needed)
    columns = [name for name in dict.fromkeys(wanted) if name in file.schema_arrow.names]
    for group in range(*(stretch or (0, file.num_row_groups))):
        facts = file.metadata.row_group(group)
        rows = min(MOST_ROWS, max(1, facts.num_rows * BATCH_BYTES // max(1, facts.total_byte_size)))
        try:
            for batch in file.iter_batches(rows, [group], columns):
                yield pa.Table.from_batches([batch])
        except (pa.ArrowException, OSError) as error:
            raise TokenizerError(f"{path}: row group {group} cannot be read ({error})") from None


def jsonl_tables(path: Path, kinds: Mapping[str, pa.DataType], stretch: Stretch | None = None) -> Iterator[pa.Table]:
    """Batches of the fields in `kinds` (field: type), null where a line lacks one. Empty lines are no rows.

    Raises `TokenizerError` naming the line for what is not a JSON object or has a value of another type; numbers are taken
    for strings where a string is wanted.
    """
    import pyarrow.json as pj

    fields: list[Any] = [pa.field(name, kind) for name, kind in kinds.items()]
    schema = pa.schema(fields)
    parse = pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    line, before = 0, -1
    for block in _blocks(path, stretch):
        lines = block.count(b"\n")
        try:
            table = pj.read_json(io.BytesIO(block), pj.ReadOptions(block_size=len(block) + 1), parse)
            table.validate(full=True)
        except (pa.ArrowException, ValueError):
            before = _lines_before(path, stretch) if before < 0 else before
            table = _slowly(path, block, schema, before + line)
        line += lines
        if table.num_rows:
            yield table.select(list(kinds))


def _blocks(path: Path, stretch: Stretch | None = None) -> Iterator[bytes]:
    """Whole lines, about `BATCH_BYTES` at a time; each block ends with a line feed."""
    compression = COMPRESSION.get(path.suffix.lower())
    at, stop = stretch or (0, 1 << 62)
    try:
        with path.open("rb") if compression is None else pa.input_stream(path, compression=compression) as stream:
            if at > 0:  # the line that is under way belongs to the stretch before
                stream.seek(at - 1)
                stream.readline()
                at = stream.tell()
            held: list[bytes] = []
            while at < stop and (chunk := stream.read(min(BATCH_BYTES, stop - at))):
                at += len(chunk)
                end = chunk.rfind(b"\n") + 1
                if end:
                    yield b"".join([*held, chunk[:end]])
                    held = [chunk[end:]]
                else:
                    held.append(chunk)
            rest = b"".join(held)
            if rest and at >= stop:  # the last line ends in the stretch after
                rest += stream.readline()
            if rest.strip():
                yield rest if rest.endswith(b"\n") else rest + b"\n"
    except OSError as error:  # Arrow's word for damaged compression too
        raise TokenizerError(f"{path}: cannot be read to its end ({error})") from None


def _lines_before(path: Path, stretch: Stretch | None) -> int:
    """Lines that begin before a stretch."""
    if stretch is None or stretch[0] == 0:
        return 0
    left, count = stretch[0] - 1, 1
    with path.open("rb") as file:
        while left > 0 and (chunk := file.read(min(BATCH_BYTES, left))):
            count += chunk.count(b"\n")
            left -= len(chunk)
    return count


def _slowly(path: Path, block: bytes, schema: pa.Schema, before: int) -> pa.Table:
    """A block that Arrow's reader refuses, line by line."""
    rows = []
    for number, line in enumerate(block.split(b"\n"), before + 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line.decode("utf-8", "replace"))
        except (ValueError, RecursionError) as error:
            raise TokenizerError(f"{path}, line {number}: not JSON ({error})") from None
        if not isinstance(value, dict):
            raise TokenizerError(f"{path}, line {number}: expected a JSON object, found {type(value).__name__}")
        rows.append({field.name: _value(path, number, field, value.get(field.name)) for field in schema})
    return pa.Table.from_pylist(rows, schema=schema)


def _value(path: Path, line: int, field: pa.Field, value: Any) -> Any:
    if value is None:
        return None
    if pa.types.is_large_string(field.type):
        if isinstance(value, str):
            return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
    elif isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**31:
        return value
    raise TokenizerError(f"{path}, line {line}: {field.name} is {json.dumps(value)[:60]}; expected {_kind(field.type)}")


def _kind(kind: pa.DataType) -> str:
    return "a string" if pa.types.is_large_string(kind) else "a whole number"
