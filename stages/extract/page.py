"""A page on its way through extraction: as a string, as bytes, and as a tree that is made when it is first asked for."""

from __future__ import annotations

from functools import cached_property

from stages.extract.parse import Tree, parse


class Page:
    """A decoded page."""

    def __init__(self, text: str, raw: bytes | None = None) -> None:
        """`raw` is the text in UTF-8, where that is at hand."""
        self.text = text
        self.raw = text.encode("utf-8", "replace") if raw is None else raw  # lone surrogates become question marks

    @cached_property
    def tree(self) -> Tree:
        """The elements and texts of `raw`."""
        return parse(self.raw)
