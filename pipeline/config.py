"""The whole YAML as typed models. Unknown keys are errors that name the line and the nearest right key."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.dedup_index.config import IndexConfig
from pipeline.engine.config import EngineConfig
from pipeline.mistakes import NAME, explain, nearest, odd_numbers, unsaid
from pipeline.overrides import apply_override
from pipeline.stage_order import stage_order
from pipeline.yamlfile import ConfigError, Key, Located, Mistake, load, shown
from stages.stage import MapStage, Stage, StageConfig, knob, registry
from tokenizer_training.dataset.config import PackConfig
from tokenizer_training.vocabulary.config import TokenizerConfig
from training.config import PretrainConfig
from training.evaluation.config import EvaluateConfig
from training.preference.config import DpoConfig, RewardConfig
from training.reinforcement.config import GrpoConfig, PpoConfig
from training.tuning.sft_config import SftConfig

SECTIONS = (
    "stages",
    "mix",
    "index",
    "tokenizer",
    "pack",
    "pretrain",
    "sft",
    "reward",
    "ppo",
    "dpo",
    "grpo",
    "evaluate",
)  # in the order of the flow; `--until` takes one of them
LATER = SECTIONS[2:]  # those behind documents/: the stages and the mix write it together
TUNED = ("sft", "reward", "ppo", "dpo", "grpo")  # those that train a model further
TRAINED = ("pretrain", *TUNED)


class Section(BaseModel):
    """Base of the sections: fixed once read, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class InputConfig(Section):
    """One source of records."""

    source: str = knob(..., "name of the source; part of every document's id", pattern=NAME)
    format: Literal["warc", "wet", "jsonl", "parquet", "html", "text"] = knob(
        ..., "what the files hold (warc: ARC too)"
    )
    paths: tuple[str, ...] | None = knob(None, "files, globs or URLs (any that fsspec knows: s3://, gs://, https://)")
    paths_file: str | None = knob(None, "a file with one path, glob or URL a line, instead of `paths`")
    storage_options: dict[str, Any] = knob(
        {}, "options for fsspec: {anon: true}, {requester_pays: true}, {profile: ...}"
    )
    text_field: str = knob("text", "the column that holds the text (jsonl, parquet)")
    id_field: str | None = knob(None, "the column kept as `record_id` (jsonl, parquet)")
    kind: Literal["text", "chat", "preference", "prompt"] = knob(
        "text",
        "what the rows are: text, or (jsonl, parquet) conversations, pairs of answers, prompts with a verifiable answer, which are"
        " written to chat/, preferences/ and prompts/; docs/chat.md lists their shapes",
    )
    fields: dict[str, str] = knob(
        {}, "columns under names that are not known, for a kind other than text: {prompt: question_text}"
    )
    verifier: str | None = knob(None, "what checks the answers of rows that name no verifier (kind prompt)")


@dataclass(frozen=True)
class StageSpec:
    """One entry of `stages:`, resolved."""

    kind: str  # registered name
    name: str  # `as`, or the registered name: how ledger and scores call it
    config: StageConfig
    implied: bool = False  # put there by the stage behind it

    @property
    def stage_class(self) -> type[Stage]:
        """The registered class."""
        return registry()[self.kind]


class RunConfig(Section):
    """One run: what goes in, what is done with it, in the order of the flow."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    name: str = knob(..., "name of the run; `--output` defaults to runs/<name>", pattern=NAME)
    input: tuple[InputConfig, ...] = knob(..., "where the records come from: a mapping, or a list of mappings")
    stages: tuple[StageSpec, ...] = knob((), "the stages in their order: a name, or a name with its knobs")
    mix: dict[str, Any] | None = knob(None, "which documents are taken, and how often: the knobs of the stage `mix`")
    index: IndexConfig | None = knob(None, "add the curated documents to an index for `dedup.index` of later runs")
    tokenizer: TokenizerConfig | None = knob(None, "train a tokenizer on the curated documents")
    pack: PackConfig | None = knob(None, "encode, shuffle and pack the documents into token binaries")
    pretrain: PretrainConfig | None = knob(None, "pretrain a model on the packed tokens")
    sft: SftConfig | None = knob(None, "fine-tune the model on chat/")
    reward: RewardConfig | None = knob(None, "train a reward model on preferences/")
    ppo: PpoConfig | None = knob(None, "reinforce the model on prompts/: rewards by the reward model or verifiers, PPO")
    dpo: DpoConfig | None = knob(None, "fine-tune the model on preferences/ directly")
    grpo: GrpoConfig | None = knob(None, "reinforce the model on prompts/ with verifiable answers: GRPO and its like")
    evaluate: EvaluateConfig | None = knob(None, "measure the models: held-out text, tasks, memorisation, answers")
    engine: EngineConfig = knob(EngineConfig(), "how the work is carried out")


def read_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read, override (`KEY=VALUE`) and validate a config. Raises `ConfigError` with every mistake found."""
    return resolve(load(path), overrides)


def resolve(raw: Located, overrides: Sequence[str] = ()) -> RunConfig:
    """Validate plain data; all mistakes are reported together."""
    refused: list[str] = []
    for override in overrides:
        try:
            apply_override(raw, override, RunConfig.model_fields, registry())
        except ConfigError as error:
            refused.append(str(error))
    mistakes = list(raw.mistakes)
    data: dict[Any, Any] = dict(raw.data)
    one_input = isinstance(data.get("input"), dict)
    if one_input:
        data["input"] = [data["input"]]
    specs, places = _stages(data.get("stages"), raw, mistakes)
    data["mix"] = _mix(data.get("mix"), raw, mistakes, specs, places)
    data["stages"] = specs
    if data.get("engine") is None:
        data.pop("engine", None)
    config: RunConfig | None = None
    found = odd_numbers(RunConfig, {k: v for k, v in data.items() if k != "stages"})
    if "input" in data and not isinstance(data["input"], list):
        found.append(
            (
                ("input",),
                f"input: expected a mapping (source, format, paths), or a list of them, got {shown(data['input'])}",
            )
        )
    try:
        config = RunConfig.model_validate(data)
    except ValidationError as error:
        found += unsaid(explain(error, RunConfig, data, help="`python -m pipeline stages`"), found)
    if one_input:
        found = [((p[0], *p[2:]) if p[:2] == ("input", 0) else p, t.replace("input.0", "input")) for p, t in found]
    mistakes += unsaid(found, raw.mistakes)
    if config is not None:
        mistakes += _cross_checks(config)
        if not mistakes:
            mistakes += stage_order(config, places)
    if mistakes or refused:
        raise ConfigError("\n".join([*([str(raw.report(mistakes))] if mistakes else []), *refused]))
    assert config is not None
    return config


def _cross_checks(config: RunConfig) -> list[Mistake]:
    """What no single key shows."""
    mistakes: list[Mistake] = []
    for index, entry in enumerate(config.input):
        place: Key = ("input", index) if len(config.input) > 1 else ("input",)
        if (entry.paths is None) == (entry.paths_file is None):
            mistakes.append((place, f"input {entry.source!r} needs either `paths` or `paths_file`"))
        elif entry.paths is not None and not entry.paths:
            mistakes.append(((*place, "paths"), "input.paths: is empty; give at least one file, glob or URL"))
        mistakes += _kind_mistakes(entry, place)
    if not config.input:
        mistakes.append((("input",), "`input` is empty; give at least one mapping with source, format, paths"))
    if config.tokenizer and config.input and all(entry.kind != "text" for entry in config.input):
        text = (
            "`tokenizer` learns from documents/, which only inputs of kind text fill; add one, or set tokenizer: null"
        )
        mistakes.append((("tokenizer",), text))
    if config.index and config.input and all(entry.kind != "text" for entry in config.input):
        text = "`index` holds documents/, which only inputs of kind text fill; add one, or set index: null"
        mistakes.append((("index",), text))
    if config.pack and not config.tokenizer:
        mistakes.append((("pack",), "`pack` needs the section `tokenizer`"))
    if config.pretrain and not config.pack:
        mistakes.append((("pretrain",), "`pretrain` needs the section `pack`"))
    if config.evaluate and not any(getattr(config, name) for name in TRAINED):
        mistakes.append((("evaluate",), f"`evaluate` needs a section that trains: {', '.join(TRAINED)}"))
    mistakes += _tuned_mistakes(config)
    if config.pretrain and config.pack and config.pretrain.sequence_length not in (None, config.pack.sequence_length):
        text = (
            f"pretrain.sequence_length: the tokens are packed for {config.pack.sequence_length} (pack.sequence_length)"
        )
        mistakes.append((("pretrain", "sequence_length"), f"{text}, not for {config.pretrain.sequence_length}"))
    engine = config.engine
    if isinstance(engine.train_processes, int) and engine.train_processes > 1:
        count = engine.train_processes
        if engine.train_launch == "local":
            text = f"engine.train_processes: train_launch local is one process; set train_launch: torchrun or ray for {count}"
            mistakes.append((("engine", "train_processes"), text))
        for name in TRAINED if engine.train_launch != "local" else ():
            section = getattr(config, name)
            if section and section.batch_rows % count:
                text = (
                    f"{name}.batch_rows: {section.batch_rows} rows cannot be shared evenly by {count} processes "
                    f"(engine.train_processes)"
                )
                mistakes.append(((name, "batch_rows"), text))
    for key in ("workers", "partitions", "train_processes"):
        value = getattr(engine, key)
        if isinstance(value, int) and value < 1:
            mistakes.append((("engine", key), f"engine.{key}: expected auto or at least 1, got {value}"))
    if isinstance(engine.memory, int) and engine.memory < engine.unit_memory:
        mistakes.append(
            (
                ("engine", "memory"),
                f"engine.memory: {engine.memory:,} bytes are less than one unit may take (engine.unit_memory, "
                f"{engine.unit_memory:,})",
            )
        )
    if engine.executor == "inline" and isinstance(engine.workers, int) and engine.workers > 1:
        mistakes.append(
            (
                ("engine", "workers"),
                "engine.workers: the inline executor works on one unit at a time; use executor ray",
            )
        )
    return mistakes


KIND_OF = {"sft": "chat", "reward": "preference", "ppo": "prompt", "dpo": "preference", "grpo": "prompt"}


def _tuned_mistakes(config: RunConfig) -> list[Mistake]:
    """Sections that train a model further without a model, or without rows."""
    mistakes: list[Mistake] = []
    for name in TUNED:
        section = getattr(config, name)
        if section is None:
            continue
        if not (config.pretrain or section.model or (name != "sft" and config.sft)):
            needed = "`pretrain`" if name == "sft" else "`sft` or `pretrain`"
            mistakes.append(((name,), f"`{name}` needs the section {needed}, or {name}.model: a model folder"))
        if config.input and all(entry.kind != KIND_OF[name] for entry in config.input):
            mistakes.append(((name,), f"`{name}` learns from inputs of kind {KIND_OF[name]}; add one"))
    return mistakes


ROW_FORMATS = ("jsonl", "parquet")  # what can hold conversations


def _kind_mistakes(entry: InputConfig, place: Key) -> list[Mistake]:
    """Knobs of an input that do not fit its kind."""
    if entry.kind != "text":
        if entry.format in ROW_FORMATS:
            return []
        text = f"input.kind: {entry.kind} rows come as jsonl or parquet, not as {entry.format}"
        return [((*place, "kind"), f"{text}; change input.format, or leave kind out")]
    return [
        (
            (*place, key),
            f"input.{key}: is for conversations; set input.kind to chat, preference or prompt, or leave it out",
        )
        for key in ("fields", "verifier")
        if getattr(entry, key)
    ]


def _stages(entries: Any, raw: Located, mistakes: list[Mistake]) -> tuple[list[StageSpec], list[Key]]:
    """The resolved entries, and where each stands."""
    if entries is None:
        return [], []
    if not isinstance(entries, list):
        mistakes.append(
            (
                ("stages",),
                f"stages: expected a list of stage names, or of `name: {{knob: value}}`, got {shown(entries)}",
            )
        )
        return [], []
    specs: list[StageSpec] = []
    places: list[Key] = []
    for index, entry in enumerate(entries):
        place: Key = ("stages", index)
        if isinstance(entry, str):
            name, knobs = entry, None
        elif isinstance(entry, dict) and len(entry) == 1:
            name, knobs = next(iter(entry.items()))
            place = (*place, name)
        elif entry is None and place in raw.overrides:
            continue
        else:
            hint = ""
            if isinstance(entry, dict) and len(entry) > 1 and next(iter(entry)) in registry():
                first = next(iter(entry))
                hint = (
                    f": indent the knobs deeper than {first!r}" if entry[first] is None else ": put a `-` before each"
                )
            mistakes.append(
                (place, f"stages: expected a stage name, or one `name: {{knob: value}}`, got {entry!r}{hint}")
            )
            continue
        _add_stage(str(name), knobs, raw, place, mistakes, specs, places)
    return specs, places


def _mix(
    knobs: Any, raw: Located, mistakes: list[Mistake], specs: list[StageSpec], places: list[Key]
) -> dict[str, Any] | None:
    """The section `mix`: the stage of that name behind all others. Returns its knobs, resolved."""
    if knobs is None:
        return None
    before = len(specs)
    _add_stage("mix", knobs, raw, ("mix",), mistakes, specs, places)
    return specs[-1].config.model_dump(mode="json", by_alias=True) if len(specs) > before else None


def _add_stage(
    name: str,
    knobs: Any,
    raw: Located,
    place: Key,
    mistakes: list[Mistake],
    specs: list[StageSpec],
    places: list[Key],
) -> None:
    """Add a stage, and before it those that it puts there itself."""
    try:
        spec = stage_spec(name, knobs, raw, place)
    except StageMistakes as error:
        mistakes += error.mistakes
        return
    for kind, given in spec.stage_class.preceded_by(spec.config):
        before = registry()[kind]
        label = f"{kind}.{spec.name}" if spec.name != spec.kind else kind
        specs.append(StageSpec(kind, label, before.config_model.model_validate(given), implied=True))
        places.append(place)
    if any(other.name == spec.name for other in specs):
        mistakes.append((place, f"stage {spec.name!r} is used twice; give one of them `as: NAME`"))
    specs.append(spec)
    places.append(place)


class StageMistakes(ConfigError):
    """What is wrong with one entry of `stages:`."""

    def __init__(self, mistakes: list[Mistake], raw: Located) -> None:
        super().__init__(str(raw.report(mistakes)))
        self.mistakes = mistakes


def stage_spec(name: str, knobs: Any, raw: Located, place: Key) -> StageSpec:
    """One stage's resolved entry. Raises `StageMistakes` for an unknown stage or bad knobs."""
    known = registry()
    if name not in known:
        text = f"unknown stage {name!r}{nearest(name, known)}; `python -m pipeline stages` lists them"
        raise StageMistakes([(place, text)], raw)
    if knobs is None:
        knobs = {}
    if not isinstance(knobs, dict):
        text = f"{name}: expected knobs as a mapping (`knob: value`), got {shown(knobs)}"
        raise StageMistakes([(place, text)], raw)
    stage_class = known[name]
    model = stage_class.config_model
    config, mistakes = _validated(model, knobs, place, name)
    if config is not None and config.as_ is not None and (config.as_ in known or config.as_ in _TAKEN):
        text = f"{name}.as: {config.as_!r} is the name of another stage or section; choose another"
        if config.as_ != name:
            mistakes.append(((*place, "as"), text))
    if config is not None and config.alarm_share is not None and not stage_class.drops:
        mistakes.append(((*place, "alarm_share"), f"{name}.alarm_share: {name} drops nothing; leave it out"))
    if config is not None and not mistakes:
        mistakes += _variant_mistakes(stage_class, config, knobs, place, name)
    if mistakes or config is None:
        raise StageMistakes(unsaid(mistakes, raw.mistakes), raw)
    return StageSpec(kind=name, name=config.as_ or name, config=config)


def _validated(
    model: type[StageConfig], knobs: dict[str, Any], place: Key, label: str
) -> tuple[StageConfig | None, list[Mistake]]:
    mistakes = odd_numbers(model, knobs, place, label)
    config: StageConfig | None = None
    try:
        config = model.model_validate(knobs)
    except ValidationError as error:
        stage = label.split(".by_language.")[0]
        mistakes += unsaid(explain(error, model, knobs, place, label, f"`python -m pipeline stages {stage}`"), mistakes)
    return config, mistakes


def _variant_mistakes(
    stage_class: type[Stage], config: StageConfig, knobs: dict[str, Any], place: Key, name: str
) -> list[Mistake]:
    """What is wrong with the entries of `by_language`."""
    mistakes: list[Mistake] = []
    if config.by_language and stage_class.kind != "map":
        text = (
            f"{name}: by_language is for map stages; a {stage_class.kind} stage compares documents of all languages "
            "(use the stage twice with `only`, each `as` a name)"
        )
        return [((*place, "by_language"), text)]
    for language, values in config.by_language.items():
        inner: Key = (*place, "by_language", language)
        label = f"{name}.by_language.{language}"
        common = [key for key in values if key in _COMMON_KNOBS]
        if common:
            mistakes.append(
                ((*inner, common[0]), f"{label}: `{common[0]}` holds for the whole stage, not for a language of it")
            )
            continue
        variant, wrong = _validated(stage_class.config_model, {**knobs, **values, "by_language": {}}, inner, label)
        mistakes += wrong
        if variant is not None and not wrong and _columns(stage_class, variant) != _columns(stage_class, config):
            text = f"{label}: changes which columns {name} writes; use the stage twice with `only`, each `as` a name"
            mistakes.append((inner, text))
    return mistakes


_COMMON_KNOBS = [f.alias or n for n, f in StageConfig.model_fields.items()]
_TAKEN = {*RunConfig.model_fields, "read", "poison", "section", "samples"}  # also names in ledger and journal


def _columns(stage_class: type[Stage], config: StageConfig) -> Any:
    stage = stage_class(config)
    return stage.measures() if isinstance(stage, MapStage) else stage.provides()


_SECRET = re.compile(r"key|secret|token|password|credential", re.I)
_SECRET_OVERRIDE = re.compile(r"[\w.]*storage_options[\w.]*=")  # a `--set` that may hold one


def redact(value: Any) -> Any:
    """Plain data with what looks like a credential hidden, for run.json and the report."""
    if isinstance(value, dict):
        return {k: ("***" if _SECRET.search(str(k)) and isinstance(v, str) else redact(v)) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [redact(v) for v in value]
    if isinstance(value, str) and (given := _SECRET_OVERRIDE.match(value)):
        return f"{given.group(0)}***"
    return value


def resolved(config: RunConfig) -> dict[str, Any]:
    """The whole config as plain data, every default filled in, for run.json."""
    data: dict[str, Any] = {"name": config.name}
    data["input"] = [{**i.model_dump(mode="json"), "storage_options": redact(i.storage_options)} for i in config.input]
    last = None if config.mix is None else config.stages[-1]  # the section's, not one of `stages`
    data["stages"] = [
        {spec.kind: spec.config.model_dump(mode="json", by_alias=True, exclude_none=False)}
        for spec in config.stages
        if not spec.implied and spec is not last
    ]
    data["mix"] = config.mix
    for section in LATER:
        part = getattr(config, section)
        data[section] = part.model_dump(mode="json") if part is not None else None
    engine = config.engine.model_dump(mode="json")
    data["engine"] = {**engine, "storage_options": redact(engine["storage_options"])}
    return data
