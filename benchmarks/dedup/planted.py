"""Passages with planted copies: speed, recall by true similarity, and removals without a similar document that was kept.

    python -m benchmarks.dedup.planted [--documents FILE ...] [--passages N] [--copies N] [--cache FOLDER] [--rounds N] [--json FILE]
                                       [--bands-rows 14x8 20x6 ...] [--datatrove-python PATH] [--text-dedup-python PATH]

The oracle is the exact similarity of all pairs (`oracle.py`). Every tool makes 5-grams of words and uses one worker. A pair is found
if both are in one cluster, and counted as handled if at least one of them is removed. A removal is right if a kept document is similar.
`--bands-rows`: settings of ours; peers run the first of them. What is near 0.5 and below has no bound in the oracle: "below 0.5".
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.dedup import corpora, oracle, tools
from benchmarks.dedup.measure import Taken

FLOOR = 0.5  # the oracle's threshold
BANDS = [(0.9, 1.01), (0.8, 0.9), (0.7, 0.8), (0.6, 0.7), (0.5, 0.6), (0.0, 0.5)]
SHARES = (0.8, 0.7, 0.5)


def main(arguments: Sequence[str] = ()) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=Path, nargs="+", default=corpora.SAMPLE)
    parser.add_argument("--passages", type=int, default=6_000)
    parser.add_argument("--copies", type=int, default=1_800)
    parser.add_argument("--cache", type=Path, help="folder for the oracle's pairs, which are then found once")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bands-rows", nargs="+", default=["14x8"])
    parser.add_argument("--linkages", nargs="+", default=["star"], choices=["star", "component"])
    parser.add_argument("--datatrove-python", type=Path)
    parser.add_argument("--text-dedup-python", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    rows = corpora.planted(corpora.documents(given.documents), given.passages, given.copies)
    truth = Truth(rows, given.cache)
    print(
        f"{len(rows):,} documents, {sum(len(row['text']) for row in rows) / len(rows):,.0f} characters each,"
        f" {given.copies:,} planted copies; {len(truth.pairs.low):,} pairs at {FLOOR} and above, {truth.needed:,} at 0.8"
    )
    measured: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "planted.jsonl"
        corpora.write(rows, source)
        runs: dict[str, list[Taken]] = defaultdict(list)
        for number in range(given.rounds):
            for name, (start, outcome) in contestants(given, source, [row["id"] for row in rows]).items():
                place = Path(folder) / f"{number}-{name}".replace(" ", "-").replace(",", "")
                runs[name].append(start(place))
                measured[name] = {**truth.judge(outcome(place)), **tools.medians(runs[name])}
                if name.startswith("ours"):
                    measured[name]["stage_seconds"] = tools.ours_stage_seconds(place)
                print(f"round {number + 1}, {name}: {runs[name][-1].cpu:.1f} CPU s", flush=True)
                shutil.rmtree(place)
                if given.json is not None:
                    facts = {"documents": len(rows), "copies": given.copies, "pairs": len(truth.pairs.low)}
                    given.json.write_text(json.dumps({**facts, "tools": measured}, indent=1))
    show(measured, len(rows), given.rounds)


Contestant = tuple[Callable[[Path], Taken], Callable[[Path], tools.Outcome]]


def contestants(given: argparse.Namespace, source: Path, ids: list[str]) -> dict[str, Contestant]:
    """Each row of the table: how it runs in a folder, and how what it did is read there."""
    found: dict[str, Contestant] = {}
    settings = [tuple(map(int, setting.split("x"))) for setting in given.bands_rows]
    for linkage in given.linkages:
        for bands, rows in settings:
            knobs = {"bands": bands, "rows": rows, "linkage": linkage}

            def start(folder: Path, knobs: dict[str, Any] = knobs) -> Taken:
                return tools.ours(source, folder, knobs)

            found[f"ours, {bands}x{rows}, {linkage}"] = (start, tools.ours_outcome)
    bands, rows = settings[0]
    if given.datatrove_python is not None:
        numbers = {name: number for number, name in enumerate(ids)}
        found["datatrove"] = (
            lambda folder: tools.datatrove(given.datatrove_python, source, folder, bands, rows),
            lambda folder: tools.datatrove_outcome(folder, numbers),
        )
    if given.text_dedup_python is not None:
        python = given.text_dedup_python
        for name, check in (("text-dedup", None), ("text-dedup, checked at 0.8", 0.8)):

            def start_peer(folder: Path, check: float | None = check) -> Taken:
                return tools.text_dedup(python, source, folder, bands, rows, check=check)

            found[name] = (start_peer, lambda folder: tools.text_dedup_outcome(python, folder, len(ids))[0])
    return found


class Truth:
    """The true similarities of a planted corpus, and how a tool's outcome stands to them."""

    def __init__(self, rows: list[corpora.Row], cache: Path | None) -> None:
        texts = [row["text"] for row in rows]
        self.count = len(rows)
        self.pairs = oracle.cached(texts, FLOOR, cache)
        self.needed = int(np.count_nonzero(self.pairs.similarity >= 0.8))
        number = {row["id"]: place for place, row in enumerate(rows)}
        copies = [(number[row["copy_of"]], place) for place, row in enumerate(rows) if row["copy_of"] is not None]
        ends = np.array(copies, dtype=np.int64).reshape(-1, 2)
        sets = oracle.shingle_sets(texts)
        self.planted = oracle.Pairs(ends[:, 0], ends[:, 1], oracle.similarity(sets, ends[:, 0], ends[:, 1]))

    def judge(self, outcome: tools.Outcome) -> dict[str, Any]:
        """Recall by similarity of planted and of all pairs, and what was removed without a kept document of a similarity."""
        labels = {label: place for place, label in enumerate({str(label) for label in outcome.cluster.values()})}
        cluster = -1 - np.arange(self.count)  # alone
        for row, label in outcome.cluster.items():
            cluster[row] = labels[str(label)]
        kept = np.zeros(self.count, dtype=bool)
        kept[list(outcome.kept)] = True
        best = np.zeros(self.count)  # similarity to the most similar kept document
        for one, other in ((self.pairs.low, self.pairs.high), (self.pairs.high, self.pairs.low)):
            to_kept = kept[other]
            np.maximum.at(best, one[to_kept], self.pairs.similarity[to_kept])
        removed = ~kept
        return {
            "kept": int(kept.sum()),
            "removed": int(removed.sum()),
            "largest_cluster": int(np.unique(cluster[cluster >= 0], return_counts=True)[1].max(initial=0)),
            "removed_best_kept_below": {str(share): int((removed & (best < share)).sum()) for share in SHARES},
            "planted_in_one_cluster": by_band(self.planted, cluster[self.planted.low] == cluster[self.planted.high]),
            "planted_handled": by_band(self.planted, ~(kept[self.planted.low] & kept[self.planted.high])),
            "all_in_one_cluster": by_band(self.pairs, cluster[self.pairs.low] == cluster[self.pairs.high]),
            "all_handled": by_band(self.pairs, ~(kept[self.pairs.low] & kept[self.pairs.high])),
            "recall_at_0.8": {
                "in_one_cluster": _share(self.pairs, cluster[self.pairs.low] == cluster[self.pairs.high]),
                "handled": _share(self.pairs, ~(kept[self.pairs.low] & kept[self.pairs.high])),
            },
        }


def _share(pairs: oracle.Pairs, found: np.ndarray) -> float:
    chosen = pairs.similarity >= 0.8
    return float(found[chosen].mean()) if chosen.any() else 1.0


def by_band(pairs: oracle.Pairs, found: np.ndarray) -> dict[str, tuple[int, float]]:
    """For each range of similarity how many pairs there are and which share of them was found."""
    shares = {}
    for low, high in BANDS:
        chosen = (pairs.similarity >= low) & (pairs.similarity < high)
        if chosen.any():
            shares[f"{low:.1f}"] = (int(chosen.sum()), float(found[chosen].mean()))
    return shares


def show(measured: dict[str, dict[str, Any]], count: int, rounds: int) -> None:
    """The tables."""
    print(f"{'':28} docs/CPU-s   kept  removed, best kept below 0.8/0.7/0.5  MB  recall at 0.8: one cluster, handled")
    for name, facts in measured.items():
        below = "/".join(f"{number:,}" for number in facts["removed_best_kept_below"].values())
        recall = facts["recall_at_0.8"]
        print(
            f"{name:28} {count / facts['cpu']:9,.0f} {facts['kept']:8,} {facts['removed']:7,}  {below:>18}"
            f" {facts['memory'] / 1e6:8,.0f}  {recall['in_one_cluster']:.4f} {recall['handled']:.4f}"
        )
    for kind in ("planted_in_one_cluster", "planted_handled", "all_in_one_cluster", "all_handled"):
        first = next(iter(measured.values()))[kind]
        print(f"{kind.replace('_', ' '):28}", *(f"{band}+ ({pairs})" for band, (pairs, _) in first.items()))
        for name, facts in measured.items():
            print(f"  {name:26}", *(f"{share:.4f}" for _, share in facts[kind].values()))
    print(f"medians of {rounds} interleaved rounds; CPU seconds of the whole process tree, starting included")


if __name__ == "__main__":
    main(sys.argv[1:])
