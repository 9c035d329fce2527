"""The sections behind the stages: index, tokenizer, pack, pretrain. Each is a few units with a manifest, like a phase."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from pipeline.config import RunConfig
from pipeline.dedup_index import section as index_section
from pipeline.engine import journal
from pipeline.engine.executors import Executor
from pipeline.engine.journal import Manifest, Output, digest, version_of
from pipeline.engine.phases import Work, unit_name
from pipeline.engine.progress import Progress
from pipeline.engine.schedule import RunFailed, Terminated, run_tasks
from pipeline.engine.store import Store, sha256_file
from pipeline.engine.work import Call
from tokenizer_training.dataset.build import begin_dataset, build_shard, finish_dataset, plan_shards
from tokenizer_training.dataset.config import PackConfig
from tokenizer_training.dataset.encode import encode_documents
from tokenizer_training.dataset.pack import build_pack, pack_facts
from tokenizer_training.efficiency.measure import evaluate, write_report
from tokenizer_training.vocabulary.config import TokenizerConfig
from tokenizer_training.vocabulary.train import train_tokenizer

PHASE = "section"  # folder of the sections' manifests in the journal
VERSIONS = {"index": 1, "tokenizer": 1, "pack": 1, "pretrain": 1}  # raised whenever equal input would give other output


def components(name: str, config: RunConfig, work: Work, store: Store) -> dict[str, str] | None:
    """What a section's fingerprint is made of; None while it depends on work that is not done."""
    before: str | None
    section = getattr(config, name)
    parts = {"version": str(VERSIONS[name]), name: digest(section.model_dump(mode="json"))}
    if name in ("index", "tokenizer", "pack"):
        manifests = work.final_manifests()
        if len(manifests) < len(work.shards):
            return None
        parts["documents"] = digest([o.sha256 for m in manifests for o in m.outputs if o.path.startswith("documents/")])
        libraries = index_section.LIBRARIES if name == "index" else ("tokenizers",)
        parts |= {library: version_of(library) for library in libraries}
    if name in ("pack", "pretrain"):
        before = "tokenizer" if name == "pack" else "pack"
        manifest = journal.read_manifest(store, PHASE, before)
        if manifest is None:
            return None
        parts[before] = manifest.digest
    if name == "pretrain":
        parts["torch"] = version_of("torch")
    return parts


def state(name: str, config: RunConfig, work: Work, store: Store, stale: bool) -> tuple[bool, str]:
    """Whether a section is done; else why it must run."""
    manifest = journal.read_manifest(store, PHASE, name)
    if manifest is None:
        return False, "not done yet"
    now = components(name, config, work, store)
    if now is None or stale:
        return False, "depends on what will run again"
    if digest(now) != manifest.fingerprint:
        return False, journal.difference(manifest.components, now)
    if not journal.lasting_present(store, manifest):
        return False, "its output is missing"
    if name == "index" and not index_section.present(config.index, config.name, manifest.counts):  # type: ignore[arg-type]
        return False, "the index no longer holds this run as it is"
    return True, ""


def run_section(
    name: str, config: RunConfig, work: Work, store: Store, executor: Executor, say: Callable[[str], None]
) -> dict[str, Any]:
    """Bring one section up to date and return its facts for run.json. Raises `RunFailed`."""
    done, _ = state(name, config, work, store, stale=False)
    if done:
        manifest = journal.read_manifest(store, PHASE, name)
        assert manifest is not None
        say(f"{name}: done already")
        return manifest.counts
    parts = components(name, config, work, store)
    assert parts is not None
    local = store.local
    if local is None:
        raise RunFailed(
            f"{name}: needs a local --output; curate with `--until stages`, then run the sections on a local copy"
        )
    rows = sum(o.rows for m in work.final_manifests() for o in m.outputs if o.path.startswith("documents/"))
    if rows == 0 and name != "index":  # everything may have been seen before
        raise RunFailed(f"{name}: no document was kept, so there is nothing to work on; `report.html` shows why")
    journal.forget(store, PHASE, name)
    facts, files = {"index": _index, "tokenizer": _tokenizer, "pack": _pack, "pretrain": _pretrain}[name](
        config, work, local, executor, parts, say
    )
    outputs = [Output(path, (local / path).stat().st_size, sha256_file(local / path)) for path in sorted(files)]
    journal.commit(store, Manifest(PHASE, name, digest(parts), parts, outputs, counts=facts))
    return facts


def documents(work: Work, local: Path) -> list[Path]:
    """The parts of documents/."""
    return [local / f"documents/part-{unit_name(shard)}.parquet" for shard in work.shards]


def make_tokenizer(parts: list[Path], config: TokenizerConfig, folder: Path) -> dict[str, Any]:
    """Train, measure and report, in a worker."""
    trained = train_tokenizer(parts, config, folder)
    facts = evaluate(folder, parts)
    write_report(facts, folder)
    return {**trained, **{k: v for k, v in facts.items() if not isinstance(v, list | dict)}}


def _index(
    config: RunConfig, work: Work, local: Path, executor: Executor, parts: dict[str, str], say: Callable[[str], None]
) -> tuple[dict[str, Any], list[str]]:
    assert config.index is not None
    facts = index_section.write_index(
        config.index, config.name, documents(work, local), local, lambda title, calls: _calls(title, calls, executor)
    )
    say(f"index: {facts['documents']:,} documents of {config.name} in {config.index.path}, {facts['bytes']:,} bytes")
    return facts, []


def _tokenizer(
    config: RunConfig, work: Work, local: Path, executor: Executor, parts: dict[str, str], say: Callable[[str], None]
) -> tuple[dict[str, Any], list[str]]:
    assert config.tokenizer is not None
    folder = local / "tokenizer"
    call = Call(
        "tokenizer", make_tokenizer, {"parts": documents(work, local), "config": config.tokenizer, "folder": folder}
    )
    (facts,) = _calls("tokenizer", [call], executor)
    files = [p.relative_to(local).as_posix() for p in folder.rglob("*") if p.is_file()]
    return facts, files


def _calls(title: str, calls: list[Call], executor: Executor) -> list[Any]:
    """The results of calls, in their order."""
    results: dict[str, Any] = {}
    progress = Progress(title, len(calls))

    def done(task: Any, result: Any) -> None:
        results[task.label] = result
        progress.add(0, 0)

    run_tasks(executor, calls, done, idle=progress.show)
    progress.show(last=True)
    return [results[call.label] for call in calls]


def _pack(
    config: RunConfig, work: Work, local: Path, executor: Executor, parts: dict[str, str], say: Callable[[str], None]
) -> tuple[dict[str, Any], list[str]]:
    assert config.pack is not None
    pack: PackConfig = config.pack
    encoded_folder = local / "phases" / "encoded"
    encoded_folder.mkdir(parents=True, exist_ok=True)
    sources = documents(work, local)
    encoded = [encoded_folder / path.name for path in sources]
    made = _calls(
        "encode",
        [
            Call(
                f"encode {path.stem}",
                encode_documents,
                {"documents_path": path, "tokenizer_dir": local / "tokenizer", "out_path": out, "config": pack},
            )
            for path, out in zip(sources, encoded, strict=True)
        ],
        executor,
    )
    out = local / "tokens"
    plan = plan_shards(encoded, pack)
    begin_dataset(out)
    calls = [
        Call(
            f"shuffle {split} {number}",
            build_shard,
            {"encoded_paths": encoded, "plan": plan, "split": split, "number": number, "out_dir": out},
        )
        for split, shards in plan["shards"].items()
        for number in range(len(shards))
    ]
    built = iter(_calls("shuffle", calls, executor))
    splits = {split: [next(built) for _ in shards] for split, shards in plan["shards"].items()}
    shared = {"out_dir": out, "config": pack, "phases": plan["phases"]}
    packed = _calls(
        "pack",
        [
            Call(f"pack {split}", build_pack, {**shared, "split": split, "shards": shards})
            for split, shards in splits.items()
        ],
        executor,
    )
    facts = finish_dataset(
        out, plan, splits, {str(pack.sequence_length): pack_facts(pack, dict(zip(splits, packed, strict=True)))}
    )
    for path in encoded:
        path.unlink(missing_ok=True)
    summary = {
        split: {k: sum(s[k] for s in shards) for k in ("documents", "tokens")}
        for split, shards in facts["splits"].items()
    }
    mixture: Counter[str] = Counter()
    for one in made:
        mixture.update(one["mixture"])
    if mixture:
        summary["mixture"] = dict(sorted(mixture.items()))
    return {**summary, "pack": facts["pack"]}, [p.relative_to(local).as_posix() for p in out.rglob("*") if p.is_file()]


def _pretrain(
    config: RunConfig, work: Work, local: Path, executor: Executor, parts: dict[str, str], say: Callable[[str], None]
) -> tuple[dict[str, Any], list[str]]:
    """Pretraining runs in a process of its own, on this machine; killed, it goes on from its last checkpoint."""
    assert config.pretrain is not None
    folder = local / "model"
    folder.mkdir(exist_ok=True)
    mark = folder / ".gristmill-fingerprint"  # of the data and config that the checkpoints in the folder belong to
    if not mark.exists() or mark.read_text() != digest(parts):
        Store(str(local)).remove("model")
        folder.mkdir()
        mark.write_text(digest(parts))
    settings = local / "phases" / "pretrain.yaml"
    settings.parent.mkdir(exist_ok=True)
    settings.write_text(yaml.safe_dump(config.pretrain.model_dump(mode="json", exclude_unset=True)))
    command = [
        sys.executable,
        "-m",
        "training",
        "pretrain",
        str(settings),
        "--tokens",
        str(local / "tokens"),
        "--tokenizer",
        str(local / "tokenizer"),
        "--output",
        str(folder),
    ]
    code = launch(command)
    if code == 143:
        raise Terminated
    if code != 0:
        raise RunFailed(
            f"pretrain: ended with exit code {code}; what it said is above. The same command goes on from the last checkpoint"
        )
    import json

    facts = json.loads((folder / "training.json").read_text())
    sample = subprocess.run(
        [
            sys.executable,
            "-m",
            "training",
            "generate",
            "--model",
            str(folder),
            "--prompt",
            "The",
            "--max-new-tokens",
            "60",
            "--seed",
            "1",
        ],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )
    facts = {k: v for k, v in facts.items() if k != "config"}
    facts["sample"] = {"prompt": "The", "text": sample.stdout.strip()} if sample.returncode == 0 else None
    lasting = [
        p.relative_to(local).as_posix()
        for p in folder.rglob("*")
        if p.is_file() and p.suffix in (".json", ".safetensors") and "trainer_state" not in p.parts
    ]
    return facts, lasting


def environment() -> dict[str, str]:
    """Environment of a process that must find this project's packages wherever it was started."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in [str(Path.cwd()), *sys.path] if p)}


def launch(command: list[str]) -> int:
    """Run a command with its output passed through; a SIGTERM to this process reaches it. Returns its exit code."""
    from pipeline.engine.work import die_with_parent

    process = subprocess.Popen(command, env=environment(), stdin=subprocess.DEVNULL, preexec_fn=die_with_parent)
    with _forward_sigterm(process):
        return process.wait()


@contextmanager
def _forward_sigterm(process: subprocess.Popen[bytes]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, lambda signum, frame: process.terminate())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
