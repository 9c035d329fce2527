"""One evaluation of one or several models, from config to results."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tokenizer_training.dataset.read import TokenDataset
from training.checkpoint import load_model, write_json
from training.device import choose_device, choose_dtype, choose_threads
from training.evaluation.answering import Answer
from training.evaluation.assistant import ask, base_of, check_prompts, compare, read_asked
from training.evaluation.canaries import exposure
from training.evaluation.canaries_file import read_canaries
from training.evaluation.choices import run_task
from training.evaluation.config import EvaluateConfig
from training.evaluation.endpoint import Endpoint
from training.evaluation.harness import run_harness, task_files
from training.evaluation.inputs import check
from training.evaluation.items import read_tasks
from training.evaluation.memorisation import memorisation
from training.evaluation.perplexity import first, perplexity
from training.evaluation.results import FORMAT
from training.evaluation.samples import encode, samples
from training.evaluation.subject import Subject
from training.evaluation.texts import file_documents, has_languages, language_of, split_documents
from training.knobs import TrainingError
from training.vocabulary import load_tokenizer, token_bytes, tokenizer_sha256

Say = Callable[[str], object]
EVERY = 10.0  # seconds between lines of progress


def evaluate(
    folders: Sequence[Path],
    config: EvaluateConfig,
    *,
    tokens: Path | None = None,
    documents: Path | None = None,
    output: Path | None = None,
    say: Say = lambda line: None,
) -> dict[str, Any]:
    """Evaluate model folders one after the other; with `output`, write it whole as JSON at the end.

    tokens: the token dataset, for its splits and for memorisation. documents: a folder of Parquet parts with id and
    language, for figures by language of the splits. Equal input gives equal bytes on the CPU with equal threads.
    Raises `TrainingError` for what is wrong with models, data or config, before the first model is run where it can.
    """
    data = _open(tokens) if tokens is not None else None
    names = _names(folders)
    check(config)
    tasks = read_tasks(config.tasks)
    canaries = read_canaries(Path(config.canaries)) if config.canaries is not None else []
    asked = read_asked(config)
    comparing = config.judge is not None or config.reward_model is not None
    if comparing:
        base_of(names, config)
    if config.judge is not None:
        Endpoint(config.judge, None).close()  # raises now what it would at the end
    if documents is not None:
        if data is None:
            raise TrainingError(f"--documents {documents}: it says the languages of a token dataset; give --tokens too")
        has_languages(documents)
    for folder in folders:
        if data is not None:
            _check_tokenizer(data, folder)
        check_prompts(folder, asked, config)
    task_files(config.harness)
    results: dict[str, Any] = {}
    answers: dict[str, dict[str, list[Answer]]] = {}
    asking = lambda title, total: progress(title, total, say, "prompts")  # noqa: E731
    before = torch.get_num_threads()
    torch.set_num_threads(choose_threads(config.threads))
    try:
        for name, folder in zip(names, folders, strict=True):
            device = choose_device(config.device)
            model, end = load_model(folder, device, choose_dtype(config.dtype, device))
            subject = Subject(folder, model, load_tokenizer(folder), end)
            encode(subject.tokenizer, config.prompts, model.config.context_length)  # raises now, not at the end
            out: dict[str, Any] = {
                "weights_sha256": weights_sha256(folder),
                "parameters": sum(parameter.numel() for parameter in model.parameters()),
            }
            out["perplexity"] = _perplexities(subject, config, data, documents, say)
            scored = {}
            for task in tasks:
                with_progress = progress(f"{name}: {task.name}", len(task.items[: config.items]), say, "texts")
                scored[task.name] = run_task(
                    model,
                    subject.tokenizer,
                    task,
                    end=subject.start(),
                    seed=config.seed,
                    batch_tokens=config.batch_tokens,
                    limit=config.items,
                    done=with_progress,
                )
            out["tasks"] = scored
            out["core"] = sum(one["centred"] for one in scored.values()) / len(scored) if scored else None
            found, answers[name] = ask(subject, name, asked, config, asking)
            out |= found
            if config.harness:
                say(f"{name}: lm-evaluation-harness, {', '.join(config.harness)}")
                out["harness"] = run_harness(
                    model,
                    subject.tokenizer,
                    end,
                    config.harness,
                    include_path=config.harness_path,
                    shots=config.harness_shots,
                    limit=config.harness_items,
                    seed=config.seed,
                    batch_tokens=config.batch_tokens,
                    online=config.harness_online,
                )
            out["memorisation"] = _memorisation(subject, config, data, say)
            out["canaries"] = exposure(
                model,
                subject.tokenizer,
                canaries,
                end=subject.start() if canaries else 0,
                samples=config.canary_samples,
                seed=config.seed,
                batch_tokens=config.batch_tokens,
                done=progress(f"{name}: canaries", None, say, "texts"),
            )
            out["samples"] = samples(
                model,
                subject.tokenizer,
                config.prompts,
                end=end,
                new_tokens=config.sample_tokens,
                temperature=config.temperature,
                seed=config.seed,
            )
            results[name] = out
            del model, subject
        if comparing:
            cache = output.with_name(output.stem + ".judge.jsonl") if output is not None else None
            for name, rates in compare(answers, asked, config, cache, asking).items():
                results[name]["win_rates"] = rates
    finally:
        torch.set_num_threads(before)
    whole = {"format": FORMAT, "config": config.model_dump(mode="json"), "models": results}
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_json(output, whole)
    return whole


def _perplexities(
    subject: Subject, config: EvaluateConfig, data: TokenDataset | None, documents: Path | None, say: Say
) -> dict[str, Any]:
    out: dict[str, Any] = {}
    limit = subject.model.config.context_length
    context = config.context or limit
    if context > limit:
        raise TrainingError(
            f"evaluate.context: {context} tokens are more than the context of {subject.folder}, {limit}"
        )
    stride = config.stride or context
    if stride > context:
        raise TrainingError(f"evaluate.stride: {stride} tokens are more than a window of {subject.folder}, {context}")
    for name in config.perplexity:
        of_split = data is not None and name in data.splits
        if not of_split and name in ("train", "validation"):
            lacking = "no token dataset was given (--tokens)" if data is None else f"{data.path} has no such split"
            say(f"{name}: {lacking}, so it is left out")
            continue
        skipped = config.first_token == "skipped"
        lengths: np.ndarray | None = None
        if of_split or skipped:
            lengths = token_bytes(subject.folder, subject.model.config.vocab_size)
        if of_split:
            assert data is not None and lengths is not None
            language = language_of(data, name, config.documents, documents)
            found = split_documents(data, name, subject.tokenizer, lengths, language)
        else:
            found = file_documents(name, config.text_field, subject.tokenizer)
        out[name] = perplexity(
            subject.model,
            first(found, config.documents),
            end=None if skipped else subject.start(),
            lengths=lengths,
            context=context,
            stride=stride,
            batch_tokens=config.batch_tokens,
            done=progress(f"{subject.folder.name}: {name}", config.documents, say, "documents"),
        )
    return out


def _memorisation(
    subject: Subject, config: EvaluateConfig, data: TokenDataset | None, say: Say
) -> dict[str, Any] | None:
    """None without a dataset, or where no prefix fits the context."""
    if not config.memorisation or data is None:
        return None
    room = subject.model.config.context_length - config.memorisation_tokens
    prefixes = sorted({prefix for prefix in config.memorisation_prefixes if prefix <= room})
    if not prefixes:
        say(
            f"{subject.folder.name}: memorisation is left out, its context of {room + config.memorisation_tokens} is too short"
        )
        return None
    return memorisation(
        subject.model,
        data,
        prefixes=prefixes,
        continuation=config.memorisation_tokens,
        documents=config.memorisation_documents,
        batch_tokens=config.batch_tokens,
        done=progress(f"{subject.folder.name}: memorisation", None, say, "texts"),
    )


def _open(folder: Path) -> TokenDataset:
    try:
        data = TokenDataset(folder)
        for split, shards in data.splits.items():
            for number in range(len(shards)):
                data.shard(split, number)  # refuses one that was copied in part
        return data
    except (OSError, ValueError, KeyError) as error:
        raise TrainingError(f"cannot read the token dataset {folder}: {error}") from None


def _check_tokenizer(data: TokenDataset, folder: Path) -> None:
    ours, theirs = tokenizer_sha256(folder), data.facts.get("tokenizer_sha256")
    if ours != theirs:
        raise TrainingError(
            f"{data.path} was encoded with another tokenizer (sha256 {theirs}) than {folder} has ({ours}); "
            "give texts by perplexity=[FILE] instead, which each model encodes itself"
        )


def _names(folders: Sequence[Path]) -> list[str]:
    """Short names that tell the folders apart."""
    short = [folder.resolve().name for folder in folders]
    if len(set(short)) == len(short):
        return short
    full = [str(folder) for folder in folders]
    if len(set(full)) < len(full):
        raise TrainingError("one model is given twice; name each folder once")
    return full


def progress(title: str, total: int | None, say: Say, unit: str) -> Callable[[int], None]:
    """A counter that says how far it is, now and then; nothing for what is done in a few seconds."""
    last, count = time.monotonic(), 0

    def add(done: int) -> None:
        nonlocal last, count
        count += done
        if time.monotonic() - last >= EVERY:
            last = time.monotonic()
            say(f"{title}: {count:,}{'' if total is None else f' of at most {total:,}'} {unit}")

    return add


def weights_sha256(folder: Path) -> str:
    """SHA-256 over a model's weight files: which model a result belongs to."""
    total = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def to_stderr(line: str) -> None:
    """Progress, beside the results on standard output."""
    print(line, file=sys.stderr, flush=True)
