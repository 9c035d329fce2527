"""Strategies of packing: where documents are cut, what rows hold, proportions of prefixes, and sums."""

import random
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.tokens_chat import chat_dataset, conversations
from tests.tokens_corpus import rows_of, write_documents
from tests.tokens_dataset import CONFIG, MODULES, TEXTS, build, build_rows
from tokenizer_training.cli import main
from tokenizer_training.config import TokenizerError
from tokenizer_training.dataset import bins
from tokenizer_training.dataset.boundaries import flags_of, token_flags
from tokenizer_training.dataset.config import PackConfig
from tokenizer_training.dataset.loader import read_rows
from tokenizer_training.dataset.pack import build_pack
from tokenizer_training.dataset.read import TokenDataset
from tokenizer_training.dataset.verify import verify
from tokenizer_training.encoding.encoder import Encoder


def sums_of(dataset, split="train"):
    (pack,) = dataset.facts["pack"].values()
    return pack["splits"][split]


def pieces_of(dataset, split="train", length=128):
    packed = dataset.packed(split, length)
    return [piece for row in range(len(packed)) for piece in dataset.documents_in_row(packed, row)]


def test_tokens_that_end_sentences_and_lines():
    tokens = [
        b"a",
        b".",
        b'."',
        b". ",
        b".\n",
        b"\n\n",
        b" the",
        b"\n",
        "。".encode(),
        b"?",
        b"x.y",
        "\u2026".encode(),
        b"",
        b'"',
    ]
    flags = flags_of(token_flags(tokens, turns=[13])).tolist()
    ends, may, starts, turn = bins.ENDS, bins.MAY_END, bins.STARTS, bins.TURN
    line = ends | starts
    assert flags == [0, may, may, ends, ends, line, starts, line, ends, may, 0, may, 0, turn | starts]


@pytest.mark.parametrize("strategy", ["best_fit", "bucketed", "document"])
def test_long_documents_are_cut_where_sentences_or_lines_end(tokenizer, tmp_path, strategy):
    dataset = build_rows(tmp_path, tokenizer, rows_of(MODULES), strategy=strategy)
    encoder = Encoder(tokenizer)
    cuts = Counter()
    for piece in pieces_of(dataset):
        if not piece.ends and piece.length < 128:
            tokens = dataset.document(piece.id)
            at = piece.document_offset + piece.length
            before, after = encoder.decode(tokens[:at]), encoder.decode(tokens[at : at + 1])
            good = before.rstrip(" \t").endswith("\n") or (
                before.rstrip("\"')]} \t")[-1:] in ".!?" and (after[:1].isspace() or before[-1:].isspace())
            )
            cuts[good] += 1
            assert piece.length > 128 - 128 // 4
    assert cuts[False] == 0 and cuts[True] > 50
    assert verify(dataset.path) == []
    anywhere = build_rows(tmp_path / "any", tokenizer, rows_of(MODULES), strategy=strategy, split="anywhere")
    assert all(piece.ends or piece.length == 128 for piece in pieces_of(anywhere))


def test_a_gap_at_a_sentence_end_is_filled_by_a_whole_document():
    """One long document with an end 10 tokens before the row's, one of exactly 10: nothing is padded."""
    tokens = np.zeros(100, np.uint16)
    tokens[53] = 1
    flags = np.array([0, bins.ENDS], np.uint8)
    lengths = np.array([80, 10])
    out = [np.empty(10, np.int64) for _ in range(4)]
    avail = np.bincount([10], minlength=17)
    count = bins.cut(tokens, flags, np.array([0, 80]), lengths, 64, 4, 16, avail, False, *out, 0)
    assert [column[:count].tolist() for column in out] == [[0, 0, 1], [0, 54, 80], [54, 26, 10], [10, 0, 0]]
    rows = np.empty(count, np.int64)
    assert bins.fit(out[2][:count], out[3][:count], 64, rows) == 2 and rows.tolist() == [0, 1, 0]


def test_capacities_beyond_a_word_of_words():
    generator = random.Random(2)
    for capacity in (4096, 4097, 70_000, 300_000):
        lengths = [generator.randint(1, capacity) for _ in range(400)]
        rows = np.empty(400, np.int64)
        count = bins.fit(np.array(lengths), np.zeros(400, np.int64), capacity, rows)
        spaces = []
        for length in sorted(lengths, reverse=True):
            tightest = min((space for space in spaces if space >= length), default=None)
            if tightest is not None:
                spaces.remove(tightest)
            spaces.append((capacity if tightest is None else tightest) - length)
        filled = np.bincount(rows, lengths, count).astype(int)
        assert sorted(capacity - fill for fill in filled.tolist()) == sorted(spaces)


def test_bucketed_rows_hold_documents_of_like_lengths(tokenizer, tmp_path):
    dataset = build_rows(tmp_path, tokenizer, rows_of(TEXTS), strategy="bucketed")
    packed = dataset.packed("train", 128)
    mixed = 0
    for row in range(len(packed)):
        lengths = [length for _, _, length in packed.spans(row)]
        assert len({(length - 1).bit_length() for length in lengths}) == 1
        mixed += len(set(lengths)) > 1
    assert mixed > 10 and sums_of(dataset)["tokens_dropped"] == 0 and verify(dataset.path) == []


def test_document_strategy_and_leaving_out_the_longer(tokenizer, tmp_path):
    dataset = build_rows(tmp_path, tokenizer, rows_of(TEXTS), strategy="document", longer="drop")
    sums, lengths = sums_of(dataset), []
    for number in range(len(dataset.splits["train"])):
        lengths += (dataset.sidecar("train", number).lengths + 1).tolist()
    longer = [length for length in lengths if length > 128]
    assert longer and sums["documents_dropped"] == len(longer) == sums["documents_longer_than_row"]
    assert sums["tokens_dropped"] == sum(longer) and sums["documents_cut"] == sums["tokens_cut"] == 0
    assert sums["rows"] == len(lengths) - len(longer) and sums["most_documents_in_row"] == 1
    assert sums["tokens_kept"] + sums["tokens_padded"] == sums["rows"] * 128
    assert sums["tokens_in"] == sum(lengths) == dataset.tokens("train")
    assert sorted(piece.length for piece in pieces_of(dataset)) == sorted(n for n in lengths if n <= 128)
    assert sum(one["tokens"] for one in sums["mixture"].values()) == sums["tokens_kept"]
    assert verify(dataset.path) == []
    with pytest.raises(ValueError, match="longer: drop needs another strategy"):
        PackConfig(strategy="concat", longer="drop")


def test_report_of_lengths_and_rows(dataset):
    sums = sums_of(dataset)
    lengths = np.concatenate([dataset.sidecar("train", n).lengths + 1 for n in range(len(dataset.splits["train"]))])
    histogram = Counter(1 << (int(length) - 1).bit_length() for length in lengths)
    assert sums["document_lengths"] == {str(k): v for k, v in sorted(histogram.items())}
    packed = dataset.packed("train", 128)
    fill = Counter(sum(n for *_, n in packed.spans(row)) * 10 // 128 for row in range(len(packed)))
    assert list(sums["row_fill"].values()) == [fill[tenth] for tenth in range(11)]
    sources = Counter()
    for number in range(len(dataset.splits["train"])):
        sources.update(dataset.sidecar("train", number).sources.to_pylist())
    assert {name: one["documents"] for name, one in sums["mixture"].items()} == dict(sources)
    assert sums["most_documents_in_row"] == max(len(packed.spans(row)) for row in range(len(packed)))


@pytest.mark.parametrize("strategy", ["best_fit", "concat", "document"])
def test_every_prefix_holds_the_proportions_of_the_sources(tokenizer, tmp_path, strategy):
    draw = random.Random(4)
    rows = rows_of(TEXTS)
    for row in rows:
        row["source"] = draw.choices(["web", "books", "code"], [80, 15, 5])[0]
    dataset = build_rows(tmp_path, tokenizer, rows, strategy=strategy, interleave="source")
    packed = dataset.packed("train", 128)
    order = []
    for row in range(len(packed)):
        sources = {piece.source for piece in dataset.documents_in_row(packed, row)}
        assert len(sources) == 1
        order.append(sources.pop())
    totals = Counter(order)
    assert len(totals) == 3
    taken = Counter()
    for at, source in enumerate(order, 1):
        taken[source] += 1
        for name, total in totals.items():
            assert abs(taken[name] - at * total / len(order)) < 1, (at, name)
    assert sums_of(dataset)["tokens_kept"] == dataset.tokens("train") and verify(dataset.path) == []
    with pytest.raises(TokenizerError, match="needs documents of a mix"):
        build_rows(tmp_path / "g", tokenizer, rows, interleave="group")


def test_proportions_hold_for_any_numbers():
    draw = random.Random(8)
    for _ in range(40):
        sizes = np.array([draw.choice([1, 2, 7, 50, 333]) for _ in range(draw.randint(1, 12))])
        taken, total = np.zeros(len(sizes), np.int64), int(sizes.sum())
        order = np.empty(total, np.int64)
        cut = draw.randint(0, total)  # it can be drawn in parts
        bins.in_proportion(sizes, taken, 0, order[:cut])
        bins.in_proportion(sizes, taken, cut, order[cut:])
        assert np.array_equal(np.bincount(order, minlength=len(sizes)), sizes)
        counts = np.cumsum(order[:, None] == np.arange(len(sizes)), axis=0)
        assert (np.abs(counts - np.arange(1, total + 1)[:, None] * sizes / total) < 1).all()


def test_groups_of_the_mix_interleave_and_stand_in_the_sidecar(tokenizer, tmp_path):
    groups = [f"g{number % 3}" if number % 5 else None for number in range(len(TEXTS))]
    rows = rows_of(TEXTS, mix_group=groups)
    dataset = build_rows(tmp_path, tokenizer, rows, interleave="group")
    sidecar = pq.read_table(dataset.path / "train-00000.parquet")
    wanted = {row["id"]: row["mix_group"] or "" for row in rows}
    assert sidecar.column("group").to_pylist() == [wanted[i] for i in sidecar.column("id").to_pylist()]
    packed = dataset.packed("train", 128)
    for row in range(len(packed)):
        assert len({wanted[piece.id] for piece in dataset.documents_in_row(packed, row)}) == 1
    assert set(sums_of(dataset)["mixture"]) == {"", "g0", "g1", "g2"} and verify(dataset.path) == []


def test_conversations_are_cut_before_a_turn_of_the_user(tokenizer, tmp_path):
    dataset = chat_dataset(tmp_path, tokenizer, conversations(80))
    packed, sums = dataset.packed("train", 128), sums_of(dataset)
    user, eos = dataset.facts["special_ids"]["<|user|>"], 0
    turns = 0
    for row in range(len(packed)):
        for piece in dataset.documents_in_row(packed, row):
            if not piece.ends:
                following = dataset.document(piece.id)[piece.document_offset + piece.length]
                turns += following == user
    assert turns > 20 and sums["documents_cut"] > 20
    batch = read_rows(packed, range(len(packed)))
    kept = sum(int(entry["trained"]) for entry in dataset.splits["train"])
    assert int(batch.mask.sum()) == kept, "every trained token is in a row, and no other is trained"
    assert not batch.mask[batch.tokens == eos].any()
    for tokens, documents, mask in zip(batch.tokens, batch.documents, batch.mask, strict=True):
        for number in range(documents.max() + 1):
            if number == documents.max() or mask[documents == number].any():
                continue
            pytest.fail(f"a piece trains nothing: {tokens[documents == number]}")
    assert sums["tokens_in"] == sums["tokens_kept"] + sums["tokens_dropped"] and verify(dataset.path) == []


def test_pieces_of_conversations_without_an_answer_are_left_out_and_counted(tokenizer, tmp_path):
    long = " ".join(["word"] * 300)
    messages = [{"role": "user", "content": long}, {"role": "assistant", "content": "yes"}]
    rows = [{"id": str(n), "source": "s", "messages": messages} for n in range(3)]
    dataset = chat_dataset(tmp_path, tokenizer, rows, validation=0.0)
    sums = sums_of(dataset)
    assert sums["pieces_dropped"] >= 3 and sums["tokens_dropped"] > 0 and verify(dataset.path) == []
    batch = read_rows(dataset.packed("train", 128), range(sums["rows"]))
    assert int(batch.mask.sum()) == dataset.splits["train"][0]["trained"] > 0


def test_packing_does_not_depend_on_how_the_split_is_cut_into_shards(tokenizer, tmp_path):
    documents = write_documents(tmp_path / "d", rows_of(TEXTS))
    found = []
    for tokens in (3000, 10**6):
        dataset = build(
            tmp_path / str(tokens), tokenizer, documents, CONFIG.model_copy(update={"shard_tokens": tokens})
        )
        found.append([piece[:2] + piece[2:7] for piece in pieces_of(dataset)])
    assert found[0] == found[1]


def test_pack_command_prints_its_report_and_old_datasets_are_cut_anywhere(dataset, tmp_path, capsys):
    import shutil

    folder = tmp_path / "tokens"
    shutil.copytree(dataset.path, folder)
    assert main(["pack", str(folder), "--sequence-length", "64", "--strategy", "document", "--longer", "drop"]) == 0
    said = capsys.readouterr().out
    sums = TokenDataset(folder).facts["pack"]["64"]["splits"]["train"]
    assert f"{sums['tokens_dropped']:,}" in said and f"{sums['rows']:,}" in said
    shards = dataset.splits["train"]
    old = build_pack(folder, "train", shards, CONFIG, {"dtype": "uint16"})
    new = build_pack(folder, "train", shards, CONFIG.model_copy(update={"split": "anywhere"}), dataset.facts)
    assert old == new
