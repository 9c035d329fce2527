"""Full disks, broken inputs, leases, signals and object stores: clear words, nothing half-written, same bytes in the end."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pyarrow.parquet as pq
import pytest

from pipeline.cli import main
from pipeline.engine.lease import LeaseHeld, lease
from pipeline.engine.store import LeaseLost, Store
from pipeline.yamlfile import ConfigError
from tests.support import ROOT, tree, write_config
from tests.toy_stages import START, run_toy, start_toy_pipeline, write_rows

PROMISED = ("documents", "ledger", "samples")


def texts(count: int = 120) -> list[str]:
    rng = random.Random(5)
    return [f"key{n % 50} " + "".join(rng.choices("abcdefghij 0123456789", k=400)) for n in range(count)]


def config(folder: Path, **sections: object) -> Path:
    return write_config(
        folder / "config.yaml",
        **{
            "name": "storage",
            "input": {"source": "toy", "format": "jsonl", "paths": [str(folder / "in/*.jsonl")]},
            "stages": [{"toy.length": {"shortest": 10}}, "toy.first", {"toy.poison": {"antidote": str(folder / "antidote")}}],
            "engine": {"shard_bytes": "10kB", "partitions": 2},
            **sections,
        },
    )  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files, a config, and a finished run."""
    folder = tmp_path_factory.mktemp("storage")
    write_rows(folder / "in/a.jsonl", texts()[:70])
    write_rows(folder / "in/b.jsonl", texts()[70:])
    code, said = run_toy(config(folder), folder / "done", debug=True)
    assert code == 0, said
    return folder


@pytest.fixture(scope="module")
def undisturbed(corpus: Path) -> dict[str, str]:
    return tree(corpus / "done", *PROMISED)


# Full disk

FULL = """
mount -t tmpfs -o size=4k tmpfs {disk} || exit 77
for size in 4k 70k 160k 260k 100m; do
  mount -o remount,size=$size {disk} || exit 77
  {python} -c '{start}' run {config} --executor inline --output {disk}/out > {said}-$size 2>&1
  echo "rc $?" >> {said}-$size
  rm -rf {copies}/$size && cp -r {disk} {copies}/$size
done
"""


def test_full_disk(corpus: Path, undisturbed: dict[str, str], tmp_path: Path) -> None:
    """On a disk that is enlarged again and again, each run says what is wrong and keeps what it has done."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "copies").mkdir()
    script = FULL.format(
        disk=tmp_path / "disk", copies=tmp_path / "copies", said=tmp_path / "said",
        config=corpus / "config.yaml", python=sys.executable, start=START,
    )  # fmt: skip
    done = subprocess.run(
        ["unshare", "-rm", "bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300
    )
    if done.returncode == 77 or "unshare failed" in done.stderr or "Operation not permitted" in done.stderr:
        pytest.skip(f"no small file system can be mounted here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    units = 0
    for size in ("4k", "70k", "160k", "260k"):
        said = (tmp_path / f"said-{size}").read_text()
        assert "rc 1" in said and "No space left" in said and "free some space" in said, said
        assert "Traceback" not in said, said
        units = sound(tmp_path / "copies" / size / "out", units)
    assert units > 2, "no unit was done before the disk was full"
    assert "rc 0" in (tmp_path / "said-100m").read_text()
    assert tree(tmp_path / "copies/100m/out", *PROMISED) == undisturbed


def sound(out: Path, before: int) -> int:
    """Check that every file under a final name is whole, and return the number of units done, never fewer than `before`."""
    manifests = [json.loads(path.read_bytes()) for path in (out / "journal").rglob("*.json")]
    for manifest in manifests:
        for output in manifest["outputs"]:
            content = (out / output["path"]).read_bytes()
            assert hashlib.sha256(content).hexdigest() == output["sha256"]
    for path in out.rglob("*.parquet"):
        assert pq.read_metadata(path).num_rows >= 0
    assert not list(out.rglob(".tmp-*"))
    assert len(manifests) >= before
    return len(manifests)


# Input that is not what it was


def test_input_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = config(tmp_path)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/gone.jsonl").symlink_to(tmp_path / "nowhere")
    assert main(["run", str(path), "--output", str(tmp_path / "out")]) == 2
    assert "gone.jsonl" in capsys.readouterr().err
    (tmp_path / "in/gone.jsonl").unlink()
    assert main(["run", str(path), "--output", str(tmp_path / "out")]) == 2
    assert "matches no file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_input_that_fails_while_it_is_read(corpus: Path, undisturbed: dict[str, str], tmp_path: Path) -> None:
    """A file that breaks away is one failed row, and is read again with --retry-failed."""
    from pipeline.readers import record

    real = record.open_input

    def broken(url: str, options: object) -> object:
        if url.endswith("b.jsonl"):
            raise OSError(5, "Input/output error")
        return real(url, options)

    out = tmp_path / "out"
    with mock.patch.object(record, "open_input", broken):
        code, said = run_toy(corpus / "config.yaml", out, "engine.max_failed=1", debug=True)
    assert code == 0, said
    failed = [row for row in pq.read_table(out / "ledger").to_pylist() if row["fate"] == "failed"]
    assert {(row["file"], row["rule"], row["detail"]) for row in failed} == {("b.jsonl", "unreadable", "OSError")}
    code, said = run_toy(corpus / "config.yaml", out, "engine.max_failed=1", debug=True)
    assert "everything is done already" in said, "failed rows are final until they are asked for"
    code, said = run_toy(corpus / "config.yaml", out, "engine.max_failed=1", debug=True, retry_failed=True)
    assert code == 0 and tree(out, *PROMISED) == undisturbed


def test_input_cut_short_between_runs(corpus: Path, tmp_path: Path) -> None:
    shutil.copytree(corpus / "in", tmp_path / "in")
    path = config(tmp_path)
    assert run_toy(path, tmp_path / "out", debug=True)[0] == 0
    cut = (tmp_path / "in/b.jsonl").read_bytes()[:9_999]
    (tmp_path / "in/b.jsonl").write_bytes(cut)
    code, said = run_toy(path, tmp_path / "out", debug=True)
    assert code == 0, said
    assert run_toy(path, tmp_path / "fresh", debug=True)[0] == 0
    assert tree(tmp_path / "out", *PROMISED) == tree(tmp_path / "fresh", *PROMISED)
    ledger = pq.read_table(tmp_path / "out/ledger").to_pylist()
    assert [row["rule"] for row in ledger if row["fate"] == "failed"] == ["bad_row"], "the line that was cut"
    assert len(ledger) < 120


# The run directory


def test_leftovers_are_swept(corpus: Path, undisturbed: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(corpus / "done", out)
    for place in ("documents/.tmp-0a1b-part-00000.parquet", "journal/.tmp-77-x.json", ".tmp-run.json"):
        (out / place).write_bytes(b"half")
    assert run_toy(corpus / "config.yaml", out, debug=True)[0] == 0
    assert not list(out.rglob(".tmp-*"))
    assert tree(out, *PROMISED) == undisturbed


def test_a_directory_of_something_else_is_refused(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds the run 'storage', not 'other'"):
        run_toy(
            config(
                tmp_path,
                name="other",
                input={"source": "toy", "format": "jsonl", "paths": [str(corpus / "in/*.jsonl")]},
            ),
            corpus / "done",
        )
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/thesis.tex").write_text("\\begin{document}")
    with pytest.raises(ConfigError, match=r"is not empty and holds no run \(thesis.tex"):
        run_toy(corpus / "config.yaml", tmp_path / "precious")
    with pytest.raises(ConfigError, match="is a file"):
        run_toy(corpus / "config.yaml", tmp_path / "config.yaml")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged/run.json").write_text("{")
    with pytest.raises(ConfigError, match="damaged; remove it"):
        run_toy(corpus / "config.yaml", tmp_path / "damaged")
    assert (tmp_path / "precious/thesis.tex").exists()


def test_a_damaged_manifest_or_output_is_made_again(corpus: Path, undisturbed: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(corpus / "done", out)
    (out / "journal/02-toy.poison/00001.json").write_text("[]")
    (out / "journal/00-toy.length/00002.json").write_bytes(b"\x00" * 10)
    (out / "documents/part-00000.parquet").write_bytes(b"PAR1")
    (out / "ledger/part-00003.parquet").unlink()
    code, said = run_toy(corpus / "config.yaml", out, debug=True)
    assert code == 0, said
    assert tree(out, *PROMISED) == undisturbed


HOLD = """
import sys, time
from pipeline.engine.lease import lease
from pipeline.engine.store import Store
with lease(Store(sys.argv[1])):
    print("held", flush=True)
    time.sleep(120)
"""


def test_two_live_runs(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A second live run is refused; one that was killed leaves the directory free at once."""
    out = tmp_path / "out"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, out], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    assert main(["run", str(corpus / "config.yaml"), "--executor", "inline", "--output", str(out)]) == 2
    assert f"another run works here (process {holder.pid}" in capsys.readouterr().err
    holder.kill()
    holder.wait()
    code, said = run_toy(corpus / "config.yaml", out, debug=True)
    assert code == 0, said
    assert not (out / "lease.json").exists()


def put_lease(store: Store, **changes: object) -> None:
    """This process's lease with some facts changed."""
    with lease(store) as mine:
        facts = json.loads(mine.read("lease.json"))
    store.write("lease.json", json.dumps({**facts, **changes}).encode())


@pytest.mark.parametrize(
    ("changes", "live"),
    [
        ({}, True),  # this very process
        ({"started": 1.0}, False),  # its pid was another process's before
        ({"boot": "another boot"}, False),
        ({"pid": 2**22 + 1}, False),
        ({"host": "elsewhere", "age": 0}, True),
        ({"host": "elsewhere", "age": 300}, False),
        ({"host": "elsewhere", "renewed": None}, False),
        ({"pid": None}, False),
    ],
)
def test_whose_lease_counts(tmp_path: Path, changes: dict[str, object], live: bool) -> None:
    store = Store(str(tmp_path))
    if "age" in changes:  # seconds since it was renewed
        changes = {"host": changes["host"], "renewed": time.time() - float(str(changes["age"]))}
    put_lease(store, **changes)
    if live:
        with pytest.raises(LeaseHeld), lease(store):
            pytest.fail("a live run's directory was taken")
    else:
        with lease(store) as mine:
            mine.write("a", b"a")


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff", b'"x"'])
def test_a_damaged_lease_holds_nobody_off(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "lease.json").write_bytes(content)
    with lease(Store(str(tmp_path))) as mine:
        mine.write("a", b"a")


def test_a_run_that_was_thought_dead_writes_nothing_more(tmp_path: Path) -> None:
    with mock.patch("pipeline.engine.lease.RENEW", 0.05), lease(Store(str(tmp_path))) as mine:
        mine.write("journal/a.json", b"first")
        other = json.dumps({"host": "elsewhere", "token": "other", "renewed": time.time()}).encode()
        Store(str(tmp_path)).write("lease.json", other)
        time.sleep(0.3)
        assert mine.read("lease.json") == other, "the old run took the directory back"
        with pytest.raises(LeaseLost):
            mine.write("journal/a.json", b"second")
        with pytest.raises(LeaseLost), mine.writing("documents/b") as temporary:
            temporary.write_bytes(b"b")
    assert (tmp_path / "lease.json").read_bytes() == other, "the new run's lease was removed"
    assert (tmp_path / "journal/a.json").read_bytes() == b"first"
    assert not (tmp_path / "documents/b").exists() and not list(tmp_path.rglob(".tmp-*"))


# Signals


def test_sigterm(corpus: Path, tmp_path: Path) -> None:
    """143 in the middle of a unit, and the same command goes on from there."""
    shutil.copytree(corpus / "in", tmp_path / "in")
    with (tmp_path / "in/b.jsonl").open("a") as file:
        file.write(json.dumps({"text": "unique [[native]] and slow"}) + "\n")
    path, out = config(tmp_path), tmp_path / "out"
    process = start_toy_pipeline("run", path, "--executor", "inline", "--output", out)
    last = out / "journal/02-toy.poison/00003.json"
    deadline = time.monotonic() + 60
    while not last.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143, said
    assert time.monotonic() - began < 10 and "stopped by SIGTERM" in said and "Traceback" not in said
    assert json.loads((out / "run.json").read_text())["status"] == "stopped"
    assert not (out / "lease.json").exists()
    before = {p: p.stat().st_mtime_ns for p in (out / "journal").rglob("*.json")}
    (tmp_path / "antidote").touch()
    assert run_toy(path, out, debug=True)[0] == 0
    assert {p: p.stat().st_mtime_ns for p in before} == before, "what was done was done again"
    assert run_toy(path, tmp_path / "fresh", debug=True)[0] == 0
    assert tree(out, *PROMISED) == tree(tmp_path / "fresh", *PROMISED)


# clean


def test_clean(corpus: Path, undisturbed: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    shutil.copytree(corpus / "done", out)
    assert main(["clean", str(out)]) == 0
    assert not (out / "phases").exists() and not (out / "scores").exists()
    code, said = run_toy(corpus / "config.yaml", out, debug=True)
    assert code == 0 and "everything is done already" in said
    assert not (out / "phases").exists() and tree(out, *PROMISED) == undisturbed
    capsys.readouterr()
    assert main(["status", str(out)]) == 0
    assert "would run" not in capsys.readouterr().out

    late = "toy.poison.checkpoint=true"  # changes nothing
    assert main(["status", str(out), "--set", late]) == 0
    assert "would run" not in capsys.readouterr().out
    change = "toy.first.only={source: []}"
    assert main(["status", str(out), "--set", change]) == 0
    assert "which `clean` removed, are needed again" in capsys.readouterr().out
    assert run_toy(corpus / "config.yaml", out, change, debug=True)[0] == 0
    assert run_toy(corpus / "config.yaml", tmp_path / "fresh", change, debug=True)[0] == 0
    assert tree(out, *PROMISED, "scores") == tree(tmp_path / "fresh", *PROMISED, "scores")
    assert tree(out, *PROMISED) != undisturbed


def test_clean_of_a_limited_run(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run_toy(corpus / "config.yaml", out, debug=True, limit=33)[0] == 0
    assert main(["clean", str(out)]) == 0
    before = tree(out, *PROMISED)
    code, said = run_toy(corpus / "config.yaml", out, debug=True, limit=33)
    assert code == 0 and "everything is done already" in said
    assert not (out / "phases").exists() and tree(out, *PROMISED) == before
    assert len(pq.read_table(out / "ledger")) == 33
    assert run_toy(corpus / "config.yaml", out, debug=True, limit=60)[0] == 0
    assert len(pq.read_table(out / "ledger")) == 60


# Object stores


@pytest.fixture(scope="module")
def bucket(corpus: Path) -> Iterator[str]:
    """An S3 server on this machine with the corpus in it; its address."""
    import boto3
    from moto import server as moto_server

    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    with mock.patch.dict(
        os.environ, {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "NO_PROXY": "127.0.0.1"}
    ):
        import logging

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        server.start()
        host, port = server.get_host_and_port()
        os.environ["AWS_ENDPOINT_URL"] = f"http://{host}:{port}"
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="mill")
        for name in ("a", "b"):
            client.upload_file(str(corpus / f"in/{name}.jsonl"), "mill", f"crawl/{name}.jsonl")
        yield os.environ["AWS_ENDPOINT_URL"]
        server.stop()


def remote_tree(prefix: str) -> dict[str, str]:
    import s3fs

    files = s3fs.S3FileSystem(skip_instance_cache=True)
    found = {
        path.removeprefix(f"{prefix}/"): hashlib.sha256(files.cat_file(path)).hexdigest() for path in files.find(prefix)
    }
    return {path: content for path, content in found.items() if path.startswith(tuple(f"{part}/" for part in PROMISED))}


def s3_config(folder: Path, source: str, options: dict[str, object]) -> Path:
    """Few shards: every request costs a test server a while."""
    entry = {"source": "toy", "format": "jsonl", "paths": [source], "storage_options": options}
    engine = {"shard_bytes": "40kB", "partitions": 1, "storage_options": options}
    return config(folder, input=entry, engine=engine, stages=[{"toy.length": {"shortest": 10}}, "toy.first"])


@pytest.fixture(scope="module")
def local(corpus: Path) -> dict[str, str]:
    """What the same run gives from disk to disk."""
    assert (
        run_toy(s3_config(corpus / "local", str(corpus / "in/*.jsonl"), {}), corpus / "local/out", debug=True)[0] == 0
    )
    return tree(corpus / "local/out", *PROMISED)


def test_from_s3_to_s3(local: dict[str, str], bucket: str, tmp_path: Path) -> None:
    """The same bytes as from disk to disk; a rerun does nothing; the lease works there too."""
    path = s3_config(tmp_path, "s3://mill/crawl/*.jsonl", {})
    code, said = run_toy(path, "s3://mill/run", debug=True)
    assert code == 0, said
    assert remote_tree("mill/run") == local and len(local) == 6
    code, said = run_toy(path, "s3://mill/run", debug=True)
    assert code == 0 and "everything is done already" in said
    with lease(Store("s3://mill/run")), pytest.raises(ConfigError, match="another run works here"):
        run_toy(path, "s3://mill/run", debug=True)


def test_credentials_in_the_config(local: dict[str, str], bucket: str, tmp_path: Path) -> None:
    """storage_options reach readers and writers in the worker, and stay out of run.json."""
    options = {"key": "mykey", "secret": "topsecret", "client_kwargs": {"endpoint_url": bucket}}
    path = s3_config(tmp_path, "s3://mill/crawl/*.jsonl", options)
    with mock.patch.dict(os.environ):
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
            os.environ.pop(name)
        code, said = run_toy(path, "s3://mill/options")
    assert code == 0, said
    assert remote_tree("mill/options") == local
    assert b"topsecret" not in Store("s3://mill/options").read("run.json")


@pytest.mark.parametrize("url", ["s3://no-such-bucket-here/run", "nosuch://place/run"])
def test_a_place_that_is_not_there(corpus: Path, bucket: str, url: str) -> None:
    try:
        code, said = run_toy(corpus / "config.yaml", url, debug=True)
    except ConfigError as error:
        code, said = 2, str(error)
    assert code in (1, 2) and url.split("/run")[0] in said
