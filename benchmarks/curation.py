"""WARC to text end to end, ours beside a bare loop over the same parsers, interleaved in one run.

The bare loop (fastwarc + the extractor, no ledger, no ids, no journal, nothing written) is the floor under any pipeline that uses that
extractor: what is above it is the price of the engine.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
FILES = [
    ROOT / f"data/sample/crawl-0000{n}.warc.gz" for n in range(3)
]  # the fourth one is damaged: fastwarc stops there
ROUNDS = 3

FLOOR = """
import sys, warnings
from fastwarc.warc import ArchiveIterator, WarcRecordType
pages = 0
if sys.argv[1] == "trafilatura":
    from trafilatura import extract
    def text(body): return extract(body, fast=True, include_comments=False)
else:
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding
    def text(body): return extract_plain_text(bytes_to_str(body, detect_encoding(body)), main_content=True)
for path in sys.argv[2:]:
    for record in ArchiveIterator(open(path, "rb"), record_types=WarcRecordType.response, parse_http=True):
        if record.http_headers.status_code == 200:
            text(record.reader.read())
            pages += 1
print(pages)
"""


def measure(command: list[str]) -> tuple[float, str]:
    """CPU seconds of a command and its children, and what it printed."""
    before = os.times()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    after = os.times()
    return (after.children_user + after.children_system) - (before.children_user + before.children_system), done.stdout


def main() -> None:
    """Print pages per CPU-second of both, and the CPU share of each stage of the quickstart's curation."""
    with tempfile.TemporaryDirectory() as folder:
        for method in ("resiliparse", "trafilatura"):
            floors, ours = [], []
            pages = 0
            for number in range(ROUNDS):
                seconds, printed = measure([sys.executable, "-c", FLOOR, method, *map(str, FILES)])
                pages = int(printed)
                floors.append(seconds)
                config = Path(folder) / f"{method}-{number}.yaml"
                config.write_text(
                    yaml.safe_dump(
                        {
                            "name": "bench",
                            "input": {"source": "sample", "format": "warc", "paths": [str(p) for p in FILES]},
                            "stages": [{"extract": {"method": method}}],
                            "engine": {"executor": "inline"},
                        }
                    )
                )
                out = str(Path(folder) / f"{method}-{number}")
                seconds, _ = measure([sys.executable, "-m", "pipeline", "run", str(config), "--output", out])
                ours.append(seconds)
            floor, mine = statistics.median(floors), statistics.median(ours)
            print(
                f"{method}: bare loop {pages / floor:.1f} pages/CPU-s, ours {pages / mine:.1f}, ratio {floor / mine:.2f} ({ROUNDS} rounds, medians)"
            )
        out = str(Path(folder) / "quickstart")
        seconds, _ = measure(
            [
                sys.executable,
                "-m",
                "pipeline",
                "run",
                "configs/quickstart.yaml",
                "--until",
                "stages",
                "--executor",
                "inline",
                "--output",
                out,
            ]
        )
        facts = json.loads((Path(out) / "run.json").read_text())
        print(f"quickstart, stages only: {seconds:.1f} CPU-s in all")
        for stage in facts["stages"]:
            if stage["seconds"]:
                print(f"  {stage['stage']}: {stage['rows_in'] / stage['seconds']:,.0f} documents/CPU-s")
