"""Batches as a pure function of (seed, step): against the reader of single rows, for any number of processes and threads."""

import pickle

import numpy as np
import pytest

from tests.tokens_chat import chat_dataset
from tests.tokens_corpus import rows_of
from tests.tokens_dataset import TEXTS, build_rows
from tokenizer_training.config import TokenizerError
from tokenizer_training.dataset import index_cache
from tokenizer_training.dataset.layout import mask_bits
from tokenizer_training.dataset.loader import Loader, permute, read_rows, sample_row, sample_rows
from tokenizer_training.dataset.read import PackedSplit


@pytest.fixture(scope="module", params=["best_fit", "concat", "document"])
def packed(request, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("loader")
    return build_rows(folder, tokenizer, rows_of(TEXTS), strategy=request.param).packed("train", 128)


def test_rows_are_those_of_the_plain_reader(packed):
    rows = list(range(len(packed)))[::-1]
    batch = read_rows(packed, rows)
    for at, row in enumerate(rows):
        tokens, documents = packed.row(row)
        assert np.array_equal(batch.tokens[at], tokens) and np.array_equal(batch.documents[at], documents)
    assert np.array_equal(batch.mask, batch.documents >= 0) and batch.rows.tolist() == rows
    assert batch.tokens.dtype == np.int64 and read_rows(packed, rows, wide=False).tokens.dtype == np.int32


def test_positions_and_bounds_say_the_same_as_document_numbers(packed):
    batch = read_rows(packed, [0, 5, 3])
    bounds = [0]
    for at in range(1, batch.documents.size):
        same_row = at % 128 and batch.documents.flat[at] == batch.documents.flat[at - 1]
        bounds += [] if same_row else [at]
    assert batch.cu_seqlens.tolist() == [*bounds, 3 * 128]
    lengths = np.diff(batch.cu_seqlens)
    assert batch.positions.ravel().tolist() == [p for length in lengths.tolist() for p in range(length)]


def test_any_number_of_processes_and_threads_reads_the_same(packed):
    alone = Loader(packed, batch_rows=8, seed=5)
    for step in (0, 7, 100):
        whole = alone.batch(step)
        for world in (2, 4, 8):
            parts = [Loader(packed, 8, 5, rank=rank, world=world).batch(step) for rank in range(world)]
            for name in ("tokens", "documents", "positions", "mask", "rows"):
                assert np.array_equal(np.concatenate([getattr(part, name) for part in parts]), getattr(whole, name))
            assert len({part.cu_seqlens.shape for part in parts}) == 1
    held = alone.batch(3)
    again = alone.batch(7, out=held)
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(again, alone.batch(7), strict=True))
    assert np.shares_memory(again.tokens, held.tokens)
    with pytest.raises(TokenizerError, match="`out` is of"):
        Loader(packed, 4, 5, segments=held.cu_seqlens.size - 1).batch(7, out=held)
    for threads in (1, 3):
        for step, batch in enumerate(alone.prefetch(4, 16, threads), 4):
            for ours, theirs in zip(batch, alone.batch(step), strict=True):
                assert np.array_equal(ours, theirs)
        assert step == 15


def test_an_epoch_reads_every_row_once_and_shapes_never_change(packed):
    loader = Loader(packed, batch_rows=1, seed=2)
    rows = [loader.rows(step)[0] for step in range(2 * len(packed))]
    assert sorted(rows[: len(packed)]) == list(range(len(packed))) == sorted(rows[len(packed) :])
    assert rows[: len(packed)] != rows[len(packed) :]
    assert Loader(packed, 1, shuffle=False).rows(3) == [3]
    loader = Loader(packed, batch_rows=4)
    shapes = {tuple(a.shape for a in loader.batch(step)) for step in range(len(packed) // 4)}
    assert len(shapes) == 1
    for step in range(10):
        bounds = loader.batch(step).cu_seqlens
        assert bounds[-1] == 4 * 128 and (np.diff(bounds) >= 0).all() and bounds.dtype == np.int32


def test_the_order_of_samples_stays_what_it_was():
    """Runs that were begun go on as they were: these numbers are those of the first version."""
    assert [permute(i, 10, 7) for i in range(10)] == [7, 6, 1, 9, 2, 0, 5, 4, 3, 8]
    assert [permute(i, 1000, (3 << 32) + 2) for i in range(5)] == [477, 508, 899, 742, 141]


def test_too_few_segments_and_wrong_numbers_are_refused(packed):
    with pytest.raises(TokenizerError, match="room for 1: give more `segments`"):
        Loader(packed, 4, segments=1).batch(0)
    for wrong in ({"batch_rows": 0}, {"batch_rows": 3, "world": 2}, {"batch_rows": 2, "world": 2, "rank": 2}):
        with pytest.raises(TokenizerError, match="expected"):
            Loader(packed, **wrong)
    with pytest.raises(IndexError):
        read_rows(packed, [len(packed)])
    batch = Loader(packed, 2, segments=600).batch(1)
    assert len(batch.cu_seqlens) == 601 and (batch.cu_seqlens[-10:] == 256).all()


def test_masks_of_conversations_reach_the_batch(tokenizer, tmp_path):
    dataset = chat_dataset(tmp_path, tokenizer, shard_tokens=1500)
    packed = dataset.packed("train", 128)
    assert len(packed.files) > 2
    batch = read_rows(packed, range(len(packed)))
    trained = 0
    for row in range(len(packed)):
        at = 0
        for shard, offset, length in packed.spans(row):
            bits = mask_bits(packed.files[shard].with_suffix(".mask"), offset, length)
            assert np.array_equal(batch.mask[row, at : at + length], bits)
            at, trained = at + length, trained + int(bits.sum())
        assert not batch.mask[row, at:].any()
    assert 0 < trained < (batch.documents >= 0).sum()


def test_a_large_index_is_mapped_from_a_cache_that_processes_share(packed, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(index_cache, "IN_MEMORY", 10)
    monkeypatch.setattr(index_cache, "BATCH", 7)
    mapped = PackedSplit(packed.path, "train", 128)
    assert isinstance(mapped._index.spans.base, np.memmap) or isinstance(mapped._index.spans, np.memmap)
    (cache,) = (tmp_path / "gristmill/packs").iterdir()
    made = cache.stat().st_mtime_ns
    again = pickle.loads(pickle.dumps(mapped))
    assert cache.stat().st_mtime_ns == made
    rows = list(range(len(packed)))
    for split in (mapped, again):
        for ours, theirs in zip(read_rows(split, rows), read_rows(packed, rows), strict=True):
            assert np.array_equal(ours, theirs)
        assert split.rows_at(0, 100, 300) == packed.rows_at(0, 100, 300)
    cache.write_bytes(b"cut short")
    assert PackedSplit(packed.path, "train", 128).spans(3) == packed.spans(3)


def test_phases_are_read_one_after_the_other(packed):
    split = pickle.loads(pickle.dumps(packed))
    first = len(split) // 3
    split.phases = [("main", first), ("last", len(split) - first)]
    loader = Loader(split, batch_rows=1, seed=9)
    rows = [loader.rows(step)[0] for step in range(len(split))]
    assert sorted(rows[:first]) == list(range(first)) and sorted(rows[first:]) == list(range(first, len(split)))


def test_many_rows_at_once_are_those_one_by_one():
    for rows, phases in ((1, ()), (7, (3, 4)), (64, (1, 0, 63)), (1000, ())):
        for seed in (0, 5, 2**62 + 1):
            for shuffle in (True, False):
                plain = [sample_row(sample, rows, seed, shuffle, phases) for sample in range(3, 3 * rows + 20)]
                assert sample_rows(3, len(plain), rows, seed, shuffle, phases).tolist() == plain
