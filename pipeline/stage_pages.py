"""`python -m pipeline stages --markdown FOLDER`: a page for each stage, written from the code, so that it cannot drift from it."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from pipeline.catalogue import common_knobs, default_instance, expected, plain
from stages.stage import MapStage, Stage, StageConfig, registry


def write_pages(folder: Path) -> list[Path]:
    """Write a page for each stage, and an index; remove pages of stages that are gone. The files written."""
    folder.mkdir(parents=True, exist_ok=True)
    pages = stage_pages()
    for stale in set(folder.glob("*.md")) - {folder / name for name in pages}:
        stale.unlink()
    for name, text in pages.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in pages]


def stage_pages() -> dict[str, str]:
    """File names and texts."""
    stages = registry()
    index = ["# Stages", "", "Written by `python -m pipeline stages --markdown docs/stages`; do not edit.", ""]
    index += ["| stage | kind | what it does |", "|---|---|---|"]
    for name, stage in stages.items():
        index.append(f"| [{name}]({name}.md) | {stage.kind} | {_cell(_paragraphs(stage)[0])} |")
    index += ["", "Every stage also takes:", "", *_knobs(StageConfig, set())]
    return {"README.md": "\n".join(index) + "\n", **{f"{name}.md": _page(stage) for name, stage in stages.items()}}


def _page(stage: type[Stage]) -> str:
    instance = default_instance(stage)
    writes = list(instance.provides()) if instance else []
    if isinstance(instance, MapStage) and instance.edits and "text" not in writes:
        writes.insert(0, "text (edited)")
    module = inspect.getdoc(sys.modules[stage.__module__]) or ""
    config = inspect.getdoc(stage.config_model) or ""
    parts = [
        f"# {stage.name}",
        "Written from the code by `python -m pipeline stages --markdown docs/stages`; do not edit.",
    ]
    parts += _paragraphs(stage)
    parts.append(
        f"A {stage.kind} stage. Reads {_names(stage.needs)}; writes {_names(writes) if writes else 'no columns'}."
    )
    if isinstance(instance, MapStage) and (scored := instance.scored()):
        parts.append(f"In scores/: {_names(scored)}.")
    knobs = _knobs(stage.config_model, common_knobs(stage.config_model))
    parts += ["## Knobs", config, "\n".join(knobs)] if len(knobs) > 2 else []
    parts += ["## Definitions", module]
    return "\n\n".join(part for part in parts if part) + "\n"


def _paragraphs(stage: type[Stage]) -> list[str]:
    return (inspect.getdoc(stage) or "").split("\n\n")


def _names(columns: Any) -> str:
    return ", ".join(f"`{name}`" for name in columns)


def _knobs(model: type[BaseModel], without: set[str]) -> list[str]:
    lines = ["| knob | default | takes | meaning | source |", "|---|---|---|---|---|"]
    for name, field in model.model_fields.items():
        if name in without:
            continue
        default = (
            "required" if field.is_required() or field.default is PydanticUndefined else f"`{plain(field.default)}`"
        )
        extra: Any = field.json_schema_extra
        source = extra.get("source", "") if isinstance(extra, dict) else ""
        cells = (f"`{field.alias or name}`", default, expected(field), field.description or "", source)
        lines.append(f"| {' | '.join(map(_cell, cells))} |")
    return lines


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
