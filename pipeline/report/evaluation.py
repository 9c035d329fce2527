"""What the report shows of evaluation/: a row a figure, and the model's samples."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.report.results import read_json
from training.evaluation.results import rows
from training.report import human


def evaluation(run: Path) -> dict[str, Any] | None:
    """The table and the samples; None if nothing was evaluated. Raises ValueError on a file of another shape."""
    found = read_json(run / "evaluation" / "evaluation.json")
    if found is None:
        return None
    models = found.get("models")
    model = models.get("model") if isinstance(models, Mapping) else None
    if not isinstance(model, Mapping):
        raise ValueError("evaluation.json: no results of a model")
    try:
        table = [
            (human.shown(name.strip(), 200), _figure(value), "" if error is None else f"± {error:.4f}", name[:1] == " ")
            for name, value, error in rows(model)
        ]
        samples = [(human.shown(one["prompt"]), human.shown(one["text"])) for one in model.get("samples", [])]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"evaluation.json: {type(error).__name__}: {error}") from None
    return {"rows": table, "samples": samples}


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}" if abs(value) < 1000 else human.number(value)
