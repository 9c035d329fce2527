"""samples/: dropped documents to look at, scrubbed of personal data."""

from __future__ import annotations

import contextlib
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.engine import journal
from pipeline.engine.journal import Manifest, Output
from pipeline.engine.rows import SAMPLE_SCHEMA
from pipeline.engine.store import Store
from pipeline.engine.writers import SAMPLES_PER_RULE, SampleKeeper
from stages.pii.scrub import Scrubber, scrub_url

PHASE = "samples"


def merge_samples(store: Store, unit: str, sources: list[str], keep: str, fingerprint: str) -> Manifest:
    """One samples/ file from the units' samples: for each (stage, rule) the smallest ids, or all rows."""
    journal.forget(store, PHASE, unit)
    keeper = SampleKeeper(None if keep == "all" else SAMPLES_PER_RULE)
    for path in sources:
        with contextlib.closing(store.open(path)) as handle, pq.ParquetFile(handle) as parquet:
            for batch in parquet.iter_batches(batch_size=256):
                for row in batch.to_pylist():
                    keeper.offer(row)
    rows: list[dict[str, Any]] = []
    dropped = keeper.rows()
    scrubber = Scrubber() if dropped else None  # its recognisers take two seconds to load
    for row in dropped:
        url, text = row["url"], row["text"]
        rows.append(
            {**row, "url": scrub_url(url) if url else url, "text": scrubber.text(text) if text and scrubber else text}
        )
    path = f"samples/part-{unit}.parquet"
    with store.writing(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=SAMPLE_SCHEMA), temporary, compression="zstd")
        written: Output = journal.output(path, temporary, len(rows))
    manifest = Manifest(PHASE, unit, fingerprint, {"rows": fingerprint}, [written])
    journal.commit(store, manifest)
    return manifest
