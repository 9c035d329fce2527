"""Lists of domains and addresses, of any length, as sorted arrays of 64-bit hashes: 10 bytes an entry."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import numpy as np
import xxhash

from stages.stage import StageError
from stages.url_canonical import ascii_host

_CHUNK = 200_000  # entries hashed before they become an array
_BLOCK = 1 << 18  # bytes of a list that are looked at together
_LONGEST = 1 << 16  # bytes of a line; a longer one is no entry, and is cut
_HOSTS_FILE = re.compile(r"^(?:0\.0\.0\.0|127\.0\.0\.1|::1?)\s+")  # a line of a hosts file: only the name counts
_SCHEME = re.compile(r"^[a-z][a-z0-9+.-]*://", re.IGNORECASE)


class HashedList:
    """Which list, if any, holds a string. Two strings share a hash once in 10^12 look-ups in ten million entries."""

    def __init__(self, named_hashes: Iterable[tuple[str, Iterable[np.ndarray]]]) -> None:
        """`named_hashes`: (name of the list, its entries hashed); an entry belongs to the first list that has it."""
        self.names: list[str] = []
        starts: list[int] = []  # of each run of one list's entries, and whose it is
        owner: list[int] = []
        buffer = bytearray()  # grows in place: thousands of small arrays would leave holes as large as themselves
        for name, chunks in named_hashes:
            if name not in self.names:
                self.names.append(name)
            starts.append(len(buffer) // 8)
            owner.append(self.names.index(name))
            for chunk in chunks:
                buffer += chunk.tobytes()
        every = np.frombuffer(buffer, dtype=np.uint64)
        order = np.argsort(every, kind="stable")  # of equal hashes the first list's stands first
        every = every[order]
        del buffer
        first = np.ones(len(every), dtype=bool)
        first[1:] = every[1:] != every[:-1]
        self._hashes = every if first.all() else every[first]
        runs = np.searchsorted(starts, order[first], side="right") - 1
        self._owners = np.array(owner, dtype=np.uint16)[runs]

    def __len__(self) -> int:
        return len(self._hashes)

    def hits(self, strings: list[str]) -> list[tuple[int, str]]:
        """Of the strings that a list holds: place, and the list's name; ascending."""
        if not strings or not len(self):
            return []
        wanted = np.fromiter(map(_hash, strings), dtype=np.uint64, count=len(strings))
        places = np.minimum(np.searchsorted(self._hashes, wanted), len(self) - 1)
        found = np.flatnonzero(self._hashes[places] == wanted)
        return [(place, self.names[self._owners[places[place]]]) for place in found.tolist()]

    def find(self, strings: list[str]) -> list[str | None]:
        """For each string the name of the list that holds it."""
        held = dict(self.hits(strings))
        return [held.get(place) for place in range(len(strings))]


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


def read_blocks(path: Path) -> Iterator[bytes]:
    """A list (plain or .gz) in blocks of whole lines. Raises `StageError`."""
    try:
        with gzip.open(path) if _is_gzip(path) else path.open("rb") as file:
            rest = b""
            while block := file.read(_BLOCK):
                end = block.rfind(b"\n") + 1
                if not end and len(rest) < _LONGEST:
                    rest += block
                    continue
                yield rest + block[:end]
                rest = block[end:]
            if rest:
                yield rest
    except (OSError, EOFError, zlib.error) as error:
        raise StageError(
            f"url_filter: the list {path} cannot be read ({error}); give the path of a text or .gz file"
        ) from error


def read_entries(path: Path) -> Iterator[str]:
    """The lines of a list, lower-case, without comments; bytes that are not UTF-8 are ignored."""
    for block in read_blocks(path):
        yield from filter(None, map(_entry, block.split(b"\n")))


class Form(NamedTuple):
    """What the entries of a kind of list look like.

    `prefixes` are taken off line by line, in this order. A line of bytes of `plain` that holds none of `odd` (`\\n`
    stands for both ends of a line) is in normal form already; `normal` brings the others to it, "" if one is no entry.
    """

    prefixes: tuple[bytes, ...]
    plain: np.ndarray  # bool, by byte
    odd: tuple[bytes, ...]
    normal: Callable[[str], str]


def _bytes(text: bytes) -> np.ndarray:
    table = np.zeros(256, dtype=bool)
    table[np.frombuffer(text, dtype=np.uint8)] = True
    return table


def _domain(entry: str) -> str:
    entry = _SCHEME.sub("", _HOSTS_FILE.sub("", entry)).removeprefix("||")
    return host_key(entry.split("/")[0].split("^")[0])


def _address(entry: str) -> str:
    host, slash, path = _SCHEME.sub("", entry).partition("/")
    key = url_key(host_key(host), slash + path)
    return key if "/" in key else ""


_NAME = b"abcdefghijklmnopqrstuvwxyz0123456789._-\n"
# domains: one a line, as a hosts file, as an ad blocker's `||domain^`
DOMAINS = Form(
    (b"0.0.0.0 ", b"127.0.0.1 ", b"||", b"https://", b"http://", b"*.", b"www."),
    _bytes(_NAME),
    (b"\n.", b".\n"),
    _domain,
)
# addresses, as `url_key` writes them; a line without a path is none
ADDRESSES = Form(
    (b"https://", b"http://", b"*.", b"www."),
    _bytes(_NAME + b"/?=&~+,;!"),
    (b"\n.", b".\n", b"./", b"/\n", b"\n/"),
    _address,
)


def file_hashes(path: Path, form: Form) -> Iterator[np.ndarray]:
    """Hashes of the entries of a list, a block at a time: five million domains in about four seconds.

    Nearly all lines of real lists are in normal form. Those are hashed as they stand, in C; only the others are looked
    at one by one.
    """
    for block in read_blocks(path):
        text = b"\n" + block.lower().replace(b"\r\n", b"\n") + b"\n"
        for prefix in form.prefixes:
            text = text.replace(b"\n" + prefix, b"\n")
        octets = np.frombuffer(text, dtype=np.uint8)
        ends = np.flatnonzero(octets == 10)  # line i lies between ends[i] and ends[i + 1]
        places = [np.flatnonzero(~form.plain[octets])]
        for odd in form.odd:
            places.append(np.array(list(_places(text, odd)), dtype=np.int64) + (odd[:1] == b"\n"))
        strange = np.unique(np.searchsorted(ends, np.concatenate(places)) - 1).tolist()
        lines = text[1:-1].split(b"\n")
        entries = []
        for row in strange:
            if row < len(lines) and (entry := form.normal(_entry(lines[row]))):
                entries.append(entry.encode("utf-8", "surrogatepass"))
            if row < len(lines):
                lines[row] = b""
        if form is ADDRESSES:
            lines = [line for line in lines if b"/" in line]
        entries += filter(None, lines)
        yield np.fromiter(map(xxhash.xxh3_64_intdigest, entries), dtype=np.uint64, count=len(entries))


def host_key(host: str) -> str:
    """A host name for comparison: lower case, no dot at the ends, no leading `www.` or `*.`, IDNA names in ASCII."""
    host = host.lower().strip().strip(".").removeprefix("*.").removeprefix("www.")
    return host if host.isascii() else ascii_host(host) or host


def url_key(host: str, path: str) -> str:
    """Host and path of an address for comparison: percent-decoded, lower case, no trailing slash, no fragment."""
    return host + unquote(path.split("#", 1)[0]).lower().rstrip("/")


def _entry(line: bytes) -> str:
    """A line without comment and blanks, in lower case."""
    return line.decode("utf-8", "ignore").split("#", 1)[0].strip().lower()


def _hash(entry: str) -> int:
    return xxhash.xxh3_64_intdigest(entry.encode("utf-8", "surrogatepass"))


def _places(text: bytes, wanted: bytes) -> Iterator[int]:
    place = text.find(wanted)
    while place >= 0:
        yield place
        place = text.find(wanted, place + 1)


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"
