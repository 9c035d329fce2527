"""Which files an evaluation reads beside model and token dataset, so that a mistake is found before anything runs."""

from __future__ import annotations

from pathlib import Path

from training.evaluation.abstention import read_probes
from training.evaluation.canaries_file import read_canaries
from training.evaluation.config import EvaluateConfig
from training.evaluation.items import bundle_files, read_tasks
from training.evaluation.questions import read_all
from training.evaluation.safety import read_requests
from training.evaluation.texts import find_files
from training.knobs import TrainingError

SPLITS = ("train", "validation")  # what `perplexity` names without a file


def check(config: EvaluateConfig) -> list[Path]:
    """The files, sorted. Raises `TrainingError` for one that is missing, and for items and canaries that cannot be used.

    Data that harness tasks name is theirs to find.
    """
    read_tasks(config.tasks)
    found: set[Path] = set()
    for pattern in config.perplexity:
        if pattern not in SPLITS:
            found.update(find_files(pattern))
    for task in config.tasks:
        path = Path(task.path)
        found.update([path, *bundle_files(path)] if path.suffix in (".yaml", ".yml") else [path])
    read_all(config.questions)
    for questions in config.questions:
        found.update(find_files(questions.path))
    if config.abstention is not None and config.abstention.path is not None:
        read_probes(Path(config.abstention.path))
        found.add(Path(config.abstention.path))
    if config.safety is not None and config.safety.path is not None:
        read_requests(Path(config.safety.path))
        found.add(Path(config.safety.path))
    for knob, folder in (("bertscore", config.bertscore), ("reward_model", config.reward_model)):
        if folder is not None:
            if not (Path(folder) / "config.json").is_file():
                raise TrainingError(f"evaluate.{knob}: {folder} is no model folder: it has no config.json")
            found.update(path for path in Path(folder).iterdir() if path.is_file())
    if config.canaries is not None:
        read_canaries(Path(config.canaries))
        found.add(Path(config.canaries))
    for name in config.harness:
        if name.endswith((".yaml", ".yml")):
            if not Path(name).is_file():
                raise TrainingError(f"evaluate.harness: there is no file {name}")
            found.add(Path(name))
    if config.harness_path is not None and not Path(config.harness_path).is_dir():
        raise TrainingError(f"evaluate.harness_path: there is no folder {config.harness_path}")
    return sorted(found)
