"""The sections behind the stages, from index to evaluate. Each is a few units with a manifest, like a phase."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from pipeline.config import TRAINED, TUNED, RunConfig
from pipeline.dedup_index import section as index_section
from pipeline.engine import journal
from pipeline.engine.executors import Executor
from pipeline.engine.journal import Manifest, Output, digest, version_of
from pipeline.engine.phases import Work
from pipeline.engine.schedule import RunFailed
from pipeline.engine.store import Store, sha256_file
from pipeline.sections import tuned
from pipeline.sections.calls import Job, documents, part_digests, run_calls
from pipeline.sections.evaluate import inputs_digest, run_evaluate
from pipeline.sections.pack import run_pack
from pipeline.sections.pretrain import run_pretrain
from pipeline.sections.tokenizer import run_tokenizer
from training.config import PretrainConfig
from training.evaluation.config import WITHOUT_EFFECT as WITHOUT_DIFFERENCE

PHASE = "section"  # folder of the sections' manifests in the journal
KEPT = {
    "counts",
    "encoded",
}  # units of sections with a file of their own below phases/, which a killed run leaves for the next
VERSIONS = {
    "index": 1,
    "tokenizer": 2,
    "pack": 2,
    "pretrain": 2,
    "sft": 1,
    "reward": 1,
    "ppo": 1,
    "dpo": 1,
    "grpo": 1,
    "evaluate": 2,
}  # raised whenever equal input would give other output


WITHOUT_EFFECT = {  # knobs that change no byte of the output, or only how a run that was stopped goes on
    "pack": {"encoder", "verify_every", "memory"},
    "pretrain": set(PretrainConfig.runtime_knobs) - {"preset"},
    "evaluate": set(WITHOUT_DIFFERENCE),
}


def behind(name: str, config: RunConfig) -> list[str]:
    """The sections whose output a section reads."""
    if name in TUNED:
        return tuned.behind(name, config)
    if name == "evaluate":
        return [section for section in TRAINED if getattr(config, section) is not None]
    return {"pack": ["tokenizer"], "pretrain": ["pack"]}.get(name, [])


def components(name: str, config: RunConfig, work: Work, store: Store) -> dict[str, str] | None:
    """What a section's fingerprint is made of; None while it depends on work that is not done."""
    section = getattr(config, name)
    without = set(section.runtime_knobs) if name in TUNED else WITHOUT_EFFECT.get(name)
    parts = {"version": str(VERSIONS[name]), name: digest(section.model_dump(mode="json", exclude=without))}
    if name in ("index", "tokenizer", "pack"):
        manifests = work.final_manifests()
        if len(manifests) < len(work.shards):
            return None
        parts["documents"] = digest(part_digests(work))
        libraries = index_section.LIBRARIES if name == "index" else ("tokenizers",)
        parts |= {library: version_of(library) for library in libraries}
    if name in TUNED:
        if len(work.final_manifests()) < len(work.shards):
            return None
        parts[tuned.ROWS[name]] = digest(tuned.rows_digests(name, work))
        if section.model is not None:
            parts["model"] = digest(tuned.outside_model(section))
    for before in behind(name, config):
        manifest = journal.read_manifest(store, PHASE, before)
        if manifest is None:
            return None
        parts[before] = manifest.digest
    if name == "evaluate":
        parts["files"] = inputs_digest(config)
    if name in TRAINED or name == "evaluate":
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
    folder = tuned.ROWS.get(name, "documents")
    rows = sum(o.rows for m in work.final_manifests() for o in m.outputs if o.path.startswith(f"{folder}/"))
    if rows == 0 and name not in ("index", "evaluate"):  # everything may have been seen before
        raise RunFailed(
            f"{name}: no row of {folder}/ was kept, so there is nothing to work on; `report.html` shows why"
        )
    journal.forget(store, PHASE, name)
    run: dict[str, Callable[[Job], tuple[dict[str, Any], list[str]]]] = {
        "index": _index,
        "tokenizer": run_tokenizer,
        "pack": run_pack,
        "pretrain": run_pretrain,
        **{tuning: partial(tuned.run_tuned, tuning) for tuning in TUNED},
        "evaluate": run_evaluate,
    }
    facts, files = run[name](Job(config, work, store, local, executor, parts, say))
    outputs = [Output(path, (local / path).stat().st_size, sha256_file(local / path)) for path in sorted(files)]
    journal.commit(store, Manifest(PHASE, name, digest(parts), parts, outputs, counts=facts))
    return facts


def _index(job: Job) -> tuple[dict[str, Any], list[str]]:
    assert job.config.index is not None
    facts = index_section.write_index(
        job.config.index,
        job.config.name,
        documents(job.work, job.local),
        job.local,
        lambda title, calls: run_calls(title, calls, job.executor),
    )
    job.say(
        f"index: {facts['documents']:,} documents of {job.config.name} in {job.config.index.path}, {facts['bytes']:,} bytes"
    )
    return facts, []
