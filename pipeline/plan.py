"""From config to phases: a pure function, what `python -m pipeline plan` prints and the engine carries out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pipeline.config import RunConfig, StageSpec


@dataclass(frozen=True)
class Phase:
    """A stretch of work between two stored results.

    - map: the fused map stages of `stages` over each shard. The first one reads the input; the last one (`final`)
      writes documents/ and ledger/. A map phase after a group or aggregate phase first applies that phase's verdicts.
    - group: the exchange rounds of the one stage in `stages`.
    - aggregate: the corpus summary for the one stage in `stages`; the next map phase decides with it.

    Payloads (`html`) are not stored between phases: where a boundary stands before the stage that uses them up, the
    phases before it store rows without (`leaves_payload`), and a map phase that needs them reads the input again
    (`reads_again`).
    """

    index: int
    kind: Literal["map", "group", "aggregate"]
    stages: tuple[StageSpec, ...]
    final: bool = False
    leaves_payload: bool = False
    reads_again: bool = False

    @property
    def name(self) -> str:
        """Name of the phase's folder: its place and its last stage."""
        if self.stages:
            return f"{self.index:02d}-{self.stages[-1].name}"
        return f"{self.index:02d}-{'documents' if self.final else 'apply' if self.index else 'read'}"


def plan(stages: Sequence[StageSpec], pages: bool = True) -> list[Phase]:
    """Phases for the stages in their order: map stages fused up to the next boundary.

    A boundary stands after `extract`, after a stage with `checkpoint: true`, and before a group or aggregate stage.
    `pages`: whether the input may hold HTML.
    """
    runs: list[tuple[Literal["map", "group", "aggregate"], list[StageSpec]]] = [("map", [])]
    for spec in stages:
        kind = spec.stage_class.kind
        if kind == "map":
            if runs[-1][0] != "map":
                runs.append(("map", []))
            runs[-1][1].append(spec)
            if spec.kind == "extract" or spec.config.checkpoint:
                runs.append(("map", []))
        else:
            if runs[-1][0] != "map":  # the verdicts of one exchange are applied before the next begins
                runs.append(("map", []))
            runs.append((kind, [spec]))
    if runs[-1][0] != "map":
        runs.append(("map", []))
    # A map phase without stages is needed only to read the input, or to apply verdicts.
    kept = [run for i, run in enumerate(runs) if run[0] != "map" or run[1] or i == 0 or runs[i - 1][0] != "map"]
    last = len(kept) - 1
    phases = [Phase(i, kind, tuple(specs), final=i == last) for i, (kind, specs) in enumerate(kept)]
    return _with_payloads(phases) if pages else phases


def _with_payloads(phases: list[Phase]) -> list[Phase]:
    """The phases, told which of them leave payloads behind and which read them again."""
    ends = next((p.index for p in phases if any("html" in s.stage_class.consumes for s in p.stages)), 0)
    found = []
    for phase in phases:
        is_map = phase.kind == "map"
        needed = any("html" in spec.stage_class.needs for spec in phase.stages)
        again = is_map and needed and 0 < phase.index <= ends
        found.append(replace(phase, leaves_payload=is_map and phase.index < ends, reads_again=again))
    return found


BY_ADDRESS = ("url_filter", "opt_out")  # judge copies of one payload apart: by their addresses and HTTP fields
TEXT_FORMATS = ("wet", "text")  # never HTML; rows of JSONL and Parquet may have a column of it


def may_hold_pages(config: RunConfig) -> bool:
    """Whether any input can hold HTML."""
    return any(entry.format not in TEXT_FORMATS and entry.kind == "text" for entry in config.input)


def warnings(config: RunConfig) -> list[str]:
    """Orders of stages that waste work or lose documents."""
    found: list[str] = []
    dedup, dedup_kind = "", ""  # the last deduplication so far
    text_only = not may_hold_pages(config)
    for spec in config.stages:
        stage_class = spec.stage_class
        if {"html", "payload_hash"} & set(stage_class.needs) and text_only:
            found.append(f"{spec.name} has nothing to do: no input holds HTML; take it out")
        alike = dedup_kind == "dedup.payload" and spec.kind not in BY_ADDRESS  # copies of the dropped one would go too
        if dedup and stage_class.drops and stage_class.kind == "map" and spec.kind != "pii" and not alike:
            found.append(
                f"{spec.name} may drop documents after {dedup}: where it drops the kept copy of a duplicate, the whole "
                f"cluster is gone; put it before {dedup}"
            )
        if stage_class.kind == "group" and spec.kind.startswith("dedup.") and spec.kind != "dedup.index":
            dedup, dedup_kind = spec.name, spec.kind
    return found
