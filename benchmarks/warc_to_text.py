"""WARC to text end to end: ours, beside datatrove's reader and extractor and beside bare loops, on the same files in one run.

Ours is a whole `pipeline run` on one worker: ids, metadata, charsets, ledger, samples, journal, Parquet, report, and the start of two
processes. datatrove is its reader, its trafilatura step with its defaults and its JSONL writer, one task. The bare loops
(fastwarc and an extractor; nothing is written) are the floor under any pipeline that uses that extractor. CPU seconds are those of
the whole process tree.

    python -m benchmarks.warc_to_text [--warc FILE ...] [--copies N] [--peer-python PATH] [--rounds N] [--busy N]

`--peer-python` names a Python that has datatrove with what its WARC reader and extractor need. `--busy` keeps that many processes
spinning meanwhile, to see whose output depends on the load. Without files, the bundled sample.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow.parquet as pq
import yaml

ROOT = Path(__file__).parents[1]
SAMPLE = [
    ROOT / f"data/sample/crawl-0000{n}.warc.gz" for n in range(3)
]  # the fourth one is damaged: fastwarc and warcio stop there

FLOOR = """
import json, sys, warnings
from fastwarc.warc import ArchiveIterator, WarcRecordType
pages = texts = characters = 0
if sys.argv[1].startswith("trafilatura"):
    from trafilatura import extract
    knobs = {"fast": True} if "fast" in sys.argv[1] else {"favor_precision": True}
    def text(body): return extract(body, include_comments=False, **knobs)
else:
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding
    def text(body): return extract_plain_text(bytes_to_str(body, detect_encoding(body)), main_content=True)
for path in sys.argv[2:]:
    for record in ArchiveIterator(open(path, "rb"), record_types=WarcRecordType.response, parse_http=True):
        if record.http_headers.status_code == 200:
            found = text(record.reader.read()) or ""
            pages += 1
            texts += bool(found.strip())
            characters += len(found)
print(json.dumps({"pages": pages, "texts": texts, "characters": characters}))
"""

DATATROVE = """
import gzip, json, sys
from pathlib import Path
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.extractors import Trafilatura
from datatrove.pipeline.readers import WarcReader
from datatrove.pipeline.writers import JsonlWriter
source, out = sys.argv[1:3]
LocalPipelineExecutor([WarcReader(source), Trafilatura(), JsonlWriter(out + "/text")], tasks=1, logging_dir=out + "/logs").run()
texts = characters = 0
for path in Path(out, "text").rglob("*.gz"):
    for line in gzip.open(path, "rt"):
        texts += 1
        characters += len(json.loads(line)["text"])
print()
stats = json.loads(Path(out, "logs", "stats.json").read_text())
pages = next(step["stats"]["total"] for step in stats if "Trafilatura" in step["name"])
print(json.dumps({"pages": pages, "texts": texts, "characters": characters}))
"""

Result = dict[str, float]


def main(arguments: Sequence[str] = ()) -> None:
    """Print a table of medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--warc", type=Path, nargs="+", default=SAMPLE)
    parser.add_argument("--copies", type=int, default=1, help="how often the files stand in the input")
    parser.add_argument("--peer-python", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--busy", type=int, default=0)
    parser.add_argument("--only", nargs="+", help="names of the rows to run; all without")
    given = parser.parse_args(arguments)
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(given.busy)]
    try:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "source"
            source.mkdir()
            for copy in range(given.copies):
                for path in given.warc:
                    (source / f"{copy:02}-{path.name}").symlink_to(path.resolve())
            rows = contestants(source, given.peer_python)
            chosen = {name: run for name, run in rows.items() if not given.only or name in given.only}
            seen: dict[str, list[Result]] = defaultdict(list)
            for number in range(given.rounds):
                for name, run in chosen.items():
                    seen[name].append(run(Path(folder) / f"{number}-{name}".replace(" ", "-")))
    finally:
        for process in spinning:
            process.kill()
    print(f"{'':34} pages/CPU-s   pages/s   pages   texts   million characters   (medians of {given.rounds})")
    for name, results in seen.items():
        by = {key: statistics.median(result[key] for result in results) for key in results[0]}
        texts = sorted({int(result["texts"]) for result in results})
        print(
            f"{name:34} {by['pages'] / by['cpu']:11.1f} {by['pages'] / by['wall']:9.1f} {by['pages']:7.0f}   "
            f"{'/'.join(map(str, texts))}   {by['characters'] / 1e6:.2f}"
        )


def contestants(source: Path, peer: Path | None) -> dict[str, Callable[[Path], Result]]:
    """Each row's run: takes a folder of its own, gives what it found and took."""
    files = [str(path) for path in sorted(source.iterdir())]

    def floor(method: str) -> Callable[[Path], Result]:
        return lambda _: measured([sys.executable, "-c", FLOOR, method, *files])

    def ours(method: str) -> Callable[[Path], Result]:
        return lambda out: whole_run(files, method, out)

    rows: dict[str, Callable[[Path], Result]] = {
        "loop resiliparse": floor("resiliparse"),
        "loop trafilatura fast": floor("trafilatura fast"),
        "loop trafilatura precision": floor("trafilatura precision"),
        "ours gristmill": ours("gristmill"),
        "ours resiliparse": ours("resiliparse"),
        "ours trafilatura fast": ours("trafilatura"),
    }
    if peer is not None:
        rows["datatrove"] = lambda out: measured([str(peer), "-c", DATATROVE, str(source), str(out)])
    return rows


def whole_run(files: list[str], method: str, out: Path) -> Result:
    """A run of the pipeline with one stage."""
    config = out.with_suffix(".yaml")
    config.write_text(
        yaml.safe_dump(
            {
                "name": "bench",
                "input": {"source": "bench", "format": "warc", "paths": files},
                "stages": [{"extract": {"method": method}}],
                "engine": {"executor": "inline"},
            }
        )
    )
    found = measured([sys.executable, "-m", "pipeline", "run", str(config), "--output", str(out)], report=False)
    facts = json.loads((out / "run.json").read_text())
    stage = next(stage for stage in facts["stages"] if stage["stage"] == "extract")
    texts = [pq.read_table(path, columns=["text"])["text"] for path in sorted((out / "documents").glob("*.parquet"))]
    return {
        **found,
        "pages": stage["rows_in"],
        "texts": sum(len(column) for column in texts),
        "characters": sum(len(text) for column in texts for text in column.to_pylist()),
    }


def measured(command: list[str], report: bool = True) -> Result:
    """CPU seconds (whole tree) and seconds of a command, and the JSON in its last line."""
    before, started = os.times(), time.monotonic()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    after, ended = os.times(), time.monotonic()
    if done.returncode != 0:
        sys.exit(f"{command[:3]} failed:\n{done.stderr[-3000:]}")
    cpu = (after.children_user + after.children_system) - (before.children_user + before.children_system)
    return {"cpu": cpu, "wall": ended - started, **(json.loads(done.stdout.splitlines()[-1]) if report else {})}


if __name__ == "__main__":
    main(sys.argv[1:])
