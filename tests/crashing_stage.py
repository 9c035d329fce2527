"""A stage for tests: it kills its process, fails or lingers at texts that say so. Importing this registers it."""

from __future__ import annotations

import os
from typing import Any

import pyarrow as pa

from stages.batch import Batch
from stages.stage import MapStage, StageConfig, knob, register


class CrashingConfig(StageConfig):
    """Knobs."""

    word: str = knob("CRASH", "texts with this word end the process")


@register
class Crashing(MapStage):
    """Ends its process."""

    name = "test.crashing"
    config_model = CrashingConfig
    config: Any

    def provides(self) -> dict[str, pa.DataType]:
        return {"test_length": pa.int64()}

    def measures(self) -> dict[str, pa.DataType]:
        return self.provides()

    def measure(self, batch: Batch) -> pa.Table:
        texts = batch.texts()
        if any(self.config.word in text for text in texts):
            os._exit(3)
        if any("RAISE" in text for text in texts):
            raise ValueError("as asked")
        return pa.table({"test_length": pa.array([len(text) for text in texts], pa.int64())})
