"""The knobs of the section `mix`."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, model_validator

from stages.stage import Bytes, StageConfig, knob

Dimension = Literal["source", "language", "domain", "quality"]
MOST_PHASES = 16
MOST_REPEATS = 10_000  # of a document; the packer takes no more


class Part(BaseModel):
    """A part of a config: fixed once read, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Demand(Part):
    """What is asked of the groups that a pattern names; one of `share`, `bytes` and `epochs`, or a weight."""

    share: float | None = knob(None, "share of all bytes, for the groups of the pattern together", ge=0, le=1)
    bytes: Bytes | None = knob(None, "bytes (10GB, 500MiB), for the groups of the pattern together", ge=0)
    epochs: float | None = knob(None, "how often each of its documents stands, 2.5 say", ge=0, le=MOST_REPEATS)
    weight: float | None = knob(None, "factor of a group's size in what the others share; 0: none of it", ge=0)
    max_epochs: float | None = knob(None, "instead of mix.max_epochs, for these groups", gt=0, le=MOST_REPEATS)

    @model_validator(mode="after")
    def _one(self) -> Demand:
        given = [name for name in ("share", "bytes", "epochs", "weight") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(
                f"{given[1]}: stands beside {given[0]}; a group has one of share, bytes, epochs and weight"
            )
        return self


class Quality(Part):
    """Buckets of a numeric column, of equal numbers of documents."""

    column: str = knob(..., "the column, as an earlier stage writes it (a classifier's score)")
    buckets: int = knob(4, "how many: q1 holds the smallest values", ge=2, le=100)


class Domains(Part):
    """What one registrable domain may give at most; those of its documents with the smallest hashes stay."""

    bytes: Bytes | None = knob(None, "UTF-8 bytes of text", ge=1)
    documents: int | None = knob(None, "documents", ge=1)


class Phase(Part):
    """A stretch of the training data. What is not given is as in the section."""

    name: str = knob(..., "how dataset.json and the tables call it", pattern=r"^[a-z][a-z0-9_]*$")
    share: float = knob(..., "share of all bytes; the phases' shares sum to 1", gt=0, le=1)
    temperature: float | None = knob(None, "instead of mix.temperature", gt=0, le=1000)
    groups: dict[str, Demand] | None = knob(None, "instead of mix.groups (a `share` is one of the phase)")


class MixConfig(StageConfig):
    """Knobs of `mix`."""

    by: tuple[Dimension, ...] = knob(
        ("source",),
        "what a group is: documents of one source, language, registrable domain or quality bucket, or of a combination; "
        "groups are called by their values, joined by a slash: web/de",
    )
    budget: Bytes | None = knob(
        None, "bytes of text in all, repeats included; null: what there is, and what `epochs` and shares make of it"
    )
    temperature: float = knob(
        1.0,
        "T: groups without a demand of their own share what is left in proportion to weight x size^(1/T); 1: as they are, more: "
        "more even",
        "Multilingual BERT, XLM-R (Conneau et al. 2020, alpha = 1/T = 0.3)",
        gt=0,
        le=1000,
    )
    groups: dict[str, Demand] = knob(
        {},
        "demands by name of group; `*` stands for anything (web/*); the first pattern that fits a group holds for it",
    )
    max_epochs: float = knob(
        4.0,
        "how often a document may stand, its weight by `rehydrate` taken as one",
        "Muennighoff et al. 2023 (arXiv 2305.16264): up to four epochs are nearly as good as new text",
        gt=0,
        le=MOST_REPEATS,
    )
    shortfall: Literal["spread", "refuse"] = knob(
        "spread",
        "where a group has too little for what is asked of it, at max_epochs: spread what it lacks over the groups without a "
        "demand, or refuse the mix",
    )
    quality: Quality | None = knob(None, "the column of `by: [quality]`")
    domains: Domains | None = knob(None, "caps for each registrable domain, before anything else is counted")
    rehydrate: dict[int, float] = knob(
        {},
        "how often a document counts by the size of its duplicate cluster (`dup_cluster_size`): {2: 1.5, 10: 3} counts one of 2 "
        "to 9 copies 1.5 times, one of 10 or more 3 times",
        "FineWeb2 (rehydration)",
    )
    phases: tuple[Phase, ...] = knob((), "phases of training in their order, packed one behind the other; none: one")
    seed: int = knob(0, "of what is chosen", ge=0, lt=2**63)

    @model_validator(mode="after")
    def _fits(self) -> MixConfig:
        if ("quality" in self.by) != (self.quality is not None):
            which = "`by` names quality" if self.quality is None else "`by` does not name quality"
            raise ValueError(f"quality: {which}; give both `by: [quality]` and `quality: {{column: ...}}`, or neither")
        if not self.by:
            raise ValueError("by: is empty; give at least one of source, language, domain, quality")
        if len(set(self.by)) < len(self.by):
            raise ValueError(f"by: {next(name for name in self.by if self.by.count(name) > 1)} stands there twice")
        if self.domains is not None and self.domains.bytes is None and self.domains.documents is None:
            raise ValueError("domains: give bytes or documents")
        for size, weight in self.rehydrate.items():
            if size < 1 or not 0 <= weight <= MOST_REPEATS or not math.isfinite(weight):
                raise ValueError(
                    f"rehydrate: expected cluster sizes from 1 and weights from 0 to {MOST_REPEATS:,}, got {size}: {weight}"
                )
        if len(self.phases) > MOST_PHASES:
            raise ValueError(f"phases: expected at most {MOST_PHASES}, got {len(self.phases)}")
        names = [phase.name for phase in self.phases]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"phases: two are called {twice[0]!r}")
        if self.phases and abs(sum(phase.share for phase in self.phases) - 1) > 1e-6:
            raise ValueError(f"phases: the shares sum to {sum(phase.share for phase in self.phases):g}, expected 1")
        for where, groups in [("groups", self.groups), *(("phases", phase.groups or {}) for phase in self.phases)]:
            shares = sum(demand.share or 0 for demand in groups.values())
            if shares > 1 + 1e-9:
                raise ValueError(f"{where}: the shares of the groups sum to {shares:g}, expected at most 1")
        return self
