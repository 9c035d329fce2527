"""A small token dataset that several test files look at, and how it is built."""

import random
import struct

import pyarrow.parquet as pq
import pytest

from tests.tokens_corpus import NASTY, identity, python_texts, rows_of, write_documents
from tokenizer_training.dataset.build import build_shard, finish_dataset, plan_shards
from tokenizer_training.dataset.config import PackConfig
from tokenizer_training.dataset.encode import encode_documents
from tokenizer_training.dataset.pack import build_pack, pack_facts
from tokenizer_training.dataset.read import TokenDataset
from tokenizer_training.vocabulary.config import TokenizerConfig
from tokenizer_training.vocabulary.train import train_tokenizer

CONFIG = PackConfig(sequence_length=128, validation=0.1, shard_tokens=20_000, window=50)

MODULES = python_texts(80, size=1500)
LINES = [line for text in MODULES for line in text.split("\n\n")[:2]]
TEXTS = MODULES + NASTY + LINES


def corpus():
    """Documents with repeats (every seventh stands three times) and with clusters of four."""
    count = len(TEXTS)
    repeats = [3 if number % 7 == 0 else None for number in range(count)]
    clusters = [identity(number - number % 4) if number % 3 else None for number in range(count)]
    return rows_of(TEXTS, repeat=repeats, dup_cluster=clusters)


def build(folder, tokenizer, documents, config=CONFIG, shuffle=None):
    """Documents to a finished dataset in `folder`; `shuffle` changes the order of the calls."""
    order = random.Random(shuffle)
    work = folder.with_name(folder.name + "-encoded")
    units = list(enumerate(documents))
    order.shuffle(units)
    encoded = [work / f"{number}.parquet" for number, _ in units]
    for (_, file), to in zip(units, encoded, strict=True):
        encode_documents(file, tokenizer, to, config)
    plan = plan_shards(encoded, config)
    shards = [(split, number) for split in plan["shards"] for number in range(len(plan["shards"][split]))]
    order.shuffle(shards)
    made = {(split, number): build_shard(encoded, plan, split, number, folder) for split, number in shards}
    splits = {split: [made[split, n] for n in range(len(plan["shards"][split]))] for split in plan["shards"]}
    packs = {split: build_pack(folder, split, splits[split], config, plan) for split in splits}
    finish_dataset(folder, plan, splits, {str(config.sequence_length): pack_facts(config, packs)})
    return TokenDataset(folder)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    files = write_documents(tmp_path_factory.mktemp("train"), rows_of(MODULES + NASTY))
    train_tokenizer(files, TokenizerConfig(vocab_size=1200), folder)
    return folder


@pytest.fixture(scope="module")
def dataset(tokenizer, tmp_path_factory):
    base = tmp_path_factory.mktemp("dataset")
    return build(base / "tokens", tokenizer, write_documents(base / "documents", corpus(), parts=3))


def build_rows(tmp_path, tokenizer, rows, **knobs):
    return build(tmp_path / "t", tokenizer, write_documents(tmp_path / "d", rows), CONFIG.model_copy(update=knobs))


def megatron(path):
    """Sequences of an .idx and .bin pair, by the layout's description: a reader of its own."""
    raw = path.with_suffix(".idx").read_bytes()
    assert raw[:9] == b"MMIDIDX\x00\x00"
    version, code, sequences, boundaries = struct.unpack_from("<QBQQ", raw, 9)
    assert version == 1
    at = 9 + 8 + 1 + 8 + 8
    lengths = struct.unpack_from(f"<{sequences}i", raw, at)
    pointers = struct.unpack_from(f"<{sequences}q", raw, at + 4 * sequences)
    documents = struct.unpack_from(f"<{boundaries}q", raw, at + 12 * sequences)
    assert len(raw) == at + 12 * sequences + 8 * boundaries
    assert list(documents) == list(range(sequences + 1))
    size, letter = {8: (2, "H"), 4: (4, "i")}[code]
    payload = path.read_bytes()
    read = [struct.unpack_from(f"<{n}{letter}", payload, p) for p, n in zip(pointers, lengths, strict=True)]
    assert sum(lengths) * size == len(payload)
    return read


def all_documents(dataset, split):
    """(id, tokens with end token) of a split by the Megatron reader and the sidecar."""
    found = []
    for shard in dataset.splits[split]:
        sequences = megatron(dataset.path / shard["file"])
        ids = pq.read_table((dataset.path / shard["file"]).with_suffix(".parquet")).column("id").to_pylist()
        found += zip(ids, sequences, strict=True)
    return found
