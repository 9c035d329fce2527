"""`python -m pipeline calibrate RUN LANGUAGE`: thresholds for a language that cut as much of it as they cut of another.

Thresholds of published rules were chosen on English. Words, lines and stops of other languages measure differently, so the same number
cuts more, or nothing. FineWeb-2 (Penedo et al. 2025) set them by quantiles: if a rule drops 3% of a reference language, the threshold that
drops 3% of the other one is taken. This reads the scores of a run, and prints the `by_language` of each stage.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from pipeline.mistakes import nearest
from pipeline.yamlfile import ConfigError


class Calibrated(NamedTuple):
    """A rule's threshold for a language: what the reference loses by its own, and the language by the same and by the new one."""

    stage: str
    rule: str
    threshold: float
    found: float
    lost_by_reference: float
    lost_before: float
    lost_after: float


def calibrate(run: Path, language: str, reference: str = "en", least: int = 200) -> str:
    """The text to print. Raises `ConfigError` for a run without scores, and for languages with fewer than `least` documents."""
    labels = _labels(run)
    counts = {name: sum(label == name for label in labels.values()) for name in set(labels.values())}
    for name in (language, reference):
        if counts.get(name, 0) < least:
            known = sorted((label for label in counts if counts[label] >= least), key=lambda label: -counts[label])
            raise ConfigError(
                f"calibrate: the run has scores of {counts.get(name, 0)} documents labelled {name!r}, and needs {least} "
                f"(--least){nearest(name, known)}; it has enough of {', '.join(known) or 'no language'}"
            )
    facts = json.loads((run / "run.json").read_text(encoding="utf-8"))
    found: list[Calibrated] = []
    for stage in facts["stages"]:
        limits = [limit for limit in stage.get("limits") or [] if limit["rule"].startswith(("min_", "max_"))]
        if limits and (run / "scores" / stage["stage"]).is_dir():
            found += _stage(run, stage["stage"], limits, labels, language, reference, least)
    return _written(found, language, reference)


def threshold_like(
    values: np.ndarray, reference: np.ndarray, threshold: float, side: str
) -> tuple[float, float, float, float]:
    """The threshold for `values` that cuts the share of them that `threshold` cuts of the reference.

    `side` is `max` (greater values are cut) or `min`. Gives that threshold, and the shares cut: of the reference, of the
    values by the old threshold, of the values by the new one. NaN, a rule that did not apply, is left out.
    """
    values, reference = values[~np.isnan(values)], reference[~np.isnan(reference)]

    def lost(some: np.ndarray, limit: float) -> float:
        return float(np.mean(some > limit if side == "max" else some < limit))

    share = lost(reference, threshold)
    at = 1 - share if side == "max" else share
    near = [float(np.quantile(values, at, method=method)) for method in ("lower", "higher")]
    found = min((threshold, *near), key=lambda limit: abs(lost(values, limit) - share))  # the present one, if as good
    return found, share, lost(values, threshold), lost(values, found)


def _labels(run: Path) -> dict[str, str]:
    """The language of every document that was scored, by id."""
    folder = run / "scores" / "language"
    if not folder.is_dir():
        raise ConfigError(
            f"calibrate: {run} has no scores/language/; run with the stage language first, and do not clean it"
        )
    labels: dict[str, str] = {}
    for path in sorted(folder.glob("*.parquet")):
        table = pq.read_table(path, columns=["id", "language"])
        labels |= dict(zip(table["id"].to_pylist(), table["language"].to_pylist(), strict=True))
    return labels


def _stage(
    run: Path,
    stage: str,
    limits: list[Mapping[str, Any]],
    labels: Mapping[str, str],
    language: str,
    reference: str,
    least: int,
) -> list[Calibrated]:
    columns = sorted({limit["column"] for limit in limits})
    parts = [
        pq.read_table(path, columns=["id", *columns]) for path in sorted((run / "scores" / stage).glob("*.parquet"))
    ]
    of = np.array([labels.get(one, "") for part in parts for one in part["id"].to_pylist()])
    found = []
    for limit in limits:
        values = np.concatenate(
            [np.asarray(part[limit["column"]].cast("float64").fill_null(float("nan")).to_numpy()) for part in parts]
        )
        mine, theirs = values[of == language], values[of == reference]
        if min(np.sum(~np.isnan(mine)), np.sum(~np.isnan(theirs))) >= least:
            new, share, before, after = threshold_like(mine, theirs, float(limit["threshold"]), limit["rule"][:3])
            found.append(Calibrated(stage, limit["rule"], float(limit["threshold"]), new, share, before, after))
    return found


def _written(found: list[Calibrated], language: str, reference: str) -> str:
    lines = [
        f"# thresholds that cut as much of {language} as the present ones cut of {reference}: that share of {reference}; what",
        f"# {language} loses by the present threshold, and by the new one. Rules that cut nothing of {reference} are left as they are.",
    ]
    for stage in dict.fromkeys(one.stage for one in found):
        changed = [
            one for one in found if one.stage == stage and one.lost_by_reference > 0 and one.found != one.threshold
        ]
        if not changed:
            continue
        lines += [f"- {stage}:", "    by_language:", f"      {language}:"]
        for one in changed:
            lines.append(
                f"        {one.rule}: {_short(one.found)}".ljust(52)
                + f"# {_short(one.threshold)}; {one.lost_by_reference:.1%}; {one.lost_before:.1%}, {one.lost_after:.1%}"
            )
    return "\n".join(lines if len(lines) > 2 else [*lines, "# nothing to change"])


def _short(value: float) -> str:
    return f"{value:.4g}" if value < 10_000 else f"{value:.0f}"
