"""How a run begins in each of its processes, whatever it trains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

import torch

from training.device import Place, place
from training.heap import freed_memory_kept
from training.knobs import TrainerConfig, TrainingError
from training.lock import only_run


@contextmanager
def begun(config: TrainerConfig, out_dir: Path, fingerprint: str) -> Iterator[Place]:
    """This process's place in the run that alone writes to a folder; torch's settings and generators are put back at the end.

    Raises `TrainingError` in all processes if another run holds the folder, or they were given different things to do.
    """
    generators = torch.random.fork_rng(devices=range(torch.cuda.device_count()))
    with place(config) as here, generators, ExitStack() as held:
        if here.device.type == "cpu":
            held.enter_context(freed_memory_kept())
        here.alike(lambda: held.enter_context(only_run(out_dir / "trainer_state") if here.rank == 0 else nullcontext()))
        if len(set(here.gather(fingerprint))) > 1:
            raise TrainingError("the processes of this run were given different knobs, models or data")
        if len(places := sorted(set(here.gather((here.device.type, str(here.dtype).removeprefix("torch.")))))) > 1:
            found = " and ".join(f"{dtype} on {device}" for device, dtype in places)
            raise TrainingError(
                f"the processes of this run would compute in {found}; set device and dtype to what all have"
            )
        yield here
