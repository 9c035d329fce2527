"""The whole YAML as typed models. Unknown keys are errors that name the line and the nearest right key."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from tokenizer_training.config import PackConfig, TokenizerConfig
from training.config import PretrainConfig

from pipeline.yamlfile import ConfigError, Key, Located, load, parse_value
from stages.stage import Stage, StageConfig, knob, registry

SECTIONS = ("stages", "tokenizer", "pack", "pretrain")  # in the order of the flow; `--until` takes one of them

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def parse_bytes(value: Any) -> Any:
    """'64MB', '2GiB', 1000 -> bytes; anything else is returned for the model to refuse."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?\s*", value, re.I) if isinstance(value, str) else None
    return int(float(match.group(1)) * _UNITS[match.group(2).lower()]) if match else value


Bytes = Annotated[int, BeforeValidator(parse_bytes)]


class Section(BaseModel):
    """Base of the sections: fixed once read, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class InputConfig(Section):
    """One source of records."""

    source: str = knob(..., "name of the source; part of every document's id", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]*$")
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
    kind: Literal["text"] = knob("text", "what the records are")


class EngineConfig(Section):
    """How the work is carried out. Changes the output only where the doc says so."""

    executor: Literal["ray", "inline"] = knob("ray", "ray: parallel; inline: one unit after the other, in one process")
    address: str | None = knob(None, "an existing Ray cluster (`auto`, or host:port); none: a local one is started")
    workers: Literal["auto"] | int = knob("auto", "units at a time; auto: as many as cores and memory allow")
    memory: Literal["auto"] | Bytes = knob(
        "auto", "memory for all units together on a node; auto: three quarters of what is free"
    )
    unit_memory: Bytes = knob(1 << 30, "memory that one unit may take before it is ended", ge=64 << 20)
    recycle_units: int = knob(
        32, "a worker is replaced after this many units, before leaks in native parsers matter", ge=1
    )
    shard_bytes: Bytes = knob(
        128 << 20, "input is cut into shards of about this size, as stored (changes the output)", ge=1 << 10
    )
    partitions: Literal["auto"] | int = knob(
        "auto", "parts of a key exchange; auto: one for each 256 MB of input, at most 4096"
    )
    keep_dropped: Literal["sample", "all", "none"] = knob(
        "sample", "which dropped documents' text is kept in samples/ (changes the output)"
    )
    max_failed: float = knob(
        0.05, "share of an input's records that may fail before the run counts as failed", ge=0, le=1
    )
    max_record_bytes: Bytes = knob(
        100 << 20, "longer records fail as `read:too_large` (changes the output)", ge=1 << 10
    )
    record_seconds: float = knob(
        60.0, "CPU time for one record in one stage; beyond it the record fails as `timeout`", gt=0
    )
    storage_options: dict[str, Any] = knob({}, "options for fsspec, for an `--output` that is a URL")


@dataclass(frozen=True)
class StageSpec:
    """One entry of `stages:`, resolved."""

    kind: str  # registered name
    name: str  # `as`, or the registered name: how ledger and scores call it
    config: StageConfig

    @property
    def stage_class(self) -> type[Stage]:
        """The registered class."""
        return registry()[self.kind]


class RunConfig(Section):
    """One run: what goes in, what is done with it, in the order of the flow."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    name: str = knob(
        ..., "name of the run; `--output` defaults to runs/<name>", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]*$"
    )
    input: tuple[InputConfig, ...] = knob(..., "where the records come from: a mapping, or a list of mappings")
    stages: tuple[StageSpec, ...] = knob((), "the stages in their order: a name, or a name with its knobs")
    tokenizer: TokenizerConfig | None = knob(None, "train a tokenizer on the curated documents")
    pack: PackConfig | None = knob(None, "encode, shuffle and pack the documents into token binaries")
    pretrain: PretrainConfig | None = knob(None, "pretrain a model on the packed tokens")
    engine: EngineConfig = knob(EngineConfig(), "how the work is carried out")


def read_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read, override (`KEY=VALUE`) and validate a config. Raises `ConfigError` with every mistake found."""
    return resolve(load(path), overrides)


def resolve(raw: Located, overrides: Sequence[str] = ()) -> RunConfig:
    """Validate plain data; all mistakes are reported together."""
    for override in overrides:
        apply_override(raw, override)
    data: dict[Any, Any] = dict(raw.data)
    problems: list[str] = []
    places: dict[Key, Key] = {}  # a place in the model -> the place in the file, where they differ
    if isinstance(data.get("input"), dict):
        data["input"] = [data["input"]]
        places[("input", 0)] = ("input",)
    stages = _stages(data.get("stages"), raw, problems)
    data["stages"] = stages
    if data.get("engine") is None:
        data.pop("engine", None)
    config: RunConfig | None = None
    try:
        config = RunConfig.model_validate(data)
    except ValidationError as error:
        problems += _explain(error, raw, RunConfig, places)
    if config is not None:
        problems += _cross_checks(config, raw)
    if problems or config is None:
        raise ConfigError("\n".join(problems))
    return config


def _cross_checks(config: RunConfig, raw: Located) -> list[str]:
    problems = []
    for index, entry in enumerate(config.input):
        if (entry.paths is None) == (entry.paths_file is None):
            problems.append(
                f"{raw.where(('input', index))}: input {entry.source!r} needs either `paths` or `paths_file`"
            )
    if not config.input:
        problems.append(
            f"{raw.where(('input',))}: `input` is empty; give at least one mapping with source, format, paths"
        )
    if config.pack and not config.tokenizer:
        problems.append(f"{raw.where(('pack',))}: `pack` needs the section `tokenizer`")
    if config.pretrain and not config.pack:
        problems.append(f"{raw.where(('pretrain',))}: `pretrain` needs the section `pack`")
    for key in ("workers", "partitions"):
        value = getattr(config.engine, key)
        if isinstance(value, int) and value < 1:
            problems.append(
                f"{raw.where(('engine', key))}: engine.{key}: expected `auto` or a number from 1, got {value}"
            )
    if config.engine.executor == "inline" and isinstance(config.engine.workers, int) and config.engine.workers > 1:
        problems.append(
            f"{raw.where(('engine', 'workers'))}: engine.workers: the inline executor works on one unit at a time; use executor ray"
        )
    return problems


def _stages(entries: Any, raw: Located, problems: list[str]) -> list[StageSpec]:
    if entries is None:
        return []
    if not isinstance(entries, list):
        problems.append(
            f"{raw.where(('stages',))}: stages: expected a list of stage names, or of `name: {{knob: value}}`"
        )
        return []
    specs: list[StageSpec] = []
    for index, entry in enumerate(entries):
        place: Key = ("stages", index)
        if isinstance(entry, str):
            name, knobs, inner = entry, {}, place
        elif isinstance(entry, dict) and len(entry) == 1:
            name, knobs = next(iter(entry.items()))
            inner = (*place, name)
        else:
            problems.append(
                f"{raw.where(place)}: stages: expected a stage name, or one `name: {{knob: value}}`, got {entry!r}"
            )
            continue
        try:
            spec = stage_spec(str(name), knobs, raw, inner)
        except ConfigError as error:
            problems.append(str(error))
            continue
        if any(other.name == spec.name for other in specs):
            problems.append(f"{raw.where(place)}: stage {spec.name!r} is used twice; give one of them `as: NAME`")
        specs.append(spec)
    return specs


def stage_spec(name: str, knobs: Any, raw: Located, place: Key) -> StageSpec:
    """One stage's resolved entry. Raises `ConfigError` for an unknown stage or bad knobs."""
    known = registry()
    if name not in known:
        raise ConfigError(
            f"{raw.where(place)}: unknown stage {name!r}{_nearest(name, known)}; `python -m pipeline stages` lists them"
        )
    if knobs is None:
        knobs = {}
    if not isinstance(knobs, dict):
        raise ConfigError(f"{raw.where(place)}: {name}: expected knobs as `knob: value`, got {knobs!r}")
    stage_class = known[name]
    model = stage_class.config_model
    try:
        config = model.model_validate(knobs)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(error, raw, model, {}, place, name))) from None
    if config.by_language and stage_class.kind != "map":
        raise ConfigError(
            f"{raw.where((*place, 'by_language'))}: {name}: by_language is for map stages; a {stage_class.kind} stage "
            "compares documents of all languages (use `only` with the stage twice, each `as` a name)"
        )
    for language, values in config.by_language.items():
        try:
            model.model_validate({**knobs, **values, "by_language": {}})
        except ValidationError as error:
            raise ConfigError(
                "\n".join(
                    _explain(error, raw, model, {}, (*place, "by_language", language), f"{name}.by_language.{language}")
                )
            ) from None
    return StageSpec(kind=name, name=config.as_ or name, config=config)


def _nearest(word: str, known: Any) -> str:
    close = difflib.get_close_matches(word, [str(k) for k in known], n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def _explain(
    error: ValidationError,
    raw: Located,
    model: type[BaseModel],
    places: dict[Key, Key],
    prefix: Key = (),
    label: str = "",
) -> list[str]:
    """pydantic's findings in the user's words."""
    lines = []
    for finding in error.errors():
        inner: Key = tuple(part for part in finding["loc"] if not _is_type_tag(part))
        path: Key = (*prefix, *inner)
        for model_place, file_place in places.items():
            if path[: len(model_place)] == model_place:
                path = (*file_place, *path[len(model_place) :])
        name = ".".join(str(part) for part in ((label, *inner) if label else path) if part != "")
        if finding["type"] == "extra_forbidden":
            fields = _fields(model, inner[:-1])
            valid = f"; valid keys: {', '.join(sorted(fields))}" if fields else ""
            lines.append(f"{raw.where(path)}: unknown key {name!r}{_nearest(str(inner[-1]), fields)}{valid}")
        elif finding["type"] == "missing":
            lines.append(f"{raw.where(path)}: {name!r} is missing: {_doc(model, inner)}")
        else:
            message = finding["msg"].removeprefix("Value error, ")
            shown = finding["input"]
            got = "" if isinstance(shown, dict | list | tuple) and len(str(shown)) > 60 else f", got {shown!r}"
            lines.append(f"{raw.where(path)}: {name}: {message[0].lower() + message[1:]}{got}")
    return list(dict.fromkeys(lines))


def _is_type_tag(part: str | int) -> bool:
    """pydantic puts the branch of a union into the location; such a part is no key of the user's."""
    return isinstance(part, str) and bool(
        re.match(r"^(literal|function-|int|str|float|bool|tuple|list|dict|constrained)(\[|-|$)", part)
    )


def _field_of(model: type[BaseModel], path: Key) -> Any:
    """The pydantic field that a path leads to, if it leads through models."""
    field = None
    current: type[BaseModel] | None = model
    for part in path:
        if isinstance(part, int):
            continue
        if current is None:
            return None
        field = next((f for n, f in current.model_fields.items() if part in (n, f.alias)), None)
        current = _model_in(field.annotation) if field is not None else None
    return field


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _model_in(argument)
        if found is not None:
            return found
    return None


def _fields(model: type[BaseModel], path: Key) -> list[str]:
    field = _field_of(model, path) if path else None
    inner = _model_in(field.annotation) if field is not None else (model if not path else None)
    return [f.alias or n for n, f in inner.model_fields.items()] if inner else []


def _doc(model: type[BaseModel], path: Key) -> str:
    field = _field_of(model, path)
    return (field.description or "required") if field is not None else "required"


def apply_override(raw: Located, override: str) -> None:
    """Apply one `KEY=VALUE` to plain data: the longest stage name first, then sections."""
    key, separator, text = override.partition("=")
    key = key.strip()
    if not separator or not key:
        raise ConfigError(f"--set {override}: expected KEY=VALUE, as in --set extract.method=resiliparse")
    value = parse_value(text)
    parts = key.split(".")
    place = _stage_place(raw, parts) or _section_place(raw, parts, override)
    target = raw.data
    for part in place[:-1]:
        if isinstance(target, dict) and (part not in target or target[part] is None):
            target[part] = {}
        try:
            target = target[part]
        except (IndexError, TypeError):
            raise ConfigError(f"--set {override}: there is no entry {part!r} in the config") from None
    if not isinstance(target, dict) and not (isinstance(target, list) and isinstance(place[-1], int)):
        raise ConfigError(f"--set {override}: {'.'.join(parts[:-1])} holds no keys; set it whole instead")
    try:
        target[place[-1]] = value
    except IndexError:
        raise ConfigError(f"--set {override}: there is no entry {place[-1]} in the config") from None
    raw.overrides[place] = override


def _stage_place(raw: Located, parts: list[str]) -> Key | None:
    """Where a knob of a configured stage stands, if `parts` begin with a stage's name."""
    stages = raw.data.get("stages")
    if not isinstance(stages, list):
        return None
    best: tuple[int, int] | None = None  # (length of the name in parts, index)
    for index, entry in enumerate(stages):
        name = entry if isinstance(entry, str) else next(iter(entry), "") if isinstance(entry, dict) else ""
        knobs = entry.get(name) if isinstance(entry, dict) else None
        for candidate in (knobs.get("as") if isinstance(knobs, dict) else None, name):
            if not isinstance(candidate, str):
                continue
            words = candidate.split(".")
            if parts[: len(words)] == words and len(parts) > len(words) and (best is None or len(words) > best[0]):
                best = (len(words), index)
    if best is None:
        return None
    length, index = best
    entry = stages[index]
    if isinstance(entry, str):
        stages[index] = {entry: {}}
    name = next(iter(stages[index]))
    if stages[index][name] is None:
        stages[index][name] = {}
    return ("stages", index, name, *parts[length:])


def _section_place(raw: Located, parts: list[str], override: str) -> Key:
    sections = [n for n in RunConfig.model_fields]
    if parts[0] not in sections:
        known = sections + [n for n in registry()]
        name = ".".join(parts[:-1]) or parts[0]
        if any(n == name or name.startswith(f"{n}.") for n in registry()):
            raise ConfigError(
                f"--set {override}: the config does not use the stage {name!r}; add it under `stages` first"
            )
        raise ConfigError(f"--set {override}: no section or stage is called {name!r}{_nearest(name, known)}")
    return tuple(int(p) if p.isdigit() else p for p in parts)


_SECRET = re.compile(r"key|secret|token|password|credential", re.I)


def redact(value: Any) -> Any:
    """Plain data with what looks like a credential hidden, for run.json and the report."""
    if isinstance(value, dict):
        return {k: ("***" if _SECRET.search(str(k)) and isinstance(v, str) else redact(v)) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [redact(v) for v in value]
    return value


def resolved(config: RunConfig) -> dict[str, Any]:
    """The whole config as plain data, every default filled in, for run.json."""
    data: dict[str, Any] = {"name": config.name}
    data["input"] = [{**i.model_dump(mode="json"), "storage_options": redact(i.storage_options)} for i in config.input]
    data["stages"] = [
        {spec.kind: spec.config.model_dump(mode="json", by_alias=True, exclude_none=False)} for spec in config.stages
    ]
    for section in ("tokenizer", "pack", "pretrain"):
        part = getattr(config, section)
        data[section] = part.model_dump(mode="json") if part is not None else None
    engine = config.engine.model_dump(mode="json")
    data["engine"] = {**engine, "storage_options": redact(engine["storage_options"])}
    return data
