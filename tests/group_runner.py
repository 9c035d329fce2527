"""Runs a group stage in memory, the way the contract in `stages.stage` describes it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages.batch import Batch
from stages.stage import ADDRESSED, FINDINGS, VERDICT, GroupStage


def run_group(
    stage: GroupStage,
    tables: Sequence[pa.Table],
    partitions: int = 3,
    chunk: int = 7,
    batch: int = 1000,
    seed: int = 0,
    findings: list[pa.Table] | None = None,
) -> list[pa.Table]:
    """Each shard's table with the provided columns and the verdict's (`rule`, `kept_id`, ...), no row left out.

    `tables` are the shards; `batch` rows at a time are emitted; rounds read at most `chunk` rows at a time, at random.
    What is sent to `FINDINGS` is appended to `findings`.
    """
    rng = random.Random(seed)
    schemas = [pa.schema({**ADDRESSED, **payload}) for payload in stage.messages()]
    inbox: list[list[pa.Table]] = [[schema.empty_table()] for schema in schemas]
    verdict_schema = pa.schema({**VERDICT, **stage.provides()})
    verdicts = [verdict_schema.empty_table()]

    def send(addressed) -> None:
        for target, table in addressed:
            if target == FINDINGS:
                assert table.schema.equals(pa.schema(stage.findings())), table.schema
                if findings is not None:
                    findings.append(table)
                continue
            schema = verdict_schema if target is None else schemas[target]
            assert table.schema.equals(schema), f"{target}: {table.schema} is not {schema}"
            (verdicts if target is None else inbox[target]).append(table)

    for shard, table in enumerate(tables):
        for start in range(0, table.num_rows, batch):
            piece = table.slice(start, batch)
            send(stage.emit(Batch(piece), shard, np.arange(start, start + piece.num_rows)))
    for number in range(len(schemas)):
        table, inbox[number] = pa.concat_tables(inbox[number]).combine_chunks(), []
        count = stage.partitions(number, partitions)
        part = np.array(
            [int.from_bytes(key[:8], "big") % count for key in table.column("key").to_pylist()], dtype=np.int64
        )
        table = table.append_column("_key", table.column("key").cast(pa.binary()))  # fixed-size values do not sort
        for partition in range(count):
            mine = table.filter(pa.array(part == partition)).combine_chunks()
            order = pc.sort_indices(
                mine, [("_key", "ascending"), ("shard", "ascending"), ("row", "ascending")]
            )  # stable
            send(stage.reduce(number, _cut(mine.take(order).drop_columns(["_key"]), chunk, rng)))
    return _apply(stage, tables, pa.concat_tables(verdicts))


def _cut(table: pa.Table, chunk: int, rng: random.Random) -> Iterator[pa.Table]:
    start = 0
    while start < table.num_rows:
        rows = rng.randint(0, chunk)
        yield table.slice(start, rows)
        start += rows


def _apply(stage: GroupStage, tables: Sequence[pa.Table], verdicts: pa.Table) -> list[pa.Table]:
    places = list(zip(verdicts.column("shard").to_pylist(), verdicts.column("row").to_pylist(), strict=True))
    assert len(set(places)) == len(places), "two verdicts on one row"
    found = {place: i for i, place in enumerate(places)}
    out = []
    for shard, table in enumerate(tables):
        index = pa.array([found.get((shard, row)) for row in range(table.num_rows)], pa.int64())
        aligned = verdicts.take(index)
        provided = stage.columns(Batch(table), aligned)
        assert list(provided) == list(stage.provides())
        for name in ("rule", "value", "threshold", "kept_id", "similarity"):
            provided[name] = aligned.column(name)
        out.append(Batch(table).with_columns(provided).table)
    return out
