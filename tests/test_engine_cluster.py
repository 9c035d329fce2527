"""Ray on several nodes: a lost node costs its units a second try and nothing else; a cluster that is not there is an error."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.cli import main
from tests.support import ROOT, tree, write_config
from tests.toy_stages import run_toy, start_toy_pipeline, toy_pipeline, write_rows

PROMISED = ("documents", "ledger", "samples")
STORE_BYTES = 80 << 20


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head node and two others on this machine."""
    from ray import cluster_utils

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    node = {"num_cpus": 1, "memory": 2 << 30, "object_store_memory": STORE_BYTES}
    started = cluster_utils.Cluster(
        initialize_head=True, head_node_args={**node, "num_cpus": 0, "include_dashboard": False}, shutdown_at_exit=False
    )
    for _ in range(2):
        started.add_node(**node)
    yield started
    started.shutdown()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen small shards, each of which takes about a second, and their inline run."""
    folder = tmp_path_factory.mktemp("cluster")
    rows = [f"key{n % 60} number {n} " + ("[[sleep]] " if n % 2 else "") + "word " * 20 for n in range(100)]
    rows[50] += "[[raise]]"
    write_rows(folder / "in.jsonl", rows)
    path = write_config(
        folder / "config.yaml",
        name="cluster",
        input={"source": "toy", "format": "jsonl", "paths": [str(folder / "in.jsonl")]},
        stages=["toy.poison", "toy.first", "toy.length"],
        engine={"shard_bytes": "1100B", "partitions": 4, "unit_memory": "700MB", "executor": "ray"},
    )
    code, said = run_toy(path, folder / "inline", debug=True)
    assert code == 0, said
    return folder


def raylets(cluster: Any) -> list[tuple[Any, int]]:
    """The nodes that work, with the process that is each one's."""
    return [(node, node.all_processes["raylet"][0].process.pid) for node in cluster.list_all_nodes()[1:]]


@pytest.mark.slow
def test_a_lost_node(cluster: Any, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start_toy_pipeline("run", corpus / "config.yaml", "--address", cluster.address, "--output", out)
    deadline = time.monotonic() + 120
    done = out / "journal" / "00-toy.poison"
    while time.monotonic() < deadline and process.poll() is None:
        if done.is_dir() and len(list(done.iterdir())) >= 3:
            break
        time.sleep(0.05)
    assert process.poll() is None, "the run ended before a node could be lost"
    node, raylet = raylets(cluster)[0]
    os.kill(raylet, signal.SIGKILL)
    _, said = process.communicate(timeout=200)
    assert process.returncode == 0, said
    assert tree(out, *PROMISED) == tree(corpus / "inline", *PROMISED)
    failed = [row for row in pq.read_table(out / "ledger").to_pylist() if row["fate"] == "failed"]
    assert [row["rule"] for row in failed] == ["error"], "a record paid for the lost node"
    assert not (out / "journal/poison").exists()
    cluster.remove_node(node, allow_graceful=False)
    assert "looking for the record" not in said


@pytest.mark.slow
def test_no_node_has_room(cluster: Any, corpus: Path, tmp_path: Path) -> None:
    done = toy_pipeline(
        "run", corpus / "config.yaml", "--address", cluster.address, "--output", tmp_path / "out",
        "--set", "engine.unit_memory=8GB",
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "no node has a core and 8.0 GB" in done.stderr and "lower engine.unit_memory" in done.stderr
    assert json.loads((tmp_path / "out/run.json").read_text())["status"] == "failed"


@pytest.mark.slow
def test_a_run_without_an_address_joins_no_cluster(cluster: Any) -> None:
    """Ray by itself would join the last one that was started on this machine, and lose its workers when that ends."""
    code = (
        "from pipeline.engine.config import EngineConfig\nfrom pipeline.engine.ray_executor import RayExecutor\n"
        "executor = RayExecutor(EngineConfig(workers=1))\nprint(executor.slots)\n"
        "import ray\nprint(len(ray.nodes()))\nexecutor.close()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1", "1"] and len(cluster.list_all_nodes()) > 1


def test_a_dead_address(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    arguments = ["run", str(corpus / "config.yaml"), "--address", "127.0.0.1:9", "--output", str(tmp_path / "out")]
    assert main(arguments) == 2
    assert time.monotonic() - began < 30
    assert "nothing answers at 127.0.0.1:9" in capsys.readouterr().err
    assert not (tmp_path / "out/lease.json").exists()
