"""A plan as text: tables of aligned columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from training.planning.memory import GIB

UNITS = ((1e15, "e15"), (1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def render(plan: dict[str, Any]) -> str:
    """The whole plan, ready to print."""
    parts = [
        f"budget: {plan['budget_flops']:.3g} FLOPs",
        _laws(plan),
        _model(plan["model"], plan["law"]),
        _repeats(plan["repeats"]),
        _inference(plan["inference"]),
        _memory(plan["memory"], plan["least"]),
        _time(plan["time"]),
        _measured(plan.get("measured")),
        "notes\n" + "\n".join(f"  - {note}" for note in plan["notes"]),
    ]
    return "\n\n".join(part for part in parts if part)


def short(number: float) -> str:
    """Three digits and a unit: 1.24B."""
    for size, unit in UNITS:
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"


def duration(hours: float) -> str:
    """Seconds, minutes, hours or days."""
    if hours < 1 / 60:
        return f"{hours * 3600:.0f} s"
    if hours < 1:
        return f"{hours * 60:.0f} min"
    return f"{hours:.1f} h" if hours < 72 else f"{hours / 24:.1f} days"


def gib(size: float) -> str:
    """Bytes as GiB."""
    return f"{size / GIB:.2f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they must be, numbers to the right, the first column to the left."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = []
    for row in (head, *rows):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  " + "  ".join(cells).rstrip())
    return "\n".join(lines)


def _laws(plan: dict[str, Any]) -> str:
    rows = []
    for law in plan["laws"]:
        low, high = law["fitted_flops"]
        rows.append(
            (
                law["name"] + ("*" if law["name"] == plan["law"] else ""),
                short(law["parameters"]),
                short(law["tokens"]),
                f"{law['tokens_per_parameter']:.1f}",
                "-" if law["loss"] is None else f"{law['loss']:.3f}",
                f"{low:.0e} to {high:.0e}" + ("" if law["in_range"] else " (outside)"),
            )
        )
    head = ("law", "parameters", "tokens", "tokens/parameter", "loss", "fitted on FLOPs")
    sources = "\n".join(
        f"  {law['name']}: {law['constants']}; N {law['counts']}; {law['source']}" for law in plan["laws"]
    )
    return f"what the laws recommend for it (* the one that is followed)\n{table(head, rows)}\n\n{sources}"


def _model(model: dict[str, Any], law: str) -> str:
    shape, parameters = model["shape"], model["parameters"]
    losses = ", ".join(
        f"{name} {'-' if loss is None else f'{loss:.3f}'}" for name, loss in model["expected_loss"].items()
    )
    return "\n".join(
        (
            f"model and run (law: {law})",
            f"  shape          {shape['layers']} layers x {shape['width']}, {shape['heads']} heads "
            f"({shape['kv_heads']} key/value), MLP {shape['mlp_width']}, vocabulary {shape['vocab_size']:,}, "
            f"rows of {shape['context_length']:,}",
            f"  parameters     {parameters['total']:,} (embedding {parameters['embedding']:,}, projection "
            f"{parameters['head']:,}, attention {parameters['attention']:,}, MLP {parameters['mlp']:,}, norms "
            f"{parameters['norms']:,})",
            f"  tokens         {model['tokens']:,.0f} ({model['tokens_per_parameter']:.1f} a parameter)",
            f"  FLOPs          {model['flops']:.3g} ({model['flops_per_token']:.3g} a token)",
            f"  batch          {model['batch_tokens']:,.0f} tokens = {model['batch_rows']:,} rows, {model['steps']:,} steps",
            f"  learning rate  {model['learning_rate']:.2e}",
            f"  expected loss  {losses} (nats a token)",
            f"  KV cache       {gib(model['cache_bytes_per_sequence'])} GiB a sequence of {shape['context_length']:,}",
        )
    )


def _repeats(repeats: dict[str, Any] | None) -> str:
    if repeats is None:
        return ""
    best = repeats["best"]
    return (
        f"on a corpus of {short(repeats['corpus_tokens'])} tokens (Muennighoff et al. 2023, arXiv 2305.16264)\n"
        f"  {repeats['epochs']:.2f} epochs are worth {short(repeats['effective_tokens'])} new tokens: loss "
        f"{repeats['loss']:.3f}, {repeats['loss_if_all_were_new']:.3f} if all were new\n"
        f"  best for the same FLOPs: {short(best['parameters'])} parameters, {short(best['tokens'])} tokens, "
        f"{best['epochs']:.2f} epochs, loss {best['loss']:.3f}"
    )


def _inference(inference: dict[str, Any] | None) -> str:
    if inference is None:
        return ""
    saved = 1 - inference["flops"] / inference["compute_optimal_flops"]
    return (
        f"with {short(inference['inference_tokens'])} tokens served (Sardana and Frankle 2024, arXiv 2401.00448)\n"
        f"  the same loss ({inference['loss']:.3f}) from {short(inference['parameters'])} parameters after "
        f"{short(inference['tokens'])} tokens: {inference['flops']:.3g} FLOPs of training and serving, {saved:.1%} fewer "
        f"than with {short(inference['compute_optimal_parameters'])}"
    )


def _memory(memory: list[dict[str, Any]], least: list[dict[str, Any]]) -> str:
    names = list(memory[0]["parts"])
    rows = [
        (
            f"{one['gpu']} x{one['gpus']} {one['parallel']}",
            one["recompute"],
            str(one["micro_batch_rows"]),
            *(gib(one["parts"][name]) for name in names),
            gib(one["total"]),
            "yes" if one["fits"] else "NO",
        )
        for one in memory
    ]
    head = ("GPUs", "recompute", "rows", *(name.replace("_", " ") for name in names), "total", "fits")
    needed = []
    for one in least:
        for parallel in ("ddp", "fsdp2"):
            found = one[parallel]
            what = "never" if found is None else f"{found['gpus']} (recompute {found['recompute']})"
            needed.append(f"{one['gpu']} {parallel} {what}")
    found = f"memory of a process in GiB\n{table(head, rows)}"
    if needed:
        rows = least[0]["micro_batch_rows"]
        at = "" if rows is None else f" at {rows} row{'s' * (rows > 1)} a micro-batch"
        found += f"\n  fewest GPUs{at}: {'; '.join(needed)}"
    return found


def _measured(measured: dict[str, Any] | None) -> str:
    if measured is None:
        return ""
    return (
        f"at the speed of {measured['run']} ({measured['tokens_per_second']:,.0f} tokens/s, "
        f"{measured['flops_per_second']:.3g} FLOP/s): {duration(measured['hours'])}"
    )


def _time(times: list[dict[str, Any]]) -> str:
    counts = sorted({gpus for one in times for gpus in one["hours"]}, key=int)
    rows = [
        (
            one["gpu"],
            f"{one['peak_flops'] / 1e12:.3g}",
            f"{one['mfu']:.0%}",
            f"{one['gpu_hours']:,.3g}" if one["gpu_hours"] < 100 else f"{one['gpu_hours']:,.0f}",
            *(duration(one["hours"][gpus]) if gpus in one["hours"] else "-" for gpus in counts),
            "-" if one["cost"] is None else f"{one['cost']:,.2f}",
        )
        for one in times
    ]
    head = ("GPU", "peak TFLOP/s", "MFU", "GPU-hours", *(f"on {gpus}" for gpus in counts), "cost")
    return f"time and money\n{table(head, rows)}"
