"""Teach the block model: `python -m benchmarks.extraction.learn --gold DIR [--warc FILE ...] --work DIR --out blocks.npz`.

Needs lightgbm beside the project's own packages. A block's target is the vote of several extractors on whether it is main content; where
hand-made gold knows better, the gold. Every figure printed is out of fold: of pages whose site the model that judges them has never
seen, with five folds. The model that is written is taught by all pages.
"""

from __future__ import annotations

import argparse
import hashlib
import html
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import lightgbm
import numpy as np
import numpy.typing as npt

from benchmarks.extraction.gold import FOLDS, WORD, Page, fold_of, read_set, read_warcs, score, squash
from benchmarks.extraction.teachers import TEACHERS
from stages.extract import context, features
from stages.extract.blocks import LENGTH, MOST_TOKENS, WORDS, Cues, element_tokens, find_blocks
from stages.extract.charset import decode
from stages.extract.gristmill import THRESHOLDS, choose
from stages.extract.model import DEPTH, BlockModel, Trees, predict, save_model
from stages.extract.parse import Tree, parse

ROUNDS = (160, 120)  # trees of the first and the second model
PARAMETERS = {
    "objective": "cross_entropy",  # targets are probabilities
    "num_leaves": 31,
    "max_depth": DEPTH,
    "learning_rate": 0.08,
    "min_data_in_leaf": 40,
    "feature_fraction": 0.5,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "lambda_l2": 2.0,
    "seed": 1,
    "deterministic": True,
    "force_row_wise": True,
    "verbose": -1,
}
PAGES_OF_A_CUE = 4  # a word must stand on so many pages
CUE_SLOTS = 8192
PAGE_WEIGHT = 300.0  # the most that one page counts
GOLD_WEIGHT, SET_WEIGHT, WARC_WEIGHT = 12.0, 0.6, 0.3
NO_CUES = Cues(np.zeros(16, np.uint64), np.zeros(16, np.float32))
Numbers = npt.NDArray[np.float64]


@dataclass
class Example:
    """A page as the model is taught it."""

    page: Page
    tree: Tree
    texts: list[str]  # of its blocks
    target: Numbers
    weight: Numbers
    fold: int
    words: dict[int, float] = field(default_factory=dict)  # cue word -> share of its blocks' text that is content
    content: float = 0.0  # share of all text that is


def examples(pages: Sequence[Page], votes: dict[str, dict[str, str]]) -> list[Example]:
    """The pages that have any block, with targets. `votes`: teacher -> page id -> text."""
    found = []
    for page in pages:
        text, _ = decode(page.html)
        tree = parse(text.encode("utf-8", "replace"))
        blocks = find_blocks(tree, NO_CUES)
        if not len(blocks.first):
            continue
        texts = block_texts(tree, blocks.of, len(blocks.first))
        words = [[word.lower() for word in WORD.findall(block)] for block in texts]
        target = np.zeros(len(texts))
        for name, (weight, _) in TEACHERS.items():
            target += weight * contained(words, votes[name][page.id])
        weights = np.sqrt(np.maximum(blocks.text[:, WORDS], 1)) * (WARC_WEIGHT if is_warc(page) else SET_WEIGHT)
        if page.text is not None:
            target = 0.5 * target + 0.5 * contained(words, page.text)
        for place, value in segment_labels(page, texts).items():
            target[place], weights[place] = value, max(weights[place], GOLD_WEIGHT)
        weights *= min(1.0, PAGE_WEIGHT / weights.sum())
        fold = fold_of(page)
        example = Example(page, tree, texts, target, weights, fold)
        note_words(example, blocks.first, np.minimum(blocks.text[:, LENGTH], 300).astype(np.float64))
        found.append(example)
    return found


def is_warc(page: Page) -> bool:
    """Whether a page has no gold."""
    return page.text is None and not page.wanted and not page.unwanted


def block_texts(tree: Tree, of: npt.NDArray[np.int32], count: int) -> list[str]:
    """The text of each block."""
    page = tree.page.tobytes()
    parts: list[list[bytes]] = [[] for _ in range(count)]
    for node in np.flatnonzero(of >= 0).tolist():
        parts[of[node]].append(page[tree.begin[node] : tree.end[node]])
    return [html.unescape(b"".join(block).decode("utf-8", "replace")) for block in parts]


def contained(blocks: list[list[str]], text: str) -> Numbers:
    """1 for each block whose words stand in the text in their order (most of its 4-grams, if it is long)."""
    words = [word.lower() for word in WORD.findall(text)]
    flat = f" {' '.join(words)} "
    grams = set(zip(*(words[at:] for at in range(4)), strict=False))
    found = np.zeros(len(blocks))
    for place, block in enumerate(blocks):
        if not block:
            continue
        if len(block) < 8:
            found[place] = f" {' '.join(block)} " in flat
        else:
            mine = list(zip(*(block[at:] for at in range(4)), strict=False))
            found[place] = sum(gram in grams for gram in mine) > 0.5 * len(mine)
    return found


def segment_labels(page: Page, texts: list[str]) -> dict[int, float]:
    """Blocks of which hand-made segments tell whether they are wanted."""
    flat = [squash(text) for text in texts]
    labels: dict[int, float] = {}
    for segments, value in ((page.wanted, 1.0), (page.unwanted, 0.0)):
        for segment in map(squash, segments):
            hits = [place for place, text in enumerate(flat) if segment and segment in text]
            if not hits:  # it spans blocks
                hits = [place for place, text in enumerate(flat) if len(text) > 15 and text in segment]
            if value and len(hits) > 1:
                continue  # one of them is wanted: nobody says which
            for place in hits:
                labels[place] = value if labels.get(place, value) == value else -1.0
    return {place: value for place, value in labels.items() if value >= 0}


def note_words(example: Example, first: npt.NDArray[np.int32], lengths: Numbers) -> None:
    """For each word in a class or id of the page: how much of the text below it is content."""
    lengths = lengths / max(lengths.sum(), 1.0)
    text_to = np.concatenate([[0.0], np.cumsum(lengths)])
    content_to = np.concatenate([[0.0], np.cumsum(lengths * example.target)])
    example.content = content_to[-1]
    sums: dict[int, list[float]] = {}
    hashes = np.empty(MOST_TOKENS, np.uint64)
    tree = example.tree
    for node in np.flatnonzero((tree.tag > 0) & (tree.end > tree.begin)).tolist():
        count, _ = element_tokens(tree.page, tree.begin[node], tree.end[node], hashes)
        low, high = np.searchsorted(first, [node, tree.last[node]])
        if high > low:
            for word in set(hashes[:count].tolist()):
                total = sums.setdefault(word, [0.0, 0.0])
                total[0] += content_to[high] - content_to[low]
                total[1] += text_to[high] - text_to[low]
    prior = example.content
    example.words = {word: (part + 0.01 * prior) / (whole + 0.01) for word, (part, whole) in sums.items()}


def learn_cues(taught: Sequence[Example]) -> Cues:
    """Cue words with the log-odds of content below them, over that of all text; shrunk by two pages' worth of the average."""
    prior = float(np.mean([example.content for example in taught]))
    shares: dict[int, list[float]] = {}
    for example in taught:
        for word, share in example.words.items():
            shares.setdefault(word, []).append(share)
    keys, values = np.zeros(CUE_SLOTS, np.uint64), np.zeros(CUE_SLOTS, np.float32)
    for word in sorted(word for word, found in shares.items() if len(found) >= PAGES_OF_A_CUE):
        mean = (sum(shares[word]) + 2 * prior) / (len(shares[word]) + 2)
        mean = min(max(mean, 0.02), 0.98)
        slot = word & (CUE_SLOTS - 1)
        while keys[slot]:
            slot = (slot + 1) & (CUE_SLOTS - 1)
        keys[slot], values[slot] = word, np.log(mean / (1 - mean)) - np.log(prior / (1 - prior))
    return Cues(keys, values)


def train(rows: Sequence[npt.NDArray[np.float32]], taught: Sequence[Example], rounds: int) -> Trees:
    """Boosted trees on the rows of the examples' blocks."""
    data = lightgbm.Dataset(
        np.concatenate(rows),
        np.concatenate([example.target for example in taught]),
        weight=np.concatenate([example.weight for example in taught]),
    )
    return to_trees(lightgbm.train(PARAMETERS, data, rounds))


def to_trees(booster: lightgbm.Booster) -> Trees:
    """LightGBM's trees, made perfect. Thresholds are rounded down to float32, which decides every float32 alike."""
    dumped = booster.dump_model()["tree_info"]
    inner = 2**DEPTH - 1
    feature, threshold = np.zeros((len(dumped), inner), np.int16), np.full((len(dumped), inner), np.inf, np.float32)
    leaf = np.zeros((len(dumped), inner + 1), np.float32)

    def fill(tree: int, place: int, node: dict) -> None:  # type: ignore[type-arg]  # as LightGBM dumps it
        if place >= inner:
            leaf[tree, place - inner] = node["leaf_value"]
            return
        left = right = node  # a leaf higher up is the end of all ways below it
        if "leaf_value" not in node:
            rounded = np.float32(node["threshold"])
            if float(rounded) > node["threshold"]:
                rounded = np.nextafter(rounded, np.float32(-np.inf))
            feature[tree, place], threshold[tree, place] = node["split_feature"], rounded
            left, right = node["left_child"], node["right_child"]
        fill(tree, 2 * place + 1, left)
        fill(tree, 2 * place + 2, right)

    for number, tree in enumerate(dumped):
        fill(number, 0, tree["tree_structure"])
    return Trees(feature, threshold, leaf)


def teach(taught: Sequence[Example]) -> tuple[Cues, Trees]:
    """Cues and the first model. What a page's own words say of it is left out of its cues, or they would seem too good."""
    rows: list[npt.NDArray[np.float32]] = [np.empty(0, np.float32)] * len(taught)
    parts = [int(hashlib.sha256(f"{example.page.group} cues".encode()).hexdigest(), 16) % 4 for example in taught]
    for part in range(4):
        cues = learn_cues([example for example, other in zip(taught, parts, strict=True) if other != part])
        for place, other in enumerate(parts):
            if other == part:
                rows[place] = features.features(taught[place].tree, find_blocks(taught[place].tree, cues))[0]
    return learn_cues(taught), train(rows, taught, ROUNDS[0])


def look_twice(example: Example, cues: Cues, first: Trees) -> npt.NDArray[np.float32]:
    """Rows for the second model."""
    blocks = find_blocks(example.tree, cues)
    rows, regions = features.features(example.tree, blocks)
    return np.concatenate([rows, context.context(blocks, regions, predict(first, rows))], axis=1)


def judge(second: Trees, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """What both models say, as `model.probabilities` puts it together."""
    around = rows[:, len(features.NAMES) :]
    first = around[:, 0].copy()
    ask = context.unsettled(first, around)
    first[ask] = predict(second, rows[ask])
    return first


def report(found: Sequence[Example], probability: Sequence[npt.NDArray[np.float32]]) -> None:
    """Print the scores of each set at several thresholds, those of the product's modes among them."""
    named = {threshold: favor for favor, threshold in THRESHOLDS.items()}
    for name in sorted({example.page.set for example in found if not is_warc(example.page)}):
        mine = [place for place, example in enumerate(found) if example.page.set == name]
        for threshold in sorted({*named, 0.4, 0.45, 0.5, 0.6, 0.65, 0.7}):
            texts = []
            for place in mine:
                kept = choose(probability[place], threshold)
                texts.append(
                    "\n".join(squash(text) for text, keep in zip(found[place].texts, kept, strict=True) if keep)
                )
            scored = score([found[place].page for place in mine], texts)
            print(f"{name}, over {threshold} {named.get(threshold, '')}: {scored}", flush=True)


def read_votes(pages: Sequence[Page], work: Path) -> dict[str, dict[str, str]]:
    """What each teacher makes of each page; kept in `work`, since some of them are slow."""
    votes = {}
    for name, (_, text_of) in TEACHERS.items():
        kept = work / f"{name.replace(' ', '_')}.json"
        have = json.loads(kept.read_text()) if kept.exists() else {}
        for page in pages:
            if page.id not in have:
                have[page.id] = text_of(decode(page.html)[0])
        kept.write_text(json.dumps(have))
        votes[name] = have
    return votes


def main() -> None:
    """Teach, say how good it is out of fold, write the model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gold", type=Path, nargs="+", required=True, help="folders of gold sets")
    parser.add_argument(
        "--warc", type=Path, nargs="*", default=[], help="WARC files of other pages, taught by the teachers alone"
    )
    parser.add_argument("--every", type=int, default=3, help="take every n-th page of those")
    parser.add_argument("--work", type=Path, required=True, help="folder for what the teachers said")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    pages = [page for folder in given.gold for page in read_set(folder)] + list(read_warcs(given.warc, given.every))
    found = examples(pages, read_votes(pages, given.work))
    print(f"{len(found)} pages, {sum(len(example.texts) for example in found)} blocks", flush=True)

    seconds: list[npt.NDArray[np.float32]] = [np.empty(0, np.float32)] * len(found)
    firsts = [teach([example for example in found if example.fold != fold]) for fold in range(FOLDS)]
    for fold, (cues, first) in enumerate(firsts):
        for place, example in enumerate(found):
            if example.fold == fold:
                seconds[place] = look_twice(example, cues, first)
    probability: list[npt.NDArray[np.float32]] = [np.empty(0, np.float32)] * len(found)
    for fold in range(FOLDS):
        others = [place for place, example in enumerate(found) if example.fold != fold]
        second = train([seconds[place] for place in others], [found[place] for place in others], ROUNDS[1])
        save_model(BlockModel(*firsts[fold], second), given.work / f"fold-{fold}.npz")  # for `compare`
        for place, example in enumerate(found):
            if example.fold == fold:
                probability[place] = judge(second, seconds[place])
    report(found, probability)

    cues, first = teach(found)
    save_model(BlockModel(cues, first, train(seconds, found, ROUNDS[1])), given.out)
    print(f"{given.out}: {given.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
