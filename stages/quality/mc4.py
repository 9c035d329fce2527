"""mC4's rule for lines: a page with too few long ones is a menu, a list or a notice.

Xue et al. 2021, "mT5: A Massively Multilingual Pre-trained Text-to-Text Transformer", section 3.1.
"""

from __future__ import annotations

import pyarrow as pa

from stages.batch import Batch
from stages.lines import batch_lines
from stages.quality.rules import Rule, RuleConfig, RuleStage, table
from stages.stage import knob, register

PAPER = "mC4 (Xue et al. 2021)"
P = "quality_mc4_"


class Mc4Config(RuleConfig):
    """The thresholds."""

    min_long_lines: int | None = knob(3, "fewest long lines", PAPER, ge=0)
    long_line: int = knob(200, "a line with as many characters is long", PAPER, ge=1)


@register
class Mc4(RuleStage):
    """Drops documents without long lines."""

    name = "quality.mc4"
    prefix = P
    config_model = Mc4Config
    decide_knobs = ("min_long_lines",)
    config: Mc4Config

    def counted(self) -> dict[str, pa.DataType]:
        return {P + "long_lines": pa.int32()}

    def rules(self) -> list[Rule]:
        return [Rule("min_long_lines", P + "long_lines", "min", self.config.min_long_lines)]

    def count(self, batch: Batch) -> pa.Table:
        lines = batch_lines(batch)
        return table(self.counted(), {P + "long_lines": lines.total(lines.length >= self.config.long_line)})
