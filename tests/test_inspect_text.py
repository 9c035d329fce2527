"""`inspect` of a text or a file under one or several tokenizers."""

from __future__ import annotations

import re

import pytest

from tests.tokens_corpus import ARTICLES, python_texts, rows_of, write_documents
from tokenizer_training.cli import main
from tokenizer_training.efficiency.peers import open_peer
from tokenizer_training.efficiency.show_text import coloured
from tokenizer_training.vocabulary.config import TokenizerConfig
from tokenizer_training.vocabulary.train import train_tokenizer

TEXT = "The end, 1234\n\tof 漢\x1b[31m"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inspect")
    files = write_documents(folder / "d", rows_of([*python_texts(20), *ARTICLES.values()]))
    train_tokenizer(files, TokenizerConfig(vocab_size=700), folder / "tok")
    return str(folder / "tok")


def test_a_text_with_ids_bytes_context_and_price(tokenizer, capsys):
    assert main(["inspect", TEXT, "--tokenizer", tokenizer, "--context", "100", "--price", "2.5"]) == 0
    out = capsys.readouterr().out
    peer = open_peer(tokenizer)
    ids = peer.encode(TEXT)
    size = len(TEXT.encode())
    assert f"text: {size} bytes, {len(TEXT)} characters" in out
    assert f"{len(ids)} tokens, {size / len(ids):.2f} bytes per token, {len(ids):.3g} % of a context of 100" in out
    assert f"{len(ids) * 2.5e-6:.6g} at 2.5 per million tokens" in out
    rows = re.findall(r"^ +(\d+) +(\d+)  ((?:[0-9a-f]{2} ?)+)", out, re.MULTILINE)
    assert [int(number) for _, number, _ in rows] == ids
    assert bytes.fromhex("".join(raw for *_, raw in rows)) == TEXT.encode()
    assert "\x1b" not in out and "\\x1b" in out  # nothing in a text steers the terminal


def test_colours_and_bars(tokenizer):
    peer = open_peer(tokenizer)
    ids = peer.encode(TEXT)
    plain = coloured(peer, ids, False)
    assert plain.replace("|", "").startswith("The end, 1234⏎\n→\t")
    pieces = [piece for piece in plain.split("|") if "‹" in piece]
    assert pieces == [] or all(re.search(r"‹\d›", piece) for piece in pieces)
    shown = coloured(peer, ids, True)
    assert re.sub(r"\x1b\[(?:30;48;5;\d+|0)m", "", shown) == plain.replace("|", "")
    assert len(re.findall(r"\x1b\[0m", shown)) >= len(plain.split("|")) - 1
    assert coloured(peer, [], True) == ""


def test_a_file_under_two_tokenizers(tokenizer, tmp_path, capsys):
    file = tmp_path / "page.txt"
    file.write_bytes(b"one two\xff three")
    given = ["inspect", str(file), "--tokenizer", tokenizer, "--tokenizer", f"again={tokenizer}", "--tokens", "2"]
    assert main([*given, "--color", "always"]) == 0
    out = capsys.readouterr().out
    assert "not UTF-8" in out and "tok (700): " in out and "again (700): " in out
    assert out.count("the first 2 tokens:") == 2 and "\x1b[30;48;5;" in out and "at 2.5" not in out
    assert main([*given[:-2], "--tokens", "0"]) == 0
    assert "token       id" not in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "a\0b", "x" * 5000, "\udc80", "<|endoftext|>"], ids=["empty", "NUL", "long", "surrogate", "special"])  # fmt: skip
def test_odd_texts(tokenizer, capsys, text):
    assert main(["inspect", text, "--tokenizer", tokenizer]) == 0
    out = capsys.readouterr().out
    assert f"{len(open_peer(tokenizer).encode(text)):,} tokens" in out


def test_what_does_not_fit_is_refused(tokenizer, tmp_path, capsys):
    for arguments, message in (
        (["inspect", "x"], "give --tokenizer"),
        (["inspect", "x", "--tokenizer", tokenizer, "--row", "3"], "--row is for a dataset"),
        (["inspect", str(tmp_path), "--tokenizer", tokenizer, "--price", "3"], "--price is for a text"),
        (["inspect", str(tmp_path), "--tokenizer", tokenizer, "--tokenizer", tokenizer], "a dataset has one"),
        (["inspect", "x", "--tokenizer", tokenizer, "--context", "0"], "expected at least 1"),
    ):
        assert main(arguments) == 2
        assert message in capsys.readouterr().err
