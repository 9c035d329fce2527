"""The rungs of a ladder: every size at every budget of compute, so that one set of runs serves both methods of fitting.

Runs of one budget form an isoFLOP curve; all runs together carry the law. Everything but size, steps and learning rate
is the same for all: the data, the row length, the batch, the schedule's form.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from training.config import PretrainConfig, resolve
from training.knobs import TrainingError
from training.planning.laws import batch_and_rate
from training.planning.shapes import count, shape_of, training_flops

# knobs of the base config that a rung sets itself
SIZED = {
    "preset", "depth", "layers", "width", "heads", "kv_heads", "head_width", "mlp_width", "steps", "tokens",
    "learning_rate", "eval_every", "sequence_length",
}  # fmt: skip
FEWEST_STEPS = 20  # a run of fewer has hardly left its warm-up


@dataclass(frozen=True)
class Rung:
    """One run: its size, budget, and the config that `pretrain` gets."""

    name: str
    depth: int
    budget: float  # FLOPs asked for
    flops: float  # of the whole steps that are made
    parameters: int
    tokens: int
    config: PretrainConfig

    def facts(self) -> dict[str, Any]:
        """For scaling.json."""
        return {**asdict(self), "config": self.config.model_dump(mode="json")}


def design(
    base: PretrainConfig, depths: list[int], budgets: list[float], vocab_size: int, sequence_length: int
) -> list[Rung]:
    """Every depth at every budget, by budget and then by size. Raises `TrainingError` for a run of too few steps."""
    return [
        _rung(base, depth, budget, vocab_size, sequence_length)
        for budget in sorted(budgets)
        for depth in sorted(depths)
    ]


def _rung(base: PretrainConfig, depth: int, budget: float, vocab_size: int, sequence_length: int) -> Rung:
    given = base.model_dump(exclude=SIZED)
    given = {**given, "depth": depth, "sequence_length": sequence_length, "tokens": None}
    shape = shape_of(resolve({**given, "steps": 1}), vocab_size, sequence_length)
    per_step = training_flops(shape) * base.batch_rows * sequence_length
    steps = round(budget / per_step)
    name = f"depth-{depth}-{budget:.12g}"  # budgets may differ in late digits only
    if steps < FEWEST_STEPS:
        raise TrainingError(
            f"{name}: {budget:.3g} FLOPs are {steps} steps of {base.batch_rows} rows; at least {FEWEST_STEPS} are needed: "
            "take a larger budget, a smaller depth or fewer batch_rows"
        )
    rate = learning_rate(per_step * steps, base.batch_rows * sequence_length)
    config = resolve({**given, "steps": steps, "eval_every": steps, "learning_rate": rate})
    return Rung(
        name=name,
        depth=depth,
        budget=budget,
        flops=per_step * steps,
        parameters=count(shape).total,
        tokens=steps * base.batch_rows * sequence_length,
        config=config,
    )


def learning_rate(flops: float, batch_tokens: int) -> float:
    """The rate for a budget at a batch of one's own: DeepSeek's, times the root of the share of its batch.

    DeepSeek-AI 2024, equation 1, gives rate and batch together; Malladi et al. 2022 (arXiv 2205.10287): with Adam the
    rate goes with the square root of the batch.
    """
    batch, rate = batch_and_rate(flops)
    return rate * math.sqrt(batch_tokens / batch)


def held_out(rungs: list[Rung]) -> Rung:
    """The run that is predicted from the others before it is trained: the largest model of the largest budget."""
    return max(rungs, key=lambda rung: (rung.budget, rung.parameters))


def check_corpus(rungs: list[Rung], corpus_tokens: int, max_epochs: float) -> None:
    """Raise `TrainingError` if a run would repeat the corpus so often that the law no longer holds for it."""
    most = max(rungs, key=lambda rung: rung.tokens)
    if most.tokens > max_epochs * corpus_tokens:
        raise TrainingError(
            f"{most.name} reads {most.tokens:,} tokens, {most.tokens / corpus_tokens:.1f} epochs of the {corpus_tokens:,} "
            f"there are; repeated tokens teach less, and the fit would take that for a law. More text, smaller budgets, "
            f"no such small depths, or --max-epochs (now {max_epochs:g})"
        )
