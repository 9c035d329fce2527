"""Which files an evaluation reads beside model and token dataset, so that a mistake is found before anything runs."""

from __future__ import annotations

from pathlib import Path

from training.evaluation.canaries_file import read_canaries
from training.evaluation.config import EvaluateConfig
from training.evaluation.items import bundle_files, read_tasks
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
