"""Items of multiple-choice, schema and completion tasks: JSONL in the layout of DCLM's evaluation bundle.

multiple_choice: `query`, `choices`, `gold`. schema (Winograd): `context_options`, `continuation`, `gold`.
language_modeling: `context`, `continuation`. A bundle's YAML lists such files under `icl_tasks`.
Source: Li et al. 2024, DataComp-LM (arXiv 2406.11794), section 3.4 and appendix G.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Literal

from training.evaluation.config import TaskConfig
from training.evaluation.texts import json_lines
from training.knobs import TrainingError

Kind = Literal["multiple_choice", "schema", "language_modeling"]


@dataclass(frozen=True)
class Item:
    """A question: which continuation follows which context. Completions have one pair and no wrong answer."""

    contexts: tuple[str, ...]
    answers: tuple[str, ...]
    gold: int

    def solved(self, delimiter: str) -> str:
        """The item with its answer, as an example before another."""
        return self.contexts[self.gold] + delimiter + self.answers[self.gold]


@dataclass(frozen=True)
class Task:
    """A file of items of one kind, and how they are put."""

    name: str
    kind: Kind
    items: tuple[Item, ...]
    shots: int
    delimiter: str
    unconditional: str
    chance: float | None

    def guessing(self, count: int) -> float:
        """Accuracy of a guess at the first `count` items."""
        if self.chance is not None:
            return self.chance
        if self.kind == "language_modeling":
            return 0.0
        return sum(1 / len(item.answers) for item in self.items[:count]) / count

    def examples(self, number: int, seed: int) -> list[Item]:
        """The solved items before item `number`: drawn without it, by seed and number alone."""
        if not self.shots:
            return []
        draw = Random(f"{seed}:{number}")  # hashed by SHA-512, the same in every Python
        others = draw.sample(range(len(self.items) - 1), self.shots)
        return [self.items[other + (other >= number)] for other in others]


def read_tasks(configs: tuple[TaskConfig, ...]) -> list[Task]:
    """The tasks of files and bundles. Raises `TrainingError` that names file, line and key; for two of one name too."""
    tasks: list[Task] = []
    for config in configs:
        path = Path(config.path)
        if path.suffix in (".yaml", ".yml"):
            tasks += _read_bundle(path, config)
        else:
            tasks.append(read_task(path, config))
    for number, task in enumerate(tasks):
        if task.name in {other.name for other in tasks[:number]}:
            raise TrainingError(f"evaluate.tasks: two tasks are called {task.name!r}; give one another name")
    return tasks


def read_task(path: Path, config: TaskConfig) -> Task:
    """One file of items, all of one kind."""
    found = [_item(row, where) for where, row in json_lines(path)]
    if not found:
        raise TrainingError(f"{path}: has no items")
    kinds = {kind for kind, _ in found}
    if len(kinds) > 1:
        raise TrainingError(f"{path}: holds items of several kinds ({', '.join(sorted(kinds))}); put each in its file")
    if config.shots >= len(found):
        raise TrainingError(f"{path}: has {len(found)} items, too few for shots={config.shots} beside the question")
    kind = found[0][0]
    items = tuple(item for _, item in found)
    return Task(
        config.name or path.name.removesuffix(".gz").rsplit(".", 1)[0],
        kind,
        items,
        config.shots,
        config.delimiter,
        config.unconditional,
        config.chance,
    )


def _item(row: dict[str, Any], where: str) -> tuple[Kind, Item]:
    if "choices" in row:
        choices = _texts(row, "choices", where)
        return "multiple_choice", Item(
            (_text(row, "query", where),) * len(choices), choices, _gold(row, choices, where)
        )
    if "context_options" in row:
        contexts = _texts(row, "context_options", where)
        answers = (_text(row, "continuation", where),) * len(contexts)
        return "schema", Item(contexts, answers, _gold(row, contexts, where))
    if "context" in row:
        # DCLM's bundle leaves white space at the end of some contexts, beside its delimiter
        return "language_modeling", Item(
            (_text(row, "context", where).strip(),), (_text(row, "continuation", where),), 0
        )
    raise TrainingError(
        f"{where}: expected query and choices, context_options and continuation, or context and continuation; "
        f"there are {', '.join(row) or 'no keys'}"
    )


def _text(row: dict[str, Any], key: str, where: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not (value or key in ("query", "context")):
        raise TrainingError(f"{where}: {key} must be a text, got {value!r}")
    return value


def _texts(row: dict[str, Any], key: str, where: str) -> tuple[str, ...]:
    value = row[key]
    if not isinstance(value, list) or len(value) < 2 or not all(isinstance(one, str) and one for one in value):
        raise TrainingError(f"{where}: {key} must be a list of at least two texts, got {value!r}")
    return tuple(value)


def _gold(row: dict[str, Any], choices: tuple[str, ...], where: str) -> int:
    gold = row.get("gold")
    if isinstance(gold, bool) or not isinstance(gold, int) or not 0 <= gold < len(choices):
        raise TrainingError(f"{where}: gold must be a number from 0 to {len(choices) - 1}, got {gold!r}")
    return gold


def _read_bundle(path: Path, config: TaskConfig) -> list[Task]:
    """The tasks of a YAML as DCLM's core.yaml: files below eval_data/, baselines in eval_meta_data.csv, both beside it."""
    import yaml

    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))["icl_tasks"]
        baselines = _baselines(path.parent / "eval_meta_data.csv")
        tasks = []
        for entry in entries:
            shots = entry.get("num_fewshot", [config.shots])
            for count in shots if isinstance(shots, list) else [shots]:
                here = _data_file(path, entry["dataset_uri"])
                label = str(entry["label"])
                settings = config.model_copy(
                    update={
                        "name": label if shots == [count] or shots == count else f"{label} ({count} shots)",
                        "shots": count,
                        "delimiter": entry.get("continuation_delimiter", " "),
                        "chance": baselines.get(label, config.chance),
                    }
                )
                task = read_task(here, settings)
                wanted = entry.get("icl_task_type", task.kind)
                if wanted != task.kind:
                    raise TrainingError(f"{path}: {label} is {wanted}, but {here} holds {task.kind} items")
                tasks.append(task)
        return tasks
    except TrainingError:
        raise
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise TrainingError(
            f"{path}: no list of tasks ({type(error).__name__}: {error}); expected icl_tasks with label and dataset_uri"
        ) from None


def bundle_files(path: Path) -> list[Path]:
    """The files that a bundle's YAML, which can be read, names."""
    import yaml

    entries = yaml.safe_load(path.read_text(encoding="utf-8"))["icl_tasks"]
    extra = path.parent / "eval_meta_data.csv"
    return [*(_data_file(path, entry["dataset_uri"]) for entry in entries), *([extra] if extra.exists() else [])]


def _data_file(bundle: Path, uri: str) -> Path:
    below = bundle.parent / "eval_data" / uri
    return below if below.exists() else bundle.parent / uri


def _baselines(path: Path) -> dict[str, float]:
    """Accuracy of guessing by task; the file has it in percent."""
    if not path.exists():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        return {row["Eval Task"]: float(row["Random baseline"]) / 100 for row in csv.DictReader(file)}
