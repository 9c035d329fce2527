"""YAML with the line of every key, so that an error can say where it is.

Plain values are read as YAML 1.2 reads them: `no` is a word (the code of Norwegian), `1e-3` a number, a date a string.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import yaml

Key = tuple[str | int, ...]  # the way to a value: ("stages", 0, "extract", "method")
Mistake = tuple[Key, str]  # where, and what is wrong there

MAX_VALUES = 1_000_000  # of one file, aliases counted as often as they stand: a few nested ones can mean billions

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
        self.mistakes: list[Mistake] = []  # found while reading; the values there are not to be judged again

    def _place(self, key: Key) -> tuple[str | None, int]:
        """The override that set the nearest enclosing key, or None and that key's line (0: unknown)."""
        for length in range(len(key), -1, -1):
            if key[:length] in self.overrides:
                return self.overrides[key[:length]], 0
            if key[:length] in self.lines:
                return None, self.lines[key[:length]]
        return None, 0

    def where(self, key: Key) -> str:
        """`file:line` of the nearest enclosing key, or the override that set it."""
        override, line = self._place(key)
        if override is not None:
            return f"--set {override}"
        return f"{self.name}:{line}" if line else self.name

    def report(self, mistakes: list[Mistake]) -> ConfigError:
        """One error that says them all, a line each, in the order of the file."""

        def order(mistake: Mistake) -> tuple[bool, int]:
            override, line = self._place(mistake[0])
            return override is not None, line

        lines = [f"{self.where(key)}: {text}" for key, text in sorted(mistakes, key=order)]
        return ConfigError("\n".join(dict.fromkeys(lines)))


class _Yaml(yaml.SafeLoader):
    """YAML 1.2's core schema, and `_` between digits."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - pyyaml's own way

    def integer(self, node: yaml.ScalarNode) -> int:
        """A decimal number, or one behind 0x or 0o."""
        text = str(node.value)
        return int(text, 0) if text[:2] in ("0x", "0o") else int(text)


_Yaml.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Yaml.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:[Tt]rue|TRUE|[Ff]alse|FALSE)$"), list("tTfF"))
_Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"^(?:[-+]?[0-9]+(?:_[0-9]+)*|0x[0-9a-fA-F]+|0o[0-7]+)$"), list("-+0123456789")
)
_Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)
_Yaml.add_constructor("tag:yaml.org,2002:int", _Yaml.integer)


def load(path: Path) -> Located:
    """The file as plain data; `${NAME}` and `${NAME:-default}` in strings come from the environment.

    Raises `ConfigError` for an unreadable or empty file and for bad YAML. A key given twice and an unset variable are
    noted among the mistakes of what is returned.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such config file") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a directory; give the YAML file in it") from None
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}:{line}: not UTF-8 text; save the file as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None
    raw = parse(text, str(path))
    if raw.data is None:
        raise ConfigError(f"{path}: the file is empty; expected a mapping of sections (name, input, stages, ...)")
    if not isinstance(raw.data, dict):
        raise ConfigError(f"{path}:1: expected a mapping of sections (name, input, stages, ...), got {shown(raw.data)}")
    return raw


def parse(text: str, name: str) -> Located:
    """The YAML text as plain data. Raises `ConfigError`, naming the line."""
    raw = Located(None, name, {})
    try:
        node = yaml.compose(text, Loader=_Yaml)
        if node is not None:
            raw.data = _Builder(raw).build(node, (), ())
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{name}:{line}: not valid YAML: {_problem(error)}") from None
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        raise ConfigError(f"{name}:{line}: the character {chr(int(error.character))!a} may not stand in YAML") from None
    except RecursionError:
        raise ConfigError(f"{name}: nested too deeply") from None
    return raw


def _problem(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or str(error)
    if "'\\t'" in problem:
        return "a tab stands where only spaces may; indent with spaces"
    if "found another document" in problem:
        return "a second document begins (`---`); a config is one document"
    if error.context and "expected" in problem:
        return f"{problem} {error.context}"
    return problem


def parse_value(text: str, name: str = "--set") -> Any:
    """The value of a `--set KEY=VALUE`, as YAML; `name` is how messages call it. Raises `ConfigError`."""
    try:
        raw = parse(text, name)
    except ConfigError as error:
        _, _, reason = str(error).partition("not valid YAML: ")
        raise ConfigError(f"{name}: {text!r} is not a YAML value: {reason or error}; quote it") from None
    if raw.mistakes:
        raise ConfigError("\n".join(f"{name}: {reason}" for _, reason in raw.mistakes))
    return raw.data


def shown(value: Any) -> str:
    """A value as a message shows it: as it would stand in YAML, shortened."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, bool):
        return str(value).lower()
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


class _Builder:
    """Plain data of YAML nodes, their lines noted on the way."""

    def __init__(self, raw: Located) -> None:
        self.raw = raw
        self.loader = _Yaml("")
        self.values = 0

    def build(self, node: yaml.Node, key: Key, within: tuple[int, ...]) -> Any:
        line = node.start_mark.line + 1
        self.raw.lines[key] = line
        self.values += 1
        if self.values > MAX_VALUES:
            raise ConfigError(f"{self.raw.name}: more than {MAX_VALUES:,} values; is it a config?")
        if id(node) in within:
            raise ConfigError(f"{self.raw.name}:{line}: an alias (*) stands inside what it names")
        inside = (*within, id(node))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, key, inside)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(child, (*key, index), inside) for index, child in enumerate(node.value)]
        value = self.loader.construct_object(node, deep=True)
        return self._expand(value, key) if isinstance(value, str) else value

    def _mapping(self, node: yaml.MappingNode, key: Key, inside: tuple[int, ...]) -> dict[Any, Any]:
        result: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            field = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(field, str) or not field:
                raise ConfigError(f"{self.raw.name}:{line}: keys must be plain words, as in `name: value`")
            if field == "<<":
                raise ConfigError(f"{self.raw.name}:{line}: merge keys (`<<`) are not known here; write the keys out")
            place = (*key, field)
            if field in result:
                first = self.raw.lines[place]
                self.raw.lines[place] = line
                self.raw.mistakes.append((place, f"the key {field!r} is given twice, first in line {first}"))
                continue
            result[field] = self.build(value_node, place, inside)
            self.raw.lines[place] = line
        return result

    def _expand(self, text: str, key: Key) -> str:
        """The text with environment variables put in."""

        def value(match: re.Match[str]) -> str:
            name, default = match.group(1), match.group(2)
            found = os.environ.get(name, default)
            if found is None:
                problem = f"the environment variable {name} is not set; set it, or write ${{{name}:-default}}"
                self.raw.mistakes.append((key, problem))
                return match.group(0)
            return found

        return _VARIABLE.sub(value, text)
