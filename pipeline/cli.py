"""`python -m pipeline ...`: parse, call, print, exit code."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.dedup_index.cli import add_index
from pipeline.yamlfile import ConfigError

QUICKSTART = Path("configs/quickstart.yaml")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Exit codes: 0 done, 1 failed, 2 config or arguments wrong, 143 after SIGTERM."""
    options = build_parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        code = command(options)
        sys.stdout.flush()  # here, so that a reader that went away is noticed below
        return code
    except ConfigError as error:
        for line in str(error).split("\n"):
            print(f"error: {line}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted" + ("; the same command goes on from here" if command is _run else ""), file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # no permission, a full disk
        print(f"error: {error}", file=sys.stderr)
        return 1


def build_parser() -> argparse.ArgumentParser:
    """Every command with its arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline", description="From raw web archives to training tokens and a trained model."
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    run = commands.add_parser(
        "run",
        help="carry out a config",
        description=f"Carry out a config; without one, {QUICKSTART}. Run again, it goes on where it was stopped, and recomputes only what changed.",
    )
    run.add_argument("config", nargs="?", type=Path, help="YAML file")
    _config_arguments(run)
    run.add_argument("--limit", type=_positive, metavar="N", help="only the first N records, in file order")
    run.add_argument(
        "--until",
        metavar="SECTION",
        help="stop after this section (stages, mix, index, tokenizer, pack, pretrain, evaluate)",
    )
    run.add_argument(
        "--retry-failed",
        action="store_true",
        help="try records again that crashed, overran their time or could not be read",
    )
    run.add_argument("--debug", action="store_true", help="do everything in this process, for a debugger")
    run.set_defaults(command=_run)

    plan = commands.add_parser("plan", help="validate a config and show its phases")
    plan.add_argument("config", type=Path)
    _config_arguments(plan)
    plan.set_defaults(command=_plan)

    status = commands.add_parser("status", help="what is done, and what a rerun would recompute and why")
    status.add_argument("run", help="run directory")
    status.add_argument("--config", type=Path, help="compare with this config instead of the one that was run")
    status.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="another value of a knob"
    )
    status.set_defaults(command=_status)

    report = commands.add_parser("report", help="write report.html of a run again")
    report.add_argument("run", help="run directory")
    report.set_defaults(command=_report)

    audit = commands.add_parser(
        "audit",
        help="a page on which to mark decisions as right or wrong; from marks, how often each rule is right",
        description="Write audit.html: documents that were kept and that each rule dropped, to be marked in a browser. With the "
        "downloaded marks: precision of each rule with 95 % intervals, printed and written to audit.json and the page.",
    )
    audit.add_argument("run", help="run directory")
    audit.add_argument("--rows", type=_positive, default=20, metavar="N", help="documents of each rule (default 20)")
    audit.add_argument("--marks", type=Path, metavar="FILE", help="marks.json, as the page downloads it")
    audit.set_defaults(command=_audit)

    dups = commands.add_parser(
        "dups",
        help="a document's duplicates: which was kept, which were dropped for it and why, what they differ in",
        description="Show the cluster of a document: the one that was kept, those that were dropped for it by any stage, and the words in "
        "which they differ; personal data is replaced by the structured recognisers.",
    )
    dups.add_argument("run", help="run directory")
    dups.add_argument("what", metavar="ID|URL", help="id or URL of any record of the ledger")
    dups.add_argument("--max", type=_positive, default=10, metavar="N", help="removed documents to show (default 10)")
    dups.add_argument("--html", type=Path, metavar="FILE", help="write a page instead, in one file")
    dups.add_argument(
        "--reread",
        action="store_true",
        help="read texts that the run no longer has from the input again, and run the stages up to the one that dropped them",
    )
    dups.set_defaults(command=_dups)

    clean = commands.add_parser(
        "clean", help="remove intermediate files (phases/, scores/); a finished run stays finished"
    )
    clean.add_argument("run", help="run directory")
    clean.set_defaults(command=_clean)

    apply = commands.add_parser(
        "apply", help="one stage on a JSONL or Parquet file; adds the stage's columns and `verdict`"
    )
    apply.add_argument("stage", help="name of the stage, as `stages` lists it")
    apply.add_argument("input", type=Path, metavar="IN", help=".jsonl (.gz, .zst) or .parquet")
    apply.add_argument("output", type=Path, metavar="OUT", help=".jsonl (.gz, .zst) or .parquet; replaced as a whole")
    apply.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KNOB=VALUE",
        help="a knob of the stage; the stage's name may stand before it",
    )
    apply.add_argument("--executor", choices=("inline", "ray"), default="inline")
    apply.add_argument("--workers", type=_positive, metavar="N", help="workers of the ray executor")
    apply.add_argument(
        "--explain",
        type=Path,
        metavar="FILE",
        help="write an HTML page that shows how the stage sees the first rows (extract)",
    )
    apply.set_defaults(command=_apply)

    train = commands.add_parser(
        "train-classifier",
        help="train a fastText classifier from two corpora, for quality.classifier or toxicity",
        description="Train a fastText classifier from the two corpora that a YAML file names (docs/quality-models.md); the same corpora and knobs "
        "give the same bytes.",
    )
    _training_arguments(train)
    train.set_defaults(command=_train_classifier)

    train = commands.add_parser(
        "train-perplexity",
        help="train an n-gram model of a corpus, for quality.perplexity",
        description="Train an n-gram model (ARPA) of the corpus that a YAML file names (docs/quality-models.md).",
    )
    _training_arguments(train)
    train.set_defaults(command=_train_perplexity)

    calibrate = commands.add_parser(
        "calibrate", help="thresholds for a language that cut as much of it as the present ones cut of another"
    )
    calibrate.add_argument("run", type=Path, help="run directory with scores/")
    calibrate.add_argument("language", help="a label of the `language` column")
    calibrate.add_argument("--reference", default="en", help="the language that the thresholds are right for (en)")
    calibrate.add_argument("--least", type=_positive, default=200, help="fewest documents of each (200)")
    calibrate.set_defaults(command=_calibrate)

    add_index(commands)

    stages = commands.add_parser("stages", help="every stage: knobs, defaults, what they mean, where they come from")
    stages.add_argument("name", nargs="?", help="only this stage, or section")
    stages.add_argument("--markdown", metavar="FOLDER", help="write a page for each stage into FOLDER instead")
    stages.set_defaults(command=_stages)
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 1, got {text}")
    return int(text)


def _config_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="another value, as YAML: extract.method=resiliparse, pretrain=null",
    )
    parser.add_argument("--output", metavar="DIR", help="run directory or URL; default runs/<name of the config>")
    parser.add_argument("--executor", choices=("ray", "inline"), help="engine.executor")
    parser.add_argument("--workers", type=_positive, metavar="N", help="engine.workers")
    parser.add_argument("--address", help="engine.address: an existing Ray cluster")


def _training_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, help="YAML file")
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="another value, as YAML"
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder; default models/<name of the config>")


def _overrides(options: argparse.Namespace) -> list[str]:
    overrides = list(options.overrides)
    for name in ("executor", "workers", "address"):
        value = getattr(options, name, None)
        if value is not None:
            overrides.append(f"engine.{name}={value}")
    return overrides


def _config_file(given: Path | None) -> Path:
    if given is not None:
        return given
    if not QUICKSTART.exists():
        raise ConfigError(f"no config given and no {QUICKSTART} here; give a config, or run from the project's folder")
    return QUICKSTART


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _run(options: argparse.Namespace) -> int:
    from pipeline.config import SECTIONS, read_config
    from pipeline.mistakes import nearest
    from pipeline.run import Options, run

    path = _config_file(options.config)
    if options.until is not None and options.until not in SECTIONS:
        near = nearest(options.until, SECTIONS)
        raise ConfigError(f"--until {options.until}: expected one of {', '.join(SECTIONS)}{near}")
    overrides = _overrides(options)
    config = read_config(path, overrides)
    output = options.output or f"runs/{config.name}"
    settings = Options(
        output, options.limit, options.until, options.retry_failed, options.debug, str(path), tuple(overrides)
    )
    return run(config, settings, _say)


def _plan(options: argparse.Namespace) -> int:
    from pipeline.config import read_config
    from pipeline.plan import warnings
    from pipeline.run import check_directory, preflight, prepare
    from pipeline.status import describe_plan
    from stages.stage import StageError

    config = read_config(options.config, _overrides(options))
    work = prepare(config, options.output or f"runs/{config.name}")
    check_directory(work.store, config.name)
    try:
        preflight(work.config.stages, work.assets)
    except StageError as error:
        raise ConfigError(str(error)) from None
    print(describe_plan(work))
    for note in warnings(config):
        print(f"warning: {note}")
    return 0


def _status(options: argparse.Namespace) -> int:
    from pipeline.status import status

    print(status(options.run, options.config, options.overrides))
    return 0


def _report(options: argparse.Namespace) -> int:
    from pipeline.report import write_report
    from pipeline.status import run_directory

    store = run_directory(options.run)
    if store.local is None:
        raise ConfigError("report: needs a local run directory")
    print(write_report(store.local))
    return 0


def _audit(options: argparse.Namespace) -> int:
    from pipeline.audit import audit
    from pipeline.status import run_directory

    print(audit(run_directory(options.run), options.rows, options.marks))
    return 0


def _dups(options: argparse.Namespace) -> int:
    from pipeline.dups import dups
    from pipeline.status import run_directory

    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    print(dups(run_directory(options.run), options.what, options.max, options.html, options.reread, colour))
    return 0


def _clean(options: argparse.Namespace) -> int:
    from pipeline.status import clean

    print(clean(options.run))
    return 0


def _apply(options: argparse.Namespace) -> int:
    from pipeline.apply import apply, explain

    if options.explain is not None:
        explain(options.stage, options.input, options.explain, options.overrides)
    return apply(
        options.stage, options.input, options.output, options.overrides, options.executor, options.workers, _say
    )


def _train_classifier(options: argparse.Namespace) -> int:
    from pipeline.corpora import read_training
    from pipeline.train_classifier import ClassifierTraining, train

    config = read_training(
        ClassifierTraining, options.config, options.overrides, "`python -m pipeline stages train-classifier`"
    )
    output = options.output or Path("models") / config.name
    held_out = train(config, output, _say)["held_out"]
    low, high = held_out["roc_auc_95"]
    print(f"{output}: held-out ROC AUC {held_out['roc_auc']:.4f} ({low:.4f} to {high:.4f}); see {output / 'README.md'}")
    return 0


def _train_perplexity(options: argparse.Namespace) -> int:
    from pipeline.corpora import read_training
    from pipeline.train_perplexity import PerplexityTraining, train

    config = read_training(
        PerplexityTraining, options.config, options.overrides, "`python -m pipeline stages train-perplexity`"
    )
    output = options.output or Path("models") / config.name
    held_out = train(config, output, _say)["held_out"]
    print(f"{output}: held-out perplexity {held_out['perplexity']:g}; see {output / 'README.md'}")
    return 0


def _calibrate(options: argparse.Namespace) -> int:
    from pipeline.calibrate import calibrate

    print(calibrate(options.run, options.language, options.reference, options.least))
    return 0


def _stages(options: argparse.Namespace) -> int:
    from pipeline.catalogue import catalogue

    if options.markdown is not None:
        from pipeline.stage_pages import write_pages

        print(f"{len(write_pages(Path(options.markdown)))} pages in {options.markdown}")
        return 0
    print(catalogue(options.name))
    return 0
