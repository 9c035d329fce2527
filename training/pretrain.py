"""Pretraining from start to end: read the plan of rows, step, validate, save, and go on exactly after any stop."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from training.architectures import weights
from training.checkpoint import FORMAT, checkpoints, load_state, read_state, save_model, verify, write_json
from training.config import PretrainConfig, TrainingError
from training.data import Batches, Dataset, Rows, load_batch, open_dataset, step_rows
from training.device import Place, place
from training.lock import only_run
from training.loss import IGNORED
from training.metrics import MetricsFile, bits_per_byte, token_counts, unigram_bits_per_byte
from training.model import Decoder, ModelConfig, model_config
from training.optimizer import build_optimizer
from training.parallel import distribute, unwrap, wrap
from training.planning.check import check_here
from training.saver import Saver
from training.schedule import learning_rate
from training.step import BadRows, micro_batches, train_step
from training.vocabulary import token_bytes, tokenizer_sha256
from training.watch import bad_documents, describe_documents, norm_limit, position, remember


class Stopped(Exception):
    """The run was asked to stop; it has saved, and the same call goes on from there."""


@dataclass(frozen=True)
class Progress:
    """How far a run is, and what it must remember to decide the same again; all of it stands in state.json."""

    step: int = 0  # updates done
    tokens: int = 0  # read, padding left out
    seconds: float = 0.0  # in steps
    waited: float = 0.0  # of these, for data
    skipped: tuple[int, ...] = ()  # positions in the data whose batch was refused (watch.py)
    refused: int = 0  # how often that happened
    norms: tuple[float, ...] = ()  # of the newest gradients, where spikes are watched for


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

    Run again after a stop or a crash it goes on from the newest checkpoint: on the CPU, with equal threads and processes,
    to equal bits. A finished `out_dir` is left as it is. `stop` is asked after each step. Of several processes
    (torchrun's, Ray Train's) all call this, with one `out_dir` that all can reach.

    Returns what training.json holds (losses, bits per byte, tokens, seconds, and the config). Raises `TrainingError`
    for a bad config, dataset or checkpoint, a second run in the same folder, and more bad batches than `max_rollbacks`;
    `Stopped` once `stop` said so; `OSError` for a checkpoint that could not be written, and if another process is lost.
    """
    called = time.perf_counter()
    tokens_dir, tokenizer_dir, out_dir = Path(tokens_dir), Path(tokenizer_dir), Path(out_dir)
    data = open_dataset(tokens_dir, config.sequence_length)
    fingerprint = config.fingerprint(*_inputs(data, tokenizer_dir))
    if finished := _finished(out_dir, fingerprint):
        log(f"{out_dir} holds this very run, finished; nothing to do")
        return finished

    with ExitStack() as stack:
        here = stack.enter_context(place(config))
        stack.enter_context(torch.random.fork_rng(devices=range(torch.cuda.device_count())))
        here.alike(
            lambda: stack.enter_context(only_run(out_dir / "trainer_state") if here.rank == 0 else nullcontext())
        )
        if len(set(here.gather(fingerprint))) > 1:
            raise TrainingError("the processes of this run were given different configs, datasets or tokenizers")
        if here.rank > 0:
            log = _silent
        check_here(config, data.tokens.vocab_size, data.sequence_length, here)
        model = Decoder(_shape(config, data), here.dtype).initialise(config.seed)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        kind = distribute(model, config, here)
        optimizer = build_optimizer(model, config)
        identity = {"fingerprint": fingerprint, "threads": here.threads, "processes": here.world}
        progress = _resume(out_dir, model, optimizer, identity, here, log)
        metrics = MetricsFile(out_dir / "metrics.jsonl", progress.step) if here.rank == 0 else None
        record = metrics.write if metrics else _silent

        lengths = token_bytes(tokenizer_dir, data.tokens.vocab_size)
        counts = token_counts(data.tokens, "train")
        unigram = unigram_bits_per_byte(counts, lengths, data.validation, config.eval_rows, config.document_mask)
        steps = config.total_steps(data.sequence_length)
        log(f"{parameters:,} parameters on {here.describe()}" + (f", {kind}" if here.world > 1 else ""))
        log(
            f"{steps:,} steps of {config.batch_rows} rows of {data.sequence_length} tokens, "
            f"{steps * config.batch_rows / len(data.train):.2f} epochs of {len(data.train):,} rows"
        )
        if unigram is None:
            log("no validation text: neither validation loss nor bits per byte can be measured")

        network: nn.Module = torch.compile(model) if config.compile else model  # type: ignore[assignment]
        network = wrap(network, kind, here)
        saver = stack.enter_context(closing(Saver(out_dir / "trainer_state", config, here, kind == "fsdp2")))
        rows_at = partial(_rows_at, data, config, here)
        pinned = here.device.type == "cuda"
        batches = stack.enter_context(
            closing(Batches(data.train, rows_at, config.document_mask, config.loader_threads, config.prefetch, pinned))
        )
        first_step_seconds = 0.0
        suspect = -1  # the update that was refused last, for numbers that are not finite
        validation = None
        while progress.step < steps:
            began = time.perf_counter()
            step = progress.step
            batch = batches.take(position(step, progress.skipped))
            waited = time.perf_counter() - began
            rate = learning_rate(step, steps, config)
            _seed(config.seed, step, here.rank)
            try:
                limit = norm_limit(progress.norms, config)
                result = train_step(network, optimizer, batch, config, here, rate, limit)
            except BadRows as bad:
                saver.wait()
                again = suspect == step and not bad.finite
                progress = _refuse(
                    bad, progress, again, out_dir, model, optimizer, config, data, here, record, metrics, log
                )
                suspect = -1 if again or bad.finite else step
                continue
            took = time.perf_counter() - began
            progress = replace(
                progress,
                step=step + 1,
                tokens=progress.tokens + result.tokens,
                seconds=progress.seconds + took,
                waited=progress.waited + waited,
                norms=remember(progress.norms, result.grad_norm, config),
            )
            first_step_seconds = first_step_seconds or time.perf_counter() - called
            saver.check()
            stopping = here.any(bool(stop and stop()))  # all must leave at the same step

            record(
                {
                    "step": progress.step,
                    "loss": result.loss,
                    "learning_rate": rate,
                    "grad_norm": result.grad_norm,
                    "tokens": progress.tokens,
                    "seconds": progress.seconds,
                    "tokens_per_second": result.tokens / took,
                    "data_wait": waited / took,
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
            if stopping or _due(progress.step, steps, config.save_every) or _kept(progress.step, config):
                export = None
                if config.export_kept and _kept(progress.step, config):
                    folder, tensors = out_dir / f"step-{progress.step:08d}", _copies(model)
                    export = partial(save_model, folder, model, tokenizer_dir, data.tokens.eos_id, tensors)
                saver.save(model, optimizer, {**identity, **asdict(progress)}, export)
                if stopping and progress.step < steps:
                    saver.wait()
                    here.wait_for_all()
                    raise Stopped(
                        f"saved after step {progress.step:,} of {steps:,}; the same command goes on from there"
                    )

        saver.wait()
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
            "data_wait": progress.waited / progress.seconds,
            "first_step_seconds": first_step_seconds,
            "save_blocked_seconds": saver.blocked_seconds,
            "save_seconds": saver.written_seconds,
            "skipped_batches": list(progress.skipped),
            **validation._asdict(),
            "unigram_bits_per_byte": unigram,
            "sequence_length": data.sequence_length,
            "device": here.device.type,
            "dtype": str(here.dtype).removeprefix("torch."),
            "threads": here.threads,
            "processes": here.world,
            "parallel": kind,
            "config": config.model_dump(),
        }
        tensors = weights(model)
        if here.rank == 0:
            save_model(out_dir, model, tokenizer_dir, data.tokens.eos_id, tensors)
            write_json(out_dir / "training.json", summary)  # last: it says that the rest is there
        here.wait_for_all()
        return summary


def _rows_at(data: Dataset, config: PretrainConfig, here: Place, at: int) -> list[int]:
    """The rows that this process reads at a position of the data."""
    phases = [rows for _, rows in data.train.phases]
    return step_rows(at, len(data.train), config.batch_rows, config.seed, config.shuffle, here.rank, here.world, phases)


def _seed(seed: int, step: int, rank: int) -> None:
    """Set torch's generators for one step: they depend on the step and the process alone, so that no draw is lost."""
    torch.manual_seed((seed * 0x9E3779B97F4A7C15 + step * 1_000_003 + rank) % 2**63)


def _copies(model: Decoder) -> dict[str, torch.Tensor]:
    """The weights as they are now, for a thread that writes them while training goes on."""
    return {name: tensor.clone() for name, tensor in weights(model).items()}


def _refuse(
    bad: BadRows,
    before: Progress,
    again: bool,
    out_dir: Path,
    model: Decoder,
    optimizer: torch.optim.Optimizer,
    config: PretrainConfig,
    data: Dataset,
    here: Place,
    record: Callable[[dict[str, Any]], Any],
    metrics: MetricsFile | None,
    log: Callable[[str], Any],
) -> Progress:
    """Go on without a bad batch, as watch.py says. Raises `TrainingError` after `max_rollbacks` of them."""
    at = position(before.step, before.skipped)
    rows, documents = bad_documents(bad.rows, data, here)
    after = replace(before, skipped=(*before.skipped, at), refused=before.refused + 1)
    where = f"Rows {rows[:8]}, documents {describe_documents(documents)}"
    if after.refused > config.max_rollbacks:
        raise TrainingError(
            f"step {before.step + 1}: {bad}; nothing was updated, and max_rollbacks={config.max_rollbacks} batches were "
            f"skipped before. {where}: look at these, or lower learning_rate and start again"
        )
    folder = checkpoints(out_dir / "trainer_state")[-1:] if again else []
    folder = here.gather(folder)[0]
    if folder:
        load_state(folder[0], model, optimizer)
        old = _progress(read_state(folder[0]))
        since = {position(step, before.skipped) for step in range(old.step, before.step)}
        after = replace(old, skipped=tuple(sorted(since | set(after.skipped))), refused=after.refused)
        if metrics is not None:
            metrics.cut(after.step)
    record(
        {
            "step": after.step + 1,
            "event": "rollback",
            "from_step": before.step,
            "to_step": after.step,
            "position": at,
            "why": str(bad),
            "skipped": list(after.skipped),
            "rows": rows,
            "documents": documents,
        }
    )
    back = f"back to step {after.step:,}, " if folder else ""
    log(f"step {before.step + 1:,}: {bad}; {back}going on without batch {at:,} of the data. {where}")
    return after


@torch.no_grad()
def validate(network: nn.Module, split: Rows, lengths: np.ndarray, config: PretrainConfig, here: Place) -> Validation:
    """Loss and bits per byte over the first `eval_rows` rows of a split, shared out among the processes.

    lengths: bytes of each token id. Loss is over all targets, bits per byte over those that stand for text.
    """
    per_id = torch.from_numpy(lengths).to(here.device)
    sums = torch.zeros(4, dtype=torch.float64, device=here.device)  # nats, targets, nats of text, bytes of text
    rows = list(range(min(config.eval_rows, len(split))))
    together = config.micro_batch_rows * here.world
    for start in range(0, len(rows), together):
        mine = rows[start : start + together][here.rank :: here.world]
        batch = load_batch(split, mine or rows[:1], config.document_mask)
        part = next(micro_batches(batch, len(batch.rows), here.device))
        if not mine:  # a sharded model needs as many forward passes in each process
            part.targets.fill_(IGNORED)
        nll = unwrap(network)(part.tokens, part.targets, part.documents if config.document_mask else None).nll.double()
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
    out_dir: Path,
    model: Decoder,
    optimizer: torch.optim.Optimizer,
    identity: dict[str, Any],
    here: Place,
    log: Callable[[str], Any],
) -> Progress:
    """Load the newest checkpoint, if there is one, and say how far it is."""
    folder = here.gather(checkpoints(out_dir / "trainer_state")[-1:])[0]  # what the first process sees, for all
    if not folder:
        return Progress()
    began = time.perf_counter()
    state = here.alike(partial(_checked, folder[0], out_dir, identity["fingerprint"], here))[0]
    load_state(folder[0], model, optimizer)
    log(f"going on from step {state['step']:,} (checkpoint read in {time.perf_counter() - began:.1f} s)")
    for what in ("threads", "processes"):
        if state[what] != identity[what]:
            log(f"{identity[what]} {what}, {state[what]} before: results will differ in the last digits")
    return _progress(state)


def _checked(folder: Path, out_dir: Path, fingerprint: str, here: Place) -> dict[str, Any]:
    """A checkpoint's state.json, once the files beside it are found whole, each process looking at some."""
    state = read_state(folder)
    if state["fingerprint"] != fingerprint:
        raise TrainingError(_other_run(out_dir))
    verify(folder, state, here.rank, here.world)
    return state


def _progress(state: dict[str, Any]) -> Progress:
    values: dict[str, Any] = {name: state[name] for name in Progress.__dataclass_fields__}
    return Progress(**{**values, "skipped": tuple(values["skipped"]), "norms": tuple(values["norms"])})


def _due(step: int, steps: int, every: int) -> bool:
    return step % every == 0 or step == steps


def _kept(step: int, config: PretrainConfig) -> bool:
    return config.keep_every is not None and step % config.keep_every == 0


def _describe(validation: Validation, unigram: float | None) -> str:
    if validation.bits_per_byte is None or unigram is None:
        return "nothing to predict in the validation rows"
    return (
        f"validation loss {validation.validation_loss:.4f}, {validation.bits_per_byte:.4f} bits per byte "
        f"(token unigrams: {unigram:.4f})"
    )
