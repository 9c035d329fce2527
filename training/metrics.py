"""What is measured of a run: bits per byte and the unigram baseline, memory, time left; and metrics.jsonl."""

from __future__ import annotations

import json
import math
import os
import resource
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tokenizer_training.dataset.read import TokenDataset
from training.data import Rows, load_batch
from training.knobs import TrainingError

# values of metrics.jsonl that come from clocks and the machine; all others are equal in equal runs
TIMED = frozenset({"seconds", "tokens_per_second", "mfu", "memory_bytes", "data_wait", "seconds_left"})
COUNTED = 2**28  # tokens of the train split that the unigram baseline looks at; documents stand in shuffled order


def bits_per_byte(nats: float, text_bytes: int) -> float:
    """Negative log-likelihood in nats over the bytes of the predicted text, in bits; comparable across tokenizers.

    Over the tokens that stand for text: special ones have no bytes, and their cost is left out, as lm-evaluation-harness
    does for a rolling likelihood.
    """
    return nats / math.log(2) / text_bytes


def token_counts(tokens: TokenDataset, split: str, limit: int = COUNTED) -> np.ndarray:
    """How often each id stands in the split's payload, up to `limit` tokens of it: int64 `[vocab_size]`."""
    counts = np.zeros(tokens.vocab_size, dtype=np.int64)
    for number in range(len(tokens.splits[split])):
        payload = tokens.shard(split, number)[:limit]
        for start in range(0, len(payload), 2**22):
            found = np.bincount(payload[start : start + 2**22], minlength=len(counts))
            if len(found) > len(counts):
                raise TrainingError(
                    f"{tokens.path}: token id {len(found) - 1} is beyond the vocabulary of {len(counts)}"
                )
            counts += found
        limit -= len(payload)
    return counts


def unigram_bits_per_byte(
    counts: np.ndarray, lengths: np.ndarray, split: Rows, rows: int, document_mask: bool
) -> float | None:
    """Bits per byte of a model that knows only how frequent each token is (add-one smoothed), on the same targets.

    The floor that any language model must get well below. None if the rows hold no text.
    """
    nats_each = np.log(counts.sum() + len(counts)) - np.log(counts + 1)
    nats, text_bytes = 0.0, 0
    for row in range(min(rows, len(split))):
        targets = load_batch(split, [row], document_mask).targets.numpy()
        targets = targets[targets >= 0]
        has_text = lengths[targets] > 0
        nats += float(nats_each[targets[has_text]].sum())
        text_bytes += int(lengths[targets].sum())
    return bits_per_byte(nats, text_bytes) if text_bytes else None


def peak_memory(device: torch.device) -> int:
    """Bytes: on CUDA the most that tensors held on the device since `reset_peak_memory`, else the process's peak resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB


def reset_peak_memory(device: torch.device) -> None:
    """Begin a new interval of `peak_memory`, on CUDA; a process's peak cannot be taken back."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


class TimeLeft:
    """How long a run still takes: the steps left by a smoothed duration of a step.

    Durations are from one step's end to the next's, so that validations and saving count too. Their mean weighs the last
    `span` steps most: exponentially, and corrected for its start (Kingma and Ba 2015, section 3).
    """

    def __init__(self, span: int = 100) -> None:
        self.keep = 1 - 2 / (span + 1)
        self.sum = self.weight = 0.0
        self.last: float | None = None

    def after(self, now: float, steps_left: int) -> float | None:
        """Seconds left when a step ended at clock time `now`; None after the first, whose beginning is not known."""
        if self.last is not None:
            self.sum = self.keep * self.sum + (1 - self.keep) * (now - self.last)
            self.weight = self.keep * self.weight + 1 - self.keep
        self.last = now
        return steps_left * self.sum / self.weight if self.weight else None


class MetricsFile:
    """metrics.jsonl: one line a step and one a validation; a resumed run continues behind its checkpoint's step."""

    def __init__(self, path: Path, resume_step: int, skipped: Collection[int] = ()) -> None:
        """Cut off the lines of steps after `resume_step`, and a half-written last line, then append.

        skipped: positions in the data that the checkpoint says were refused: the lines that tell of these stay.
        """
        self.path = path
        self.cut(resume_step, skipped)

    def cut(self, step: int, skipped: Collection[int] = ()) -> None:
        """Drop the lines of steps after `step`, but those that tell why one of these positions was skipped."""
        kept = [line for line in _whole_lines(self.path) if _step_of(line) <= step or _refused(line) in skipped]
        temporary = self.path.with_name(self.path.name + ".tmp")
        temporary.write_bytes(b"".join(kept))
        temporary.replace(self.path)

    def write(self, values: dict[str, Any]) -> None:
        """Append one line by a single write."""
        line = json.dumps(values, allow_nan=False).encode() + b"\n"
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)


def _refused(line: bytes) -> int | None:
    """The position that a line of a rollback tells of."""
    try:
        return json.loads(line)["position"] if b'"event": "rollback"' in line else None
    except (ValueError, KeyError, TypeError):
        return None


def _step_of(line: bytes) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf  # what a power cut left, behind every checkpoint


def _whole_lines(path: Path) -> list[bytes]:
    if not path.exists():
        return []
    lines = path.read_bytes().splitlines(keepends=True)
    return [line for line in lines if line.endswith(b"\n")]
