"""Loss and bits per byte by source and language: against a plain loop, exact sums, empty parts, refusals."""

import json
import math
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from tests.training_common import SMALL
from tests.training_processes import finish, start_group
from tests.training_sources import LANGUAGES, SOURCES, make_sources
from training.config import resolve
from training.data import load_batch, open_dataset
from training.device import place
from training.held_out import label_rows, validate
from training.knobs import TrainingError
from training.model import Decoder, model_config
from training.pretrain import pretrain
from training.vocabulary import token_bytes


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return make_sources(tmp_path_factory.mktemp("sources"), validation=24)


def small(**changes):
    return resolve({**SMALL, "threads": 1, **changes})


def measured(folders, documents=True, **changes):
    config = small(eval_rows=100, **changes)
    data = open_dataset(folders[0], None)
    lengths = token_bytes(folders[1], data.tokens.vocab_size)
    with place(config) as here:
        model = Decoder(model_config(config, data.tokens.vocab_size, data.sequence_length)).initialise(config.seed)
        labels = label_rows(data.tokens, data.validation, config.eval_rows, folders[2] if documents else None, here)
        return validate(model, data.validation, lengths, config, here, labels), model, data, lengths


@pytest.mark.parametrize("mask", [True, False])
def test_parts_are_those_of_a_plain_loop(folders, mask):
    found, model, data, lengths = measured(folders, document_mask=mask)
    about = {row["id"]: row for file in sorted(folders[2].iterdir()) for row in pq.read_table(file).to_pylist()}
    sums: dict[tuple[str, str], list[float]] = {}
    for row in range(len(data.validation)):
        batch = load_batch(data.validation, [row], mask)
        with torch.no_grad():
            nll = model(batch.tokens, batch.targets, batch.documents if mask else None).nll[0].double()
        pieces = data.tokens.documents_in_row(data.validation, row)
        for at, target in enumerate(batch.targets[0].tolist()):
            if target < 0:
                continue
            # the piece that the target, the token at at + 1, stands in
            piece = next(p for p in pieces if p.row_offset <= at + 1 < p.row_offset + p.length)
            for key in (("source", piece.source), ("language", about[piece.id]["language"] or "unknown")):
                values = sums.setdefault(key, [0.0, 0, 0.0, 0])
                values[0] += float(nll[at])
                values[1] += 1
                if lengths[target]:
                    values[2] += float(nll[at])
                    values[3] += int(lengths[target])
    for kind, parts in (("source", found.by_source), ("language", found.by_language)):
        assert {(kind, name) for name in parts} == {key for key in sums if key[0] == kind}
        for name, part in parts.items():
            nats, targets, text_nats, size = sums[kind, name]
            assert part["targets"] == targets and part["bytes"] == size
            assert part["loss"] == pytest.approx(nats / targets, rel=1e-6)
            assert part["bits_per_byte"] == pytest.approx(text_nats / math.log(2) / size, rel=1e-6)
    assert set(found.by_source) == set(SOURCES) and set(found.by_language) == {*filter(None, LANGUAGES), "unknown"}


def test_the_parts_add_up_to_the_whole_exactly(folders):
    found, _, data, lengths = measured(folders)
    for parts in (found.by_source, found.by_language):
        sums = {key: sum(part[key] for part in parts.values()) for key in ("nats", "targets", "text_nats", "bytes")}
        assert sums["nats"] / sums["targets"] == found.validation_loss
        assert sums["text_nats"] / math.log(2) / sums["bytes"] == found.bits_per_byte
    targets = np.concatenate(
        [load_batch(data.validation, [row], True).targets[0].numpy() for row in range(len(data.validation))]
    )
    assert sum(part["bytes"] for part in found.by_source.values()) == lengths[targets[targets >= 0]].sum()


def test_labels_do_not_change_the_whole_and_a_second_time_is_the_first(folders):
    found, *_ = measured(folders)
    bare, *_ = measured(folders, documents=False)
    assert found == measured(folders)[0]
    assert (bare.validation_loss, bare.bits_per_byte, bare.by_source) == found[:3] and bare.by_language == {}


def test_losses_that_are_not_finite_are_an_error(folders):
    config = small(eval_rows=3)
    data = open_dataset(folders[0], None)
    lengths = token_bytes(folders[1], data.tokens.vocab_size)
    with place(config) as here:
        model = Decoder(model_config(config, data.tokens.vocab_size, data.sequence_length)).initialise(0)
        with torch.no_grad():
            next(model.parameters()).fill_(torch.nan)
        with pytest.raises(TrainingError, match="not finite"):
            validate(model, data.validation, lengths, config, here)


def test_a_run_writes_them_and_an_empty_split_has_none(folders, tmp_path):
    config = small(steps=2, eval_every=1, eval_rows=100, sample_prompts=[])
    summary = pretrain(config, *folders[:2], tmp_path / "model", folders[2], log=lambda line: None)
    lines = [json.loads(line) for line in (tmp_path / "model" / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if "by_source" in line][-1]
    assert last["by_source"] == summary["by_source"] and last["by_language"] == summary["by_language"]
    assert json.loads((tmp_path / "model" / "training.json").read_text())["by_language"] == summary["by_language"]
    empty = make_sources(tmp_path / "empty", documents=30, validation=0)
    summary = pretrain(config, *empty[:2], tmp_path / "none", empty[2], log=lambda line: None)
    assert summary["by_source"] == summary["by_language"] == {} and summary["validation_loss"] is None


def test_documents_that_are_none_are_refused_by_name(folders, tmp_path):
    (tmp_path / "nothing").mkdir()
    with pytest.raises(TrainingError, match="nothing has no"):
        measured((*folders[:2], tmp_path / "nothing"))
    table = pq.read_table(next(folders[2].iterdir())).drop_columns(["language"])
    (tmp_path / "bare").mkdir()
    pq.write_table(table, tmp_path / "bare" / "part.parquet")
    with pytest.raises(TrainingError, match="id and language"):
        measured((*folders[:2], tmp_path / "bare"))
    (tmp_path / "bare" / "part.parquet").write_bytes(b"PAR1 but no")
    with pytest.raises(TrainingError, match=r"cannot read .*part\.parquet"):
        measured((*folders[:2], tmp_path / "bare"))


ONE_MISTAKE = """
import json, sys
sys.path[:0] = json.loads(sys.argv[1])
import torch.distributed as dist
from training.config import resolve
from training.knobs import TrainingError
from training.pretrain import pretrain
import training.device
dist.init_process_group("gloo")
for values, documents, said in json.loads(sys.argv[2]):
    if values.get("tracker"):
        sys.modules["torch.utils.tensorboard"] = None
    training.device.native_bfloat16 = lambda device: values["dtype"] == "auto" and dist.get_rank() == 1
    try:
        pretrain(resolve(values), *sys.argv[3:5], sys.argv[5], documents_dir=documents, log=lambda line: None)
    except TrainingError as error:
        assert said in str(error), error
    else:
        raise SystemExit("no error")
"""


def test_a_mistake_that_only_the_first_process_meets_is_every_process_s(folders, tmp_path):
    """None waits for the one that has left: here documents without a language, and a tracker that is not installed."""
    (tmp_path / "empty").mkdir()
    values = {**SMALL, "threads": 1, "parallel": "ddp"}
    cases = [
        (values, str(tmp_path / "empty"), "no *.parquet"),
        ({**values, "tracker": ["tensorboard"]}, None, "tensorboard is not installed"),
        ({**values, "dtype": "auto"}, None, "would compute in bfloat16 on cpu and float32 on cpu"),
    ]
    arguments = [json.dumps(sys.path), json.dumps(cases), *map(str, folders[:2]), str(tmp_path / "model")]
    finish(start_group(["-c", ONE_MISTAKE, *arguments], stderr=subprocess.PIPE), seconds=120)
