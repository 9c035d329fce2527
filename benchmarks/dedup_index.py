"""The index of documents: speed and size by number of documents, decisions against exact Jaccard, beside theory.

Speed: documents of 300 words, chunks of 20 words of real pages in random order, so that none is near another; half of the queries are
copies with 5 changed words. Decisions: the releases of the near-duplicate set (`docs.jsonl.xz` and `pairs.jsonl.xz`, the exact Jaccard of
every pair), an index of each release asked for the documents of all others, with several seeds. Theory: the same decision for
independent permutations, simulated.

    python -m benchmarks.dedup_index --pairs FOLDER [--documents N ...] [--seeds N] [--permutations N ...]
"""

from __future__ import annotations

import argparse
import json
import lzma
import pickle
import random
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np

from stages.dedup.index_build import Documents, Selection, build_part, merge_parts
from stages.dedup.index_format import Part
from stages.dedup.index_hash import CHANCE, IndexParameters, estimate, hash_documents
from stages.dedup.index_lookup import Matches, look_up
from stages.dedup.shingles import shingles

BINS = (0.3, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0001)
THRESHOLD = 0.8
BATCH = 512
PIECE = 25_000


def read(path: Path) -> list[dict]:
    with lzma.open(path, "rt") as file:
        return [json.loads(line) for line in file]


def ask(part: Part, texts: list[str], parameters: IndexParameters) -> Iterator[tuple[int, Matches, np.ndarray]]:
    """First row of each batch, the matches of its documents that have a text, and which rows these are."""
    for start in range(0, len(texts), BATCH):
        some = texts[start : start + BATCH]
        hashed = hash_documents(some, [None] * len(some), parameters)
        yield start, look_up([part], hashed, parameters), hashed.kept


def chunks(texts: list[str]) -> list[str]:
    words = " ".join(texts).split()
    return [" ".join(words[i : i + 20]) for i in range(0, len(words) - 20, 20)]


def made(pool: list[str], seed: int, count: int) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(pool, k=15)) for _ in range(count)]


def speed(pool: list[str], counts: list[int]) -> None:
    parameters = IndexParameters()
    largest = max(counts)
    warm = made(pool, 0, 50)
    with tempfile.TemporaryDirectory() as folder:
        build_part([Documents(warm, warm, warm)], parameters, "warm", Path(folder) / "warm")
        list(ask(Part.at(Path(folder) / "warm"), warm, parameters))
        texts = made(pool, 1, largest)
        pieces, seconds = [], []
        for number, start in enumerate(range(0, largest, min(PIECE, min(counts)))):
            some = texts[start : start + min(PIECE, min(counts))]
            ids = [f"{start + i:032x}" for i in range(len(some))]
            batches = [
                Documents(ids[i : i + BATCH], ["crawl"] * len(some[i : i + BATCH]), some[i : i + BATCH])
                for i in range(0, len(some), BATCH)
            ]
            began = time.process_time()
            build_part(batches, parameters, "r", Path(folder) / str(number))
            seconds.append(time.process_time() - began)
            pieces.append((start + len(some), Selection(Path(folder) / str(number))))
        for count in counts:
            selections = [selection for end, selection in pieces if end <= count]
            target = Path(folder) / f"whole-{count}"
            began = time.process_time()
            facts = merge_parts(selections, target)
            merged = time.process_time() - began
            part = Part.at(target)
            rng = random.Random(3)
            new, copies = made(pool, 2, 3000), []
            for text in rng.choices(texts[:count], k=3000):
                words = text.split()
                for place in rng.sample(range(len(words)), 5):
                    words[place] = "changed"
                copies.append(" ".join(words))
            hashing, rates = [], defaultdict(list)
            for round_ in range(3):
                for name, asked in (("new", new[round_::3]), ("copies", copies[round_::3])):
                    began = time.process_time()
                    for start in range(0, len(asked), BATCH):
                        hash_documents(asked[start : start + BATCH], [None] * BATCH, parameters)
                    hashing.append(len(asked) / (time.process_time() - began))
                    began = time.process_time()
                    hits = sum(int((m.similarity >= THRESHOLD).sum()) for _, m, _ in ask(part, asked, parameters))
                    rates[name].append(len(asked) / (time.process_time() - began))
            build = count / (sum(seconds[: len(selections)]) + merged)
            by_kind = {
                kind: sum(f.size for name, f in facts.files.items() if name.startswith(kind)) / count
                for kind in ("ids", "signatures", "exact", "band")
            }
            print(
                f"{count:,} documents: build {build:,.0f}/CPU-s (merge alone {count / merged:,.0f}), query"
                f" {statistics.median(rates['new']):,.0f}/CPU-s new, {statistics.median(rates['copies']):,.0f} copies ({hits} of"
                f" {len(asked)} found), hashing alone {statistics.median(hashing):,.0f}; {facts.size / count:.1f} bytes a document: "
                + ", ".join(f"{kind} {size:.1f}" for kind, size in by_kind.items())
            )


def beside_datasketch(pool: list[str], count: int = 3000, rounds: int = 3) -> None:
    """datasketch's MinHashLSH, 14 by 8, given the same shingles as hashes already; it verifies nothing."""
    from datasketch import MinHash, MinHashLSH

    parameters = IndexParameters()
    used = parameters.bands * parameters.rows
    texts, asked = made(pool, 5, count), made(pool, 6, count)
    rates = defaultdict(list)

    def sketch(text: str) -> MinHash:
        minhash = MinHash(num_perm=used, seed=1, scheme="affine64", hashfunc=int)
        minhash.update_batch(next(shingles([text], parameters.ngram)).tolist())
        return minhash

    size = 0
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            columns = [texts[i : i + BATCH] for i in range(0, count, BATCH)]
            began = time.process_time()
            build_part([Documents(some, some, some) for some in columns], parameters, "r", Path(folder))
            rates["build here"].append(count / (time.process_time() - began))
            began = time.process_time()
            list(ask(Part.at(Path(folder)), asked, parameters))
            rates["query here"].append(count / (time.process_time() - began))
        lsh = MinHashLSH(num_perm=used, params=(parameters.bands, parameters.rows))
        began = time.process_time()
        for number, text in enumerate(texts):
            lsh.insert(number, sketch(text))
        rates["build datasketch"].append(count / (time.process_time() - began))
        began = time.process_time()
        for text in asked:
            lsh.query(sketch(text))
        rates["query datasketch"].append(count / (time.process_time() - began))
        size = len(pickle.dumps(lsh)) // count
    print(", ".join(f"{name} {statistics.median(found):,.0f}/CPU-s" for name, found in rates.items()))
    print(f"  datasketch, pickled, without ids or signatures: {size} bytes a document")


def theory(similarity: np.ndarray, parameters: IndexParameters, rounds: int = 10_000) -> np.ndarray:
    """Probability that a pair of each similarity shares a band and is estimated at the threshold."""
    rng = np.random.default_rng(1)
    used = parameters.bands * parameters.rows
    found = []
    for one in similarity:
        equal = rng.random((rounds, parameters.permutations)) < one
        shared = equal[:, :used].reshape(rounds, parameters.bands, parameters.rows).all(axis=2).any(axis=1)
        same = (equal | (rng.random(equal.shape) < CHANCE)).sum(axis=1)
        found.append((shared & (estimate(same, parameters.permutations) >= THRESHOLD)).mean())
    return np.array(found)


def decisions(folder: Path, seeds: int, permutations: int) -> None:
    documents = read(folder / "docs.jsonl.xz")
    version = {d["id"]: str(d["version"]) + str(d["package"]) for d in documents}
    best: dict[tuple[str, str], float] = defaultdict(float)  # (document, release) -> similarity of the nearest in it
    for pair in read(folder / "pairs.jsonl.xz"):
        for one, other in ((pair["a"], pair["b"]), (pair["b"], pair["a"])):
            key = (one, version[other])
            best[key] = max(best[key], pair["jaccard_w5"])
    rows: list[tuple[float, bool]] = []
    errors: list[float] = []
    for seed in range(1, seeds + 1):
        parameters = IndexParameters(seed=seed, permutations=permutations)
        for release in sorted(set(version.values())):
            inside = [d for d in documents if version[d["id"]] == release]
            outside = [d for d in documents if version[d["id"]] != release]
            with tempfile.TemporaryDirectory() as temporary:
                columns = Documents([d["id"] for d in inside], [None] * len(inside), [d["text"] for d in inside])
                build_part([columns], parameters, release, Path(temporary))
                part = Part.at(Path(temporary))
                for start, matches, kept in ask(part, [d["text"] for d in outside], parameters):
                    for place, row in enumerate(kept.tolist()):
                        similarity = float(matches.similarity[place])
                        truth = best[(outside[start + row]["id"], release)]
                        rows.append((truth, bool(matches.exact[place]) or similarity >= THRESHOLD))
                        if similarity >= THRESHOLD and not matches.exact[place]:
                            errors.append(similarity - truth)
    truth, dropped = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    grid = np.linspace(0.3, 1, 71)
    curve = theory(grid, IndexParameters(permutations=permutations))
    expected = np.where(truth < 0.3, 0, np.interp(truth, grid, curve))
    print(f"{len(documents):,} documents, {len(rows):,} queries, {seeds} seeds, {permutations} permutations")
    for low, high in pairwise(BINS):
        inside_bin = (truth >= low) & (truth < high)
        if inside_bin.any():
            print(
                f"  nearest {low:.2f} to {min(high, 1):.2f}: {inside_bin.sum():6,} asked, dropped {dropped[inside_bin].mean():.4f},"
                f" theory {expected[inside_bin].mean():.4f}"
            )
    above = truth >= THRESHOLD
    print(
        f"  recall at {THRESHOLD}: {dropped[above].mean():.4f} (theory {expected[above].mean():.4f}); wrong drops"
        f" {(dropped & ~above).sum():,} of {dropped.sum():,} dropped, {(dropped & ~above).sum() / dropped.sum():.4f} (theory"
        f" {expected[~above].sum() / expected.sum():.4f}); of documents below the threshold {(dropped & ~above).sum() / (~above).sum():.4f}"
    )
    wrong = truth[dropped & ~above]
    if len(wrong):
        print(f"  wrong drops: median true similarity {np.median(wrong):.3f}, least {wrong.min():.3f}")
    print(f"  error of the estimate among near duplicates: mean {np.mean(errors):+.4f}, deviation {np.std(errors):.4f}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=Path, default=Path("data/neardup"))
    parser.add_argument("--documents", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--permutations", type=int, nargs="+", default=[256, 1024])
    options = parser.parse_args(sys.argv[1:] if __name__ == "__main__" else [])
    if not (options.pairs / "docs.jsonl.xz").exists():
        print(f"dedup_index: no near-duplicate set in {options.pairs}; name its folder with --pairs")
        return
    for permutations in options.permutations:
        decisions(options.pairs, options.seeds, permutations)
    pool = chunks([d["text"] for d in read(options.pairs / "docs.jsonl.xz")])
    beside_datasketch(pool)
    speed(pool, options.documents)


if __name__ == "__main__":
    main()
