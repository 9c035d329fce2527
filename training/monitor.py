"""What a user sees of a run while it goes: the line on the terminal, metrics.jsonl, trackers and samples."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

from training.config import PretrainConfig
from training.data import Dataset
from training.device import Place
from training.flops import flops_per_token, mean_visible_keys, peak_flops, utilisation
from training.held_out import Validation
from training.metrics import MetricsFile, TimeLeft, peak_memory, reset_peak_memory
from training.model import Decoder, ModelConfig
from training.samples import Samples
from training.trackers import open_trackers


class Step(NamedTuple):
    """One finished step: its number (from 1), what came out, the seconds that it took and waited for data, and the run's sums."""

    step: int
    loss: float
    learning_rate: float
    grad_norm: float
    step_tokens: int
    step_seconds: float
    waited: float
    tokens: int
    seconds: float


class Compute(NamedTuple):
    """FLOPs of training on a token: what must be computed, and with attention over whole rows; peak FLOP/s of all devices."""

    flops_per_token: float
    flops_per_token_whole_rows: float
    peak_flops: float | None


def measure_compute(config: PretrainConfig, data: Dataset, shape: ModelConfig, here: Place) -> Compute:
    """The figures behind MFU; equal in all processes but for a peak that is measured."""
    keys = mean_visible_keys(data.train, config.document_mask, shape.window)
    dtype = str(here.dtype).removeprefix("torch.")
    peak = config.peak_flops or peak_flops(here.device, "tf32" if config.tf32 else dtype, here.threads)
    return Compute(
        flops_per_token(shape, keys), flops_per_token(shape, data.sequence_length), peak and peak * here.world
    )


class Monitor:
    """Takes what the loop knows after each step and validation, and shows it; only the first process writes."""

    def __init__(
        self,
        config: PretrainConfig,
        data: Dataset,
        shape: ModelConfig,
        here: Place,
        tokenizer_dir: Path,
        out_dir: Path,
        steps: int,
        done: int,
        skipped: Collection[int],
        log: Callable[[str], Any],
        show: Callable[[str], Any] | None = None,
    ) -> None:
        """A run of `steps` steps that goes on behind step `done`, with these positions refused before.

        `show` replaces the line that it wrote last, as a terminal can; without it a line is logged every `log_every` steps.
        """
        self.config, self.here, self.steps, self.log, self.show = config, here, steps, log, show
        self.compute = measure_compute(config, data, shape, here)
        self.samples = Samples(
            config, shape.context_length, tokenizer_dir, data.tokens.eos_id, out_dir, here, done, log
        )
        self.first = here.rank == 0
        self.file = MetricsFile(out_dir / "metrics.jsonl", done, skipped) if self.first else None
        self.trackers = open_trackers(config, out_dir, done) if self.first else []
        self.left = TimeLeft()
        self.since: list[Step] = []  # the last line
        self.waited = self.stepped = 0.0  # seconds of this process
        reset_peak_memory(here.device)
        if self.compute.peak_flops is None:
            log(f"the peak FLOP/s of {here.describe()} are not known, so no MFU; give peak_flops")

    def record(self, values: dict[str, Any]) -> None:
        """One line of metrics.jsonl, and the same to the trackers."""
        if self.file is not None:
            self.file.write(values)
        for tracker in self.trackers:
            tracker.write(values)

    def step(self, now: Step) -> None:
        """After each step."""
        self.waited, self.stepped = self.waited + now.waited, self.stepped + now.step_seconds
        speed = now.step_tokens / now.step_seconds
        left = self.left.after(time.perf_counter(), self.steps - now.step)
        self.record(
            {
                "step": now.step,
                "loss": now.loss,
                "learning_rate": now.learning_rate,
                "grad_norm": now.grad_norm,
                "tokens": now.tokens,
                "seconds": now.seconds,
                "tokens_per_second": speed,
                "mfu": utilisation(speed, self.compute.flops_per_token, self.compute.peak_flops),
                "memory_bytes": peak_memory(self.here.device),
                "data_wait": now.waited / now.step_seconds,
                "seconds_left": left,
            }
        )
        self.since.append(now)
        due = now.step % self.config.log_every == 0 or now.step in (1, self.steps)
        if self.show is not None or due:
            (self.show or self.log)(self.line(now, left))
        if due:
            self.since.clear()
            reset_peak_memory(self.here.device)

    def line(self, now: Step, left: float | None) -> str:
        """The progress line; tokens/s and MFU are means over the steps since the line before."""
        speed = sum(one.step_tokens for one in self.since) / sum(one.step_seconds for one in self.since)
        share = utilisation(speed, self.compute.flops_per_token, self.compute.peak_flops)
        parts = [
            f"step {now.step:,}/{self.steps:,}",
            f"loss {now.loss:.4f}",
            f"lr {now.learning_rate:.2e}",
            f"grad {now.grad_norm:.2f}",
            f"{speed:,.0f} tok/s",
            *([] if share is None else [f"MFU {100 * share:.1f}%"]),
            *([] if left is None else [f"{duration(left)} left"]),
        ]
        return "  ".join(parts)

    def rollback(self, from_step: int, to_step: int, event: dict[str, Any]) -> None:
        """After a batch was refused in the step behind `from_step`; the lines of steps that the run went back of are dropped."""
        where = event.pop("where")
        self.since.clear()
        back = f"back to step {to_step:,}, " if to_step < from_step else ""
        self.log(f"step {from_step + 1:,}: {event['why']}; {back}going on without batch {event['position']:,}. {where}")
        if self.file is not None:
            if to_step < from_step:
                self.file.cut(to_step, event["skipped"])
                self.samples.cut(to_step)
            steps = {"step": to_step + 1, "event": "rollback", "from_step": from_step, "to_step": to_step}
            self.file.write({**steps, **event})

    def validation(self, step: int, found: Validation, unigram: float | None) -> None:
        """After each validation."""
        self.record({"step": step, **found._asdict(), "unigram_bits_per_byte": unigram})
        self.log(f"step {step:,}/{self.steps:,}  {describe(found, unigram)}")

    def sample(self, step: int, model: Decoder) -> None:
        """Continue the prompts, if they are due after this step. All processes call this."""
        if step % (self.config.sample_every or self.config.eval_every) == 0 or step == self.steps:
            self.samples.draw(step, model)

    def summary(self, tokens: int, seconds: float) -> dict[str, Any]:
        """What training.json holds of all this: means over the whole run; waiting and memory of this process."""
        speed, compute = tokens / seconds, self.compute
        return {
            "tokens_per_second": speed,
            "flops_per_token": compute.flops_per_token,
            "flops_per_token_whole_rows": compute.flops_per_token_whole_rows,
            "peak_flops": compute.peak_flops,
            "mfu": utilisation(speed, compute.flops_per_token, compute.peak_flops),
            "mfu_whole_rows": utilisation(speed, compute.flops_per_token_whole_rows, compute.peak_flops),
            "memory_bytes": peak_memory(self.here.device),
            "data_wait": self.waited / self.stepped if self.stepped else None,
            "samples": self.samples.last,
        }

    def close(self) -> None:
        """Let the trackers write what they still hold."""
        for tracker in self.trackers:
            tracker.close()


def describe(found: Validation, unigram: float | None) -> str:
    """A validation in one line."""
    if found.bits_per_byte is None or unigram is None:
        return "nothing to predict in the validation rows"
    return (
        f"validation loss {found.validation_loss:.4f}, {found.bits_per_byte:.4f} bits per byte "
        f"(token unigrams: {unigram:.4f})"
    )


def duration(seconds: float) -> str:
    """Seconds in two units at most: 42 s, 3 min 20 s, 2 h 05 min, 1 d 4 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"
