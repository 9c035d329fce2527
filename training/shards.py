"""Tensors of which each process holds a part (`DTensor`, as FSDP2 makes them), and those that are whole, by one name."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def is_part(tensor: Tensor) -> bool:
    """Whether it is a `DTensor`, of which each process holds a part."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """A tensor gathered from its shards. All processes must call it."""
    return tensor.full_tensor() if is_part(tensor) else tensor  # type: ignore[attr-defined]


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor: a view, without gradients."""
    return tensor.detach().to_local() if is_part(tensor) else tensor.detach()  # type: ignore[attr-defined]


def part_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Of a tensor that every process has: this process's part, laid out as a sharded parameter; all of it if that is whole."""
    if not is_part(parameter):
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor  # seconds to import, for nothing in one process

    assert isinstance(parameter, DTensor)
    return distribute_tensor(tensor, parameter.device_mesh, parameter.placements, src_data_rank=None)


# Work on whole tensors, shared out: in each turn every process has one tensor, gathered from its parts if they are sharded, computes,
# and gives the others what they need of it. `copies`: processes that each hold all of every tensor (DDP); 1: this one works alone


def turns(tensors: Sequence[Tensor], copies: int = 1) -> Iterator[list[Tensor]]:
    """The tensors, as many at a time as processes share them; large ones together, so that all have like work."""
    at_once = _mesh(tensors[0]).size() if tensors and is_part(tensors[0]) else copies
    ordered = sorted(tensors, key=lambda tensor: -tensor.numel()) if at_once > 1 else tensors
    for start in range(0, len(ordered), at_once):
        yield list(ordered[start : start + at_once])


def one_each(tensors: Sequence[Tensor], copies: int = 1) -> tuple[int, Tensor | None]:
    """Of a turn: the number of the tensor that is this process's to work on, and that tensor, whole; None if there is none left.

    All processes must call it: parts change hands in one exchange.
    """
    if not is_part(tensors[0]):
        mine = dist.get_rank() if copies > 1 else 0
        return mine, tensors[mine] if mine < len(tensors) else None
    mine = _mesh(tensors[0]).get_local_rank()
    sent = [local(tensor).numel() for tensor in tensors]
    shape = tensors[mine].shape if mine < len(tensors) else None
    found = _exchange(torch.cat([local(tensor).flatten() for tensor in tensors]), sent, _sizes(tensors, shape), tensors)
    return mine, None if shape is None else found.view(shape)


def parts_of_each(tensor: Tensor | None, like: Sequence[Tensor], copies: int = 1) -> list[Tensor]:
    """The way back: from what this process made of its tensor, and the others of theirs, what it holds of all of `like`."""
    if not is_part(like[0]):
        if copies == 1:
            assert tensor is not None
            return [tensor]
        mine = dist.get_rank()
        got = [torch.empty_like(one, memory_format=torch.contiguous_format) for one in like]
        if tensor is not None:
            got[mine] = tensor.contiguous()
        for sending in [dist.broadcast(one, src=number, async_op=True) for number, one in enumerate(got)]:
            sending.wait()  # type: ignore[union-attr]
        return got
    parts = [local(one) for one in like]
    sent = torch.empty(0, dtype=parts[0].dtype, device=parts[0].device) if tensor is None else tensor.flatten()
    shape = None if tensor is None else tensor.shape
    received = _exchange(sent, _sizes(like, shape), [part.numel() for part in parts], like)
    return [
        one.view_as(part) for one, part in zip(received.split([part.numel() for part in parts]), parts, strict=True)
    ]


def _sizes(tensors: Sequence[Tensor], shape: torch.Size | None) -> list[int]:
    """Elements that each process holds of a tensor of this shape, cut by rows as `torch.chunk` does."""
    processes = _mesh(tensors[0]).size()
    if shape is None:
        return [0] * processes
    rows = -(-shape[0] // processes)
    return [max(0, min(rows, shape[0] - rows * number)) * math.prod(shape[1:]) for number in range(processes)]


def _exchange(sent: Tensor, to_each: list[int], from_each: list[int], tensors: Sequence[Tensor]) -> Tensor:
    """All to all: stretches of `sent`, one for each process; what they sent to this one, in their order."""
    mesh = _mesh(tensors[0])
    nothing = [0] * mesh.size()
    to_each, from_each = ((sizes + nothing)[: mesh.size()] for sizes in (to_each, from_each))
    got = sent.new_empty(sum(from_each))
    dist.all_to_all_single(got, sent, from_each, to_each, group=mesh.get_group())
    return got


def _mesh(tensor: Any) -> Any:
    """The processes that hold parts of a tensor: by rows, along one dimension, as `parallel.distribute` shards them."""
    (placement,) = tensor.placements
    assert placement.is_shard(0), placement
    return tensor.device_mesh
