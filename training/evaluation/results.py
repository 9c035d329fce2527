"""evaluation.json, and the table that stands on the terminal: a row a figure, a column a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

FORMAT = 1


def rows(results: Mapping[str, Any]) -> Iterator[tuple[str, float | None, float | None]]:
    """(name, value, standard error) of each figure worth a line of one model's results."""
    for name, found in results.get("perplexity", {}).items():
        yield f"{name}: bits per byte", found["bits_per_byte"], found.get("bits_per_byte_stderr")
        if found["bits_per_byte"] is not None:
            yield f"{name}: word perplexity", found["word_perplexity"], None
        for by in ("by_source", "by_language"):
            groups = found.get(by, {})
            for group, figures in groups.items() if len(groups) > 1 else ():
                yield (
                    f"  {by.removeprefix('by_')} {group}",
                    figures["bits_per_byte"],
                    figures.get("bits_per_byte_stderr"),
                )
    for name, found in results.get("tasks", {}).items():
        yield f"{name}: accuracy (chance {found['chance']:.3f})", found["accuracy"], found["accuracy_stderr"]
        for rule in ("raw", "per_byte", "pmi"):
            if f"accuracy_{rule}" in found:
                yield f"  {rule}", found[f"accuracy_{rule}"], found[f"accuracy_{rule}_stderr"]
    yield from _answers(results)
    if results.get("core") is not None:
        yield "CORE (mean centred accuracy)", results["core"], None
    for name, metrics in results.get("harness", {}).items():
        for key, value in metrics.items():
            metric, _, kind = key.partition(",")
            if not metric.endswith("_stderr") and metric != "sample_len":
                yield f"{name}: {metric}", value, metrics.get(f"{metric}_stderr,{kind}")
    memory = results.get("memorisation") or {}
    for part in ("train", "held_out"):
        for found in (memory.get(part) or {}).get("by_prefix", []):
            what = f"{part.replace('_', '-')}: given back after {found['prefix']} tokens"
            yield what, found["extracted"], found["extracted_stderr"]
    for number, found in enumerate(results.get("canaries", []), 1):
        repeat = "" if found["repeat"] is None else f", {found['repeat']} times"
        bound = "at least" if found["at_least"] else "of"
        yield f"canary {number}{repeat}: exposure ({bound}, highest {found['highest']:.1f})", found["exposure"], None


def _answers(results: Mapping[str, Any]) -> Iterator[tuple[str, float | None, float | None]]:
    """Figures of questions, win rates, abstention and safety."""
    for name, found in results.get("questions", {}).items():
        for metric, score in found["scores"].items():
            yield f"{name}: {metric.replace('_', ' ')}", score["value"], score["stderr"]
        yield f"  {name}: tokens of an answer", found["tokens"], None
    rates = results.get("win_rates", {})
    for by in ("judge", "reward_model"):
        for name, found in rates.get(by, {}).items():
            half = None  # of the bootstrap's interval, about two standard errors
            if found["win_rate"] is not None:
                half = (found["win_rate_high"] - found["win_rate_low"]) / 2 / 1.96
            yield f"{name}: win rate against {rates['against']} ({by.replace('_', ' ')})", found["win_rate"], half
    if (found := results.get("abstention")) is not None:
        yield f"abstention: score (a wrong answer -{found['penalty']:g})", found["score"], None
        for name in ("correct", "wrong", "abstained"):
            yield f"  answerable: {name}", found["answerable"][name], None
        yield "  unanswerable: made up", found["unanswerable"]["made_up"], None
        yield "  calibration error", found["calibration_error"], None
    if (found := results.get("safety")) is not None:
        yield "safety: harmful requests refused", found["refused"], None
        yield "safety: harmless requests refused", found["over_refused"], None


def table(models: Mapping[str, Mapping[str, Any]]) -> str:
    """All models side by side, as text."""
    lines: dict[str, dict[str, str]] = {}
    for name, results in models.items():
        for label, value, error in rows(results):
            lines.setdefault(label, {})[name] = _shown(value, error)
    header = ["", *models]
    cells = [[label, *(found.get(name, "") for name in models)] for label, found in lines.items()]
    widths = [max(len(row[i]) for row in [header, *cells]) for i in range(len(header))]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        ).rstrip()
        for row in [header, *cells]
    )


def _shown(value: float | None, error: float | None) -> str:
    if value is None:
        return "–"
    text = f"{value:.4f}" if abs(value) < 1000 else f"{value:,.0f}"
    return text if error is None else f"{text} ± {error:.4f}"


def sample_lines(models: Mapping[str, Mapping[str, Any]]) -> str:
    """Every model's text behind each prompt."""
    out = []
    for name, results in models.items():
        for sample in results.get("samples", []):
            out.append(f"{name}: [{sample['prompt']}]{sample['text']}")
    return "\n".join(out)
