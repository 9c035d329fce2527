"""Where metrics go beside metrics.jsonl: TensorBoard, Weights & Biases, trackio. Each is an optional package."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from training.knobs import TrainerConfig, TrainingError

PROJECT = "gristmill"


class Tracker(Protocol):
    """A service that takes numbers by step."""

    def write(self, values: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


class _Service(NamedTuple):
    send: Callable[[int, dict[str, float]], Any]
    finish: Callable[[], Any]

    def write(self, values: dict[str, Any]) -> None:
        if numbers := dict(scalars(values)):
            self.send(values["step"], numbers)

    def close(self) -> None:
        self.finish()


def scalars(values: Mapping[str, Any], below: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of a line of metrics.jsonl but its step, nested ones as `by_source/web/loss`."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from scalars(value, f"{below}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool) and (below or key != "step"):
            yield f"{below}{key}", value


def open_trackers(config: TrainerConfig, out_dir: Path, done: int) -> list[Tracker]:
    """The trackers of a run that goes on behind step `done`. Raises `TrainingError` if a package is missing."""
    makers: dict[str, Callable[[TrainerConfig, Path, int], Tracker]] = {
        "tensorboard": _tensorboard,
        "wandb": _wandb,
        "trackio": _trackio,
    }
    opened: list[Tracker] = []
    for name in dict.fromkeys(config.tracker):
        try:
            opened.append(makers[name](config, out_dir, done))
        except ImportError as error:
            raise TrainingError(
                f"tracker: {name} is not installed ({error}); pip install 'gristmill[trackers]', or leave it out"
            ) from None
    return opened


def _tensorboard(config: TrainerConfig, out_dir: Path, done: int) -> Tracker:
    """Event files in the model folder's tensorboard/; what a killed run wrote behind its checkpoint is purged by step."""
    from torch.utils.tensorboard import SummaryWriter

    writer: Any = SummaryWriter(str(out_dir / "tensorboard"), purge_step=done + 1)

    def send(step: int, numbers: dict[str, float]) -> None:
        for name, number in numbers.items():
            writer.add_scalar(name, number, step)

    return _Service(send, writer.close)


def _wandb(config: TrainerConfig, out_dir: Path, done: int) -> Tracker:
    """Weights & Biases; offline, into the model folder's wandb/, unless the environment sets WANDB_MODE."""
    import wandb

    os.environ.setdefault("WANDB_SILENT", "true")
    run: Any = wandb.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        name=out_dir.resolve().name,
        dir=str(out_dir),
        mode=os.environ.get("WANDB_MODE", "offline"),
        config=config.model_dump(mode="json"),
        id=os.environ.get("WANDB_RUN_ID") or _own(config, out_dir),
        resume="allow",
    )
    return _Service(lambda step, numbers: run.log(numbers, step=step), run.finish)


def _own(config: TrainerConfig, out_dir: Path) -> str:
    """What a run has alone, and again when it is resumed."""
    return config.fingerprint(str(out_dir.resolve()))[:16]


def _trackio(config: TrainerConfig, out_dir: Path, done: int) -> Tracker:
    """trackio, which keeps runs in a local database (TRACKIO_DIR, else its own cache); nothing leaves the machine."""
    import trackio

    run: Any = trackio.init(
        project=os.environ.get("TRACKIO_PROJECT", PROJECT),
        name=f"{out_dir.resolve().name}-{_own(config, out_dir)[:8]}",  # by which it tells runs apart
        config=config.model_dump(mode="json"),
        resume="allow",
    )
    return _Service(lambda step, numbers: run.log(numbers, step=step), run.finish)
