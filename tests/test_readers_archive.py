"""WARC, WET and ARC: what is read, what is settled at reading, damage, and cuts anywhere in the file."""

from __future__ import annotations

import gzip
import io
import random
from collections import Counter
from pathlib import Path

import pytest
import zstandard
from warcio.archiveiterator import ArchiveIterator
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from pipeline.files import list_files
from pipeline.readers import Limits, ReadOptions, Record, Segment, carry, open_segment, restart, split

LIMITS = Limits()
HTML = b"<html><body>page %d " + b"some words of it. " * 20 + b"</body></html>"


def read_all(path: Path, shard_bytes: int = 1 << 40, format: str = "warc", limits: Limits = LIMITS):
    """Records and counts of a file as the engine reads it: cut, read, stitched; and how many segments were read again."""
    (file,) = list_files("s", format, [str(path)])
    rows: list[Record] = []
    counts: Counter[str] = Counter()
    expected: int | None = 0
    again = 0
    for segment in split(file, shard_bytes, ReadOptions()):
        segment = Segment.from_dict(segment.to_dict())
        reader = open_segment(segment, limits)
        taken = list(reader)
        while (other := restart(segment, expected, reader)) is not None:
            again += 1
            segment, reader = other, open_segment(other, limits)
            taken = list(reader)
        expected = carry(expected, reader)
        rows += taken
        counts.update(reader.other_records)
    places = [(row.offset, row.sub) for row in rows]
    assert places == sorted(set(places))
    return rows, dict(counts), again


def fates(rows: list[Record]) -> list[str]:
    return [row.rule or ("html" if row.html is not None else "text") for row in rows]


def warc_record(
    number: int, block: bytes, kind: str = "response", mime: str = "application/http", eol: bytes = b"\r\n"
) -> bytes:
    lines = [
        "WARC/1.0",
        f"WARC-Type: {kind}",
        f"WARC-Record-ID: <urn:uuid:{number}>",
        "WARC-Date: 2020-01-02T03:04:05Z",
        f"WARC-Target-URI: http://example.org/{number}",
        f"Content-Type: {mime}",
        f"Content-Length: {len(block)}",
    ]
    return eol.join(line.encode() for line in lines) + eol * 2 + block + eol * 2


def http(body: bytes, head: str = "Content-Type: text/html", status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\n{head}\r\n\r\n".encode() + body


def pages(count: int) -> list[bytes]:
    return [warc_record(number, http(HTML % number)) for number in range(count)]


def write(path: Path, *parts: bytes) -> Path:
    path.write_bytes(b"".join(parts))
    return path


def test_records_and_offsets_are_those_of_warcio(tmp_path: Path) -> None:
    path = tmp_path / "a.warc.gz"
    with path.open("wb") as out:
        writer = WARCWriter(out, gzip=True)
        writer.write_record(writer.create_warcinfo_record("a.warc.gz", {"software": "test"}))
        for number in range(5):
            head = StatusAndHeaders("200 OK", [("Content-Type", "text/html; charset=ISO-8859-1")], protocol="HTTP/1.1")
            response = writer.create_warc_record(
                f"http://example.org/{number}", "response", io.BytesIO(HTML % number), http_headers=head
            )
            writer.write_request_response_pair(
                writer.create_warc_record(
                    f"http://example.org/{number}", "request", io.BytesIO(b"GET / HTTP/1.0\r\n\r\n")
                ),
                response,
            )
    expected = []
    with path.open("rb") as file:
        records = ArchiveIterator(file)
        for record in records:
            if record.rec_type == "response":
                content = record.content_stream().read()
                expected.append((records.get_record_offset(), record.rec_headers.get_header("WARC-Record-ID"), content))
    rows, counts, _ = read_all(path)
    assert [(row.offset, row.record_id, row.html) for row in rows] == expected
    assert {row.sub for row in rows} == {0} and {row.charset for row in rows} == {"ISO-8859-1"}
    assert counts == {"warcinfo": 1, "request": 5}
    assert rows[3].url == "http://example.org/3" and rows[3].fate is None


@pytest.mark.parametrize("compress", ["gzip", "plain", "one member", "zstd", "blocks", "padded"])
def test_every_packing_gives_the_same_records(tmp_path: Path, compress: str) -> None:
    parts = [warc_record(100, b"software: x", "warcinfo", "application/warc-fields"), *pages(12)]
    joined = b"".join(parts)
    packed = {
        "gzip": [gzip.compress(part) for part in parts],
        "plain": parts,
        "one member": [gzip.compress(joined)],
        "zstd": [zstandard.ZstdCompressor(write_checksum=True).compress(part) for part in parts],
        "blocks": [gzip.compress(joined[at : at + 700]) for at in range(0, len(joined), 700)],
        "padded": [*(gzip.compress(part) for part in parts), bytes(1000)],
    }[compress]
    path = write(tmp_path / ("a.warc" if compress == "plain" else "a.warc.gz"), *packed)
    for shard_bytes in (1 << 40, 400):
        rows, counts, _ = read_all(path, shard_bytes)
        assert [row.html for row in rows] == [HTML % number for number in range(12)]
        assert [row.date for row in rows] == [1577934245] * 12
        assert counts == {"warcinfo": 1}
    if compress == "gzip":
        assert rows[0].offset == len(packed[0]) and rows[0].sub == 0
    if compress == "one member":
        assert {row.offset for row in rows} == {0} and rows[1].sub - rows[0].sub == len(parts[1])


def test_zstd_with_its_dictionary_in_the_first_frame(tmp_path: Path) -> None:
    parts = pages(60)
    dictionary = zstandard.train_dictionary(2000, parts)
    for data in (dictionary.as_bytes(), zstandard.ZstdCompressor().compress(dictionary.as_bytes())):
        frames = [zstandard.ZstdCompressor(dict_data=dictionary).compress(part) for part in parts]
        path = write(tmp_path / "a.warc.zst", b"\x5d\x2a\x4d\x18" + len(data).to_bytes(4, "little") + data, *frames)
        rows, _, _ = read_all(path)
        assert [row.html for row in rows] == [HTML % number for number in range(60)]


@pytest.mark.parametrize(
    ("block", "rule", "value", "detail"),
    [
        (http(b"<p>", status="404 Not Found"), "http_status", 404, None),
        (http(b"<p>", status="what"), "http_status", None, "no status"),
        (http(b"{}", "Content-Type: Application/JSON; charset=utf-8"), "content_type", None, "application/json"),
        (http(b"{}", "Server: x"), "content_type", None, "none"),
        (http(b"\xff", "Content-Type: image/\x07png"), "content_type", None, "image/png"),
        (
            http(b"\x00" * 40, "Content-Type: text/html\r\nContent-Encoding: gzip").replace(b"\x00", b"\x1f\x8b", 1),
            "corrupt",
            None,
            "content encoding: not deflate",
        ),
    ],
)
def test_settled_at_reading(tmp_path: Path, block: bytes, rule: str, value: float | None, detail: str | None) -> None:
    rows, _, _ = read_all(write(tmp_path / "a.warc", warc_record(0, block)))
    assert [(row.rule, row.value, row.detail, row.html, row.text) for row in rows] == [
        (rule, value, detail, None, None)
    ]
    assert rows[0].fate == ("failed" if rule == "corrupt" else "dropped")


def chunked(body: bytes) -> bytes:
    return (
        b"".join(b"%x\r\n%s\r\n" % (len(body[at : at + 7]), body[at : at + 7]) for at in range(0, len(body), 7))
        + b"0\r\n\r\n"
    )


def deflate(body: bytes, bits: int) -> bytes:
    import zlib

    compressor = zlib.compressobj(9, zlib.DEFLATED, bits)
    return compressor.compress(body) + compressor.flush()


def brotli(body: bytes) -> bytes:
    """A brotli stream of uncompressed meta-blocks (RFC 7932, 9.2)."""
    out = b""
    for at in range(0, len(body), 256):
        piece = body[at : at + 256]
        # window bits 16 (one 0 bit, in the first block only); ISLAST 0, MNIBBLES 4, MLEN - 1, ISUNCOMPRESSED 1
        bits = (len(piece) - 1) << 3 | 1 << 19
        out += (bits << 1 if at == 0 else bits).to_bytes(3, "little") + piece
    return out + b"\x03"  # ISLAST, ISLASTEMPTY


@pytest.mark.parametrize(
    ("head", "encode"),
    [
        ("Transfer-Encoding: chunked", chunked),
        ("Transfer-Encoding: chunked", lambda body: body),  # stored decoded, under the old head
        ("Content-Encoding: gzip", gzip.compress),
        ("Content-Encoding: gzip", lambda body: body),
        ("Content-Encoding: deflate", lambda body: deflate(body, 15)),
        ("Content-Encoding: deflate", lambda body: deflate(body, -15)),
        ("Content-Encoding: br", brotli),
        ("Content-Encoding: zstd", lambda body: zstandard.ZstdCompressor().compress(body)),
        ("Transfer-Encoding: chunked\r\nContent-Encoding: gzip", lambda body: chunked(gzip.compress(body))),
        ("Content-Length: 3", lambda body: body),
        ("Content-Length: 99999", lambda body: body),
    ],
)
def test_bodies_are_decoded(tmp_path: Path, head: str, encode) -> None:
    body = HTML % 7
    block = http(encode(body), f"Content-Type: text/html\r\n{head}")
    rows, _, _ = read_all(write(tmp_path / "a.warc.gz", gzip.compress(warc_record(0, block))))
    assert [row.html for row in rows] == [body]


def test_missing_type_is_sniffed_and_text_is_decoded(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.warc",
        warc_record(0, http(b"\n <!DOCTYPE html><p>x", "Server: x")),
        warc_record(1, http("naïve café".encode("latin-1"), "Content-Type: text/plain; charset=iso-8859-1")),
        warc_record(2, http("naïve café".encode(), "Content-Type: text/plain; charset=iso-8859-1")),
        warc_record(3, b"plain \x00 resource", "resource", "text/plain"),
        warc_record(4, "téxt".encode(), "conversion", "text/plain"),
        warc_record(5, b"HTTP/1.1 100 Continue\r\n\r\n" + http(b"<p>y")),
    )
    rows, _, _ = read_all(path)
    assert rows[0].html == b"\n <!DOCTYPE html><p>x"
    assert [row.text for row in rows[1:5]] == ["naïve café", "naïve café", "plain \x00 resource", "téxt"]
    assert rows[5].html == b"<p>y"
    rows, counts, _ = read_all(path, format="wet")
    assert [row.text for row in rows] == ["téxt"] and counts == {"response": 4, "resource": 1}


def test_fields_that_reserve_uses_are_carried(tmp_path: Path) -> None:
    heads = {
        "Content-Type: text/html": None,
        "X-Robots-Tag: noindex\r\nServer: x\r\nx-robots-tag:  googlebot: noai \r\nTDM-Reservation: 1": "x-robots-tag: noindex\nx-robots-tag: googlebot: noai\ntdm-reservation: 1",
        "Content-Usage:\r\n train-ai=n\r\nX-Robots-Tagged: noindex": "content-usage:  train-ai=n",
        "Content-Signal: \xe9\x00": "content-signal: \xc3\xa9\x00",  # bytes as Latin-1
        "X-Robots-Tag: " + "a" * 9000: "x-robots-tag: " + "a" * 4082,
    }
    blocks = [http(HTML % 1, f"Content-Type: text/html\r\n{head}") for head in heads]
    interim = b"HTTP/1.1 103 Early Hints\r\nX-Robots-Tag: noindex\r\n\r\n" + http(HTML % 1)
    path = write(tmp_path / "a.warc", *(warc_record(n, block) for n, block in enumerate([*blocks, interim])))
    rows, _, _ = read_all(path)
    assert [row.opt_out for row in rows] == [*heads.values(), None]


def test_bare_line_feeds_and_wrong_lengths(tmp_path: Path) -> None:
    crlf = b"".join(pages(4))
    rows, _, _ = read_all(write(tmp_path / "lf.warc", crlf.replace(b"\r\n", b"\n")))  # lengths still count CRLF
    assert [row.html for row in rows] == [HTML % number for number in range(4)]
    parts = pages(4)
    length = len(http(HTML % 1))
    for wrong in (length - 40, length + 300, 0):
        lie = parts[1].replace(b"Content-Length: %d" % length, b"Content-Length: %d" % wrong)
        rows, _, _ = read_all(write(tmp_path / "lie.warc.gz", *map(gzip.compress, [parts[0], lie, *parts[2:]])))
        assert [row.html for row in rows] == [HTML % number for number in range(4)], wrong
    lie = parts[1].replace(b"Content-Length: %d" % length, b"Content-Length: %d" % (length + 300))
    rows, _, _ = read_all(write(tmp_path / "lie.warc", parts[0], lie, *parts[2:]))
    assert fates(rows) == ["html", "corrupt", "html", "html"]


def test_a_cut_off_last_member_is_one_row(tmp_path: Path) -> None:
    data = b"".join(map(gzip.compress, pages(5)))
    for cut in (3, 8, 40, 200):
        rows, _, _ = read_all(write(tmp_path / "a.warc.gz", data[:-cut]))
        assert fates(rows) == ["html"] * 4 + ["corrupt"] and rows[-1].detail == "truncated", cut
        assert rows[-1].fate == "failed"
    chance = random.Random(0)
    parts = [warc_record(number, http(b"<p>" + chance.randbytes(500))) for number in range(20)]
    rows, _, _ = read_all(write(tmp_path / "b.warc.gz", gzip.compress(b"".join(parts))[:-700]))
    assert fates(rows) == ["html"] * 18 + ["corrupt"]
    rows, _, _ = read_all(write(tmp_path / "a.warc", b"".join(pages(5))[:-60]))
    assert fates(rows) == ["html"] * 4 + ["corrupt"]


def test_a_flipped_bit_costs_one_record(tmp_path: Path) -> None:
    parts = [gzip.compress(part) for part in pages(5)]
    for at in (0, 12, 60, len(parts[2]) - 7, len(parts[2]) - 1):
        broken = bytearray(parts[2])
        broken[at] ^= 4
        rows, _, _ = read_all(write(tmp_path / "a.warc.gz", *parts[:2], bytes(broken), *parts[3:]))
        good = [row.html for row in rows if row.fate is None]
        assert good == [HTML % number for number in (0, 1, 3, 4)], at
        assert [(row.offset, row.value) for row in rows if row.rule == "corrupt"] == [
            (len(parts[0] + parts[1]), len(parts[2]))
        ]


def test_junk_between_records_is_one_row(tmp_path: Path) -> None:
    for pack in (gzip.compress, bytes):
        parts = [pack(part) for part in pages(4)]
        rows, _, _ = read_all(write(tmp_path / "a.warc", *parts[:2], b"\xffjunk" * 50, *parts[2:]))
        assert fates(rows) == ["html", "html", "corrupt", "html", "html"]
        assert rows[2].detail and "250 bytes skipped" in rows[2].detail


def test_files_that_are_no_archive(tmp_path: Path) -> None:
    for name, data, rule in (
        ("empty.warc.gz", b"", "empty_file"),
        ("empty.warc", b"", "empty_file"),
        ("nothing.warc.gz", gzip.compress(b""), "empty_file"),
        ("error.warc.gz", b"<html>503 Service Unavailable</html>", "corrupt"),
        ("noise.warc.gz", random.Random(0).randbytes(5000), "corrupt"),
        ("other.warc.gz", gzip.compress(b"no archive at all" * 99), "corrupt"),
    ):
        for shard_bytes in (1 << 40, 600):
            rows, _, _ = read_all(write(tmp_path / name, data), shard_bytes)
            assert fates(rows) == [rule] and rows[0].fate == "failed" and rows[0].offset == 0, name


def test_a_record_over_the_limit_fails_alone(tmp_path: Path) -> None:
    limits = Limits(max_record_bytes=50_000)
    parts = pages(3)
    big = warc_record(9, http(b"<html>" + b"x" * 600_000))
    video = warc_record(8, http(b"x" * 600_000, "Content-Type: video/mp4"))
    bomb = warc_record(
        7, http(gzip.compress(b"<p>" + b"x" * 600_000), "Content-Type: text/html\r\nContent-Encoding: gzip")
    )
    request = warc_record(6, b"x" * 600_000, "request")
    for pack in (gzip.compress, bytes):
        path = write(tmp_path / "a.warc", *map(pack, [parts[0], big, video, bomb, request, *parts[1:]]))
        for shard_bytes in (1 << 40, 20_000):
            rows, counts, _ = read_all(path, shard_bytes, limits=limits)
            assert fates(rows) == ["html", "too_large", "content_type", "too_large", "html", "html"]
            assert (rows[1].fate, rows[1].value, rows[1].threshold) == (
                "failed",
                len(http(b"<html>")) + 600_000,
                50_000,
            )
            assert counts == {"request": 1}
    lie = parts[1].replace(b"Content-Length: ", b"Content-Length: 9999999999")
    for pack, expected in ((gzip.compress, ["html", "too_large", "html"]), (bytes, ["html", "corrupt", "html"])):
        rows, _, _ = read_all(write(tmp_path / "a.warc", *map(pack, [parts[0], lie, parts[2]])), limits=limits)
        assert fates(rows) == expected


def test_arc(tmp_path: Path) -> None:
    def arc(url: str, block: bytes, mime: str = "text/html") -> bytes:
        return f"{url} 93.184.216.119 20140216050221 {mime} {len(block)}\n".encode() + block + b"\n"

    info = b"1 0 Test\nURL IP-address Archive-date Content-type Archive-length\n"
    parts = [
        arc("filedesc://a.arc", info, "text/plain").replace(b"93.184.216.119", b"0.0.0.0"),
        arc("http://example.org/a b", http(HTML % 1)),
        arc("dns:example.org", b"20140216050221\nexample.org", "text/dns"),
        arc("http://example.org/2", http(HTML % 2, "Server: x")),
        arc("http://example.org/3", http(b"<p>", status="301 Moved")),
    ]
    for pack in (bytes, gzip.compress):
        path = write(tmp_path / "a.arc", *map(pack, parts))
        for shard_bytes in (1 << 40, 150):
            rows, counts, _ = read_all(path, shard_bytes)
            assert fates(rows) == ["html", "content_type", "html", "http_status"]
            assert rows[0].url == "http://example.org/a b" and rows[0].html == HTML % 1 and rows[0].date == 1392526941
            assert rows[2].html == HTML % 2 and counts == {"warcinfo": 1}
    broken = bytearray(b"".join(map(gzip.compress, parts)))
    broken[len(gzip.compress(parts[0])) + 30] ^= 255
    rows, _, _ = read_all(write(tmp_path / "b.arc.gz", bytes(broken)))
    assert fates(rows) == ["corrupt", "content_type", "html", "http_status"]


def test_an_unreadable_file_is_one_row(tmp_path: Path) -> None:
    path = write(tmp_path / "a.warc", *pages(3))
    (file,) = list_files("s", "warc", [str(path)])
    path.unlink()
    reader = open_segment(split(file, 1 << 40, ReadOptions())[0])
    rows = list(reader)
    assert [(row.fate, row.rule, row.detail) for row in rows] == [("failed", "unreadable", "FileNotFoundError")]
    assert carry(0, reader) == reader.next == -1


def test_an_error_in_the_middle_keeps_what_came_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > 200_000:
                raise OSError(5, "Input/output error", "/secret/path")
            return super().read(size)

    path = write(
        tmp_path / "a.warc.gz", *(gzip.compress(part + random.Random(1).randbytes(9), 0) for part in pages(1000))
    )
    (file,) = list_files("s", "warc", [str(path)])
    monkeypatch.setattr("pipeline.readers.record.open_input", lambda *_: Failing(path.read_bytes()))
    rows = list(open_segment(split(file, 1 << 40, ReadOptions())[0]))
    assert rows[-1].rule == "unreadable" and rows[-1].detail == "OSError"
    assert sum(row.html is not None for row in rows) > 100


# Cuts: whatever the shard size, the records are those of one pass


def random_archive(chance: random.Random, packing: str) -> bytes:
    parts = []
    for number in range(chance.randrange(4, 16)):
        body = b"<html>" + bytes(chance.choices(b"abcdefgh \n<>/", k=chance.choice([10, 300, 3000, 12000])))
        kind = chance.random()
        if kind < 0.5:
            parts.append(warc_record(number, http(body)))
        elif kind < 0.7:
            parts.append(warc_record(number, b"GET / HTTP/1.0\r\n\r\n", "request"))
        else:  # an archive in the archive
            inner = pages(4)
            stored = b"".join(map(gzip.compress, inner)) if chance.random() < 0.5 else b"".join(inner)
            parts.append(warc_record(number, stored, "resource", "text/plain"))
    joined = b"".join(parts)
    if packing == "gzip":
        return b"".join(gzip.compress(part, chance.choice([0, 6]), mtime=0) for part in parts)
    if packing == "pairs":
        return b"".join(gzip.compress(b"".join(parts[at : at + 2]), 6, mtime=0) for at in range(0, len(parts), 2))
    if packing == "blocks":
        return b"".join(gzip.compress(joined[at : at + 5000], 6, mtime=0) for at in range(0, len(joined), 5000))
    return joined if packing == "plain" else gzip.compress(joined, 6, mtime=0)


def damaged(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data))
    kind = chance.randrange(5)
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + data[at + chance.randrange(1, 3000) :]
    if kind == 2:
        return data[:at] + chance.randbytes(chance.randrange(1, 3000)) + data[at:]
    if kind == 3:
        broken = bytearray(data)
        for _ in range(chance.randrange(1, 6)):
            broken[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        return bytes(broken)
    return data


@pytest.mark.parametrize("packing", ["plain", "gzip", "pairs", "blocks", "one member"])
def test_cuts_change_nothing(tmp_path: Path, packing: str) -> None:
    for seed in range(12):
        chance = random.Random(f"{packing}{seed}")
        path = write(tmp_path / "a.warc", damaged(random_archive(chance, packing), chance))
        rows, counts, _ = read_all(path)
        size = path.stat().st_size
        for shard_bytes in (
            max(60, size // 25),
            chance.randrange(60, size + 61),
            chance.randrange(size // 4, size + 61),
        ):
            cut, cut_counts, _ = read_all(path, shard_bytes)
            assert cut == rows, (seed, shard_bytes)
            assert cut_counts == counts


def test_a_start_inside_a_stored_archive_is_found_out(tmp_path: Path) -> None:
    inner = b"".join(map(gzip.compress, pages(40)))
    outer = [gzip.compress(warc_record(7, inner, "resource", "text/plain"), 0), *map(gzip.compress, pages(3))]
    path = write(tmp_path / "a.warc.gz", *outer)
    rows, _, _ = read_all(path)
    cut, _, again = read_all(path, 1500)
    assert again > 0 and cut == rows and fates(rows) == ["text", "html", "html", "html"]


def test_limits_of_a_segment(tmp_path: Path) -> None:
    parts = [gzip.compress(part) for part in pages(6)]
    path = write(tmp_path / "a.warc.gz", *parts)
    starts = [sum(map(len, parts[:number])) for number in range(7)]
    (file,) = list_files("s", "warc", [str(path)])
    whole = split(file, 1 << 40, ReadOptions())[0]
    for begin, end, exact in ((1, starts[3] + 1, False), (starts[1], starts[4], True), (starts[5] + 1, None, False)):
        reader = open_segment(Segment(**{**vars(whole), "begin": begin, "end": end, "exact": exact}))
        taken = [row.offset for row in reader]
        inside = [start for start in starts[:6] if start >= begin and (end is None or start < end)]
        assert taken == inside
        assert reader.first == (inside[0] if inside else None)
        following = [start for start in starts[:6] if end is not None and start >= end]
        assert reader.next == (following[0] if following and inside else None)
