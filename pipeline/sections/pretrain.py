"""The section `pretrain`: the bundled trainer, in processes of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipeline.sections.calls import Job
from pipeline.sections.launching import train


def run_pretrain(job: Job) -> tuple[dict[str, Any], list[str]]:
    """Pretrain on tokens/; leaves model/."""
    assert job.config.pretrain is not None
    arguments = ["--tokens", str(job.local / "tokens"), "--tokenizer", str(job.local / "tokenizer")]
    if _has_languages(job.local / "documents"):
        arguments += ["--documents", str(job.local / "documents")]
    return train(job, "pretrain", job.config.pretrain, "model", arguments)


def _has_languages(documents: Path) -> bool:
    """Whether held-out losses can be told by language."""
    return all("language" in pq.read_schema(part).names for part in documents.glob("*.parquet"))
