"""What the report shows of tokenizer/, tokens/ and model/. Every file may be missing; unknown keys are shown as facts."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.report import charts, human

CURVE_POINTS = 600

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


def curve(path: Path) -> tuple[list[tuple[float, float]], list[tuple[float, float]], list[tuple[float, float]]]:
    """(step, loss), (step, validation loss) and (step, bits per byte) of a metrics.jsonl, each thinned while it is read."""
    found: dict[str, list[tuple[float, float]]] = {"loss": [], "validation_loss": [], "bits_per_byte": []}
    steps = dict.fromkeys(found, 1)
    seen = dict.fromkeys(found, 0)
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            try:
                row = json.loads(line)
            except ValueError:
                continue  # the last line of a run that is still writing
            if not isinstance(row, dict) or not _finite(row.get("step")):
                continue
            for name, points in found.items():
                if not _finite(row.get(name)):
                    continue
                if seen[name] % steps[name] == 0:
                    points.append((float(row["step"]), float(row[name])))
                seen[name] += 1
                if len(points) > 2 * CURVE_POINTS:
                    del points[1::2]
                    steps[name] *= 2
    return found["loss"], found["validation_loss"], found["bits_per_byte"]


def model(run: Path, section: Mapping[str, Any]) -> dict[str, Any] | None:
    """Loss curves, final figures and the generated sample of the pretrained model."""
    path = run / "model" / "metrics.jsonl"
    if not path.is_file() and not section:
        return None
    loss, validation, bits = curve(path) if path.is_file() else ([], [], [])
    out: dict[str, Any] = {"loss": None, "bits": None, "headline": None, "sample": None}
    series = []
    if loss:
        series.append(charts.Line("training loss", "a", *zip(*loss, strict=True)))
    if validation:
        series.append(charts.Line("validation loss", "dots", *zip(*validation, strict=True)))
    if series:
        out["loss"] = charts.lines(series, "loss by step (nats per token)", "step")
    ours, base = section.get("bits_per_byte"), section.get("unigram_bits_per_byte")
    if bits:
        level = ("token-unigram model", float(base)) if base is not None and _finite(base) else None
        points = charts.Line("validation bits per byte", "dots", *zip(*bits, strict=True))
        out["bits"] = charts.lines([points], "validation bits per byte by step", "step", level)
    if isinstance(ours, int | float) and isinstance(base, int | float) and _finite(ours) and _finite(base):
        out["headline"] = {"ours": f"{ours:.3f}", "base": f"{base:.3f}", "better": ours < base,
                           "share": human.percent(abs(base - ours), base)}  # fmt: skip
    sample = section.get("sample")
    if isinstance(sample, Mapping):
        prompt, text = str(sample.get("prompt") or ""), str(sample.get("text") or "")
        out["sample"] = {"prompt": human.shown(prompt), "text": human.shown(text.removeprefix(prompt))}
    out["facts"] = facts(section, ("sample", "format"))
    return out


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
