"""One optimizer step: micro-batches forward and backward, the gradient's norm, the update."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import nn

from training.config import PretrainConfig
from training.data import Batch
from training.device import Place
from training.loss import IGNORED
from training.optimizer import Optimizer, clip_gradient, gradient_norm
from training.parallel import add_up_gradients


class StepResult(NamedTuple):
    """Of one optimizer step, over all processes: mean loss in nats a target, gradient norm before clipping, tokens read."""

    loss: float
    grad_norm: float
    tokens: int


class BadRows(Exception):
    """A step that must not be taken: why, and the rows of this process that are to blame, or may be.

    `finite`: the numbers are, so that it is the rows that are odd, never the weights.
    """

    def __init__(self, why: str, rows: list[int], finite: bool = False) -> None:
        super().__init__(why)
        self.rows, self.finite = rows, finite


def train_step(
    network: nn.Module,
    optimizer: Optimizer,
    batch: Batch,
    config: PretrainConfig,
    here: Place,
    rate: float,
    norm_limit: float = math.inf,
) -> StepResult:
    """One update from this process's rows of the batch, in micro-batches.

    The loss of a step is the sum over all its targets divided by their number, over all processes: how rows are cut
    into micro-batches and processes changes neither loss nor gradient. Raises `BadRows`, and updates nothing, if there
    is no target, the loss or gradient is not finite, or the gradient's norm is over `norm_limit`.
    """
    tokens = int((batch.documents >= 0).sum())
    targets = int((batch.targets != IGNORED).sum())
    counts = here.sum(torch.tensor([tokens, targets], dtype=torch.int64, device=here.device)).tolist()
    if counts[1] == 0:
        raise BadRows("there is nothing to predict", batch.rows, finite=True)

    optimizer.zero_grad()
    total = torch.zeros((), dtype=torch.float64, device=here.device)
    row_losses = []
    parts = list(micro_batches(batch, config.micro_batch_rows, here.device))
    for number, part in enumerate(parts):
        add_up_gradients(network, number == len(parts) - 1)
        documents = part.documents if config.document_mask else None  # without, a row is one text, padded behind
        losses = network(part.tokens, part.targets, documents, real=part.documents >= 0)
        # gradients are averaged over processes, by DistributedDataParallel and by sharding; the sum is wanted
        (losses.objective * (here.world / counts[1])).backward()
        row_losses.append(losses.nll.sum(dim=1))
        total += losses.nll.sum().double()
    norm = gradient_norm(network.parameters())
    loss = float(here.sum(total)) / counts[1]
    if not (math.isfinite(loss) and math.isfinite(float(norm))):
        bad = ~torch.isfinite(torch.cat(row_losses)).cpu().numpy()
        rows = [row for row, is_bad in zip(batch.rows, bad, strict=True) if is_bad]
        why = f"the loss is {loss} and the norm of the gradient {float(norm)}"
        raise BadRows(why, batch.rows if math.isfinite(loss) else rows)
    if float(norm) > norm_limit:
        raise BadRows(
            f"the norm of the gradient, {float(norm):.4g}, is a spike (over {norm_limit:.4g})", batch.rows, finite=True
        )
    clip_gradient(network.parameters(), config.grad_clip, norm)
    optimizer.step(rate)
    return StepResult(loss, float(norm), counts[0])


def micro_batches(batch: Batch, rows: int, device: torch.device) -> Iterator[Batch]:
    """Cut a batch into stretches of at most `rows` rows, on the device."""
    for start in range(0, len(batch.rows), rows):
        part = slice(start, start + rows)
        tokens, targets, documents = (tensor[part].to(device, non_blocking=True) for tensor in batch[:3])
        yield Batch(tokens, targets, documents, batch.rows[part])
