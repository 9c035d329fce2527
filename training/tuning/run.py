"""The loop of all fine-tuning: take a model folder, step, validate, save, and go on exactly after any stop.

What a kind of fine-tuning is, is a `Task`: its network, its data, its loss. Everything else is here, once.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from training.adapters.adapter import add_adapter
from training.adapters.save import adapter_tensors, save_adapter
from training.architectures import weights
from training.begin import begun
from training.checkpoint import FORMAT, checksum, load_model, load_state, save_model, write_json
from training.device import Place, seed_step
from training.knobs import TrainingError
from training.lineage import both
from training.metrics import MetricsFile, TimeLeft, peak_memory, reset_peak_memory
from training.model import Decoder
from training.monitor import duration
from training.optimizer import Optimizer, build_optimizer
from training.parallel import distribute, settle, wrap
from training.precision import set_precision
from training.recompute import recompute_layers
from training.resume import Progress, Stopped, finished_run, resume
from training.saver import Saver
from training.schedule import learning_rate
from training.terminal import silent
from training.trackers import open_trackers
from training.tuning.config import TuneConfig
from training.tuning.update import NotFinite, Update
from training.vocabulary import tokenizer_sha256


@dataclass
class Bench:
    """What a task works with. `network` is what is trained, wrapped for several processes: losses call it, not `model`."""

    config: TuneConfig
    here: Place
    model: Decoder
    network: nn.Module
    optimizer: Optimizer
    folder: Path  # of the model that is trained further, with its tokenizer
    end: list[int]  # ids that end a text
    log: Callable[[str], Any]


class Step(NamedTuple):
    """What came of one step, equal in all processes; `tokens`: read by all of them, padding left out."""

    update: Update
    tokens: int


class Task:
    """One kind of fine-tuning. The methods are called in the order in which they stand; all processes call all of them."""

    kind: str  # sft, reward, ...: the name of its command and section
    shown: tuple[str, ...] = ()  # of a step's figures, those on the progress line; () for all
    stop_reason: str | None = None  # set by a step or validation after which training must end
    good_step: int | None = (
        None  # set by `state`: the checkpoint that is kept in place of the last if `stop_reason` ends it
    )

    def inputs(self) -> list[str]:
        """What identifies its data, beside knobs and model. Reads and checks them; raises `TrainingError`."""
        raise NotImplementedError

    def prepare(self, model: Decoder, here: Place) -> nn.Module:
        """The module to train, on the CPU and not yet sharded: the model, or one around it. Freezes what is not to learn."""
        return model

    def begin(self, bench: Bench) -> int:
        """Take the bench, before a checkpoint is loaded; the number of steps of the whole run."""
        raise NotImplementedError

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on with what `state` gave at the checkpoint; not called in a new run."""

    def step(self, number: int, rate: float) -> Step:
        """Step `number` (from 0): a pure function of number, seed, and what was learned. Torch's generators are seeded for it."""
        raise NotImplementedError

    def evaluate(self) -> dict[str, float]:
        """Figures on held-out examples, equal in all processes; none where nothing is held out."""
        return {}

    def state(self) -> dict[str, Any]:
        """What a checkpoint must keep beside parameters and optimizer, as JSON."""
        return {}

    def save(self, folder: Path, bench: Bench) -> None:
        """Write the Hugging Face folder, or the adapter's; only the first process writes."""
        save_trained(folder, bench)

    def summary(self) -> dict[str, Any]:
        """What training.json says beside the figures that every kind has."""
        return {}


def save_trained(folder: Path, bench: Bench) -> None:
    """Write the model that was trained: its adapter alone if it has one that is not to be merged. All processes call it."""
    model, config = bench.model, bench.config
    apart = config.adapter is not None and not config.merge
    tensors = adapter_tensors(model) if apart else weights(model, keep=bench.here.rank == 0)
    if bench.here.rank == 0 and apart:
        save_adapter(folder, model, bench.folder, bench.end, tensors)
    elif bench.here.rank == 0:
        save_model(folder, model, bench.folder, bench.end, tensors)


def tune(
    task: Task,
    config: TuneConfig,
    model_dir: str | Path,
    out_dir: str | Path,
    *,
    log: Callable[[str], Any] = print,
    show: Callable[[str], Any] | None = None,
    stop: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Train the model in `model_dir` further; leave a Hugging Face folder with metrics.jsonl, training.json and trainer_state/.

    Run again after a stop or a crash it goes on from the newest checkpoint: on the CPU, with equal threads and processes,
    to equal bits. A finished `out_dir` is left as it is. `stop` is asked after each step. Of several processes all call
    this, with one `out_dir` that all can reach.

    Returns what training.json holds. Raises `TrainingError` for bad knobs, data, model or checkpoint, a loss that is no
    number, and a second run in the same folder; `Stopped` once `stop` said so; `OSError` for a checkpoint that could not
    be written, and if another process is lost.
    """
    model_dir, out_dir = Path(model_dir), Path(out_dir)
    if model_dir.resolve() == out_dir.resolve():
        raise TrainingError(f"--output {out_dir} is the model itself; choose another folder")
    fingerprint = config.fingerprint(task.kind, *model_identity(model_dir), *task.inputs())
    if finished := finished_run(out_dir, config, fingerprint):
        log(f"{out_dir} holds this very run, finished; nothing to do")
        return finished

    with ExitStack() as stack:
        here = stack.enter_context(begun(config, out_dir, fingerprint))
        if here.rank > 0:
            log, show = silent, None
        model, end = load_model(model_dir, torch.device("cpu"), here.dtype)
        model.train()
        if config.adapter is not None:
            add_adapter(model, config.adapter, config.seed, model_dir)
        here.alike(partial(set_precision, model, config, here.device, here.dtype))
        recompute_layers(model, config)
        torch.manual_seed(config.seed % 2**63)  # for what a task adds: heads, adapters
        module = task.prepare(model, here)
        kind = distribute(module, config, here)
        if config.head_learning_rate is not None and model.config.tie_embeddings:
            raise TrainingError("head_learning_rate is for an untied output projection, this model's is its embedding")
        optimizer = build_optimizer(module, config, here.world if kind == "ddp" else 1)
        network = wrap(module, kind, here)
        bench = Bench(config, here, model, network, optimizer, model_dir, end, log)
        steps = task.begin(bench)
        identity = {"fingerprint": fingerprint, **here.about()}
        progress = resume(out_dir, module, optimizer, config, identity, here, log)
        watch = Best(config, **progress.task["best"]) if progress.task else Best(config)
        if progress.task:
            task.load_state(progress.task["state"])
        learning = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
        log(
            f"{task.kind}: {learning:,} of {sum(p.numel() for p in module.parameters()):,} parameters learn, on "
            f"{here.describe()}" + (f", {kind}" if here.world > 1 else "") + f"; {steps:,} steps"
        )
        if warning := here.warning():
            log(warning)
        record = here.alike(lambda: Record(config, here, out_dir, steps, progress.step, task.shown, log, show))
        stack.enter_context(closing(record))
        saver = stack.enter_context(closing(Saver(out_dir / "trainer_state", config, here, kind == "fsdp2")))
        saver.best = watch.step
        figures: dict[str, float] = progress.task.get("figures", {})
        ended = progress.task.get("ended")  # why, if before the last step
        while progress.step < steps and ended is None:
            began = time.perf_counter()
            seed_step(config.seed, progress.step, here.rank)
            rate = learning_rate(progress.step, steps, config)
            try:
                done = task.step(progress.step, rate)
            except NotFinite as bad:
                raise TrainingError(
                    f"step {progress.step + 1}: {bad}; nothing was updated. Lower learning_rate, or look at the examples"
                ) from None
            took = time.perf_counter() - began
            progress = replace(
                progress,
                step=progress.step + 1,
                tokens=progress.tokens + done.tokens,
                seconds=progress.seconds + took,
            )
            saver.check()
            stopping = here.any(bool(stop and stop()))
            record.step(progress, done, rate, took)
            if progress.step % config.eval_every == 0 or progress.step == steps or task.stop_reason:
                network.eval()
                figures = task.evaluate()
                network.train()
                settle(module)
                record.validation(progress.step, figures)
                ended = watch.look(progress.step, figures, type(config).early_stop_of)
                saver.best = watch.step
            ended = task.stop_reason or ended
            due = progress.step % config.save_every == 0 or progress.step == steps or watch.step == progress.step
            due = due or bool(ended) or bool(config.keep_every and progress.step % config.keep_every == 0)
            if stopping or due:
                remembered = {"state": task.state(), "best": watch.values(), "figures": figures, "ended": ended}
                saver.best = watch.step if watch.step is not None else task.good_step
                progress = replace(progress, task=remembered)
                saver.save(module, optimizer, {**identity, **asdict(progress), "by_stop": not due})
                if stopping and progress.step < steps and ended is None:
                    saver.wait()
                    here.wait_for_all()
                    raise Stopped(
                        f"saved after step {progress.step:,} of {steps:,}; the same command goes on from there"
                    )

        saver.wait()
        if ended is not None:
            log(f"{task.kind}: ended after step {progress.step:,} of {steps:,}: {ended}")
        kept = watch.step if watch.step is not None else task.good_step if task.stop_reason else None
        if kept is not None and kept != progress.step:
            why = "the best on held-out examples" if watch.step is not None else "the last good checkpoint"
            log(f"{task.kind}: the model of step {kept:,} is kept, {why}")
            here.wait_for_all()
            load_state(out_dir / "trainer_state" / f"step-{kept:08d}", module, optimizer)
            network.eval()
            figures = task.evaluate()
        settle(module)
        summary = {
            "format": FORMAT,
            "kind": task.kind,
            "fingerprint": fingerprint,
            "parameters": sum(parameter.numel() for parameter in module.parameters()),
            "learning": learning,
            "steps": progress.step,
            "ended": ended,
            "best_step": kept,
            "tokens": progress.tokens,
            "seconds": progress.seconds,
            "memory_bytes": peak_memory(here.device),
            "figures": figures,
            **task.summary(),
            "device": here.device.type,
            "dtype": str(here.dtype).removeprefix("torch."),
            "threads": here.threads,
            "processes": here.world,
            "parallel": kind,
            "model": both(model_dir, out_dir),
            "config": config.model_dump(mode="json"),
        }
        model.eval()
        task.save(out_dir, bench)
        if here.rank == 0:
            write_json(out_dir / "training.json", summary)  # last: it says that the rest is there
        here.wait_for_all()
        return summary


def model_identity(folder: Path) -> list[str]:
    """What identifies a model folder: checksums of its weights and config, and its tokenizer. Raises `TrainingError`."""
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("*config.json")])
    if not any(file.suffix == ".safetensors" for file in files):
        raise TrainingError(f"{folder} is no model folder: there is no *.safetensors in it")
    return [json.dumps({file.name: checksum(file) for file in files}, sort_keys=True), tokenizer_sha256(folder)]


class Best:
    """Early stopping: the step of the best held-out figure, and how many validations have passed since."""

    def __init__(
        self, config: TuneConfig, step: int | None = None, figure: float | None = None, since: int = 0
    ) -> None:
        self.patience, self.step, self.figure, self.since = config.early_stop, step, figure, since

    def values(self) -> dict[str, Any]:
        """What `__init__` takes to go on."""
        return {"step": self.step, "figure": self.figure, "since": self.since}

    def look(self, step: int, figures: dict[str, float], watched: tuple[str, str]) -> str | None:
        """After a validation: why to end, or None."""
        name, better = watched
        if self.patience is None or name not in figures:
            return None
        new = figures[name] if better == "min" else -figures[name]
        if self.figure is None or new < self.figure:
            self.step, self.figure, self.since = step, new, 0
            return None
        self.since += 1
        return f"{name} has not been better for {self.since} validations" if self.since >= self.patience else None


class Record:
    """metrics.jsonl, trackers, and the line on the terminal; only the first process writes."""

    def __init__(
        self,
        config: TuneConfig,
        here: Place,
        out_dir: Path,
        steps: int,
        done: int,
        shown: tuple[str, ...],
        log: Callable[[str], Any],
        show: Callable[[str], Any] | None,
    ) -> None:
        self.config, self.here, self.steps, self.log, self.show = config, here, steps, log, show
        self.shown = shown
        self.file = MetricsFile(out_dir / "metrics.jsonl", done) if here.rank == 0 else None
        self.trackers = open_trackers(config, out_dir, done) if here.rank == 0 else []
        self.left = TimeLeft()

    def write(self, values: dict[str, Any]) -> None:
        """One line of metrics.jsonl, and the same to the trackers."""
        if self.file is not None:
            self.file.write(values)
        for tracker in self.trackers:
            tracker.write(values)

    def step(self, progress: Progress, done: Step, rate: float, took: float) -> None:
        """After each step."""
        left = self.left.after(time.perf_counter(), self.steps - progress.step)
        self.write(
            {
                "step": progress.step,
                **done.update.figures,
                "learning_rate": rate,
                "grad_norm": done.update.grad_norm,
                "tokens": progress.tokens,
                "seconds": progress.seconds,
                "tokens_per_second": done.tokens / took,
                "memory_bytes": peak_memory(self.here.device),
                "seconds_left": left,
            }
        )
        due = progress.step % self.config.log_every == 0 or progress.step in (1, self.steps)
        if self.show is not None or due:
            figures = done.update.figures
            line = {name: figures[name] for name in self.shown or figures if name in figures}
            shown = [f"step {progress.step:,}/{self.steps:,}", described(line)]
            shown += [f"lr {rate:.2e}", f"grad {done.update.grad_norm:.2f}", f"{done.tokens / took:,.0f} tok/s"]
            (self.show or self.log)("  ".join([*shown, *([] if left is None else [f"{duration(left)} left"])]))
        if due:
            reset_peak_memory(self.here.device)

    def validation(self, step: int, figures: dict[str, float]) -> None:
        """After each validation."""
        if figures:
            self.write({"step": step, **figures})
            self.log(f"step {step:,}/{self.steps:,}  {described(figures)}")

    def close(self) -> None:
        """Let the trackers write what they still hold."""
        for tracker in self.trackers:
            tracker.close()


def described(figures: dict[str, float]) -> str:
    """Figures in one line."""
    return "  ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in figures.items())


def steps_of(config: TuneConfig, examples: int) -> int:
    """Steps of a run over so many examples: `steps`, or those of `epochs`, at least one."""
    if config.steps is not None:
        return config.steps
    return max(1, round(config.epochs * examples / config.batch_rows))


def held_out(ids: list[str], share: float) -> list[bool]:
    """Which examples are held out: by the hash of their ids alone, so that no other example and no order matters."""
    import hashlib

    limit = int(share * 2**64)
    return [int.from_bytes(hashlib.sha256(one.encode()).digest()[:8], "big") < limit for one in ids]
