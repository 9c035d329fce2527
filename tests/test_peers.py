"""Vocabularies of every format, made here: the same small tokenizer must give the same tokens through each."""

from __future__ import annotations

import base64
import json
from itertools import pairwise

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from tests.tokens_corpus import ARTICLES, NASTY, python_texts, rows_of, write_documents
from tokenizer_training.config import TokenizerError
from tokenizer_training.efficiency.peers import distinct_names, open_peer
from tokenizer_training.vocabulary.config import TokenizerConfig
from tokenizer_training.vocabulary.patterns import GPT2, LLAMA3
from tokenizer_training.vocabulary.train import train_tokenizer

TEXTS = [*NASTY, *python_texts(2), "x" * 5000]


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ours")
    files = write_documents(folder / "d", rows_of([*python_texts(30), *ARTICLES.values()]))
    train_tokenizer(files, TokenizerConfig(vocab_size=800), folder / "t")
    return folder / "t"


@pytest.fixture(scope="module")
def ranks(ours):
    """Bytes of the tokens in order, without special ones: the ranks of the same BPE."""
    peer = open_peer(str(ours))
    return [piece for piece in peer.pieces if piece]


def packed(ranks, specials=0):
    lines = [f"! {specials} {' '.join(base64.b64encode(piece).decode() for piece in ranks[:300])}"]
    lines.append(f"! {specials + 300} {' '.join(base64.b64encode(piece).decode() for piece in ranks[300:])}")
    return "\n".join(lines)


def pieces_of(peer, text):
    return [peer.pieces[i] for i in peer.encode(text)]


def test_every_format_gives_the_same_tokens(ours, ranks, tmp_path):
    lines = b"".join(base64.b64encode(piece) + b" %d\n" % rank for rank, piece in enumerate(ranks))
    (tmp_path / "cl100k_small.tiktoken").write_bytes(lines)
    module = {"pat_str": LLAMA3, "special_tokens": {"<|endoftext|>": len(ranks)}, "bpe_ranks": packed(ranks)}
    (tmp_path / "small.js").write_text(f"export default {json.dumps(module)};")
    (tmp_path / "small.cjs").write_text(f"module.exports = {json.dumps(module)};\n")
    tekken = {
        "config": {
            "pattern": LLAMA3,
            "default_vocab_size": len(ranks) + 10,
            "default_num_special_tokens": 10,
        },
        "vocab": [
            {"rank": rank, "token_bytes": base64.b64encode(piece).decode(), "token_str": None}
            for rank, piece in enumerate([*ranks, b"not in the default vocabulary"])
        ],
    }
    (tmp_path / "tekken.json").write_text(json.dumps(tekken))
    (tmp_path / "tokenizer.json").write_bytes((ours / "tokenizer.json").read_bytes())
    own = open_peer(str(ours))
    files = ("cl100k_small.tiktoken", "small.js", "small.cjs", "tekken.json", "tokenizer.json")
    peers = {file: open_peer(str(tmp_path / file)) for file in files}
    assert {file: peer.kind for file, peer in peers.items()} == {
        "cl100k_small.tiktoken": "tiktoken",
        "small.js": "js-tiktoken",
        "small.cjs": "js-tiktoken",
        "tekken.json": "tekken",
        "tokenizer.json": "tokenizers",
    }
    plain = [text for text in TEXTS if text < "\u0300" or text in ARTICLES.values()]
    for peer in peers.values():
        assert peer.byte_exact and not peer.prefix_space() and peer.losses() == []
        for text in plain:
            assert pieces_of(peer, text) == pieces_of(own, text), (peer.kind, text)
            assert peer.decode(peer.encode(text)) == text
    assert len(peers["tekken.json"].specials) == 10 and peers["tekken.json"].vocab_size == len(ranks) + 10
    assert peers["small.js"].vocab_size == len(ranks) + 1
    assert own.sha256 == peers["tokenizer.json"].sha256


def test_batches_keep_the_borders_of_texts(ours, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes((ours / "tokenizer.json").read_bytes())
    for peer in (open_peer(str(ours)), open_peer(str(tmp_path / "tokenizer.json"))):
        tokens, offsets = peer.encode_batch(TEXTS)
        assert [tokens[a:b].tolist() for a, b in pairwise(offsets)] == [peer.encode(text) for text in TEXTS]
        assert peer.encode_batch([])[1].tolist() == [0]
        assert b"".join(peer.pieces[i] for i in tokens) == "".join(TEXTS).encode()
        assert peer.encode("a\udc80b") == peer.encode("a\ufffdb")


def test_special_tokens_are_never_read_out_of_text(ours):
    peer = open_peer(str(ours))
    assert not set(peer.encode("<|endoftext|><|user|>")) & peer.specials
    assert [peer.pieces[i] for i in peer.specials] == [b""] * len(peer.specials)
    assert len(peer.never_trained()) == 64


def test_lossy_and_prefixing_tokenizers_are_known(tmp_path):
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))], show_progress=False
    )
    tokenizer.train_from_iterator(["a low lower lowest ab"] * 10, trainer)
    tokenizer.save(str(tmp_path / "meta.json"))
    peer = open_peer(str(tmp_path / "meta.json"))
    assert peer.prefix_space() and not peer.byte_exact and peer.name == "meta"
    assert b" lower" in peer.pieces or b" low" in peer.pieces

    lower = Tokenizer(models.BPE())
    lower.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    lower.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    lower.decoder = decoders.ByteLevel()
    lower.train_from_iterator(
        ["ab"], trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    )
    lower.save(str(tmp_path / "lower.json"))
    peer = open_peer(str(tmp_path / "lower.json"))
    assert peer.losses() == ["decomposed letters", "compatibility letters", "case"]
    assert peer.normalization() == "NFKC Lowercase" and not peer.byte_exact

    unigram = Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0), ("▁a", -2.0), ("b", -3.0)], unk_id=0))
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    unigram.decoder = decoders.Metaspace()
    unigram.save(str(tmp_path / "unigram.json"))
    peer = open_peer(str(tmp_path / "unigram.json"))
    assert peer.pieces[2] == b" a" and "rare characters" in peer.losses() and peer.merges() is None


def test_sentencepiece_models(tmp_path):
    import sentencepiece

    lines = tmp_path / "lines.txt"
    lines.write_text("\n".join(python_texts(5)))
    sentencepiece.SentencePieceTrainer.train(
        input=str(lines),
        model_prefix=str(tmp_path / "small"),
        vocab_size=600,
        model_type="bpe",
        byte_fallback=True,
        minloglevel=2,
    )
    peer = open_peer(str(tmp_path / "small.model"))
    assert peer.kind == "sentencepiece" and peer.name == "small" and peer.prefix_space()
    assert "a leading space" in peer.losses() or "runs of spaces" in peer.losses()
    text = "import os"
    assert b"".join(pieces_of(peer, text)) == b" import os" and peer.decode(peer.encode(text)) == text
    assert bytes([0xE6]) in peer.pieces
    (tmp_path / "broken.model").write_bytes(b"\x00\x01")
    with pytest.raises(TokenizerError, match="not a sentencepiece model"):
        open_peer(str(tmp_path / "broken.model"))


def test_patterns_of_ranks(ranks, tmp_path):
    lines = b"".join(base64.b64encode(piece) + b" %d\n" % rank for rank, piece in enumerate(ranks))
    file = tmp_path / "mine.tiktoken"
    file.write_bytes(lines)
    with pytest.raises(TokenizerError, match="--pattern"):
        open_peer(str(file))
    assert open_peer(str(file), "gpt2").pattern() == GPT2
    assert open_peer(f"mine={file}", r"\w+|\W+").name == "mine"
    with pytest.raises(TokenizerError, match="tiktoken does not take"):
        open_peer(str(file), "(")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r50k.tiktoken", b"YQ== 0\nnot base64\n", "line 2 is not base64"),
        ("gpt2.tiktoken", b"YQ== 0\n", "255 of the 256 bytes"),
        ("a.js", b"export default 1", "not a module of ranks"),
        ("a.js", b'export default {"pat_str": "x"}', "not a module of ranks"),
        ("a.json", b"{}", "not a usable tokenizer.json"),
        ("a.json", b"\xff\x00", "not a usable tokenizer.json"),
        ("a.json", b'{"config": {"default_vocab_size": 1}}', r"not a tekken\.json"),
        ("a.txt", b"x", "unknown kind of vocabulary"),
    ],
)
def test_broken_vocabularies_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TokenizerError, match=message):
        open_peer(str(tmp_path / name))


def test_missing_paths_and_equal_names(ours, tmp_path):
    with pytest.raises(TokenizerError, match="no such file or folder"):
        open_peer(str(tmp_path / "no"))
    with pytest.raises(TokenizerError, match=r"no tokenizer\.json in this folder"):
        open_peer(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(TokenizerError, match="not a usable"):
        open_peer(str(tmp_path))
    peers = [open_peer(str(ours)) for _ in range(3)]
    distinct_names(peers)
    assert [peer.name for peer in peers] == ["t", "t (2)", "t (3)"]


def test_an_export_of_ours_brings_its_pattern(ours, tmp_path):
    from tokenizer_training.vocabulary.exports.tiktoken import export_tiktoken

    export_tiktoken(ours, tmp_path)
    file = tmp_path / "tokenizer.tiktoken"
    own, peer = open_peer(str(ours)), open_peer(str(file))
    assert [pieces_of(peer, text) for text in TEXTS] == [pieces_of(own, text) for text in TEXTS]
    file.write_bytes(file.read_bytes() + b"IQ== 100000\n")  # no longer what the file beside it describes
    with pytest.raises(TokenizerError, match="without a known split pattern"):
        open_peer(str(file))
