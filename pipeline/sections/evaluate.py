"""The section `evaluate`: the pretrained model measured, in a process of its own."""

from __future__ import annotations

import json
import sys
from typing import Any

import yaml

from pipeline.config import RunConfig
from pipeline.engine.journal import digest
from pipeline.engine.schedule import RunFailed, Terminated
from pipeline.engine.store import sha256_file
from pipeline.sections.calls import Job, launch
from pipeline.yamlfile import ConfigError


def check_evaluate(config: RunConfig) -> None:
    """Find what is wrong with the section's files before the first record is read. Raises `ConfigError`."""
    if config.evaluate is None:
        return
    from training.evaluation.inputs import check
    from training.knobs import TrainingError

    try:
        check(config.evaluate)
    except TrainingError as error:
        raise ConfigError(str(error)) from None


def inputs_digest(config: RunConfig) -> str:
    """What the section's files hold; data that harness tasks name is not among them."""
    from training.evaluation.inputs import check

    assert config.evaluate is not None
    return digest([[str(path), sha256_file(path)] for path in check(config.evaluate)])


def run_evaluate(job: Job) -> tuple[dict[str, Any], list[str]]:
    """Measure model/; what came out stands in evaluation/evaluation.json and, but for the samples, in run.json."""
    assert job.config.evaluate is not None
    settings = job.local / "phases" / "evaluate.yaml"
    settings.parent.mkdir(exist_ok=True)
    settings.write_text(yaml.safe_dump(job.config.evaluate.model_dump(mode="json")))
    path = job.local / "evaluation" / "evaluation.json"
    command = [sys.executable, "-m", "training", "evaluate", str(job.local / "model"), "--config", str(settings)]
    command += ["--tokens", str(job.local / "tokens"), "--documents", str(job.local / "documents")]
    code = launch([*command, "--output", str(path)])
    if code == 143:
        raise Terminated
    if code != 0:
        raise RunFailed(f"evaluate: ended with exit code {code}; what it said is above")
    results = json.loads(path.read_text())["models"]["model"]
    return {key: value for key, value in results.items() if key != "samples"}, [path.relative_to(job.local).as_posix()]
