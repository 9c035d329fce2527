"""A group stage before `extract`: rows cross without payloads, which are read again; the same bytes whatever happens."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.engine import rows as engine_rows
from pipeline.engine.store import Store
from tests.support import pipeline, sample_pages, start_pipeline, tree, write_config, write_warc
from tests.toy_stages import run_toy, write_rows

PROMISED = ("documents", "ledger", "samples")
STAGES = ["url_filter", "dedup.payload", {"extract": {"method": "resiliparse"}}, {"language": {"min_score": 0.2}}]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three WARC files of 90 real pages, every third one once more under another address."""
    folder = tmp_path_factory.mktemp("reread")
    pages = sample_pages(90)
    copies = [(f"{url}?session={number}", body) for number, (url, body) in enumerate(pages[::3])]
    both = copies[:15] + pages + copies[15:]
    for number in range(3):
        write_warc(folder / f"in/part-{number}.warc.gz", both[number::3])
    config(folder, STAGES)
    return folder


def config(folder: Path, stages: list[object], name: str = "config.yaml", **engine: object) -> Path:
    entry = {"source": "crawl", "format": "warc", "paths": [str(folder / "in/*.warc.gz")]}
    engine = {"shard_bytes": "64kB", "partitions": 2, **engine}
    return write_config(folder / name, name="reread", input=entry, stages=stages, engine=engine)


@pytest.fixture(scope="module")
def undisturbed(corpus: Path) -> dict[str, str]:
    code, said = run_toy(corpus / "config.yaml", corpus / "undisturbed", debug=True)
    assert code == 0, said
    return tree(corpus / "undisturbed", *PROMISED)


def rows(out: Path, folder: str) -> list[dict]:
    return [row for path in sorted((out / folder).glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def stored(out: Path, phase: str) -> list[pa.Schema]:
    """The columns of what a phase left for the next."""
    found = [path for path in sorted((out / "phases" / phase).glob("*.parquet")) if path.stem.isdigit()]
    assert found
    return [pq.read_schema(path) for path in found]


def test_copies_are_gone_before_extraction_and_payloads_are_in_no_phase(
    corpus: Path, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    out = corpus / "undisturbed"
    ledger = rows(out, "ledger")
    copies = [row for row in ledger if row["stage"] == "dedup.payload"]
    kept_ids = {row["id"] for row in ledger}
    assert len(ledger) == 120 and 25 <= len(copies) <= 30 and {row["rule"] for row in copies} == {"duplicate"}
    assert all(row["kept_id"] in kept_ids and row["similarity"] == 1.0 for row in copies)
    counts = {stage["stage"]: stage for stage in json.loads((out / "run.json").read_text())["stages"]}
    assert counts["extract"]["rows_in"] == counts["dedup.payload"]["rows_in"] - len(copies)
    assert counts["read"]["rows_in"] == 120, "read again, counted once"
    for schema in stored(out, "00-url_filter"):
        assert "html" not in schema.names and schema.field("payload_hash").type == engine_rows.PAYLOAD_HASH
    for schema in stored(out, "02-extract"):
        assert not {"html", "payload_hash"} & set(schema.names)

    without = config(tmp_path, [stage for stage in STAGES if stage != "dedup.payload"])
    shutil.copytree(corpus / "in", tmp_path / "in")
    assert run_toy(without, tmp_path / "out", debug=True)[0] == 0
    gone = {row["id"] for row in copies}
    once = [row for row in rows(tmp_path / "out", "documents") if row["id"] not in gone]
    documents = rows(out, "documents")
    assert len(documents) >= 60
    assert [{name: row[name] for name in once[0]} for row in documents] == once
    sizes = {row["id"]: row["dup_cluster_size"] for row in documents}
    copied = Counter(row["kept_id"] for row in copies)
    assert sizes == {id_: 1 + copied[id_] for id_ in sizes} and {1, 2} <= set(sizes.values())


def test_sizes_of_clusters_are_carried_on(corpus: Path, tmp_path: Path) -> None:
    path = config(corpus, [*STAGES, "dedup.exact"], "carried.yaml")
    assert run_toy(path, tmp_path / "out", debug=True)[0] == 0
    sizes = sum(row["dup_cluster_size"] for row in rows(tmp_path / "out", "documents"))
    dropped_after = [r for r in rows(tmp_path / "out", "ledger") if r["stage"] in ("extract", "language")]
    read = [r for r in rows(tmp_path / "out", "ledger") if r["stage"] not in ("read", "url_filter")]
    assert sizes + len(dropped_after) <= len(read) and sizes >= len(read) - 2 * len(dropped_after)


def test_several_boundaries_before_extraction(corpus: Path, undisturbed: dict[str, str], tmp_path: Path) -> None:
    """A phase that needs payloads between two that do not: all of them see what they would without a boundary."""
    stages = [
        "url_filter",
        {"dedup.payload": {"mode": "tag", "as": "first"}},
        {"opt_out": {"noindex": False}},
        {"dedup.payload": {"scope": "global"}},
        {"dedup.payload": {"as": "again"}},
        {"language_guess": {"keep": ["en"]}},
        *STAGES[2:],
    ]
    path = config(corpus, stages, "several.yaml")
    assert run_toy(path, tmp_path / "out", debug=True)[0] == 0
    facts = json.loads((tmp_path / "out/run.json").read_text())
    names = [phase["name"] for phase in facts["phases"]]
    assert names[:3] == ["00-url_filter", "01-first", "02-opt_out"] and names[4] == "04-apply"
    for name in ("00-url_filter", "02-opt_out", "04-apply"):
        assert all(
            "html" not in schema.names and "payload_hash" in schema.names for schema in stored(tmp_path / "out", name)
        )
    plain = config(
        corpus,
        ["url_filter", {"opt_out": {"noindex": False}}, {"language_guess": {"keep": ["en"]}}, *STAGES[2:]],
        "plain.yaml",
    )
    assert run_toy(plain, tmp_path / "plain", debug=True)[0] == 0
    copies = {row["id"] for row in rows(tmp_path / "out", "ledger") if row["stage"] == "dedup.payload"}
    assert len(copies) >= 25
    want = {
        row["id"]: (row["stage"], row["rule"]) for row in rows(tmp_path / "plain", "ledger") if row["id"] not in copies
    }
    found = {
        row["id"]: (row["stage"], row["rule"]) for row in rows(tmp_path / "out", "ledger") if row["id"] not in copies
    }
    assert found == want and {stage for stage, _ in found.values()} >= {None, "language_guess"}
    texts = {row["id"]: row["text"] for row in rows(tmp_path / "plain", "documents")}
    assert all(row["text"] == texts[row["id"]] for row in rows(tmp_path / "out", "documents"))


def test_a_checkpoint_before_extraction(corpus: Path, tmp_path: Path) -> None:
    plain = config(corpus, ["url_filter", *STAGES[2:]], "plain.yaml")
    cut = config(corpus, [{"url_filter": {"checkpoint": True}}, *STAGES[2:]], "cut.yaml")
    for name, path in (("plain", plain), ("cut", cut)):
        assert run_toy(path, tmp_path / name, debug=True)[0] == 0
    assert tree(tmp_path / "cut", *PROMISED) == tree(tmp_path / "plain", *PROMISED)
    assert all("html" not in schema.names for schema in stored(tmp_path / "cut", "00-url_filter"))


def test_killed_driver(corpus: Path, undisturbed: dict[str, str], tmp_path: Path) -> None:
    """Three times: while payloads are hashed, compared, and read again."""
    out = tmp_path / "out"
    arguments = ("run", corpus / "config.yaml", "--executor", "inline", "--output", out)
    for units in (2, 13, 19):
        process = start_pipeline(*arguments)
        deadline = time.monotonic() + 240
        while process.poll() is None and time.monotonic() < deadline:
            if (out / "journal").is_dir() and sum(1 for _ in (out / "journal").rglob("*.json")) >= units:
                break
            time.sleep(0.005)
        assert process.poll() is None, "the run ended before it could be killed"
        process.kill()
        process.wait()
    again = pipeline(*arguments)
    assert again.returncode == 0, again.stderr
    assert tree(out, *PROMISED) == undisturbed


@pytest.mark.slow
def test_ray_workers(corpus: Path, undisturbed: dict[str, str], tmp_path: Path) -> None:
    done = pipeline("run", corpus / "config.yaml", "--workers", "2", "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert tree(tmp_path / "out", *PROMISED) == undisturbed


def test_a_small_piece_at_a_time(corpus: Path, undisturbed: dict[str, str], tmp_path: Path) -> None:
    with mock.patch("pipeline.engine.reread.PAGES_BYTES", 50_000), mock.patch("pipeline.engine.rows.STORED_BATCH", 3):
        assert run_toy(corpus / "config.yaml", tmp_path / "out", debug=True)[0] == 0
    assert tree(tmp_path / "out", *PROMISED) == undisturbed


@pytest.mark.parametrize("limit", [1, 50, 119])
def test_limit(corpus: Path, undisturbed: dict[str, str], tmp_path: Path, limit: int) -> None:
    assert run_toy(corpus / "config.yaml", tmp_path / "out", debug=True, limit=limit)[0] == 0
    every = [row["id"] for row in rows(corpus / "undisturbed", "ledger")]
    assert [row["id"] for row in rows(tmp_path / "out", "ledger")] == every[:limit]


def test_plan_and_status_say_so_and_a_late_knob_repeats_only_what_is_behind_it(
    corpus: Path, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    done = pipeline("plan", corpus / "config.yaml", "--output", tmp_path / "out")
    assert "02-extract: read the payloads again > apply dedup.payload > extract (" in done.stdout
    assert "00-url_filter: read > url_filter (" in done.stdout
    status = pipeline("status", corpus / "undisturbed", "--set", "extract.favor=precision").stdout.splitlines()
    by_name = {line.split(":")[0].strip(): line for line in status[1:]}
    assert "done (" in by_name["00-url_filter"] and "done (" in by_name["01-dedup.payload"]
    assert "stage extract changed" in by_name["02-extract"] and "would run" in by_name["03-language"]
    shutil.copytree(corpus / "undisturbed", tmp_path / "out")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out/journal/00-url_filter").iterdir()}
    for out in ("out", "fresh"):
        assert run_toy(corpus / "config.yaml", tmp_path / out, "extract.favor=precision", debug=True)[0] == 0
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out/journal/00-url_filter").iterdir()} == before
    assert tree(tmp_path / "out", *PROMISED) == tree(tmp_path / "fresh", *PROMISED) != undisturbed


def test_touched_files_cause_only_their_reading(corpus: Path, undisturbed: dict[str, str], tmp_path: Path) -> None:
    shutil.copytree(corpus / "in", tmp_path / "in")
    path = config(tmp_path, STAGES)
    assert run_toy(path, tmp_path / "out", debug=True)[0] == 0
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out/journal/02-extract").iterdir()}
    for file in (tmp_path / "in").iterdir():
        os.utime(file, (1, 1))
    assert run_toy(path, tmp_path / "out", debug=True)[0] == 0
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out/journal/02-extract").iterdir()} == before
    assert tree(tmp_path / "out", *PROMISED) == undisturbed


# ---- files that change while the run goes on


def change(path: Path, how: str) -> None:
    """Cut a file, or put another payload of the same length into its last record."""
    members = path.read_bytes()
    if how == "gone":
        path.unlink()
    elif how == "cut":
        path.write_bytes(members[: len(members) // 2])
    else:
        start = members.rindex(b"\x1f\x8b\x08")
        last = gzip.decompress(members[start:])
        place = last.rindex(b"</")
        path.write_bytes(members[:start] + gzip.compress(last[:place] + b"<!" + last[place + 2 :]))


@pytest.mark.parametrize("how", ["gone", "cut", "edited"])
def test_a_file_that_changes_before_it_is_read_again_ends_the_run(
    corpus: Path, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.engine import tasks

    shutil.copytree(corpus / "in", tmp_path / "in")
    path = config(tmp_path, STAGES)
    real, changed = tasks.read_segments, []

    def at_the_second_reading(*arguments: object) -> object:
        if not changed:
            changed.append(change(tmp_path / "in/part-2.warc.gz", how))
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(tasks, "read_segments", at_the_second_reading)
        code, said = run_toy(path, tmp_path / "out", debug=True)
    assert code == 1 and "part-2.warc.gz: the page at offset" in said and "was read before" in said
    assert ("FileNotFoundError" in said) == (how == "gone")
    assert not list((tmp_path / "out").glob("documents/*.parquet"))
    if how == "gone":
        shutil.copy(corpus / "in/part-2.warc.gz", tmp_path / "in")
    code, said = run_toy(path, tmp_path / "out", "engine.max_failed=1", debug=True)
    assert code == 0, said
    assert run_toy(path, tmp_path / "fresh", "engine.max_failed=1", debug=True)[0] == 0
    assert tree(tmp_path / "out", *PROMISED) == tree(tmp_path / "fresh", *PROMISED)


# ---- rows that are text, and rows that end their worker


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """JSONL of texts and pages in turn, every page twice, with records that end their worker."""
    lines = []
    for number in range(60):
        page = f"<html><body><p>Page {number // 4} has a sentence to be read by people.</p></body></html>"
        text = f"Text {number} as it came" + {20: " [[segv]]", 41: " [[raise]]"}.get(number, "")
        lines.append({"text": text} if number % 2 == 0 or number == 41 else {"html": page})
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return write_config(
        tmp_path / "config.yaml",
        name="mixed",
        input={"source": "rows", "format": "jsonl", "paths": [str(tmp_path / "in.jsonl")]},
        stages=["dedup.payload", "toy.poison", {"extract": {"method": "resiliparse"}}],
        engine={"shard_bytes": "2kB", "max_failed": 1.0, "partitions": 1, "unit_memory": "500MB"},
    )


def test_texts_keep_their_text_and_poison_is_found_among_payloads(mixed: Path, tmp_path: Path) -> None:
    code, said = run_toy(mixed, tmp_path / "out")
    assert code == 0, said
    ledger = rows(tmp_path / "out", "ledger")
    found = {row["offset"]: (row["stage"], row["rule"]) for row in ledger if row["fate"] != "kept"}
    copies = {offset: ("dedup.payload", "duplicate") for offset in range(3, 60, 4)}
    del copies[43]  # the first of its two is the text 41
    assert found == {**copies, 20: ("toy.poison", "crash"), 41: ("toy.poison", "error")}
    assert len(list((tmp_path / "out/documents").glob("*.parquet"))) > 1
    offsets = {row["id"]: row["offset"] for row in ledger}
    for row in rows(tmp_path / "out", "documents"):
        number = offsets[row["id"]]
        if number % 2 == 0:
            assert row["text"] == f"Text {number} as it came"
        else:
            assert row["text"] == f"Page {number // 4} has a sentence to be read by people."


def test_rows_of_text_alone_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.engine import reread

    def never(*arguments: object) -> None:
        raise AssertionError("nothing is to be read again")

    monkeypatch.setattr(reread, "open_segment", never)
    write_rows(tmp_path / "in.jsonl", ["the same text"] * 3)
    path = write_config(
        tmp_path / "config.yaml",
        name="texts",
        input={"source": "rows", "format": "jsonl", "paths": [str(tmp_path / "in.jsonl")]},
        stages=["dedup.payload", {"extract": {"method": "resiliparse"}}],
    )
    code, said = run_toy(path, tmp_path / "out", debug=True)
    assert code == 0, said
    assert [row["text"] for row in rows(tmp_path / "out", "documents")] == ["the same text"] * 3


# ---- object stores


@pytest.fixture
def bucket(corpus: Path) -> Iterator[str]:
    """An S3 server on this machine with the corpus in it."""
    import logging

    import boto3
    import s3fs
    from moto import server as moto_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "NO_PROXY": "127.0.0.1"}
    with mock.patch.dict(os.environ, keys):
        server.start()
        host, port = server.get_host_and_port()
        os.environ["AWS_ENDPOINT_URL"] = f"http://{host}:{port}"
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="reread")
        for path in (corpus / "in").iterdir():
            client.upload_file(str(path), "reread", f"crawl/{path.name}")
        s3fs.S3FileSystem.clear_instance_cache()  # of another test with a server of its own
        yield "s3://reread"
        s3fs.S3FileSystem.clear_instance_cache()
        server.stop()


def test_from_s3_to_s3(corpus: Path, undisturbed: dict[str, str], bucket: str, tmp_path: Path) -> None:
    path = write_config(
        tmp_path / "config.yaml",
        name="reread",
        input={"source": "crawl", "format": "warc", "paths": [f"{bucket}/crawl/*.warc.gz"]},
        stages=STAGES,
        engine={"shard_bytes": "1MB", "partitions": 1},
    )
    code, said = run_toy(path, f"{bucket}/run", debug=True)
    assert code == 0, said
    store = Store(f"{bucket}/run")
    (ledger,) = [name for name in store.files("ledger") if name.endswith(".parquet")]
    with store.open(ledger) as file:
        assert pq.read_table(file).to_pylist() == rows(corpus / "undisturbed", "ledger")
