"""What the report shows of tokenizer/ and tokens/. Every file may be missing; unknown keys are shown as facts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.report import human

LANGUAGE_COLUMNS = {  # key of a row of tokenizer/report.json -> heading
    "language": "language",
    "documents": "documents",
    "bytes": "bytes",
    "tokens": "tokens",
    "bytes_per_token": "bytes per token",
    "fertility": "tokens per word",
}


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object from a file; None if there is no such file. Raises ValueError on anything else."""
    if not path.is_file():
        return None
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ValueError(f"{path.name}: a JSON object was expected, not {type(value).__name__}")
    return value


def facts(values: Mapping[str, Any], skip: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    """The plain values of a mapping as (name, text), nested mappings one level deep; lists are left out."""
    out = []
    for key, value in values.items():
        if key in skip:
            continue
        if isinstance(value, Mapping):
            plain = {inner: v for inner, v in value.items() if isinstance(v, int | float | str)}
            out += [(f"{key} {inner}", text) for inner, text in facts(plain)]
        elif isinstance(value, bool | str):
            out.append((key, human.shown(value, 200)))
        elif isinstance(value, int | float):
            out.append((key, human.number(value)))
    return [(human.shown(name.replace("_", " "), 80), text) for name, text in out]


TOKENIZER_FACTS = {  # where a figure stands in tokenizer/report.json -> heading
    ("vocab_size",): "vocabulary",
    ("total", "bytes_per_token"): "bytes per token",
    ("total", "characters_per_token"): "characters per token",
    ("total", "fertility"): "tokens per word",
    ("total", "continued_word_share"): "share of words in several tokens",
    ("vocabulary", "used_share"): "share of the vocabulary used",
    ("vocabulary", "dead_tail_share"): "share seen fewer than 5 times",
    ("vocabulary", "renyi_efficiency"): "Rényi efficiency",
    ("vocabulary", "unigram_bits_per_byte"): "unigram bits per byte",
    ("lossless_share",): "share decoded without loss",
}


def tokenizer(run: Path, section: Mapping[str, Any]) -> dict[str, Any] | None:
    """The efficiency report: facts, and a table by language."""
    report = read_json(run / "tokenizer" / "report.json")
    if report is None and not section:
        return None
    report = report or {}
    shown = []
    for place, name in TOKENIZER_FACTS.items():
        value: Any = report
        for key in place:
            value = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(value, int | float):
            shown.append((name, human.number(value)))
    languages = report.get("by_language")
    rows = [
        {"language": name, **row}
        for name, row in (languages if isinstance(languages, Mapping) else {}).items()
        if isinstance(row, Mapping)
    ]
    columns = [(key, name) for key, name in LANGUAGE_COLUMNS.items() if any(key in row for row in rows)]
    table = []
    for row in sorted(rows, key=lambda r: -(r.get("bytes") or 0)):
        cells = [_cell(key, row.get(key)) for key, _ in columns]
        table.append(cells)
    return {"facts": shown, "columns": columns, "rows": table}


def _cell(key: str, value: Any) -> str:
    if key == "bytes":
        return human.size(value)
    if key in ("bytes_per_token", "fertility"):
        return f"{value:.2f}" if isinstance(value, int | float) else "–"
    return human.count(value) if isinstance(value, int) else human.shown(value if value is not None else "–", 80)


def tokens(run: Path, section: Mapping[str, Any]) -> dict[str, Any] | None:
    """The token dataset: a row a split, and how it is packed."""
    dataset = read_json(run / "tokens" / "dataset.json")
    if dataset is None:
        return None
    rows = []
    for name, shards in (dataset.get("splits") or {}).items():
        files = [shard for shard in shards if isinstance(shard, Mapping)]
        total = {key: sum(int(shard.get(key) or 0) for shard in files) for key in ("tokens", "documents")}
        rows.append({"split": name, "files": len(files), **total})
    pack = dataset.get("pack")
    merged = {**(section or {}), **(pack if isinstance(pack, Mapping) else {})}
    known = [("data type", dataset.get("dtype")), ("vocabulary", dataset.get("vocab_size"))]
    head = [(k, human.number(v) if isinstance(v, int) else human.shown(v, 80)) for k, v in known if v is not None]
    return {
        "rows": rows,
        "tokens": sum(row["tokens"] for row in rows),
        "facts": head + facts(merged, ("splits", "format")),
    }
