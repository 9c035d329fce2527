"""What the tests of the map stages of the web funnel share: run one stage on rows, and check its own declarations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from stages.batch import Batch
from stages.stage import Decision, MapStage


def ready(stage: MapStage) -> MapStage:
    """The stage, set up with the assets that it asks for."""
    stage.setup({name: Path(path) for name, path in stage.assets().items()})
    return stage


def run(stage: MapStage, **columns: Any) -> tuple[pa.Table, Decision]:
    """Measured values and verdicts; checks that the columns are those declared, in order, with their types.

    Also that the verdicts follow from the scored columns alone, as a re-decision from scores/ needs, and that they and
    the values do not depend on how rows are cut into batches.
    """
    table = pa.table(columns)
    values = stage.measure(Batch(table))
    assert {field.name: field.type for field in values.schema} == stage.measures()
    assert values.column_names == list(stage.measures())
    assert set(stage.provides()) <= set(stage.measures())
    assert {limit.column for limit in stage.limits()} <= set(stage.scored())
    assert values.num_rows == table.num_rows
    one_by_one = [stage.measure(Batch(table.slice(row, 1))) for row in range(table.num_rows)]
    if one_by_one:
        assert pa.concat_tables(one_by_one).combine_chunks().equals(values.combine_chunks())
    assert stage.measure(Batch(table.slice(0, 0))).schema == values.schema
    decision = stage.decide(values)
    assert stage.decide(values.select(stage.scored())) == decision
    return values, decision
