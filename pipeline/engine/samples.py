"""samples/: dropped documents to look at, scrubbed of personal data."""

from __future__ import annotations

import contextlib
from typing import Any

import pyarrow.parquet as pq

from pipeline.engine import journal
from pipeline.engine.journal import Manifest, Output
from pipeline.engine.rows import SAMPLE_SCHEMA
from pipeline.engine.store import Store
from pipeline.engine.writers import SampleKeeper
from stages.pii.scrub import Scrubber, scrub_url

PHASE = "samples"


class ScrubbingKeeper(SampleKeeper):
    """Scrubs what it writes."""

    _scrubber: Scrubber | None = None

    def _write(self, rows: list[dict[str, Any]]) -> None:
        if rows and self._scrubber is None:
            self._scrubber = Scrubber()  # its recognisers take two seconds to load
        super()._write([{**row, "url": _url(row["url"]), "text": self._text(row["text"])} for row in rows])

    def _text(self, text: str | None) -> str | None:
        return self._scrubber.text(text) if text and self._scrubber else text


def _url(url: str | None) -> str | None:
    return scrub_url(url) if url else url


def merge_samples(store: Store, unit: str, sources: list[str], keep: str, fingerprint: str) -> Manifest:
    """One samples/ file from the units' samples: for each (stage, rule) the smallest ids, or all rows."""
    journal.forget(store, PHASE, unit)
    path = f"samples/part-{unit}.parquet"
    with store.writing(path) as temporary:
        keeper = ScrubbingKeeper(temporary, SAMPLE_SCHEMA, keep)
        for source in sources:
            with contextlib.closing(store.open(source)) as handle, pq.ParquetFile(handle) as parquet:
                for batch in parquet.iter_batches(batch_size=256):
                    for row in batch.to_pylist():
                        keeper.offer(row)
        written: Output = journal.output(path, temporary, keeper.close())
    manifest = Manifest(PHASE, unit, fingerprint, {"rows": fingerprint}, [written])
    journal.commit(store, manifest)
    return manifest
