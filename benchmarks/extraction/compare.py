"""Extractors side by side: `python -m benchmarks.extraction.compare --gold DIR ... [--work DIR]`.

Scores on each gold set, by language and by what pages say they are, and pages per CPU second from bytes to text, medians of interleaved rounds. With `--work`, the
folder that `learn` filled, our own extractor judges each page by the model of its fold, which has never seen its site; without, by the
model that ships, which was taught by these pages: its scores are then too good.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from benchmarks.extraction.gold import FOLDS, Page, declared_type, fold_of, read_set, score
from stages.extract import ExtractConfig
from stages.extract.reading import Reader
from stages.language_model import load
from stages.stage import ASSETS

METHODS: dict[str, dict[str, object]] = {
    "gristmill": {},
    "gristmill, precision": {"favor": "precision"},
    "gristmill, recall": {"favor": "recall"},
    "trafilatura, fast": {"method": "trafilatura"},
    "trafilatura": {"method": "trafilatura", "fast": False},
    "trafilatura, precision": {"method": "trafilatura", "fast": False, "favor": "precision"},
    "trafilatura, recall": {"method": "trafilatura", "fast": False, "favor": "recall"},
    "resiliparse": {"method": "resiliparse"},
    "justext": {"method": "justext"},
}
LEAST_PAGES = 10  # of a language or type, to be shown


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gold", type=Path, nargs="+", required=True)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--timed", type=int, default=150, help="pages of each set that are timed in each round")
    given = parser.parse_args()
    logging.disable(logging.ERROR)
    sets = {folder.name: read_set(folder) for folder in given.gold}
    texts = {name: read_all(name, knobs, sets, given.work) for name, knobs in METHODS.items()}
    speeds = time_all(sets, given.rounds, given.timed)
    for set_name, pages in sets.items():
        print(f"\n{set_name}, {len(pages)} pages: F1 (precision / recall), pages/CPU-s")
        for name in METHODS:
            print(f"  {name:24} {score(pages, texts[name][set_name])}  {speeds[name][set_name]:8.1f}")
        kinds = [declared_type(page) for page in pages]
        for part, places in [
            *groups(languages(pages, texts["trafilatura, recall"][set_name])),
            *groups(kinds),
        ]:
            mine = [pages[place] for place in places]
            best = {name: score(mine, [texts[name][set_name][place] for place in places]).f1 for name in METHODS}
            print(f"  {part} ({len(places)}): " + ", ".join(f"{name} {f1:.3f}" for name, f1 in best.items()))


def groups(names: list[str]) -> list[tuple[str, list[int]]]:
    """Places by name, largest first, of names that occur often enough to be shown."""
    found: dict[str, list[int]] = defaultdict(list)
    for place, name in enumerate(names):
        found[name].append(place)
    return sorted(
        ((name, places) for name, places in found.items() if len(places) >= LEAST_PAGES), key=lambda one: -len(one[1])
    )


def reader(knobs: dict[str, object], model: Path | None = None) -> Reader:
    """An extractor, ready."""
    config = ExtractConfig.model_validate({**knobs, "max_tags": 10**9})
    return Reader(config, {"model": model or ASSETS / "extract" / "blocks.npz"})


def read_all(
    name: str, knobs: dict[str, object], sets: dict[str, list[Page]], work: Path | None
) -> dict[str, list[str]]:
    """The texts of all pages."""
    readers: dict[int, Reader] = {}

    def reader_of(page: Page) -> Reader:
        fold = fold_of(page) if work is not None and name.startswith("gristmill") else -1
        if fold not in readers:
            readers[fold] = reader(knobs, work / f"fold-{fold}.npz" if work is not None and fold >= 0 else None)
        return readers[fold]

    assert work is None or all((work / f"fold-{fold}.npz").exists() for fold in range(FOLDS)), (
        f"{work}: run `learn` first"
    )
    return {
        set_name: [reader_of(page).read(page.html, None, page.url).get("text") or "" for page in pages]
        for set_name, pages in sets.items()
    }


def time_all(sets: dict[str, list[Page]], rounds: int, most: int) -> dict[str, dict[str, float]]:
    """Pages per CPU second of each extractor on each set; every round runs all of them one after the other."""
    readers = {name: reader(knobs) for name, knobs in METHODS.items()}
    seen: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for number in range(rounds):
        for set_name, pages in sets.items():
            part = pages[number * most % max(1, len(pages) - most) :][:most]
            for name, one in readers.items():
                seen[name][set_name].append(len(part) / cpu_seconds(one.read, part))
    return {name: {one: statistics.median(values) for one, values in found.items()} for name, found in seen.items()}


def cpu_seconds(read: Callable[[bytes, str | None, str | None], object], pages: list[Page]) -> float:
    """CPU time of reading some pages."""
    started = time.process_time()
    for page in pages:
        read(page.html, None, page.url)
    return time.process_time() - started


def languages(pages: list[Page], texts: list[str]) -> list[str]:
    """The language of each page's text."""
    identify = load(ASSETS / "lid.176.ftz")
    return [identify.best((page.text or text)[:2000]).label for page, text in zip(pages, texts, strict=True)]


if __name__ == "__main__":
    main()
