"""The one error of this package, and how its knobs are declared."""

from __future__ import annotations

from typing import Any

from pydantic import Field


class TokenizerError(ValueError):
    """A mistake in the user's input or files: the message names the file or key, what was expected, and what to do."""


def knob(default: Any, doc: str, source: str = "", **constraints: Any) -> Any:
    """A config field: default, meaning, and the paper or system its value comes from. `constraints` are pydantic's."""
    return Field(default, description=doc, json_schema_extra={"source": source}, **constraints)
