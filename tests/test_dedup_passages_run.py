"""The three stages in one run, over several shards: texts, ledger, findings and report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tests.support import pipeline, write_config

FOOTER = "Share this page with all of your friends!"
COPY = "a quotation of twelve words that stands in two of the documents"


def rows(folder: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(folder.rglob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_texts_ledger_and_findings(tmp_path: Path) -> None:
    texts = [f"Document number {'i' * n} begins.\n{FOOTER}\nIt ends after {'j' * n}." for n in range(1, 9)]
    texts += [
        f"{FOOTER}\nOne thing is said. Another is said. A third is said. Mine.",
        "One thing is said. Another is said. A third is said.",
    ]
    texts += [f"Here {COPY}. Done.", f"There {COPY}. Over."]
    for part in range(3):
        lines = [json.dumps({"url": f"https://s{i}.example.com/", "text": text}) for i, text in enumerate(texts)]
        (tmp_path / f"in{part}.jsonl").write_text("\n".join(lines[part * 4 : part * 4 + 4]) + "\n")
    config = write_config(
        tmp_path / "c.yaml",
        name="passages",
        input={"source": "s", "format": "jsonl", "paths": [str(tmp_path / "in*.jsonl")]},
        stages=[
            "dedup.lines",
            {"dedup.spans": {"min_left": 1, "min_left_sentences": 0}},
            {"dedup.substring": {"words": 12}},
        ],
        engine={"executor": "inline", "workers": 1},
    )
    done = pipeline("run", config, "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr + done.stdout
    kept = {row["url"].partition(".")[0]: row for row in rows(tmp_path / "out" / "documents")}
    assert kept["https://s0"]["text"] == texts[0]
    assert [kept[f"https://s{n}"]["text"] for n in range(1, 8)] == [
        text.replace(FOOTER + "\n", "") for text in texts[1:8]
    ]
    assert kept["https://s8"]["text"] == texts[8].partition("\n")[2] and kept["https://s10"]["text"] == texts[10]
    assert kept["https://s11"]["text"] == "There Over."
    assert kept["https://s11"]["dup_substring_share"] > 0.5 and kept["https://s0"]["dup_lines_share"] is None
    (lost,) = [row for row in rows(tmp_path / "out" / "ledger") if row["fate"] == "dropped"]
    assert (lost["url"], lost["stage"], lost["rule"], lost["value"]) == (
        "https://s9.example.com/",
        "dedup.spans",
        "little_left",
        0,
    )
    assert lost["kept_id"] == kept["https://s8"]["id"] and lost["detail"] == "3 of 3"
    (found,) = rows(tmp_path / "out" / "findings" / "dedup.lines")
    assert found["documents"] == 9 and found["domains"] == [{"domain": "example.com", "documents": 9}]
