"""The block model: two boosted ensembles of decision trees and a table of cue words, in one small file."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from stages.extract import context, features
from stages.extract.blocks import Blocks, Cues, Floats
from stages.extract.parse import Tree
from stages.jit import kernel

FORMAT = 1
FIRST_NAMES = features.NAMES
SECOND_NAMES = (*features.NAMES, *context.NAMES)


DEPTH = 5  # of every tree


class Trees(NamedTuple):
    """An ensemble of perfect binary trees: the sum of one leaf of each is a logit.

    The children of inner node i of a tree are 2i + 1 (feature <= threshold) and 2i + 2; without branches to guess, a processor takes
    several trees at once.
    """

    feature: npt.NDArray[np.int16]  # [trees, 2**DEPTH - 1]
    threshold: Floats  # the same
    leaf: Floats  # [trees, 2**DEPTH]


class BlockModel(NamedTuple):
    """All that was learned."""

    cues: Cues
    first: Trees
    second: Trees


def save_model(model: BlockModel, path: Path) -> None:
    """Write a model: arrays by name, and the names of the features that it was taught with."""
    arrays: dict[str, npt.NDArray[np.generic]] = {
        "format": np.array(FORMAT),
        "first_names": np.array(FIRST_NAMES),
        "second_names": np.array(SECOND_NAMES),
        "cue_keys": model.cues.keys,
        "cue_values": model.cues.values,
    }
    for name in ("first", "second"):
        arrays |= {f"{name}_{field}": array for field, array in getattr(model, name)._asdict().items()}
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]  # its stubs take one of the names for an option


def load_model(path: Path) -> BlockModel:
    """Read a model. Raises `ValueError` saying what is wrong with the file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"it is no block model ({error})") from None
    try:
        if int(arrays["format"]) > FORMAT:
            raise ValueError(f"its format {int(arrays['format'])} is newer than {FORMAT}")
        if (*arrays["first_names"].tolist(),) != FIRST_NAMES or (*arrays["second_names"].tolist(),) != SECOND_NAMES:
            raise ValueError("it was taught with other features than this version computes")
        first, second = (Trees(*(arrays[f"{name}_{field}"] for field in Trees._fields)) for name in ("first", "second"))
        return BlockModel(Cues(arrays["cue_keys"], arrays["cue_values"]), first, second)
    except KeyError as error:
        raise ValueError(f"it is no block model (no {error})") from None


def probabilities(model: BlockModel, tree: Tree, blocks: Blocks) -> Floats:
    """How likely each block is main content, float32 [blocks]."""
    rows, regions = features.features(tree, blocks)
    first = predict(model.first, rows)
    around = context.context(blocks, regions, first)
    ask = context.unsettled(first, around)
    first[ask] = predict(model.second, np.concatenate([rows[ask], around[ask]], axis=1))
    return first


def predict(trees: Trees, rows: Floats) -> Floats:
    """The probability of each row, float32 [rows]."""
    logits = np.zeros(len(rows))
    if len(rows):
        _add_leaves(trees, np.ascontiguousarray(rows), logits)
    found: Floats = (1.0 / (1.0 + np.exp(-logits))).astype(np.float32)
    return found


@kernel
def _add_leaves(trees: Trees, rows: Floats, logits: npt.NDArray[np.float64]) -> None:
    inner = trees.feature.shape[1]
    for tree in range(trees.feature.shape[0]):
        feature, threshold, leaf = trees.feature[tree], trees.threshold[tree], trees.leaf[tree]
        for row in range(rows.shape[0]):
            node = 0
            for _ in range(DEPTH):
                node = 2 * node + 1 + (rows[row, feature[node]] > threshold[node])
            logits[row] += leaf[node - inner]
