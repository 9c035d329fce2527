"""Every engine gives the ids of tokenizers, or its documents are encoded by tokenizers."""

import importlib.util
import json
import pickle
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tokens_corpus import NASTY, python_texts, rows_of, write_documents
from tests.tokens_export import HARD, SENTENCES, fuzz
from tokenizer_training.config import TokenizerError
from tokenizer_training.encoding import exact
from tokenizer_training.encoding.bpe_file import read_byte_pairs
from tokenizer_training.encoding.encoder import Encoder
from tokenizer_training.encoding.engines.gristmill import GristmillEngine
from tokenizer_training.encoding.texts import Texts
from tokenizer_training.vocabulary.config import TokenizerConfig
from tokenizer_training.vocabulary.patterns import PATTERNS
from tokenizer_training.vocabulary.train import train_tokenizer

TEXTS = [*SENTENCES.values(), *HARD, *NASTY, *python_texts(30), *fuzz(800, seed=2)]
FAST = [
    name for name in ("gristmill", "gigatoken", "tiktoken") if name == "gristmill" or importlib.util.find_spec(name)
]

REFUSED = {("tiktoken", "nfc"): "NFC", ("gigatoken", "nanochat"): "does not take this tokenizer"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A tokenizer for each pattern; "nfc" brings texts to NFC; "whole" takes whole tokens; "custom" has an expression of its own."""
    documents = write_documents(
        tmp_path_factory.mktemp("documents"), rows_of([*SENTENCES.values()] * 3 + python_texts(20))
    )
    made = {}
    for pattern in PATTERNS:
        made[pattern] = tmp_path_factory.mktemp(pattern)
        train_tokenizer(documents, TokenizerConfig(vocab_size=1200, pattern=pattern), made[pattern])

    def change(name, edit):
        made[name] = tmp_path_factory.mktemp(name)
        content = json.loads((made["llama3"] / "tokenizer.json").read_text())
        edit(content)
        (made[name] / "tokenizer.json").write_text(json.dumps(content))

    def whole(content):
        content["model"]["ignore_merges"] = True
        content["model"]["vocab"]["Ġmarkets"] = 1200

    change("nfc", lambda content: content.update(normalizer={"type": "NFC"}))
    change("whole", whole)
    change(
        "custom", lambda content: content["pre_tokenizer"]["pretokenizers"][0]["pattern"].update(Regex=r"\s?\w+|[^\w]")
    )
    return made


def column_of(texts):
    return pa.array(texts, pa.string())


def same(made, wanted):
    return all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(made, wanted, strict=True))


@pytest.mark.parametrize("name", [*PATTERNS, "nfc", "whole"])
@pytest.mark.parametrize("engine", FAST)
def test_an_engine_gives_the_ids_of_tokenizers(folders, name, engine):
    if (engine, name) in REFUSED:
        with pytest.raises(TokenizerError, match=REFUSED[engine, name]):
            Encoder(folders[name], engine=engine).encode("a")
        return
    encoder = Encoder(folders[name], engine=engine)
    column = column_of([*TEXTS, None, " markets"])
    assert same(encoder.encode_column(column), Encoder(folders[name], engine="tokenizers").encode_column(column))
    facts = encoder.facts()
    assert facts["engine"] == engine and facts["documents"] == len(column) and facts["verified"] == 1
    if engine == "gristmill":
        assert facts["fell_back"] == facts["differed"] == 0


_ENCODERS: dict = {}


@settings(max_examples=100, deadline=None)
@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=80), max_size=4))
def test_any_text_has_the_ids_of_tokenizers(folders, texts):
    for name in ("gpt2", "llama3", "o200k", "nfc"):
        pair = _ENCODERS.setdefault(
            name, [Encoder(folders[name], engine=engine, verify_every=0) for engine in ("gristmill", "tokenizers")]
        )
        made, wanted = (encoder.encode_column(column_of(texts)) for encoder in pair)
        assert same(made, wanted), name


def test_special_tokens_never_come_from_text(folders):
    names = list(Encoder(folders["llama3"]).special_ids)
    texts = ["".join(names), " ".join(names), *names, "x<|endoftext|>\n" * 3000]
    for engine in FAST:
        tokens, _ = Encoder(folders["llama3"], engine=engine).encode_column(column_of(texts))
        assert tokens.min() >= 70


def test_a_small_cache_is_emptied_and_gives_the_same_ids(folders):
    model = read_byte_pairs(folders["llama3"] / "tokenizer.json")
    texts = Texts.of([text for text in TEXTS if len(text) < 3000] + [f" word{i}x{i * 7919}" for i in range(3000)])
    small, large = GristmillEngine(model, cached_words=50), GristmillEngine(model)
    for _ in range(2):
        for made, wanted in zip(small.encode(texts), large.encode(texts), strict=True):
            assert np.array_equal(made, wanted)
    assert small.used[0] <= small.limits[0] < large.used[0]


def test_long_words_are_merged_as_short_ones(folders):
    encoder, reference = (Encoder(folders["llama3"], engine=engine) for engine in ("gristmill", "tokenizers"))
    texts = ["".join(chr(97 + (i * i + k) % 26) for i in range(size)) for k, size in enumerate(range(1, 4000, 61))]
    texts += ["selfself" * 400, "the" * 1300, "é" * 2047, "a" * 5000]
    assert same(encoder.encode_batch(texts), reference.encode_batch(texts))


def test_columns_of_every_kind(folders):
    encoder = Encoder(folders["llama3"], engine="gristmill")
    texts = ["one two", None, "", "drei €", "ab" * 4000, None]
    wanted = Encoder(folders["llama3"], engine="tokenizers").encode_column(column_of(texts))
    plain = pa.array(["skipped", *texts, "also"], pa.string())
    kinds = [
        column_of(texts),
        pa.array(texts, pa.large_string()),
        pa.array(texts, pa.string_view()),
        pa.array(texts).dictionary_encode(),
        plain.slice(1, len(texts)),
        pa.chunked_array([texts[:2], [], texts[2:]], pa.string()),
        pa.chunked_array([pa.array(texts[:3]).dictionary_encode(), pa.array(texts[3:]).dictionary_encode()]),
    ]
    for column in kinds:
        assert same(encoder.encode_column(column), wanted), column.type
    for empty in (pa.nulls(3), pa.array([], pa.string()), pa.chunked_array([], pa.string())):
        tokens, offsets = encoder.encode_column(empty)
        assert len(tokens) == 0 and offsets.tolist() == [0] * (len(empty) + 1)
    for wrong in (pa.array([1]), pa.array([["a"]]), pa.array([b"a"])):
        with pytest.raises(TokenizerError, match="expected string"):
            encoder.encode_column(wrong)


def test_bytes_that_are_not_utf8_and_bytes_behind_nulls(folders):
    encoder = Encoder(folders["llama3"], engine="gristmill")
    broken = pa.StringArray.from_buffers(2, pa.py_buffer(np.array([0, 3, 5], np.int32)), pa.py_buffer(b"a\xffbcd"))
    assert same(encoder.encode_column(broken), encoder.encode_column(column_of(["a\ufffdb", "cd"])))
    bits = pa.py_buffer(bytes([0b01]))
    hidden = pa.StringArray.from_buffers(
        2, pa.py_buffer(np.array([0, 2, 5], np.int32)), pa.py_buffer(b"abcde"), bits, null_count=1
    )
    assert hidden.to_pylist() == ["ab", None]
    assert same(encoder.encode_column(hidden), encoder.encode_column(column_of(["ab", None])))


def big(count):
    """Documents enough for `auto` to choose an engine."""
    return column_of([f"{number} " + "some words of text, " * 100 for number in range(count)])


def test_auto_begins_with_tokenizers_and_goes_on_with_our_own_engine(folders):
    encoder = Encoder(folders["llama3"], verify_every=40)
    encoder.encode_column(big(3))
    assert encoder.facts()["engine"] == "tokenizers"
    column = big(300)
    assert same(encoder.encode_column(column), Encoder(folders["llama3"], engine="tokenizers").encode_column(column))
    facts = encoder.facts()
    assert facts == {"engine": "gristmill", "documents": 303, "verified": 7, "fell_back": 0, "differed": 0}


def test_auto_takes_what_the_tokenizer_and_the_machine_allow(folders, monkeypatch, tmp_path):
    for missing, expected in (((), "tiktoken"), (("tiktoken",), "tokenizers")):
        for name in missing:
            monkeypatch.setitem(sys.modules, name, None)  # as if not installed
        if expected in FAST or expected == "tokenizers":
            encoder = Encoder(folders["custom"])
            encoder.encode_column(big(300))
            assert encoder.facts()["engine"] == expected
    from tokenizers import AddedToken, Tokenizer, models

    unigram = Tokenizer(models.Unigram([("a", 0.0), (" ", -1.0), ("<unk>", -5.0)], unk_id=2))
    unigram.add_special_tokens([AddedToken("<|endoftext|>", special=True, normalized=False)])
    unigram.save(str(tmp_path / "tokenizer.json"))
    encoder = Encoder(tmp_path)
    tokens, _ = encoder.encode_column(column_of(["a a", "aa"] * 60_000))
    assert tokens[:5].tolist() == [0, 1, 0, 0, 0] and encoder.facts()["engine"] == "tokenizers"
    with pytest.raises(TokenizerError, match="Unigram, not BPE"):
        Encoder(tmp_path, engine="gristmill").encode("a")


def test_engines_that_cannot_be_had_are_errors(folders, monkeypatch):
    monkeypatch.setitem(sys.modules, "gigatoken", None)
    with pytest.raises(TokenizerError, match=r"gristmill\[fast\]"):
        Encoder(folders["llama3"], engine="gigatoken").encode("a")
    with pytest.raises(TokenizerError, match="another"):
        Encoder(folders["custom"], engine="gristmill").encode("a")
    with pytest.raises(TokenizerError, match="expected one of auto, gristmill"):
        Encoder(folders["llama3"], engine="fast")
    with pytest.raises(TokenizerError, match="0 \\(never\\) or more"):
        Encoder(folders["llama3"], verify_every=-1)


class Panic(BaseException):
    """As tiktoken's PanicException: no Exception."""


class Faulty:
    """An engine that panics on one word and is wrong on another; right on the probes."""

    name = "gristmill"

    def __init__(self, model):
        self.engine = GristmillEngine(model)

    def encode(self, texts):
        if any("panic" in text for text in texts):
            raise Panic
        ids, offsets = self.engine.encode(texts)
        for row, text in enumerate(texts):
            if "wrong" in text:
                ids[offsets[row]] += 1
        return ids, offsets


def test_documents_on_which_an_engine_fails_or_differs_are_encoded_by_tokenizers(folders, monkeypatch):
    monkeypatch.setitem(exact._MAKERS, "gristmill", Faulty)
    reference = Encoder(folders["llama3"], engine="tokenizers")
    encoder = Encoder(folders["llama3"], engine="gristmill", verify_every=1)
    good = column_of(["one", "two"])
    assert same(encoder.encode_column(good), reference.encode_column(good))
    for column in (["a panic", "b", None, "the wrong one", "panic " * 2000], ["wrong"], ["x" * 9000 + "wrong", "fine"]):
        assert same(encoder.encode_column(column_of(column)), reference.encode_column(column_of(column)))
    assert encoder.facts() == {"engine": "gristmill", "documents": 10, "verified": 10, "fell_back": 2, "differed": 3}

    encoder = Encoder(folders["llama3"], engine="gristmill", verify_every=0)  # a difference in the sample
    with pytest.raises(TokenizerError, match="differ"):
        encoder.encode("wrong")
    with pytest.raises(TokenizerError, match="Panic"):
        encoder.encode("panic")
    monkeypatch.setitem(sys.modules, "gigatoken", None)
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    encoder = Encoder(folders["llama3"])
    wrong = column_of(["wrong " * 50] * 1000)
    assert same(encoder.encode_column(wrong), reference.encode_column(wrong))
    assert encoder.facts()["engine"] == "tokenizers"


def test_an_interrupt_is_no_failure_of_an_engine(folders, monkeypatch):
    encoder = Encoder(folders["llama3"], engine="gristmill")
    encoder.encode("a")

    def interrupted(texts):
        raise KeyboardInterrupt

    monkeypatch.setattr(encoder._engine.engine, "encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        encoder.encode("b")


def test_a_real_panic_of_tiktoken_is_caught(folders, monkeypatch):
    """A million spaces and a letter overflow the stack of its expressions; the rule for endless runs spares it that."""
    encoder = Encoder(folders["custom"], engine="tiktoken")
    encoder.encode("a")
    text = " " * 1_000_000 + "x"
    pieces = Texts.of([text])  # as they would be without the rule
    made = exact._attempt(encoder._engine.engine, pieces)
    assert made is None or encoder.decode(made[0]) == text
    assert encoder.decode(encoder.encode(text)) == text and encoder.facts()["fell_back"] == 0


def test_an_encoder_can_be_sent_to_a_process(folders):
    encoder = pickle.loads(pickle.dumps(Encoder(folders["gpt2"], engine="gristmill", verify_every=7)))
    assert encoder._engine.wanted == "gristmill" and encoder._engine.verify_every == 7
    assert encoder.decode(encoder.encode("a b")) == "a b"
