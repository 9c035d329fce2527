"""From a step of a run to the documents of its batch, and from a document to the steps that read it.

Both are functions of what the model folder remembers (lineage.py): the seed, the pack index and the skipped positions. A step's
rows follow from `sample_row`, a row's steps from its exact inverse, so nothing is searched for in the order of rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tokenizer_training.dataset.loader import row_sample, step_rows
from tokenizer_training.dataset.read import Piece
from training.checkpoint import checkpoints, read_state
from training.data import Dataset, open_dataset
from training.knobs import TrainingError
from training.lineage import Run
from training.watch import position

HIDDEN = {
    "id",
    "source",
    "text",
    "messages",
    "repeat",
    "dup_cluster",
    "mix_group",
    "mix_phases",
}  # columns not repeated


@dataclass(frozen=True)
class Order:
    """In which order a run reads the rows of its train split; `done` steps of `steps` are taken so far."""

    data: Dataset
    batch_rows: int
    seed: int
    shuffle: bool
    skipped: tuple[int, ...]
    done: int
    steps: int

    @property
    def phases(self) -> list[int]:
        """Rows of each phase of the data."""
        return [rows for _, rows in self.data.train.phases]

    def rows_of(self, step: int) -> list[int]:
        """The rows of step `step` (from 1), in the order of the batch."""
        at = position(step - 1, self.skipped)
        return step_rows(at, len(self.data.train), self.batch_rows, self.seed, self.shuffle, phases=self.phases)

    def steps_of(self, row: int) -> list[tuple[int, int]]:
        """(step, epoch), steps from 1, that read a row until the run's last step; batches that were skipped are left out."""
        rows, skipped = len(self.data.train), set(self.skipped)
        last = position(self.steps - 1, self.skipped)
        found: list[tuple[int, int]] = []
        for epoch in range(-(-(last + 1) * self.batch_rows // rows)):
            at = row_sample(row, epoch, rows, self.seed, self.shuffle, self.phases) // self.batch_rows
            if at <= last and at not in skipped:
                found.append((at - sum(one < at for one in skipped) + 1, epoch))
        return found


def order_of(run: Run) -> Order:
    """The order of a run. Raises `TrainingError` if its token dataset is another than it was trained on."""
    data = open_dataset(run.tokens_dir, run.lineage["sequence_length"])
    facts = data.tokens.facts
    for name, now in (("tokens_checksum", facts.get("checksum")), ("tokenizer_sha256", facts["tokenizer_sha256"])):
        if run.lineage[name] != now:
            raise TrainingError(
                f"{run.tokens_dir} is another dataset than {run.folder} was trained on ({name} is {now}, was "
                f"{run.lineage[name]}); give its place by --tokens"
            )
    steps = run.config.total_steps(data.sequence_length)
    found = checkpoints(run.folder / "trainer_state")
    if run.summary is not None:
        done, skipped = steps, run.summary.get("skipped_batches", [])
    elif found:
        state = read_state(found[-1])
        done, skipped = int(state["step"]), state["skipped"]
    else:
        done, skipped = 0, []
    config = run.config
    return Order(data, config.batch_rows, config.seed, config.shuffle, tuple(skipped), done, steps)


def batch_of(run: Run, step: int) -> dict[str, Any]:
    """The rows of a step and the documents in them, with what documents/ says of each. Raises `TrainingError` for no such step."""
    order = order_of(run)
    if not 1 <= step <= order.steps:
        raise TrainingError(f"{run.folder}: the run has steps 1 to {order.steps}, not {step}")
    rows = order.rows_of(step)
    pieces = pieces_of(order.data, rows)
    known = details(run.documents_dir, {piece.id for row in pieces for piece in row})
    return {
        "step": step,
        "taken": step <= order.done,
        "position": position(step - 1, order.skipped),
        "rows": [
            {"row": row, "documents": [_described(piece, known) for piece in found]}
            for row, found in zip(rows, pieces, strict=True)
        ],
    }


def pieces_of(data: Dataset, rows: list[int]) -> list[list[Piece]]:
    """The documents of each row. Rows are looked up shard by shard, so that few sidecars are in memory at a time."""
    order = sorted(range(len(rows)), key=lambda at: [span[0] for span in data.train.spans(rows[at])])
    found: dict[int, list[Piece]] = {at: data.tokens.documents_in_row(data.train, rows[at]) for at in order}
    return [found[at] for at in range(len(rows))]


def _described(piece: Piece, known: dict[str, dict[str, Any]]) -> dict[str, Any]:
    first = piece.document_offset
    return {
        "id": piece.id,
        "source": piece.source,
        "row_offset": piece.row_offset,
        "tokens": [first, first + piece.length],
        "ends": piece.ends,
        **({"about": known[piece.id]} if piece.id in known else {}),
    }


def steps_of_document(run: Run, document: str) -> dict[str, Any]:
    """Where a document stands in the train split, and the steps that read each of its pieces.

    Raises `TrainingError` if the train split lacks it.
    """
    order = order_of(run)
    pieces = order.data.tokens.rows_of_document(order.data.train, document)
    if not pieces:
        splits = {split for split, *_ in order.data.tokens.find(document)}
        what = f"is in the split {', '.join(sorted(splits))}, not in a row of train" if splits else "is not in it"
        raise TrainingError(f"{run.tokens_dir}: document {document!r} {what}, so no step read it")
    known = details(run.documents_dir, {document})
    found = []
    for piece in pieces:
        described = _described(piece, {})
        steps = [
            {"step": step, "epoch": epoch, "taken": step <= order.done} for step, epoch in order.steps_of(piece.row)
        ]
        found.append({"row": piece.row, **{k: described[k] for k in ("row_offset", "tokens", "ends")}, "steps": steps})
    return {
        "document": document,
        "source": pieces[0].source,
        "about": known.get(document, {}),
        "steps_done": order.done,
        "pieces": found,
    }


def details(documents_dir: Path | None, ids: set[str]) -> dict[str, dict[str, Any]]:
    """What documents/*.parquet says of some documents (URL, language, scores, licence), but for texts and nested columns."""
    found: dict[str, dict[str, Any]] = {}
    if documents_dir is None:
        return found
    wanted = pa.array(sorted(ids), pa.string())
    for file in sorted(documents_dir.glob("*.parquet")):
        try:
            parquet = pq.ParquetFile(file)
            fields = [f.name for f in parquet.schema_arrow if f.name not in HIDDEN and not pa.types.is_nested(f.type)]
            if "id" not in parquet.schema_arrow.names:
                continue
            for group in range(parquet.num_row_groups):
                column: Any = parquet.read_row_group(group, columns=["id"]).column("id").cast(pa.string())
                mine = pc.is_in(column, value_set=wanted)
                if pc.any(mine).as_py():
                    rows = parquet.read_row_group(group, columns=["id", *fields]).filter(mine).to_pylist()
                    for row in rows:
                        found[row.pop("id")] = {name: _plain(value) for name, value in row.items() if value is not None}
        except (OSError, pa.ArrowException) as error:
            raise TrainingError(f"cannot read {file}: {error}") from None
    return found


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool) else str(value)


def batch_lines(found: dict[str, Any]) -> Iterator[str]:
    """`batch_of` as text."""
    not_yet = "" if found["taken"] else ", not taken yet"
    yield f"step {found['step']:,}: {len(found['rows'])} rows, position {found['position']:,} of the data{not_yet}"
    for row in found["rows"]:
        yield f"row {row['row']}"
        for one in row["documents"]:
            yield f"  {one['row_offset']}: {one['id']} ({one['source']}), {_range(one)}{_about(one.get('about', {}))}"


def document_lines(found: dict[str, Any]) -> Iterator[str]:
    """`steps_of_document` as text."""
    yield f"document {found['document']} ({found['source']}){_about(found['about'])}"
    for piece in found["pieces"]:
        yield f"row {piece['row']} at {piece['row_offset']}: {_range(piece)}"
        steps = [f"{s['step']}{'' if s['taken'] else ' (not taken yet)'}" for s in piece["steps"]]
        yield "  steps " + ", ".join(steps) if steps else "  no step of this run"


def _range(piece: dict[str, Any]) -> str:
    return f"tokens {piece['tokens'][0]} to {piece['tokens'][1]}{', its end' if piece['ends'] else ''}"


def _about(about: dict[str, Any]) -> str:
    shown = ((name, f"{value:.4g}" if isinstance(value, float) else str(value)) for name, value in about.items())
    return "".join(f", {name} {json.dumps(value) if ',' in value else value}" for name, value in shown)
