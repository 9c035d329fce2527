"""The section `tokenizer`: pre-tokens counted on all workers, then training and the report in one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.engine.executors import Executor
from pipeline.engine.journal import digest
from pipeline.engine.phases import Work
from pipeline.engine.store import Store
from pipeline.engine.work import Call
from pipeline.sections.calls import Job, KeptCall, documents, forget_kept, part_digests, run_calls, run_kept_calls
from tokenizer_training.efficiency.measure import evaluate, write_report
from tokenizer_training.vocabulary.config import TokenizerConfig
from tokenizer_training.vocabulary.counts import count_documents, counted_as
from tokenizer_training.vocabulary.train import (
    count_fields,
    counting,
    tables_of,
    train_from_parts,
    train_tokenizer,
)

COUNTS = "counts"


def make_tokenizer(
    parts: list[Path], counts: dict[str, list[Path]], config: TokenizerConfig, folder: Path
) -> dict[str, Any]:
    """Train, measure and report, in a worker. `counts`: the counts of the parts; none with `engine: tokenizers`."""
    trained = train_from_parts(counts, config, folder, parts) if counts else train_tokenizer(parts, config, folder)
    facts = evaluate(folder, parts)
    write_report(facts, folder)
    return {**trained, **{k: v for k, v in facts.items() if not isinstance(v, list | dict)}}


def run_tokenizer(job: Job) -> tuple[dict[str, Any], list[str]]:
    """Train and measure a tokenizer."""
    assert job.config.tokenizer is not None
    folder = job.local / "tokenizer"
    counts = (
        _count(job.config.tokenizer, job.work, job.store, job.local, job.executor)
        if job.config.tokenizer.engine == "gristmill"
        else {}
    )
    arguments = {
        "parts": documents(job.work, job.local),
        "counts": counts,
        "config": job.config.tokenizer,
        "folder": folder,
    }
    (facts,) = run_calls("tokenizer", [Call("tokenizer", make_tokenizer, arguments)], job.executor)
    forget_kept(COUNTS, job.store)
    files = [p.relative_to(job.local).as_posix() for p in folder.rglob("*") if p.is_file()]
    return facts, files


def _count(config: TokenizerConfig, work: Work, store: Store, local: Path, executor: Executor) -> dict[str, list[Path]]:
    """The counts of each part of documents/, by the tables that training needs."""
    fields = count_fields(config)
    calls = []
    counts: dict[str, list[Path]] = {}
    for table in tables_of(config):
        how = counting(config, table)
        counts[table] = []
        for path, part in zip(documents(work, local), part_digests(work), strict=True):
            unit = f"{path.stem}-{table}"
            out = local / "phases" / COUNTS / unit
            counts[table].append(out)
            known = {"documents": part, "counted": digest([counted_as(how), list(fields)])}
            arguments = {"files": [path], "config": how, "out": out, "fields": fields}
            calls.append(
                KeptCall(
                    Call(f"count {path.stem} {table}", count_documents, arguments),
                    COUNTS,
                    unit,
                    out.relative_to(local).as_posix(),
                    known,
                )
            )
    run_kept_calls("count", calls, store, local, executor)
    return counts
