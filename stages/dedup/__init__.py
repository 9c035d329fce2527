"""Deduplication of whole documents, exact and near."""

from stages.dedup.exact import Exact
from stages.dedup.fuzzy import Fuzzy
from stages.dedup.index import Index
from stages.dedup.payload import Payload
from stages.dedup.url import Url

__all__ = ["Exact", "Fuzzy", "Index", "Payload", "Url"]
