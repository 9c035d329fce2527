"""How sections that train start their processes, and that a SIGTERM to the pipeline reaches them all."""

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.engine.config import EngineConfig
from pipeline.engine.schedule import RunFailed, Terminated
from pipeline.sections import launching as section
from pipeline.sections.pretrain import run_pretrain
from tests.training_common import SMALL, make
from training.checkpoint import checkpoints
from training.config import resolve
from training.knobs import TrainingError
from training.lock import only_run

ROOT = Path(__file__).parent.parent


@pytest.fixture
def job(tmp_path):
    """A run directory with documents, whose config can be exchanged."""
    (tmp_path / "documents").mkdir()
    pq.write_table(pa.table({"id": ["a"], "language": ["en"]}), tmp_path / "documents" / "part-00000.parquet")
    (tmp_path / "phases").mkdir()

    def with_engine(**knobs):
        config = SimpleNamespace(engine=EngineConfig(**knobs), pretrain=resolve({}))
        return SimpleNamespace(config=config, local=tmp_path, say=print, parts={"a": "b"})

    return with_engine


def launched(monkeypatch, job) -> tuple[list[str], dict[str, str]]:
    seen = []
    monkeypatch.setattr(section, "launch", lambda command, extra=None: seen.append((command, extra or {})) or 7)
    with pytest.raises(RunFailed, match="exit code 7"):
        run_pretrain(job)
    return seen[0]


def test_local_is_one_process_and_languages_are_given_where_documents_have_them(job, monkeypatch, tmp_path):
    command, extra = launched(monkeypatch, job())
    assert command[1:5] == ["-m", "training", "pretrain", str(tmp_path / "phases" / "pretrain.yaml")] and extra == {}
    assert command[command.index("--documents") + 1] == str(tmp_path / "documents")
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "documents" / "part-00000.parquet")
    assert "--documents" not in launched(monkeypatch, job())[0]


def test_torchrun_has_as_many_processes_as_asked_or_as_gpus(job, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(section, "usable_cores", lambda: 8)
    command, extra = launched(monkeypatch, job(train_launch="torchrun", train_processes=3))
    assert command[1:6] == ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3"]
    assert command[6:9] == ["-m", "training", "pretrain"]
    assert extra["OMP_NUM_THREADS"] == "2" and int(extra["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"]) > 600
    for gpus, count in ((8, "8"), (0, "1")):
        monkeypatch.setattr(section, "_gpus", lambda gpus=gpus: gpus)
        assert launched(monkeypatch, job(train_launch="torchrun"))[0][5] == count


def test_ray_gets_the_arguments_and_a_sigterm_becomes_a_file(job, monkeypatch, tmp_path):
    def train(engine, arguments, config, output, stop, say):
        assert not stop.exists() and output == tmp_path / "model" and config == resolve({})
        assert arguments[:2] == ["pretrain", str(tmp_path / "phases" / "pretrain.yaml")]
        assert set(arguments[2::2]) == {"--tokens", "--tokenizer", "--documents", "--output"}
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.exists()
        return 143

    monkeypatch.setattr(section, "train_on_ray", train)
    (tmp_path / "phases" / "pretrain.stop").touch()  # of a stop before
    with pytest.raises(Terminated):
        run_pretrain(job(train_launch="ray"))


def test_checkpoints_of_another_config_are_put_aside_and_outlive_an_update_of_torch(job, monkeypatch, tmp_path, capsys):
    here, checkpoint = job(), Path("trainer_state/step-00000007/state.json")
    here.parts = {"pretrain": "a", "torch": "2.13.0"}
    launched(monkeypatch, here)
    (tmp_path / "model" / checkpoint).parent.mkdir(parents=True)
    (tmp_path / "model" / checkpoint).write_text("first")
    here.parts = {"pretrain": "a", "torch": "2.13.1"}
    launched(monkeypatch, here)
    assert (tmp_path / "model" / checkpoint).read_text() == "first" and "before" not in capsys.readouterr().out
    here.parts = {"pretrain": "b", "torch": "2.13.1"}
    launched(monkeypatch, here)
    assert not (tmp_path / "model" / checkpoint).exists()
    assert (tmp_path / "model.before" / checkpoint).read_text() == "first"
    assert "they are in model.before now" in capsys.readouterr().out


SCRIPT = """
import json, sys
sys.path[:0] = json.loads(sys.argv[1])
from pathlib import Path
from types import SimpleNamespace
from pipeline.engine.config import EngineConfig
from pipeline.sections.launching import _launch
from training.config import resolve
job = SimpleNamespace(config=SimpleNamespace(engine=EngineConfig(train_launch="torchrun", train_processes=2)))
try:
    sys.exit(_launch(job, resolve({}), Path("unused"), json.loads(sys.argv[2])))
except KeyboardInterrupt:
    sys.exit(130)
"""


@contextmanager
def behind_torchrun(tmp_path):
    """A section's process as the pipeline starts it, in its third step, and the workers behind its torchrun."""
    tokens, tokenizer = make(tmp_path / "data")
    values = {**SMALL, "threads": 1, "steps": 100_000, "log_every": 1, "parallel": "ddp"}
    arguments = [
        "pretrain", "--tokens", str(tokens), "--tokenizer", str(tokenizer), "--output", str(tmp_path / "model"),
        *(part for key, value in values.items() for part in ("--set", f"{key}={value}")),
    ]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, json.dumps(sys.path), json.dumps(arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT,
    )  # fmt: skip
    workers = []
    try:
        while not process.stdout.readline().startswith("step 3/"):
            assert process.poll() is None
        workers += [p for p in psutil.Process(process.pid).children(recursive=True) if "pretrain" in p.cmdline()[3:6]]
        assert len(workers) == 2
        yield process, workers
    finally:
        process.kill()
        process.wait()
        for worker in workers:
            with suppress(psutil.NoSuchProcess):
                worker.kill()


def test_nothing_goes_on_behind_a_pipeline_that_is_killed(tmp_path):
    """Not the workers of its torchrun either, which has no time to stop them: the folder is free again."""
    with behind_torchrun(tmp_path) as (process, workers):
        with pytest.raises(TrainingError, match="another run"), only_run(tmp_path / "model" / "trainer_state"):
            pass
        process.kill()
        gone, alive = psutil.wait_procs(workers, timeout=30)
        assert len(gone) == 2 and not alive
        with only_run(tmp_path / "model" / "trainer_state"):
            pass


def test_a_folder_that_a_run_still_writes_to_is_not_put_aside(job, tmp_path):
    (tmp_path / "model" / "trainer_state" / "step-00000007").mkdir(parents=True)
    with only_run(tmp_path / "model" / "trainer_state"), pytest.raises(RunFailed, match="another run writes to"):
        run_pretrain(job())
    assert (tmp_path / "model" / "trainer_state" / "step-00000007").is_dir()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_reaches_the_processes_behind_torchrun_which_save(tmp_path, number, code):
    """Also where a scheduler sends it to each of them too."""
    with behind_torchrun(tmp_path) as (process, workers):
        for each in (*workers, process):
            each.send_signal(number)
        process.stdout.read()
        assert process.wait(120) == code
    newest = json.loads((checkpoints(tmp_path / "model" / "trainer_state")[-1] / "state.json").read_text())
    assert newest["step"] >= 3 and newest["processes"] == 2
