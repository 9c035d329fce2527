"""YAML with the line of every key, so that an error can say where it is."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import yaml

Key = tuple[str | int, ...]  # the way to a value: ("stages", 0, "extract", "method")

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


class ConfigError(ValueError):
    """The user's mistake in a config or on the command line; the message names the place and the remedy."""


class Located:
    """Plain data from YAML together with the place (file:line, or the `--set` that gave it) of every key."""

    def __init__(self, data: Any, name: str, lines: dict[Key, int]) -> None:
        self.data = data
        self.name = name
        self.lines = lines
        self.overrides: dict[Key, str] = {}

    def where(self, key: Key) -> str:
        """`file:line` of the nearest enclosing key, or the override that set it."""
        for length in range(len(key), -1, -1):
            if key[:length] in self.overrides:
                return f"--set {self.overrides[key[:length]]}"
            if key[:length] in self.lines:
                return f"{self.name}:{self.lines[key[:length]]}"
        return self.name


def load(path: Path) -> Located:
    """Read one YAML document; `${NAME}` and `${NAME:-default}` in strings come from the environment.

    Raises `ConfigError` for an unreadable file, bad YAML, a key given twice, or an unset variable.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such config file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    lines: dict[Key, int] = {}
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = _build(node, (), lines, str(path)) if node is not None else {}
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{path}:{line}: not valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}:1: expected a mapping of sections (name, input, stages, ...)")
    return Located(data, str(path), lines)


def parse_value(text: str) -> Any:
    """The value of a `--set KEY=VALUE`, as YAML."""
    try:
        return expand(yaml.safe_load(text), "--set")
    except yaml.YAMLError as error:
        raise ConfigError(f"--set: {text!r} is not a YAML value: {error}") from None


def expand(value: Any, where: str) -> Any:
    """`value` with environment variables in its strings put in."""
    if isinstance(value, str):
        return _VARIABLE.sub(lambda match: _variable(match, where), value)
    if isinstance(value, list):
        return [expand(item, where) for item in value]
    if isinstance(value, dict):
        return {key: expand(item, where) for key, item in value.items()}
    return value


def _variable(match: re.Match[str], where: str) -> str:
    name, default = match.group(1), match.group(2)
    value = os.environ.get(name, default)
    if value is None:
        raise ConfigError(f"{where}: the environment variable {name} is not set; set it, or write ${{{name}:-default}}")
    return value


def _build(node: yaml.Node, key: Key, lines: dict[Key, int], name: str) -> Any:
    """Plain data of a node, its lines noted on the way."""
    line = node.start_mark.line + 1
    lines[key] = line
    if isinstance(node, yaml.MappingNode):
        result: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            field = yaml.SafeLoader("").construct_object(key_node, deep=True)
            if not isinstance(field, str | int):
                raise ConfigError(f"{name}:{key_node.start_mark.line + 1}: keys must be plain words, not {field!r}")
            if field in result:
                raise ConfigError(f"{name}:{key_node.start_mark.line + 1}: the key {field!r} is given twice")
            result[field] = _build(value_node, (*key, field), lines, name)
            lines[(*key, field)] = key_node.start_mark.line + 1
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_build(child, (*key, index), lines, name) for index, child in enumerate(node.value)]
    return expand(yaml.SafeLoader("").construct_object(node, deep=True), f"{name}:{line}")
