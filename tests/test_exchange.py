"""The exchange sorts, spills and merges exactly, whatever the buffer."""

import numpy as np
import pyarrow as pa
import pytest

from pipeline.engine.exchange import PARTITION, Sorter, partition_of, read_partition, read_slices, write_sorted
from pipeline.engine.store import Store
from stages.stage import ADDRESSED

SCHEMA = pa.schema([*((n, t) for n, t in ADDRESSED.items()), ("order", pa.int64())])


def messages(count: int, keys: int, seed: int = 1) -> pa.Table:
    rng = np.random.default_rng(seed)
    raw = rng.bytes(16 * keys)
    names = [raw[16 * i : 16 * i + 16] for i in range(keys)]
    names[1::3] = [names[0][:8] + name[8:] for name in names[1::3]]  # keys that differ in their second half alone
    return pa.table(
        {
            "key": pa.array([names[i] for i in rng.integers(0, keys, count)], type=pa.binary(16)),
            "shard": pa.array(rng.integers(0, 3, count), type=pa.int32()),
            "row": pa.array(rng.integers(0, 50, count), type=pa.int64()),
            "order": pa.array(np.arange(count), type=pa.int64()),
        }
    )


def expected(table: pa.Table, partitions: int) -> list[tuple]:
    rows = table.to_pylist()
    words = [
        np.array([[int.from_bytes(r["key"][:8], "big"), int.from_bytes(r["key"][8:], "big")]], dtype=np.uint64)
        for r in rows
    ]
    where = [int(partition_of(w, partitions)[0]) for w in words]
    return sorted((p, r["key"], r["shard"], r["row"], r["order"]) for p, r in zip(where, rows, strict=True))


@pytest.mark.parametrize(("keys", "buffer"), [(40, 1 << 30), (40, 4000), (1, 4000), (3, 1500), (500, 900)])
def test_sorted_order_equals_python_sort(keys: int, buffer: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.engine.exchange.CHUNK_ROWS", 17)
    table = messages(1500, keys)
    sorter = Sorter(SCHEMA, 5, buffer)
    for start in range(0, 1500, 70):
        sorter.add(table.slice(start, 70))
    out = pa.concat_tables(sorter.sorted())
    got = [(r[PARTITION], r["key"], r["shard"], r["row"], r["order"]) for r in out.to_pylist()]
    assert got == expected(table, 5)


def test_large_messages_come_in_small_tables(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.engine.exchange.CHUNK_BYTES", 5000)
    schema = pa.schema([*SCHEMA, ("text", pa.large_string())])
    table = messages(200, 20).append_column(
        "text", pa.array(["x" * (300 if i % 50 else 20_000) for i in range(200)], pa.large_string())
    )
    sorters = {buffer: Sorter(schema, 3, buffer) for buffer in (1 << 30, 9000)}  # in memory; spilled and merged
    for buffer, sorter in sorters.items():
        for start in range(0, 200, 30):
            sorter.add(table.slice(start, 30))
        out = list(sorter.sorted())
        assert all(part.nbytes <= 5000 or part.num_rows == 1 for part in out)
        assert len(out) > 10 and sum(part.num_rows for part in out) == 200
        slices, rows = write_sorted(iter(out), sorter.schema, tmp_path / f"{buffer}.parquet", f"{buffer}.parquet")
        assert rows == 200
        parts = [list(read_slices(Store(str(tmp_path)), [slices], partition)) for partition in range(3)]
        assert all(part.nbytes <= 5000 or part.num_rows == 1 for some in parts for part in some)
        got = [row["order"] for some in parts for part in some for row in part.to_pylist()]
        assert sorted(got) == list(range(200)) and len(got) == 200


def test_file_with_index_gives_each_partition_back(tmp_path) -> None:
    store = Store(str(tmp_path))
    table = messages(2000, 60)
    slices = []
    for shard in range(2):
        sorter = Sorter(SCHEMA, 4, 3000)
        sorter.add(table.slice(shard * 1000, 1000))
        written, rows = write_sorted(sorter.sorted(), sorter.schema, tmp_path / f"{shard}.parquet", f"{shard}.parquet")
        assert rows == 1000
        slices.append(written)
    got = []
    for partition in range(4):
        for part in read_partition(store, slices, partition, SCHEMA, 4):
            got += [(partition, r["key"], r["shard"], r["row"], r["order"]) for r in part.to_pylist()]
    assert got == expected(table, 4)


def test_equal_bytes_whatever_the_buffer(tmp_path) -> None:
    table = messages(3000, 9)
    content = set()
    for i, buffer in enumerate([1 << 30, 5000]):
        sorter = Sorter(SCHEMA, 3, buffer)
        sorter.add(table)
        out = pa.concat_tables(sorter.sorted())
        content.add(str(out.to_pylist()))
        assert out.num_rows == 3000, i
    assert len(content) == 1
