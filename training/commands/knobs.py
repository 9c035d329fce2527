"""`knobs`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from training.config import PretrainConfig, resolve


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("knobs", help="every knob of pretrain: default, meaning, source")
    parser.add_argument("--preset", default="cpu-tiny", help="show this preset's values")
    parser.add_argument("--markdown", action="store_true", help="print docs/training-knobs.md: the defaults as a table")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Print the knobs of `pretrain`."""
    if options.markdown:
        print(markdown(), end="")
        return 0
    values = resolve({"preset": options.preset})
    for name, _, meaning, source in knobs():
        print(f"{name}: {getattr(values, name)}\n    {meaning}" + (f" [{source}]" if source else ""))
    return 0


def knobs() -> Iterator[tuple[str, Any, str, str]]:
    """Name, default, meaning and source of each."""
    defaults = resolve({})
    for name, field in PretrainConfig.model_fields.items():
        extra = field.json_schema_extra
        source = str(extra.get("source") or "") if isinstance(extra, dict) else ""
        yield name, getattr(defaults, name), field.description or "", source


def markdown() -> str:
    """The page of all knobs."""
    lines = [
        "# Knobs of pretraining",
        "",
        "Printed by `python -m training knobs --markdown`; `--preset NAME` prints the values of a preset. Defaults are those of `cpu-tiny`.",
        "An unknown key is refused with the nearest valid one.",
        "",
        "| knob | default | meaning | source |",
        "|---|---|---|---|",
    ]
    for name, default, meaning, source in knobs():
        shown = "null" if default is None else str(default).lower() if isinstance(default, bool) else str(default)
        cells = (f"`{name}`", shown, meaning, source)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"
