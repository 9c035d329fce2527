"""From a page's HTML to its main text and what it says of itself."""

from stages.extract.extract import Extract, ExtractConfig

__all__ = ["Extract", "ExtractConfig"]
