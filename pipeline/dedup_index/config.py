"""The section `index`."""

from __future__ import annotations

from stages.dedup.index_hash import IndexParameters
from stages.stage import knob


class IndexConfig(IndexParameters):
    """Adds the curated documents of the run to an index, which `dedup.index` of later runs reads; the run's own part is replaced."""

    path: str = knob(
        ..., "the index: a directory or a URL (any that fsspec knows); made where there is none", min_length=1
    )

    @property
    def parameters(self) -> IndexParameters:
        """How documents are hashed."""
        return IndexParameters.model_validate(self.model_dump(exclude={"path"}))
