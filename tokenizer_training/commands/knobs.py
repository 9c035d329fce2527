"""Config fields as flags of a command line."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from tokenizer_training.config import TokenizerError
from tokenizer_training.corpus.documents import FIELDS, Fields

_STRUCTURE = re.compile(r"dict\[|list\[|tuple\[|\.config\.")  # in the type of a field whose values are no plain ones


def add_knobs(parser: argparse.ArgumentParser, model: type[BaseModel], names: Sequence[str]) -> None:
    """A flag for each config field, with its documentation; values are checked by the model."""
    for name in names:
        field = model.model_fields[name]
        flag = "--" + name.replace("_", "-")
        text = f"{field.description} (default {field.default})".replace("%", "%%")
        parser.add_argument(flag, dest=name, default=argparse.SUPPRESS, metavar="VALUE", help=text)


def knobs(arguments: argparse.Namespace, model: type[BaseModel], names: Sequence[str]) -> Any:
    """The config from the flags that were given."""
    given = {name: _value(model, name, getattr(arguments, name)) for name in names if hasattr(arguments, name)}
    try:
        return model.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        what = first["msg"].removeprefix("Value error, ")
        if not first["loc"]:  # keys that do not go together: the message names them
            raise TokenizerError(what) from None
        keys = [str(part) for part in first["loc"] if part != "[key]"]  # pydantic's mark where the key itself is wrong
        flag = ".".join(["--" + keys[0].replace("_", "-"), *keys[1:]])
        raise TokenizerError(f"{flag} {first['input']}: {what}") from None


def _value(model: type[BaseModel], name: str, text: str) -> Any:
    """A flag's text; for a field that is no plain value, a YAML mapping or list such as {language: {de: 2}}."""
    if text == "null":
        return None
    if not _STRUCTURE.search(str(model.model_fields[name].annotation)):
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        flag = "--" + name.replace("_", "-")
        raise TokenizerError(f"{flag} {text}: not YAML ({error}); expected a list or mapping") from None


def add_fields(parser: argparse.ArgumentParser) -> None:
    """Flags that say what the columns of a corpus are called."""
    for name, default in FIELDS._asdict().items():
        what = "column to count by, besides source and language" if name == "domain" else f"column of the {name}"
        shown = default or "none"
        parser.add_argument(f"--{name}-field", default=default, metavar="NAME", help=f"{what} (default {shown})")


def fields(arguments: argparse.Namespace) -> Fields:
    """The names given by `add_fields`' flags."""
    return Fields(*(getattr(arguments, f"{name}_field") for name in FIELDS._fields))
