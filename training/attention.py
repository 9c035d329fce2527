"""Who sees whom, and the kernel that computes it: documents of a row, sliding windows, a cache of earlier positions.

What is visible is one rule, `visible`: a key that is not later, in the same document, and at most `window - 1` positions back. It
comes in the form that suits the device: nothing but "causal", a mask, the lengths of documents that are attended one by
one (CPU), or flex_attention's mask of blocks (CUDA). All give equal results (tested).

Shapes: B rows, L positions, H query heads, K key/value heads, D head width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

BLOCK = 128  # positions: what flex_attention leaves out, or takes without looking, is 128 x 128 pairs


class Sight(NamedTuple):
    """What the queries of some rows see. Nothing given: every key that is not later than the query."""

    mask: Tensor | None = None  # bool [B or 1, 1, L, keys], true where seen
    lengths: list[int] | None = None  # documents of the flattened rows [B * L], each causal in itself
    blocks: BlockMask | None = None  # the same as a mask, by blocks of 128 x 128 positions
    everything: bool = False  # every key


def attend(query: Tensor, key: Tensor, value: Tensor, sight: Sight) -> Tensor:
    """Softmax attention of `[B, H, L, D]` over keys and values `[B, K, keys, D]`; H is a multiple of K.

    Grouped heads are left to the kernel: repeating keys and values would copy them.
    """
    grouped = query.shape[1] != key.shape[1]
    if sight.blocks is not None:
        return _flex(query)(query, key, value, block_mask=sight.blocks, enable_gqa=grouped)
    if sight.lengths is not None:
        return _by_document(query, key, value, sight.lengths, grouped)
    rows, heads, length, width = query.shape
    if (
        length == 1
    ):  # one query sees all keys that it may; those of the heads of a group are as several queries of one head
        folded = query.reshape(rows, key.shape[1], -1, width)
        return F.scaled_dot_product_attention(folded, key, value, attn_mask=sight.mask).view(rows, heads, 1, width)
    causal = sight.mask is None and not sight.everything
    return F.scaled_dot_product_attention(query, key, value, attn_mask=sight.mask, is_causal=causal, enable_gqa=grouped)


def sight_of_rows(
    documents: Tensor | None, length: int, window: int | None, device: torch.device, dtype: torch.dtype
) -> Sight:
    """What whole rows of `length` see, in the form that is fastest on the device. documents: integers `[B, L]` or None."""
    if window is not None and window >= length:
        window = None
    if documents is None and window is None:
        return Sight()
    segment = None if documents is None else document_segments(documents)
    if device.type == "cuda":
        return Sight(blocks=block_mask(segment, length, window, device))
    if segment is not None and not torch.compiler.is_compiling():
        lengths = document_lengths(segment)
        if _one_by_one_is_faster(lengths, segment.shape[0], length, window, dtype):
            return Sight(lengths=lengths)
    return Sight(mask=row_mask(segment, length, window, device))


def sight_of_positions(at: Tensor, start: int, end: int, past: int | None, window: int | None) -> Sight:
    """What queries at positions `at`, int64 `[B or 1, L]`, see of the keys from `start` to before `end` of their rows.

    past: the position of every row's first query, if it is one for all.
    """
    if past == 0 and (window is None or window >= end):
        return Sight()
    if past is not None and at.shape[1] == 1:  # the last position sees all: keys before its window are not in `start`
        return Sight(everything=True)
    keys = torch.arange(start, end, device=at.device)
    return Sight(mask=visible(at[:, None, :, None], keys, window))


def visible(query: Tensor, key: Tensor, window: int | None) -> Tensor:
    """The rule for positions of one document: not later, and inside the window (Mistral 7B, arXiv 2310.06825)."""
    seen = key <= query
    return seen if window is None else seen & (query - key < window)


def document_starts(documents: Tensor) -> Tensor:
    """True at the first position of each document of a row: `[B, L]`.

    A boundary is a change of the packer's document number, never a token id: text may hold any token.
    """
    changed = documents[:, 1:] != documents[:, :-1]
    return F.pad(changed, (1, 0), value=True)


def document_segments(documents: Tensor) -> Tensor:
    """Documents numbered from 1 as they stand in each row: int64 `[B, L]`."""
    return document_starts(documents).cumsum(dim=1)


def document_positions(documents: Tensor) -> Tensor:
    """Positions that restart at 0 in each document: int64 `[B, L]`."""
    index = torch.arange(documents.shape[1], device=documents.device).expand(documents.shape)
    return index - torch.where(document_starts(documents), index, 0).cummax(dim=1).values


def document_lengths(segment: Tensor) -> list[int]:
    """Lengths of the documents of all rows, one after the other; they add up to B * L."""
    rows = torch.arange(segment.shape[0], device=segment.device)[:, None] * (segment.shape[1] + 1)
    return (segment + rows).flatten().unique_consecutive(return_counts=True)[1].tolist()


def row_mask(segment: Tensor | None, length: int, window: int | None, device: torch.device) -> Tensor:
    """The rule as a mask of all pairs: bool `[B or 1, 1, L, L]`."""
    positions = torch.arange(length, device=device)
    mask = visible(positions[:, None], positions, window)[None, None]
    return mask if segment is None else mask & (segment[:, None, :, None] == segment[:, None, None, :])


def block_mask(segment: Tensor | None, length: int, window: int | None, device: torch.device) -> BlockMask:
    """The rule as flex_attention takes it: blocks of pairs that nobody sees are never computed.

    The ends of blocks tell which those are, since documents stand in order; torch's `create_block_mask`, which knows only the rule,
    looks at all L x L pairs.
    """

    def sees(row: Tensor, _: Tensor, query: Tensor, key: Tensor) -> Tensor:
        seen = visible(query, key, window)
        return seen if segment is None else seen & (segment[row, query] == segment[row, key])

    first = torch.arange(0, length, BLOCK, device=device)
    last = (first + BLOCK - 1).clamp(max=length - 1)
    nearest, farthest = visible(first[:, None], last, window), visible(last[:, None], first, window)  # [queries, keys]
    itself = first[:, None] == first
    some, every = nearest | itself, farthest & ~itself & (last - first == BLOCK - 1)[:, None]
    if segment is not None:  # what the nearest pair has in common, some pair has; what the farthest has, all have
        some = some & (segment[:, first, None] == segment[:, None, last]) | itself
        every = every & (segment[:, last, None] == segment[:, None, first])
    some, every = (blocks.view(-1, 1, len(first), len(first)) for blocks in (some & ~every, every))
    return BlockMask.from_kv_blocks(
        *_listed(some), *_listed(every), BLOCK_SIZE=BLOCK, mask_mod=sees, seq_lengths=(length, length)
    )


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Of bool `[..., queries, keys]`: how many keys are true, and their numbers, in front: int32."""
    ordered = blocks.int().argsort(dim=-1, descending=True, stable=True)
    return blocks.sum(dim=-1, dtype=torch.int32), ordered.int()


def _flex(query: Tensor) -> Callable[..., Any]:
    """flex_attention, compiled where it is of use: uncompiled it computes every pair, and a compiled model traces it."""
    flex: Callable[..., Any] = flex_attention
    return _compiled_flex() if query.is_cuda and not torch.compiler.is_compiling() else flex


@cache
def _compiled_flex() -> Callable[..., Any]:
    return torch.compile(flex_attention)


def _by_document(query: Tensor, key: Tensor, value: Tensor, lengths: list[int], grouped: bool) -> Tensor:
    """Each document alone, causal: no L x L mask, and no product of two documents."""
    rows, _, length, _ = query.shape
    # [B, heads, L, D] -> per document [1, heads, n, D]
    queries, keys, values = (
        x.transpose(1, 2).flatten(0, 1).transpose(0, 1)[None].split(lengths, dim=2) for x in (query, key, value)
    )
    found = [
        F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
        for q, k, v in zip(queries, keys, values, strict=True)
    ]
    return torch.cat(found, dim=2)[0].transpose(0, 1).unflatten(0, (rows, length)).transpose(1, 2)


def _one_by_one_is_faster(lengths: list[int], rows: int, length: int, window: int | None, dtype: torch.dtype) -> bool:
    """Whether documents attended one by one beat one call with a mask (docs/models.md has the measurements).

    They save the pairs that nobody sees and cost a call each. In bfloat16 short calls are slow on a CPU.
    """
    if window is not None and max(lengths) > window:
        return False
    pairs = sum(n * n for n in lengths) / (rows * length * length)
    return pairs <= 0.5 and len(lengths) * 16 <= rows * length and length >= (1024 if dtype == torch.bfloat16 else 256)
