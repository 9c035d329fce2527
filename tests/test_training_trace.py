"""From a step to its documents and back: the inverse order, skipped batches, moved folders, refusals."""

import dataclasses
import itertools
import json
import shutil

import pytest

from tests.training_common import SMALL
from tests.training_sources import make_sources
from tokenizer_training.dataset.loader import permute, row_sample, sample_row, unpermute
from training.cli import main
from training.config import resolve
from training.data import open_dataset, step_rows
from training.knobs import TrainingError
from training.lineage import read_run
from training.pretrain import pretrain
from training.resume import Stopped
from training.trace import batch_of, order_of, steps_of_document
from training.watch import position


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of 30 steps of 8 rows, more than one epoch, with everything below one folder."""
    folder = tmp_path_factory.mktemp("trace")
    tokens, tokenizer, documents = make_sources(folder)
    config = resolve({**SMALL, "threads": 1, "steps": 30, "batch_rows": 8, "eval_every": 30, "sample_prompts": []})
    pretrain(config, tokens, tokenizer, folder / "model", documents, log=lambda line: None)
    return folder


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 65, 1000])
def test_the_inverse_of_the_permutation(size):
    for key in (0, 5, (3 << 32) + 2, (2**62 << 32) + 1):
        assert [unpermute(permute(i, size, key), size, key) for i in range(size)] == list(range(size))


@pytest.mark.parametrize("phases", [(), (40, 0, 60), (100,)])
@pytest.mark.parametrize("shuffle", [True, False])
def test_a_rows_sample_is_the_inverse_of_a_samples_row(phases, shuffle):
    for sample in range(350):
        row = sample_row(sample, 100, 9, shuffle, phases)
        assert row_sample(row, sample // 100, 100, 9, shuffle, phases) == sample


def test_every_step_of_a_document_is_a_step_whose_batch_holds_it(trained):
    run = read_run(trained / "model")
    data = open_dataset(trained / "tokens", None)
    assert 1.5 < 30 * 8 / len(data.train) < 10
    brute: dict[int, list[int]] = {row: [] for row in range(len(data.train))}
    for step in range(30):
        for row in step_rows(step, len(data.train), 8, 0, True):
            brute[row].append(step + 1)
    order = order_of(run)
    assert {row: [step for step, _ in order.steps_of(row)] for row in brute} == brute
    assert [order.rows_of(step) for step in (1, 30)] == [step_rows(s, len(data.train), 8, 0, True) for s in (0, 29)]

    of_step = {step: batch_of(run, step) for step in range(1, 31)}
    for document in ("train0000", "train0063", "train0119"):
        found = steps_of_document(run, document)
        seen = sorted({s["step"] for piece in found["pieces"] for s in piece["steps"]})
        holds = [
            step for step, batch in of_step.items()
            if any(one["id"] == document for row in batch["rows"] for one in row["documents"])
        ]  # fmt: skip
        assert seen == holds and all(s["taken"] for piece in found["pieces"] for s in piece["steps"])
        # the pieces are the whole document, end token included
        ranges = sorted(piece["tokens"] for piece in found["pieces"])
        assert ranges[0][0] == 0 and all(a[1] == b[0] for a, b in itertools.pairwise(ranges))
        assert ranges[-1][1] == len(data.tokens.document(document)) + 1


def test_token_ranges_are_those_of_the_row(trained):
    data = open_dataset(trained / "tokens", None)
    for row in batch_of(read_run(trained / "model"), 7)["rows"]:
        tokens, numbers = data.train.row(row["row"])
        assert len(row["documents"]) == numbers.max() + 1
        for number, one in enumerate(row["documents"]):
            there = tokens[numbers == number]
            text = [*data.tokens.document(one["id"]).tolist(), data.tokens.eos_id]
            assert there.tolist() == text[slice(*one["tokens"])]
            assert one["row_offset"] == (numbers == number).argmax()


def test_urls_and_scores_come_from_documents_and_texts_do_not(trained, capsys):
    assert main(["trace", str(trained / "model"), "--step", "3"]) == 0
    said = capsys.readouterr().out
    assert "https://example.org/train/" in said and "quality 0." in said and "licence CC-BY-4.0" in said
    assert "secret" not in said and said.startswith("step 3: 8 rows, position 2 of the data\n")
    assert main(["trace", str(trained / "model"), "--document", "train0005", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["about"]["url"] == "https://example.org/train/5" and found["source"] == "<b>odd</b>"


def test_documents_that_are_not_there_are_refused(trained, tmp_path, capsys):
    assert main(["trace", str(trained / "model"), "--step", "3", "--documents", str(tmp_path)]) == 2
    assert f"{tmp_path} has no *.parquet" in capsys.readouterr().err


def test_skipped_batches_shift_the_steps_behind_them(trained):
    order = dataclasses.replace(order_of(read_run(trained / "model")), skipped=(3, 4, 9))
    rows = len(order.data.train)
    reads = {step: step_rows(position(step - 1, order.skipped), rows, 8, 0, True) for step in range(1, 31)}
    assert {step: order.rows_of(step) for step in reads} == reads
    for row in range(rows):
        assert [step for step, _ in order.steps_of(row)] == [step for step, read in reads.items() if row in read]


def test_a_run_that_was_stopped_and_a_copied_run_are_traced(trained, tmp_path, capsys):
    config = resolve({**SMALL, "threads": 1, "sample_prompts": []})
    shutil.copytree(trained, tmp_path / "copy", ignore=shutil.ignore_patterns("model"))
    at = tmp_path / "copy"
    asked = iter([False, True])
    with pytest.raises(Stopped):
        pretrain(config, at / "tokens", at / "tokenizer", at / "model", None, log=print, stop=lambda: next(asked))
    assert batch_of(read_run(at / "model"), 2)["taken"] and not batch_of(read_run(at / "model"), 3)["taken"]
    at.rename(tmp_path / "moved")
    run = read_run(tmp_path / "moved" / "model")
    assert run.tokens_dir == tmp_path / "moved" / "tokens" and run.documents_dir is None
    assert batch_of(run, 2)["rows"] == batch_of(read_run(tmp_path / "moved" / "model", trained / "tokens"), 2)["rows"]
    # training.json alone is enough
    shutil.copytree(trained / "model", tmp_path / "moved" / "alone", ignore=shutil.ignore_patterns("trainer_state"))
    assert batch_of(read_run(tmp_path / "moved" / "alone"), 30)["taken"]
    shutil.rmtree(tmp_path / "moved" / "tokens")
    capsys.readouterr()
    assert main(["trace", str(tmp_path / "moved" / "model"), "--step", "1"]) == 2
    assert "--tokens" in capsys.readouterr().err


def test_refusals(trained, tmp_path):
    run = read_run(trained / "model")
    with pytest.raises(TrainingError, match="steps 1 to 30, not 31"):
        batch_of(run, 31)
    with pytest.raises(TrainingError, match="validation, not in a row of train"):
        steps_of_document(run, "validation0001")
    with pytest.raises(TrainingError, match="is not in it"):
        steps_of_document(run, "nobody")
    with pytest.raises(TrainingError, match="holds no run"):
        read_run(tmp_path)
    other = make_sources(tmp_path / "other", documents=40)[0]
    with pytest.raises(TrainingError, match="another dataset"):
        batch_of(read_run(trained / "model", other), 1)
