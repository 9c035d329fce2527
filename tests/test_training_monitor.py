"""What a run says of itself: each number against arithmetic, the lines, trackers, and samples that change nothing."""

import hashlib
import io
import json
import sys

import pytest
import torch

from tests.training_common import SMALL
from tests.training_sources import make_sources
from training.config import resolve
from training.data import open_dataset
from training.device import Place
from training.flops import flops_per_token, mean_visible_keys
from training.knobs import TrainingError
from training.metrics import MetricsFile, TimeLeft
from training.model import model_config
from training.monitor import duration, measure_compute
from training.pretrain import pretrain
from training.resume import Stopped
from training.terminal import terminal
from training.trackers import scalars


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return make_sources(tmp_path_factory.mktemp("sources"))


def small(**changes):
    return resolve({**SMALL, "threads": 1, "peak_flops": 5e9, **changes})


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def watched(folders, tmp_path_factory):
    """A run with everything on: its folder, summary and lines."""
    out, said = tmp_path_factory.mktemp("watched") / "model", []
    config = small(tracker=["tensorboard"], sample_every=3, sample_prompts=["the", "мельник"], log_every=2)
    return out, pretrain(config, *folders[:2], out, folders[2], log=said.append), said


def test_every_number_is_the_arithmetic_of_others(watched, folders):
    out, summary, _ = watched
    steps = [line for line in lines_of(out / "metrics.jsonl") if "loss" in line]
    data = open_dataset(folders[0], None)
    shape = model_config(small(), data.tokens.vocab_size, data.sequence_length)
    cost = flops_per_token(shape, mean_visible_keys(data.train, True))
    assert summary["flops_per_token"] == cost and summary["peak_flops"] == 5e9
    assert summary["flops_per_token_whole_rows"] == flops_per_token(shape, 64) > cost
    before = {"tokens": 0, "seconds": 0.0}
    for line in steps:
        tokens, seconds = line["tokens"] - before["tokens"], line["seconds"] - before["seconds"]
        assert line["tokens_per_second"] == pytest.approx(tokens / seconds, rel=1e-6)
        assert line["mfu"] == pytest.approx(tokens / seconds * cost / 5e9, rel=1e-6)
        assert 0 <= line["data_wait"] < 1 and line["memory_bytes"] > 50e6
        before = line
    assert steps[0]["seconds_left"] is None and steps[-1]["seconds_left"] == 0
    assert summary["tokens_per_second"] == pytest.approx(steps[-1]["tokens"] / steps[-1]["seconds"])
    assert summary["mfu"] == pytest.approx(summary["tokens_per_second"] * cost / 5e9)
    assert summary["mfu_whole_rows"] / summary["mfu"] == pytest.approx(summary["flops_per_token_whole_rows"] / cost)
    waited = sum(line["data_wait"] * (a["seconds"] - b["seconds"]) for line, a, b in zip(steps, steps, [{"seconds": 0}, *steps], strict=False))  # fmt: skip
    assert summary["data_wait"] == pytest.approx(waited / steps[-1]["seconds"], rel=1e-5)


def test_peak_flops_changes_mfu_alone(watched, folders, tmp_path):
    _, summary, _ = watched
    other = pretrain(small(peak_flops=None, sample_prompts=[]), *folders[:2], tmp_path / "m", log=lambda line: None)
    assert other["peak_flops"] > 1e9 and other["peak_flops"] != 5e9
    assert other["bits_per_byte"] == summary["bits_per_byte"] and other["fingerprint"] == summary["fingerprint"]


def test_tf32_is_held_against_its_own_peak(folders, monkeypatch):
    asked = []
    monkeypatch.setattr("training.monitor.peak_flops", lambda device, dtype, threads: asked.append(dtype) or 1.0)
    data, here = open_dataset(folders[0], None), Place(0, 1, torch.device("cpu"), torch.float32, 1)
    for tf32 in (False, True):
        config = resolve({**SMALL, "tf32": tf32})
        measure_compute(config, data, model_config(config, 400, 64), here)
    assert asked == ["float32", "tf32"]


def test_lines_in_a_batch_log(watched):
    said = [line for line in watched[2] if "tok/s" in line]
    assert [line.split()[1] for line in said] == ["1/8", "2/8", "4/8", "6/8", "8/8"]
    assert "left" not in said[0] and all("MFU" in line and "loss" in line for line in said)
    assert said[2].endswith(" left")


def test_time_left_is_exact_for_even_steps_and_follows_a_change():
    left = TimeLeft(span=10)
    assert left.after(100.0, 9) is None
    assert [left.after(100.0 + 2 * n, 9 - n) for n in range(1, 6)] == pytest.approx([2 * (9 - n) for n in range(1, 6)])
    now = 110.0
    for n in range(60):
        now += 5.0
        last = left.after(now, 100 - n)
    assert last == pytest.approx(5.0 * 41, rel=1e-3)


@pytest.mark.parametrize(
    "seconds, text",
    [(0.4, "0 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min"), (100_800, "1 d 4 h")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_a_terminal_rewrites_one_line():
    class Screen(io.StringIO):
        def isatty(self):
            return True

    screen, now = Screen(), [0.0]
    log, show = terminal(screen, lambda: now[0])
    show("step 1")
    show("too soon")
    now[0] = 0.2
    show("step 2" + "x" * 500)
    log("validation")
    text = screen.getvalue()
    assert "too soon" not in text and text.count("\n") == 1 and text.endswith("\r\x1b[Kvalidation\n")
    assert max(map(len, text.split("\r"))) < 400
    plain = io.StringIO()
    log, show = terminal(plain)
    log("a line")
    assert show is None and plain.getvalue() == "a line\n"


def test_samples_leave_the_weights_as_they_are(watched, folders, tmp_path):
    out, summary, _ = watched
    bare = pretrain(small(sample_prompts=[], log_every=1), *folders[:2], tmp_path / "bare", log=lambda line: None)
    for name in ("model.safetensors", "trainer_state/step-00000008/optimizer.safetensors"):
        files = [hashlib.sha256((folder / name).read_bytes()).hexdigest() for folder in (out, tmp_path / "bare")]
        assert files[0] == files[1]
    assert not (tmp_path / "bare" / "samples.jsonl").exists() and bare["samples"] == []
    lines = lines_of(out / "samples.jsonl")
    assert [line["step"] for line in lines] == [3, 6, 8] and lines[-1]["samples"] == summary["samples"]
    assert [one["prompt"] for one in summary["samples"]] == ["the", "мельник"]
    assert all(one["text"] and "<|endoftext|>" not in one["text"] for one in summary["samples"])


def test_knobs_of_samples_change_them_and_a_resumed_run_draws_the_same(watched, folders, tmp_path):
    base = {"sample_every": 3, "sample_prompts": ["the", "мельник"]}
    asked = iter([False] * 4 + [True])
    with pytest.raises(Stopped):
        pretrain(small(**base), *folders[:2], tmp_path / "m", log=print, stop=lambda: next(asked))
    pretrain(small(**base), *folders[:2], tmp_path / "m", log=lambda line: None)
    assert lines_of(tmp_path / "m" / "samples.jsonl") == lines_of(watched[0] / "samples.jsonl")
    for name, changes in (("t", {"sample_temperature": 0.0}), ("n", {"sample_tokens": 2}), ("s", {"seed": 3})):
        other = pretrain(small(**base, **changes), *folders[:2], tmp_path / name, log=lambda line: None)
        assert other["samples"] != watched[1]["samples"]


def test_a_prompt_that_does_not_fit_is_left_out_aloud(folders, tmp_path):
    said = []
    summary = pretrain(small(steps=1, sample_prompts=["", "the mill " * 60]), *folders[:2], tmp_path, log=said.append)
    assert summary["samples"] == [] and sum("left out" in line for line in said) == 2


def test_tensorboard_reads_the_numbers_back(watched):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = watched[0]
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    lines = lines_of(out / "metrics.jsonl")
    for name in ("loss", "grad_norm", "mfu", "tokens_per_second", "bits_per_byte"):
        ours = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
        theirs = [(event.step, event.value) for event in events.Scalars(name)]
        assert [step for step, _ in theirs] == [step for step, _ in ours]
        assert [value for _, value in theirs] == pytest.approx([value for _, value in ours], rel=1e-6)
    assert "by_source/web/bits_per_byte" in events.Tags()["scalars"]


def test_tensorboard_has_each_step_once_after_a_stop(folders, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = small(tracker=["tensorboard"], sample_prompts=[], save_every=3)
    asked = iter([False] * 4 + [True])
    with pytest.raises(Stopped):
        pretrain(config, *folders[:2], tmp_path, log=print, stop=lambda: next(asked))
    newest = sorted((tmp_path / "trainer_state").glob("step-*"))[-1]
    for file in newest.iterdir():  # as a kill between the checkpoints of steps 3 and 5 leaves it
        file.unlink()
    newest.rmdir()
    pretrain(config, *folders[:2], tmp_path, log=lambda line: None)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == list(range(1, 9))
    assert [line["step"] for line in lines_of(tmp_path / "metrics.jsonl") if "loss" in line] == list(range(1, 9))


@pytest.mark.parametrize("name", ["wandb", "trackio", "tensorboard"])
def test_a_missing_package_names_its_extra(name, folders, tmp_path, monkeypatch):
    hidden = "torch.utils.tensorboard" if name == "tensorboard" else name
    monkeypatch.setitem(sys.modules, hidden, None)
    with pytest.raises(TrainingError, match=rf"tracker: {name} .*gristmill\[trackers\]"):
        pretrain(small(steps=1, tracker=[name]), *folders[:2], tmp_path, log=print)


def test_only_numbers_go_to_trackers():
    line = {"step": 3, "loss": 1.5, "event": "x", "ok": True, "by_source": {"a/b": {"loss": 2, "n": None}}}
    assert dict(scalars(line)) == {"loss": 1.5, "by_source/a/b/loss": 2}


def test_a_half_written_line_is_cut_off(tmp_path):
    (tmp_path / "m.jsonl").write_bytes(b'{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    file = MetricsFile(tmp_path / "m.jsonl", 2)
    file.write({"step": 3, "loss": 1.0})
    assert [line["step"] for line in lines_of(tmp_path / "m.jsonl")] == [1, 2, 3]
