"""Adapters as peft has them: adapter_config.json and adapter_model.safetensors, for every family (save.py and load.py).

peft knows the modules of transformers. Where those join several of our matrices in one (q, k and v of GPT-2 and GPT-NeoX), the
adapters are joined too, exactly: their A below each other, their B in a block each, so the rank is the sum of the ranks. A note
in the file's metadata says what was joined; without it, in files of others, each matrix gets a copy of A and its rows of B.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from training.architectures import Entry, family, table
from training.model import ModelConfig

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."


class Module(NamedTuple):
    """A linear module of transformers: its name, the linear maps of ours that it joins, and the way of their rows."""

    theirs: str
    ours: tuple[str, ...]
    join: Callable[[list[Tensor]], Tensor]  # [rows, n] each -> [all rows, n]
    part: Callable[[Tensor], list[Tensor]]


def modules(config: ModelConfig) -> list[Module]:
    """The modules of transformers that may have an adapter, by the table that the weights are saved by."""
    turned = family(config) in ("gpt2", "gpt2 post")  # Conv1D keeps its weight the other way round
    found = []
    for entry in table(config):
        names = tuple(name.removesuffix(".weight") for name in entry.ours)
        linear = entry.theirs.endswith(".weight") and bool(names) and all(name.endswith("_proj") for name in names)
        if linear and ".experts." not in names[0]:
            found.append(Module(entry.theirs.removesuffix(".weight"), names, *_ways(entry, turned)))
    return found


def _ways(entry: Entry, turned: bool) -> tuple[Callable[[list[Tensor]], Tensor], Callable[[Tensor], list[Tensor]]]:
    def join(parts: list[Tensor]) -> Tensor:
        return entry.pack(parts).T if turned else entry.pack(parts)

    def part(joined: Tensor) -> list[Tensor]:
        return entry.unpack(joined.T if turned else joined)

    return join, part
