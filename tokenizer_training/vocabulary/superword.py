"""A second stage of merges that may cross the spaces between words (SuperBPE, arXiv 2503.13423).

The first stage learns from pre-tokens. Then chunks of text (`chunks.py`) are segmented by its merges, in their order and
without regard to words, as any encoder will, and merging goes on from there.

So encoding needs no second pass: the expression for chunks as the pre-tokenizer, and all merges by rank.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tokenizer_training.vocabulary.bpe import LONGEST_TOKEN, Progress, all_merges, byte_ids, check_table
from tokenizer_training.vocabulary.merging import replay
from tokenizer_training.vocabulary.pairs import DONE, MIN_FREQUENCY, grow, new_merger
from tokenizer_training.vocabulary.special import SPECIAL_TOKENS


def train_superwords(
    data: np.ndarray,
    offsets: np.ndarray,
    counts: np.ndarray,
    first: np.ndarray,
    vocab_size: int,
    min_frequency: int = 2,
    max_token_length: int | None = None,
    special_tokens: Sequence[str] = SPECIAL_TOKENS,
    progress: Progress | None = None,
) -> np.ndarray:
    """All merges (int32[M, 2]): those of the first stage, `first`, then those learned from a table of chunks.

    `data`, `offsets`, `counts` are a table of chunks as `train_bpe` takes one of pre-tokens; the other knobs are as there.
    """
    check_table(data, offsets, counts)
    special = len(special_tokens)
    wanted = vocab_size - special - 256
    if wanted <= len(first):
        return first[: max(wanted, 0)]
    longest = LONGEST_TOKEN if max_token_length is None else max_token_length

    def begin(forbidden: list[int]):  # type: ignore[no-untyped-def]
        widths = np.ones(special + 256, np.int32)
        # every pair is kept until the first stage is done, which may merge one that is rare among chunks
        merger = new_merger(data, byte_ids(special), offsets, counts, widths, wanted, 1, longest, forbidden)
        status = replay(merger, first)
        while status != DONE:
            merger = grow(merger, status)
            status = replay(merger, first)
        merger.now[MIN_FREQUENCY] = max(min_frequency, 1)
        return merger

    return all_merges(begin, wanted, special_tokens, progress)
