"""The watch over gradients: what is refused, how a run goes on without it, and whom it names.

A step whose loss or gradient is not finite, or whose gradient norm is a spike, is refused before the optimizer moves. So the
last good state is the one in memory: nothing has to be undone for a batch that is bad. Its position in the data is put on a
list, and update s reads the s-th position that is not on it. If the same update is refused again with the next batch, and
for numbers that are not finite, the state itself is suspect: the run goes back to its newest checkpoint, and all positions
since are skipped (as Chowdhery et al. 2022, PaLM, section 5.1, do by hand). The list is part of each checkpoint, and all
of this depends on the run's own numbers alone: a resumed run decides the same again.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from training.config import PretrainConfig
from training.data import Dataset
from training.device import Place

NAMED = 16  # documents named in a message; metrics.jsonl has all


def position(step: int, skipped: Iterable[int]) -> int:
    """Where in the data update `step` (from 0) reads: the step-th position that is not skipped."""
    at = step
    for one in sorted(skipped):
        if one > at:
            break
        at += 1
    return at


def norm_limit(norms: Sequence[float], config: PretrainConfig) -> float:
    """The largest gradient norm that is no spike; infinite until `spike_window` steps were accepted."""
    if config.spike_factor is None or len(norms) < config.spike_window:
        return math.inf
    return config.spike_factor * statistics.median(norms)


def remember(norms: Sequence[float], norm: float, config: PretrainConfig) -> tuple[float, ...]:
    """The norms of the newest accepted steps; none where nothing is held against them."""
    return () if config.spike_factor is None else (*norms, norm)[-config.spike_window :]


def bad_documents(rows: list[int], data: Dataset, here: Place) -> tuple[list[int], list[dict[str, Any]]]:
    """Rows to blame, of all processes, and their documents: id, source, and URL where the sidecar has one."""
    everyones = sorted({row for found in here.gather(rows) for row in found})
    documents = {document["id"]: document for row in everyones for document in data.documents_of(row)}
    return everyones, list(documents.values())


def describe_documents(documents: Sequence[dict[str, Any]]) -> str:
    """Their ids and URLs, the first ones, for a message."""
    names = [f"{one['id']} ({one['url']})" if one.get("url") else one["id"] for one in documents[:NAMED]]
    more = f" and {len(documents) - NAMED} more" if len(documents) > NAMED else ""
    return ", ".join(names) + more
