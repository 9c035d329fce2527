"""Whether merging by the rank of tokens, as tiktoken does, gives the ids that merging by the list of merges gives.

tiktoken knows no merges. It joins any two neighbours whose bytes together are a token, lowest id first, and takes a whole
pre-token that is a token as it is. That gives the same ids for every text if

1. tokens have ids in the order of their merges, and each part of a merge comes before it;
2. merging the bytes of each token by the list gives that token.

For suppose tiktoken joins c and d to X where the list has a and b. Nothing has been joined across the ends of X, and all that
could be joined inside with a lower rank has been. So merging X's bytes alone leads to c and d as well; but by (2) it leads to
a and b. With `ignore_merges` a token that is not reached by merging (against 2) does no harm if it falls into three parts or more.
"""

from __future__ import annotations

import numpy as np

from tokenizer_training.encoding.bpe_file import BytePairs
from tokenizer_training.encoding.merges import merge_each, pair_table
from tokenizer_training.encoding.texts import Texts


def parts_of_tokens(model: BytePairs) -> tuple[np.ndarray, np.ndarray]:
    """How many ids merging makes of the bytes of each token of `model.tokens`, in that order, and the first (int64)."""
    texts = Texts.of_bytes(list(model.tokens))
    counts, firsts = np.zeros(len(texts), np.int64), np.zeros(len(texts), np.int64)
    byte_ids = np.array(model.byte_ids, np.int64)
    merge_each(texts.data, texts.offsets[1:], byte_ids, pair_table(model.merges), counts, firsts)
    return counts, firsts


def unreached(model: BytePairs) -> list[bytes]:
    """The tokens that merging their own bytes does not give."""
    counts, firsts = parts_of_tokens(model)
    numbers = np.fromiter(model.tokens.values(), np.int64, len(model.tokens))
    names = list(model.tokens)
    return [names[i] for i in np.flatnonzero((counts != 1) | (firsts != numbers)).tolist()]


def rank_differences(model: BytePairs) -> list[str]:
    """What stands against merging by rank, a sentence for each fault; none: the ids are the same for every text."""
    faults = []
    made: dict[int, int] = {number: -1 for number in model.byte_ids}
    highest = -1
    for rank, (left, right, merged) in enumerate(model.merges):
        if left not in made or right not in made:
            faults.append(f"merge {rank} joins a token that no earlier merge makes")
        if merged in made and made[merged] < 0:
            faults.append(f"merge {rank} makes a single byte")
        if merged not in made:
            made[merged] = rank
            if merged < highest:
                faults.append(f"merge {rank} makes token {merged}, after merges that make higher ids")
            highest = merged
        elif merged != highest:
            faults.append(f"merge {rank} makes token {merged} again, after other tokens")
        if faults:
            return faults
    counts, firsts = parts_of_tokens(model)
    for (token, number), count, first in zip(model.tokens.items(), counts.tolist(), firsts.tolist(), strict=True):
        if (count, first) != (1, number) and not (model.ignore_merges and count > 2):
            faults.append(f"token {number} ({token!r}) is not what merging its own bytes gives")
    return faults
