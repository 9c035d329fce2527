"""Every format read back by a reader written from its description, loss masks, and what is refused."""

import contextlib
import csv
import gzip
import json
import shutil
import struct
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

from tests.test_tokens_faults import wide_tokenizer
from tests.tokens_chat import chat_dataset, conversations, write_chat
from tests.tokens_corpus import ARTICLES, rows_of
from tests.tokens_dataset import all_documents, build, build_rows, megatron
from tokenizer_training.cli import main
from tokenizer_training.config import TokenizerError
from tokenizer_training.dataset.formats import FORMATS, convert
from tokenizer_training.dataset.layout import mask_bits
from tokenizer_training.dataset.verify import verify
from tokenizer_training.vocabulary.special import ROLES


@pytest.fixture(scope="module")
def chat(tokenizer, tmp_path_factory):
    return chat_dataset(tmp_path_factory.mktemp("chat"), tokenizer)


def shards(dataset, split="train"):
    """(stem, tokens, [(id, source, length with end token)]) of each shard."""
    for entry in dataset.splits[split]:
        table = pq.read_table((dataset.path / entry["file"]).with_suffix(".parquet")).to_pylist()
        tokens = np.fromfile(dataset.path / entry["file"], dataset.dtype)
        yield entry["file"][:-4], tokens, [(r["id"], r["source"], r["token_length"] + 1) for r in table]


def masks(dataset, split="train"):
    for entry in dataset.splits[split]:
        yield mask_bits((dataset.path / entry["file"]).with_suffix(".mask"), 0, entry["tokens"])


def test_megatron(dataset, tmp_path):
    convert(dataset.path, "megatron", tmp_path)
    for name, tokens, documents in shards(dataset):
        read = megatron(tmp_path / f"{name}.bin")
        assert [len(one) for one in read] == [length for *_, length in documents]
        assert np.array_equal(np.concatenate(read), tokens)
        assert (tmp_path / f"{name}.bin").stat().st_ino == (dataset.path / f"{name}.bin").stat().st_ino


def test_nanogpt(dataset, tmp_path):
    files = convert(dataset.path, "nanogpt", tmp_path, "copy")
    assert [file.name for file in files] == ["train.bin", "val.bin"]
    for name, split in (("train", "train"), ("val", "validation")):
        stream = np.memmap(tmp_path / f"{name}.bin", np.uint16, "r")
        assert np.array_equal(stream, np.concatenate([tokens for _, tokens, _ in shards(dataset, split)]))


def test_olmo(dataset, chat, tmp_path):
    for which, folder in ((dataset, tmp_path / "a"), (chat, tmp_path / "b")):
        convert(which.path, "olmo", folder, "symbolic")
        for name, tokens, documents in shards(which):
            assert (folder / f"{name}.npy").is_symlink()
            read = np.memmap(folder / f"{name}.npy", np.uint16, "r")
            with gzip.open(folder / f"{name}.csv.gz", "rt", newline="") as text:
                lines = list(csv.reader(text))
            assert [(line[2], line[3], int(line[1]) - int(line[0])) for line in lines] == documents
            assert all(read[int(line[1]) - 1] == 0 for line in lines) and np.array_equal(read, tokens)
            assert [int(line[4]) for line in lines] == list(range(len(lines)))
    for (name, _, _), mask in zip(shards(chat), masks(chat), strict=True):
        assert np.array_equal(np.memmap(tmp_path / "b" / f"{name}.label_mask.npy", bool, "r"), mask)


def test_datatrove(dataset, chat, tmp_path):
    for which, folder in ((dataset, tmp_path / "a"), (chat, tmp_path / "b")):
        convert(which.path, "datatrove", folder)
        for name, tokens, documents in shards(which):
            raw = (folder / f"{name}.ds.index").read_bytes()
            ends = struct.unpack(f"<{len(raw) // 8}Q", raw)
            assert list(ends) == np.cumsum([length for *_, length in documents]).tolist()
            assert np.array_equal(np.fromfile(folder / f"{name}.ds", "<u2"), tokens)
            about = (folder / f"{name}.ds.metadata").read_text().split("\n")
            assert about[0].endswith("|2") and int(about[1]) == len(tokens) and len(about) == 3
    for (name, _, _), mask in zip(shards(chat), masks(chat), strict=True):
        assert (tmp_path / "b" / f"{name}.ds.loss").read_bytes() == mask.astype(np.uint8).tobytes()


def test_llmc(dataset, tmp_path, monkeypatch):
    from tokenizer_training.dataset.formats import payload

    convert(dataset.path, "llmc", tmp_path / "a")
    monkeypatch.setattr(payload, "LLMC_BYTES", 1024 + 2 * 5000)  # so that shards are cut
    convert(dataset.path, "llmc", tmp_path / "b")
    assert len(list((tmp_path / "b").iterdir())) > len(list((tmp_path / "a").iterdir()))
    for folder in ("a", "b"):
        read = []
        for file in sorted((tmp_path / folder).glob("tokens_train_*.bin")):
            raw = file.read_bytes()
            magic, version, count = struct.unpack_from("<3i", raw)
            assert (magic, version, len(raw)) == (20240520, 1, 1024 + 2 * count) and not any(raw[12:1024])
            tokens = np.frombuffer(raw, "<u2", offset=1024)
            assert (tokens[0] == 0 and tokens[-1] != 0) or count < 3
            read.append(tokens)
        whole = np.concatenate([tokens for _, tokens, _ in shards(dataset)])
        assert np.array_equal(np.concatenate([*read, [0]])[1:], whole), "the end token before instead of behind"


def read_mds(folder):
    index = json.loads((folder / "index.json").read_text())
    assert index["version"] == 2
    for shard in index["shards"]:
        raw = (folder / shard["raw_data"]["basename"]).read_bytes()
        assert len(raw) == shard["raw_data"]["bytes"] and shard["format"] == "mds"
        (count,) = struct.unpack_from("<I", raw)
        offsets = struct.unpack_from(f"<{count + 1}I", raw, 4)
        about = json.loads(raw[4 + 4 * (count + 1) : offsets[0]])
        assert count == shard["samples"] and about["column_names"] == sorted(about["column_names"])
        for start, stop in pairwise(offsets):
            sample = raw[start:stop]
            names = about["column_names"]
            sizes = struct.unpack_from(f"<{len(names)}I", sample)
            at, values = 4 * len(names), {}
            for name, kind, size in zip(names, about["column_encodings"], sizes, strict=True):
                body = sample[at : at + size]
                at += size
                if kind == "str":
                    values[name] = body.decode()
                else:
                    shape = np.dtype(f"uint{8 << (body[0] & 3)}")
                    assert body[0] >> 2 == 1
                    (length,) = np.frombuffer(body[1:], shape, 1)
                    values[name] = np.frombuffer(body[1 + shape.itemsize :], kind.removeprefix("ndarray:"))
                    assert len(values[name]) == length
            assert at == len(sample)
            yield values


def test_mds(dataset, chat, tmp_path, monkeypatch):
    from tokenizer_training.dataset.formats import chunks

    monkeypatch.setattr(chunks, "CHUNK_BYTES", 20_000)
    for which, folder in ((dataset, tmp_path / "a"), (chat, tmp_path / "b")):
        convert(which.path, "mds", folder)
        for split in which.splits:
            read = list(read_mds(folder / split))
            assert [(s["id"], tuple(s["tokens"].tolist())) for s in read] == [
                (name, tuple(map(int, tokens))) for name, tokens in all_documents(which, split)
            ]
        assert len(list((folder / "train").glob("*.mds"))) > 1
    found = np.concatenate([s["mask"] for s in read_mds(tmp_path / "b" / "train")])
    assert np.array_equal(found, np.concatenate(list(masks(chat))))


def test_litdata(dataset, tmp_path, monkeypatch):
    from tokenizer_training.dataset.formats import chunks

    monkeypatch.setattr(chunks, "CHUNK_BYTES", 20_000)
    convert(dataset.path, "litdata", tmp_path)
    index = json.loads((tmp_path / "train/index.json").read_text())
    assert index["config"]["data_format"] == ["no_header_tensor:20"] and len(index["chunks"]) > 4
    read = []
    for chunk in index["chunks"]:
        raw = (tmp_path / "train" / chunk["filename"]).read_bytes()
        (count,) = struct.unpack_from("<I", raw)
        offsets = struct.unpack_from(f"<{count + 1}I", raw, 4)
        assert (count, len(raw), offsets[0]) == (chunk["chunk_size"], chunk["chunk_bytes"], 4 * (count + 2))
        items = [tuple(np.frombuffer(raw[a:b], "<u2").tolist()) for a, b in pairwise(offsets)]
        assert sum(map(len, items)) == chunk["dim"]
        read += items
    assert read == [tuple(map(int, tokens)) for _, tokens in all_documents(dataset, "train")]


def test_wide_tokens(tokenizer, tmp_path):
    wide = wide_tokenizer(tokenizer, tmp_path)
    dataset = build_rows(tmp_path, wide, rows_of(list(ARTICLES.values())), validation=0.3)
    with pytest.raises(TokenizerError, match="nanoGPT reads uint16 and a vocabulary of 65600"):
        convert(dataset.path, "nanogpt", tmp_path / "n")
    assert not (tmp_path / "n").exists() or not list((tmp_path / "n").iterdir())
    for name in ("megatron", "olmo", "datatrove", "mds", "litdata", "llmc"):
        assert convert(dataset.path, name, tmp_path / name)
    assert [tuple(s["tokens"].tolist()) for s in read_mds(tmp_path / "mds/train")] == [
        tokens for _, tokens in all_documents(dataset, "train")
    ]
    raw = next((tmp_path / "llmc").glob("tokens_train*")).read_bytes()
    assert struct.unpack_from("<2i", raw) == (20240801, 7)
    assert (tmp_path / "datatrove/train-00000.ds.metadata").read_text().split("\n")[0].endswith("|4")


def test_conversations_become_ids_and_masks_as_the_chat_template_says(chat, tokenizer):
    """Against a plain rendering: the template's text cut at its special tokens, each part encoded by itself."""
    plain = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    plain.encode_special_tokens = True
    special = chat.facts["special_ids"]
    rows = {row["id"]: row["messages"] for row in conversations()}
    seen = 0
    for split in chat.splits:
        for (_, tokens, documents), mask in zip(shards(chat, split), masks(chat, split), strict=True):
            start = 0
            for name, source, length in documents:
                ids, bits = [], []
                for message in rows[name]:
                    text = plain.encode(message["content"]).ids
                    answer = message["role"] == "assistant"
                    ids += [special[ROLES[message["role"]]], *text, special["<|end|>"]]
                    bits += [False, *[answer] * (len(text) + 1)]
                assert tokens[start : start + length].tolist() == [*ids, 0]
                assert mask[start : start + length].tolist() == [*bits, False] and any(bits)
                start, seen = start + length, seen + 1
                assert source in ("talk0", "talk1")
    answered = sum(any(message["role"] == "assistant" for message in messages) for messages in rows.values())
    assert seen == answered and chat.facts["without_target"] == len(rows) - answered == 5
    assert chat.facts["format"] == 3 and chat.facts["kind"] == "chat" and verify(chat.path) == []


def test_wrong_conversations_are_refused(tokenizer, tmp_path):
    rows = conversations(3)
    rows[1]["messages"][0]["role"] = "robot"
    with pytest.raises(TokenizerError, match=f"'{rows[1]['id']}' has the role 'robot'; expected system"):
        chat_dataset(tmp_path, tokenizer, rows)
    pq.write_table(pa.table({"messages": ["x"]}), tmp_path / "wrong.parquet")
    with pytest.raises(TokenizerError, match="messages is string; expected lists of role and content"):
        build(tmp_path / "t", tokenizer, [tmp_path / "wrong.parquet"])
    rows = [{"id": "a", "source": "s", "messages": None}, {"id": "b", "source": "s", "messages": []}]
    with pytest.raises(TokenizerError, match="no document"):
        build(tmp_path / "t", tokenizer, [write_chat(tmp_path / "empty.parquet", rows)])


def test_masks_are_refused_where_there_is_no_place_for_them(chat, tmp_path):
    for name in ("megatron", "nanogpt", "llmc", "litdata"):
        with pytest.raises(TokenizerError, match=f"{name} has no place for the loss mask"):
            convert(chat.path, name, tmp_path / name)
        assert not (tmp_path / name).exists()


def test_command_line_and_full_folders(dataset, tmp_path, capsys):
    assert set(FORMATS) == {"megatron", "nanogpt", "olmo", "datatrove", "llmc", "mds", "litdata"}
    arguments = ["convert", str(dataset.path), "--to", "nanogpt", "--output", str(tmp_path / "out")]
    assert main(arguments) == 0 and "2 files" in capsys.readouterr().out
    assert main(arguments) == 2 and "expected an empty folder" in capsys.readouterr().err
    assert main([*arguments[:3], "zip", *arguments[4:]]) == 2 and "expected one of" in capsys.readouterr().err
    assert main([*arguments, "--link", "soft"]) == 2


def test_verify_finds_a_flipped_bit_in_every_kind_of_file(dataset, chat, tmp_path):
    for which in (dataset, chat):
        folder = tmp_path / which.path.parent.name
        shutil.copytree(which.path, folder)
        kinds = {}
        for file in sorted(folder.iterdir()):
            kinds.setdefault((file.name.partition(".")[2], file.suffix), file)
        assert len(kinds) == (6 if which is chat else 5)
        for file in kinds.values():
            raw = file.read_bytes()
            for place in (0, len(raw) // 3, len(raw) - 2):
                for bit in (0, 5):
                    changed = bytearray(raw)
                    changed[place] ^= 1 << bit
                    file.write_bytes(changed)
                    try:
                        assert any(file.name in fault for fault in verify(folder)), (file.name, place, bit)
                    except TokenizerError as error:
                        assert file.name == "dataset.json" and "dataset.json" in str(error)
            file.write_bytes(raw)
        assert verify(folder) == []


def test_verify_finds_any_flipped_bit_of_dataset_json(dataset, tmp_path):
    folder = tmp_path / "tokens"
    shutil.copytree(dataset.path, folder)
    for file in folder.glob("train-*"):
        file.unlink()  # quicker, and every other fault is another line
    raw = (folder / "dataset.json").read_bytes()
    for place in range(0, len(raw), 97):
        changed = bytearray(raw)
        changed[place] ^= 1 << (place % 8)
        (folder / "dataset.json").write_bytes(changed)
        with contextlib.suppress(TokenizerError, OSError):
            assert any(fault.startswith("dataset.json") for fault in verify(folder)), place
