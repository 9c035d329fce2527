"""`stages`: every stage and section, every knob with default, what it takes, meaning and source."""

from __future__ import annotations

import re

import pytest
from pydantic import BaseModel

from pipeline.catalogue import SECTION_MODELS, catalogue, expected
from pipeline.config import RunConfig
from pipeline.yamlfile import ConfigError
from stages.stage import StageConfig, registry

STAGES = {name: stage for name, stage in registry().items() if not name.startswith("test.")}
MODELS: dict[str, type[BaseModel]] = {
    **{name: stage.config_model for name, stage in STAGES.items()},
    **SECTION_MODELS,
    "config": RunConfig,
}


@pytest.mark.parametrize("name", MODELS)
def test_every_knob_says_what_it_is(name: str) -> None:
    for key, field in MODELS[name].model_fields.items():
        assert field.description and len(field.description) > 5, f"{name}.{key} has no doc"
        assert isinstance(field.json_schema_extra, dict) and "source" in field.json_schema_extra, f"{name}.{key}"


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_is_printed_with_its_knobs(name: str) -> None:
    text = catalogue(name)
    assert text.startswith(f"{name}  ({STAGES[name].kind} stage)\n  ")
    assert text in catalogue()
    assert "  reads: " in text
    for key, field in STAGES[name].config_model.model_fields.items():
        printed = re.search(rf"^    {field.alias or key}: .+  \(.+\)$", text, re.M)
        common = StageConfig.model_fields.get(key)
        assert (printed is not None) == (common is None or field.default != common.default), key
    assert (STAGES[name].__doc__ or "").strip()


def test_sections_and_what_every_stage_takes() -> None:
    text = catalogue()
    for section in (*SECTION_MODELS, "Every stage also takes"):
        assert section in text
    for line in (
        "    source: required  (string)",
        "    executor: ray  (ray | inline)",
        "    shard_bytes: 134217728  (size, such as 64MB, at least 1024)",
        "    memory: auto  (auto or size, such as 64MB)",
        "    only: null  (mapping {language: list of string, source: list of string} or null)",
        "    keep: null  (list of string or null)",
        "    min_score: 0.65  (number, at least 0, at most 1)",
        "    survivor: [longest]  (list of string)",
    ):
        assert f"{line}\n" in text
    assert catalogue("engine").startswith("engine  (section)")
    assert "writes: text (edited), pii_count" in catalogue("pii")
    with pytest.raises(ConfigError, match="'tokenzer'; did you mean 'tokenizer'"):
        catalogue("tokenzer")


def test_no_knob_takes_something_without_a_name() -> None:
    """What a knob takes is never a Python type's name."""
    for model in MODELS.values():
        for field in model.model_fields.values():
            if model is not RunConfig:
                assert not re.search(r"class|Literal|tuple|<|None", expected(field))
