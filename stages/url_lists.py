"""Lists of domains and addresses, of any length, as sorted arrays of 64-bit hashes: 10 bytes an entry."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO
from urllib.parse import unquote

import numpy as np
import xxhash

from stages.stage import StageError

_CHUNK = 200_000  # entries hashed before they become an array
_HOSTS_FILE = re.compile(r"^(?:0\.0\.0\.0|127\.0\.0\.1|::1?)\s+")  # a line of a hosts file: only the name counts
_PLAIN = re.compile(r"(?!www\.)(?:(?!xn--)[a-z0-9_-]+\.)+(?!xn--)[a-z][a-z0-9-]*")  # already in normal form: nearly all
_SCHEME = re.compile(r"^[a-z][a-z0-9+.-]*://", re.IGNORECASE)


class HashedList:
    """Which list, if any, holds a string. Two strings share a hash once in 10^12 look-ups in ten million entries."""

    def __init__(self, named_entries: Iterable[tuple[str, Iterable[str]]]) -> None:
        """`named_entries`: (name of the list, its entries in normal form); an entry belongs to the first that has it."""
        self.names: list[str] = []
        hashes: list[np.ndarray] = []
        owners: list[np.ndarray] = []
        for name, entries in named_entries:
            if name not in self.names:
                self.names.append(name)
            for chunk in _chunks(entries):
                hashes.append(chunk)
                owners.append(np.full(len(chunk), self.names.index(name), dtype=np.uint16))
        every = np.concatenate(hashes) if hashes else np.zeros(0, dtype=np.uint64)
        self._hashes, first = np.unique(every, return_index=True)
        self._owners = np.concatenate(owners)[first] if owners else np.zeros(0, dtype=np.uint16)

    def __len__(self) -> int:
        return len(self._hashes)

    def find(self, strings: list[str]) -> list[str | None]:
        """For each string the name of the list that holds it."""
        if not strings or not len(self):
            return [None] * len(strings)
        wanted = np.fromiter(map(_hash, strings), dtype=np.uint64, count=len(strings))
        places = np.minimum(np.searchsorted(self._hashes, wanted), len(self) - 1)
        hit = self._hashes[places] == wanted
        owners = self._owners[places]
        return [
            self.names[owner] if found else None for found, owner in zip(hit.tolist(), owners.tolist(), strict=True)
        ]


def list_files(paths: Iterable[str], urls: bool) -> list[tuple[str, str]]:
    """The files behind the paths that a user gave, as (name of the list, path), sorted within a folder.

    A folder holds `<category>/domains` and `<category>/urls` as UT1's do, or is one such category; a file is one list,
    named by its stem. Names never hold a path.
    """
    kind = "urls" if urls else "domains"
    found = []
    for given in paths:
        path = Path(given)
        if not path.is_dir():
            found.append((path.name.split(".")[0], given))
            continue
        files = (
            [path / kind]
            if (path / "domains").is_file() or (path / "urls").is_file()
            else sorted(path.glob(f"*/{kind}"))
        )
        found += [(file.parent.name, str(file)) for file in files if file.is_file()]
    return found


def has_lists(path: str) -> bool:
    """Whether a folder holds any list at all."""
    return any(list_files([path], urls) for urls in (False, True))


def read_entries(path: Path) -> Iterator[str]:
    """The lines of a list (plain or .gz), lower-case, without comments; bytes that are not UTF-8 are ignored."""
    try:
        file: IO[str]
        opener = gzip.open if _is_gzip(path) else open
        with opener(path, "rt", encoding="utf-8", errors="ignore") as file:  # type: ignore[operator]
            for line in file:
                entry = line.split("#", 1)[0].strip() if "#" in line else line.strip()
                if entry:
                    yield entry.lower()
    except (OSError, EOFError) as error:
        raise StageError(
            f"url_filter: the list {path} cannot be read ({error}); give the path of a text or .gz file"
        ) from error


def domain_entries(path: Path) -> Iterator[str]:
    """The domains of a list, also of one in the form of a hosts file."""
    for entry in read_entries(path):
        if _PLAIN.fullmatch(entry):
            yield entry
            continue
        domain = host_key(_SCHEME.sub("", _HOSTS_FILE.sub("", entry)).split("/")[0])
        if domain:
            yield domain


def url_entries(path: Path) -> Iterator[str]:
    """The addresses of a list, as `url_key` writes them."""
    for entry in read_entries(path):
        rest = _SCHEME.sub("", entry)
        host, slash, path_part = rest.partition("/")
        key = url_key(host_key(host), slash + path_part)
        if "/" in key:
            yield key


def host_key(host: str) -> str:
    """A host name for comparison: lower case, no trailing dot, no leading `www.` or `*.`, IDNA names in Unicode."""
    host = host.lower().strip().strip(".").removeprefix("*.").removeprefix("www.")
    if "xn--" in host:
        try:
            return host.encode("ascii").decode("idna")
        except (UnicodeError, ValueError):
            return host
    return host


def url_key(host: str, path: str) -> str:
    """Host and path of an address for comparison: percent-decoded, lower case, no trailing slash, no fragment."""
    return host + unquote(path.split("#", 1)[0]).lower().rstrip("/")


def _hash(entry: str) -> int:
    return xxhash.xxh3_64_intdigest(entry.encode("utf-8", "surrogatepass"))


def _chunks(entries: Iterable[str]) -> Iterator[np.ndarray]:
    buffer: list[int] = []
    for entry in entries:
        buffer.append(_hash(entry))
        if len(buffer) == _CHUNK:
            yield np.array(buffer, dtype=np.uint64)
            buffer.clear()
    if buffer:
        yield np.array(buffer, dtype=np.uint64)


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"
