"""The section `index` and `dedup.index` in runs: crawl after crawl into one index, killed and resumed, taken down."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest

from pipeline.cli import main
from pipeline.config import read_config
from pipeline.dedup_index.commands import info, merge, remove
from pipeline.plan import warnings
from pipeline.run import prepare
from pipeline.status import status
from pipeline.yamlfile import ConfigError
from tests.support import pipeline, start_pipeline, tree, write_config
from tests.test_dedup_index import changed, made_texts
from tests.toy_stages import run_toy

OLD = made_texts(1, 60)
NEW = [OLD[0], changed(OLD[1]), *made_texts(2, 20), OLD[59] + "\n"]


def crawl(folder: Path, name: str, texts: list[str], index: str | None = None, **sections: Any) -> Path:
    """A config whose run is compared with an index and written to it."""
    rows = [json.dumps({"text": text, "url": f"https://example.org/{name}/{i}"}) for i, text in enumerate(texts)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
    path = index or str(folder / "index")
    base: dict[str, Any] = {
        "name": name,
        "input": {"source": "crawl", "format": "jsonl", "paths": [str(folder / f"{name}.jsonl")]},
        "stages": ["dedup.exact", {"dedup.index": {"path": path, "missing": "empty"}}],
        "index": {"path": path},
        "engine": {"shard_bytes": "16kB", "executor": "inline"},
    }
    return write_config(folder / f"{name}.yaml", **{**base, **sections})


def ledger(run: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(run / "ledger").to_pylist()
    return rows


def kept(run: Path) -> int:
    return sum(row["fate"] == "kept" for row in ledger(run))


def test_crawl_after_crawl(tmp_path: Path) -> None:
    jan, feb = crawl(tmp_path, "jan", OLD), crawl(tmp_path, "feb", NEW)
    assert run_toy(jan, tmp_path / "runs/jan", debug=True)[0] == 0
    assert run_toy(feb, tmp_path / "runs/feb", debug=True)[0] == 0
    old, new = ledger(tmp_path / "runs/jan"), ledger(tmp_path / "runs/feb")
    dropped = {row["url"].rpartition("/")[2]: row for row in new if row["fate"] == "dropped"}
    assert {n: (row["rule"], row["kept_id"], row["detail"]) for n, row in dropped.items()} == {
        "0": ("in_index_exact", old[0]["id"], "jan"),
        "1": ("in_index", old[1]["id"], "jan"),
        "22": ("in_index_exact", old[59]["id"], "jan"),
    }
    facts = json.loads((tmp_path / "runs/feb/run.json").read_text())["sections"]["index"]
    assert facts["documents"] == 20 and facts["bytes"] == sum(
        p.stat().st_size for p in (tmp_path / "index/parts" / facts["part"]).iterdir() if p.name != "part.json"
    )
    before = tree(tmp_path, "index", "runs/jan/documents", "runs/feb/documents")
    for name in ("jan", "feb"):
        assert "would run" not in status(str(tmp_path / "runs" / name), None, [])
        assert run_toy(tmp_path / f"{name}.yaml", tmp_path / "runs" / name, debug=True)[0] == 0
    assert tree(tmp_path, "index", "runs/jan/documents", "runs/feb/documents") == before
    # another threshold: the run's own part is replaced, no other
    assert run_toy(feb, tmp_path / "runs/feb", "dedup.index.threshold=1.0", debug=True)[0] == 0
    assert "jan (60)" in (told := info(str(tmp_path / "index"), verify=True)) and "feb (21)" in told
    # a part that is gone is written again
    remove(str(tmp_path / "index"), [], ["feb"])
    told = status(str(tmp_path / "runs/feb"), None, ["dedup.index.threshold=1.0"])
    assert told.count("would run") == 1 and "the index no longer holds this run as it is" in told
    assert run_toy(feb, tmp_path / "runs/feb", "dedup.index.threshold=1.0", debug=True)[0] == 0
    assert "feb (21)" in info(str(tmp_path / "index"), verify=True)
    # a run without the section no longer writes, and leaves the index alone
    before = tree(tmp_path, "index")
    assert run_toy(feb, tmp_path / "runs/feb", "index=null", debug=True)[0] == 0
    assert tree(tmp_path, "index") == before


def test_nothing_new_is_no_failure(tmp_path: Path) -> None:
    for name in ("jan", "feb"):
        assert run_toy(crawl(tmp_path, name, OLD[:5]), tmp_path / "runs" / name, debug=True)[0] == 0
    assert kept(tmp_path / "runs/feb") == 0
    assert "feb (0)" in info(str(tmp_path / "index"), verify=True)


def test_shards_and_partitions_change_nothing(tmp_path: Path) -> None:
    """Bytes of the index, whatever the cut; documents by their ids, whose parts follow the cut."""
    indexes, fates = [], []
    for number, engine in enumerate(({"shard_bytes": "1MB"}, {"shard_bytes": "9kB", "partitions": 8})):
        folder = tmp_path / str(number)
        for name, texts in (("jan", OLD), ("feb", NEW)):
            config = crawl(folder, name, texts, engine={"executor": "inline", **engine})
            assert run_toy(config, folder / "runs" / name, debug=True)[0] == 0
        indexes.append(tree(folder / "index", "parts"))
        fates.append(sorted((row["id"], row["fate"], row["kept_id"]) for row in ledger(folder / "runs/feb")))
    assert indexes[0] == indexes[1]
    assert fates[0] == fates[1]


def test_killed_and_resumed(tmp_path: Path) -> None:
    undisturbed = tmp_path / "undisturbed"
    assert run_toy(crawl(undisturbed, "jan", OLD), undisturbed / "run", debug=True)[0] == 0
    config, out = crawl(tmp_path, "jan", OLD), tmp_path / "run"
    process = start_pipeline("run", config, "--output", out)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if len(list((out / "phases/index").glob("[!.]*/part.json"))) >= 2:
            break
        time.sleep(0.002)
    assert process.poll() is None, "the run ended before it could be killed"
    process.kill()
    process.wait()
    assert not (tmp_path / "index/index.json").exists()
    again = pipeline("run", config, "--output", out)
    assert again.returncode == 0, again.stderr
    assert tree(tmp_path / "index", ".") == tree(undisturbed / "index", ".")
    assert not (out / "phases/index").exists()


def test_an_index_at_a_url(tmp_path: Path) -> None:
    fsspec.filesystem("memory").store.clear()
    url = "memory://crawls/index"
    for name, texts in (("jan", OLD), ("feb", NEW)):
        config = crawl(tmp_path, name, texts, url)
        assert run_toy(config, tmp_path / "runs" / name, debug=True)[0] == 0
    assert kept(tmp_path / "runs/feb") == 20
    assert "80 documents" in info(url, verify=True)
    id_ = ledger(tmp_path / "runs/jan")[0]["id"]
    assert "took out 1 document" in remove(url, [id_], [])
    assert run_toy(crawl(tmp_path, "feb", NEW, url), tmp_path / "runs/feb", debug=True)[0] == 0
    assert kept(tmp_path / "runs/feb") == 21
    merge(str(tmp_path / "merged"), [url])
    assert "jan (59), feb (21)" in info(str(tmp_path / "merged"), verify=True)


def test_takedown_says_what_comes_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, texts in (("jan", OLD), ("feb", NEW)):
        assert run_toy(crawl(tmp_path, name, texts), tmp_path / "runs" / name, debug=True)[0] == 0
    old, new = ledger(tmp_path / "runs/jan"), ledger(tmp_path / "runs/feb")
    index, runs = str(tmp_path / "index"), [str(tmp_path / "runs/jan"), str(tmp_path / "runs/feb")]
    before = tree(tmp_path, "index")
    (tmp_path / "ids").write_text(old[1]["id"] + "\n\n")
    assert main(["index", "whatif-remove", index, old[0]["id"], "f00", "--ids-file", str(tmp_path / "ids"), "--runs", *runs]) == 0  # fmt: skip
    told = capsys.readouterr().out
    assert f"{old[0]['id']}: in the index, run jan" in told and "f00: not in the index" in told
    assert f"{runs[0]}: 0 dropped" in told and "2 of them are in this run's documents/" in told
    assert f"{runs[1]}: 2 dropped in favour of them" in told
    assert f"{new[0]['id']} https://example.org/feb/0: dedup.index:in_index_exact for {old[0]['id']}, similarity 1.000" in told  # fmt: skip
    assert tree(tmp_path, "index") == before
    assert main(["index", "remove", index, old[0]["id"], "--runs", *runs]) == 0
    assert "1 dropped in favour" in (told := capsys.readouterr().out) and "took out 1 document" in told
    assert run_toy(tmp_path / "feb.yaml", tmp_path / "runs/feb", debug=True)[0] == 0
    assert kept(tmp_path / "runs/feb") == 21, "what was said to come back came back"
    assert main(["index", "remove", index]) == 2 and main(["index", "info", str(tmp_path / "none")]) == 2
    assert main(["index", "whatif-remove", index, "x", "--runs", str(tmp_path)]) == 2


def test_mistakes_are_found_before_the_first_record(tmp_path: Path) -> None:
    jan = crawl(tmp_path, "jan", OLD[:3])
    assert run_toy(jan, tmp_path / "runs/jan", debug=True)[0] == 0

    def said(config: Path, *overrides: str) -> str:
        with pytest.raises(ConfigError) as caught:
            prepare(read_config(config, list(overrides)), str(tmp_path / "out"))
        return str(caught.value)

    feb = crawl(tmp_path, "feb", OLD[:3])
    assert "was built with other parameters: bands is 14, not 10" in said(feb, "index.bands=10")
    assert "there is no such index" in said(feb, "dedup.index.path=nowhere", "dedup.index.missing=error")
    assert "permutations: bands times rows" in said(feb, "index.bands=100")
    assert "index.bnads" in said(feb, "index.bnads=1")
    assert "which only inputs of kind text fill" in said(feb, "input.kind=chat")
    (tmp_path / "index/index.json").write_text("{")
    assert "index.json: is damaged" in said(feb)


def test_dropping_later_than_the_index_is_no_mistake(tmp_path: Path) -> None:
    config = read_config(crawl(tmp_path, "jan", OLD[:3], stages=[{"dedup.index": {"path": "i"}}, "quality.gopher"]))
    assert warnings(config) == []


def test_drop_from_a_what_is_in_b_without_a_run(tmp_path: Path) -> None:
    for name, texts in (("a", NEW), ("b", OLD)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    assert main(["index", "build", str(tmp_path / "index"), str(tmp_path / "b.jsonl")]) == 0
    out = tmp_path / "out.jsonl"
    done = main(["apply", "dedup.index", str(tmp_path / "a.jsonl"), str(out), "--set", f"path={tmp_path / 'index'}"])
    assert done == 0
    verdicts = [json.loads(line)["verdict"] for line in out.read_text().splitlines()]
    assert [i for i, verdict in enumerate(verdicts) if verdict != "keep"] == [0, 1, 22]
    assert verdicts[:2] == ["dedup.index:in_index_exact", "dedup.index:in_index"]
