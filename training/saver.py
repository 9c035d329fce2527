"""Writing trainer_state/ in the background: a snapshot in host memory, a thread that writes it, a folder that is whole.

step-NNNNNNNN/ holds the float32 weights that learn by name and the optimizer's state as ENTRY.NAME: in model.safetensors and
optimizer.safetensors, or, of a sharded model, in shard-* files by `torch.distributed.checkpoint`, each process its part. state.json,
with the checksums of the others, is written last; then the folder gets its name.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from training.checkpoint import (
    FORMAT,
    checkpoints,
    checksum,
    regular,
    remove_checkpoint,
    state_text,
    sync,
    write_tensors,
)
from training.device import Place
from training.knobs import TrainerConfig
from training.optimizer import Optimizer
from training.shards import is_part


@dataclass
class Saver:
    """Writes checkpoints to `folder`, one at a time. All processes call each method at the same step."""

    folder: Path
    config: TrainerConfig
    here: Place
    sharded: bool
    best: int | None = None  # a step whose checkpoint is kept beside those of the policy
    blocked_seconds: float = 0.0  # of the training loop: snapshots, and waits for the write before
    written_seconds: list[float] = field(default_factory=list)  # of each write
    _thread: threading.Thread | None = None
    _failure: BaseException | None = None
    _group: Any = None  # of processes, for what the writing threads say to each other
    _mesh: Any = None

    def __post_init__(self) -> None:
        if self.sharded:
            self._group = dist.new_group(backend="gloo", timeout=timedelta(seconds=self.config.process_timeout))
            from torch.distributed.device_mesh import init_device_mesh

            self._mesh = init_device_mesh("cpu", (self.here.world,))
        if self.here.rank == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            for left in self.folder.glob("step-*.tmp"):  # by a kill in the middle of a write
                shutil.rmtree(left, ignore_errors=True)

    def save(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        state: dict[str, Any],
        also: Callable[[], Any] | None = None,
    ) -> None:
        """Take a snapshot after `state["step"]` updates and begin to write it, and then `also`, in the background.

        Waits for the write before. Raises its `OSError` if it failed; the checkpoints before it are whole.
        """
        began = time.perf_counter()
        self.wait()
        if self.sharded or self.here.rank == 0:
            weights, moments = self._snapshot(model, optimizer)
            self._thread = threading.Thread(
                target=self._run, args=(weights, moments, state, also), name="checkpoint", daemon=False
            )
            self._thread.start()
        self.blocked_seconds += time.perf_counter() - began

    def check(self) -> None:
        """Raise the error of a write that has failed."""
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def wait(self) -> None:
        """Return when nothing is being written any more, by any process. Raises the `OSError` of a write that failed."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()
        if not self.sharded:  # the others would count the first one as lost, were its disk slower than process_timeout
            self.here.wait_for_all()

    def close(self) -> None:
        """As `wait`, when the run ends by another error anyway."""
        if self._thread is not None:
            self._thread.join()

    def _snapshot(self, model: nn.Module, optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        learning = ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)
        weights = {name: self._copy(parameter) for name, parameter in learning}
        state = {key: self._copy(torch.as_tensor(value)) for key, value in optimizer.state().items()}
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        return weights, state

    def _copy(self, tensor: Tensor) -> Tensor:
        tensor = tensor.detach()
        if not is_part(tensor):
            return _to_host(tensor)
        from torch.distributed.tensor import DTensor

        assert isinstance(tensor, DTensor)
        local = _to_host(tensor.to_local())
        return DTensor.from_local(
            local, self._mesh, tensor.placements, run_check=False, shape=tensor.shape, stride=tensor.stride()
        )

    def _run(
        self,
        weights: dict[str, Tensor],
        moments: dict[str, Tensor],
        state: dict[str, Any],
        also: Callable[[], Any] | None,
    ) -> None:
        began = time.perf_counter()
        final = self.folder / f"step-{state['step']:08d}"
        try:
            if self.sharded:
                self._write_shards(final, {**weights, **moments}, state, also)
            else:
                self._write(final, {"model.safetensors": weights, "optimizer.safetensors": moments}, state, also)
        except BaseException as error:
            self._failure = _explain(error, final)
            shutil.rmtree(final.with_name(final.name + ".tmp"), ignore_errors=True)  # room for whoever cleans up
        self.written_seconds.append(time.perf_counter() - began)

    def _write(
        self, final: Path, files: dict[str, dict[str, Tensor]], state: dict[str, Any], also: Callable[[], Any] | None
    ) -> None:
        temporary = _fresh(final)
        for name, tensors in files.items():
            write_tensors(temporary / name, tensors)
            sync(temporary / name)
        self._finish(final, state, {name: checksum(temporary / name) for name in files}, also)

    def _write_shards(
        self, final: Path, tensors: dict[str, Tensor], state: dict[str, Any], also: Callable[[], Any] | None
    ) -> None:
        import torch.distributed.checkpoint as dcp
        from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

        temporary = final.with_name(final.name + ".tmp")
        if self.here.rank == 0:
            _fresh(final)
        dist.barrier(self._group)
        writer = HuggingFaceStorageWriter(str(temporary), save_distributed=True)
        dcp.save(tensors, storage_writer=writer, process_group=self._group)
        mine = sorted(temporary.glob("*.safetensors"))[self.here.rank :: self.here.world]
        found: list[Any] = [None] * self.here.world
        dist.all_gather_object(found, {file.name: checksum(file) for file in mine}, group=self._group)
        if self.here.rank == 0:
            self._finish(final, state, {name: about for part in found for name, about in part.items()}, also)

    def _finish(
        self, final: Path, state: dict[str, Any], files: dict[str, Any], also: Callable[[], Any] | None
    ) -> None:
        """state.json, what else belongs to it, the folder's name, and the policy of what is kept."""
        temporary = final.with_name(final.name + ".tmp")
        (temporary / "state.json").write_text(state_text({"format": FORMAT, **state, "files": files}), encoding="utf-8")
        if also is not None:
            also()  # before the name: a run that is killed here does it again
        sync(temporary / "state.json")
        sync(temporary)
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        sync(self.folder)
        every = self.config.keep_every
        kept = {final, *regular(self.folder)[-self.config.keep_checkpoints :]}  # a stop's counts for none of them
        for old in checkpoints(self.folder):
            step = int(old.name.removeprefix("step-"))
            if old not in kept and step != self.best and (every is None or step % every):
                with suppress(OSError):
                    remove_checkpoint(old)


def _to_host(tensor: Tensor) -> Tensor:
    """A copy in host memory that later updates do not touch; from CUDA without waiting for each tensor."""
    if tensor.device.type == "cpu":
        return tensor.clone(memory_format=torch.contiguous_format)
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)


def _fresh(final: Path) -> Path:
    temporary = final.with_name(final.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    return temporary


def _explain(error: BaseException, final: Path) -> BaseException:
    """An `OSError` in one line for what the disk did, however the libraries wrap it."""
    causes = list(getattr(error, "failures", {}).values())  # of torch's CheckpointException: rank -> (error, trace)
    if causes:
        error = causes[0][0]
    if not isinstance(error, OSError | RuntimeError):
        return error
    why = " ".join(str(error).split())[:300]
    return OSError(
        f"cannot write the checkpoint {final}: {why}. The checkpoints before it are whole; make room or mend what is "
        f"wrong, and the same command goes on from the last of them"
    )
