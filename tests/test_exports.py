"""Every format gives the same ids, by its own library; what it cannot express is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tokens_corpus import python_texts, rows_of, write_documents
from tests.tokens_export import HARD, SENTENCES, GgufVocabulary, fuzz
from tokenizer_training.cli import main
from tokenizer_training.config import TokenizerError
from tokenizer_training.corpus.pieces import cut_runs
from tokenizer_training.encoding.bpe_file import read_byte_pairs
from tokenizer_training.encoding.encoder import Encoder
from tokenizer_training.vocabulary.config import TokenizerConfig
from tokenizer_training.vocabulary.exports.gguf import export_gguf
from tokenizer_training.vocabulary.exports.tiktoken import export_tiktoken
from tokenizer_training.vocabulary.exports.transformers import export_transformers
from tokenizer_training.vocabulary.patterns import PATTERNS
from tokenizer_training.vocabulary.ranks import rank_differences
from tokenizer_training.vocabulary.train import train_tokenizer

TEXTS = [*SENTENCES.values(), *HARD, *python_texts(6), *fuzz(150, seed=1)]
IN_GGUF = {"gpt2": "gpt-2", "llama3": "llama-bpe", "cl100k": "llama-bpe", "qwen2": "qwen2", "qwen3.5": "qwen35"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A tokenizer for each pattern."""
    corpus = [*SENTENCES.values()] * 3 + python_texts(20)
    documents = write_documents(tmp_path_factory.mktemp("documents"), rows_of(corpus))
    made = {}
    for pattern in PATTERNS:
        made[pattern] = tmp_path_factory.mktemp(pattern)
        train_tokenizer(documents, TokenizerConfig(vocab_size=1500, pattern=pattern), made[pattern])
    return made


def changed(folder, out, change):
    """A copy of a tokenizer whose tokenizer.json is changed by `change`."""
    out.mkdir()
    content = json.loads((folder / "tokenizer.json").read_text())
    change(content)
    (out / "tokenizer.json").write_text(json.dumps(content))
    (out / "tokenizer_config.json").write_bytes((folder / "tokenizer_config.json").read_bytes())
    return out


def ours(folder, texts):
    return [ids.tolist() for ids in Encoder(folder, engine="tokenizers").encode_batch(texts)]


def with_cuts(encode, text):
    """A library's ids of a text that is cut at endless runs, as ours are; other programs know nothing of that rule."""
    return [number for piece in cut_runs(text) for number in encode(piece)]


def load_tiktoken(out):
    import tiktoken
    from tiktoken.load import load_tiktoken_bpe

    facts = json.loads((out / "encoding.json").read_text())
    ranks = load_tiktoken_bpe(str(out / facts["ranks"]), expected_hash=facts["sha256"])
    return tiktoken.Encoding(
        facts["name"], pat_str=facts["pat_str"], mergeable_ranks=ranks, special_tokens=facts["special_tokens"]
    )


@pytest.mark.parametrize("pattern", PATTERNS)
def test_tiktoken_gives_the_same_ids(folders, tmp_path, pattern):
    export_tiktoken(folders[pattern], tmp_path)
    encoding = load_tiktoken(tmp_path)
    for text, ids in zip(TEXTS, ours(folders[pattern], TEXTS), strict=True):
        assert with_cuts(encoding.encode_ordinary, text) == ids
        assert encoding.decode(ids) == text
    assert encoding.n_vocab == 1500 and encoding.encode_single_token("<|endoftext|>") == 0
    assert encoding.encode("a<|end|>", allowed_special="all")[1:] == [5]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_transformers_gives_the_same_ids(folders, tmp_path, pattern):
    from transformers import AutoTokenizer

    export_transformers(folders[pattern], tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    for text, ids in zip(TEXTS, ours(folders[pattern], TEXTS), strict=True):
        given = with_cuts(
            lambda piece: tokenizer(piece, split_special_tokens=True, add_special_tokens=False)["input_ids"], text
        )
        assert given == ids
        assert tokenizer.decode(ids) == text
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 0, 0)
    assert len(tokenizer) == 1500 and len(tokenizer.all_special_ids) == 70
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    assert tokenizer.apply_chat_template(chat, tokenize=False) == "<|user|>hi<|end|><|assistant|>ho<|end|>"


@pytest.mark.parametrize("pattern", IN_GGUF)
def test_gguf_gives_the_same_ids(folders, tmp_path, pattern):
    export_gguf(folders[pattern], tmp_path / "v.gguf")
    vocabulary = GgufVocabulary(tmp_path / "v.gguf")
    assert vocabulary.pre == IN_GGUF[pattern]
    texts = [text for text in TEXTS if len(text) < 5000]  # the reader is slow
    for text, ids in zip(texts, ours(folders[pattern], texts), strict=True):
        assert with_cuts(vocabulary.encode, text) == ids
        assert vocabulary.decode(ids) == text
    assert (vocabulary.bos, vocabulary.eos, vocabulary.pad) == (0, 0, 0)
    assert [kind == 3 for kind in vocabulary.types] == [number < 70 for number in range(1500)]
    assert "<|assistant|>" in vocabulary.template and "generation -%}" not in vocabulary.template.replace(
        "add_generation", ""
    )


@settings(max_examples=150, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs", "Cn"], max_codepoint=0x10FFFF), max_size=60))
def test_any_text_is_the_same_in_all_formats(folders, tmp_path_factory, text):
    libraries = _libraries(folders, tmp_path_factory)
    for pattern, (encoder, encoding) in libraries.items():
        ids = encoder.encode(text).tolist()
        assert encoder.decode(ids) == text
        assert encoding.encode_ordinary(text) == ids, pattern


_LOADED: dict = {}


def _libraries(folders, tmp_path_factory):
    if not _LOADED:
        for pattern in ("gpt2", "llama3", "o200k"):
            out = tmp_path_factory.mktemp("tiktoken")
            export_tiktoken(folders[pattern], out)
            _LOADED[pattern] = Encoder(folders[pattern], engine="tokenizers"), load_tiktoken(out)
    return _LOADED


def test_the_command_exports(folders, tmp_path, capsys):
    source = str(folders["llama3"])
    for name, output in (("tiktoken", "a"), ("transformers", "b"), ("gguf", "c.gguf")):
        assert main(["export", source, "--format", name, "--output", str(tmp_path / output)]) == 0
    printed = capsys.readouterr().out.split()
    assert len(printed) == 6 and all((tmp_path / path).is_file() for path in printed)
    assert (tmp_path / "b" / "tokenizer.json").read_bytes() == (folders["llama3"] / "tokenizer.json").read_bytes()
    before = {path: Path(path).read_bytes() for path in printed}
    for name, output in (("tiktoken", "a"), ("transformers", "b"), ("gguf", "c.gguf")):
        main(["export", source, "--format", name, "--output", str(tmp_path / output)])
    assert all(Path(path).read_bytes() == content for path, content in before.items())
    assert main(["export", source, "--format", "tiktoken", "--output", "x", "--accept-differences"]) == 2
    assert main(["export", str(tmp_path), "--format", "gguf", "--output", str(tmp_path / "d")]) == 2


def test_patterns_that_llama_cpp_has_no_exact_name_for_are_refused(folders, tmp_path):
    for pattern, name in (("o200k", "gpt-4o"), ("tekken", "tekken")):
        with pytest.raises(TokenizerError, match="letters outside ASCII"):
            export_gguf(folders[pattern], tmp_path / "v.gguf")
        assert not (tmp_path / "v.gguf").exists()
        export_gguf(folders[pattern], tmp_path / "v.gguf", accept_differences=True)
        assert name.encode() in (tmp_path / "v.gguf").read_bytes()
        (tmp_path / "v.gguf").unlink()
    with pytest.raises(TokenizerError, match="no name for nanochat"):
        export_gguf(folders["nanochat"], tmp_path / "v.gguf")


def test_nfc_and_custom_expressions_are_refused_where_they_cannot_be_expressed(folders, tmp_path):
    nfc = changed(folders["llama3"], tmp_path / "nfc", lambda content: content.update(normalizer={"type": "NFC"}))
    for export in (export_tiktoken, export_gguf):
        with pytest.raises(TokenizerError, match="NFC"):
            export(nfc, tmp_path / "x")

    def split_by(expression):
        def change(content):
            content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = expression

        return change

    words = changed(folders["llama3"], tmp_path / "words", split_by(r"\s?\w+|[^\w]"))
    with pytest.raises(TokenizerError, match="custom"):
        export_gguf(words, tmp_path / "x")
    export_tiktoken(words, tmp_path / "t")
    encoding = load_tiktoken(tmp_path / "t")
    texts = list(SENTENCES.values())
    assert [encoding.encode_ordinary(text) for text in texts] == ours(words, texts)
    for number, (expression, reason) in enumerate(
        [(r"\p{N}{1,3}+|\P{N}+", "possessive"), (r"(?m)^.|\h+|.", "tiktoken")]
    ):
        folder = changed(folders["llama3"], tmp_path / str(number), split_by(expression))
        with pytest.raises(TokenizerError, match=reason):
            export_tiktoken(folder, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_vocabulary_whose_ranks_give_other_ids_is_refused(folders, tmp_path):
    def swap(content):
        merges = content["model"]["merges"]
        merges[0], merges[1] = merges[1], merges[0]

    def add(content):  # a token that no merge makes
        content["model"]["vocab"]["Ġoranges;Ġthey"] = 1500

    assert rank_differences(read_byte_pairs(folders["llama3"] / "tokenizer.json")) == []
    for name, change in (("swap", swap), ("add", add)):
        folder = changed(folders["llama3"], tmp_path / name, change)
        with pytest.raises(TokenizerError, match="rank of tokens"):
            export_tiktoken(folder, tmp_path / "x")


def test_whole_tokens_are_left_to_a_name_that_does_not_take_them(folders, tmp_path):
    """A token that merging never gives is found by llama-bpe, which looks up whole words; by ours it is not."""

    def hide(content):  # " oranges" in one piece comes from no pair that is merged
        content["model"]["vocab"]["Ġmarkets"] = 1500

    folder = changed(folders["llama3"], tmp_path / "a", hide)
    export_gguf(folder, tmp_path / "v.gguf")
    vocabulary = GgufVocabulary(tmp_path / "v.gguf")
    assert vocabulary.pre == "smaug-bpe"
    assert vocabulary.encode(" markets") == Encoder(folder, engine="tokenizers").encode(" markets").tolist()

    def whole(content):
        hide(content)
        content["model"]["ignore_merges"] = True

    folder = changed(folders["llama3"], tmp_path / "b", whole)
    export_gguf(folder, tmp_path / "v.gguf")
    vocabulary = GgufVocabulary(tmp_path / "v.gguf")
    assert vocabulary.pre == "llama-bpe" and vocabulary.encode(" markets") == [1500]
    assert np.array_equal(Encoder(folder, engine="gristmill").encode(" markets"), [1500])


def test_other_models_are_refused(tmp_path):
    from tokenizers import Tokenizer, models

    Tokenizer(models.Unigram([("a", 0.0), ("b", -1.0)])).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text("{}")
    for export in (export_tiktoken, export_gguf):
        with pytest.raises(TokenizerError, match="Unigram, not BPE"):
            export(tmp_path, tmp_path / "x")
    export_transformers(tmp_path, tmp_path / "y")
    with pytest.raises(TokenizerError, match="own folder"):
        export_transformers(tmp_path, tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    with pytest.raises(TokenizerError, match="no special token"):
        export_transformers(tmp_path, tmp_path / "y")
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(TokenizerError, match="broken JSON"):
        export_gguf(tmp_path, tmp_path / "x")
