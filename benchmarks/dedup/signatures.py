"""MinHash signatures a CPU-second: ours beside datatrove, datasketch, rensa and text-dedup, on the same documents in one run.

    python -m benchmarks.dedup.signatures [--documents FILE ...] [--limit N] [--rounds N] [--bands 14] [--rows 8] [--json FILE]
                                          [--datatrove-python PATH] [--libraries-python PATH]

`end to end` is from the text: words, sets of 5-grams, signature. `prepared` begins with the hashes of the 5-grams. datasketch and rensa have
no words of their own: they are given ours by a regular expression, joined and hashed by xxh3 (datasketch) or the library (rensa).
`--libraries-python` names a Python with datasketch, rensa and text-dedup; what it lacks is left out and said. Rounds are interleaved.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from benchmarks.dedup import corpora
from benchmarks.dedup.measure import Failed, run
from stages.dedup.minhash import signatures
from stages.dedup.shingles import shingles

BATCH = 256
Seconds = dict[str, float]


def main(arguments: Sequence[str] = ()) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=Path, nargs="+", default=corpora.SAMPLE)
    parser.add_argument("--limit", type=int, help="every n-th document, so that there are about this many")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bands", type=int, default=14)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--datatrove-python", type=Path)
    parser.add_argument("--libraries-python", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    texts = corpora.documents(given.documents)
    if given.limit is not None:
        texts = texts[:: max(1, len(texts) // given.limit)]
    print(
        f"{len(texts):,} documents, {sum(map(len, texts)) / len(texts):,.0f} characters each, {given.bands}x{given.rows}"
    )
    taken = measure(texts, given)
    median = {
        name: {kind: statistics.median(one[kind] for one in rounds) for kind in rounds[0]}
        for name, rounds in taken.items()
    }
    show(len(texts), median, given.rounds)
    if given.json is not None:
        given.json.write_text(json.dumps({"documents": len(texts), "seconds": median}, indent=1))


def measure(texts: list[str], given: argparse.Namespace) -> dict[str, list[Seconds]]:
    """CPU seconds by tool and round."""
    peers = {"datatrove": given.datatrove_python}
    peers |= dict.fromkeys(("datasketch", "rensa", "text-dedup"), given.libraries_python)
    peers = {name: python for name, python in peers.items() if python is not None}
    taken: dict[str, list[Seconds]] = defaultdict(list)
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl", encoding="utf-8") as file:
        for text in texts:
            file.write(json.dumps({"text": text}) + "\n")
        file.flush()
        ours(texts[:BATCH], given.bands, given.rows)
        for _ in range(given.rounds):
            taken["ours"].append(ours(texts, given.bands, given.rows))
            for name, python in list(peers.items()):
                try:
                    taken[name].append(peer(name, python, file.name, given.bands, given.rows))
                except Failed as error:
                    print(f"{name} left out: {error}")
                    del peers[name]
    return {name: rounds for name, rounds in taken.items() if rounds}


def ours(texts: list[str], bands: int, rows: int) -> Seconds:
    """The stage's own functions, in batches."""
    whole = prepared = 0.0
    for start in range(0, len(texts), BATCH):
        part = texts[start : start + BATCH]
        begun = time.process_time()
        sets = [found for found in shingles(part, 5) if len(found)]
        made = time.process_time()
        signatures(sets, bands * rows, 1)
        ended = time.process_time()
        whole += ended - begun
        prepared += ended - made
    return {"end to end": whole, "prepared": prepared}


def peer(name: str, python: Path, source: str, bands: int, rows: int) -> Seconds:
    """The same of a library, in its own Python, on one thread."""
    script = Path(__file__).parent / "peers" / "signatures.py"
    one_thread = {"RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    done = run([str(python), str(script), name, source, str(bands), str(rows)], env=one_thread)
    found = json.loads(done.output.splitlines()[-1])
    return {kind: found[kind] for kind in ("end to end", "prepared") if kind in found}


def show(count: int, median: dict[str, Seconds], rounds: int) -> None:
    """Documents a CPU-second, and how many times slower than ours."""
    print(f"{'documents/CPU-s':16} {'end to end':>22} {'prepared hashes':>24}")
    for name, seconds in median.items():
        cells = [
            f"{count / seconds[kind]:12,.0f} ({seconds[kind] / median['ours'][kind]:5.1f} times)"
            if kind in seconds
            else f"{'':26}"
            for kind in ("end to end", "prepared")
        ]
        print(f"{name:12}", *cells)
    print(f"medians of {rounds} interleaved rounds; (times ours)")


if __name__ == "__main__":
    main(sys.argv[1:])
