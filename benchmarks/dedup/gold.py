"""Scores on real near-duplicates: pairs, removed documents and clusters against the exact similarity of all pairs.

    python -m benchmarks.dedup.gold [--documents FILE ...] [--threshold 0.8] [--predictions FOLDER] [--json FILE]
                                    [--datatrove-python PATH] [--text-dedup-python PATH]

Gold pairs have the similarity or more (`oracle.py`). *Pairs*: both in one cluster. *Removed*: a document is a duplicate if a gold pair joins it to
an earlier one, and found if it is not the first of its cluster. *Clusters*: B-cubed (Bagga and Baldwin 1998) and the adjusted Rand index
against the connected components of the gold pairs, which linkage `star` does not aim at. `--predictions` writes each tool's rows of `id`
(the document's number) and `cluster` there. Whole documents, as they stand in the files; ours with linkage `star` and `component`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.dedup import corpora, oracle, tools

LOWEST = 0.3
Score = dict[str, float]


def main(arguments: Sequence[str] = ()) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=Path, nargs="+", default=corpora.SAMPLE)
    parser.add_argument("--threshold", type=float, default=0.8)
    parser.add_argument("--bands", type=int, default=14)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--datatrove-python", type=Path)
    parser.add_argument("--text-dedup-python", type=Path)
    parser.add_argument("--predictions", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    texts = corpora.documents(given.documents)
    pairs = oracle.cached(texts, LOWEST, given.cache)
    enough = pairs.similarity >= given.threshold
    gold = oracle.Pairs(pairs.low[enough], pairs.high[enough], pairs.similarity[enough])
    print(
        f"{len(texts):,} documents, {len(gold.low):,} pairs at {given.threshold} and above, {given.bands}x{given.rows}"
    )
    found = {name: label(len(texts), outcome) for name, outcome in outcomes(texts, given).items()}
    scores = {name: judge(cluster, pairs, gold) for name, cluster in found.items()}
    show(scores)
    if given.predictions is not None:
        given.predictions.mkdir(parents=True, exist_ok=True)
        for name, cluster in found.items():
            rows = (json.dumps({"id": row, "cluster": int(one)}) for row, one in enumerate(cluster))
            (given.predictions / f"{name.replace(' ', '-')}.jsonl").write_text("\n".join(rows) + "\n")
    if given.json is not None:
        given.json.write_text(json.dumps(scores, indent=1))


def outcomes(texts: list[str], given: argparse.Namespace) -> dict[str, tools.Outcome]:
    """What each tool does to the documents."""
    found: dict[str, tools.Outcome] = {}
    bands, rows = given.bands, given.rows
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        source = place / "gold.jsonl"
        corpora.write(
            ({"id": f"d{row:07d}", "text": text, "copy_of": None} for row, text in enumerate(texts)),
            source,
        )
        for linkage in ("star", "component"):
            knobs = {"linkage": linkage, "bands": bands, "rows": rows, "threshold": given.threshold}
            tools.ours(source, place / linkage, knobs)
            found[f"ours {linkage}"] = tools.ours_outcome(place / linkage)
        if given.datatrove_python is not None:
            tools.datatrove(given.datatrove_python, source, place / "datatrove", bands, rows)
            ids = {f"d{row:07d}": row for row in range(len(texts))}
            found["datatrove"] = tools.datatrove_outcome(place / "datatrove", ids)
        if given.text_dedup_python is not None:
            for name, check in (("text-dedup", None), ("text-dedup checked", given.threshold)):
                tools.text_dedup(given.text_dedup_python, source, place / name, bands, rows, check=check)
                found[name], _ = tools.text_dedup_outcome(given.text_dedup_python, place / name, len(texts))
    return found


def label(count: int, outcome: tools.Outcome) -> np.ndarray:
    """A cluster number for each document; those in no cluster have one of their own."""
    numbers: dict[str, int] = {}
    cluster = np.arange(count)
    for row, name in outcome.cluster.items():
        cluster[row] = numbers.setdefault(str(name), count + len(numbers))
    return cluster


def judge(cluster: np.ndarray, pairs: oracle.Pairs, gold: oracle.Pairs) -> Score:
    """Scores of one tool; `pairs` are all pairs down to `LOWEST`."""
    sizes = np.array(list(Counter(cluster.tolist()).values()))
    joined = int((sizes * (sizes - 1) // 2).sum())
    right = int((cluster[gold.low] == cluster[gold.high]).sum())
    near = int((cluster[pairs.low] == cluster[pairs.high])[pairs.similarity >= 0.5].sum())
    first = {name: row for row, name in reversed(list(enumerate(cluster.tolist())))}
    removed = np.array([first[name] != row for row, name in enumerate(cluster.tolist())])
    duplicate = np.zeros(len(cluster), dtype=bool)
    duplicate[gold.high] = True
    true = components(len(cluster), gold)
    return {
        **_scores("pairs", right, joined, len(gold.low)),
        "joined_below_0.5": joined - near,
        **_scores("removed", int((removed & duplicate).sum()), int(removed.sum()), int(duplicate.sum())),
        **b_cubed(cluster, true),
        "adjusted_rand": adjusted_rand(cluster, true),
        "largest_cluster": int(sizes.max(initial=0)),
    }


def _scores(name: str, right: int, found: int, wanted: int) -> Score:
    precision, recall = right / max(1, found), right / max(1, wanted)
    f1 = 2 * precision * recall / (precision + recall) if right else 0.0
    return {f"{name}_precision": precision, f"{name}_recall": recall, f"{name}_f1": f1}


def components(count: int, pairs: oracle.Pairs) -> np.ndarray:
    """Connected components, by union and find over Python integers: not the code under test."""
    parent = list(range(count))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for low, high in zip(pairs.low.tolist(), pairs.high.tolist(), strict=True):
        parent[root(high)] = root(low)
    return np.array([root(row) for row in range(count)])


def b_cubed(cluster: np.ndarray, true: np.ndarray) -> Score:
    """Over documents, the mean share of its cluster that is rightly there (precision), and of its true cluster that is there (recall)."""
    both = Counter(zip(cluster.tolist(), true.tolist(), strict=True))
    found, wanted = Counter(cluster.tolist()), Counter(true.tolist())
    precision = sum(number**2 / found[one] for (one, _), number in both.items()) / len(cluster)
    recall = sum(number**2 / wanted[other] for (_, other), number in both.items()) / len(cluster)
    return {
        "bcubed_precision": precision,
        "bcubed_recall": recall,
        "bcubed_f1": 2 * precision * recall / (precision + recall),
    }


def adjusted_rand(cluster: np.ndarray, true: np.ndarray) -> float:
    """Agreement of two partitions about pairs, 0 for chance and 1 for equal (Hubert and Arabie 1985)."""

    def pairs_of(labels: list[object]) -> float:
        return sum(number * (number - 1) / 2 for number in Counter(labels).values())

    both = pairs_of(list(zip(cluster.tolist(), true.tolist(), strict=True)))
    found, wanted = pairs_of(cluster.tolist()), pairs_of(true.tolist())
    chance = found * wanted / (len(cluster) * (len(cluster) - 1) / 2)
    top = (found + wanted) / 2
    return 1.0 if top == chance else (both - chance) / (top - chance)


def show(scores: dict[str, Score]) -> None:
    """The table."""
    print(
        f"{'':20} pairs P / R / F1        joined<0.5  removed P / R / F1      B-cubed P / R / F1      Rand    largest"
    )
    for name, one in scores.items():
        cells = [
            " / ".join(f"{one[f'{kind}_{part}']:.3f}" for part in ("precision", "recall", "f1"))
            for kind in ("pairs", "removed", "bcubed")
        ]
        print(
            f"{name:20} {cells[0]:24} {one['joined_below_0.5']:9,}  {cells[1]:24}{cells[2]:24}"
            f"{one['adjusted_rand']:.4f} {one['largest_cluster']:8}"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
