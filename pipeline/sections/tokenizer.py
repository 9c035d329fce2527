"""The section `tokenizer`: training, and the report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.config import RunConfig
from pipeline.engine.executors import Executor
from pipeline.engine.phases import Work
from pipeline.engine.store import Store
from pipeline.engine.work import Call
from pipeline.sections.calls import documents, run_calls
from tokenizer_training.efficiency.measure import evaluate, write_report
from tokenizer_training.vocabulary.config import TokenizerConfig
from tokenizer_training.vocabulary.train import train_tokenizer


def make_tokenizer(parts: list[Path], config: TokenizerConfig, folder: Path) -> dict[str, Any]:
    """Train, measure and report, in a worker."""
    trained = train_tokenizer(parts, config, folder)
    facts = evaluate(folder, parts)
    write_report(facts, folder)
    return {**trained, **{k: v for k, v in facts.items() if not isinstance(v, list | dict)}}


def run_tokenizer(
    config: RunConfig,
    work: Work,
    store: Store,
    local: Path,
    executor: Executor,
    parts: dict[str, str],
    say: Callable[[str], None],
) -> tuple[dict[str, Any], list[str]]:
    """Train and measure a tokenizer."""
    assert config.tokenizer is not None
    folder = local / "tokenizer"
    call = Call(
        "tokenizer", make_tokenizer, {"parts": documents(work, local), "config": config.tokenizer, "folder": folder}
    )
    (facts,) = run_calls("tokenizer", [call], executor)
    files = [p.relative_to(local).as_posix() for p in folder.rglob("*") if p.is_file()]
    return facts, files
