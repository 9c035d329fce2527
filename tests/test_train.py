"""The knobs of the tokenizer section, training from counts, the command `train`, and corpora at the edge."""

import json
import random
import re

import numpy as np
import pytest
from pydantic import ValidationError

from tests.tokens_corpus import ARTICLES, NASTY, python_texts, rows_of, write_documents
from tokenizer_training.cli import main
from tokenizer_training.config import TokenizerError
from tokenizer_training.encoding.encoder import Encoder
from tokenizer_training.vocabulary.config import TokenizerConfig
from tokenizer_training.vocabulary.counts import count_documents
from tokenizer_training.vocabulary.folder import read_merges, read_training, truncate
from tokenizer_training.vocabulary.special import FIM, SPECIAL_TOKENS, TOOLS
from tokenizer_training.vocabulary.train import counting, train_from_counts, train_from_parts, train_tokenizer

TEXTS = python_texts(15) + NASTY


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    languages = ["en", "de"] * (len(TEXTS) // 2 + 1)
    rows = rows_of(TEXTS, language=languages)
    for number, row in enumerate(rows):
        row["site"] = "a.org" if number % 4 else "b.org"
    return write_documents(tmp_path_factory.mktemp("documents"), rows, parts=3)


def files_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"algorithm": "unigram"}, "algorithm: unigram with engine: gristmill"),
        ({"max_bytes": 1000}, "max_bytes with engine: gristmill, which counts all text"),
        ({"engine": "tokenizers", "weights": {"language": {"de": 2}}}, "weights with engine: tokenizers"),
        ({"engine": "tokenizers", "superword": {}}, "superword with engine: tokenizers"),
        ({"engine": "tokenizers", "minimum_count": 2}, "minimum_count with engine: tokenizers"),
        ({"engine": "tokenizers", "algorithm": "unigram", "min_frequency": 3}, "min_frequency with algorithm: unigram"),
        ({"engine": "tokenizers", "algorithm": "wordpiece", "max_token_length": 9}, "max_token_length with algorithm"),
        ({"pattern": "custom"}, "pattern: custom and custom_pattern go together"),
        ({"custom_pattern": "a|b"}, "pattern: llama3 and custom_pattern"),
        ({"pattern": "custom", "custom_pattern": "("}, "regex"),
        ({"pattern": "custom", "custom_pattern": r"\S+|\s+", "digits": 2}, "digits"),
        ({"digits": 4}, "less than or equal to 3"),
        ({"weights": {"domain": {"x": 1}}}, "weights.domain without domain_field"),
        ({"weights": {"language": {"de": -1}}}, "weights.language.de is -1"),
        ({"weights": {"lang": {"de": 1}}}, "source"),
        ({"superword": {"start": 100}}, "superword.start: 100.0 gives 100 tokens"),
        ({"superword": {}, "parity": {}}, "superword and parity"),
        ({"superword": {}, "pattern": "custom", "custom_pattern": r"\S+|\s+"}, "superword with pattern: custom"),
        ({"special_tokens": ["<|user|>"]}, "is there already"),
        ({"special_tokens": ["<a>", "<a>"]}, "is there already"),
        ({"special_tokens": ["<|reserved_64|>"]}, "is there already"),
        ({"special_tokens": ["x"]}, "at least two printable"),
        ({"special_tokens": [f"<{i}>" for i in range(99)], "vocab_size": 400}, "vocab_size: 400 is less than the 169"),
        ({"vocab_size": 325}, "greater than or equal to 326"),
        ({"vocabsize": 325}, "Extra inputs"),
    ],
)
def test_knobs_that_do_not_go_together_are_named(knobs, message):
    with pytest.raises(ValidationError, match=message):
        TokenizerConfig.model_validate(knobs)


def test_special_tokens_and_padding(documents, tmp_path):
    config = TokenizerConfig(vocab_size=700, fim=True, tools=True, special_tokens=["<think>"], pad_to_multiple=128)
    facts = train_tokenizer(documents, config, tmp_path / "t")
    encoder = Encoder(tmp_path / "t")
    names = [*SPECIAL_TOKENS, *FIM, *TOOLS, "<think>"]
    assert [encoder.special_ids[name] for name in names] == list(range(78))
    assert facts["vocab_size"] == facts["vocab_size_wanted"] == encoder.vocab_size == 768
    assert [encoder.special_ids[f"<|reserved_{n}|>"] for n in range(64, 132)] == list(range(700, 768))
    assert len(read_merges(tmp_path / "t")) == 700 - 78 - 256
    for text in [*TEXTS, "<think><tool_call><|fim_prefix|><|reserved_64|>"]:
        ids = encoder.encode(text)
        assert encoder.decode(ids) == text and not set(ids.tolist()) & set(encoder.special_ids.values())


def test_smaller_vocabularies_are_those_of_their_own_training(documents, tmp_path, capsys):
    flags = ["--pattern", "o200k", "--pad-to-multiple", "64", "--special-tokens", "[<a>, <b>]", "--workers", "1"]
    inputs = [str(path) for path in documents]
    assert main(["train", *inputs, "--output", str(tmp_path / "t"), "--sizes", "900,500,700", *flags]) == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [facts["vocab_size"] for facts in printed] == [960, 512, 704]
    for size in (500, 700, 900):
        assert main(["train", *inputs, "--output", str(tmp_path / "one"), "--vocab-size", str(size), *flags]) == 0
        alone, together = files_of(tmp_path / "one"), files_of(tmp_path / f"t-{size}")
        alone.pop("counts/words.parquet")
        together.pop("counts/words.parquet", None)
        assert alone == together and len(alone) == 3
    with pytest.raises(TokenizerError, match="trained for 900 tokens, 901 are more"):
        truncate(tmp_path / "t-900", 901, tmp_path / "x")
    with pytest.raises(TokenizerError, match="vocab_size 300"):
        truncate(tmp_path / "t-900", 300, tmp_path / "x")
    for wrong in ("--sizes 9,x", "--sizes 100", "--sizes 900 --vocab-size 800", "--sizes 900 --engine tokenizers"):
        assert main(["train", *inputs, "--output", str(tmp_path / "x"), *wrong.split()]) == 2
    assert main(["train", *inputs, "--output", str(tmp_path / "x"), "--sizes", "900", "--superword", "{}"]) == 2
    assert not (tmp_path / "x").exists()


def test_two_stages_nest_from_the_second_on(documents, tmp_path):
    config = TokenizerConfig(vocab_size=900, superword={"start": 600, "words": 3})
    train_tokenizer(documents, config, tmp_path / "large")
    small = config.model_copy(update={"vocab_size": 700})
    train_tokenizer(documents, small, tmp_path / "small")
    truncate(tmp_path / "large", 700, tmp_path / "cut")
    alone = files_of(tmp_path / "small")
    assert alone.pop("counts/words.parquet") and alone.pop("counts/chunks.parquet")
    assert alone == files_of(tmp_path / "cut")
    encoder = Encoder(tmp_path / "small")
    assert all(encoder.decode(encoder.encode(text)) == text for text in TEXTS)
    with pytest.raises(TokenizerError, match="vocab_size 500"):
        truncate(tmp_path / "large", 500, tmp_path / "x")


def test_counts_of_parts_in_any_order_give_the_same_folder(documents, tmp_path):
    config = TokenizerConfig(vocab_size=800, minimum_count=2)
    train_tokenizer(documents, config, tmp_path / "whole")
    parts = [tmp_path / f"{n}.parquet" for n in range(3)]
    for file, part in zip(documents, parts, strict=True):
        count_documents([file], counting(config, "words.parquet"), part)
    train_from_parts({"words.parquet": parts[::-1]}, config, tmp_path / "parts", documents)
    assert files_of(tmp_path / "whole") == files_of(tmp_path / "parts")
    train_from_counts(tmp_path / "whole" / "counts", config, tmp_path / "again")
    assert files_of(tmp_path / "again")["tokenizer.json"] == files_of(tmp_path / "whole")["tokenizer.json"]
    assert read_training(tmp_path / "again")[0] == config


def test_the_command_trains_from_documents_in_processes_and_from_counts(documents, tmp_path, capsys):
    inputs = [str(path) for path in documents]
    assert main(["train", *inputs, "--output", str(tmp_path / "a"), "--vocab-size", "600", "--workers", "2"]) == 0
    table = str(tmp_path / "counts.parquet")
    assert main(["count", *inputs, "--output", table, "--workers", "1"]) == 0
    assert main(["train", "--counts", table, "--output", str(tmp_path / "b"), "--vocab-size", "600"]) == 0
    a, b = files_of(tmp_path / "a"), files_of(tmp_path / "b")
    assert a.pop("counts/words.parquet") and a == b
    capsys.readouterr()
    for flags, message in [
        (["--counts", table, "--pattern", "gpt2"], "was counted with regex"),
        (["--counts", table, "--normalization", "nfc"], "was counted with normalization"),
        (["--counts", table, "--engine", "tokenizers"], "trains on texts, not on counts"),
        (["--counts", table, "--superword", "{}"], "superword needs a folder with words.parquet and chunks.parquet"),
        (["--counts", table, "--weights", "{language: {xx: 2}}"], "weights.language.xx: .* has no such language"),
        (["--counts", table, "--weights", "{language: {de: 0, en: 0}}"], "weights leave no pre-token"),
        (["--counts", table, "--weights", "{language: ["], "--weights .*: not YAML"),
        (
            ["--counts", table, "--weights", "{language: {de: -1}}"],
            "^error: weights.language.de is -1.0; expected 0 to",
        ),
        (["--counts", table, "--weights", "{langage: {de: 1}}"], "^error: --weights.langage langage: "),
        (["--counts", table, "--vocab-size", "many"], "--vocab-size many"),
        (["--counts", table, "--algorithm", "unigram"], "algorithm: unigram with engine: gristmill"),
        (["--counts", table, *inputs], "either documents or --counts"),
        ([], "either documents or --counts"),
        (["--counts", str(documents[0])], "no column|not a counts table"),
        ([*inputs, "--workers", "0"], "--workers 0"),
        ([inputs[0], "--weights", "{language: {xx: 2}}"], f"{re.escape(inputs[0])} has no such language"),
    ]:
        assert main(["train", "--output", str(tmp_path / "x"), *flags]) == 2
        error = capsys.readouterr().err
        assert re.search(message, error), error
    assert not (tmp_path / "x").exists()


def test_weights_change_what_is_learned_and_zero_leaves_out(tmp_path):
    rows = rows_of([ARTICLES["en"]] * 30 + [ARTICLES["ru"]] * 3, language=["en"] * 30 + ["ru"] * 3)
    for number, row in enumerate(rows):
        row["site"] = f"s{number % 2}"
    files = write_documents(tmp_path / "d", rows)

    def cyrillic(**weights):
        config = TokenizerConfig(vocab_size=400, weights=weights, domain_field="site")
        train_tokenizer(files, config, tmp_path / "t")
        encoder = Encoder(tmp_path / "t")
        return len(encoder.encode(ARTICLES["ru"])), len(encoder.encode(ARTICLES["en"]))

    plain, heavy, without = cyrillic(), cyrillic(language={"ru": 30}), cyrillic(language={"en": 0})
    assert without[0] < heavy[0] < plain[0] and plain[1] < heavy[1] < without[1]
    assert cyrillic(domain={"s0": 2.0, "s1": 2.0}) == plain


def test_parity_by_config(tmp_path):
    rows = rows_of([ARTICLES["en"]] * 30 + [ARTICLES["ru"]] * 3, language=["en"] * 30 + ["ru"] * 3)
    files = write_documents(tmp_path / "d", rows)
    folder = tmp_path / "development"
    folder.mkdir()
    for name in ("en", "ru"):
        (folder / f"{name}.txt").write_text(ARTICLES[name] + "\n", "utf-8")
    sizes = {}
    for name, parity in [("plain", None), ("counts", {}), ("lines", {"development": str(folder)})]:
        train_tokenizer(files, TokenizerConfig(vocab_size=420, parity=parity), tmp_path / name)
        encoder = Encoder(tmp_path / name)
        sizes[name] = [len(encoder.encode(ARTICLES[language])) for language in ("en", "ru")]
    distance = {name: abs(a - b) for name, (a, b) in sizes.items()}
    assert distance["lines"] < 10 < distance["plain"]
    assert sizes["counts"][1] < sizes["plain"][1]
    (folder / "ru.txt").write_text("а\nб\n", "utf-8")
    with pytest.raises(TokenizerError, match="parallel ones have as many"):
        train_tokenizer(files, TokenizerConfig(parity={"development": str(folder)}), tmp_path / "x")
    (folder / "ru.txt").unlink()
    with pytest.raises(TokenizerError, match=r"ru\.txt"):
        train_tokenizer(files, TokenizerConfig(parity={"development": str(folder)}), tmp_path / "x")
    with pytest.raises(TokenizerError, match="parity needs at least two languages; the table holds en"):
        train_tokenizer(write_documents(tmp_path / "e", rows[:3]), TokenizerConfig(parity={}), tmp_path / "x")


@pytest.mark.parametrize("engine", ["gristmill", "tokenizers"])
def test_corpora_at_the_edge(tmp_path, engine, capsys):
    generator = random.Random(1)
    noise = bytes(generator.randrange(256) for _ in range(60_000)).decode("latin-1")
    corpora = {
        "one": ["Hello, hello!"],
        "chinese": [ARTICLES["zh"] * 40, "".join(generator.choices("人生而自由在尊严和权利上一律平等", k=3000))],
        "noise": [noise, "\x00\x01\ud7ff" * 500],
        "megabyte": ["a" * 1_000_000, "b c " * 9],
    }
    for name, texts in corpora.items():
        files = write_documents(tmp_path / "d" / name, rows_of(texts))
        out = tmp_path / name
        flags = ["--output", str(out), "--vocab-size", "2000", "--engine", engine, "--workers", "1"]
        assert main(["train", str(files[0]), *flags]) == 0
        printed = capsys.readouterr()
        facts = json.loads(printed.out)
        assert 326 < facts["vocab_size"] <= 2000
        assert ("fewer than 2000" in printed.err) == (facts["vocab_size"] < 2000)
        encoder = Encoder(out)
        for text in [*texts, *TEXTS]:
            assert encoder.decode(encoder.encode(text)) == text
    files = write_documents(tmp_path / "d" / "empty", rows_of([""]))
    assert main(["train", str(files[0]), "--output", str(tmp_path / "x"), "--engine", engine]) == 2
    assert "no text to train" in capsys.readouterr().err and not (tmp_path / "x").exists()


@pytest.mark.parametrize("algorithm", ["bpe", "unigram", "wordpiece"])
def test_the_library_trains_lossless_tokenizers(documents, tmp_path, algorithm):
    config = TokenizerConfig(
        vocab_size=1000, algorithm=algorithm, engine="tokenizers", fim=True, pad_to_multiple=128, pattern="gpt2"
    )
    facts = train_tokenizer(documents, config, tmp_path / "t")
    assert facts["vocab_size"] == facts["vocab_size_wanted"] == 1024
    encoder = Encoder(tmp_path / "t")
    assert list(encoder.special_ids)[:70] == list(SPECIAL_TOKENS) and encoder.special_ids[FIM[0]] == 70
    spelled = ["".join(SPECIAL_TOKENS), " ".join(SPECIAL_TOKENS), *SPECIAL_TOKENS, "## a→b →", "a" * 9000]
    tokens = 0
    for text in [*TEXTS, *spelled]:
        ids = encoder.encode(text)
        assert encoder.decode(ids) == text and not set(ids.tolist()) & set(encoder.special_ids.values())
        tokens += len(ids)
    assert tokens < 0.6 * sum(len(text.encode()) for text in [*TEXTS, *spelled])
    if algorithm == "bpe":
        train_tokenizer(documents, TokenizerConfig(vocab_size=1000, fim=True, pattern="gpt2"), tmp_path / "own")
        assert np.array_equal(read_merges(tmp_path / "own"), read_merges(tmp_path / "t"))
    else:
        with pytest.raises(TokenizerError, match="smaller vocabularies nest in our own bpe only"):
            truncate(tmp_path / "t", 800, tmp_path / "x")


def test_a_special_token_that_text_could_become_is_refused_for_the_library(documents, tmp_path):
    config = TokenizerConfig(vocab_size=600, engine="tokenizers", special_tokens=["@user"])
    with pytest.raises(TokenizerError, match="@user is a single pre-token under pattern: llama3"):
        train_tokenizer(documents, config, tmp_path / "t")
    rows = rows_of(["@user says @user " * 50])
    train_tokenizer(
        write_documents(tmp_path / "d", rows), TokenizerConfig(vocab_size=600, special_tokens=["@user"]), tmp_path / "t"
    )
    encoder = Encoder(tmp_path / "t")
    assert 70 not in encoder.encode("@user says") and encoder.special_ids["@user"] == 70
