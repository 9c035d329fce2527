"""The report's section on duplicates: from a real run of two sources, in a browser; and figures against plain counts."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.config import resolve
from pipeline.report import duplicates, write_report
from pipeline.run import Options, run
from pipeline.yamlfile import Located
from tests.browser import opened

BANDS, ROWS = 20, 5


def corpus() -> dict[str, list[str]]:
    """Texts by source: each a family of near and equal copies, across the sources."""
    lots = random.Random(5)
    found: dict[str, list[str]] = {"books": [], "web": []}
    for family in range(40):
        words = [f"w{lots.randrange(5000)}" for _ in range(60)]
        for copy in range(lots.randrange(1, 6)):
            text = " ".join([*words[: 60 - copy % 3], *(["<script>alert(1)</script>"] if family == 0 else [])])
            found["web" if lots.random() < 0.7 else "books"].append(text)
    found["web"] += ["write to mara.lindqvist@example.com " + " ".join(f"mail{n}" for n in range(40))] * 9
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    inputs = []
    for source, texts in corpus().items():
        (folder / f"{source}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        inputs.append({"source": source, "format": "jsonl", "paths": [str(folder / f"{source}.jsonl")]})
    fuzzy = {"scope": "global", "bands": BANDS, "rows": ROWS, "threshold": 0.7}
    config: dict[str, Any] = {
        "name": "twice",
        "input": inputs,
        "stages": [{"dedup.exact": {"scope": "global"}}, {"dedup.fuzzy": fuzzy}],
        "engine": {"executor": "inline"},
    }
    assert run(resolve(Located(config, "test", {})), Options(str(folder / "run")), lambda line: None) == 0
    return folder / "run"


def facts(run: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((run / "run.json").read_text())
    return read


def found(run: Path) -> dict[str, Any]:
    whole = facts(run)
    view = duplicates.duplicates(run, whole["stages"], whole["config"])
    assert view is not None
    return view


def test_figures_are_those_of_the_ledger(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = pq.read_table(finished / "ledger").to_pylist()
    source_of = {row["id"]: row["source"] for row in ledger}
    view = found(finished)
    for stage in view["stages"]:
        for row in stage["rows"]:
            ends = [one for one in ledger if one["source"] == row["source"]]
            earlier = [one for one in ends if stage["stage"] == "dedup.fuzzy" and one["stage"] == "dedup.exact"]
            assert row["reached"] == len(ends) - len(earlier)
            assert row["removed"] == sum(one["stage"] == stage["stage"] for one in ends) > 0
    crossed = Counter((source_of[row["kept_id"]], row["source"]) for row in ledger if row["kept_id"])
    across = sum(number for (kept, removed), number in crossed.items() if kept != removed)
    assert 0 < view["overlap"]["across"] == across < view["overlap"]["removed"] == crossed.total()
    numbers = re.findall(r'class="value">(\d+)<', view["overlap"]["chart"])
    assert sorted(map(int, numbers)) == sorted(crossed.values())
    (curve,) = view["curves"]
    near = [row["similarity"] for row in ledger if row["stage"] == "dedup.fuzzy"]
    assert curve["note"].startswith(f"{len(near)} values from ") and view["plots"] == []
    assert dict(curve["points"])[0.7] == pytest.approx(1 - (1 - 0.7**ROWS) ** BANDS)
    documents = pq.read_table(finished / "documents" / "part-00000.parquet").to_pylist()
    sizes = {row["id"]: row["dup_cluster_size"] for row in documents}
    assert sum(sizes.values()) == len(ledger)
    assert [row["size"] for row in view["clusters"]["largest"]] == sorted(
        (n for n in sizes.values() if n > 1), reverse=True
    )[:20]
    assert all(row["size"] == sizes[row["id"]] for row in view["clusters"]["largest"])
    assert view["clusters"]["largest"][0]["text"].startswith("write to <EMAIL_ADDRESS> mail0")
    monkeypatch.setattr(duplicates, "CLUSTERS_HELD", crossed.total() // 2)
    sampled = found(finished)["overlap"]
    assert sampled["every"] == 3 or sampled["every"] == 2
    assert 0 < sampled["removed"] < crossed.total()


def test_more_sources_than_are_shown(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "SOURCES_CROSSED", 1)
    monkeypatch.setattr(duplicates, "SOURCES_SHOWN", 1)
    view = found(finished)
    assert "1 others" in view["overlap"]["chart"]
    assert [(len(stage["rows"]), stage["more"]) for stage in view["stages"]] == [(1, 1), (1, 1)]


def test_bands_that_follow_from_the_threshold(finished: Path) -> None:
    whole = facts(finished)
    knobs = {"dedup.fuzzy": {"bands": 14, "rows": 8, "permutations": 128, "threshold": 0.7}}
    bare = [{key: value for key, value in stage.items() if key != "figures"} for stage in whole["stages"]]
    unknown = duplicates.duplicates(finished, bare, {"stages": [knobs]})
    assert unknown is not None and unknown["curves"] == [] and len(unknown["plots"]) == 1
    noted = [{**stage, "figures": {"bands": 9, "rows": 13, "threshold": 0.7}} for stage in whole["stages"]]
    known = duplicates.duplicates(finished, [s for s in noted if s["stage"] == "dedup.fuzzy"], {"stages": [knobs]})
    assert known is not None and [(c["bands"], c["rows"]) for c in known["curves"]] == [(9, 13)]


def test_the_section_in_a_browser(finished: Path) -> None:
    write_report(finished)
    with opened(finished / "report.html", viewport={"width": 1200, "height": 900}) as browser:
        section = browser.page.locator("#duplicates")
        text = section.inner_text()
        assert "What each stage removed of each source" in text and "Across sources" in text
        assert "20 bands of 5 values" in text and "mara.lindqvist" not in text
        command = section.locator("code").first.inner_text()
        id_ = command.split()[-1]
        assert (
            command.startswith("python -m pipeline dups ")
            and id_ in pq.read_table(finished / "documents" / "part-00000.parquet")["id"].to_pylist()
        )
        assert section.locator("svg.chart").count() == 3 and section.locator("svg rect.heat").count() == 4
        overflow = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
        assert not browser.page.evaluate(overflow)
        assert browser.messages == [] and len(browser.requests) == 1
