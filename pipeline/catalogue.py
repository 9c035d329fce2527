"""`python -m pipeline stages`: every knob with its default, meaning and source, read from where it is declared."""

from __future__ import annotations

import textwrap
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from pipeline.config import InputConfig, RunConfig
from pipeline.dedup_index.config import IndexConfig
from pipeline.engine.config import EngineConfig
from pipeline.mistakes import nearest
from pipeline.train_classifier import ClassifierTraining
from pipeline.train_perplexity import PerplexityTraining
from pipeline.yamlfile import ConfigError
from stages.stage import MapStage, Stage, StageConfig, parse_bytes, registry
from tokenizer_training.dataset.config import PackConfig
from tokenizer_training.vocabulary.config import TokenizerConfig
from training.config import PretrainConfig
from training.evaluation.config import EvaluateConfig
from training.preference.config import DpoConfig, RewardConfig
from training.reinforcement.config import GrpoConfig, PpoConfig
from training.tuning.sft_config import SftConfig

SECTION_MODELS: dict[str, type[BaseModel]] = {
    "input": InputConfig,
    "index": IndexConfig,
    "tokenizer": TokenizerConfig,
    "pack": PackConfig,
    "pretrain": PretrainConfig,
    "sft": SftConfig,
    "reward": RewardConfig,
    "ppo": PpoConfig,
    "dpo": DpoConfig,
    "grpo": GrpoConfig,
    "evaluate": EvaluateConfig,
    "engine": EngineConfig,
    "train-classifier": ClassifierTraining,
    "train-perplexity": PerplexityTraining,
}


TRAININGS = ("train-classifier", "train-perplexity")  # commands with a config of their own


def catalogue(name: str | None = None) -> str:
    """The text for one stage or section, or for all of them. Raises `ConfigError` for an unknown name."""
    stages = registry()
    if name is not None:
        if name in stages:
            return _stage(stages[name])
        if name in SECTION_MODELS:
            return _section(name, SECTION_MODELS[name])
        known = [*stages, *SECTION_MODELS]
        raise ConfigError(f"no stage or section is called {name!r}{nearest(name, known)}; there are {', '.join(known)}")
    parts = [f"A config has the keys {', '.join(RunConfig.model_fields)}. The stages:"]
    parts += [_stage(stage) for stage in stages.values()]
    common = "Every stage also takes:\n" + "\n".join(_knobs(StageConfig, set()))
    parts += [common, *(_section(section, model) for section, model in SECTION_MODELS.items())]
    return "\n\n".join(parts)


def _stage(stage: type[Stage]) -> str:
    doc = (stage.__doc__ or "").strip().split("\n\n")[0].replace("\n    ", " ")
    instance = default_instance(stage)
    writes = list(instance.provides()) if instance else []
    if isinstance(instance, MapStage) and instance.edits and "text" not in writes:
        writes.insert(0, "text (edited)")
    lines = [
        f"{stage.name}  ({stage.kind} stage)",
        textwrap.fill(doc, 110, initial_indent="  ", subsequent_indent="  "),
        f"  reads: {', '.join(stage.needs)}" + (f"; writes: {', '.join(writes)}" if writes else ""),
    ]
    lines += _knobs(stage.config_model, common_knobs(stage.config_model))
    return "\n".join(lines)


def common_knobs(model: type[BaseModel]) -> set[str]:
    """The knobs of a stage that are those of every stage, with the same defaults."""
    same = StageConfig.model_fields
    return {name for name in same if model.model_fields[name].default == same[name].default}


def default_instance(stage: type[Stage]) -> Stage | None:
    """The stage as it is without any knob; None if it needs one."""
    try:
        return stage(stage.config_model.model_validate({}))
    except ValueError:  # a required knob: its columns are the same, but need a config
        return None


def _section(name: str, model: type[BaseModel]) -> str:
    return "\n".join(
        [
            f"{name}  ({'config of its own' if name in TRAININGS else 'section'})",
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
        default = "required" if field.is_required() or field.default is PydanticUndefined else plain(field.default)
        lines.append(f"    {field.alias or name}: {default}  ({expected(field)})")
        extra: Any = field.json_schema_extra
        source = extra.get("source", "") if isinstance(extra, dict) else ""
        doc = (field.description or "") + (f" [{source}]" if source else "")
        lines.append(textwrap.fill(doc, 110, initial_indent="        ", subsequent_indent="        "))
    return lines


def expected(field: FieldInfo) -> str:
    """What a knob takes, in words: its choices or type, and its bounds."""
    bounds = [
        f"{words} {plain(getattr(limit, name))}"
        for limit in field.metadata
        for name, words in (("ge", "at least"), ("gt", "more than"), ("le", "at most"), ("lt", "less than"))
        if hasattr(limit, name)
    ]
    size = any(getattr(part, "func", None) is parse_bytes for part in field.metadata)
    return ", ".join([SIZE if size else _type(field.annotation), *bounds])


SIZE = "size, such as 64MB"
_TYPES = {bool: "true or false", int: "whole number", float: "number", str: "string", type(None): "null"}


def _type(annotation: Any) -> str:
    if annotation in _TYPES:
        return _TYPES[annotation]
    arguments = get_args(annotation)
    if any(getattr(part, "func", None) is parse_bytes for part in arguments):
        return SIZE
    origin = get_origin(annotation)
    if origin is Literal:
        return " | ".join(plain(choice) for choice in arguments)
    if origin is Annotated:
        return _type(arguments[0])
    if origin in (Union, types.UnionType):
        return " or ".join(_type(branch) for branch in arguments)
    if origin in (tuple, list):
        return f"list of {_type(arguments[0])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        inner = ", ".join(
            f"{name}: {_type(f.annotation).removesuffix(' or null')}" for name, f in annotation.model_fields.items()
        )
        return f"mapping {{{inner}}}"
    return "mapping"


def plain(value: Any) -> str:
    """A value as it is written in YAML."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        shown = ", ".join(plain(v) for v in value)
        return f"[{shown}]" if len(shown) < 200 else f"[{shown[:200]}...]"
    return str(value)
