"""The decompressed bytes of a file, each with its place in the file, and what is damaged.

Python's own gzip module neither tells where a member starts nor goes on after a broken one, so members are inflated one
by one here. isal inflates twice as fast as zlib and gives the same bytes; where it has no wheel, zlib serves.
"""

from __future__ import annotations

import lzma
import re
import zlib
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, BinaryIO, NamedTuple

import zstandard

from pipeline.readers.record import Place, Unreadable

fast_zlib: Any = zlib
with suppress(ImportError):
    from isal import isal_zlib as fast_zlib

RAW = 1 << 16  # bytes read at a time: what is behind a member in it is copied once a member
PLAIN = 1 << 18
OUT = 1 << 20  # bytes inflated at a time
ZSTD_PIECE = 1 << 10  # zstd has no limit on output: 1 KB can become 32 MB at worst
MAX_DICTIONARY = 64 << 20

MAGIC = {"gzip": b"\x1f\x8b\x08", "zstd": b"\x28\xb5\x2f\xfd", "lz4": b"\x04\x22\x4d\x18", "xz": b"\xfd7zXZ\x00"}
SUFFIX = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd", ".lz4": "lz4", ".xz": "xz"}
SKIPPABLE = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18", re.DOTALL)  # zstd frames without content, RFC 8878 3.1.2
ERRORS: tuple[type[Exception], ...] = (zlib.error, fast_zlib.error, zstandard.ZstdError, lzma.LZMAError)


class Damage(NamedTuple):
    """Why a stream ends early: in the member at `offset`, 'truncated' or 'corrupt'."""

    offset: int
    reason: str


def detect_codec(head: bytes, name: str) -> str:
    """The compression of a file: by its first bytes, or by its name where they are damaged."""
    for codec, magic in MAGIC.items():
        if head.startswith(magic):
            return codec
    if SKIPPABLE.match(head):
        return "zstd"
    if re.match(rb"\s*(WARC/|filedesc:|[<{\[]|[\w ]{16})", head):
        return "plain"  # text, whatever the name says
    return next((codec for suffix, codec in SUFFIX.items() if name.lower().endswith(suffix)), "plain")


def read_at(file: BinaryIO, offset: int, size: int) -> bytes:
    """Up to `size` bytes at `offset`; fewer only at the end of the file."""
    try:
        file.seek(offset)
        data = file.read(size)
        while len(data) < size:
            more = file.read(size - len(data))
            if not more:
                break
            data += more
        return data
    except Exception as error:  # every file system has its own kinds
        raise Unreadable from error


class Codec:
    """One kind of compression; for zstd with the dictionary that the file may carry in its first frame."""

    def __init__(self, name: str, file: BinaryIO) -> None:
        self.name = name
        self.magic = MAGIC.get(name, b"")
        self.dictionary: zstandard.ZstdCompressionDict | None = None
        if name == "zstd":
            head = read_at(file, 0, 8)
            size = int.from_bytes(head[4:8], "little")
            # The WARC zstd convention: a skippable frame 0x184D2A5D holds the dictionary, plain or itself compressed.
            if head[:4] == b"\x5d\x2a\x4d\x18" and size <= MAX_DICTIONARY:
                data = read_at(file, 8, size)
                if data.startswith(self.magic):
                    try:
                        data = zstandard.ZstdDecompressor().stream_reader(data).read(MAX_DICTIONARY)
                    except zstandard.ZstdError:
                        data = b""
                self.dictionary = zstandard.ZstdCompressionDict(data) if data else None

    def new(self, exact: bool = False) -> Any:
        """A decompressor for one member; `exact` for replays, from the standard library where it can be."""
        if self.name == "gzip":
            return (zlib if exact else fast_zlib).decompressobj(31)
        if self.name == "zstd":
            return zstandard.ZstdDecompressor(dict_data=self.dictionary).decompressobj()
        return lzma.LZMADecompressor(lzma.FORMAT_XZ)

    def step(self, member: Any, raw: bytes, limit: int = OUT) -> tuple[bytes, bytes]:
        """(some decompressed bytes, what is left of `raw`). As many bytes as `limit` mean that there may be more to come."""
        if self.name == "gzip":
            out = member.decompress(raw, limit)
            return out, member.unused_data if member.eof else member.unconsumed_tail
        if self.name == "zstd":
            out = member.decompress(raw[:ZSTD_PIECE])
            return out, (member.unused_data if member.eof else b"") + raw[ZSTD_PIECE:]
        out = member.decompress(raw, limit)
        return out, member.unused_data if member.eof else b""


class Stream:
    """A window on the decompressed bytes: `buffer`, read from `at` on; the owner moves `at` and asks for more.

    `damage` says why the stream ended before the end of the file; all bytes before the damage are given first, the same
    ones wherever reading began, so that records do not depend on how a file was cut.
    """

    def __init__(self, file: BinaryIO, codec: Codec) -> None:
        self.file = file
        self.codec = codec
        self.seek(0)

    def seek(self, offset: int) -> None:
        """Start again at a file offset, which must be the start of a member."""
        self.buffer = bytearray()
        self.at = 0
        self.base = 0  # bytes before buffer[0] since the seek
        self.damage: Damage | None = None
        self._origin = offset
        self._marks: deque[tuple[int, int]] = deque()  # (bytes since the seek, file offset) of members begun
        self._raw = b""
        self._raw_end = offset  # file offset behind _raw
        self._in_place = False  # the file object stands at _raw_end
        self._member: Any = None
        self._produced = 0
        self._failed: Damage | None = None
        self._lz4: Any = None

    def place(self) -> Place:
        """The place of the byte at `at`; earlier places are forgotten."""
        where = self.base + self.at
        if self.codec.name == "plain":
            return Place(self._origin + where, 0)
        while len(self._marks) > 1 and self._marks[1][0] <= where:
            self._marks.popleft()
        if not self._marks:
            return Place(self._origin, where)
        return Place(self._marks[0][1], where - self._marks[0][0])

    def member_at(self, index: int) -> int:
        """File offset of the member that holds the byte at a buffer index."""
        where = self.base + index
        return next((offset for start, offset in reversed(self._marks) if start <= where), self._origin)

    def boundaries(self, begin: int, end: int) -> list[tuple[int, int]]:
        """(buffer index, file offset) of the members that start in buffer[begin:end]."""
        if len(self._marks) < 2:
            return []
        low, high = self.base + begin, self.base + end
        return [(start - self.base, offset) for start, offset in self._marks if low <= start < high]

    def ensure(self, size: int) -> bool:
        """Have `size` bytes from `at` on; False if the stream ends before."""
        while len(self.buffer) - self.at < size:
            if not self.fill():
                return False
        return True

    def compact(self) -> None:
        """Forget what is before `at`, but for one byte: a line start is known by the byte before it."""
        if self.at > 1:
            del self.buffer[: self.at - 1]
            self.base += self.at - 1
            self.at = 1

    def skip(self, size: int) -> bool:
        """Pass over `size` bytes without holding them; False if the stream ends before."""
        while size > len(self.buffer) - self.at:
            size -= len(self.buffer) - self.at
            self.at = len(self.buffer)
            self.compact()
            if not self.fill():
                return False
        self.at += size
        return True

    def search(self, find: Callable[[bytearray, int, int], int], longest: int, stop: int | None = None) -> bool:
        """Move to the first match at or after `at` (and before `stop`, in bytes since the seek); False if there is none.

        `find(buffer, begin, end)` gives the index of the first match in buffer[begin:end], or -1; a match has at most
        `longest` bytes.
        """
        while True:
            far = len(self.buffer) if stop is None else max(0, stop - self.base) + longest
            found = find(self.buffer, self.at, far)
            if found >= 0:
                self.at = found
                return stop is None or self.base + self.at < stop
            self.at = max(self.at, len(self.buffer) - longest)
            self.compact()
            if (stop is not None and self.base + self.at >= stop) or not self.fill():
                self.at = len(self.buffer)
                return False

    def fill(self) -> bool:
        """Append to the buffer; False at the end, or at damage."""
        if self._failed is not None:
            self.damage = self._failed
            return False
        if self.codec.name == "plain":
            return self._append(self._read(PLAIN))
        if self.codec.name == "lz4":
            return self._fill_lz4()
        while True:
            if self._member is None and not self._begin_member():
                return False
            if not self._raw:
                self._raw = self._read(RAW)
            ended = not self._raw
            try:
                out, rest = self.codec.step(self._member, self._raw)
            except ERRORS:
                return self._salvage()
            if self._member.eof:
                self._member = None
            elif ended and not out:
                self._failed = Damage(self._marks[-1][1], "truncated")
                self.damage = self._failed
                return False
            self._raw = rest
            if out:
                self._produced += len(out)
                return self._append(out)

    def _append(self, data: bytes) -> bool:
        self.buffer += data
        return bool(data)

    def _read(self, size: int) -> bytes:
        try:
            if not self._in_place:
                self.file.seek(self._raw_end)
                self._in_place = True
            data = self.file.read(size)
        except Exception as error:  # every file system has its own kinds
            raise Unreadable from error
        self._raw_end += len(data)
        return data

    def moved(self) -> None:
        """Somebody else used the file object."""
        self._in_place = False

    def _begin_member(self) -> bool:
        magic = self.codec.magic
        while True:
            while len(self._raw) < 8:
                more = self._read(RAW)
                if not more:
                    break
                self._raw += more
            if not self._raw:
                return False
            if self._raw[0] == 0:  # zero padding behind a member is legal (gzip manual, "tapes")
                self._raw = self._raw.lstrip(b"\0")
                continue
            if self.codec.name == "zstd" and SKIPPABLE.match(self._raw):
                self._raw_end += int.from_bytes(self._raw[4:8], "little") + 8 - len(self._raw)
                self._raw, self._in_place = b"", False
                continue
            break
        offset = self._raw_end - len(self._raw)
        self._marks.append((self.base + len(self.buffer), offset))
        if self._raw[: len(magic)] != magic[: len(self._raw)]:
            self._failed = self.damage = Damage(offset, "corrupt")
            return False
        self._member = self.codec.new()
        self._produced = 0
        return True

    def _salvage(self) -> bool:
        """Give what a broken member holds before the damage: replay it, at last byte by byte.

        A decompressor that raises loses the output of that call, and how much that is depends on how the file was read.
        """
        offset = self._marks[-1][1]
        broken = self._raw_end - len(self._raw)
        self._failed = Damage(offset, "corrupt")
        member = self.codec.new(exact=True)
        out, produced = bytearray(), 0
        try:
            self.file.seek(offset)
            self._in_place = False
            here = offset
            while True:
                raw = self.file.read(min(RAW, broken - here)) if here < broken else self.file.read(1)
                here += len(raw)
                if not raw:
                    break
                more = True
                while more:
                    data, raw = self.codec.step(member, raw)
                    more = bool(raw) or len(data) >= OUT
                    skip = min(len(data), max(0, self._produced - produced))
                    produced += len(data)
                    out += data[skip:]
                if member.eof:  # only the fast decompressor minded: nothing is damaged
                    self._failed, self._member, self._raw, self._raw_end = None, None, b"", here
                    break
                if here > broken + RAW + ZSTD_PIECE:
                    break
        except ERRORS:
            pass
        except Exception as error:  # every file system has its own kinds
            raise Unreadable from error
        self._produced += len(out)
        return self._append(bytes(out)) or self.fill()

    def _fill_lz4(self) -> bool:
        try:
            if self._lz4 is None:
                from fastwarc.stream_io import Lz4Reader

                self.file.seek(self._origin)
                self._lz4 = Lz4Reader(self.file)
            data: bytes = self._lz4.read(PLAIN)
        except Exception:  # fastwarc gives one kind of error for broken data and failed reads
            self._failed = self.damage = Damage(self._origin, "corrupt")
            return False
        return self._append(data)
