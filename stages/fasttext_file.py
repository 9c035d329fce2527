"""Whether a file is a whole fastText model: the library crashes, or reads on for minutes, where one was cut short."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

_MAGIC, _NEWEST = 793_712_314, 12  # FastText::FASTTEXT_FILEFORMAT_MAGIC_INT32 and FASTTEXT_VERSION of release 0.9
_ARGUMENTS = 12 * 4 + 8  # twelve int32 and one double
_CENTROIDS = 256


class _Reader:
    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.place = data, 0

    def take(self, form: str) -> tuple[int, ...]:
        values = struct.unpack_from("<" + form, self.data, self.place)
        self.place += struct.calcsize("<" + form)
        return values

    def skip(self, size: int) -> None:
        if size < 0 or self.place + size > len(self.data):
            raise ValueError("it ends too early")
        self.place += size

    def skip_string(self) -> None:
        end = self.data.find(b"\0", self.place)
        if end < 0:
            raise ValueError("it ends too early")
        self.place = end + 1

    def skip_quantizer(self) -> None:
        dimensions, *_ = self.take("4i")
        self.skip(4 * dimensions * _CENTROIDS)

    def skip_matrix(self, quantized: bool) -> None:
        if not quantized:
            rows, columns = self.take("2q")
            self.skip(4 * rows * columns)
            return
        with_norms, rows, _, codes = self.take("?2qi")
        self.skip(codes)
        self.skip_quantizer()
        if with_norms:
            self.skip(rows)
            self.skip_quantizer()


def check_fasttext(path: Path) -> None:
    """Walk through the parts of a `.bin` or `.ftz` file without loading it.

    Raises ValueError saying what is wrong: no fastText model, a newer format, or not of the length its parts add up to.
    """
    if path.stat().st_size < 8:
        raise ValueError("it is no fastText model")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        reader = _Reader(data)
        magic, version = reader.take("2i")
        if magic != _MAGIC:
            raise ValueError("it is no fastText model")
        if version > _NEWEST:
            raise ValueError(f"its format {version} is newer than {_NEWEST}")
        try:
            reader.skip(_ARGUMENTS)
            entries, _, _, _, pruned = reader.take("3i2q")
            for _ in range(entries):
                reader.skip_string()
                reader.skip(9)  # int64 count, int8 kind
            reader.skip(8 * max(0, pruned))
            (quantized,) = reader.take("?")
            reader.skip_matrix(bool(quantized))
            (quantized_output,) = reader.take("?")
            reader.skip_matrix(bool(quantized and quantized_output))
        except struct.error as error:
            raise ValueError("it ends too early") from error
        if reader.place != len(data):
            raise ValueError(f"it has {len(data) - reader.place} bytes too many")
