"""The token dataset: its files as other tools read them, its order and its splits."""

import hashlib
import json
import random
import re
import shutil
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

from tests.tokens_corpus import identity, rows_of, write_documents
from tests.tokens_dataset import CONFIG, TEXTS, all_documents, build, build_rows, corpus, megatron
from tokenizer_training.cli import main
from tokenizer_training.dataset.layout import sha256_of
from tokenizer_training.dataset.pack import best_fit
from tokenizer_training.dataset.read import PackedSplit, TokenDataset
from tokenizer_training.dataset.verify import verify
from tokenizer_training.encoding.encoder import Encoder


def test_megatron_reader_gets_every_document_and_its_end(dataset, tokenizer):
    reference = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    texts = {row["id"]: row["text"] for row in corpus()}
    seen = set()
    for split in dataset.splits:
        for name, tokens in all_documents(dataset, split):
            assert tokens[-1] == 0 and 0 not in tokens[:-1]
            assert reference.decode(list(tokens[:-1]), skip_special_tokens=False) == texts[name]
            seen.add(name)
    assert seen == set(texts)


def test_numpy_memmap_reads_the_same_stream(dataset, tokenizer):
    encoder = Encoder(tokenizer)
    for split, shards in dataset.splits.items():
        streams = [np.memmap(dataset.path / shard["file"], dtype=np.uint16, mode="r") for shard in shards]
        stream = np.concatenate(streams)
        assert len(stream) == dataset.tokens(split) == sum(shard["tokens"] for shard in shards)
        texts = [encoder.decode(part) for part in np.split(stream, np.flatnonzero(stream == 0) + 1)[:-1]]
        assert all(text.endswith("<|endoftext|>") for text in texts)
        sizes = sum(len(text.removesuffix("<|endoftext|>").encode()) for text in texts)
        assert len(texts) == dataset.documents(split) and sizes == dataset.bytes(split)


def test_dataset_json_says_what_is_there(dataset, tokenizer):
    facts = json.loads((dataset.path / "dataset.json").read_text())
    assert (facts["format"], facts["dtype"], facts["vocab_size"], facts["eos_id"]) == (1, "uint16", 1200, 0)
    assert facts["special_ids"]["<|end|>"] == 5 and len(facts["special_ids"]) == 70
    assert facts["tokenizer_sha256"] == hashlib.sha256((tokenizer / "tokenizer.json").read_bytes()).hexdigest()
    assert list(facts["splits"]) == ["train", "validation"]
    named = {"dataset.json", "train.pack-128.parquet", "validation.pack-128.parquet"}
    for split, shards in facts["splits"].items():
        for number, shard in enumerate(shards):
            assert shard["file"] == f"{split}-{number:05d}.bin" and shard["tokens"] > 0
            assert shard["tokens"] <= CONFIG.shard_tokens
            path = dataset.path / shard["file"]
            assert hashlib.sha256(path.read_bytes()).hexdigest() == shard["sha256"]
            assert hashlib.sha256(path.with_suffix(".idx").read_bytes()).hexdigest() == shard["idx_sha256"]
            named |= {path.with_suffix(suffix).name for suffix in (".bin", ".idx", ".parquet")}
    assert len(facts["splits"]["train"]) > 3
    assert {file.name for file in dataset.path.iterdir()} == named
    assert verify(dataset.path) == []


def test_sidecar_columns_and_types(dataset):
    table = pq.read_table(dataset.path / "train-00001.parquet")
    assert {field.name: str(field.type) for field in table.schema} == {
        "id": "string",
        "token_offset": "int64",
        "token_length": "int64",
        "source": "string",
        "repeat": "int32",
    }
    lengths = [len(tokens) - 1 for tokens in megatron(dataset.path / "train-00001.bin")]
    assert table.column("token_length").to_pylist() == lengths
    assert table.column("token_offset").to_pylist() == [sum(lengths[:n]) + n for n in range(len(lengths))]
    sources = {row["id"]: row["source"] for row in corpus()}
    assert table.column("source").to_pylist() == [sources[name] for name in table.column("id").to_pylist()]
    index = pq.read_table(dataset.path / "train.pack-128.parquet")
    assert [str(t) for t in index.schema.types] == ["int64", "int64", "int64", "int32"]


def test_validation_shares_no_cluster_with_train_and_stands_once(dataset):
    rows = {row["id"]: row for row in corpus()}
    names = {split: [name for name, _ in all_documents(dataset, split)] for split in dataset.splits}
    clusters = {split: {rows[n]["dup_cluster"] or n for n in ids} for split, ids in names.items()}
    assert not clusters["train"] & clusters["validation"]
    assert len(set(names["validation"])) == len(names["validation"])
    assert 0.04 < len(clusters["validation"]) / len(clusters["train"] | clusters["validation"]) < 0.18
    counts = Counter(names["train"])
    assert all(counts[n] == (rows[n]["repeat"] or 1) for n in counts)
    assert any(rows[n]["repeat"] == 3 for n in names["validation"])  # so the rule above was put to the test
    for split, ids in names.items():
        repeats = []
        for shard in dataset.splits[split]:
            sidecar = (dataset.path / shard["file"]).with_suffix(".parquet")
            repeats += pq.read_table(sidecar).column("repeat").to_pylist()
        assert repeats == [counts[n] if split == "train" else 1 for n in ids]


def test_bytes_depend_on_the_documents_only(dataset, tokenizer, tmp_path):
    rows = corpus()
    random.Random(5).shuffle(rows)
    for number, parts in enumerate((1, 5)):
        documents = write_documents(tmp_path / f"d{number}", rows, parts)
        other = build(tmp_path / f"t{number}", tokenizer, documents[::-1], shuffle=number)
        for file in dataset.path.iterdir():
            if file.name != "dataset.json":
                assert file.read_bytes() == (other.path / file.name).read_bytes(), file.name
        ours, theirs = ({**d.facts, "sources": 0, "checksum": 0} for d in (dataset, other))
        assert ours == theirs and [s["file"] for s in other.facts["sources"]] == [d.name for d in documents]
        assert [s["sha256"] for s in other.facts["sources"]] == [sha256_of(d) for d in documents]
        assert len(list(other.path.iterdir())) == len(list(dataset.path.iterdir()))


def test_seed_changes_the_order_and_not_the_split(dataset, tokenizer, tmp_path):
    other = build(
        tmp_path / "t", tokenizer, write_documents(tmp_path / "d", corpus()), CONFIG.model_copy(update={"seed": 1})
    )
    for split in ("train", "validation"):
        before, after = ([name for name, _ in all_documents(d, split)] for d in (dataset, other))
        assert before != after and sorted(before) == sorted(after)


def test_order_is_shuffled(dataset):
    places = {identity(number): number for number in range(len(TEXTS))}
    order = [places[name] for name, _ in all_documents(dataset, "train")]
    assert abs(np.corrcoef(np.arange(len(order)), order)[0, 1]) < 0.15


@pytest.mark.parametrize("strategy", ["best_fit", "concat"])
@pytest.mark.parametrize("length", [32, 128, 100_000])
def test_every_token_is_in_one_row_and_sums_are_exact(dataset, tmp_path, strategy, length):
    folder = tmp_path / "tokens"
    shutil.copytree(dataset.path, folder)
    arguments = ["pack", str(folder), "--sequence-length", str(length), "--strategy", strategy]
    assert main(arguments) == 0
    copy = TokenDataset(folder)
    for split, shards in copy.splits.items():
        sums = copy.facts["pack"][str(length)]["splits"][split]
        packed = PackedSplit(folder, split, length)
        assert len(packed) == sums["rows"] > 0
        found, ids_of_rows = Counter(), Counter()
        kept = 0
        for number in range(len(packed)):
            tokens, documents = packed.row(number)
            assert tokens.dtype == np.int64 and documents.dtype == np.int32
            assert tokens.shape == documents.shape == (length,)
            real = int((documents >= 0).sum())
            assert (documents[real:] == -1).all() and (tokens[real:] == 0).all() and (documents[:real] >= 0).all()
            assert set(np.diff(documents[:real]).tolist()) <= {0, 1} and documents[0] == 0
            assert ((tokens[: real - 1] != 0) | (np.diff(documents[:real]) == 1)).all()
            pieces = copy.documents_in_row(packed, number)
            assert [len(list(g)) for g in np.split(tokens[:real], np.flatnonzero(np.diff(documents[:real])) + 1)] == [
                piece.length for piece in pieces
            ]
            for piece in pieces:
                found[piece.shard, piece.token_offset, piece.length] += 1
                ids_of_rows.update({piece.id} if piece.document_offset == 0 else set())
            kept += real
        assert max(found.values()) == 1
        covered = sorted(found)
        for shard, facts in enumerate(shards):
            spans = [(offset, size) for which, offset, size in covered if which == shard]
            assert [offset for offset, _ in spans] == np.cumsum([0] + [size for _, size in spans])[:-1].tolist()
            assert sum(size for _, size in spans) == facts["tokens"]
        assert ids_of_rows == Counter(name for name, _ in all_documents(copy, split))
        assert sums["tokens_in"] == sums["tokens_kept"] == kept == copy.tokens(split) and sums["tokens_dropped"] == 0
        assert sums["tokens_padded"] == len(packed) * length - kept
        lengths = [len(tokens) for _, tokens in all_documents(copy, split)]
        assert sums["documents_longer_than_row"] == sum(size > length for size in lengths)
        if strategy == "best_fit":
            assert sums["documents_cut"] == sums["documents_longer_than_row"]
        else:
            ends = np.cumsum(lengths)
            crossing = [(end - 1) // length != (end - size) // length for end, size in zip(ends, lengths, strict=True)]
            assert sums["documents_cut"] == sum(crossing) and len(packed) == -(-kept // length)
    assert verify(folder) == []


def test_best_fit_decreasing_against_a_slow_reference():
    generator = random.Random(7)
    for _ in range(60):
        capacity = generator.choice([7, 64, 200])
        lengths = [generator.randint(1, capacity) for _ in range(generator.randint(1, 80))]
        rows = best_fit(lengths, capacity)
        assert sorted(item for row in rows for item in row) == list(range(len(lengths)))
        spaces = []
        for length in sorted(lengths, reverse=True):
            tightest = min((space for space in spaces if space >= length), default=None)
            if tightest is None:
                spaces.append(capacity - length)
            else:
                spaces[spaces.index(tightest)] = tightest - length
        assert sorted(capacity - sum(lengths[item] for item in row) for row in rows) == sorted(spaces)


def test_best_fit_rows_are_not_in_the_order_of_their_lengths(dataset):
    packed = dataset.packed("train", 128)
    counts = [len(packed.spans(row)) for row in range(len(packed))]
    assert abs(np.corrcoef(np.arange(len(counts)), counts)[0, 1]) < 0.2


def test_from_document_to_rows_and_back(dataset, tokenizer):
    encoder = Encoder(tokenizer)
    packed = dataset.packed("train", 128)
    name = next(n for n, c in Counter(n for n, _ in all_documents(dataset, "train")).items() if c == 3)
    text = next(row["text"] for row in corpus() if row["id"] == name)
    assert dataset.document(name).tolist() == encoder.encode(text).tolist()
    assert len(dataset.find(name)) == 3
    pieces = dataset.rows_of_document(packed, name)
    rebuilt = Counter()
    for piece in pieces:
        tokens, _ = packed.row(piece.row)
        rebuilt[piece.document_offset, tuple(tokens[piece.row_offset : piece.row_offset + piece.length])] += 1
    assert set(rebuilt.values()) == {3}
    whole = [token for _, tokens in sorted(rebuilt) for token in tokens]
    assert whole == [*encoder.encode(text).tolist(), 0]
    with pytest.raises(KeyError):
        dataset.document("nobody")
    tokens, documents = packed.rows(np.array([3, 0]))
    assert np.array_equal(tokens[0], packed.row(3)[0]) and np.array_equal(documents[1], packed.row(0)[1])


def test_validation_has_a_document_if_there_are_two_clusters(tmp_path, tokenizer):
    rows = rows_of(["one", "two", "three"], dup_cluster=["a", "a", "b"])
    dataset = build_rows(tmp_path, tokenizer, rows, validation=1e-9)
    assert dataset.documents("validation") in (1, 2) and dataset.documents("train") in (1, 2)
    smallest = min("ab", key=lambda c: hashlib.sha256(b"cluster\0" + c.encode()).digest())
    held_out = {name for name, _ in all_documents(dataset, "validation")}
    assert held_out == {row["id"] for row in rows if row["dup_cluster"] == smallest}


@pytest.mark.parametrize(("clusters", "validation"), [(["a", "a"], 0.5), (["a", "b"], 0.0)])
def test_no_validation_where_there_can_be_none(tmp_path, tokenizer, clusters, validation):
    dataset = build_rows(tmp_path, tokenizer, rows_of(["one", "two"], dup_cluster=clusters), validation=validation)
    assert dataset.documents("train") == 2 and dataset.splits["validation"] == []
    assert len(dataset.packed("validation", 128)) == 0
    assert not list(dataset.path.glob("validation*")) and verify(dataset.path) == []


def test_train_is_never_empty(tmp_path, tokenizer):
    for number in range(8):
        rows = rows_of(["one", "two"], dup_cluster=[f"a{number}", f"b{number}"])
        dataset = build_rows(tmp_path / str(number), tokenizer, rows, validation=0.5)
        assert dataset.documents("train") == dataset.documents("validation") == 1


def test_a_row_is_shown_in_colour_with_urls_and_scores(tmp_path, tokenizer, capsys):
    urls = [f"https://example.org/{number}" for number in range(len(TEXTS))]
    rows = rows_of(TEXTS, url=urls, quality=[f"{number / 7:.3f}" for number in range(len(TEXTS))])
    files = write_documents(tmp_path / "documents", rows, 2)
    dataset = build(tmp_path / "tokens", tokenizer, files)
    encoder = Encoder(tokenizer)
    packed = dataset.packed("train", 128)
    known = {row["id"]: row for row in rows}
    arguments = ["inspect", str(dataset.path), "--tokenizer", str(tokenizer), "--row"]
    for row in range(8):
        assert main([*arguments, str(row), "--color", "always"]) == 0
        coloured = capsys.readouterr().out
        assert main([*arguments, str(row)]) == 0
        plain = capsys.readouterr().out
        for piece in dataset.documents_in_row(packed, row):
            assert f"url {known[piece.id]['url']}, quality {known[piece.id]['quality']}" in plain
            tokens = packed.row(row)[0][piece.row_offset : piece.row_offset + piece.length - piece.ends]
            assert encoder.decode(tokens) in plain
        # without its colours and marks of line ends the text is the same, but for characters that a row's end cuts
        bare = re.sub("\x1b\\[[0-9;]*m", "", coloured).replace("\u21b5\n", "\n")
        assert bare.replace("\ufffd", "") == plain.replace("\ufffd", "")
        assert coloured.count("\x1b[30;48;5;") >= int((packed.row(row)[1] >= 0).sum()) * 0.8
    assert main([*arguments, "0", "--documents", str(tmp_path / "nowhere")]) == 0
    assert ", url " not in capsys.readouterr().out
