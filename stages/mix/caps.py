"""The stage `mix.caps`: which documents are more than their registrable domain may give."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa

from stages.batch import Batch
from stages.dedup.messages import key_values, same_as_previous, whole_keys
from stages.mix.common import DomainNames, places, text_bytes
from stages.stage import ADDRESSED, KEY, VERDICT, Addressed, Bytes, GroupStage, StageConfig, knob, register

OVER = {"mix_over": pa.float64(), "mix_cap": pa.float64()}  # of the domain, in what the cap counts; null: within it


class CapsConfig(StageConfig):
    """Knobs of `mix.caps`."""

    bytes: Bytes | None = knob(None, "most UTF-8 bytes of text of one registrable domain", ge=1)
    documents: int | None = knob(None, "most documents of one registrable domain", ge=1)
    seed: int = knob(0, "of what is chosen", ge=0, lt=2**63)


@register
class Caps(GroupStage):
    """Marks the documents of each registrable domain beyond its cap, those with the largest hashes; `mix` drops them.

    The section `mix` puts this stage before itself where it has `domains`. Documents without a host are never over.
    Memory: 28 bytes for each document of the largest domain.
    """

    name = "mix.caps"
    config_model = CapsConfig
    needs = ("id", "text", "url")
    libraries: ClassVar[tuple[str, ...]] = ("tldextract",)
    drops = False
    config: CapsConfig

    def provides(self) -> dict[str, pa.DataType]:
        """The domain's size and the cap, of documents that are over it; they end with `mix`."""
        return dict(OVER)

    def setup(self, assets: Mapping[str, Path]) -> None:
        """Load the public suffix list."""
        self._domains = DomainNames()

    def messages(self) -> tuple[dict[str, pa.DataType], ...]:
        """By domain: the documents, with their size and their place in the choice."""
        return ({"bytes": pa.int64(), "place": pa.float64()},)

    def emit(self, batch: Batch, shard: int, rows: np.ndarray) -> Iterable[Addressed]:
        """One message for each document that has a domain."""
        import xxhash

        domains = self._domains(batch.values("url"))
        have = [row for row, domain in enumerate(domains) if domain is not None]
        if not have:
            return
        keys = [xxhash.xxh3_128_digest((domains[row] or "").encode("utf-8", "surrogatepass")) for row in have]
        ids = batch.values("id")
        columns = [
            pa.array(keys, KEY),
            pa.array(np.full(len(have), shard, np.int32)),
            pa.array(rows[have], pa.int64()),
            pa.array(text_bytes(batch)[have]),
            pa.array(places([ids[row] for row in have], self.config.seed, "cap")),
        ]
        yield Addressed(0, pa.table(columns, schema=pa.schema([*ADDRESSED.items(), *self.messages()[0].items()])))

    def reduce(self, round: int, messages: Iterator[pa.Table]) -> Iterable[Addressed]:
        """The documents of each domain in the order of the choice, until one does not fit."""
        for table in whole_keys(messages):
            starts = np.flatnonzero(~same_as_previous(key_values(table)))
            if not len(starts):
                continue
            sizes, chosen = table.column("bytes").to_numpy(), table.column("place").to_numpy()
            domain = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(sizes))))
            order = np.lexsort((table.column("row").to_numpy(), table.column("shard").to_numpy(), chosen, domain))
            sizes = sizes[order]
            total, number = np.add.reduceat(sizes, starts), np.diff(np.append(starts, len(sizes)))
            over = np.zeros(len(sizes), dtype=bool)
            value, cap = np.zeros(len(sizes)), np.zeros(len(sizes))
            for most, counted, amounts in (
                (self.config.documents, np.ones(len(sizes), np.int64), number),
                (self.config.bytes, sizes, total),
            ):
                if most is None:
                    continue
                running = np.cumsum(counted)
                running -= (running[starts] - counted[starts])[domain]  # domains are in ascending order here too
                beyond = (running > most) & ~over
                value[beyond], cap[beyond] = amounts[domain[beyond]], most
                over |= beyond
            if over.any():
                yield Addressed(None, _verdicts(table.take(pa.array(order[over])), value[over], cap[over]))


def _verdicts(rows: pa.Table, value: np.ndarray, cap: np.ndarray) -> pa.Table:
    columns = {name: pa.nulls(rows.num_rows, kind) for name, kind in VERDICT.items()}
    columns |= {"shard": rows.column("shard"), "row": rows.column("row")}
    return pa.table({**columns, "mix_over": pa.array(value), "mix_cap": pa.array(cap)})
