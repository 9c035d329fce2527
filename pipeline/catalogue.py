"""`python -m pipeline stages`: every knob with its default, meaning and source, read from where it is declared."""

from __future__ import annotations

import textwrap
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from pipeline.config import EngineConfig, InputConfig
from pipeline.yamlfile import ConfigError
from stages.stage import Stage, StageConfig, registry
from tokenizer_training.config import PackConfig, TokenizerConfig
from training.config import PretrainConfig

SECTION_MODELS: dict[str, type[BaseModel]] = {
    "input": InputConfig,
    "tokenizer": TokenizerConfig,
    "pack": PackConfig,
    "pretrain": PretrainConfig,
    "engine": EngineConfig,
}


def catalogue(name: str | None = None) -> str:
    """The text for one stage or section, or for all of them. Raises `ConfigError` for an unknown name."""
    stages = registry()
    if name is not None:
        if name in stages:
            return _stage(stages[name])
        if name in SECTION_MODELS:
            return _section(name, SECTION_MODELS[name])
        raise ConfigError(f"no stage or section is called {name!r}; there are {', '.join([*stages, *SECTION_MODELS])}")
    parts = [_stage(stage) for stage in stages.values()]
    common = "Every stage also takes:\n" + "\n".join(_knobs(StageConfig, set()))
    parts += [common, *(_section(section, model) for section, model in SECTION_MODELS.items())]
    return "\n\n".join(parts)


def _stage(stage: type[Stage]) -> str:
    doc = (stage.__doc__ or "").strip().split("\n\n")[0].replace("\n    ", " ")
    instance = _default_instance(stage)
    lines = [
        f"{stage.name}  ({stage.kind} stage)",
        textwrap.fill(doc, 110, initial_indent="  ", subsequent_indent="  "),
    ]
    lines.append(
        f"  reads: {', '.join(stage.needs)}"
        + (f"; writes: {', '.join(instance.provides())}" if instance and instance.provides() else "")
    )
    lines += _knobs(stage.config_model, set(StageConfig.model_fields))
    return "\n".join(lines)


def _default_instance(stage: type[Stage]) -> Stage | None:
    try:
        return stage(stage.config_model())
    except ValueError:  # a required knob: its columns are the same, but need a config
        return None


def _section(name: str, model: type[BaseModel]) -> str:
    return "\n".join(
        [
            f"{name}  (section)",
            textwrap.fill(
                (model.__doc__ or "").strip().split("\n\n")[0], 110, initial_indent="  ", subsequent_indent="  "
            ),
            *_knobs(model, set()),
        ]
    )


def _knobs(model: type[BaseModel], without: set[str]) -> list[str]:
    lines = []
    for name, field in model.model_fields.items():
        if name in without:
            continue
        default = "required" if field.is_required() or field.default is PydanticUndefined else _plain(field.default)
        lines.append(f"    {field.alias or name}: {default}")
        extra: Any = field.json_schema_extra
        source = extra.get("source", "") if isinstance(extra, dict) else ""
        doc = (field.description or "") + (f" [{source}]" if source else "")
        lines.append(textwrap.fill(doc, 110, initial_indent="        ", subsequent_indent="        "))
    return lines


def _plain(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        shown = ", ".join(_plain(v) for v in value)
        return f"[{shown}]" if len(shown) < 200 else f"[{shown[:200]}...]"
    return str(value)
