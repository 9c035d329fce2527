"""`python -m pipeline run`: from a validated config to a finished run directory."""

from __future__ import annotations

import importlib.util
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import facts as run_facts
from pipeline import sections
from pipeline.config import LATER, SECTIONS, TRAINED, TUNED, RunConfig, StageSpec
from pipeline.dedup_index import section as index_section
from pipeline.engine import journal, samples
from pipeline.engine.assets import hash_assets, local_copy, pinned, variants
from pipeline.engine.executors import Executor, make_executor
from pipeline.engine.journal import digest
from pipeline.engine.lease import LeaseHeld, lease
from pipeline.engine.phases import Work, unit_name
from pipeline.engine.progress import human_time
from pipeline.engine.schedule import RunFailed, Terminated, advice, run_tasks
from pipeline.engine.shards import check_input, cut, find_input
from pipeline.engine.store import Store, is_url
from pipeline.engine.work import Call, describe, spare_pandas
from pipeline.files import InputError
from pipeline.plan import may_hold_pages, plan, warnings
from pipeline.sections.evaluate import check_evaluate
from pipeline.yamlfile import ConfigError
from stages.conversation import KINDS
from stages.stage import Stage, StageError

Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """How one call of `run` differs from the config."""

    output: str
    limit: int | None = None
    until: str | None = None
    retry_failed: bool = False
    debug: bool = False
    config_file: str = ""
    overrides: tuple[str, ...] = ()


def prepare(config: RunConfig, output: str, limit: int | None = None) -> Work:
    """Validate everything that can be before the first record is read. Raises `ConfigError`."""
    needs_html = [entry.source for entry in config.input if entry.format in ("warc", "html")]
    if needs_html and not any(spec.kind == "extract" for spec in config.stages):
        raise ConfigError(f"input {needs_html[0]!r} holds HTML: add `extract` to the stages, so that there is text")
    for name in (*TRAINED, "evaluate"):
        if getattr(config, name) is not None and importlib.util.find_spec("torch") is None:
            raise ConfigError(
                f"{name} needs PyTorch, which is not installed: pip install 'gristmill[train]' (or set {name}: null)"
            )
        model = getattr(getattr(config, name), "model", None)
        if model is not None and not any(Path(model).glob("*.safetensors")):
            raise ConfigError(f"{name}.model: {model} is no model folder: there is no *.safetensors in it")
    check_evaluate(config)
    index_section.check(config)
    config = config.model_copy(update={"stages": pinned(config.stages, config.name)})
    assets = hash_assets(config.stages)
    try:
        files = find_input(config.input)
        check_input(files)
        shards = cut(files, config.engine.shard_bytes)
    except InputError as error:
        raise ConfigError(str(error)) from None
    store = Store(
        output if is_url(output) else str(Path(output).expanduser().absolute()), config.engine.storage_options
    )
    return Work(config, plan(config.stages, may_hold_pages(config)), shards, store, assets, limit)


def check_directory(store: Store, name: str) -> None:
    """Refuse a directory that holds something else. Raises `ConfigError`."""
    if store.local is not None and store.local.exists() and not store.local.is_dir():
        raise ConfigError(f"{store.root} is a file; choose another --output")
    try:
        before = run_facts.read(store)
    except ValueError as error:
        named = store.root in str(error)
        raise ConfigError(str(error) if named else f"--output {store.root}: {error}") from None
    except Exception as error:  # every file system has its own kinds
        hint = "the path and its permissions" if store.local else "the URL, the credentials and engine.storage_options"
        raise ConfigError(
            f"--output {store.root}: cannot be read ({type(error).__name__}: {error}); check {hint}"
        ) from None
    if before is not None:
        if before["name"] != name:
            raise ConfigError(
                f"{store.root} holds the run {before['name']!r}, not {name!r}; choose another --output, or remove it first"
            )
        return
    if store.local is not None:
        ours = {"lease.json", ".lease-lock", "journal", "phases", "scores", "documents", "ledger", *KINDS.values()}
        others = [p.name for p in store.local.iterdir() if p.name not in ours] if store.local.is_dir() else []
        if others:
            raise ConfigError(f"{store.root} is not empty and holds no run ({others[0]}, ...); choose another --output")


def preflight(specs: tuple[StageSpec, ...], assets: dict[str, str]) -> None:
    """Set every stage up once in a worker, so that a broken package or model is found before the first record."""
    for spec in specs:
        for stage in variants(spec):
            try:
                stage.setup({name: local_copy(path, assets[path]) for name, path in stage.assets().items()})
            except ImportError as error:
                raise ConfigError(
                    f"stage {spec.name}: a package is missing or broken: {error}; install the project's dependencies again"
                ) from None
            except StageError as error:
                raise StageError(with_given_paths(str(error), stage, assets)) from error


def with_given_paths(message: str, stage: Stage, assets: dict[str, str]) -> str:
    """A stage's message with the user's paths in place of those of the copies that the stage was given."""
    for path in stage.assets().values():
        message = message.replace(str(local_copy(path, assets[path])), path)
    return message


def run(config: RunConfig, options: Options, say: Say) -> int:
    """Carry out a run; returns the exit code. Raises `ConfigError` for the user's mistakes."""
    spare_pandas()
    work = prepare(config, options.output, options.limit)
    check_directory(work.store, config.name)
    began = time.time()
    notes = warnings(config)
    for note in notes:
        say(f"warning: {note}")
    facts = run_facts.begin(config, work, options.config_file, _arguments(options), _iso(began), notes)
    try:
        with _sigterm(), lease(work.store) as store:
            code = _run_leased(config, options, work, store, facts, began, say)
    except LeaseHeld as error:
        raise ConfigError(str(error)) from None
    except Terminated:
        say("stopped by SIGTERM; the same command goes on from here")
        return 143
    except OSError as error:  # of the run directory itself
        say(f"error: {work.store.root}: {describe(error).message}{advice(error)}")
        return 1
    if facts["stages"]:
        say("")
        say(run_facts.summary(facts))
        for alarm in facts["alarms"][len(notes) :]:
            if alarm not in (facts.get("error") or ""):
                say(f"warning: {alarm}")
    if code == 0:
        look = f"; look at {store.root}/report.html" if store.local is not None else ""
        say(f"\n{store.root}: done in {human_time(time.time() - began)}{look}")
    return code


def _run_leased(
    config: RunConfig, options: Options, work: Work, store: Store, facts: dict[str, Any], began: float, say: Say
) -> int:
    """The run while its directory is ours; returns the exit code."""
    work.store = store
    store.sweep()
    facts["status"] = "running"
    run_facts.write(store, facts)
    executor: Executor | None = None
    try:
        executor = make_executor(config.engine, options.debug)
        code = _carry_out(config, options, work, store, executor, facts, say)
    except RunFailed as error:
        code = _fail(store, facts, work, str(error), error.trace, say)
    except OSError as error:
        code = _fail(store, facts, work, f"{describe(error).message}{advice(error)}", traceback.format_exc(), say)
    except (Terminated, ConfigError, KeyboardInterrupt) as error:
        facts["status"] = "failed" if isinstance(error, ConfigError) else "stopped"
        facts["error"] = str(error) or None
        raise
    finally:
        if executor is not None:
            executor.close()
        facts["finished"], facts["seconds"] = _iso(time.time()), round(time.time() - began, 1)
        with suppress(OSError):
            run_facts.write(store, facts)
    _report(store, say)
    return code


def _carry_out(
    config: RunConfig, options: Options, work: Work, store: Store, executor: Executor, facts: dict[str, Any], say: Say
) -> int:
    def ignore(task: Any, result: Any) -> None:
        return None

    if not work.finished():
        try:
            run_tasks(
                executor, [Call("stages", preflight, {"specs": work.config.stages, "assets": work.assets})], ignore
            )
        except RunFailed as error:
            if error.kind in (StageError.__name__, ConfigError.__name__):  # the user's model, list or package
                raise ConfigError(str(error)) from None
            raise
    work.run(executor, options.retry_failed, say)
    run_facts.fill(facts, work)
    alarms = {spec.name: run_facts.stage_alarms(facts, spec) for spec in config.stages}
    facts["alarms"] = [*facts["alarms"], *(alarm for found in alarms.values() for alarm in found)]
    _collect_samples(work, store, executor)
    store.write("documents/README.md", run_facts.card(facts).encode())
    for folder in _conversation_folders(config):
        store.write(f"{folder}/README.md", run_facts.card(facts, folder).encode())
    _remove_stale(work, store)
    run_facts.write(store, facts)
    failed = run_facts.too_many_failed(facts, config.engine.max_failed)
    failed += [alarm for spec in config.stages if spec.config.alarm == "fail" for alarm in alarms[spec.name]]
    if failed:
        raise RunFailed("\n".join(failed))
    for name in LATER:
        if options.until is not None and SECTIONS.index(name) > SECTIONS.index(options.until):
            break
        if getattr(config, name) is not None:
            if name in TRAINED:
                executor.close()  # training has the machine to itself
            facts["sections"][name] = sections.run_section(name, config, work, store, executor, say)
            run_facts.add_tokens(facts)
            run_facts.write(store, facts)
        else:
            _drop_section(store, name)
    facts["status"] = "done"
    return 0


FOLDERS = {
    "tokenizer": "tokenizer",
    "pack": "tokens",
    "pretrain": "model",
    **{name: name for name in TUNED},
    "evaluate": "evaluation",
}  # what each section writes into the run directory


def _drop_section(store: Store, name: str) -> None:
    """A section that the config no longer has leaves nothing behind."""
    if journal.read_manifest(store, sections.PHASE, name) is not None:
        journal.forget(store, sections.PHASE, name)
        if name in FOLDERS:
            store.remove(FOLDERS[name])


def _collect_samples(work: Work, store: Store, executor: Executor) -> None:
    """samples/ from the samples of every unit."""
    keep = work.config.engine.keep_dropped
    by_unit: dict[str, list[tuple[str, str]]] = {}
    for _, manifest in work.map_manifests():
        for output in manifest.outputs:
            if output.path.endswith(".samples.parquet"):
                by_unit.setdefault(manifest.unit if keep == "all" else "00000", []).append((output.path, output.sha256))
    calls = []
    for unit, files in sorted(by_unit.items()):
        fingerprint = digest(["samples 1", keep, files])
        done = journal.read_manifest(store, samples.PHASE, unit)
        if done is None or done.fingerprint != fingerprint or not journal.lasting_present(store, done):
            arguments = {
                "store": store,
                "unit": unit,
                "sources": [path for path, _ in files],
                "keep": keep,
                "fingerprint": fingerprint,
            }
            calls.append(Call(f"samples {unit}", samples.merge_samples, arguments))
    run_tasks(executor, calls, lambda task, result: None)
    for path in store.files("samples"):
        if Path(path).stem.removeprefix("part-") not in by_unit:
            store.remove(path)


def _remove_stale(work: Work, store: Store) -> None:
    """What an earlier config left that this one does not make: parts beyond the last shard, phases and scores of other stages."""
    units = {unit_name(shard) for shard in work.shards}
    for folder in ("documents", "ledger"):
        for path in store.files(folder):
            if path.endswith(".parquet") and Path(path).stem.removeprefix("part-") not in units:
                store.remove(path)
    made = {output.path for manifest in work.final_manifests() for output in manifest.outputs}
    for folder in KINDS.values():  # these have parts only where a shard holds such rows
        if folder not in _conversation_folders(work.config):
            store.remove(folder)
        for path in store.files(folder):
            if path.endswith(".parquet") and path not in made:
                store.remove(path)
    phases = {phase.name for phase in work.phases}
    for name in store.folders("phases"):
        if name not in phases | sections.KEPT:
            store.remove(f"phases/{name}")
    for name in store.folders("journal"):
        if name not in phases | sections.KEPT | {sections.PHASE, samples.PHASE, "poison"}:
            store.remove(f"journal/{name}")
    findings = {f"{p.stages[0].name}/{unit}" for p in work.phases if p.kind == "group" for unit in work.units(p)}
    for path in store.files("findings"):
        if path.removeprefix("findings/").removesuffix(".parquet") not in findings:
            store.remove(path)
    mapped = {spec.name for spec in work.config.stages if spec.stage_class.kind == "map"}
    for name in store.folders("scores"):
        for path in store.files(f"scores/{name}"):
            if name not in mapped or Path(path).stem.removeprefix("part-") not in units:
                store.remove(path)


def _conversation_folders(config: RunConfig) -> list[str]:
    """The folders beside documents/ that the run's inputs fill."""
    return sorted({KINDS[entry.kind] for entry in config.input if entry.kind in KINDS})


def _fail(store: Store, facts: dict[str, Any], work: Work, message: str, trace: str, say: Say) -> int:
    facts["status"], facts["error"] = "failed", message
    if not facts["stages"]:
        run_facts.fill(facts, work)
    if trace:
        with suppress(OSError):
            store.write("error.log", trace.encode())
    say(f"error: {message}")
    return 1


def _report(store: Store, say: Say) -> None:
    if store.local is None:
        return
    from pipeline.report import write_report

    try:
        write_report(store.local)
    except Exception as error:  # whatever is wrong with a picture of the run, the run itself is fine
        with suppress(OSError):
            store.write("error.log", traceback.format_exc().encode())
        say(f"report.html could not be written: {type(error).__name__}: {error} (the trace is in error.log of the run)")


@contextmanager
def _sigterm() -> Iterator[None]:
    """Turn SIGTERM into an exception that unwinds cleanly."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(signum: int, frame: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not disturb the unwinding
        raise Terminated

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _arguments(options: Options) -> dict[str, Any]:
    return {"limit": options.limit, "until": options.until, "set": list(options.overrides)}


def _iso(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
