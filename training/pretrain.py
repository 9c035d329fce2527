"""Pretraining from start to end: read the plan of rows, step, validate, save, and go on exactly after any stop."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from training.architectures import weights
from training.begin import begun
from training.card import count_columns, write_card
from training.checkpoint import FORMAT, save_model, write_json
from training.compiling import compile_regions
from training.config import PretrainConfig
from training.data import Batches, Dataset, open_dataset, step_rows
from training.device import Place, seed_step
from training.held_out import label_rows, validate
from training.knobs import TrainingError
from training.lineage import lineage, write_run
from training.metrics import token_counts, unigram_bits_per_byte
from training.model import Decoder, ModelConfig, model_config
from training.monitor import Monitor, Step
from training.optimizer import build_optimizer
from training.parallel import distribute, settle, wrap
from training.planning.check import check_here
from training.precision import set_precision
from training.recompute import recompute_layers
from training.resume import Progress, Stopped, finished_run, go_back, resume
from training.saver import Saver
from training.schedule import learning_rate
from training.step import BadRows, train_step
from training.terminal import silent
from training.vocabulary import load_tokenizer, token_bytes, tokenizer_sha256
from training.watch import bad_documents, describe_documents, norm_limit, position, remember


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

    Run again after a stop or a crash it goes on from the newest checkpoint: on the CPU, with equal threads and processes,
    to equal bits. A finished `out_dir` is left as it is. `stop` is asked after each step. Of several processes
    (torchrun's, Ray Train's) all call this, with one `out_dir` that all can reach.
    `documents_dir`: the Parquet files that were encoded, for languages and URLs. `show` replaces the line it wrote last.

    Returns what training.json holds (losses, bits per byte, tokens, seconds, and the config). Raises `TrainingError`
    for a bad config, dataset or checkpoint, a second run in the same folder, and more bad batches than `max_rollbacks`;
    `Stopped` once `stop` said so; `OSError` for a checkpoint that could not be written, and if another process is lost.
    """
    called = time.perf_counter()
    tokens_dir, tokenizer_dir, out_dir = Path(tokens_dir), Path(tokenizer_dir), Path(out_dir)
    documents_dir = Path(documents_dir) if documents_dir else None
    data = open_dataset(tokens_dir, config.sequence_length)
    fingerprint = config.fingerprint(*_inputs(data, tokenizer_dir))
    if finished := finished_run(out_dir, config, fingerprint):
        log(f"{out_dir} holds this very run, finished; nothing to do")
        return finished

    with ExitStack() as stack:
        here = stack.enter_context(begun(config, out_dir, fingerprint))
        if here.rank > 0:
            log, show = silent, None
        here.alike(lambda: check_here(config, data.tokens.vocab_size, data.sequence_length, here))
        with torch.device("meta"):  # its weights are drawn where they will be
            model = Decoder(_shape(config, data), here.dtype)
        model.z_loss = config.z_loss
        here.alike(lambda: set_precision(model, config, here.device, here.dtype))
        recompute_layers(model, config)
        if config.compile:
            compile_regions(model)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        kind = distribute(model, config, here)
        model.tie()
        model.initialise(config.seed)
        optimizer = build_optimizer(model, config, here.world if kind == "ddp" else 1)
        identity = {"fingerprint": fingerprint, **here.about()}
        progress = resume(out_dir, model, optimizer, config, identity, here, log)
        about = lineage(out_dir, data, tokenizer_dir, documents_dir, fingerprint)
        if here.rank == 0:
            write_run(out_dir, config, about)

        lengths = token_bytes(tokenizer_dir, data.tokens.vocab_size)
        counts = token_counts(data.tokens, "train")
        unigram = unigram_bits_per_byte(counts, lengths, data.validation, config.eval_rows, config.document_mask)
        counted = here.first(
            lambda: count_columns(documents_dir)
        )  # for the card; a bad file is found now, not at the end
        labels = label_rows(data.tokens, data.validation, config.eval_rows, documents_dir, here)
        steps = config.total_steps(data.sequence_length)
        log(f"{parameters:,} parameters on {here.describe()}" + (f", {kind}" if here.world > 1 else ""))
        if warning := here.warning():
            log(warning)
        log(
            f"{steps:,} steps of {config.batch_rows} rows of {data.sequence_length} tokens, "
            f"{steps * config.batch_rows / len(data.train):.2f} epochs of {len(data.train):,} rows"
        )
        if unigram is None:
            log("no validation text: neither validation loss nor bits per byte can be measured")

        network = wrap(model, kind, here)
        before = (progress.step, progress.skipped)
        monitor = here.alike(
            lambda: Monitor(config, data, model.config, here, tokenizer_dir, out_dir, steps, *before, log, show)
        )
        stack.enter_context(closing(monitor))
        saver = stack.enter_context(closing(Saver(out_dir / "trainer_state", config, here, kind == "fsdp2")))
        batches = stack.enter_context(closing(_read_ahead(data, config, here)))
        first_step_seconds = 0.0
        suspect = -1  # the update that was refused last, for numbers that are not finite
        validation = None
        while progress.step < steps:
            began = time.perf_counter()
            step = progress.step
            batch = batches.take(position(step, progress.skipped))
            waited = time.perf_counter() - began
            rate = learning_rate(step, steps, config)
            seed_step(config.seed, step, here.rank)
            try:
                limit = norm_limit(progress.norms, config)
                result = train_step(network, optimizer, batch, config, here, rate, limit)
            except BadRows as bad:
                progress, event = _refuse(bad, progress, config, data, here)
                if suspect == step and not bad.finite:  # with another batch too: it is not the batch
                    saver.wait()
                    progress = go_back(progress, out_dir, model, optimizer, here)
                suspect = -1 if suspect == step or bad.finite else step
                monitor.rollback(step, progress.step, {**event, "skipped": list(progress.skipped)})
                continue
            took = time.perf_counter() - began
            progress = replace(
                progress,
                step=step + 1,
                tokens=progress.tokens + result.tokens,
                seconds=progress.seconds + took,
                norms=remember(progress.norms, result.grad_norm, config),
            )
            first_step_seconds = first_step_seconds or time.perf_counter() - called
            saver.check()
            stopping = here.any(bool(stop and stop()))  # all must leave at the same step

            speeds = (result.tokens, took, waited, progress.tokens, progress.seconds)
            monitor.step(Step(progress.step, result.loss, rate, result.grad_norm, *speeds))
            if _due(progress.step, steps, config.eval_every) and len(data.validation):
                validation = validate(network, data.validation, lengths, config, here, labels)
                monitor.validation(progress.step, validation, unigram)
            monitor.sample(progress.step, model)
            settle(model)
            kept = config.keep_every is not None and progress.step % config.keep_every == 0
            due = kept or _due(progress.step, steps, config.save_every)
            if stopping or due:
                export = None
                if kept and config.export_kept:
                    export = _export(out_dir / f"step-{progress.step:08d}", model, tokenizer_dir, data, here)
                saver.save(model, optimizer, {**identity, **asdict(progress), "by_stop": not due}, export)
                if stopping and progress.step < steps:
                    saver.wait()
                    here.wait_for_all()
                    raise Stopped(
                        f"saved after step {progress.step:,} of {steps:,}; the same command goes on from there"
                    )

        saver.wait()
        if validation is None:  # killed between the last checkpoint and the model folder, or no validation rows
            validation = validate(network, data.validation, lengths, config, here, labels)
        settle(model)
        summary = {
            "format": FORMAT,
            "fingerprint": fingerprint,
            "parameters": parameters,
            "steps": steps,
            "tokens": progress.tokens,
            "seconds": progress.seconds,
            **monitor.summary(progress.tokens, progress.seconds),
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
            "lineage": about,
            "config": config.model_dump(mode="json"),
        }
        tensors = weights(model, keep=here.rank == 0)
        if here.rank == 0:
            save_model(out_dir, model, tokenizer_dir, data.tokens.eos_id, tensors)
            write_card(out_dir, summary, data.tokens, counted)
            write_json(out_dir / "training.json", summary)  # last: it says that the rest is there
        here.wait_for_all()
        return summary


def _read_ahead(data: Dataset, config: PretrainConfig, here: Place) -> Batches:
    """This process's batches by their position in the data."""
    phases = [rows for _, rows in data.train.phases]

    def rows_at(at: int) -> list[int]:
        return step_rows(
            at, len(data.train), config.batch_rows, config.seed, config.shuffle, here.rank, here.world, phases
        )

    pinned = here.device.type == "cuda"
    return Batches(data.train, rows_at, config.document_mask, config.loader_threads, config.prefetch, pinned)


def _export(folder: Path, model: Decoder, tokenizer_dir: Path, data: Dataset, here: Place) -> Callable[[], None]:
    """What writes the weights as they are now as a Hugging Face folder, while training goes on: for the first process."""
    tensors = {name: tensor.clone() for name, tensor in weights(model, keep=here.rank == 0).items()}
    return partial(save_model, folder, model, tokenizer_dir, data.tokens.eos_id, tensors)


def _refuse(
    bad: BadRows, before: Progress, config: PretrainConfig, data: Dataset, here: Place
) -> tuple[Progress, dict[str, Any]]:
    """Put a bad batch on the list of skipped ones, and say why and whose it is.

    Raises `TrainingError` that names rows and documents, after `max_rollbacks` of them.
    """
    at = position(before.step, before.skipped)
    rows, documents = bad_documents(bad.rows, data, here)
    where = f"Rows {rows[:8]}, documents {describe_documents(documents)}"
    if before.refused >= config.max_rollbacks:
        raise TrainingError(
            f"step {before.step + 1}: {bad}; nothing was updated, and max_rollbacks={config.max_rollbacks} batches were "
            f"skipped before. {where}: look at these, or lower learning_rate and start again"
        )
    after = replace(before, skipped=(*before.skipped, at), refused=before.refused + 1)
    return after, {"position": at, "why": str(bad), "rows": rows, "documents": documents, "where": where}


def _shape(config: PretrainConfig, data: Dataset) -> ModelConfig:
    return model_config(config, data.tokens.vocab_size, data.sequence_length)


def _inputs(data: Dataset, tokenizer_dir: Path) -> list[str]:
    """What identifies data and tokenizer; refuses tokens that another tokenizer made, or ids that it has not."""
    facts, ours = data.tokens.facts, tokenizer_sha256(tokenizer_dir)
    theirs = facts.get("tokenizer_sha256")
    if theirs != ours:
        raise TrainingError(
            f"{data.tokens.path} was encoded with another tokenizer (sha256 {theirs}) than {tokenizer_dir} ({ours})"
        )
    size = load_tokenizer(tokenizer_dir).get_vocab_size(with_added_tokens=True)
    if data.tokens.vocab_size > size:
        raise TrainingError(
            f"{data.tokens.path} has a vocabulary of {data.tokens.vocab_size} in dataset.json, but the tokenizer in "
            f"{tokenizer_dir} has {size} tokens: encode the documents again with this tokenizer"
        )
    return [json.dumps(facts, sort_keys=True), str(data.sequence_length)]


def _due(step: int, steps: int, every: int) -> bool:
    return step % every == 0 or step == steps
