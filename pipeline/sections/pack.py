"""The section `pack`: documents to a token dataset.

Encoding is kept by part until the shards are there, and the shards for as long as what they depend on stays the same: another
sequence length or strategy only writes the index of rows again.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from pipeline.engine import journal
from pipeline.engine.journal import Manifest, Output, digest
from pipeline.engine.store import sha256_file
from pipeline.engine.work import Call
from pipeline.sections.calls import Job, KeptCall, documents, forget_kept, part_digests, run_calls, run_kept_calls
from tokenizer_training.dataset.build import begin_dataset, build_shard, finish_dataset, plan_shards
from tokenizer_training.dataset.config import PackConfig
from tokenizer_training.dataset.encode import encode_documents
from tokenizer_training.dataset.pack import build_pack, pack_facts

ENCODED = "encoded"
SHARDS = "shards"  # the commit of the shards, beside those of the sections
OF_SHARDS = (
    "validation",
    "seed",
    "shard_tokens",
)  # the knobs that the shards depend on; `seed` alone decides the encoding


def run_pack(job: Job) -> tuple[dict[str, Any], list[str]]:
    """Encode on all workers, shuffle, write the shards, and index the rows."""
    assert job.config.pack is not None
    pack: PackConfig = job.config.pack
    out = job.local / "tokens"
    shards = _shards(pack, job)
    plan, splits = shards["plan"], shards["splits"]
    begin_dataset(out)
    shared = {"out_dir": out, "config": pack, "about": plan}
    calls = [
        Call(f"pack {split}", build_pack, {**shared, "split": split, "shards": made}) for split, made in splits.items()
    ]
    packed = dict(zip(splits, run_calls("pack", calls, job.executor), strict=True))
    facts = finish_dataset(out, plan, splits, {str(pack.sequence_length): pack_facts(pack, packed)})
    summary = {
        split: {k: sum(s[k] for s in made) for k in ("documents", "tokens")} for split, made in facts["splits"].items()
    }
    if shards["mixture"]:
        summary["mixture"] = shards["mixture"]
    return {**summary, "pack": facts["pack"]}, [
        p.relative_to(job.local).as_posix() for p in out.rglob("*") if p.is_file()
    ]


def _shards(pack: PackConfig, job: Job) -> dict[str, Any]:
    """Plan, entries of dataset.json and mixture of shards that are there, made now or by an earlier run."""
    depends = {k: v for k, v in job.parts.items() if k != "pack"}
    depends[SHARDS] = digest({name: getattr(pack, name) for name in OF_SHARDS})
    earlier = journal.read_manifest(job.store, "section", SHARDS)
    if (
        earlier is not None
        and earlier.fingerprint == digest(depends)
        and journal.lasting_present(job.store, earlier)
        and all(sha256_file(job.local / o.path) == o.sha256 for o in earlier.outputs)
    ):
        job.say("pack: the shards are there already, only rows are made")
        return earlier.counts
    journal.forget(job.store, "section", SHARDS)
    out = job.local / "tokens"
    begin_dataset(out)
    sources = documents(job.work, job.local)
    encoded = [job.local / "phases" / ENCODED / f"{path.stem}.arrow" for path in sources]
    calls = [
        KeptCall(
            Call(
                f"encode {path.stem}",
                encode_documents,
                {"documents_path": path, "tokenizer_dir": job.local / "tokenizer", "out_path": to, "config": pack},
            ),
            ENCODED,
            path.stem,
            to.relative_to(job.local).as_posix(),
            {**depends, "documents": part, SHARDS: str(pack.seed)},
        )
        for path, to, part in zip(sources, encoded, part_digests(job.work), strict=True)
    ]
    mixture: Counter[str] = Counter()
    fell_back = 0
    for one in run_kept_calls("encode", calls, job.store, job.local, job.executor):
        mixture.update(one["mixture"])
        fell_back += one["encoding"]["fell_back"]
    if fell_back:
        job.say(
            f"pack: {fell_back:,} documents were encoded by `tokenizers`, as the faster engine failed or differed on them"
        )
    plan = plan_shards(encoded, pack)
    wanted = [(split, number) for split, these in plan["shards"].items() for number in range(len(these))]
    shared = {"encoded_paths": encoded, "plan": plan, "out_dir": out}
    built = run_calls(
        "shuffle",
        [
            Call(f"shuffle {split} {number}", build_shard, {**shared, "split": split, "number": number})
            for split, number in wanted
        ],
        job.executor,
    )
    splits: dict[str, list[Any]] = {split: [] for split in plan["shards"]}
    for (split, _), entry in zip(wanted, built, strict=True):
        splits[split].append(entry)
    facts = {"plan": plan, "splits": splits, "mixture": dict(sorted(mixture.items()))}
    files = sorted(
        path for shard in built for path in out.glob(f"{Path(shard['file']).stem}.*") if not path.name.endswith(".tmp")
    )
    outputs = [Output(p.relative_to(job.local).as_posix(), p.stat().st_size, sha256_file(p)) for p in files]
    journal.commit(job.store, Manifest("section", SHARDS, digest(depends), depends, outputs, counts=facts))
    forget_kept(ENCODED, job.store)
    return facts
