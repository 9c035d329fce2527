"""Deduplication of whole documents, exact and near."""

from stages.dedup.exact import Exact
from stages.dedup.fuzzy import Fuzzy

__all__ = ["Exact", "Fuzzy"]
