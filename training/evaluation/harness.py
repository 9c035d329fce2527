"""lm-evaluation-harness tasks on our models, by its own API and with local data."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from training.knobs import TrainingError
from training.model import Decoder

BOOTSTRAP = 1000  # draws for the errors of metrics that have no formula
OFFLINE = ("HF_DATASETS_OFFLINE", "HF_HUB_OFFLINE")  # read when the libraries are first imported


def run_harness(
    model: Decoder,
    tokenizer: Tokenizer,
    end: list[int],
    tasks: tuple[str, ...],
    *,
    include_path: str | None = None,
    shots: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    batch_tokens: int = 8192,
    online: bool = False,
) -> dict[str, dict[str, float]]:
    """The metrics of each task, `metric` and `metric,filter` as the harness names them, its standard errors beside them.

    A task is a name that the harness knows (its data must be on this machine unless `online`), or a YAML file whose
    `dataset_kwargs: {data_files: ...}` names local data. Raises `TrainingError` if lm_eval is not installed, a task is
    unknown, or its data cannot be had.
    """
    with _local_data(online):
        try:
            from lm_eval import simple_evaluate

            from training.evaluation.harness_model import GristmillLM
        except ImportError as error:
            raise TrainingError(f"evaluate.harness needs lm-eval ({error}): pip install 'gristmill[eval]'") from None
        logging.getLogger("lm_eval").setLevel(logging.WARNING)
        files = task_files(tasks)
        names = [files.get(task, task) for task in tasks]
        folders = [*([include_path] if include_path else []), *sorted({str(Path(file).parent) for file in files})]
        manager = _manager(folders, defaults=False)  # its own thousands of tasks take a while to be listed
        if not set(names) <= set(manager.all_tasks):
            manager = _manager(folders, defaults=True)
        known = set(manager.all_tasks)
        if unknown := [name for name in names if name not in known]:
            raise TrainingError(
                f"evaluate.harness: lm-eval knows no task {unknown[0]!r}; give a YAML file, or its folder as harness_path"
            )
        try:
            found = simple_evaluate(
                model=GristmillLM(loaded=(model, tokenizer, end), batch_tokens=batch_tokens),
                tasks=names,
                num_fewshot=shots,
                limit=limit,
                task_manager=manager,
                log_samples=False,
                random_seed=seed,
                numpy_random_seed=seed,
                torch_random_seed=seed,
                fewshot_random_seed=seed,
                bootstrap_iters=BOOTSTRAP,
                verbosity=None,
            )
        except (OSError, ValueError, KeyError, AssertionError) as error:
            hint = "" if online else " (data must be on this machine: harness_online is off)"
            raise TrainingError(f"evaluate.harness: {type(error).__name__}: {error}{hint}") from error
    return {
        name: {key: value for key, value in sorted(metrics.items()) if isinstance(value, int | float)}
        for name, metrics in sorted((found or {})["results"].items())
    }


def task_files(tasks: tuple[str, ...]) -> dict[str, str]:
    """The task's name in each YAML file among `tasks`. Raises `TrainingError` for a file that cannot be used."""
    return {task: _name_in(task) for task in tasks if task.endswith((".yaml", ".yml"))}


def _manager(folders: list[str], defaults: bool) -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=folders or None, include_defaults=defaults)


def _name_in(path: str) -> str:
    """The name of the task in a YAML file, which may hold tags that only the harness can read."""
    try:
        named = re.search(r"^task:\s*[\"']?([^\s\"'#]+)", Path(path).read_text(encoding="utf-8"), re.MULTILINE)
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingError(f"evaluate.harness: cannot read {path}: {error}") from None
    if named is None:
        raise TrainingError(f"evaluate.harness: {path} names no task (a line `task: NAME`)")
    return named[1]


@contextmanager
def _local_data(online: bool) -> Iterator[None]:
    """No download, unless asked for."""
    before = {name: os.environ.get(name) for name in OFFLINE}
    if not online:
        os.environ.update(dict.fromkeys(OFFLINE, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
