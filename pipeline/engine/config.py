"""The section `engine`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from stages.stage import Bytes, knob


class EngineConfig(BaseModel):
    """How the work is carried out. Changes the output only where the doc says so."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    executor: Literal["ray", "inline"] = knob("ray", "ray: parallel; inline: one unit after the other, in one process")
    address: str | None = knob(None, "an existing Ray cluster (`auto`, or host:port); none: a local one is started")
    workers: Literal["auto"] | int = knob("auto", "units at a time; auto: as many as cores and memory allow")
    memory: Literal["auto"] | Bytes = knob(
        "auto", "memory for all units together on a node; auto: three quarters of what is free"
    )
    unit_memory: Bytes = knob(1 << 30, "memory that one unit may take before it is ended", ge=64 << 20)
    recycle_bytes: Bytes = knob(
        4 << 30, "a worker is replaced after about this much input, before leaks in native parsers matter", ge=1 << 10
    )
    shard_bytes: Bytes = knob(
        128 << 20, "input is cut into shards of about this size, as stored (changes the output)", ge=1 << 10
    )
    partitions: Literal["auto"] | int = knob(
        "auto", "parts of a key exchange; auto: one for each 256 MB of input, at most 4096"
    )
    keep_dropped: Literal["sample", "all", "none"] = knob(
        "sample", "which dropped documents' text is kept in samples/ (changes the output)"
    )
    max_failed: float = knob(
        0.05, "share of an input's records that may fail before the run counts as failed", ge=0, le=1
    )
    max_record_bytes: Bytes = knob(
        100 << 20, "longer records fail as `read:too_large` (changes the output)", ge=1 << 10
    )
    record_seconds: float = knob(
        60.0, "CPU time for one record in one stage; beyond it the record fails as `timeout`", gt=0
    )
    storage_options: dict[str, Any] = knob({}, "options for fsspec, for an `--output` that is a URL")
    train_launch: Literal["local", "torchrun", "ray"] = knob(
        "local",
        "how sections that train start: local: one process; torchrun: several on this machine; ray: Ray Train's on the cluster",
    )
    train_processes: Literal["auto"] | int = knob(
        "auto", "processes of torchrun or ray, a GPU each where there are any; auto: as many as GPUs, at least one"
    )

    @property
    def units_per_worker(self) -> int:
        """Units after which a worker is replaced. A number of units alone would replace those of small ones all the time, and each
        new one imports and sets up everything again: two seconds.
        """
        return max(1, self.recycle_bytes // self.shard_bytes)
