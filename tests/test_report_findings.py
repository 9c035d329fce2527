"""Evaluation items and the mixture in the report, with names that try to break it."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.report import findings, write_report
from stages.decontaminate.evidence import FINDINGS_COLUMNS
from stages.dedup.passage_findings import FINDINGS_COLUMNS as PASSAGE_COLUMNS

EVIL = "<b>x</b>"


def row(item: int, state: str, documents: int = 0, covered: float = 0.0) -> dict:
    found = [{"id": f"{EVIL}{n}", "coverage": covered, "spans": [{"start": 17, "end": 90}]} for n in range(documents)]
    return {
        "benchmark": EVIL,
        "item": str(item),
        "state": state,
        "words": 20,
        "ngrams": 8,
        "common_in_items": 0,
        "common_in_documents": int(state == "clean"),
        "documents": documents,
        "coverage": covered,
        "covered": covered,
        "found": found,
    }


def test_items_and_mixture(tmp_path: Path) -> None:
    rows = [row(0, "clean"), row(1, "too_short"), *(row(n, "contaminated", n % 5 + 1, n / 50) for n in range(2, 42))]
    folder = tmp_path / "findings" / "decontaminate"
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(list(FINDINGS_COLUMNS.items()))), folder / "a.parquet")
    (stage,) = findings.contamination(tmp_path)
    (counts,) = stage["rows"]
    assert counts | {"benchmark": ""} == {
        "benchmark": "",
        "items": 42,
        "contaminated": 40,
        "clean": 1,
        "too_short": 1,
        "common": 0,
        "copied": 1,
    }
    assert [item["name"].rpartition("/")[2] for item in stage["items"]] == [str(n) for n in range(41, 16, -1)]

    table = [{"name": f"{EVIL}{n}", "available_bytes": 10**6 * n, "epochs": 1.5} for n in range(250)]
    (tmp_path / "run.json").write_text(
        json.dumps({"name": "r", "stages": [{"stage": "mix", "kind": "aggregate", "table": table}]})
    )
    page = write_report(tmp_path).read_text()
    assert EVIL not in page and "&lt;b&gt;x&lt;/b&gt;/41" in page
    assert 'id="contamination"' in page and 'id="mixture"' in page and "249 MB" not in page
    assert "199 MB" in page and "50 more are not shown" in page and "at 17" in page

    assert findings.contamination(tmp_path / "none") == []
    (tmp_path / "findings" / "other").mkdir()
    pq.write_table(pa.table({"x": [1]}), tmp_path / "findings" / "other" / "a.parquet")
    assert len(findings.contamination(tmp_path)) == 1


def test_frequent_passages(tmp_path: Path) -> None:
    def passage(count: int) -> dict:
        domains = [{"domain": f"{EVIL}.com", "documents": count}]
        text = f"{EVIL} footer {count}" if count % 2 else None
        return {"text": text, "documents": count, "domains": domains, "domains_counted": 7, "other_documents": 0}

    folder = tmp_path / "findings" / "dedup.lines"
    folder.mkdir(parents=True)
    for part in range(3):
        rows = [passage(count) for count in range(part + 2, 200, 3)]
        pq.write_table(
            pa.Table.from_pylist(rows, schema=pa.schema(list(PASSAGE_COLUMNS.items()))), folder / f"{part}.parquet"
        )
    (stage,) = findings.passages(tmp_path)
    assert [row["documents"] for row in stage["rows"]] == list(range(199, 149, -1))
    (tmp_path / "run.json").write_text(json.dumps({"name": "r", "stages": []}))
    page = write_report(tmp_path).read_text()
    assert EVIL not in page and "footer 199" in page and 'id="passages"' in page and "footer 149" not in page
    assert findings.contamination(tmp_path) == []
