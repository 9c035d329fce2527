"""How far a run is, and going on or back to its newest checkpoint."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from training.checkpoint import checkpoints, load_state, read_state, regular, remove_checkpoint, verify
from training.device import Place
from training.knobs import TrainerConfig, TrainingError
from training.optimizer import Optimizer
from training.watch import position

SHOWN = 3  # knobs in the refusal of another run's folder


class Stopped(Exception):
    """The run was asked to stop; it has saved, and the same call goes on from there."""


@dataclass(frozen=True)
class Progress:
    """How far a run is, and what it must remember to decide the same again; all of it stands in state.json."""

    step: int = 0  # updates done
    tokens: int = 0  # read, padding left out
    seconds: float = 0.0  # in steps
    skipped: tuple[int, ...] = ()  # positions in the data whose batch was refused (watch.py)
    refused: int = 0  # how often that happened
    norms: tuple[float, ...] = ()  # of the newest gradients, where spikes are watched for
    task: dict[str, Any] = field(default_factory=dict)  # what a kind of fine-tuning must remember


def resume(
    out_dir: Path,
    model: nn.Module,
    optimizer: Optimizer,
    config: TrainerConfig,
    identity: dict[str, Any],
    here: Place,
    log: Callable[[str], Any],
) -> Progress:
    """Load the newest checkpoint, if there is one, and say how far it is.

    identity: fingerprint, threads, processes and dtype of this run. Raises `TrainingError`, in all processes, if the checkpoint is
    broken or of another run.
    """
    folder = _newest(out_dir, here)
    if folder is None:
        return Progress()
    began = time.perf_counter()
    checked = partial(_checked, folder, out_dir, config, identity["fingerprint"], here)
    state = here.gather(here.alike(checked))[0]
    load_state(folder, model, optimizer)
    log(f"going on from step {state['step']:,} (checkpoint read in {time.perf_counter() - began:.1f} s)")
    for what in ("threads", "processes"):
        if state[what] != identity[what]:
            log(f"{identity[what]} {what}, {state[what]} before: results will differ in the last digits")
    if (before := state.get("dtype", identity["dtype"])) != identity["dtype"]:
        log(f"this run was begun in {before}, and goes on in {identity['dtype']}: set dtype if that is not meant")
    return _progress(state)


def go_back(after: Progress, out_dir: Path, model: nn.Module, optimizer: Optimizer, here: Place) -> Progress:
    """From a state that is suspect to the newest regular checkpoint, all positions since on the list of skipped ones.

    Those of stops are passed over, and removed: an undisturbed run has none, and both must decide the same. Without a
    checkpoint the state stays as it is.
    """
    found = here.gather(regular(out_dir / "trainer_state")[-1:])[0]
    if not found:
        return after
    folder = found[0]
    load_state(folder, model, optimizer)
    old = _progress(read_state(folder))
    here.wait_for_all()  # all have looked
    if here.rank == 0:
        for newer in checkpoints(folder.parent):
            if newer > folder:  # what is suspect is nothing to resume from
                remove_checkpoint(newer)
    since = {position(step, after.skipped) for step in range(old.step, after.step)}
    return replace(old, skipped=tuple(sorted(since | set(after.skipped))), refused=after.refused)


def finished_run(out_dir: Path, config: TrainerConfig, fingerprint: str) -> dict[str, Any] | None:
    """training.json of this very run if it has finished; None if there is none. Raises `TrainingError` for another run's."""
    path = out_dir / "training.json"
    if not path.exists():
        return None
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        found = summary["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"cannot read {path} ({error}); remove {out_dir} to train again") from None
    if found != fingerprint:
        raise _other_run(out_dir, config)
    return summary


def _other_run(folder: Path, config: TrainerConfig) -> TrainingError:
    """The refusal of a folder that holds something else, with the knobs in which it differs as far as the folder tells them."""
    there: dict[str, Any] = {}
    for path in (folder / "trainer_state" / "run.json", folder / "training.json"):
        with suppress(OSError, ValueError, KeyError, TypeError):
            there = dict(json.loads(path.read_text(encoding="utf-8"))["config"])
            break
    here = config.model_dump(mode="json", exclude=set(config.runtime_knobs))
    changed = [key for key in here if key in there and there[key] != here[key]]
    listed = ", ".join(f"{key}: {json.dumps(there[key])} there, {json.dumps(here[key])} now" for key in changed[:SHOWN])
    if changed:
        other = f"another config ({listed}{f', {len(changed) - SHOWN} more' * (len(changed) > SHOWN)})"
    else:
        other = f"another {'' if there else 'config, '}model, dataset or tokenizer"
    return TrainingError(f"{folder} holds a run of {other}; remove it or choose another output folder")


def _newest(out_dir: Path, here: Place) -> Path | None:
    found = here.gather(checkpoints(out_dir / "trainer_state")[-1:])[0]  # what the first process sees, for all
    return found[0] if found else None


def _checked(folder: Path, out_dir: Path, config: TrainerConfig, fingerprint: str, here: Place) -> dict[str, Any]:
    """A checkpoint's state.json, once the files beside it are found whole, each process looking at some."""
    state = read_state(folder)
    if state["fingerprint"] != fingerprint:
        raise _other_run(out_dir, config)
    verify(folder, state, here.rank, here.world)
    return state


def _progress(state: dict[str, Any]) -> Progress:
    values: dict[str, Any] = {name: state[name] for name in Progress.__dataclass_fields__ if name != "task"}
    values["task"] = state.get("task", {})  # older checkpoints have none
    return Progress(**{**values, "skipped": tuple(values["skipped"]), "norms": tuple(values["norms"])})
