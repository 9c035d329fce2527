"""Pretraining from start to end: read the plan of rows, step, validate, save, and go on exactly after any stop."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

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
from training.data import Dataset, load_batch, open_dataset, step_rows
from training.device import Place, place
from training.held_out import label_rows, validate
from training.lineage import lineage, write_run
from training.metrics import token_counts, unigram_bits_per_byte
from training.model import Decoder, ModelConfig
from training.monitor import Monitor, Step
from training.optimizer import build_optimizer
from training.schedule import learning_rate
from training.step import BadRows, train_step
from training.vocabulary import token_bytes, tokenizer_sha256


class Stopped(Exception):
    """The run was asked to stop; it has saved, and the same call goes on from there."""


@dataclass
class Progress:
    """How far a run is: updates done, tokens read (padding left out), seconds spent in steps."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0


def pretrain(
    config: PretrainConfig,
    tokens_dir: str | Path,
    tokenizer_dir: str | Path,
    out_dir: str | Path,
    documents_dir: str | Path | None = None,
    *,
    log: Callable[[str], Any] = print,
    show: Callable[[str], Any] | None = None,
    stop: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Train a decoder on a token dataset; leave a Hugging Face folder with metrics.jsonl and trainer_state/.

    Run again after a stop or a crash it goes on from the newest checkpoint: on the CPU, with equal threads, to equal
    bits. A finished `out_dir` is left as it is. `stop` is asked after each step. Under torchrun all processes call this.
    `documents_dir`: the Parquet files that were encoded, for languages and URLs. `show` replaces the line it wrote last.

    Returns what training.json holds (losses, bits per byte, tokens, seconds, and the config). Raises `TrainingError`
    for a bad config, dataset or checkpoint and for a loss that is no number; `Stopped` once `stop` said so.
    """
    tokens_dir, tokenizer_dir, out_dir = Path(tokens_dir), Path(tokenizer_dir), Path(out_dir)
    documents_dir = Path(documents_dir) if documents_dir else None
    data = open_dataset(tokens_dir, config.sequence_length)
    fingerprint = config.fingerprint(*_inputs(data, tokenizer_dir))
    if finished := _finished(out_dir, fingerprint):
        log(f"{out_dir} holds this very run, finished; nothing to do")
        return finished

    with place(config) as here, torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        if here.rank > 0:
            log, show = _silent, None
        torch.manual_seed(config.seed)
        model = Decoder(_shape(config, data), here.dtype).initialise(config.seed).to(here.device)
        optimizer = build_optimizer(model, config)
        identity = {"fingerprint": fingerprint, "threads": here.threads}
        progress = _resume(out_dir, model, optimizer, identity, log)
        about = lineage(out_dir, data, tokenizer_dir, documents_dir, fingerprint)
        if here.rank == 0:
            write_run(out_dir, config, about)

        lengths = token_bytes(tokenizer_dir, data.tokens.vocab_size)
        counts = token_counts(data.tokens, "train")
        unigram = unigram_bits_per_byte(counts, lengths, data.validation, config.eval_rows, config.document_mask)
        labels = label_rows(data.tokens, data.validation, config.eval_rows, documents_dir, here)
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

        monitor = Monitor(
            config, data, model, here, tokenizer_dir, out_dir, steps=steps, done=progress.step, log=log, show=show
        )  # fmt: skip
        phases = [rows for _, rows in data.train.phases]
        validation = None
        while progress.step < steps:
            began = time.perf_counter()
            step = progress.step
            rows = step_rows(
                step, len(data.train), config.batch_rows, config.seed, config.shuffle, here.rank, here.world, phases
            )
            batch = load_batch(data.train, rows, config.document_mask)
            waited = time.perf_counter() - began
            rate = learning_rate(step, steps, config)
            try:
                result = train_step(network, optimizer, batch, config, here, rate)
            except BadRows as bad:
                raise _blame(step, bad, data) from None
            took = time.perf_counter() - began
            progress = Progress(step + 1, progress.tokens + result.tokens, progress.seconds + took)
            stopping = _agreed(stop, here)

            monitor.step(
                Step(
                    step + 1,
                    result.loss,
                    rate,
                    result.grad_norm,
                    result.tokens,
                    took,
                    waited,
                    progress.tokens,
                    progress.seconds,
                )
            )
            if _due(progress.step, steps, config.eval_every) and len(data.validation):
                validation = validate(network, data.validation, lengths, config, here, labels)
                monitor.validation(progress.step, validation, unigram)
            monitor.sample(progress.step, model)
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
                    monitor.close()
                    here.wait_for_all()
                    raise Stopped(
                        f"saved after step {progress.step:,} of {steps:,}; the same command goes on from there"
                    )

        if validation is None:  # killed between the last checkpoint and the model folder, or no validation rows
            validation = validate(network, data.validation, lengths, config, here, labels)
        monitor.close()
        summary = {
            "format": FORMAT,
            "fingerprint": fingerprint,
            "parameters": parameters,
            "steps": steps,
            "tokens": progress.tokens,
            "seconds": progress.seconds,
            **monitor.summary(progress.tokens, progress.seconds),
            **validation._asdict(),
            "unigram_bits_per_byte": unigram,
            "sequence_length": data.sequence_length,
            "device": here.device.type,
            "dtype": str(here.dtype).removeprefix("torch."),
            "threads": here.threads,
            "processes": here.world,
            "lineage": about,
            "config": config.model_dump(mode="json"),
        }
        if here.rank == 0:
            save_model(out_dir, model, tokenizer_dir, data.tokens.eos_id)
            write_json(out_dir / "training.json", summary)  # last: it says that the rest is there
        here.wait_for_all()
        return summary


def _silent(_: Any) -> None:
    """Say nothing: every process but the first."""


def _shape(config: PretrainConfig, data: Dataset) -> ModelConfig:
    return ModelConfig(
        vocab_size=data.tokens.vocab_size,
        context_length=data.sequence_length,
        layers=config.layers,
        width=config.width,
        heads=config.heads,
        kv_heads=config.kv_heads,
        mlp_width=config.mlp_width,
        head_width=config.width // config.heads,
        rope_theta=config.rope_theta,
        tie_embeddings=config.tie_embeddings,
    )


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
    out_dir: Path, model: Decoder, optimizer: torch.optim.Optimizer, identity: dict[str, Any], log: Callable[[str], Any]
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
