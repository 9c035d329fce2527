"""Questions that are answered by writing: JSONL or Parquet rows of prompt or messages, answer and verifier.

The pipeline's prompts/ is such a folder. A line: {"prompt": "2 + 3 =", "answer": "5", "verifier": "number"}.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.evaluation.answers_config import QuestionsConfig
from training.evaluation.texts import find_files, json_lines
from training.knobs import TrainingError
from training.verify.registry import VERIFIERS, check_answer, verifier
from training.verify.verdict import Verifier

ROLES = ("system", "user", "assistant", "tool")
COLUMNS = ("id", "prompt", "messages", "answer", "verifier")
Messages = tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Question:
    """Messages that want an answer, the texts that would be right, and how that is checked."""

    where: str
    messages: Messages
    references: tuple[str, ...]
    verifier: str | None

    @property
    def answers(self) -> tuple[str, ...]:
        """What its verifier checks by, any of which will do: there are verifiers that need none."""
        return self.references or ("",)

    @property
    def text(self) -> str:
        """The messages without their roles, parted by empty lines."""
        return "\n\n".join(one["content"] for one in self.messages)


@dataclass(frozen=True)
class Questions:
    """A file of questions and how it is put and scored."""

    name: str
    items: tuple[Question, ...]
    metrics: tuple[str, ...]
    config: QuestionsConfig


def read_all(configs: tuple[QuestionsConfig, ...]) -> list[Questions]:
    """Every file. Raises `TrainingError` that names file, line and key; for two of one name too."""
    found = [read_questions(config) for config in configs]
    for number, one in enumerate(found):
        if one.name in {other.name for other in found[:number]}:
            raise TrainingError(f"evaluate.questions: two files are called {one.name!r}; give one another name")
    return found


def read_questions(config: QuestionsConfig) -> Questions:
    """One file or folder, with the metrics that its rows allow."""
    path = Path(config.path)
    items = tuple(_question(row, where, config.verifier) for where, row in rows(path))
    if not items:
        raise TrainingError(f"{path}: has no questions")
    name = config.name or path.name.removesuffix(".gz").rsplit(".", 1)[0]
    verified = all(item.verifier is not None for item in items)
    answered = all(item.references for item in items)
    metrics: tuple[str, ...] = config.metrics
    if not metrics:
        metrics = ("verified",) if verified else ("exact_match", "f1") if answered else ()
    for metric in metrics:
        lacking = [
            item.where for item in items if (item.verifier is None if metric == "verified" else not item.references)
        ]
        if lacking:
            needs = "verifier (or set the knob verifier)" if metric == "verified" else "answer"
            raise TrainingError(f"{lacking[0]}: the metric {metric} needs the key {needs}; {len(lacking)} rows lack it")
    if "verified" in metrics:
        checks = verifiers(items, config.allow_unsandboxed)
        for item in items:
            for answer in item.answers:
                check_answer(str(item.verifier), checks[str(item.verifier)], answer, item.where)
    return Questions(name, items, metrics, config)


def verifiers(items: Sequence[Question], allow_unsandboxed: bool) -> dict[str, Verifier]:
    """The verifiers that questions name."""
    options = {"python_tests": {"allow_unsandboxed": allow_unsandboxed}}
    return {name: verifier(name, **options.get(name, {})) for name in {str(item.verifier) for item in items}}


def rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, row) of a JSONL or Parquet file or of a folder of such."""
    for file in find_files(str(path)):
        if file.suffix == ".parquet":
            yield from _parquet(file)
        elif file.name.removesuffix(".gz").endswith((".jsonl", ".ndjson")):
            yield from json_lines(file)
        elif path.is_file():
            raise TrainingError(f"{file}: expected .jsonl, .jsonl.gz or .parquet")


def _parquet(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(file)
        columns = [name for name in COLUMNS if name in table.schema_arrow.names]
        number = 0
        for batch in table.iter_batches(256, columns=columns):
            for row in batch.to_pylist():
                number += 1
                yield f"{file}, row {number}", row
    except (pa.ArrowException, OSError) as error:
        raise TrainingError(f"cannot read {file}: {error}") from None


def _question(row: dict[str, Any], where: str, default: str | None) -> Question:
    verifier = row.get("verifier", default)
    if verifier is None:
        verifier = default
    if verifier is not None and not isinstance(verifier, str):
        raise TrainingError(f"{where}: verifier must be a name, got {verifier!r}")
    if verifier is not None and verifier not in VERIFIERS:
        raise TrainingError(f"{where}: no verifier is called {verifier!r}; there are {', '.join(VERIFIERS)}")
    return Question(where, read_messages(row, where), _references(row.get("answer"), where), verifier)


def read_messages(row: dict[str, Any], where: str) -> Messages:
    """`prompt` (a text, or messages) or `messages` of a row, without an answer at the end."""
    given = row.get("prompt") if row.get("prompt") is not None else row.get("messages")
    if isinstance(given, str) and given.strip():
        return ({"role": "user", "content": given},)
    if not isinstance(given, list) or not given:
        raise TrainingError(f"{where}: expected prompt (a text or messages) or messages; there are {', '.join(row)}")
    for message in given:
        if (
            not isinstance(message, dict)
            or message.get("role") not in ROLES
            or not isinstance(message.get("content"), str)
        ):
            raise TrainingError(f"{where}: a message must have role ({', '.join(ROLES)}) and content, got {message!r}")
    if given[-1]["role"] == "assistant":
        raise TrainingError(f"{where}: the last message is the assistant's; leave out the answer that is asked for")
    return tuple({"role": message["role"], "content": message["content"]} for message in given)


def _references(answer: Any, where: str) -> tuple[str, ...]:
    if answer is None:
        return ()
    texts = answer if isinstance(answer, list) else [answer]
    if not texts or not all(isinstance(one, str | int | float) and not isinstance(one, bool) for one in texts):
        raise TrainingError(f"{where}: answer must be a text or a list of texts, got {answer!r}")
    return tuple(str(one) for one in texts)
