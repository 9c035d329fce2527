"""Archives cut anywhere, also inside an archive that is a record's payload: every record once, the same rows."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.engine.shards import Shard
from pipeline.engine.stitch import Span, false_start
from pipeline.readers.record import UNKNOWN, Segment
from tests.support import sample_pages, write_config, write_warc
from tests.toy_stages import run_toy


def stored(content: bytes) -> bytes:
    """One gzip member that holds the bytes as they are, so that what they look like is found by a search."""
    packer = zlib.compressobj(0, zlib.DEFLATED, 31)
    return packer.compress(content) + packer.flush()


@pytest.fixture(scope="module")
def matryoshka(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A WARC.gz of 20 pages, a record that holds a whole WARC.gz of 30 pages, and 20 more pages; a plain file behind it."""
    folder = tmp_path_factory.mktemp("stitch")
    pages = sample_pages(75, largest=6_000)
    write_warc(folder / "inner.warc.gz", pages[20:50])
    inner = (folder / "inner.warc.gz").read_bytes()
    write_warc(folder / "before.warc.gz", pages[:20])
    write_warc(folder / "after.warc.gz", pages[50:70])
    head = (
        "WARC/1.1\r\nWARC-Type: resource\r\nWARC-Record-ID: <urn:uuid:00000000-0000-0000-0000-000000000001>\r\n"
        "WARC-Date: 2024-05-01T00:00:00Z\r\nWARC-Target-URI: https://example.org/crawl.warc.gz\r\n"
        f"Content-Type: application/gzip\r\nContent-Length: {len(inner)}\r\n\r\n"
    )
    member = stored(head.encode() + inner + b"\r\n\r\n")
    parts = [(folder / "before.warc.gz").read_bytes(), member, (folder / "after.warc.gz").read_bytes()]
    (folder / "in").mkdir()
    (folder / "in/crawl.warc.gz").write_bytes(b"".join(parts))
    write_warc(folder / "in/last.warc.gz", pages[70:])
    write_config(
        folder / "config.yaml",
        name="stitch",
        input={"source": "crawl", "format": "warc", "paths": [str(folder / "in/*.warc.gz")]},
        stages=[{"extract": {"method": "resiliparse"}}, {"toy.length": {"shortest": 40}}],
    )
    return folder


def rows(out: Path, folder: str) -> list[dict]:
    return [row for path in sorted((out / folder).glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_every_record_once_wherever_the_file_is_cut(matryoshka: Path) -> None:
    config = matryoshka / "config.yaml"
    code, said = run_toy(config, matryoshka / "whole", debug=True)
    assert code == 0, said
    ledger, documents = rows(matryoshka / "whole", "ledger"), rows(matryoshka / "whole", "documents")
    assert len(ledger) == 20 + 1 + 20 + 5 and len(documents) > 20
    assert [row["rule"] for row in ledger if row["url"] == "https://example.org/crawl.warc.gz"] == ["content_type"]
    again = 0
    for size in (5_000, 17_001, 55_555):
        out = matryoshka / f"cut-{size}"
        code, said = run_toy(config, out, f"engine.shard_bytes={size}", debug=True)
        assert code == 0, said
        assert rows(out, "ledger") == ledger, f"shards of {size} bytes"
        assert rows(out, "documents") == documents
        shards = len(list((out / "documents").glob("*.parquet")))
        assert shards > 1
        again += shards > 4
        code, said = run_toy(config, out, f"engine.shard_bytes={size}", debug=True)
        assert "everything is done already" in said
    assert again >= 1


def test_payloads_are_read_again_from_where_records_truly_start(matryoshka: Path, tmp_path: Path) -> None:
    """Also by a later process, which did not find the true starts itself."""
    stages = "stages=[dedup.payload, {extract: {method: resiliparse}}, {toy.length: {shortest: 40}}]"
    config = matryoshka / "config.yaml"
    assert run_toy(config, tmp_path / "whole", stages, debug=True)[0] == 0
    assert run_toy(config, tmp_path / "other", stages, "extract.favor=precision", debug=True)[0] == 0
    for size in (5_000, 17_001):
        out = tmp_path / f"cut-{size}"
        for name, more in (("whole", ()), ("other", ("extract.favor=precision",))):
            code, said = run_toy(config, out, stages, f"engine.shard_bytes={size}", *more, debug=True)
            assert code == 0, said
            for folder in ("ledger", "documents"):
                assert rows(out, folder) == rows(tmp_path / name, folder), f"shards of {size} bytes"
    again = [
        segment
        for path in (out / "journal/00-read").glob("*.json")
        for segment in json.loads(path.read_text())["extra"]["spans"]
    ]
    assert any(span["first"] not in (None, span["planned"]) for span in again), (
        "no segment began elsewhere than planned"
    )


@pytest.mark.parametrize("limit", [1, 19, 21, 30, 46])
def test_limit_counts_records_of_the_outer_archive(matryoshka: Path, tmp_path: Path, limit: int) -> None:
    if not (matryoshka / "whole").exists():
        run_toy(matryoshka / "config.yaml", matryoshka / "whole", debug=True)
    every = rows(matryoshka / "whole", "ledger")
    code, said = run_toy(
        matryoshka / "config.yaml", tmp_path / "out", "engine.shard_bytes=9000", debug=True, limit=limit
    )
    assert code == 0, said
    assert rows(tmp_path / "out", "ledger") == every[:limit]


def shard(index: int, begin: int, end: int | None, key: str = "f") -> Shard:
    return Shard(index, (Segment("s", key, f"/{key}", "warc", 400, begin, end, exact=begin == 0),), ("v",), 100)


SHARDS = [shard(0, 0, 100), shard(1, 100, 200), shard(2, 200, 300), shard(3, 300, None)]


def check(spans: list[Span | None], starts: dict | None = None) -> tuple[int, int | None] | None:
    """Index of the first shard that was read from a wrong place, and where it begins."""
    noted = [None if span is None else {("s", "f", i * 100): span} for i, span in enumerate(spans)]
    wrong = false_start(SHARDS, lambda s: noted[s.index], starts or {})
    return None if wrong is None else (wrong[0].index, wrong[2])


def test_where_segments_meet() -> None:
    fine = [Span(0, 110), Span(110, 205), Span(205, 390), Span(390, None)]
    assert check(fine) is None
    assert check([fine[0], Span(130, 205), *fine[2:]]) == (1, 110)
    assert check([Span(0, 250), Span(110, 205), *fine[2:]]) == (1, None), "one record covers the whole segment"
    assert check([Span(0, 250), Span(None, None), Span(250, 390), fine[3]], {("s", "f", 100): None}) is None
    assert check([Span(0, 250), Span(None, None), Span(205, 390), fine[3]], {("s", "f", 100): None}) == (2, 250)
    assert check([Span(0, None), Span(150, None), Span(None, None), Span(None, None)]) == (1, None), (
        "the file ended before"
    )
    assert check([fine[0], None, None, None]) is None, "what is not read yet cannot be compared"


def test_a_segment_that_cannot_be_read_is_not_read_for_ever() -> None:
    lost = Span(None, UNKNOWN)
    assert check([Span(0, 110), lost, Span(205, 390), Span(390, None)]) == (1, 110)
    assert check([Span(0, 110), lost, Span(205, 390), Span(390, None)], {("s", "f", 100): 110}) is None
    assert check([lost, Span(110, 205), Span(205, 390), Span(390, None)]) is None
