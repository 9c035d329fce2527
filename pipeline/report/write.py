"""`write_report`: a run directory in, one self-contained report.html out."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import jinja2
import pyarrow as pa
import yaml
from markupsafe import Markup

from pipeline.config import TUNED
from pipeline.report import corpus, findings, results
from pipeline.report.conversations import conversations
from pipeline.report.diversity import diversity
from pipeline.report.duplicates import duplicates
from pipeline.report.evaluation import evaluation
from training.report import human
from training.report import view as training_view
from training.report.tuned import tuned

FORMAT = 1  # newest run.json that this report reads
HERE = Path(__file__).parent
T = TypeVar("T")


class ReportError(ValueError):
    """The directory holds no run that can be reported; the message says what is wrong."""


def write_report(run_dir: Path) -> Path:
    """Write `run_dir`/report.html (whole or not at all) from what the run has left so far, and return its path.

    Sections whose files are missing say that they were not run; files that cannot be read are named at the top.
    Raises `ReportError` if run.json is missing, broken, or of a newer format.
    """
    run_dir = Path(run_dir)
    run = _load_run(run_dir)
    page = _environment().get_template("report.html").render(_view(run_dir, run))
    target = run_dir / "report.html"
    descriptor, name = tempfile.mkstemp(prefix=".report-", suffix=".tmp", dir=run_dir)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace", newline="\n") as out:
            out.write(page)
            out.flush()
            os.fsync(out.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return target


def _load_run(run_dir: Path) -> dict[str, Any]:
    try:
        run = results.read_json(run_dir / "run.json")
    except ValueError as error:
        raise ReportError(f"{run_dir / 'run.json'} cannot be read: {error}") from error
    if run is None:
        raise ReportError(f"{run_dir} has no run.json: give the output directory of `python -m pipeline run`")
    if not isinstance(run.get("format", FORMAT), int) or run.get("format", FORMAT) > FORMAT:
        raise ReportError(f"{run_dir / 'run.json'} has format {run['format']!r}; this version reads up to {FORMAT}")
    return run


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([HERE, training_view.HERE]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    formats = ("count", "short", "size", "number", "percent", "duration", "moment", "shown")
    environment.filters |= {name: getattr(human, name) for name in formats}
    return environment


def _view(run_dir: Path, run: Mapping[str, Any]) -> dict[str, Any]:
    """Everything the template shows."""
    problems: list[str] = []

    def attempt(what: str, build: Callable[[], T]) -> T | None:
        try:
            return build()
        except (OSError, pa.ArrowException, ValueError) as error:  # one broken file must not cost the whole report
            problems.append(f"{what} could not be read: {human.shown(error, 300)}")
            return None

    stages = [_stage(stage) for stage in run.get("stages") or []]
    sections = run.get("sections") or {}
    documents = attempt("documents/", lambda: corpus.documents(run_dir))
    if documents and documents.get("lengths") is not None:
        documents["lengths"] = corpus.length_plot(documents["lengths"])
    samples = attempt("samples/", lambda: corpus.samples(run_dir)) or {}
    view = {
        "run": run,
        "name": human.shown(run.get("name") or run_dir.name, 120),
        "status": human.shown(run.get("status") or "unknown", 40),
        "style": Markup((HERE / "report.css").read_text(encoding="utf-8")),  # ours, not a document's
        "inputs": [_numbers(row, "files", "bytes", "records", "dropped", "failed") for row in run.get("inputs") or []],
        "other_records": sorted((run.get("other_records") or {}).items()),
        "stages": stages,
        "funnel": _funnel(stages),
        "reasons": _reasons(stages, samples),
        "skipped": [(s["stage"], rule, n) for s in stages for rule, n in s["skipped"].items()],
        "documents": documents,
        "conversations": attempt("conversations", lambda: conversations(run_dir)) or [],
        "domains": attempt("ledger/", lambda: corpus.domains(run_dir)),
        "duplicates": attempt("ledger/", lambda: duplicates(run_dir, stages, run.get("config") or {})),
        "scores": attempt("scores/", lambda: corpus.scores(run_dir, stages)) or [],
        "contamination": attempt("findings/", lambda: findings.contamination(run_dir)) or [],
        "passages": attempt("findings/", lambda: findings.passages(run_dir)) or [],
        "tables": findings.tables(run.get("stages") or []),
        "diversity": attempt("scores/", lambda: diversity(run_dir, stages, run.get("config") or {})),
        "tokenizer": attempt("tokenizer/", lambda: results.tokenizer(run_dir, sections.get("tokenizer") or {})),
        "tokens": attempt("tokens/", lambda: results.tokens(run_dir, sections.get("pack") or {})),
        "model": attempt("model/", lambda: training_view.view(run_dir / "model", sections.get("pretrain") or {})),
        "tuned": [
            found
            for name in TUNED
            if (found := attempt(f"{name}/", partial(tuned, run_dir / name, sections.get(name) or {})))
        ],
        "evaluation": attempt("evaluation/", lambda: evaluation(run_dir)),
        "config": human.shown(_yaml(_hide(run.get("config") or {})), 200_000),
        "versions": sorted((run.get("versions") or {}).items()),
    }
    view["alarms"] = [human.shown(alarm, 1000) for alarm in run.get("alarms") or []] + problems
    return view


def _numbers(row: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {**row, "source": row.get("source", "?"), **{name: row.get(name) or 0 for name in names}}


def _stage(stage: Mapping[str, Any]) -> dict[str, Any]:
    """A stage's entry of run.json with every key present."""
    out = {**stage, "stage": str(stage.get("stage", "?")), "kind": stage.get("kind") or ""}
    out |= {name: stage.get(name) or 0 for name in ("rows_in", "rows_out", "bytes_in", "bytes_out", "seconds")}
    out |= {name: dict(stage.get(name) or {}) for name in ("dropped", "failed", "skipped")}
    out["limits"] = [x for x in stage.get("limits") or [] if {"column", "rule", "threshold"} <= set(x)]
    return out


def _funnel(stages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Bar lengths in percent of the widest stage: what goes on, and what is lost on top of it.

    Until text is extracted, bytes are those of raw pages: they have a scale of their own, and what extraction takes off
    is no loss of text.
    """
    extract = next((i for i, s in enumerate(stages) if s["stage"].split(".")[0] == "extract"), 0)
    most_rows = max([s["rows_in"] for s in stages] + [1])
    raw_most = max([s["bytes_in"] for s in stages[: max(extract, 1)]] + [1])
    text_most = max([s["bytes_out"] for s in stages[max(extract, 1) :]] + [1])
    out = []
    for i, s in enumerate(stages):
        raw = s["kind"] == "read" or i < extract
        scale = raw_most if raw else text_most
        lost = 0 if i == extract else max(min(s["bytes_in"], scale) - s["bytes_out"], 0)
        out.append(
            {
                **s,
                "raw": raw,
                "rows_kept": 100 * s["rows_out"] / most_rows,
                "rows_lost": 100 * max(s["rows_in"] - s["rows_out"], 0) / most_rows,
                "bytes_kept": 100 * min(s["bytes_out"], scale) / scale,
                "bytes_lost": 100 * lost / scale,
                "dropped_rows": sum(s["dropped"].values()),
                "failed_rows": sum(s["failed"].values()),
            }
        )
    return out


def _reasons(
    stages: list[dict[str, Any]], samples: Mapping[tuple[str, str], list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """Every (stage, rule) with its count, largest first, with its samples."""
    records = stages[0]["rows_in"] if stages else 0
    found = []
    for s in stages:
        for fate in ("dropped", "failed"):
            for rule, n in s[fate].items():
                found.append({"stage": s["stage"], "rule": rule, "fate": fate, "count": n, "of": s["rows_in"],
                              "records": records, "samples": samples.get((s["stage"], rule), [])})  # fmt: skip
    found.sort(key=lambda r: (-r["count"], r["stage"], r["rule"]))
    most = max([r["count"] for r in found] + [1])
    return [{**r, "width": 100 * r["count"] / most} for r in found]


def _hide(value: Any, secret: bool = False) -> Any:
    """The config without credentials: every value under a `storage_options` is hidden."""
    if isinstance(value, Mapping):
        return {key: _hide(inner, secret or key == "storage_options") for key, inner in value.items()}
    if isinstance(value, list):
        return [_hide(inner, secret) for inner in value]
    return "(hidden)" if secret else value


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=110)
