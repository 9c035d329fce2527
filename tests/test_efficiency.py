"""Metrics against values worked out by hand; words, curves, classes and groups against their definitions."""

from __future__ import annotations

import json
import math
import shutil
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tests.tokens_corpus import ARTICLES, NASTY, python_texts, rows_of, write_documents
from tokenizer_training.cli import main
from tokenizer_training.config import TokenizerError
from tokenizer_training.efficiency import metrics
from tokenizer_training.efficiency.compare import check_alike, compare, unlike
from tokenizer_training.efficiency.definitions import METRICS, definitions_markdown
from tokenizer_training.efficiency.glitch import glitch_candidates, indicators
from tokenizer_training.efficiency.measure import evaluate, measure, rank_frequency
from tokenizer_training.efficiency.nesting import cost_curve, ladder, size_curve, tokens_by_merges
from tokenizer_training.efficiency.parallel import measure_parallel, read_parallel, shipped
from tokenizer_training.efficiency.peers import open_peer
from tokenizer_training.efficiency.reach import CLASSES, partial_tokens, reach_classes, shown
from tokenizer_training.efficiency.sample import read_sample
from tokenizer_training.efficiency.words import (
    SEGMENTER,
    CharacterTable,
    code_points,
    count_words,
    scripts_of,
    segment,
)
from tokenizer_training.encoding.encoder import Encoder
from tokenizer_training.vocabulary.config import TokenizerConfig
from tokenizer_training.vocabulary.train import train_tokenizer

TEN = ["the cat sat", "the dog", "a cat", "the end", "no", "yes", "the", "the cat", "sat", "end"]  # ten lines, 16 words


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    files = write_documents(folder / "d", rows_of([*python_texts(40), *ARTICLES.values(), *TEN]))
    train_tokenizer(files, TokenizerConfig(vocab_size=900), folder / "t")
    return folder / "t", files


def test_ratios_of_ten_lines():
    size, tokens = sum(map(len, TEN)), 24
    assert size == 51
    assert metrics.ratio(size, tokens) == pytest.approx(51 / 24)
    assert metrics.ratio(1, 0) is None
    # "the" 5 times as 1 token, "cat" 3 times as 2, "sat" 2 times as 3
    cuts, counts = np.array([1, 2, 3]), np.array([5, 3, 2])
    assert metrics.fertility(cuts, counts) == (5 + 6 + 6) / 10
    assert metrics.continued_word_share(cuts, counts) == 0.5
    assert metrics.single_token_retention_rate(cuts, counts) == 0.5
    assert metrics.fertility(cuts[:0], counts[:0]) is None


def test_entropies():
    counts = np.array([4, 2, 1, 1, 0])  # p = 1/2, 1/4, 1/8, 1/8: 1.75 bits
    assert metrics.entropy(counts) == 1.75
    assert metrics.unigram_bits_per_byte(counts, 28) == 0.5
    collision = 1 / 4 + 1 / 16 + 2 / 64  # order 2
    assert metrics.renyi_efficiency(counts, 16, 2.0) == pytest.approx(-math.log2(collision) / 4)
    assert metrics.renyi_efficiency(np.array([3, 3, 3, 3]), 4) == pytest.approx(1)
    assert metrics.renyi_efficiency(np.array([9, 0]), 2) == 0
    assert metrics.renyi_efficiency(np.array([0, 0]), 2) is None
    assert metrics.entropy(np.array([0])) == 0


def test_model_bits_per_byte_leave_special_tokens_out():
    lengths = np.array([0, 3, 5])  # id 0 is special
    targets = np.array([1, 2, 0, 1])
    assert metrics.target_bytes(targets, lengths) == 11
    assert metrics.bits_per_byte(11 * math.log(2), 11) == pytest.approx(1)
    assert metrics.bits_per_byte(1.0, 0) is None


@settings(deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=12))
def test_gini_is_the_double_sum(costs):
    mean = sum(costs) / len(costs)
    expected = sum(abs(a - b) for a in costs for b in costs) / (2 * len(costs) ** 2 * mean) if mean else None
    assert metrics.gini(np.array(costs)) == (pytest.approx(expected) if expected is not None else None)


def test_shares_of_the_vocabulary():
    counts = np.array([0, 0, 1, 4, 5, 9])
    assert metrics.used_share(counts, 5) == 4 / 5
    assert metrics.dead_tail_share(counts, 5, 5) == 3 / 5
    assert metrics.byte_fallback_rate(counts, np.array([0, 0, 1, 1, 0, 0], bool)) == 5 / 19
    assert rank_frequency(counts) == [[1, 9], [2, 5], [3, 4], [4, 1]]
    assert rank_frequency(np.zeros(3, int)) == []


def test_costs():
    flops = metrics.flops_per_byte(100, 10, 2, 7, np.array([50, 60]), np.array([0.5, 0.25]))
    assert flops.tolist() == [(600 + 3000 + 12 * 2 * 10 * 7) / 2, (600 + 3600 + 1680) / 4]
    assert metrics.context_pages(6000, 4.0) == 8
    curve = [{"vocab_size": v, "bytes_per_token": b} for v, b in ((50, 2.0), (60, 4.0), (70, 4.0))]
    found = cost_curve(curve, {"parameters": 100, "width": 10, "layers": 2, "context": 7})
    assert found["best_vocab_size"] == 60 and found["best_flops_per_byte"] == 1470 and not found["at_end"]
    assert cost_curve(curve[:2], {"parameters": 100, "width": 10, "layers": 2, "context": 7})["at_end"]


LETTERS = st.sampled_from(list("aZé9_. \n\x00ßжא漢かカสก็်မက្ខ한\u0301\u200d\ufe0f😀२१"))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(LETTERS, max_size=20), max_size=4))
def test_words_are_those_of_the_regular_expression(texts):
    table = CharacterTable()
    expected = Counter()
    for number, text in enumerate(texts):
        points = code_points(text)
        table.learn(points)
        starts, ends = segment(points, table)
        found = [text[a:b] for a, b in zip(starts, ends, strict=True)]
        assert found == regex.findall(SEGMENTER, text)
        expected.update((number % 2, word) for word in found)
    groups = np.arange(len(texts)) % 2
    words, group, word, count = count_words(texts, groups, table)
    names = words.to_pylist()
    pairs = zip(group.tolist(), word.tolist(), count.tolist(), strict=True)
    assert {(g, names[w]): n for g, w, n in pairs} == expected


def test_scripts():
    table = CharacterTable()
    wanted = {"en": "Latin", "ru": "Cyrillic", "zh": "Han", "hi": "Devanagari", "th": "Thai", "ar": "Arabic"}
    assert scripts_of([ARTICLES[code] for code in wanted], table) == list(wanted.values())
    texts = ["すべての人間は自由", "12 + 3 \x00", "", "𐍈𐍈", "人ab人", "漢字" * 20 + "カ"]
    assert scripts_of(texts, table) == ["Japanese", "no letters", "no letters", "other script", "Latin", "Han"]


def test_every_smaller_vocabulary_is_the_tokenizer_with_fewer_merges(trained):
    folder, _ = trained
    text = "\n".join([*python_texts(3), *ARTICLES.values()])
    peer = open_peer(str(folder))
    ids, _ = peer.encode_batch([text])
    counts = np.bincount(ids, minlength=peer.vocab_size)
    merges = peer.merges()
    assert merges is not None
    tokens = tokens_by_merges(counts, merges)
    assert tokens[-1] == len(ids) and tokens[0] == len(text.encode())
    content = json.loads((folder / "tokenizer.json").read_text())
    every = content["model"]["merges"]
    for k in (1, 37, 200, len(every) - 5):
        content["model"]["merges"] = every[:k]
        assert tokens[k] == len(Tokenizer.from_str(json.dumps(content)).encode(text).ids)
    curve = size_curve(counts, merges, len(text.encode()))
    assert curve[-1]["vocab_size"] == peer.vocab_size and curve[-1]["tokens"] == len(ids)
    sizes = [point["bytes_per_token"] for point in curve]
    assert sizes == sorted(sizes)
    assert ladder(326, 326).tolist() == [326]


def test_classes_of_reach(trained):
    peer = open_peer(str(trained[0]))
    classes = reach_classes(peer)
    names = Counter(CLASSES[code] for code in classes.tolist())
    assert names["SPECIAL"] == len(peer.specials) and names["UNDECODEABLE"] >= 128 and names["UNREACHABLE_MULTI"] == 0
    assert sum(names.values()) == peer.vocab_size and names["OK"] > 300
    assert partial_tokens([b"a", b"\xc3", b"\xc3\xa9", b"\xa9b"]).tolist() == [False, True, False, True]
    assert [shown(piece) for piece in (b"a b", b"\n\x1b", b"\xe2\x82", "é\u202e".encode())] == [
        "a b", "\\n\\x1b", "\\xe2\\x82", "é\\u202e",
    ]  # fmt: skip


def test_a_token_whose_merge_is_gone_is_unreachable(trained, tmp_path):
    content = json.loads((trained[0] / "tokenizer.json").read_text())
    lost = content["model"]["merges"].pop()
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    peer = open_peer(str(tmp_path))
    number = content["model"]["vocab"]["".join(lost if isinstance(lost, list) else lost.split(" "))]
    assert CLASSES[reach_classes(peer)[number]] in ("UNREACHABLE_MULTI", "UNDECODEABLE")


def test_groups_add_up_to_the_whole(trained, tmp_path):
    texts = [*ARTICLES.values(), *TEN]
    labels = {
        "language": [*ARTICLES, *["", "en"] * 5],
        "source": ["udhr"] * 7 + ["lines"] * 10,
        "host": [f"h{n % 3}" for n in range(17)],
    }
    files = write_documents(tmp_path / "d", rows_of(texts, **labels), 2)
    from tokenizer_training.corpus.documents import Fields

    facts = evaluate(trained[0], files, fields=Fields(domain="host"))
    encoder = Encoder(trained[0])
    for key in ("bytes", "characters", "tokens", "words", "documents"):
        for group in ("by_language", "by_source", "by_domain", "by_script"):
            assert sum(row[key] for row in facts[group].values()) == facts["total"][key], (group, key)
    assert facts["by_language"]["unknown"]["documents"] == 5
    assert set(facts["by_domain"]) == {"h0", "h1", "h2"}
    lines = facts["by_source"]["lines"]
    words = [word for text in TEN for word in regex.findall(SEGMENTER, text)]
    cuts = [len(encoder.encode(word)) for word in words]
    assert lines["words"] == 16 and lines["fertility"] == sum(cuts) / 16
    assert lines["single_token_retention_rate"] == sum(n == 1 for n in cuts) / 16
    ids = [i for text in TEN for i in encoder.encode(text).tolist()]
    assert lines["tokens"] == len(ids) and lines["tokens_used"] == len(set(ids))
    shares = [n / len(ids) for n in Counter(ids).values()]
    assert lines["unigram_bits_per_byte"] == pytest.approx(-sum(p * math.log2(p) for p in shares) * len(ids) / 51)
    assert {name: row["documents"] for name, row in facts["by_script"].items()}["Latin"] == 12


def test_the_report_depends_on_documents_not_files(trained, tmp_path):
    rows = rows_of([*ARTICLES.values(), *TEN, *NASTY])
    one = evaluate(trained[0], write_documents(tmp_path / "a", rows, 1), max_bytes=1500)
    two = evaluate(trained[0], write_documents(tmp_path / "b", rows[::-1], 3), max_bytes=1500)
    assert one["sample_bytes"] < one["corpus_bytes"]
    assert {**one, "manifest": None} == {**two, "manifest": None}
    assert "speed" not in one


@pytest.mark.parametrize(
    "texts",
    [
        ["x"],
        [ARTICLES["zh"]],
        ["\x00\xff\x7f" * 50 + "\udc80", "\u0080\ufffd\u0001"],
        ["", " ", "\n"],
        ["<script>alert(1)</script>\x1b[31m"],
    ],
    ids=["one letter", "Chinese", "noise", "white space", "markup"],
)
def test_unusual_corpora_are_measured(trained, tmp_path, texts):
    kept = [text.encode("utf-8", "replace").decode() for text in texts]
    facts = evaluate(trained[0], write_documents(tmp_path / "d", rows_of(kept, language=[""] * len(kept))))
    assert facts["lossless_share"] == 1 and facts["total"]["documents"] == len(texts)
    assert set(facts["by_language"]) == {"unknown"}
    json.dumps(facts, allow_nan=False)


def test_only_empty_texts_are_refused(trained, tmp_path):
    with pytest.raises(TokenizerError, match="no text"):
        evaluate(trained[0], write_documents(tmp_path / "d", rows_of(["", ""])))


def test_the_shipped_parallel_text(trained):
    parallel = shipped()
    assert len(parallel.lines) == 56 and {len(lines) for lines in parallel.lines.values()} == {10}
    assert parallel.lines["en"][0] == ARTICLES["en"] and set(parallel.names) == set(parallel.lines)
    for lines in parallel.lines.values():
        assert all(line and line == unicodedata.normalize("NFC", line) and "\n" not in line for line in lines)
    found = measure_parallel(open_peer(str(trained[0])), parallel)
    rows = found["languages"]
    assert rows["en"]["parity"] == 1 and rows["ru"]["parity"] == rows["ru"]["tokens"] / rows["en"]["tokens"]
    costs = [row["tokens"] / 10 for row in rows.values()]
    mean = sum(costs) / len(costs)
    assert found["gini"] == pytest.approx(sum(abs(a - b) for a in costs for b in costs) / (2 * 56**2 * mean))


def test_a_parallel_folder(trained, tmp_path):
    (tmp_path / "eng.txt").write_text("one\ntwo\n")
    (tmp_path / "deu.txt").write_text("eins\n\n")
    found = measure_parallel(open_peer(str(trained[0])), read_parallel(tmp_path))
    assert found["english"] == "eng" and found["lines"] == 2 and set(found["languages"]) == {"eng", "deu"}
    (tmp_path / "deu.txt").write_text("eins\n")
    with pytest.raises(TokenizerError, match="line-aligned"):
        read_parallel(tmp_path)
    with pytest.raises(TokenizerError, match="two or more"):
        read_parallel(tmp_path / "no")


def test_totals_of_a_counts_table(trained, tmp_path):
    texts = [*ARTICLES.values(), *TEN, *NASTY, "x" * 20_000]
    rows = rows_of(texts, source=["a", "b", ""] * 13 + ["a"] * (len(texts) - 39), host=["x.org"] * len(texts))
    files = write_documents(tmp_path / "d", rows)
    table = tmp_path / "counts" / "corpus.parquet"
    table.parent.mkdir()
    assert main(["count", *map(str, files), "--output", str(table), "--domain-field", "host", "--workers", "1"]) == 0
    facts = evaluate(trained[0], files, counts_table=table)
    counted = facts["counted"]
    for name, row in {"total": facts["total"], **facts["by_source"]}.items():
        found = counted["total"] if name == "total" else counted["by_source"][name]
        assert (found["bytes"], found["tokens"]) == (row["bytes"], row["tokens"]), name
    assert set(counted["by_domain"]) == {"x.org"} and counted["dropped_pretokens"] == 0
    folder = tmp_path / "copy"
    shutil.copytree(trained[0], folder)
    assert "counted" not in evaluate(folder, files)
    shutil.copytree(table.parent, folder / "counts")
    assert evaluate(folder, files)["counted"] == counted
    other = tmp_path / "other.parquet"
    assert main(["count", *map(str, files), "--output", str(other), "--pattern", "gpt2", "--workers", "1"]) == 0
    with pytest.raises(TokenizerError, match="another split pattern"):
        evaluate(folder, files, counts_table=other)
    shutil.copy(other, folder / "counts" / "corpus.parquet")
    assert "counted" not in evaluate(folder, files)  # what lies there is of another tokenizer
    for wrong, message in ((tmp_path / "missing", "no counts table"), (files[0], "pretoken")):
        with pytest.raises(TokenizerError, match=message):
            evaluate(trained[0], files, counts_table=wrong)


def write_safetensors(file: Path, name: str, values: np.ndarray, kind: str = "F32") -> None:
    header = {name: {"dtype": kind, "shape": list(values.shape), "data_offsets": [0, values.nbytes]}}
    raw = json.dumps(header).encode()
    file.write_bytes(len(raw).to_bytes(8, "little") + raw + values.tobytes())


def test_glitch_candidates(trained, tmp_path):
    peer = open_peer(str(trained[0]))
    values = np.random.default_rng(0).normal(size=(peer.vocab_size, 8)).astype(np.float32)
    values[peer.never_trained()] *= 0.01
    planted = peer.encode("zz")[0]
    values[planted] *= 0.01
    write_safetensors(tmp_path / "model.safetensors", "model.embed_tokens.weight", values)
    counts = np.ones(peer.vocab_size, np.int64)
    found = glitch_candidates(peer, tmp_path, counts)["input"]
    for indicator in ("norm", "distance"):
        assert found[indicator]["candidates"][0]["id"] == planted
        assert found[indicator]["candidates"][0]["value"] == pytest.approx(
            indicators(values, np.array(peer.never_trained()))[indicator][planted]
        )
    assert found["norm"]["within_unused"] in (0, 1) and found["unused_reference"] == 64
    halves = (values.view(np.uint32) >> 16).astype(np.uint16)
    write_safetensors(tmp_path / "model.safetensors", "lm_head.weight", halves, "BF16")
    found = glitch_candidates(peer, tmp_path, counts)
    assert list(found) == ["output"] and found["output"]["norm"]["candidates"][0]["id"] == planted
    write_safetensors(tmp_path / "model.safetensors", "lm_head.weight", values[:9])
    with pytest.raises(TokenizerError, match="expected a row for each"):
        glitch_candidates(peer, tmp_path, counts)
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(TokenizerError, match="not a readable safetensors"):
        glitch_candidates(peer, tmp_path, counts)
    with pytest.raises(TokenizerError, match="no such folder"):
        glitch_candidates(peer, tmp_path / "no", counts)


def test_unlike_settings_are_refused_with_their_reasons(trained, tmp_path):
    folder, files = trained
    train_tokenizer(files, TokenizerConfig(vocab_size=600, normalization="nfc"), tmp_path / "nfc")
    sample = read_sample(files, 10**9)
    alike = compare([str(folder), f"again={folder}"], sample)
    assert unlike(alike) == [] and check_alike(alike, False) == []
    assert alike[1]["normalized_sequence_length"]["total"] == 1
    both = compare([str(folder), str(tmp_path / "nfc")], sample)
    ratio = both[1]["total"]["tokens"] / both[0]["total"]["tokens"]
    assert both[1]["normalized_sequence_length"]["total"] == ratio > 1
    with pytest.raises(TokenizerError, match="nfc: does not give back decomposed letters"):
        check_alike(both, False)
    assert [one["name"] for one in check_alike(both, True)] == ["nfc"]


def test_saved_reports_compare_only_on_the_same_sample(trained, tmp_path):
    from tokenizer_training.dataset.layout import write_json

    folder, files = trained
    sample = read_sample(files, 10**9)
    write_json(tmp_path / "one.json", measure(open_peer(str(folder)), sample))
    other = read_sample(write_documents(tmp_path / "d", rows_of(TEN)), 10**9)
    write_json(tmp_path / "two.json", measure(open_peer(str(folder)), other) | {"segmenter": r"\w+"})
    same = compare([str(tmp_path / "one.json"), str(folder)], sample)
    assert unlike(same) == [] and [facts["name"] for facts in same] == ["t", "t (2)"]
    with pytest.raises(TokenizerError, match=r"another corpus or sample.*another segmenter"):
        check_alike(compare([str(tmp_path / "one.json"), str(tmp_path / "two.json")], None), False)
    with pytest.raises(TokenizerError, match="--documents"):
        compare([str(tmp_path / "one.json"), str(folder)], None)
    (tmp_path / "bad.json").write_text('{"tokenizer_sha256": 1}')
    with pytest.raises(TokenizerError, match=r"not a report\.json"):
        compare([str(tmp_path / "bad.json")], None)


def test_every_definition_is_in_the_docs():
    docs = (Path(__file__).parents[1] / "docs" / "efficiency.md").read_text(encoding="utf-8")
    assert definitions_markdown() in docs
    assert len({metric.field for metric in METRICS}) == len(METRICS)


@pytest.mark.parametrize(
    "knobs",
    [
        {"engine": "tokenizers", "algorithm": "unigram"},
        {"engine": "tokenizers", "algorithm": "wordpiece"},
        {"superword": {"start": 0.8}},
        {"fim": True, "pad_to_multiple": 128, "pattern": "o200k"},
        {"pattern": "custom", "custom_pattern": r"\p{L}+|\P{L}+"},
    ],
    ids=["unigram", "wordpiece", "superword", "padded", "custom"],
)
def test_every_kind_of_tokenizer_is_measured(trained, tmp_path, knobs):
    _, files = trained
    train_tokenizer(files, TokenizerConfig.model_validate({"vocab_size": 700, **knobs}), tmp_path / "t")
    facts = evaluate(tmp_path / "t", files)
    peer = open_peer(str(tmp_path / "t"))
    assert facts["lossless_share"] == 1 and not facts["settings"]["losses"]
    assert sum(facts["health"]["classes"].values()) == facts["vocab_size"] == peer.vocab_size
    text = TEN[0] + ARTICLES["th"]
    assert b"".join(peer.pieces[i] for i in peer.encode(text)) == text.encode()
    for point in facts["size_curve"]:
        assert point["tokens"] >= facts["total"]["tokens"]
    assert bool(facts["size_curve"]) == ("engine" not in knobs)
