"""The sections `sft`, `reward`, `ppo`, `dpo`, `grpo`: a model of this run, or of a folder, trained further on the run's rows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.config import RunConfig
from pipeline.engine.phases import Work
from pipeline.sections.calls import Job
from pipeline.sections.launching import train
from training.tuning.config import TuneConfig

ROWS = {  # what each learns from: the folder of the run directory
    "sft": "chat",
    "reward": "preferences",
    "ppo": "prompts",
    "dpo": "preferences",
    "grpo": "prompts",
}
FLAGS = {"chat": "--data", "preferences": "--pairs", "prompts": "--prompts"}  # by which the command is given the rows
MODELS = {"pretrain": "model", **{name: name for name in ROWS}}  # the model folder that a section leaves


def start_of(name: str, config: RunConfig) -> str | None:
    """The section whose model a section starts from; None if that is a folder of the user's (the knob `model`).

    Raises `LookupError` if there is neither.
    """
    if getattr(config, name).model is not None:
        return None
    for before in ("sft", "pretrain") if name != "sft" else ("pretrain",):
        if getattr(config, before) is not None:
            return before
    raise LookupError(name)


def behind(name: str, config: RunConfig) -> list[str]:
    """The sections whose output a section of this kind reads."""
    start = start_of(name, config)
    reads = [] if start is None else [start]
    return [*reads, *(["reward"] if name == "ppo" and config.reward is not None else [])]


def rows_digests(name: str, work: Work) -> list[str]:
    """The SHA-256 of each part of the rows that a section learns from."""
    return [
        output.sha256
        for manifest in work.final_manifests()
        for output in manifest.outputs
        if output.path.startswith(f"{ROWS[name]}/")
    ]


def outside_model(config: TuneConfig) -> dict[str, Any]:
    """What identifies the files of a model folder of the user's: sizes and times of change."""
    folder = Path(config.model or "")
    stats = {path.name: path.stat() for path in sorted(folder.glob("*")) if path.is_file()}
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}


def run_tuned(name: str, job: Job) -> tuple[dict[str, Any], list[str]]:
    """Train; leaves the folder of the section's name."""
    config: TuneConfig = getattr(job.config, name)
    start = start_of(name, job.config)
    model = Path(config.model or "").absolute() if start is None else job.local / MODELS[start]
    rows = ROWS[name]
    arguments = ["--model", str(model), FLAGS[rows], str(job.local / rows)]
    if name == "ppo" and job.config.reward is not None:
        arguments += ["--reward", str(job.local / MODELS["reward"])]
    facts, files = train(job, name, config, MODELS[name], arguments)
    return {key: value for key, value in facts.items() if not isinstance(value, Mapping) or key == "figures"}, files
