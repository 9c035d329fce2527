"""The section `pack`: documents to a token dataset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.config import RunConfig
from pipeline.engine.executors import Executor
from pipeline.engine.phases import Work
from pipeline.engine.work import Call
from pipeline.sections.calls import documents, run_calls
from tokenizer_training.dataset.build import begin_dataset, build_shard, finish_dataset, plan_shards
from tokenizer_training.dataset.config import PackConfig
from tokenizer_training.dataset.encode import encode_documents
from tokenizer_training.dataset.pack import build_pack, pack_facts


def run_pack(
    config: RunConfig, work: Work, local: Path, executor: Executor, parts: dict[str, str], say: Callable[[str], None]
) -> tuple[dict[str, Any], list[str]]:
    """Encode on all workers, shuffle, write the shards, and index the rows."""
    assert config.pack is not None
    pack: PackConfig = config.pack
    encoded_folder = local / "phases" / "encoded"
    encoded_folder.mkdir(parents=True, exist_ok=True)
    sources = documents(work, local)
    encoded = [encoded_folder / path.name for path in sources]
    made = run_calls(
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
    built = iter(run_calls("shuffle", calls, executor))
    splits = {split: [next(built) for _ in shards] for split, shards in plan["shards"].items()}
    shared = {"out_dir": out, "config": pack, "about": plan}
    packed = run_calls(
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
