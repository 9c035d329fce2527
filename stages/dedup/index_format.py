"""An index of documents on disk: what its files are, and how they are opened.

    index.json                      format, parameters, the parts in order
    parts/<name>-<digest>/part.json     its runs, counts, the size and SHA-256 of every file
        ids.arrow                   `id` and `source` of each document, in order (Arrow IPC, not compressed)
        signatures.npy              (documents, permutations) uint8
        exact.keys.npy .low.npy .rows.npy    upper and lower half of each text's hash, and its document; sorted
        band-NNN.keys.npy .rows.npy          keys of a band, and their documents; sorted

Everything is read through memory maps. Keys are sorted, then documents. In the rows of a band the top bit marks a document whose
signature equals that of an earlier one of the part: those stand behind the others of their key, since they can tell nothing more.
A part never changes: another content has another folder. Index.json is replaced as a whole, and lists what counts.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import ValidationError

from stages.dedup.index_hash import SCHEME, IndexParameters
from stages.stage import StageError

FORMAT = 1
INDEX, PART = "index.json", "part.json"
IDS, SIGNATURES = "ids.arrow", "signatures.npy"
REPEATED = np.uint32(1 << 31)  # in a band's rows: the signature equals that of an earlier document
LARGEST_PART = 1 << 31  # documents
DOCUMENTS = 1 << 16  # in a batch of ids.arrow
RELEASED = 1 << 20  # bytes; smaller files may stay mapped
FILES_OF_BAND = ("keys", "rows")
FILES_OF_EXACT = ("keys", "low", "rows")


@dataclass(frozen=True)
class RunOfPart:
    """Documents of one run, which stand together in a part."""

    run: str
    documents: int


@dataclass(frozen=True)
class StoredFile:
    """Size in bytes and SHA-256 of a file."""

    size: int
    sha256: str


@dataclass(frozen=True)
class PartFacts:
    """part.json."""

    parameters: IndexParameters
    runs: tuple[RunOfPart, ...]
    files: dict[str, StoredFile]

    @property
    def documents(self) -> int:
        return sum(run.documents for run in self.runs)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files.values())

    def to_json(self) -> bytes:
        """As it is stored; equal facts give equal bytes."""
        data = {
            "format": FORMAT,
            "scheme": SCHEME,
            "parameters": self.parameters.model_dump(mode="json"),
            "documents": self.documents,
            "runs": [asdict(run) for run in self.runs],
            "files": {name: asdict(file) for name, file in sorted(self.files.items())},
        }
        return json.dumps(data, indent=1, ensure_ascii=False).encode("utf-8", "surrogatepass")


@dataclass(frozen=True)
class PartEntry:
    """A part as index.json lists it."""

    folder: str  # below parts/
    sha256: str  # of its part.json
    runs: tuple[RunOfPart, ...]


@dataclass(frozen=True)
class IndexFacts:
    """index.json. `generation` counts how often the index was changed."""

    parameters: IndexParameters
    parts: tuple[PartEntry, ...]
    generation: int = 0

    @property
    def runs(self) -> list[str]:
        """Names of all runs, in the order in which they stand."""
        return list(dict.fromkeys(run.run for part in self.parts for run in part.runs))

    def to_json(self) -> bytes:
        """As it is stored."""
        data = {
            "format": FORMAT,
            "generation": self.generation,
            "scheme": SCHEME,
            "parameters": self.parameters.model_dump(mode="json"),
            "parts": [asdict(part) for part in self.parts],
        }
        return json.dumps(data, indent=1, ensure_ascii=False).encode("utf-8", "surrogatepass")


def is_url(path: str) -> bool:
    """Whether a path names another filesystem than the local one."""
    return "://" in path and not path.startswith("file://")


def below(path: str, *names: str) -> str:
    """A file or folder below an index directory or URL."""
    root = path if is_url(path) else str(Path(path.removeprefix("file://")).expanduser())
    return "/".join([root.rstrip("/"), *names])


def read_index(path: str) -> IndexFacts:
    """An index's index.json. Raises `StageError` that says what to do, `FileNotFoundError` where there is none."""
    where = below(path, INDEX)
    data = _loaded(where, _content(where))
    parameters = _parameters(where, data)
    try:
        parts = tuple(PartEntry(str(p["folder"]), str(p["sha256"]), _runs(p["runs"])) for p in data["parts"])
        return IndexFacts(parameters, parts, int(data["generation"]))
    except (KeyError, TypeError, ValueError) as error:
        raise StageError(f"{where}: {_damaged(error)}") from None


def read_part(where: str, content: bytes | None = None) -> PartFacts:
    """A part.json (or `content`, if it was read already). Raises `StageError`."""
    try:
        data = _loaded(where, _content(where) if content is None else content)
    except FileNotFoundError:
        raise StageError(f"{where}: is not there, though {INDEX} lists it; {_AGAIN}") from None
    parameters = _parameters(where, data)
    try:
        files = {str(n): StoredFile(int(f["size"]), str(f["sha256"])) for n, f in data["files"].items()}
        facts = PartFacts(parameters, _runs(data["runs"]), files)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StageError(f"{where}: {_damaged(error)}") from None
    missing = [name for name in file_names(parameters) if name not in files]
    if missing or facts.documents != data.get("documents"):
        raise StageError(f"{where}: {_damaged(f'{missing[0]} is not listed' if missing else 'counts differ')}")
    return facts


_AGAIN = "build the index again (`python -m pipeline index build`, or the run that wrote it)"


def _damaged(why: object) -> str:
    return f"is damaged ({why if isinstance(why, str) else repr(why)}); {_AGAIN}"


def _content(where: str) -> bytes:
    if not is_url(where):
        return Path(where).read_bytes()
    import fsspec

    fs, path = fsspec.core.url_to_fs(where)
    fs.invalidate_cache()
    content: bytes = fs.cat_file(path)
    return content


def _loaded(where: str, content: bytes) -> dict[str, Any]:
    try:
        data = json.loads(content)
    except ValueError as error:
        raise StageError(f"{where}: {_damaged(error)}") from None
    if not isinstance(data, dict) or not isinstance(data.get("format"), int):
        raise StageError(f"{where}: {_damaged('it has no format')}")
    if data["format"] > FORMAT:
        raise StageError(
            f"{where}: is of format {data['format']}, newer than {FORMAT}, the newest known here; update, or build another"
        )
    if data.get("scheme") != SCHEME:
        raise StageError(
            f"{where}: its signatures are of scheme {data.get('scheme')!r}, here they are {SCHEME!r}; {_AGAIN}"
        )
    return data


def _parameters(where: str, data: dict[str, Any]) -> IndexParameters:
    try:
        return IndexParameters.model_validate(data.get("parameters"))
    except ValidationError as error:
        raise StageError(f"{where}: {_damaged(str(error).splitlines()[-2].strip())}") from None


def _runs(data: Any) -> tuple[RunOfPart, ...]:
    return tuple(RunOfPart(str(run["run"]), int(run["documents"])) for run in data)


def key_file(which: int | None, what: str) -> str:
    """Name of a file of band `which`, or of the texts' hashes (None)."""
    return f"{'exact' if which is None else f'band-{which:03d}'}.{what}.npy"


def file_names(parameters: IndexParameters) -> list[str]:
    """Every file of a part but part.json."""
    bands = [key_file(band, what) for band in range(parameters.bands) for what in FILES_OF_BAND]
    return [IDS, SIGNATURES, *(key_file(None, what) for what in FILES_OF_EXACT), *bands]


def sha256_file(path: Path) -> str:
    """Hex SHA-256."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


class Part:
    """The files of a part, opened as they are asked for. `folder` is local."""

    def __init__(self, folder: Path, facts: PartFacts) -> None:
        self.folder = folder
        self.facts = facts
        self._mapped: dict[str, Any] = {}  # np.memmap, which does not say that it has `_mmap`
        for name, stored in facts.files.items():
            path = folder / name
            try:
                size = path.stat().st_size
            except FileNotFoundError:
                raise StageError(
                    f"{path}: is not there: the index is damaged, or changed since this run began; start the run again, or {_AGAIN}"
                ) from None
            if size != stored.size:
                raise StageError(f"{path}: {_damaged(f'{size:,} bytes, expected {stored.size:,}')}")

    @classmethod
    def at(cls, folder: Path) -> Part:
        """The part in a local folder."""
        return cls(folder, read_part(str(folder / PART)))

    def __len__(self) -> int:
        return self.facts.documents

    def array(self, name: str) -> np.ndarray:
        """A .npy file, mapped. Raises `StageError` if it is none."""
        if name not in self._mapped:
            try:
                self._mapped[name] = np.load(self.folder / name, mmap_mode="r", allow_pickle=False)
            except (ValueError, OSError, EOFError) as error:
                raise StageError(f"{self.folder / name}: {_damaged(error)}") from None
        return np.asarray(self._mapped[name])

    def release(self) -> None:
        """Let go of the pages that were looked at: they would count as this process's memory, which is watched.

        They stay in the system's cache, so that looking again costs a page fault and no read.
        """
        for array in self._mapped.values():
            if array.nbytes >= RELEASED and hasattr(mmap, "MADV_DONTNEED"):
                array._mmap.madvise(mmap.MADV_DONTNEED)

    def blocks(self, name: str, rows: int) -> Iterator[np.ndarray]:
        """A .npy file from its beginning, so many rows at a time, as arrays of their own."""
        whole = self.array(name)
        for start in range(0, len(whole), rows):
            yield np.array(whole[start : start + rows])
            self.release()

    @property
    def signatures(self) -> np.ndarray:
        """(documents, permutations) uint8."""
        found = self.array(SIGNATURES)
        if found.shape != (len(self), self.facts.parameters.permutations) or found.dtype != np.uint8:
            raise StageError(f"{self.folder / SIGNATURES}: {_damaged('it has another shape than part.json says')}")
        return found

    def keys(self, which: int | None) -> tuple[np.ndarray, np.ndarray]:
        """Sorted keys (uint64) and their rows (uint32) of a band, or of the texts' hashes (None)."""
        keys, rows = self.array(key_file(which, "keys")), self.array(key_file(which, "rows"))
        if keys.dtype != np.uint64 or rows.dtype != np.uint32 or keys.shape != rows.shape or keys.ndim != 1:
            raise StageError(f"{self.folder / key_file(which, 'keys')}: {_damaged('keys and rows do not fit')}")
        return keys, rows

    @property
    def low(self) -> np.ndarray:
        """Lower halves (uint64) of the texts' hashes, in the order of their keys."""
        return self.array(key_file(None, "low"))

    def ids(self) -> Iterator[pa.RecordBatch]:
        """Columns `id` and `source`, `DOCUMENTS` rows at a time (the last batch has fewer)."""
        with self._ids() as reader:
            for number in range(reader.num_record_batches):
                yield reader.get_batch(number)

    def ids_of(self, rows: Sequence[int]) -> list[str]:
        """Ids of the documents in these rows."""
        found: list[str] = []
        with self._ids() as reader:
            batches: dict[int, pa.RecordBatch] = {}
            for row in rows:
                number = row // DOCUMENTS
                if number not in batches:
                    batches[number] = reader.get_batch(number)
                found.append(batches[number].column(0)[row % DOCUMENTS].as_py())
        return found

    @contextlib.contextmanager
    def _ids(self) -> Iterator[Any]:
        try:
            with pa.memory_map(str(self.folder / IDS)) as source, pa.ipc.open_file(source) as reader:
                yield reader
        except (pa.ArrowException, OSError) as error:
            raise StageError(f"{self.folder / IDS}: {_damaged(error)}") from None

    @cached_property
    def run_ends(self) -> np.ndarray:
        """Where each run's documents end."""
        return np.cumsum([run.documents for run in self.facts.runs])

    def run_of(self, row: int) -> str:
        """Name of the run that a document is of."""
        return self.facts.runs[int(np.searchsorted(self.run_ends, row, side="right"))].run

    def damaged_files(self) -> Iterator[str]:
        """Names of files whose SHA-256 is another than part.json says."""
        for name, stored in self.facts.files.items():
            if sha256_file(self.folder / name) != stored.sha256:
                yield name


def open_part(where: str, part_json: Path) -> Part:
    """The part in the folder or URL `where`, whose part.json was read to a local file.

    Files of a URL are copied once a node, below the temporary folder, and checked against their SHA-256. Raises `StageError`.
    """
    content = part_json.read_bytes()
    facts = read_part(f"{where}/{PART}", content)
    if not is_url(where):
        return Part(Path(where), facts)
    import fsspec

    base = Path(tempfile.gettempdir()) / f"gristmill-assets-{os.getuid()}"
    folder = base / f"index-{hashlib.sha256(content).hexdigest()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    fs, remote = fsspec.core.url_to_fs(where)
    for name, stored in facts.files.items():
        target = folder / name
        if target.exists() and target.stat().st_size == stored.size:
            continue  # put in place whole, after it was checked
        temporary = folder / f".tmp-{uuid.uuid4().hex[:12]}-{name}"
        try:
            fs.get_file(f"{remote}/{name}", str(temporary))
            if sha256_file(temporary) != stored.sha256:
                raise StageError(f"{where}/{name}: {_damaged('another SHA-256 than part.json says')}")
            temporary.replace(target)
        except FileNotFoundError:
            raise StageError(f"{where}/{name}: is not there; the index changed: start the run again") from None
        finally:
            temporary.unlink(missing_ok=True)
    if not (folder / PART).exists():
        temporary = folder / f".tmp-{uuid.uuid4().hex[:12]}-{PART}"
        temporary.write_bytes(content)
        temporary.replace(folder / PART)
    return Part(folder, facts)
