"""Training, encoding, and the efficiency report."""

import json
import math
import random
import subprocess
import sys
import unicodedata
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import regex

from tests.tokens_corpus import ARTICLES, NASTY, identity, python_texts, rows_of, write_documents
from tokenizer_training.config import TokenizerError
from tokenizer_training.corpus.pieces import cut, cut_long
from tokenizer_training.efficiency.measure import evaluate, write_report
from tokenizer_training.encoding.encoder import Encoder
from tokenizer_training.vocabulary.config import TokenizerConfig
from tokenizer_training.vocabulary.folder import new_tokenizer
from tokenizer_training.vocabulary.patterns import PATTERNS
from tokenizer_training.vocabulary.special import SPECIAL_TOKENS
from tokenizer_training.vocabulary.train import train_tokenizer

TEXTS = python_texts(40) + NASTY


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    return write_documents(tmp_path_factory.mktemp("documents"), rows_of(TEXTS), parts=3)


@pytest.fixture(scope="module")
def folders(documents, tmp_path_factory):
    """A tokenizer folder for each pattern."""
    made = {}
    for pattern in PATTERNS:
        made[pattern] = tmp_path_factory.mktemp(pattern)
        train_tokenizer(documents, TokenizerConfig(vocab_size=900, pattern=pattern), made[pattern])
    return made


def test_special_tokens_have_the_first_ids(folders):
    content = (folders["llama3"] / "tokenizer.json").read_text("utf-8")
    assert content == json.dumps(json.loads(content), indent=1, ensure_ascii=False) + "\n"
    vocabulary = json.loads(content)["model"]["vocab"]
    names = ["<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|end|>"]
    names += [f"<|reserved_{i}|>" for i in range(64)]
    assert [vocabulary[name] for name in names] == list(range(70))
    encoder = Encoder(folders["llama3"])
    assert encoder.vocab_size == 900 and encoder.eos_id == 0 and list(encoder.special_ids) == names


@pytest.mark.parametrize("pattern", PATTERNS)
def test_decoding_gives_back_every_text(folders, pattern):
    encoder = Encoder(folders[pattern])
    for text, tokens in zip(TEXTS, encoder.encode_batch(TEXTS), strict=True):
        assert encoder.decode(tokens) == text
        assert len(tokens) == 0 or tokens.min() >= 70
        assert tokens.dtype == np.uint16


def test_text_that_spells_a_special_token_stays_text(folders):
    encoder = Encoder(folders["gpt2"])
    spelled = ["".join(SPECIAL_TOKENS), " ".join(SPECIAL_TOKENS), *SPECIAL_TOKENS, "x<|endoftext|>\n" * 9000]
    for text, tokens in zip(spelled, encoder.encode_batch(spelled), strict=True):
        assert tokens.min() >= 70
        assert encoder.decode(tokens) == text


def test_a_column_is_encoded_as_its_texts_are(folders):
    encoder = Encoder(folders["llama3"])
    texts = ["", None, *TEXTS, None, "a"]
    for column in (pa.array(texts, pa.string()), pa.chunked_array([texts[:3], texts[3:]], pa.large_string())):
        tokens, offsets = encoder.encode_column(column)
        assert tokens.dtype == encoder.dtype and offsets.dtype == np.int64 and len(offsets) == len(texts) + 1
        for i, text in enumerate(texts):
            assert np.array_equal(tokens[offsets[i] : offsets[i + 1]], encoder.encode(text or ""))
    for empty in (pa.array([], pa.string()), pa.nulls(2), pa.array([None], pa.string())):
        tokens, offsets = encoder.encode_column(empty)
        assert len(tokens) == 0 and offsets.tolist() == [0] * (len(empty) + 1)
    with pytest.raises(TokenizerError, match="expected string"):
        encoder.encode_column(pa.array([1]))


def test_lone_surrogates_become_replacement_characters(folders):
    encoder = Encoder(folders["llama3"])
    assert encoder.decode(encoder.encode("a\ud800b\udc00😀")) == "a\ufffdb\ufffd😀"


@pytest.mark.parametrize("pattern", PATTERNS)
def test_pretokens_are_those_of_the_pattern_in_another_engine(pattern):
    split = new_tokenizer(TokenizerConfig(pattern=pattern)).pre_tokenizer
    for text in TEXTS:
        pieces = [text[start:stop] for _, (start, stop) in split.pre_tokenize_str(text)]
        assert pieces == [match.group() for match in regex.finditer(PATTERNS[pattern], text)]


@pytest.mark.parametrize(
    ("pattern", "text", "pieces"),
    [
        ("gpt2", " 14159265 can't", [" 14159265", " can", "'t"]),
        ("llama3", "14159265\n\nCAN'T", ["141", "592", "65", "\n\n", "CAN", "'T"]),
        ("qwen2", "a 12", ["a", " ", "1", "2"]),
        ("o200k", "camelCase can't //\n/x", ["camel", "Case", " can't", " //\n/", "x"]),
    ],
)
def test_patterns_split_as_published(pattern, text, pieces):
    split = new_tokenizer(TokenizerConfig(pattern=pattern)).pre_tokenizer
    assert [text[start:stop] for _, (start, stop) in split.pre_tokenize_str(text)] == pieces


@pytest.mark.parametrize("pattern", PATTERNS)
def test_long_texts_are_cut_where_ids_do_not_change(folders, pattern):
    encoder = Encoder(folders[pattern])
    text = "\n".join(TEXTS[:30])
    assert len(cut_long(text, 4000)) > 20
    pieces = encoder.encode_batch(cut_long(text, 4000))
    assert np.array_equal(encoder.encode(text), np.concatenate(pieces))


@pytest.mark.parametrize("pattern", PATTERNS)
def test_cuts_of_long_texts_are_pretoken_boundaries(pattern):
    generator = random.Random(2)
    sure = 0
    for _ in range(150):
        text = "".join(generator.choices("abZé1²ก中 \n\r/.'s_\u0301\u00a0", k=300))
        pieces = cut_long(text, 40)
        assert "".join(pieces) == text
        whole = regex.findall(PATTERNS[pattern], text)
        for at in np.cumsum([len(piece) for piece in pieces[:-1]]).tolist():
            assert regex.findall(PATTERNS[pattern], text[:at]) + regex.findall(PATTERNS[pattern], text[at:]) == whole
            sure += 1
    assert sure > 300


@pytest.mark.parametrize("run", ["a", " ", "7", "\u0301"])
def test_half_a_megabyte_of_one_character_is_encoded_in_pieces(folders, run):
    text = "x" + run * 500_000 + "y"
    encoder = Encoder(folders["o200k"])
    assert max(len(piece.encode()) for piece in cut(text)) <= 4096 + 1
    assert encoder.decode(encoder.encode(text)) == text


@pytest.mark.timeout(60)  # minutes, were the run one word for the trainer
def test_training_survives_a_megabyte_of_one_letter(tmp_path):
    rows = rows_of([*TEXTS[:5], "z" * 1_000_000, "ab" * 500_000, "\ud7ff" * 300_000])
    facts = train_tokenizer(write_documents(tmp_path / "d", rows), TokenizerConfig(vocab_size=500), tmp_path / "t")
    assert facts["vocab_size"] == 500


def test_the_result_depends_on_the_documents_only(documents, tmp_path):
    config = TokenizerConfig(vocab_size=700)
    train_tokenizer(documents, config, tmp_path / "a")
    rows = rows_of(TEXTS)
    random.Random(3).shuffle(rows)
    train_tokenizer(write_documents(tmp_path / "other", rows, parts=5), config, tmp_path / "b")
    script = (
        "import sys; from tokenizer_training.cli import main; "
        "raise SystemExit(main(['train', sys.argv[1], '--vocab-size', '700', '--output', sys.argv[2]]))"
    )
    environment = {"PYTHONHASHSEED": "7", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": "."}
    subprocess.run([sys.executable, "-c", script, tmp_path / "other", tmp_path / "c"], env=environment, check=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert len({(tmp_path / folder / name).read_bytes() for folder in "abc"}) == 1


def test_a_small_corpus_gives_a_small_vocabulary(tmp_path):
    files = write_documents(tmp_path / "d", rows_of(["tick tock " * 10]))
    facts = train_tokenizer(files, TokenizerConfig(vocab_size=32768), tmp_path / "t")
    assert 326 < facts["vocab_size"] < 350 and facts["vocab_size_wanted"] == 32768
    encoder = Encoder(tmp_path / "t")
    assert encoder.vocab_size == facts["vocab_size"]
    assert len(encoder.encode(" tick tock")) == 2


def test_min_frequency_and_longest_token_are_inclusive(tmp_path):
    files = write_documents(tmp_path / "d", rows_of(["ÜÜÜÜ ÜÜÜÜ ÜÜÜÜ abcdef abcdef"]))

    def tokens(**knobs):
        train_tokenizer(files, TokenizerConfig(vocab_size=400, pattern="gpt2", **knobs), tmp_path / "t")
        vocabulary = json.loads((tmp_path / "t" / "tokenizer.json").read_text())["model"]["vocab"]
        return [token for token, number in vocabulary.items() if number >= 70]

    assert max(map(len, tokens())) == 9  # in bytes: a space and four letters of two
    for longest in (2, 4):
        assert max(map(len, tokens(max_token_length=longest))) == longest
    assert max(map(len, tokens(min_frequency=3))) >= 8 and not any("bc" in t for t in tokens(min_frequency=3))
    assert any("abcdef" in token for token in tokens(min_frequency=2))


@pytest.mark.parametrize("texts", [[], [""], ["", None]])
def test_a_corpus_without_text_is_refused(tmp_path, texts):
    table = pa.table({"id": [identity(i) for i in range(len(texts))], "text": pa.array(texts, pa.string())})
    pq.write_table(table, tmp_path / "d.parquet")
    with pytest.raises(TokenizerError, match="no text to train"):
        train_tokenizer([tmp_path / "d.parquet"], TokenizerConfig(), tmp_path / "t")
    assert not (tmp_path / "t").exists()


def test_broken_documents_name_the_file_and_leave_nothing(tmp_path):
    files = write_documents(tmp_path / "d", rows_of(TEXTS[:4]), parts=2)
    files[1].write_bytes(files[1].read_bytes()[:-9])
    with pytest.raises(TokenizerError, match=r"part-00001.parquet: not a readable Parquet"):
        train_tokenizer([tmp_path / "d"], TokenizerConfig(), tmp_path / "t")
    pq.write_table(pa.table({"id": ["a"], "content": ["x"]}), files[1])
    with pytest.raises(TokenizerError, match="no column text; it has id, content"):
        train_tokenizer(files, TokenizerConfig(), tmp_path / "t")
    with pytest.raises(TokenizerError, match="no such file or folder"):
        train_tokenizer([tmp_path / "nowhere"], TokenizerConfig(), tmp_path / "t")
    assert not (tmp_path / "t").exists()


def test_bytes_that_are_not_utf8_are_read(tmp_path):
    buffers = [None, pa.py_buffer(np.array([0, 4], np.int32)), pa.py_buffer(b"a\xffb\xed")]
    bad = pa.Array.from_buffers(pa.string(), 1, buffers)
    pq.write_table(pa.table({"id": ["x"], "text": bad}), tmp_path / "d.parquet")
    facts = train_tokenizer([tmp_path / "d.parquet"], TokenizerConfig(min_frequency=1), tmp_path / "t")
    assert facts["bytes_used"] == len("a\ufffdb\ufffd".encode())


def test_a_large_corpus_is_sampled_by_id(tmp_path):
    texts = python_texts(60)
    config = TokenizerConfig(vocab_size=500, engine="tokenizers", max_bytes=60_000)
    facts = train_tokenizer(write_documents(tmp_path / "a", rows_of(texts)), config, tmp_path / "ta")
    again = train_tokenizer(write_documents(tmp_path / "b", rows_of(texts)[::-1], 4), config, tmp_path / "tb")
    assert facts == again and facts["documents"] == 60
    assert 20_000 < facts["bytes_used"] < 120_000 < facts["bytes"]
    with pytest.raises(TokenizerError, match=r"max_bytes=1 of .*: raise it"):
        train_tokenizer([tmp_path / "a"], TokenizerConfig(engine="tokenizers", max_bytes=1), tmp_path / "tc")


def test_nfc_when_asked_for(documents, tmp_path):
    train_tokenizer(documents, TokenizerConfig(vocab_size=400, normalization="nfc"), tmp_path)
    encoder = Encoder(tmp_path)
    for text in ["e\u0301", "u\u0308ber", *TEXTS]:
        assert encoder.decode(encoder.encode(text)) == unicodedata.normalize("NFC", text)


@pytest.mark.parametrize("pattern", ["gpt2", "o200k"])
def test_transformers_loads_the_folder_and_gives_the_same_ids(folders, pattern):
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(folders[pattern])
    encoder = Encoder(folders[pattern])
    plain = [text for text in TEXTS if "<|" not in text]
    for text, tokens in zip(plain, encoder.encode_batch(plain), strict=True):
        assert loaded(text).input_ids == tokens.tolist()
        assert loaded.decode(tokens.tolist()) == text
    assert loaded.eos_token_id == loaded.pad_token_id == loaded.bos_token_id == 0 and len(loaded) == 900
    assert loaded("<|user|>").input_ids == [2]  # exported folders parse specials, as docs/tokens.md says
    spelled = "a<|endoftext|> <|user|>"
    assert loaded(spelled, split_special_tokens=True).input_ids == encoder.encode(spelled).tolist()


def test_chat_template_marks_what_the_assistant_writes(folders):
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(folders["llama3"])
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": " 2 \n"},
        {"role": "tool", "content": "ok"},
        {"role": "assistant", "content": "Yes"},
    ]
    text = loaded.apply_chat_template(messages, tokenize=False)
    assert text == (
        "<|system|>Be brief.<|end|><|user|>1 + 1?<|end|><|assistant|> 2 \n<|end|><|tool|>ok<|end|><|assistant|>Yes<|end|>"
    )
    prompt = loaded.apply_chat_template(messages[:2], tokenize=False, add_generation_prompt=True)
    assert prompt == "<|system|>Be brief.<|end|><|user|>1 + 1?<|end|><|assistant|>"
    made = loaded.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    written = [number for number, mark in zip(made["input_ids"], made["assistant_masks"], strict=True) if mark]
    assert loaded.decode(written) == " 2 \n<|end|>Yes<|end|>"
    with pytest.raises(Exception, match="unknown role 'narrator'"):
        loaded.apply_chat_template([{"role": "narrator", "content": "x"}], tokenize=False)


def test_efficiency_matches_its_definitions(folders, tmp_path):
    texts = ["the cat sat on the mat", "import os, sys\n", ARTICLES["zh"], ARTICLES["de"]]
    rows = rows_of(texts, language=["en", "python", "zh", "de"])
    facts = evaluate(folders["gpt2"], write_documents(tmp_path / "d", rows, 2))
    encoder = Encoder(folders["gpt2"])
    ids = [encoder.encode(text).tolist() for text in texts]
    total = facts["total"]
    count, size = sum(map(len, ids)), sum(len(text.encode()) for text in texts)
    assert (total["tokens"], total["bytes"], total["documents"]) == (count, size, 4)
    assert total["bytes_per_token"] == size / count
    assert total["characters_per_token"] == sum(map(len, texts)) / count
    words = ["the", " cat", " sat", " on", " the", " mat"]
    cuts = [len(encoder.encode(word)) for word in words]
    english = facts["by_language"]["en"]
    assert english["words"] == 6 and english["fertility"] == sum(cuts) / 6
    assert english["continued_word_share"] == sum(n > 1 for n in cuts) / 6
    assert facts["by_language"]["zh"]["words"] == sum(unicodedata.category(c) == "Lo" for c in ARTICLES["zh"])
    seen = Counter(number for tokens in ids for number in tokens)
    entropy = -sum(n / count * math.log2(n / count) for n in seen.values())
    use = facts["vocabulary"]
    assert use["unigram_bits_per_byte"] == pytest.approx(entropy * count / size)
    assert use["used"] == len(seen) and use["used_share"] == len(seen) / 830
    assert use["dead_tail_share"] == pytest.approx(1 - sum(n >= 5 for n in seen.values()) / 830)
    renyi = math.log2(sum((n / count) ** 2.5 for n in seen.values())) / (1 - 2.5) / math.log2(900)
    assert use["renyi_efficiency"] == pytest.approx(renyi)
    assert facts["lossless_share"] == 1.0
    assert {name: row["documents"] for name, row in facts["by_source"].items()} == {"s0": 2, "s1": 1, "s2": 1}


def test_lossless_share_shows_normalisation(documents, tmp_path):
    train_tokenizer(documents, TokenizerConfig(vocab_size=400, normalization="nfc"), tmp_path / "t")
    files = write_documents(tmp_path / "d", rows_of(["plain", "e\u0301", "ö", "o\u0308"]))
    assert evaluate(tmp_path / "t", files)["lossless_share"] == 0.5


def test_report_is_one_escaped_page(folders, tmp_path):
    rows = rows_of(TEXTS[:6], language=["<script>alert(1)</script>"] * 3 + ["de", "fr", None])
    facts = evaluate(folders["llama3"], write_documents(tmp_path / "d", rows))
    write_report(facts, tmp_path / "r")
    assert json.loads((tmp_path / "r" / "report.json").read_text()) == facts
    page = (tmp_path / "r" / "report.html").read_text()
    assert "<script" not in page and "&lt;script&gt;" in page and "unknown" in page
    assert f"{facts['total']['bytes_per_token']:.2f}" in page
    assert "http" not in page and "prefers-color-scheme: dark" in page


def test_unusable_tokenizer_folders_are_named(tmp_path):
    with pytest.raises(TokenizerError, match="no such file"):
        Encoder(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(TokenizerError, match="not a usable tokenizer"):
        Encoder(tmp_path)
    tokenizer = new_tokenizer(TokenizerConfig())
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_str())
    with pytest.raises(TokenizerError, match="no special token"):
        Encoder(tmp_path)
