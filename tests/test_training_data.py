"""Rows, targets, the order of rows, bytes of tokens, and the unigram baseline."""

import json
import math
from collections import Counter
from contextlib import closing
from itertools import pairwise

import numpy as np
import pytest
import torch

from tests.training_common import EOS, make, texts
from training.data import Batches, load_batch, open_dataset, permute, sample_row, step_rows
from training.knobs import TrainingError
from training.loss import IGNORED
from training.metrics import MetricsFile, token_counts, unigram_bits_per_byte
from training.vocabulary import byte_alphabet, encode_text, load_tokenizer, token_bytes


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return make(tmp_path_factory.mktemp("data"))


class FakeRows:
    """Two documents, the second without an end, and padding."""

    def __len__(self):
        return 1

    def row(self, i):
        return np.array([5, 6, 0, 7, 8, 0, 0], np.int64), np.array([0, 0, 0, 1, 1, -1, -1], np.int32)


def test_targets_by_hand():
    masked = load_batch(FakeRows(), [0], document_mask=True)
    assert masked.targets.tolist() == [[6, 0, IGNORED, 8, IGNORED, IGNORED, IGNORED]]  # the end token is a target
    joined = load_batch(FakeRows(), [0], document_mask=False)
    assert joined.targets.tolist() == [[6, 0, 7, 8, IGNORED, IGNORED, IGNORED]]
    assert masked.tokens.tolist() == [[5, 6, 0, 7, 8, 0, 0]]


def test_every_token_but_a_first_one_is_a_target_once_an_epoch(folders):
    data = open_dataset(folders[0], None)
    assert data.sequence_length == 64
    batch = load_batch(data.train, list(range(len(data.train))), document_mask=True)
    firsts = sum(len(set(row.tolist()) - {-1}) for row in batch.documents)
    tokens = data.tokens.tokens("train")
    assert int((batch.documents >= 0).sum()) == tokens
    assert int((batch.targets != IGNORED).sum()) == tokens - firsts
    ends = int((batch.targets == data.tokens.eos_id).sum())
    assert ends > 100 - len(data.train)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 65, 1000])
def test_permutation_is_one(size):
    assert sorted(permute(i, size, key=9) for i in range(size)) == list(range(size))


def test_orders_differ_by_epoch_and_seed_and_look_random():
    orders = {(seed, e): [sample_row(e * 500 + i, 500, seed) for i in range(500)] for seed in (0, 1) for e in (0, 1)}
    assert len({tuple(order) for order in orders.values()}) == 4
    for order in orders.values():
        assert sorted(order) == list(range(500))
        assert abs(np.corrcoef(order, np.arange(500))[0, 1]) < 0.2
        assert sum(abs(a - b) == 1 for a, b in pairwise(order)) < 20
    assert [sample_row(i, 500, 0, shuffle=False) for i in (0, 3, 503)] == [0, 3, 3]


def test_processes_share_a_step_without_overlap():
    """Any number of processes reads the same rows at the same step, whatever the number."""
    for step in (0, 3, 40):
        alone = step_rows(step, 50, 8, 1, True)
        for world in (2, 4, 8):
            assert [r for rank in range(world) for r in step_rows(step, 50, 8, 1, True, rank, world)] == alone


def test_tiny_corpus_for_many_epochs():
    seen = Counter(row for step in range(30) for row in step_rows(step, 3, 8, 0, True))
    assert seen == {0: 80, 1: 80, 2: 80}


def test_bytes_of_tokens_are_the_bytes_of_the_text(folders):
    tokenizer = load_tokenizer(folders[1])
    lengths = token_bytes(folders[1], tokenizer.get_vocab_size())
    cut = 0
    for text in [*texts(30, seed=7), "\x00\ud7ff 🥖é\r\n", "日本語", f"{EOS} is text"]:
        ids = tokenizer.encode(text).ids
        assert lengths[ids].sum() == len(text.encode())
        cut += sum("\ufffd" in tokenizer.decode([i]) for i in ids)
    assert cut > 10  # tokens of less than a character, where counting decoded text goes wrong
    for special in (EOS, "<|user|>"):
        assert lengths[tokenizer.token_to_id(special)] == 0
    assert len(set(byte_alphabet())) == 256


def test_vocabularies_without_a_byte_count_are_refused(folders, tmp_path):
    with pytest.raises(TrainingError, match="beyond the vocabulary of 10"):
        token_bytes(folders[1], 10)
    about = json.loads((folders[1] / "tokenizer.json").read_text())
    about["model"]["vocab"]["▁Korn"] = 400
    (tmp_path / "tokenizer.json").write_text(json.dumps(about))
    with pytest.raises(TrainingError, match="▁Korn"):
        token_bytes(tmp_path, 500)


def test_text_never_becomes_a_special_token(folders):
    tokenizer = load_tokenizer(folders[1])
    special = {tokenizer.token_to_id(token) for token in (EOS, "<|user|>", "<|assistant|>")}
    for text in (EOS, f"a{EOS}b", f" {EOS} <|user|>", "<|assistant|>" * 3):
        ids = encode_text(tokenizer, text)
        assert ids and not special & set(ids)
        assert tokenizer.decode(ids, skip_special_tokens=False) == text
    with pytest.raises(TrainingError, match="surrogate"):
        encode_text(tokenizer, "a\udc80b")


def test_unigram_baseline_by_hand(folders):
    data = open_dataset(folders[0], 64)
    lengths = token_bytes(folders[1], data.tokens.vocab_size)
    counts = token_counts(data.tokens, "train")
    payload = np.fromfile(folders[0] / "train-00000.bin", "<u2")
    assert counts.sum() == len(payload) and counts[data.tokens.eos_id] == 120
    assert (
        token_counts(data.tokens, "train", limit=100).tolist()
        == np.bincount(payload[:100], minlength=len(counts)).tolist()
    )

    bits = size = 0.0
    total = len(payload) + data.tokens.vocab_size
    for row in range(len(data.validation)):
        tokens, documents = data.validation.row(row)
        for i in range(63):
            if documents[i + 1] == documents[i] >= 0 and tokens[i + 1] != data.tokens.eos_id:
                bits -= math.log2((counts[tokens[i + 1]] + 1) / total)
                size += lengths[tokens[i + 1]]
    assert unigram_bits_per_byte(counts, lengths, data.validation, 10**6, True) == pytest.approx(bits / size, rel=1e-12)


def test_bad_datasets_are_refused_by_name(folders, tmp_path):
    with pytest.raises(TrainingError, match="nowhere"):
        open_dataset(tmp_path / "nowhere", None)
    with pytest.raises(TrainingError, match="not packed for sequence length 128"):
        open_dataset(folders[0], 128)
    tokens, _ = make(tmp_path / "x", documents=40)
    facts = json.loads((tokens / "dataset.json").read_text())
    facts["splits"]["train"], facts["pack"]["64"]["splits"]["train"] = [], {"rows": 0}
    (tokens / "dataset.json").write_text(json.dumps(facts))
    with pytest.raises(TrainingError, match="nothing to learn"):
        open_dataset(tokens, None)
    (tokens / facts["splits"]["validation"][0]["file"]).unlink()
    with pytest.raises(TrainingError, match=r"validation-00000\.bin is missing"):
        open_dataset(tokens, None)


def test_metrics_are_cut_back_to_the_checkpoint(tmp_path):
    file = tmp_path / "metrics.jsonl"
    for step in range(1, 6):
        MetricsFile(file, step).write({"step": step})
    with file.open("a") as half:
        half.write('\0\0\n[]\n{"step": 6, "lo')
    metrics = MetricsFile(file, 3)
    metrics.write({"step": 4, "loss": 1.5})
    assert [json.loads(line) for line in file.read_text().splitlines()] == [
        {"step": 1}, {"step": 2}, {"step": 3}, {"step": 4, "loss": 1.5},
    ]  # fmt: skip


@pytest.mark.parametrize(("loader_threads", "prefetch"), [(0, 1), (1, 2), (3, 5)])
def test_batches_are_read_ahead_and_are_those_of_their_positions(folders, loader_threads, prefetch):
    data = open_dataset(folders[0], None)
    asked = []

    def rows_at(at):
        asked.append(at)
        return step_rows(at, len(data.train), 4, 0, True)

    with closing(Batches(data.train, rows_at, True, loader_threads, prefetch, False)) as batches:
        for at in (0, 1, 2, 7, 8, 3):  # a skipped batch, and back to a checkpoint
            batch, plain = batches.take(at), load_batch(data.train, step_rows(at, len(data.train), 4, 0, True), True)
            assert batch.rows == plain.rows and torch.equal(batch.tokens, plain.tokens)
            assert torch.equal(batch.targets, plain.targets) and torch.equal(batch.documents, plain.documents)
            assert max(asked[-prefetch - 1 :] if loader_threads else asked[-1:]) == at + (
                prefetch if loader_threads else 0
            )
