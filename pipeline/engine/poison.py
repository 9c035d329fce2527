"""Records that end their worker: journalled, and failed in the stage they end it in."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.engine.journal import digest
from pipeline.engine.ledger import Lost
from pipeline.engine.mapping import StageCounts, text_bytes
from pipeline.engine.store import Store
from pipeline.engine.writers import SampleKeeper, offer_samples
from stages.batch import Batch

if TYPE_CHECKING:
    from pipeline.engine.group_unit import GroupTask
    from pipeline.engine.map_unit import MapTask


@dataclass(frozen=True)
class Poison:
    """A record that ends its worker: the stage it was in, the rule, and how the worker died."""

    stage: str
    rule: str
    detail: str | None
    threshold: float | None = None


def failed(found: Poison) -> dict[str, Any]:
    """The ledger's words on a poison record."""
    return {
        "fate": "failed",
        "stage": found.stage,
        "rule": found.rule,
        "value": None,
        "threshold": found.threshold,
        "detail": found.detail,
    }


def poison_of(task: MapTask, batch: Batch, places: np.ndarray) -> dict[str, Poison]:
    """The batch's poison records, by id."""
    if not task.poison:
        return {}
    ids = batch.values("id")
    return {ids[row]: task.poison[place] for row, place in enumerate(places.tolist()) if place in task.poison}


def stop_poison(
    batch: Batch, poison: dict[str, Poison], stage: str, counts: StageCounts, lost: Lost, keeper: SampleKeeper | None
) -> Batch:
    """The batch without the records that end their worker in this stage; they fail here."""
    rows = [row for row, id_ in enumerate(batch.values("id")) if id_ in poison and poison[id_].stage == stage]
    if not rows:
        return batch
    stopped = batch.take(rows)
    verdicts = [failed(poison[id_]) for id_ in stopped.values("id")]
    counts.rows_in += len(stopped)
    counts.bytes_in += text_bytes(stopped)
    counts.failed.update(verdict["rule"] for verdict in verdicts)
    lost.add(stopped.table, verdicts)
    offer_samples(keeper, stopped, verdicts)
    return batch.take(np.setdiff1d(np.arange(len(batch)), np.array(rows), assume_unique=True))


def plain_poison(poison: dict[int, Poison]) -> dict[str, Any]:
    """As plain data."""
    return {str(place): asdict(found) for place, found in sorted(poison.items())}


def poison_from(data: dict[str, Any]) -> dict[int, Poison]:
    """Back from plain data."""
    return {int(place): Poison(**found) for place, found in data.items()}


def _poison_path(phase: str, unit: str) -> str:
    return f"journal/poison/{phase}/{unit}.json"


def poison_key(task: MapTask | GroupTask) -> str:
    """What a unit's poison is journalled for: its work, and where its segments begin (places are counted from there)."""
    return digest([task.fingerprint, [segment.begin for segment in getattr(task, "segments", ())]])


def save_poison(task: MapTask | GroupTask) -> None:
    """Journal the poison records of a unit: their verdict is final until `--retry-failed`."""
    data = {
        "fingerprint": poison_key(task),
        "poison": plain_poison(task.poison),
    }
    task.store.write(_poison_path(task.phase, task.unit), json.dumps(data, indent=1).encode())


def load_poison(task: MapTask | GroupTask) -> dict[int, Poison]:
    """The journalled poison records of a unit, if they were found for the same work."""
    try:
        data = json.loads(task.store.read(_poison_path(task.phase, task.unit)))
    except (FileNotFoundError, ValueError):
        return {}
    if data.get("fingerprint") != poison_key(task):
        return {}
    return poison_from(data["poison"])


def forget_poison(store: Store) -> None:
    """Try all poison records again."""
    store.remove("journal/poison")
