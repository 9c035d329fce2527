"""Byte pair encoding learned from counts of pre-tokens: exact 64-bit counts, and the merges that `tokenizers` would make.

The rule is that of tokenizers' BpeTrainer: merge the pair of tokens with the highest count; of equal ones the smaller pair of
ids; pairs of equal tokens overlap from left to right; stop below `min_frequency`. Ids are special tokens, the 256 bytes in
the order of the byte-level alphabet, then merges. `pairs.py` says how it is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tokenizer_training.config import TokenizerError
from tokenizer_training.vocabulary.byte_level import CHARACTER_OF_BYTE
from tokenizer_training.vocabulary.merging import run_merges
from tokenizer_training.vocabulary.pairs import DONE, MERGES, Merger, grow, new_merger
from tokenizer_training.vocabulary.special import SPECIAL_TOKENS

MOST_OCCURRENCES = 2**63 - 1
LONGEST_TOKEN = 2**31 - 1

Progress = Callable[[int, int], None]  # merges made so far, merges wanted


# the bytes in the order of their ids, as `tokenizers` gives them: by the characters that stand for them
BYTES_BY_ID = np.array(sorted(range(256), key=CHARACTER_OF_BYTE.__getitem__), np.uint8)
_RANK_OF_BYTE = np.argsort(BYTES_BY_ID).astype(np.int32)


def byte_ids(special: int) -> np.ndarray:
    """The token id (int32[256]) of each byte, where `special` special tokens come first."""
    ids: np.ndarray = _RANK_OF_BYTE + np.int32(special)
    return ids


def token_bytes(merges: np.ndarray, special_tokens: Sequence[str] = SPECIAL_TOKENS) -> list[bytes]:
    """The bytes of every token, in the order of ids; those of a special token are its name."""
    tokens = [name.encode("utf-8") for name in special_tokens]
    tokens += [bytes([byte]) for byte in BYTES_BY_ID.tolist()]
    for left, right in merges.tolist():
        tokens.append(tokens[left] + tokens[right])
    return tokens


def train_bpe(
    data: np.ndarray,
    offsets: np.ndarray,
    counts: np.ndarray,
    vocab_size: int,
    min_frequency: int = 2,
    max_token_length: int | None = None,
    special_tokens: Sequence[str] = SPECIAL_TOKENS,
    progress: Progress | None = None,
) -> np.ndarray:
    """Merges (int32[M, 2], pairs of token ids, the earliest first) learned from a table of pre-tokens.

    `data` (uint8[N]) are the UTF-8 bytes of the pre-tokens one after the other, `offsets` (int64[W + 1]) where each starts,
    `counts` (int64[W]) how often each occurs; the order of the pre-tokens does not matter. `vocab_size` counts special tokens
    and bytes; fewer merges come back if no pair is left that occurs `min_frequency` times. `max_token_length` is the longest
    token in bytes. No token spells a special token.

    Raises `TokenizerError` for counts below zero, pairs beyond 2^63 in all, or 2^31 bytes of different pre-tokens.
    """
    check_table(data, offsets, counts)
    special = len(special_tokens)
    wanted = vocab_size - special - 256
    if wanted <= 0:
        return np.zeros((0, 2), np.int32)
    longest = LONGEST_TOKEN if max_token_length is None else max_token_length
    widths = np.ones(special + 256, np.int32)

    def begin(forbidden: list[int]) -> Merger:
        return new_merger(data, byte_ids(special), offsets, counts, widths, wanted, min_frequency, longest, forbidden)

    return all_merges(begin, wanted, special_tokens, progress)


def all_merges(
    begin: Callable[[list[int]], Merger], wanted: int, special_tokens: Sequence[str], progress: Progress | None = None
) -> np.ndarray:
    """Run a machine to its end. Where a token would spell a special token, begin again without that merge: text never
    yields a special token, and a vocabulary cannot hold two tokens of one spelling."""
    names = {name.encode("utf-8") for name in special_tokens}
    forbidden: list[int] = []
    while True:
        merges = _run(begin(forbidden), wanted, progress)
        tokens = token_bytes(merges, special_tokens)[len(special_tokens) :]
        clash = next((number for number, token in enumerate(tokens) if token in names), None)
        if clash is None:
            return merges
        left, right = merges[clash - 256].tolist()
        forbidden.append((left << 32) | right)


def _run(merger: Merger, wanted: int, progress: Progress | None) -> np.ndarray:
    step = wanted if progress is None else 1024
    goal = min(step, wanted)
    while True:
        status = run_merges(merger, goal)
        made = int(merger.now[MERGES])
        if status != DONE:
            merger = grow(merger, status)
            continue
        if progress is not None:
            progress(made, wanted)
        if made < goal or goal == wanted:
            return merger.merges[:made].copy()
        goal = min(max(goal, made) + step, wanted)


def check_table(data: np.ndarray, offsets: np.ndarray, counts: np.ndarray) -> None:
    """Raise `TokenizerError` unless data, offsets and counts are a table of pre-tokens whose pairs can be counted."""
    if len(offsets) != len(counts) + 1 or offsets[0] != 0 or offsets[-1] != len(data) or (np.diff(offsets) < 0).any():
        raise TokenizerError(
            f"a table of {len(counts)} counts, {len(offsets)} offsets and {len(data)} bytes does not fit together"
        )
    if len(counts) and counts.min() < 0:
        raise TokenizerError(f"a pre-token has the count {counts.min()}; expected 0 or more")
    if float(np.dot(counts.astype(np.float64), np.diff(offsets))) > MOST_OCCURRENCES / 2:
        exact = sum(int(count) * int(size) for count, size in zip(counts, np.diff(offsets), strict=True))
        if exact > MOST_OCCURRENCES:
            raise TokenizerError(
                f"the counts hold {exact:,} bytes of text; at most 2^63 - 1 can be counted. Lower the weights"
            )
