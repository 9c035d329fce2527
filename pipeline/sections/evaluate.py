"""The section `evaluate`: the models of the run measured side by side, in a process of their own."""

from __future__ import annotations

import json
import sys
from typing import Any

import yaml

from pipeline.config import TRAINED, RunConfig
from pipeline.engine.journal import digest
from pipeline.engine.schedule import RunFailed, Terminated
from pipeline.engine.store import sha256_file
from pipeline.sections.calls import Job, launch
from pipeline.sections.tuned import MODELS
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
    """Measure every model of the run; what came out stands in evaluation/evaluation.json and, but for the samples, in run.json.

    Answers are compared by the run's reward model, if there are questions and a section `reward`, and no other is named.
    """
    evaluate = job.config.evaluate
    assert evaluate is not None
    knobs = evaluate.model_dump(mode="json", exclude_unset=True)
    models = [MODELS[name] for name in TRAINED if name != "reward" and getattr(job.config, name) is not None]
    if evaluate.questions and job.config.reward is not None and evaluate.reward_model is None and len(models) > 1:
        knobs["reward_model"] = str(job.local / MODELS["reward"])
    settings = job.local / "phases" / "evaluate.yaml"
    settings.parent.mkdir(exist_ok=True)
    settings.write_text(yaml.safe_dump(knobs))
    path = job.local / "evaluation" / "evaluation.json"
    command = [sys.executable, "-m", "training", "evaluate", *(str(job.local / model) for model in models)]
    command += ["--config", str(settings), "--output", str(path)]
    if job.config.pack is not None:
        command += ["--tokens", str(job.local / "tokens"), "--documents", str(job.local / "documents")]
    code = launch(command)
    if code == 143:
        raise Terminated
    if code != 0:
        raise RunFailed(f"evaluate: ended with exit code {code}; what it said is above")
    results = json.loads(path.read_text())["models"]
    facts = {name: {key: value for key, value in one.items() if key != "samples"} for name, one in results.items()}
    return {"models": facts}, [path.relative_to(job.local).as_posix()]
