"""The token dataset: its files as other tools read them, its order, its splits, and faults found."""

import hashlib
import json
import random
import shutil
import struct
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

from tests.tokens_corpus import ARTICLES, NASTY, identity, python_texts, rows_of, write_documents
from tokenizer_training.build import begin_dataset, build_shard, build_split, finish_dataset, plan_shards
from tokenizer_training.cli import main
from tokenizer_training.config import PackConfig, TokenizerConfig, TokenizerError
from tokenizer_training.encode import encode_documents
from tokenizer_training.encoder import Encoder
from tokenizer_training.layout import dtype_of, sha256_of
from tokenizer_training.pack import best_fit, build_pack, pack_facts
from tokenizer_training.read import PackedSplit, TokenDataset
from tokenizer_training.train import train_tokenizer
from tokenizer_training.verify import verify

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
    packs = {split: build_pack(folder, split, splits[split], config) for split in splits}
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
            assert file.read_bytes() == (other.path / file.name).read_bytes(), file.name
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


def build_rows(tmp_path, tokenizer, rows, **knobs):
    return build(tmp_path / "t", tokenizer, write_documents(tmp_path / "d", rows), CONFIG.model_copy(update=knobs))


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


@pytest.mark.parametrize("repeat", [0, -1, 10_001])
def test_wrong_repeats_are_refused(tmp_path, tokenizer, repeat):
    with pytest.raises(TokenizerError, match=rf"part-00000.parquet: row 1 has repeat {repeat}; expected 1"):
        build_rows(tmp_path, tokenizer, rows_of(["one", "two"], repeat=[1, repeat]))


def test_wrong_documents_are_refused(tmp_path, tokenizer):
    rows = rows_of(["one", "two"])
    rows[1]["id"] = None
    with pytest.raises(TokenizerError, match="row 1 has no id"):
        build_rows(tmp_path, tokenizer, rows)
    rows[1]["id"] = rows[0]["id"]
    with pytest.raises(TokenizerError, match="two documents have the id"):
        build_rows(tmp_path, tokenizer, rows, validation=0.0)
    pq.write_table(pa.table({"id": ["a"], "text": ["x"]}).slice(0, 0), tmp_path / "empty.parquet")
    with pytest.raises(TokenizerError, match="no document"):
        build(tmp_path / "e", tokenizer, [tmp_path / "empty.parquet"])
    pq.write_table(pa.table({"id": ["a"], "text": ["x"], "repeat": ["2"]}), tmp_path / "d.parquet")
    with pytest.raises(TokenizerError, match="column repeat is string; expected int32"):
        encode_documents(tmp_path / "d.parquet", tokenizer, tmp_path / "e.parquet", CONFIG)
    assert not (tmp_path / "e.parquet").exists()


def test_documents_with_id_and_text_only_and_an_empty_part(tmp_path, tokenizer):
    pq.write_table(pa.table({"id": ["a", "b"], "text": ["x", None]}), tmp_path / "one.parquet")
    pq.write_table(pa.table({"id": ["a"], "text": ["x"]}).slice(0, 0), tmp_path / "none.parquet")
    dataset = build(tmp_path / "t", tokenizer, [tmp_path / "none.parquet", tmp_path / "one.parquet"])
    found = dict(all_documents(dataset, "train") + all_documents(dataset, "validation"))
    assert found["b"] == (0,) and len(found["a"]) == 2


def test_encoded_files_must_fit_together(tmp_path, tokenizer):
    documents = write_documents(tmp_path / "d", rows_of(["one", "two"]), parts=2)
    encode_documents(documents[0], tokenizer, tmp_path / "0.parquet", CONFIG)
    encode_documents(documents[1], tokenizer, tmp_path / "1.parquet", CONFIG.model_copy(update={"seed": 9}))
    with pytest.raises(TokenizerError, match=r"1.parquet: seed differs"):
        plan_shards([tmp_path / "0.parquet", tmp_path / "1.parquet"], CONFIG)
    with pytest.raises(TokenizerError, match="encoded with seed 9"):
        plan_shards([tmp_path / "1.parquet"], CONFIG)
    with pytest.raises(TokenizerError, match="no column key, tokens"):
        plan_shards(documents, CONFIG)


def test_a_new_build_replaces_an_old_one(dataset, tokenizer, tmp_path):
    folder = tmp_path / "tokens"
    shutil.copytree(dataset.path, folder)
    (folder / "notes.txt").write_text("mine")
    begin_dataset(folder)
    with pytest.raises(TokenizerError, match="not a finished token dataset"):
        TokenDataset(folder)
    documents = write_documents(tmp_path / "d", rows_of(MODULES[:5]))
    build(folder, tokenizer, documents)
    assert verify(folder) == []
    assert len(list(folder.glob("train-*.bin"))) == 1 and (folder / "notes.txt").read_text() == "mine"


def test_build_split_is_plan_and_shards(dataset, tokenizer, tmp_path):
    encoded = tmp_path / "e.parquet"
    encode_documents(write_documents(tmp_path / "d", corpus())[0], tokenizer, encoded, CONFIG)
    assert build_split([encoded], "train", tmp_path / "t", CONFIG) == dataset.splits["train"]


def test_large_vocabularies_take_32_bits(tmp_path, tokenizer):
    assert (dtype_of(65_499), dtype_of(65_500)) == ("uint16", "int32")
    content = json.loads((tokenizer / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    for number in range(len(vocabulary), 65_600):
        vocabulary[f"filler{number}"] = number
    wide = tmp_path / "wide"
    wide.mkdir()
    (wide / "tokenizer.json").write_text(json.dumps(content))
    dataset = build_rows(tmp_path, wide, rows_of(list(ARTICLES.values())), validation=0.3)
    assert dataset.facts["dtype"] == "int32" and verify(dataset.path) == []
    narrow = Encoder(tokenizer)
    for number, text in enumerate(ARTICLES.values()):
        name = identity(number)
        assert dict(all_documents(dataset, "train") + all_documents(dataset, "validation"))[name] == (
            *narrow.encode(text).tolist(),
            0,
        )
        assert dataset.document(name).tolist() == narrow.encode(text).tolist()


FILES = ["train-00001.bin", "train-00000.idx", "train-00002.parquet", "validation-00000.bin", "train.pack-128.parquet"]


@pytest.mark.parametrize("name", FILES)
def test_verify_finds_one_flipped_bit(dataset, tmp_path, name):
    folder = tmp_path / "tokens"
    shutil.copytree(dataset.path, folder)
    generator = random.Random(11)
    raw = (folder / name).read_bytes()
    for _ in range(6):
        changed = bytearray(raw)
        changed[generator.randrange(len(raw))] ^= 1 << generator.randrange(8)
        (folder / name).write_bytes(changed)
        assert any(name in fault for fault in verify(folder))
    (folder / name).write_bytes(raw[:-2])
    assert any(name in fault for fault in verify(folder))
    (folder / name).unlink()
    assert f"{name}: missing" in verify(folder)
    (folder / name).write_bytes(raw)
    assert verify(folder) == []


def test_verify_finds_contradictions_that_checksums_cannot(dataset, tmp_path):
    def faults(change):
        folder = tmp_path / change.__name__
        shutil.copytree(dataset.path, folder)
        change(folder)
        facts = json.loads((folder / "dataset.json").read_text())
        for shards in facts["splits"].values():
            for shard in shards:
                file = folder / shard["file"]
                shard["sha256"], shard["idx_sha256"] = sha256_of(file), sha256_of(file.with_suffix(".idx"))
                shard["sidecar_sha256"] = sha256_of(file.with_suffix(".parquet"))
        for sums in facts["pack"]["128"]["splits"].values():
            sums["sha256"] = sha256_of(folder / sums["file"])
        (folder / "dataset.json").write_text(json.dumps(facts))
        return " ".join(verify(folder))

    def tokens(folder, value, at):
        stream = np.memmap(folder / "train-00000.bin", np.uint16, "r+")
        stream[at] = value
        stream.flush()

    def end_token_in_text(folder):
        tokens(folder, 0, 3)

    def special_in_text(folder):
        tokens(folder, 5, 3)

    def beyond_vocabulary(folder):
        tokens(folder, 1200, 3)

    def leaked(folder):
        table = pq.read_table(folder / "train-00000.parquet")
        other = pq.read_table(folder / "validation-00000.parquet").column("id")[0].as_py()
        ids = pa.array([other, *table.column("id").to_pylist()[1:]])
        pq.write_table(table.set_column(0, table.schema.field(0), ids), folder / "train-00000.parquet")

    def span_twice(folder):
        table = pq.read_table(folder / "train.pack-128.parquet")
        pq.write_table(pa.concat_tables([table.slice(0, 1), table.slice(0, 1), table.slice(2)]), folder / "p")
        (folder / "p").rename(folder / "train.pack-128.parquet")

    assert "end tokens do not stand" in faults(end_token_in_text)
    assert "a special token other than the end token" in faults(special_in_text)
    assert "outside the vocabulary of 1200" in faults(beyond_vocabulary)
    assert "1 validation documents are in train" in faults(leaked)
    assert "cover every token" in faults(span_twice)


def test_newer_formats_and_missing_packs_are_refused(dataset, tmp_path):
    with pytest.raises(TokenizerError, match=r"not packed for sequence length 64 \(packed: 128\)"):
        PackedSplit(dataset.path, "train", 64)
    with pytest.raises(TokenizerError, match="no split 'test'; it has train, validation"):
        PackedSplit(dataset.path, "test", 128)
    for content, message in (
        ('{"format": 2}', "format 2 is newer"),
        ("[]", "no integer `format`"),
        ("{", "broken JSON"),
    ):
        (tmp_path / "dataset.json").write_text(content)
        with pytest.raises(TokenizerError, match=message):
            TokenDataset(tmp_path)


def test_command_line_end_to_end(tmp_path, capsys):
    documents = write_documents(tmp_path / "documents", corpus(), parts=3)
    tokenizer, tokens = tmp_path / "tokenizer", tmp_path / "tokens"

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    assert run("train", tmp_path / "documents", "--vocab-size", 600, "--output", tokenizer)[0] == 0
    assert run("evaluate", tokenizer, *documents, "--max-bytes", 50_000)[0] == 0
    assert (tokenizer / "report.html").is_file()
    encode = ("encode", tokenizer, documents[1], documents[0], documents[2], "--output", tokens)
    code, out, _ = run(*encode, "--workers", 2, "--validation", 0.1, "--shard-tokens", 30_000)
    assert code == 0 and "train: " in out and sorted(path.name for path in tokens.glob("encoded*")) == []
    assert run("inspect", tokens) == (
        2,
        "",
        f"error: {tokens}: not packed yet; run: python -m tokenizer_training pack {tokens}\n",
    )
    assert run("pack", tokens, "--sequence-length", 64)[0] == 0
    assert run("verify", tokens)[0] == 0
    dataset = TokenDataset(tokens)
    piece = dataset.documents_in_row(dataset.packed("train", 64), 2)[0]
    code, out, _ = run("inspect", tokens, "--row", 2)
    text = next(row["text"] for row in corpus() if row["id"] == piece.id)
    assert code == 0 and piece.id in out and out.split("\n", 2)[2].strip()[:20] in text
    code, out, _ = run("inspect", tokens, "--document", piece.id)
    assert code == 0 and "train row 2 at 0" in out and out.endswith(text + "\n")
    assert run("inspect", tokens, "--row", 10**6)[0] == 2
    raw = bytearray((tokens / "train-00000.bin").read_bytes())
    raw[100] ^= 1
    (tokens / "train-00000.bin").write_bytes(raw)
    code, out, _ = run("verify", tokens)
    assert code == 1 and "train-00000.bin" in out
    for wrong, message in (
        (("train", documents[0], "--vocab-size", 300, "--output", tokenizer), "--vocab-size 300"),
        (("encode", tmp_path, documents[0], "--output", tokens), "tokenizer.json: no such file"),
        (("encode", tokenizer, tmp_path / "x", "--output", tokens), "no such file or folder"),
        (("pack", tmp_path), "no dataset.json"),
        (("pack", tokens, "--strategy", "random"), "--strategy random"),
    ):
        code, _, error = run(*wrong)
        assert code == 2 and message in error
