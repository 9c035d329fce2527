"""Pretraining from start to end: read the plan of rows, step, validate, save, and go on exactly after any stop."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from training.checkpoint import (
    FORMAT,
    checkpoints,
    load_state,
    read_state,
    save_model,
    save_state,
    write_json,
)
from training.config import PretrainConfig, TrainingError
from training.data import Dataset, Rows, load_batch, open_dataset, step_rows
from training.device import Place, place
from training.loss import IGNORED
from training.metrics import MetricsFile, bits_per_byte, token_counts, unigram_bits_per_byte
from training.model import Decoder, ModelConfig, model_config
from training.optimizer import Optimizer, build_optimizer
from training.precision import set_precision
from training.recompute import recompute_layers
from training.schedule import learning_rate
from training.step import BadRows, micro_batches, train_step
from training.vocabulary import token_bytes, tokenizer_sha256


class Stopped(Exception):
    """The run was asked to stop; it has saved, and the same call goes on from there."""


@dataclass
class Progress:
    """How far a run is: updates done, tokens read (padding left out), seconds spent in steps."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0


class Validation(NamedTuple):
    """Mean loss in nats a target, and bits per byte of text; None where there is nothing to measure."""

    validation_loss: float | None
    bits_per_byte: float | None


def pretrain(
    config: PretrainConfig,
    tokens_dir: str | Path,
    tokenizer_dir: str | Path,
    out_dir: str | Path,
    *,
    log: Callable[[str], Any] = print,
    stop: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Train a decoder on a token dataset; leave a Hugging Face folder with metrics.jsonl and trainer_state/.

    Run again after a stop or a crash it goes on from the newest checkpoint: on the CPU, with equal threads, to equal
    bits. A finished `out_dir` is left as it is. `stop` is asked after each step. Under torchrun all processes call this.

    Returns what training.json holds (losses, bits per byte, tokens, seconds, and the config). Raises `TrainingError`
    for a bad config, dataset or checkpoint and for a loss that is no number; `Stopped` once `stop` said so.
    """
    tokens_dir, tokenizer_dir, out_dir = Path(tokens_dir), Path(tokenizer_dir), Path(out_dir)
    data = open_dataset(tokens_dir, config.sequence_length)
    fingerprint = config.fingerprint(*_inputs(data, tokenizer_dir))
    if finished := _finished(out_dir, fingerprint):
        log(f"{out_dir} holds this very run, finished; nothing to do")
        return finished

    with place(config) as here, torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        if here.rank > 0:
            log = _silent
        torch.manual_seed(config.seed)
        model = Decoder(_shape(config, data), here.dtype).initialise(config.seed).to(here.device)
        model.z_loss = config.z_loss
        set_precision(model, config, here.device, here.dtype)
        recompute_layers(model, config)
        optimizer = build_optimizer(model, config)
        identity = {"fingerprint": fingerprint, "threads": here.threads}
        progress = _resume(out_dir, model, optimizer, identity, log)
        record = MetricsFile(out_dir / "metrics.jsonl", progress.step).write if here.rank == 0 else _silent

        lengths = token_bytes(tokenizer_dir, data.tokens.vocab_size)
        counts = token_counts(data.tokens, "train")
        unigram = unigram_bits_per_byte(counts, lengths, data.validation, config.eval_rows, config.document_mask)
        steps = config.total_steps(data.sequence_length)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        log(f"{parameters:,} parameters on {here.describe()}")
        log(
            f"{steps:,} steps of {config.batch_rows} rows of {data.sequence_length} tokens, "
            f"{steps * config.batch_rows / len(data.train):.2f} epochs of {len(data.train):,} rows"
        )
        if unigram is None:
            log("no validation text: neither validation loss nor bits per byte can be measured")

        network: nn.Module = torch.compile(model) if config.compile else model  # type: ignore[assignment]
        if here.world > 1:
            network = DistributedDataParallel(network)

        phases = [rows for _, rows in data.train.phases]
        validation = None
        while progress.step < steps:
            began = time.perf_counter()
            step = progress.step
            rows = step_rows(
                step, len(data.train), config.batch_rows, config.seed, config.shuffle, here.rank, here.world, phases
            )
            batch = load_batch(data.train, rows, config.document_mask)
            rate = learning_rate(step, steps, config)
            try:
                result = train_step(network, optimizer, batch, config, here, rate)
            except BadRows as bad:
                raise _blame(step, bad, data) from None
            took = time.perf_counter() - began
            progress = Progress(step + 1, progress.tokens + result.tokens, progress.seconds + took)
            stopping = _agreed(stop, here)

            record(
                {
                    "step": progress.step,
                    "loss": result.loss,
                    "learning_rate": rate,
                    "grad_norm": result.grad_norm,
                    "tokens": progress.tokens,
                    "seconds": progress.seconds,
                    "tokens_per_second": result.tokens / took,
                }
            )
            if _due(progress.step, steps, config.log_every) or progress.step == 1:
                log(
                    f"step {progress.step:,}/{steps:,}  loss {result.loss:.4f}  lr {rate:.2e}  "
                    f"grad {result.grad_norm:.2f}  {result.tokens / took:,.0f} tok/s"
                )
            if _due(progress.step, steps, config.eval_every) and len(data.validation):
                validation = validate(network, data.validation, lengths, config, here)
                record({"step": progress.step, **validation._asdict(), "unigram_bits_per_byte": unigram})
                log(f"step {progress.step:,}/{steps:,}  {_describe(validation, unigram)}")
            if stopping or _due(progress.step, steps, config.save_every):
                if here.rank == 0:
                    save_state(
                        out_dir / "trainer_state",
                        model,
                        optimizer,
                        {**identity, **asdict(progress)},
                        config.keep_checkpoints,
                    )
                if stopping and progress.step < steps:
                    here.wait_for_all()
                    raise Stopped(
                        f"saved after step {progress.step:,} of {steps:,}; the same command goes on from there"
                    )

        if validation is None:  # killed between the last checkpoint and the model folder, or no validation rows
            validation = validate(network, data.validation, lengths, config, here)
        summary = {
            "format": FORMAT,
            "fingerprint": fingerprint,
            "parameters": parameters,
            "steps": steps,
            "tokens": progress.tokens,
            "seconds": progress.seconds,
            "tokens_per_second": progress.tokens / progress.seconds,
            **validation._asdict(),
            "unigram_bits_per_byte": unigram,
            "sequence_length": data.sequence_length,
            "device": here.device.type,
            "dtype": str(here.dtype).removeprefix("torch."),
            "threads": here.threads,
            "processes": here.world,
            "config": config.model_dump(),
        }
        if here.rank == 0:
            save_model(out_dir, model, tokenizer_dir, data.tokens.eos_id)
            write_json(out_dir / "training.json", summary)  # last: it says that the rest is there
        here.wait_for_all()
        return summary


@torch.no_grad()
def validate(network: nn.Module, split: Rows, lengths: np.ndarray, config: PretrainConfig, here: Place) -> Validation:
    """Loss and bits per byte over the first `eval_rows` rows of a split, shared out among the processes.

    lengths: bytes of each token id. Loss is over all targets, bits per byte over those that stand for text.
    """
    per_id = torch.from_numpy(lengths).to(here.device)
    sums = torch.zeros(4, dtype=torch.float64, device=here.device)  # nats, targets, nats of text, bytes of text
    mine = list(range(here.rank, min(config.eval_rows, len(split)), here.world))
    for start in range(0, len(mine), config.micro_batch_rows):
        batch = load_batch(split, mine[start : start + config.micro_batch_rows], config.document_mask)
        part = next(micro_batches(batch, len(batch.rows), here.device))
        module = network.module if isinstance(network, DistributedDataParallel) else network
        nll = module(part.tokens, part.targets, part.documents if config.document_mask else None).nll.double()
        size = torch.where(part.targets == IGNORED, 0, per_id[part.targets.clamp(min=0)])
        sums += torch.stack([nll.sum(), (part.targets != IGNORED).sum(), nll[size > 0].sum(), size.sum()]).double()
    nats, targets, text_nats, text_bytes = here.sum(sums).tolist()
    if not targets or not text_bytes:
        return Validation(None, None)
    return Validation(nats / targets, bits_per_byte(text_nats, int(text_bytes)))


def _silent(_: Any) -> None:
    """Say nothing: every process but the first."""


def _shape(config: PretrainConfig, data: Dataset) -> ModelConfig:
    return model_config(config, data.tokens.vocab_size, data.sequence_length)


def _inputs(data: Dataset, tokenizer_dir: Path) -> list[str]:
    """What identifies data and tokenizer; refuses tokens that another tokenizer made."""
    facts, ours = data.tokens.facts, tokenizer_sha256(tokenizer_dir)
    theirs = facts.get("tokenizer_sha256")
    if theirs != ours:
        raise TrainingError(
            f"{data.tokens.path} was encoded with another tokenizer (sha256 {theirs}) than {tokenizer_dir} ({ours})"
        )
    return [json.dumps(facts, sort_keys=True), str(data.sequence_length)]


def _finished(out_dir: Path, fingerprint: str) -> dict[str, Any] | None:
    path = out_dir / "training.json"
    if not path.exists():
        return None
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        found = summary["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"cannot read {path} ({error}); remove {out_dir} to train again") from None
    if found != fingerprint:
        raise TrainingError(_other_run(out_dir))
    return summary


def _other_run(folder: Path) -> str:
    return f"{folder} holds a run of another config, dataset or tokenizer; remove it or choose another output folder"


def _resume(
    out_dir: Path, model: Decoder, optimizer: Optimizer, identity: dict[str, Any], log: Callable[[str], Any]
) -> Progress:
    """Load the newest checkpoint, if there is one, and say how far it is."""
    out_dir.mkdir(parents=True, exist_ok=True)
    found = checkpoints(out_dir / "trainer_state")
    if not found:
        return Progress()
    state = read_state(found[-1])
    if state["fingerprint"] != identity["fingerprint"]:
        raise TrainingError(_other_run(out_dir))
    load_state(found[-1], model, optimizer)
    log(f"going on from step {state['step']:,}")
    if state["threads"] != identity["threads"]:
        log(f"{identity['threads']} threads, {state['threads']} before: results will differ in the last digits")
    return Progress(state["step"], state["tokens"], state["seconds"])


def _due(step: int, steps: int, every: int) -> bool:
    return step % every == 0 or step == steps


def _describe(validation: Validation, unigram: float | None) -> str:
    if validation.bits_per_byte is None or unigram is None:
        return "nothing to predict in the validation rows"
    return (
        f"validation loss {validation.validation_loss:.4f}, {validation.bits_per_byte:.4f} bits per byte "
        f"(token unigrams: {unigram:.4f})"
    )


def _agreed(stop: Callable[[], bool] | None, here: Place) -> bool:
    """Whether any process was asked to stop: all must leave at the same step."""
    asked = bool(stop and stop())
    if here.world == 1:
        return asked
    return bool(here.sum(torch.tensor(int(asked), device=here.device)))


def _blame(step: int, bad: BadRows, data: Dataset) -> TrainingError:
    documents = [document for row in bad.rows[:4] for document in data.documents_of(row)]
    where = (
        f"Rows {bad.rows[:4]}, documents {', '.join(documents[:16])}" if bad.rows else "The rows are another process's"
    )
    return TrainingError(
        f"step {step + 1}: {bad}; nothing was updated and the last checkpoint is from before. {where}: "
        f"look at these, or lower learning_rate and start again"
    )
