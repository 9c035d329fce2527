"""The section on training of a report, and a page of its own for a run outside the pipeline."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from training.report import human
from training.report.charts import Line, lines
from training.report.curves import Metrics, finite, read_metrics, read_samples

HERE = Path(__file__).parent
PARTS = 40  # sources or languages in a table

FACTS = (  # of training.json, in this order: key, heading, how it is shown
    ("parameters", "parameters", human.count),
    ("steps", "steps", human.count),
    ("tokens", "tokens trained on", human.count),
    ("seconds", "time in steps", human.duration),
    ("tokens_per_second", "tokens per second", human.count),
    ("mfu", "MFU", lambda share: human.percent(share, 1)),
    ("mfu_whole_rows", "MFU, attention over whole rows", lambda share: human.percent(share, 1)),
    ("flops_per_token", "FLOPs per token", human.short),
    ("peak_flops", "peak FLOP/s", human.short),
    ("memory_bytes", "peak memory", human.size),
    ("data_wait", "share of time waiting for data", lambda share: human.percent(share, 1)),
    ("validation_loss", "validation loss (nats per token)", human.number),
    ("bits_per_byte", "validation bits per byte", human.number),
    ("unigram_bits_per_byte", "the same of token unigrams", human.number),
    ("sequence_length", "row length", human.count),
    ("device", "device", str),
    ("dtype", "computed in", str),
    ("threads", "CPU threads", human.count),
    ("processes", "processes", human.count),
)


def environment() -> jinja2.Environment:
    """Where the templates of this folder are found, with the formats of `human` as filters."""
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = ("count", "short", "size", "number", "percent", "duration", "moment", "shown")
    found.filters |= {name: getattr(human, name) for name in names}
    return found


def view(folder: Path, summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the section shows of a model folder; None if nothing was trained there. `summary`: training.json, or what there is."""
    metrics = read_metrics(folder / "metrics.jsonl")
    if not summary and not metrics.last and not metrics.validation:
        return None
    running = {key: metrics.last.get(key) for key in ("tokens", "seconds", "tokens_per_second", "mfu", "memory_bytes")}
    last = {**running, **metrics.validation, **{key: value for key, value in summary.items() if value is not None}}
    ours, base = last.get("bits_per_byte"), last.get("unigram_bits_per_byte")
    headline = None
    if finite(ours) and finite(base) and base:
        share = human.percent(abs(base - ours), base)
        headline = {"ours": f"{ours:.3f}", "base": f"{base:.3f}", "better": ours < base, "share": share}
    samples = read_samples(folder / "samples.jsonl")
    if not samples and isinstance(summary.get("samples"), list):
        step = summary.get("steps")
        samples = [{"prompt": str(s["prompt"]), "texts": [(step, str(s["text"]))]} for s in summary["samples"]]
    return {
        "headline": headline,
        "charts": charts(metrics, base),
        "parts": [
            {"name": name, "rows": rows, "more": more}
            for name in ("source", "language")
            for rows, more in [parts(last.get(f"by_{name}"))]
            if rows
        ],
        "rollbacks": [rollback(row) for row in metrics.rollbacks],
        "samples": samples,
        "facts": [(name, show(last[key])) for key, name, show in FACTS if last.get(key) is not None],
        "lineage": lineage(summary),
    }


def charts(metrics: Metrics, base: Any) -> list[dict[str, Any]]:
    """(title, SVG) of each curve that has points."""

    def line(name: str, style: str, curve: str, scale: float = 1.0) -> list[Line]:
        points = metrics.points(curve)
        return [Line(name, style, [x for x, _ in points], [scale * y for _, y in points])] if points else []

    loss = line("training", "pale", "loss") + line("smoothed", "a", "smooth")
    loss += line("validation", "dots", "validation_loss")
    level = ("token unigrams", float(base)) if finite(base) else None
    wanted = [
        ("Loss (nats per token)", loss, None),
        ("Bits per byte of held-out text", line("validation", "dots", "bits_per_byte"), level),
        ("Learning rate", line("learning rate", "a", "learning_rate"), None),
        ("Gradient norm before clipping", line("gradient norm", "a", "grad_norm"), None),
        ("Tokens per second", line("tokens per second", "a", "tokens_per_second"), None),
        ("MFU (percent)", line("MFU", "a", "mfu", 100.0), None),
    ]
    return [{"title": t, "svg": lines(series, f"{t} by step", "step", level)} for t, series, level in wanted if series]


def parts(found: Any) -> tuple[list[dict[str, Any]], int]:
    """Rows of the table by source or language, the largest first, with bars in percent of the worst; and how many are left out."""
    if not isinstance(found, Mapping):
        return [], 0
    wanted = ("targets", "bytes", "loss", "bits_per_byte")
    rows: list[dict[str, Any]] = [
        {"name": str(name), **{key: part.get(key) for key in wanted}}
        for name, part in found.items()
        if isinstance(part, Mapping)
    ]
    rows.sort(key=lambda row: (-(row["bytes"] or 0), row["name"]))
    most = max([row["bits_per_byte"] for row in rows if finite(row["bits_per_byte"])] or [1.0]) or 1.0
    for row in rows:
        row["width"] = 100 * row["bits_per_byte"] / most if finite(row["bits_per_byte"]) else 0.0
    return rows[:PARTS], max(0, len(rows) - PARTS)


def rollback(row: Mapping[str, Any]) -> dict[str, Any]:
    """A refused batch."""
    documents = [str(one.get("id")) for one in row.get("documents") or [] if isinstance(one, Mapping)]
    return {
        "step": row["step"],
        "why": str(row.get("why")),
        "position": row.get("position"),
        "documents": documents[:8],
        "more": max(0, len(documents) - 8),
    }


def lineage(summary: Mapping[str, Any]) -> str | None:
    """One line: the checksums by which config, data and tokenizer are known again."""
    about = summary.get("lineage")
    if not isinstance(about, Mapping):
        return None
    named = (
        ("run", about.get("fingerprint")),
        ("token dataset", about.get("tokens_checksum")),
        ("tokenizer", about.get("tokenizer_sha256")),
    )
    return " · ".join(f"{name} {str(value)[:16]}" for name, value in named if value)


def section(folder: Path, summary: Mapping[str, Any]) -> Markup | None:
    """The inside of the report's section, or None."""
    found = view(folder, summary)
    return None if found is None else Markup(environment().get_template("section.html").render(m=found))


def page(folder: Path) -> str:
    """A whole page about a model folder. Raises ValueError if there is nothing to show."""
    finished = folder / "training.json"
    path = finished if finished.is_file() else folder / "trainer_state" / "run.json"  # its config and lineage only
    summary = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if not isinstance(summary, dict):
        raise ValueError(f"{path}: a JSON object was expected")
    inside = section(folder, summary)
    if inside is None:
        raise ValueError(f"{folder} holds neither training.json nor trainer_state/run.json: nothing was trained there")
    style = Markup((HERE / "report.css").read_text(encoding="utf-8"))  # ours, not a document's
    config = summary.get("config") or {}
    return (
        environment()
        .get_template("page.html")
        .render(
            name=human.shown(folder.resolve().name, 120),
            finished=finished.is_file(),
            style=style,
            section=inside,
            config=[(human.shown(key, 80), human.shown(value, 300)) for key, value in config.items()],
        )
    )
