"""Our own extractor: parse, find blocks, ask the model, keep what it takes for main content, write it as text."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from stages.extract.blocks import LENGTH, LINKED, Blocks, Floats, find_blocks
from stages.extract.model import BlockModel, load_model, probabilities
from stages.extract.page import Page
from stages.extract.parse import HEADING_1, HEADING_6, Tree
from stages.extract.render import in_data_rows, render

# How likely a block must be, chosen on pages that the model had not seen (docs/extraction.md).
THRESHOLDS = {"balanced": 0.55, "precision": 0.7, "recall": 0.3}
HEADING = 0.2  # a heading right before kept text needs no more: as good by every score, and the structure stays
LEAST_COMMENT = 20  # characters outside links that a block among comments must have
FEW, SMALL_SHARE = (
    500,
    0.2,
)  # characters outside links, and share of the page's: less than both is too little, `balanced` asks for less
LEAST = 0.5  # where nothing is so likely: what is more likely than this share of the likeliest


def choose(probability: Floats, threshold: float) -> npt.NDArray[np.bool_]:
    """Which blocks are kept; at least one, if there is any."""
    if not len(probability):
        return np.zeros(0, np.bool_)
    most = float(probability.max())
    found: Any = probability > (threshold if most > threshold else LEAST * most)
    return np.asarray(found)


def too_little(blocks: Blocks, kept: npt.NDArray[np.bool_]) -> bool:
    """Whether what is kept of a page is so short, and so little of it, that more of it must be main content: a recipe's lists, say."""
    own = blocks.text[:, LENGTH] - blocks.text[:, LINKED]
    found = int(own[kept].sum())
    return found < FEW and found < SMALL_SHARE * int(own.sum())


def with_headings(
    tree: Tree, blocks: Blocks, probability: Floats, kept: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """The kept blocks, and the headings right before them that are not unlikely: a text keeps its structure."""
    kept = kept.copy()
    tags = tree.tag[blocks.container]
    heading = (blocks.container >= 0) & (tags >= HEADING_1) & (tags <= HEADING_6)
    prose = 2 * blocks.text[:, LINKED] < blocks.text[:, LENGTH]
    for block in np.flatnonzero((heading & prose & (probability > HEADING))[:-1])[::-1].tolist():
        kept[block] |= kept[block + 1]
    return kept


class Choice(NamedTuple):
    """A page's blocks, how likely each is main content, and which are kept."""

    blocks: Blocks
    probability: Floats
    kept: npt.NDArray[np.bool_]


class Extractor:
    """The extractor with its model. Raises `ValueError` if the model's file cannot be used."""

    def __init__(
        self, model: Path, favor: str = "balanced", comments: bool = False, tables: bool = True, markdown: bool = False
    ) -> None:
        self._model: BlockModel = load_model(model)
        self._threshold = THRESHOLDS[favor]
        self._second = THRESHOLDS["recall"] if favor == "balanced" else self._threshold
        self._comments, self._tables, self._markdown = comments, tables, markdown

    def choose(self, page: Page) -> Choice:
        """Judge the blocks of a page."""
        blocks = find_blocks(page.tree, self._model.cues)
        probability = probabilities(self._model, page.tree, blocks)
        kept = choose(probability, self._threshold)
        if too_little(blocks, kept):
            kept = choose(probability, self._second)
        kept = with_headings(page.tree, blocks, probability, kept)
        length, linked = blocks.text[:, LENGTH], blocks.text[:, LINKED]
        if self._comments:
            kept = kept | (blocks.comment & (length - linked >= LEAST_COMMENT) & (linked * 2 < length))
        elif (
            2 * length[kept & blocks.comment].sum() <= length[kept].sum()
        ):  # on some pages they are what the page is about
            kept = kept & ~blocks.comment
        if not self._tables and len(kept):
            kept = kept & ~in_data_rows(page.tree, blocks)
        return Choice(blocks, probability, kept)

    def __call__(self, page: Page) -> str:
        """The main text."""
        choice = self.choose(page)
        return render(page.tree, choice.blocks, choice.kept, self._markdown)
