"""`python -m pipeline dups`: a document's cluster of duplicates, with what its members differ in."""

from pipeline.dups.command import dups

__all__ = ["dups"]
