"""Deduplication of whole documents, exact and near, and of passages."""

from stages.dedup.exact import Exact
from stages.dedup.fuzzy import Fuzzy
from stages.dedup.index import Index
from stages.dedup.lines import Lines
from stages.dedup.payload import Payload
from stages.dedup.semantic import Semantic
from stages.dedup.spans import Spans
from stages.dedup.substring import Substring
from stages.dedup.url import Url

__all__ = ["Exact", "Fuzzy", "Index", "Lines", "Payload", "Semantic", "Spans", "Substring", "Url"]
