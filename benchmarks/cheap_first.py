"""Cheap before dear: copies of pages and pages in other languages taken out before extraction; payloads read again or stored.

The bundled sample, and, where GRISTMILL_GOLD names a folder with warc_docs_sample/*.warc.gz, pages of it with copies under other
addresses, 30% of all records. Every run is one process (`--debug`); CPU seconds are the whole process's, medians of interleaved rounds.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from benchmarks.curation import ROOT, measure

ROUNDS = 3
EVERY = 3  # of the pages of warc_docs_sample
COPIES = 0.3  # of all records

STORED = """
import sys
from pipeline.engine import map_unit, unit_input
from pipeline.engine.rows import stored_rows
map_unit.without_payload = lambda table: table
unit_input.rows_with_payload = lambda task: stored_rows(task.store, task.upstream)
from pipeline.cli import main
sys.exit(main())
"""
READ_AGAIN = "import sys; from pipeline.cli import main; sys.exit(main())"

REST: list[Any] = [{"language": {"min_score": 0.5}}, "normalize", "dedup.exact"]
EXTRACT = {"extract": {"method": "trafilatura"}}
WAYS: dict[str, tuple[str, list[Any]]] = {
    "extract": (READ_AGAIN, [EXTRACT]),
    "dedup.payload > extract": (READ_AGAIN, ["dedup.payload", EXTRACT]),
    "the same, payloads stored": (STORED, ["dedup.payload", EXTRACT]),
    "language_guess > extract": (READ_AGAIN, [{"language_guess": {"keep": ["en"]}}, EXTRACT]),
}


def doubled(gold: Path, target: Path) -> Path | None:
    """Pages of warc_docs_sample as one WARC file, with copies among them."""
    from warcio.archiveiterator import ArchiveIterator

    from tests.support import write_warc

    pages: list[tuple[str, bytes]] = []
    for path in sorted((gold / "warc_docs_sample").glob("*.warc.gz")):
        with path.open("rb") as handle:
            for record in ArchiveIterator(handle):
                if record.rec_type == "response":
                    pages.append((record.rec_headers.get_header("WARC-Target-URI"), record.content_stream().read()))
    if not pages:
        return None
    pages = pages[::EVERY]
    copies = round(len(pages) * COPIES / (1 - COPIES))
    chosen = [pages[number * len(pages) // copies] for number in range(copies)]
    write_warc(target, [*pages, *((f"{url}?copy", body) for url, body in chosen)])
    return target


def once(start: str, stages: list[Any], paths: list[str], out: Path) -> tuple[float, dict[str, Any], int]:
    """CPU seconds of a run, its run.json, and the bytes of rows that the phases before extraction left."""
    config = {
        "name": "cheap",
        "input": {"source": "pages", "format": "warc", "paths": paths},
        "stages": ["url_filter", *stages, *REST],
        "engine": {"shard_bytes": "4MB"},
    }
    path = out.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    command = [sys.executable, "-c", start, "run", str(path), "--output", str(out), "--until", "stages"]
    seconds, _ = measure([*command, "--executor", "inline", "--debug"])
    facts = json.loads((out / "run.json").read_text())
    files = [file for file in (out / "phases").glob("00-url_filter/*.parquet") if file.stem.isdigit()]
    return seconds, facts, sum(file.stat().st_size for file in files)


def compare(label: str, paths: list[str], folder: Path) -> None:
    """Print what each way takes on one corpus."""
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    stages: dict[str, list[dict[str, float]]] = {name: [] for name in WAYS}
    last: dict[str, tuple[dict[str, Any], int]] = {}
    for number in range(ROUNDS):
        for place, (name, (start, before)) in enumerate(WAYS.items()):
            taken, facts, size = once(start, before, paths, folder / f"{label}-{place}-{number}")
            seconds[name].append(taken)
            stages[name].append({stage["stage"]: stage["seconds"] for stage in facts["stages"]})
            last[name] = facts, size
    for name in WAYS:
        facts, size = last[name]
        rows = {stage["stage"]: stage["rows_in"] for stage in facts["stages"]}
        parts = ("read", "dedup.payload", "language_guess", "extract")
        cpu = {part: statistics.median(run[part] for run in stages[name]) for part in parts if part in rows}
        print(
            f"{label}, {name}: {statistics.median(seconds[name]):.1f} CPU s ({', '.join(f'{s:.1f}' for s in seconds[name])}); "
            + ", ".join(f"{part} {took:.2f}" for part, took in cpu.items())
            + f"; {rows['read']} records, {rows['extract']} extracted, {facts['inputs'][0]['kept']} kept"
            + (f"; {size:,} bytes in phases/00-url_filter" if size else "")
        )


def main() -> None:
    """The sample, and the doubled manuals where they are."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        compare("sample", [str(ROOT / "data/sample/*.warc.gz")], folder)
        path = doubled(Path(os.environ.get("GRISTMILL_GOLD", "")), folder / "doubled.warc.gz")
        if path is None:
            print(
                "cheap_first: set GRISTMILL_GOLD to a folder with warc_docs_sample/*.warc.gz for the rest",
                file=sys.stderr,
            )
        else:
            compare("doubled", [str(path)], folder)
