"""The most frequent passages of a corpus, with their counts by registrable domain: what `dedup.lines` and `dedup.spans` report."""

from __future__ import annotations

import heapq
from collections import Counter

import numpy as np
import pyarrow as pa

from stages.batch import Batch
from stages.dedup.messages import key_values
from stages.dedup.passages import Met, sampled
from stages.dedup.survivor import name_hashes
from stages.dedup.units import Units

EXCERPT = 100  # characters of a passage that are shown
ONE_IN = 4  # documents send an excerpt with one in so many of their passages: a frequent one is shown all the same
DOMAINS_SHOWN = 10
DOMAINS_COUNTED = 10_000  # different ones of a passage; the documents of further ones count as others
FINDINGS_COLUMNS: dict[str, pa.DataType] = {
    "text": pa.string(),  # its beginning in one of the documents; null: none sent it
    "documents": pa.int64(),  # with it; of spans its places
    "domains": pa.list_(pa.struct([("domain", pa.string()), ("documents", pa.int64())])),  # most frequent first
    "domains_counted": pa.int64(),
    "other_documents": pa.int64(),  # without a domain, or of domains beyond those counted
}


def excerpts(batch: Batch, units: Units, first: np.ndarray, run: int, keys: np.ndarray, row: np.ndarray) -> pa.Array:
    """The beginnings of some of the runs of units, null for the others: which, the key and the document's id decide."""
    chosen = sampled(keys, name_hashes(batch.values("id"))[row], ONE_IN)
    data, _ = batch.utf8()
    begin, end = units.begin_byte[first], units.end_byte[first + run - 1]
    out: list[str | None] = [None] * len(first)
    for one in np.flatnonzero(chosen).tolist():
        low = int(begin[one])
        out[one] = bytes(data[low : min(int(end[one]), low + 4 * EXCERPT)]).decode("utf-8", "replace")[:EXCERPT]
    return pa.array(out, pa.string())


class Passages:
    """Collects the most frequent of the passages that met. Memory: that many, and the domains of one."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self._heap: list[tuple[int, bytes, dict[str, object]]] = []
        self._open: tuple[bytes, Counter[str], int, str | None] | None = None  # of a key that may go on

    def add(self, met: Met) -> None:
        """Take in what met; of a key in several pieces each piece."""
        if not self.wanted or not len(met.heads):
            return
        keys = key_values(met.table)
        for head, end, size, begun in zip(
            met.heads.tolist(), met.ends.tolist(), met.sizes.tolist(), met.begun.tolist(), strict=True
        ):
            if not begun and len(self._heap) == self.wanted and size < self._heap[0][0] and end < len(keys):
                continue
            key = keys[head].tobytes()
            counts, others, text = Counter[str](), 0, None
            if begun and self._open is not None and self._open[0] == key:
                _, counts, others, text = self._open
                head += 1  # the best so far, counted with its own piece
            piece = met.table.slice(head, end - head)
            for domain, number in Counter(piece.column("domain").to_pylist()).items():
                if domain is None or (domain not in counts and len(counts) >= DOMAINS_COUNTED):
                    others += number
                else:
                    counts[domain] += number
            if text is None:
                sent = piece.column("text").drop_null()
                text = sent[0].as_py() if len(sent) else None
            self._open = (key, counts, others, text)
            self._put(key, size, counts, others, text, begun)

    def _put(self, key: bytes, size: int, counts: Counter[str], others: int, text: str | None, begun: bool) -> None:
        top = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:DOMAINS_SHOWN]
        row: dict[str, object] = {
            "text": text,
            "documents": size,
            "domains": [{"domain": domain, "documents": number} for domain, number in top],
            "domains_counted": len(counts),
            "other_documents": others,
        }
        if begun:  # what was put in for its first pieces
            self._heap = [entry for entry in self._heap if entry[1] != key]
            heapq.heapify(self._heap)
        entry: tuple[int, bytes, dict[str, object]] = (size, key, row)
        heapq.heappush(self._heap, entry)
        if len(self._heap) > self.wanted:
            heapq.heappop(self._heap)

    def table(self) -> pa.Table:
        """The passages, most frequent first."""
        rows = [row for _, _, row in sorted(self._heap, key=lambda entry: entry[:2], reverse=True)]
        return pa.Table.from_pylist(rows, schema=pa.schema(FINDINGS_COLUMNS))
