"""Documents that make no token dataset, files that do not fit together, and damage that `verify` finds."""

import json
import random
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.tokens_corpus import ARTICLES, identity, rows_of, write_documents
from tests.tokens_dataset import CONFIG, MODULES, all_documents, build, build_rows, corpus
from tokenizer_training.cli import main
from tokenizer_training.config import TokenizerError
from tokenizer_training.dataset.build import begin_dataset, plan_shards
from tokenizer_training.dataset.encode import encode_documents
from tokenizer_training.dataset.layout import dtype_of, sha256_of
from tokenizer_training.dataset.read import PackedSplit, TokenDataset
from tokenizer_training.dataset.verify import verify
from tokenizer_training.encoding.encoder import Encoder


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
    with pytest.raises(TokenizerError, match=r"part-00000.parquet: not written by `encode`"):
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


def wide_tokenizer(tokenizer, tmp_path):
    """The same tokenizer with ids that nothing encodes to, beyond 16 bits."""
    content = json.loads((tokenizer / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    for number in range(len(vocabulary), 65_600):
        vocabulary[f"filler{number}"] = number
    wide = tmp_path / "wide"
    wide.mkdir()
    (wide / "tokenizer.json").write_text(json.dumps(content))
    return wide


def test_large_vocabularies_take_32_bits(tmp_path, tokenizer):
    assert (dtype_of(65_499), dtype_of(65_500)) == ("uint16", "int32")
    wide = wide_tokenizer(tokenizer, tmp_path)
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
        ('{"format": 4}', "format 4 is newer"),
        ("[]", "no integer `format`"),
        ("{", "broken JSON"),
    ):
        (tmp_path / "dataset.json").write_text(content)
        with pytest.raises(TokenizerError, match=message):
            TokenDataset(tmp_path)


@pytest.mark.parametrize("cut", [1, 2, None])
def test_a_dataset_that_was_copied_in_part_is_refused_before_it_is_read(dataset, tmp_path, cut):
    folder = tmp_path / "tokens"
    shutil.copytree(dataset.path, folder)
    file = folder / "train-00000.bin"
    size = file.stat().st_size
    if cut is None:
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-cut])
    why = "missing" if cut is None else f"{size - cut:,} bytes instead of {size:,}"
    with pytest.raises(TokenizerError, match=rf"train-00000.bin is {why}: copy the dataset again"):
        PackedSplit(folder, "train", 128)
    with pytest.raises(TokenizerError, match="copy the dataset again"):
        TokenDataset(folder).shard("train", 0)
    assert len(PackedSplit(folder, "validation", 128)) > 0


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
