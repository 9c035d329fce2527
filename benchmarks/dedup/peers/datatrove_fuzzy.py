"""datatrove's four steps of MinHash deduplication, each in its own process as its examples run them on one machine.

    PYTHON datatrove_fuzzy.py INPUT.jsonl FOLDER BANDS ROWS [TASKS]

Kept documents are written to FOLDER/out, the others to FOLDER/removed, with their cluster in `metadata`.
"""

import sys
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter
from datatrove.utils.hashing import HashConfig


def main() -> None:
    source, folder, bands, rows = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    tasks = int(sys.argv[5]) if len(sys.argv) > 5 else 1
    config = MinhashConfig(
        n_grams=5, num_buckets=bands, hashes_per_bucket=rows, hash_config=HashConfig(precision=64)
    )  # 64-bit hashes: the 32-bit ones save space, not time
    at = {name: str(folder / name) for name in ("signatures", "buckets", "clusters", "out", "removed")}

    def reader() -> JsonlReader:
        return JsonlReader(source, text_key="text", id_key="id", default_metadata={})

    steps = [
        ([reader(), MinhashDedupSignature(at["signatures"], config=config)], tasks),
        ([MinhashDedupBuckets(at["signatures"], at["buckets"], config=config)], bands),
        ([MinhashDedupCluster(at["buckets"], at["clusters"], config=config, save_cluster_id=True)], 1),
        (
            [
                reader(),
                MinhashDedupFilter(at["clusters"], exclusion_writer=JsonlWriter(at["removed"]), load_cluster_ids=True),
                JsonlWriter(at["out"]),
            ],
            tasks,
        ),
    ]
    for number, (pipeline, count) in enumerate(steps):
        LocalPipelineExecutor(
            pipeline, tasks=count, workers=tasks, logging_dir=str(folder / f"log{number}"), skip_completed=False
        ).run()


if __name__ == "__main__":
    main()
