"""A group stage's verdicts on their way back into the rows of a shard."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from pipeline.engine.exchange import PARTITION, Sorter, read_slices
from pipeline.engine.ledger import Lost
from pipeline.engine.mapping import StageCounts, apply_edits, only_mask, text_bytes
from pipeline.engine.poison import failed
from pipeline.engine.writers import SampleKeeper, offer_samples
from stages.batch import Batch
from stages.conversation import with_edits
from stages.stage import VERDICT, Edit, GroupStage

if TYPE_CHECKING:
    from pipeline.engine.map_unit import MapTask


class VerdictCursor:
    """A group stage's verdicts on one shard, in row order."""

    def __init__(self, task: MapTask) -> None:
        assert task.group is not None
        self.spec = task.group
        self.poison = task.group_poison
        self.stage: GroupStage = task.group.stage_class(task.group.config)  # type: ignore[assignment]
        self.schema = pa.schema([*VERDICT.items(), *self.stage.provides().items()])
        sorter = Sorter(self.schema, None)
        for table in read_slices(task.store, task.verdicts, task.shard):
            sorter.add(table)
        self.tables = sorter.sorted()
        self.waiting: pa.Table = self.schema.empty_table()

    def _upto(self, row: int) -> pa.Table:
        """Verdicts on rows below `row` that were not handed out yet."""
        parts = [self.waiting]
        while parts[-1].num_rows == 0 or parts[-1].column("row")[-1].as_py() < row:
            table = next(self.tables, None)
            if table is None:
                break
            parts.append(table.drop_columns([PARTITION]))
        whole = pa.concat_tables(parts)
        cut = int(np.searchsorted(whole.column("row").to_numpy(), row))
        self.waiting = whole.slice(cut)
        return whole.slice(0, cut)

    def aligned(self, first: int, rows: int) -> pa.Table:
        """The verdicts on the rows [first, first + rows), one a row, nulls where none was sent; asked for in order."""
        sent = self._upto(first + rows)
        index = np.full(rows, -1, dtype=np.int64)
        for place, row in reversed(
            list(enumerate(sent.column("row").to_pylist()))
        ):  # the first verdict on a row counts
            index[row - first] = place
        return sent.take(pa.array(index, mask=index < 0))

    def apply(self, batch: Batch, first: int, counts: StageCounts, lost: Lost, keeper: SampleKeeper | None) -> Batch:
        """Drop, edit and annotate the rows [first, first + len(batch)) of the shard."""
        rows = len(batch)
        counts.rows_in += rows
        counts.bytes_in += text_bytes(batch)
        skipped = rows - int(only_mask(self.spec, batch).sum())
        if skipped:
            counts.skipped["only"] += skipped
        aligned = self.aligned(first, rows)
        columns: dict[str, pa.Array | pa.ChunkedArray] = dict(self.stage.columns(batch, aligned))
        edits = aligned.column("edits").to_pylist()
        if any(edits):
            texts = batch.texts()
            by_row = {row: [Edit(**change) for change in changes] for row, changes in enumerate(edits) if changes}
            for row, changes in by_row.items():
                texts[row] = apply_edits(texts[row], changes)
            talks, renderings = with_edits(batch, by_row)
            for row, text in renderings.items():
                texts[row] = text
            columns |= talks
            columns["text"] = pa.array(texts, type=pa.large_string())
        after = batch.with_columns(columns)
        rules = aligned.column("rule").to_pylist()
        unread = (
            {row: self.poison[first + row] for row in range(rows) if first + row in self.poison} if self.poison else {}
        )
        gone = [row for row, rule in enumerate(rules) if rule is not None and row not in unread]
        if gone:
            facts = (
                aligned.take(pa.array(gone))
                .select(["value", "threshold", "kept_id", "similarity", "detail"])
                .to_pylist()
            )
            verdicts = [
                {"fate": "dropped", "stage": self.spec.name, "rule": rules[row], **fact}
                for row, fact in zip(gone, facts, strict=True)
            ]
            counts.dropped.update(str(rules[row]) for row in gone)
            dropped = batch.take(gone)
            lost.add(dropped.table, verdicts)
            offer_samples(keeper, dropped, verdicts)
        if unread:
            stopped = batch.take(sorted(unread))
            failures = [failed(unread[row]) for row in sorted(unread)]
            counts.failed.update(verdict["rule"] for verdict in failures)
            lost.add(stopped.table, failures)
            offer_samples(keeper, stopped, failures)
        if gone or unread:
            ended = np.array(sorted([*gone, *unread]))
            after = after.take(np.setdiff1d(np.arange(rows), ended, assume_unique=True))
        counts.rows_out += len(after)
        counts.bytes_out += text_bytes(after)
        return after
