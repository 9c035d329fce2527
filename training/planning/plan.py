"""One plan from one question: the laws side by side, a model, its budget, memory, time and money. A pure function.

Everything is plain numbers in a dict, ready for JSON; `text.py` writes it for people.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from training.config import PretrainConfig
from training.planning import adjusted
from training.planning.check import way_of
from training.planning.hardware import CPU, Gpu, gpu
from training.planning.laws import (
    BESIROGLU,
    DEFAULT_LAW,
    HOFFMANN,
    LAWS,
    MUENNIGHOFF,
    Law,
    batch_and_rate,
    find,
    flops_for,
)
from training.planning.memory import Parallel, Way, estimate, key_value_cache
from training.planning.resources import RECOMPUTE, cheapest_way, fits, hours, way_of_share
from training.planning.shapes import Shape, at_depth, count, nearest_depth, shape_of, training_flops

FORMAT = 1
LOSSES = {"chinchilla-3": HOFFMANN, "besiroglu": BESIROGLU, "muennighoff": MUENNIGHOFF}
BATCH_RANGE = (1e17, 2e19)  # FLOPs in which `batch_and_rate` was fitted
FAR = 1.25  # times: a model of another size than was asked for
MANY_EPOCHS = 4  # up to here repeats are nearly as good as new tokens (Muennighoff et al. 2023, section 6.1)


@dataclass(frozen=True)
class Question:
    """What a plan starts from. Of flops, tokens and parameters give one, or tokens and parameters, or a `config`.

    config: model, batch, learning rate and way of computing are given; `tokens` are those of its steps. Otherwise the
    rows of a micro-batch are as many as fit. mfu: the share of the peak that is reached. count: how many GPUs to plan for.
    """

    flops: float | None = None
    tokens: float | None = None
    parameters: float | None = None
    config: PretrainConfig | None = None
    law: str = DEFAULT_LAW
    vocab_size: int = 50_304
    context_length: int = 2_048
    corpus_tokens: float | None = None
    inference_tokens: float | None = None
    gpus: tuple[Gpu, ...] = field(default_factory=lambda: (gpu("h100"),))
    bytes_per_element: int = 2  # of a config's activations on GPUs
    bytes_on_cpu: int = 4
    mfu: float = 0.4
    price_per_hour: float | None = None
    count: int = 8


def make(question: Question) -> dict[str, Any]:
    """The plan. Raises ValueError if the question cannot be answered."""
    law = find(question.law)
    shape, tokens, asked = _model(question, law)
    per_token = training_flops(shape)
    flops = per_token * tokens
    batch, rate = _batch(question, flops)
    chosen = {
        "shape": asdict(shape),
        "parameters": {**asdict(count(shape)), "total": count(shape).total},
        "tokens": tokens,
        "tokens_per_parameter": tokens / count(shape).total,
        "flops_per_token": per_token,
        "flops": flops,
        "batch_tokens": batch,
        "batch_rows": max(1, round(batch / shape.context_length)),
        "steps": max(1, round(tokens / batch)),
        "learning_rate": rate,
        "expected_loss": _losses(shape, tokens),
        "cache_bytes_per_sequence": key_value_cache(shape, shape.context_length, 2),
    }
    return {
        "format": FORMAT,
        "budget_flops": asked if asked is not None else flops,
        "law": law.name,
        "laws": [_recommended(one, asked if asked is not None else flops) for one in LAWS],
        "model": chosen,
        "repeats": _repeats(question, shape, tokens, flops),
        "inference": _inference(question, flops),
        "memory": [row for one in question.gpus for row in _memory(question, shape, batch, one)],
        "least": [_least(question, shape, batch, one) for one in question.gpus if one.name != CPU],
        "time": [_time(question, flops, one) for one in question.gpus],
        "notes": _notes(question, law, shape, flops, tokens),
    }


def _model(question: Question, law: Law) -> tuple[Shape, float, float | None]:
    """Shape, tokens, and the budget that was asked for, if one was."""
    if question.config is not None:
        shape = shape_of(question.config, question.vocab_size, question.context_length)
        return shape, float(question.config.total_steps(question.context_length) * _batch(question, 1.0)[0]), None
    if question.flops is None and question.tokens is None and question.parameters is None:
        raise ValueError("give a budget: FLOPs, GPU-hours, money, tokens, parameters or a config")
    if question.flops is not None:
        budget = question.flops
    elif question.parameters is not None and question.tokens is not None:
        budget = None
    else:
        budget = flops_for(law, parameters=question.parameters, tokens=question.tokens)
    parameters = question.parameters if question.parameters is not None else law.allocate(budget or 0.0).parameters
    embeddings = law.counts == "all" or question.parameters is not None
    depth = nearest_depth(parameters, question.vocab_size, question.context_length, embeddings)
    shape = at_depth(depth, question.vocab_size, question.context_length)
    if question.tokens is not None:
        tokens = question.tokens
    elif question.flops is not None:
        tokens = question.flops / training_flops(shape)  # the whole budget, attention's share included
    else:
        tokens = law.allocate(budget or 0.0).tokens
    return shape, tokens, budget


def _batch(question: Question, flops: float) -> tuple[float, float]:
    """Tokens a step and peak learning rate: the config's, or the law's for the budget."""
    if question.config is not None:
        return question.config.batch_rows * question.context_length, question.config.learning_rate
    return batch_and_rate(flops)


def _losses(shape: Shape, tokens: float) -> dict[str, float | None]:
    """What the parametric laws expect; None where they say more than guessing would cost, far below their range."""
    found = {name: law.loss(count(shape).total, tokens) for name, law in LOSSES.items()}
    return {name: loss if loss < math.log(shape.vocab_size) else None for name, loss in found.items()}


def _recommended(law: Law, flops: float) -> dict[str, Any]:
    found = law.allocate(flops)
    low, high = law.range
    return {
        "name": law.name,
        "source": law.source,
        "constants": law.constants,
        "counts": law.counts,
        "fitted_flops": [low, high],
        "in_range": low <= flops <= high,
        "parameters": found.parameters,
        "tokens": found.tokens,
        "tokens_per_parameter": found.tokens / found.parameters,
        "loss": found.loss,
    }


def _repeats(question: Question, shape: Shape, tokens: float, flops: float) -> dict[str, Any] | None:
    """The run over the corpus there is, and the allocation of the same FLOPs that fits that corpus best."""
    if question.corpus_tokens is None:
        return None
    unique = question.corpus_tokens
    parameters = count(shape).total
    return {
        "corpus_tokens": unique,
        "epochs": tokens / unique,
        "effective_tokens": adjusted.effective_tokens(tokens, unique),
        "loss": adjusted.repeated_loss(parameters, tokens, unique),
        "loss_if_all_were_new": MUENNIGHOFF.loss(parameters, tokens),
        "best": adjusted.repeated(flops, unique)._asdict(),
    }


def _inference(question: Question, flops: float) -> dict[str, Any] | None:
    """The smaller model, trained for longer, that is as good and costs less over its life."""
    if question.inference_tokens is None:
        return None
    plain = BESIROGLU.allocate(flops)
    assert plain.loss is not None
    best = adjusted.lifetime(BESIROGLU, plain.loss, question.inference_tokens)
    compute_optimal = flops + adjusted.INFERENCE_FLOPS * plain.parameters * question.inference_tokens
    return {
        "inference_tokens": question.inference_tokens,
        **best._asdict(),
        "flops": best.training_flops + best.inference_flops,
        "compute_optimal_parameters": plain.parameters,
        "compute_optimal_flops": compute_optimal,
    }


def _way(question: Question, world: int, parallel: Parallel, one: Gpu) -> Way:
    device: Literal["cpu", "cuda"] = "cpu" if one.name == CPU else "cuda"
    if question.config is not None:
        size = question.bytes_on_cpu if device == "cpu" else question.bytes_per_element
        return way_of(question.config, bytes_per_element=size, device=device, world=world, parallel=parallel)
    return Way(rows=1, world=world, parallel=parallel, device=device)


def _memory(question: Question, shape: Shape, batch: float, one: Gpu) -> list[dict[str, Any]]:
    """Bytes by part on one device and on several, for each policy; the rows are the config's, or the most that fit."""
    ways: list[tuple[int, Parallel]] = [(1, "none")]
    if one.name != CPU and question.count > 1:
        ways += [(question.count, "ddp"), (question.count, "fsdp2")]
    rows = []
    for world, parallel in ways:
        for policy in RECOMPUTE:
            way = replace(_way(question, world, parallel, one), recompute=policy)
            if question.config is None:
                way = way_of_share(shape, way, one, batch / shape.context_length / world)
            need = estimate(shape, way)
            rows.append(
                {
                    "gpu": one.name,
                    "gpus": world,
                    "parallel": parallel,
                    "recompute": policy,
                    "micro_batch_rows": way.rows,
                    "parts": need.parts(),
                    "total": need.total,
                    "available": one.memory,
                    "fits": fits(need, one),
                }
            )
    return rows


def _least(question: Question, shape: Shape, batch: float, one: Gpu) -> dict[str, Any]:
    """The fewest GPUs of this kind that hold the run."""
    way = _way(question, 1, "none", one)
    fixed = question.config is not None
    rows = batch / shape.context_length if question.config is None else question.config.batch_rows
    found: dict[str, Any] = {"gpu": one.name, "micro_batch_rows": way.rows if fixed else None}
    parallels: tuple[Parallel, ...] = ("ddp", "fsdp2")
    for parallel in parallels:
        best = cheapest_way(shape, way, one, parallel, rows, fixed)
        found[parallel] = None if best is None else {"gpus": best[0], "recompute": best[1]}
    return found


def _time(question: Question, flops: float, one: Gpu) -> dict[str, Any]:
    gpu_hours = hours(flops, one, question.mfu)
    return {
        "gpu": one.name,
        "peak_flops": one.flops,
        "mfu": question.mfu,
        "gpu_hours": gpu_hours,
        "hours": {
            str(gpus): gpu_hours / gpus for gpus in sorted({1} if one.name == CPU else {1, 8, 64, question.count})
        },
        "cost": None if question.price_per_hour is None else gpu_hours * question.price_per_hour,
    }


def _notes(question: Question, law: Law, shape: Shape, flops: float, tokens: float) -> list[str]:
    """What a reader must know before believing the numbers."""
    notes = []
    if question.config is None and not law.range[0] <= flops <= law.range[1]:
        notes.append(
            f"{flops:.1e} FLOPs lie outside of what {law.name} was fitted on ({law.range[0]:.0e} to {law.range[1]:.0e}): "
            "an extrapolation"
        )
    if question.config is None and not BATCH_RANGE[0] <= flops <= BATCH_RANGE[1]:
        notes.append(
            f"batch size and learning rate were fitted on {BATCH_RANGE[0]:.0e} to {BATCH_RANGE[1]:.0e} FLOPs (DeepSeek-AI "
            "2024, equation 1; used there up to 1e24)"
        )
    asked = question.parameters
    if asked is not None and not 1 / FAR < (found := count(shape).total) / asked < FAR:
        notes.append(
            f"{asked:.3g} parameters were asked for; of what `depth` gives with {shape.vocab_size:,} ids, {found:.3g} come "
            "nearest, and everything here is of those"
        )
    if question.corpus_tokens and tokens / question.corpus_tokens > MANY_EPOCHS:
        notes.append(
            f"{tokens / question.corpus_tokens:.1f} epochs: beyond {MANY_EPOCHS} a repeated token is worth clearly less than "
            "a new one (Muennighoff et al. 2023)"
        )
    if flops < min(law.range[0] for law in LAWS if law.name in LOSSES):
        notes.append("no law was fitted on runs this small: their losses mean nothing here (`scaling` fits one)")
    notes.append(
        "losses are in nats a token of the laws' own corpora and tokenizers: compare runs by them, do not expect them"
    )
    notes.append(f"{question.mfu:.0%} of the peak is an assumption; measure it (tokens a second in metrics.jsonl)")
    return notes
