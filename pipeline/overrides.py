"""`--set KEY=VALUE`: where in the config a key points, and the value put there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pipeline.mistakes import nearest
from pipeline.yamlfile import ConfigError, Key, Located, parse_value


def split_override(override: str, example: str) -> tuple[list[str], Any]:
    """The parts of the key and the value of `KEY=VALUE`. Raises `ConfigError`."""
    key, separator, text = override.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts):
        raise ConfigError(f"--set {override}: expected KEY=VALUE, as in --set {example}")
    return parts, parse_value(text, f"--set {override}")


def apply_override(raw: Located, override: str, sections: Iterable[str], stages: Iterable[str]) -> None:
    """Change plain data by one `KEY=VALUE`: the longest name of a configured stage first, then sections.

    `STAGE=null` leaves a stage out, `STAGE={...}` sets all its knobs. Raises `ConfigError`.
    """
    parts, value = split_override(override, "extract.method=resiliparse")
    place = _stage_place(raw, parts, override)
    if place is None:
        place = _section_place(raw, parts, override, list(sections), list(stages))
    if value is None and place[0] == "stages" and len(place) == 3:
        place = place[:2]  # the whole entry: `- extract:` in a file means a stage without knobs, this means no stage
    put(raw, place, value, override)


def put(raw: Located, place: Key, value: Any, override: str) -> None:
    """Put a value in its place, making the mappings on the way there. Raises `ConfigError`."""
    target: Any = raw.data
    way: list[str | int] = []
    for depth, part in enumerate(place):
        if isinstance(target, list):
            part = _entry(target, part, place[:depth], override)
        elif not isinstance(target, dict):
            raise ConfigError(f"--set {override}: {_name(place[:depth])} holds no keys; set it whole")
        way.append(part)
        if depth == len(place) - 1:
            target[part] = value
        else:
            if isinstance(target, dict) and target.get(part) is None:
                target[part] = {}
            target = target[part]
    raw.overrides[tuple(way)] = override
    raw.mistakes = [mistake for mistake in raw.mistakes if mistake[0][: len(way)] != tuple(way)]


def _entry(entries: list[Any], part: str | int, place: Key, override: str) -> int:
    """The number of a list's entry. Raises `ConfigError`."""
    number = int(part) if isinstance(part, int) or part.isdecimal() else None
    if number is not None and number < len(entries):
        return number
    if number is not None:
        why = f"there is no entry {number}: {_name(place)} has {len(entries)}, counted from 0"
    elif place == ("input",):
        why = f"there are {len(entries)} inputs; say which, as in input.0.{part}"
    else:
        why = f"{_name(place)} is a list; set it whole, or an entry of it by its number from 0"
    raise ConfigError(f"--set {override}: {why}")


def _name(place: Key) -> str:
    """A place as the user writes it: `stages.3.language.keep` is `language.keep`."""
    return ".".join(str(part) for part in (place[2:] if place[0] == "stages" and len(place) > 2 else place))


def _stage_place(raw: Located, parts: list[str], override: str) -> Key | None:
    """Where a configured stage, or a knob of it, stands, if `parts` begin with its name."""
    entries = raw.data.get("stages")
    if not isinstance(entries, list):
        return None
    found: list[tuple[int, bool, int]] = []  # length of the name in parts, whether it is the stage's own, place
    names: dict[int, str] = {}
    for index, entry in enumerate(entries):
        kind = entry if isinstance(entry, str) else next(iter(entry), "") if isinstance(entry, dict) else ""
        knobs = entry.get(kind) if isinstance(entry, dict) else None
        alias = knobs.get("as") if isinstance(knobs, dict) else None
        names[index] = alias if isinstance(alias, str) else str(kind)
        for name in {names[index], str(kind)}:
            words = name.split(".")
            if parts[: len(words)] == words:
                found.append((len(words), name == names[index], index))
    if not found:
        return None
    length, own, index = max(found, key=lambda f: f[:2])
    same = [i for n, o, i in found if (n, o) == (length, own)]
    if len(same) > 1:
        calls = " or ".join(".".join([names[i], *parts[length:]]) for i in same)
        name = ".".join(parts[:length])
        alike = len({names[i] for i in same}) == 1
        advice = "give one of them `as: NAME` in the config" if alike else f"say {calls}"
        raise ConfigError(f"--set {override}: the config uses the stage {name!r} {len(same)} times; {advice}")
    if isinstance(entries[index], str):
        entries[index] = {entries[index]: {}}
    name = next(iter(entries[index]))
    if len(parts) > length and entries[index][name] is None:
        entries[index][name] = {}
    return ("stages", index, name, *parts[length:])


def _section_place(raw: Located, parts: list[str], override: str, sections: list[str], stages: list[str]) -> Key:
    if parts[0] not in sections:
        key = ".".join(parts)
        stage = next((s for s in reversed(stages) if key == s or key.startswith(f"{s}.")), None)
        if stage is not None:
            raise ConfigError(
                f"--set {override}: the config does not use the stage {stage!r}; add it to `stages` first"
            )
        name = ".".join(parts[:-1]) or parts[0]
        raise ConfigError(
            f"--set {override}: no section or stage is called {name!r}{nearest(name, [*sections, *stages])}"
        )
    place: list[str | int] = list(parts)
    if parts[0] == "input" and len(parts) > 1:  # a mapping and a list of one mapping are the same thing
        entries = raw.data.get("input")
        if isinstance(entries, list) and len(entries) == 1 and not parts[1].isdecimal():
            place.insert(1, 0)
        elif isinstance(entries, dict) and parts[1].isdecimal():
            if int(parts[1]) > 0:
                raise ConfigError(f"--set {override}: there is one input, input.0")
            del place[1]
    return tuple(place)
