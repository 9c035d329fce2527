"""Encoding and shuffling in bounded memory: the same bytes however much there is, and as the plain rules say."""

import hashlib
import json
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tokens_chat import conversations, write_chat
from tests.tokens_corpus import write_documents
from tests.tokens_dataset import CONFIG, all_documents, build, corpus
from tokenizer_training.config import TokenizerError
from tokenizer_training.corpus.documents import hash64
from tokenizer_training.dataset import encode as encode_module
from tokenizer_training.dataset import shard as shard_module
from tokenizer_training.dataset.build import build_shard, plan_shards
from tokenizer_training.dataset.encode import encode_documents, encoded_facts, open_encoded
from tokenizer_training.dataset.places import hashes
from tokenizer_training.dataset.verify import verify
from tokenizer_training.encoding.encoder import Encoder


def small(config=CONFIG, **knobs):
    """A config with less memory than its knob allows, so that a small corpus takes many runs."""
    return config.model_copy(update={"memory": 20_000, **knobs})


def test_bytes_do_not_depend_on_memory(dataset, tokenizer, tmp_path, monkeypatch):
    documents = write_documents(tmp_path / "d", corpus(), parts=3)
    little = build(tmp_path / "little", tokenizer, documents, small())
    reader = open_encoded(next((tmp_path / "little-encoded").iterdir()))
    assert reader.num_record_batches > 5
    for file in dataset.path.iterdir():
        assert file.read_bytes() == (little.path / file.name).read_bytes(), file.name
    monkeypatch.setattr(shard_module, "SIDECAR_ROWS", 16)  # other row groups, so equal only among themselves
    one = build(tmp_path / "one", tokenizer, documents, small(shard_tokens=10**6))
    two = build(tmp_path / "two", tokenizer, documents, CONFIG.model_copy(update={"shard_tokens": 10**6}))
    assert pq.ParquetFile(one.path / "train-00000.parquet").num_row_groups > 5
    for file in two.path.iterdir():
        assert file.read_bytes() == (one.path / file.name).read_bytes(), file.name


def test_conversations_do_not_depend_on_memory(tokenizer, tmp_path):
    file = write_chat(tmp_path / "c.parquet", conversations())
    much = build(tmp_path / "much", tokenizer, [file])
    little = build(tmp_path / "little", tokenizer, [file], small())
    for one in much.path.iterdir():
        assert one.read_bytes() == (little.path / one.name).read_bytes(), one.name


def test_order_is_that_of_the_places(dataset):
    """The rule of the format, in plain Python: SHA-256 over seed, id and copy."""
    copies = {}
    for row in corpus():
        for copy in range(row["repeat"] or 1):
            place = hashlib.sha256(f"{CONFIG.seed}\0{row['id']}\0{copy}".encode()).digest()[:8]
            copies[place, row["id"], copy] = row["id"]
    held_out = {name for name, _ in all_documents(dataset, "validation")}
    order = [name for _, name in sorted(copies.items()) if name not in held_out]
    assert [name for name, _ in all_documents(dataset, "train")] == order
    firsts = [name for (_, _, copy), name in sorted(copies.items()) if name in held_out and copy == 0]
    assert [name for name, _ in all_documents(dataset, "validation")] == firsts


def test_encoded_runs_are_sorted_and_hold_what_the_encoder_gives(tokenizer, tmp_path):
    (file,) = write_documents(tmp_path / "d", corpus())
    facts = encode_documents(file, tokenizer, tmp_path / "e.arrow", small())
    assert facts == encoded_facts(tmp_path / "e.arrow") and facts["source"]["file"] == file.name
    encoder = Encoder(tokenizer)
    texts = {row["id"]: row["text"] for row in corpus()}
    reader = open_encoded(tmp_path / "e.arrow")
    rows = 0
    for number in range(reader.num_record_batches):
        batch = reader.get_batch(number)
        keys = batch.column("key").to_numpy()
        assert (keys[1:] >= keys[:-1]).all()
        for row in batch.to_pylist():
            assert row["tokens"] == encoder.encode(texts[row["id"]]).tolist() and row["length"] == len(row["tokens"])
            assert row["key"] == hash64(str(CONFIG.seed), row["id"], str(row["copy"]))
            assert row["bytes"] == len(texts[row["id"]].encode())
            rows += 1
    assert rows == facts["copies"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=150), min_size=1, max_size=8), st.text(max_size=20), st.integers(0, 2**40))
def test_hashes_of_a_column_are_sha256(ids, prefix, copy):
    ids = [one.encode("utf-8", "replace").decode() for one in ids]
    prefix = prefix.encode("utf-8", "replace").decode()
    column = pa.array(["", *ids], pa.large_string()).slice(1)
    assert hashes(prefix, column).tolist() == [hash64(prefix, one) for one in ids]
    rows, copies = np.arange(len(ids))[::-1], np.full(len(ids), copy)
    assert hashes(prefix, column, rows, copies).tolist() == [hash64(prefix, one, str(copy)) for one in ids[::-1]]


def test_equal_places_go_by_id_and_copy(tokenizer, tmp_path, monkeypatch):
    """A hash with three values: nearly all places are equal, and the order is still the same for any memory."""
    few = lambda prefix, ids, rows=None, copies=None: (  # noqa: E731
        hashes(prefix, ids, rows, copies) if prefix == "cluster" else hashes(prefix, ids, rows) % np.uint64(3)
    )
    monkeypatch.setattr(encode_module, "hashes", few)
    found = []
    for number, config in enumerate((CONFIG, small())):
        documents = write_documents(tmp_path / f"d{number}", random.Random(number).sample(corpus(), len(corpus())), 2)
        found.append(build(tmp_path / f"t{number}", tokenizer, documents, config))
    for file in found[0].path.glob("train*"):
        assert file.read_bytes() == (found[1].path / file.name).read_bytes()
    places = {row["id"]: hash64(str(CONFIG.seed), row["id"]) % 3 for row in corpus()}
    names = [name for name, _ in all_documents(found[0], "train")]
    assert names == sorted(names, key=lambda name: (places[name], name))
    assert verify(found[0].path) == []


def test_one_document_larger_than_the_memory(tokenizer, tmp_path):
    rows = corpus()[:40]
    rows[7]["text"] = rows[7]["text"] * 60
    rows[7]["repeat"] = 3
    documents = write_documents(tmp_path / "d", rows)
    much, little = (build(tmp_path / name, tokenizer, documents, c) for name, c in (("m", CONFIG), ("l", small())))
    for file in much.path.iterdir():
        assert file.read_bytes() == (little.path / file.name).read_bytes()


def test_half_written_files_leave_no_trace(tokenizer, tmp_path, monkeypatch):
    (file,) = write_documents(tmp_path / "d", corpus()[:30])
    encode_documents(file, tokenizer, tmp_path / "e.arrow", CONFIG)
    plan = plan_shards([tmp_path / "e.arrow"], CONFIG)
    changed = json.loads(json.dumps(plan))
    changed["shards"]["train"][0]["documents"] += 1
    with pytest.raises(TokenizerError, match="encoded files changed since the plan"):
        build_shard([tmp_path / "e.arrow"], changed, "train", 0, tmp_path / "t")
    assert list((tmp_path / "t").iterdir()) == []

    def fails(self, rows):
        raise OSError("disk full")

    monkeypatch.setattr(shard_module.ShardWriter, "_write_sidecar", fails)
    with pytest.raises(OSError, match="disk full"):
        build_shard([tmp_path / "e.arrow"], plan, "train", 0, tmp_path / "t")
    assert list((tmp_path / "t").iterdir()) == []
    monkeypatch.setattr(encode_module, "_boundaries", lambda encoder: fails(None, 0))
    with pytest.raises(OSError, match="disk full"):
        encode_documents(file, tokenizer, tmp_path / "f.arrow", CONFIG)
    assert not list(tmp_path.glob("f.arrow*"))
