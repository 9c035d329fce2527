"""What the report shows of evaluation/: a row a figure, and the model's samples."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.report.results import read_json
from training.evaluation.results import rows
from training.report import human


def evaluation(run: Path) -> dict[str, Any] | None:
    """The table, a column a model, and the samples; None if nothing was evaluated. Raises ValueError on a file of another shape."""
    found = read_json(run / "evaluation" / "evaluation.json")
    if found is None:
        return None
    models = found.get("models")
    if not isinstance(models, Mapping) or not models or not all(isinstance(one, Mapping) for one in models.values()):
        raise ValueError("evaluation.json: no results of a model")
    lines: dict[str, dict[str, tuple[str, str]]] = {}
    try:
        for model, results in models.items():
            for name, value, error in rows(results):
                cell = (_figure(value), "" if error is None else f"± {error:.4f}")
                lines.setdefault(name, {})[model] = cell
        samples = [
            (human.shown(one["prompt"]), [(human.shown(model, 100), human.shown(text)) for model, text in one["texts"]])
            for one in _samples(models)
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"evaluation.json: {type(error).__name__}: {error}") from None
    table = [
        (human.shown(name.strip(), 200), [cells.get(model, ("", "")) for model in models], name[:1] == " ")
        for name, cells in lines.items()
    ]
    return {"models": [human.shown(model, 100) for model in models], "rows": table, "samples": samples}


def _samples(models: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What models wrote behind each prompt."""
    found: dict[str, list[tuple[str, str]]] = {}
    for model, results in models.items():
        for one in results.get("samples", []):
            found.setdefault(one["prompt"], []).append((model, one["text"]))
    return [{"prompt": prompt, "texts": texts} for prompt, texts in found.items()]


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}" if abs(value) < 1000 else human.number(value)
