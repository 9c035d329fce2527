"""From the bytes of a page to the values that `extract` measures."""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.extract.charset import decode
from stages.extract.formulas import has_formulas, with_formulas
from stages.extract.gristmill import Choice, Extractor
from stages.extract.metadata import Metadata, read_metadata
from stages.extract.methods import TextOf, justext_method, resiliparse_method, trafilatura_method
from stages.extract.page import Page
from stages.extract.signals import read_signals
from stages.stage import StageError

if TYPE_CHECKING:
    from stages.extract.extract import ExtractConfig


class Reader:
    """One extractor, ready. Raises `StageError` for a model that cannot be used, and what a broken package raises."""

    def __init__(self, config: ExtractConfig, assets: Mapping[str, Path]) -> None:
        self._config = config
        self._text_of = make_method(config, assets)

    def page(self, html: str | bytes, charset: str | None) -> tuple[Page, str | None]:
        """A page as the extractor sees it, formulas written out, and the codec that decoded it."""
        raw = codec = None
        if isinstance(html, bytes):
            text, codec = decode(html, charset)
            if codec == "utf-8" and b"\0" not in html and not html.startswith(BOM_UTF8):
                raw = html
        else:
            text = html.replace("\x00", "").removeprefix("\ufeff")
        page = Page(text, raw)
        if text.count("<") <= self._config.max_tags and self._config.formulas and has_formulas(page.tree):
            page = Page(with_formulas(text))
        return page, codec

    def choose(self, page: Page) -> Choice:
        """What our own extractor makes of a page's blocks."""
        assert isinstance(self._text_of, Extractor)
        return self._text_of.choose(page)

    def try_out(self, text: str) -> tuple[str, str | None]:
        """The main text and title of a page, whatever the limits are; raises what a broken extractor raises."""
        page = Page(text)
        return self._text_of(page), read_metadata(page).title

    def read(self, html: str | bytes, charset: str | None, url: str | None) -> dict[str, Any]:
        """The columns of `Extract.measures` for a page, as far as it came; nothing raises."""
        config = self._config
        row: dict[str, Any] = {}
        row["extract_bytes"] = len(html) if isinstance(html, bytes) else len(html.encode("utf-8", "surrogatepass"))
        if row["extract_bytes"] > config.max_bytes:
            return row
        try:
            page, row["extract_charset"] = self.page(html, charset)
            row["extract_tags"] = page.text.count("<")
            if row["extract_tags"] > config.max_tags:
                return row
            row["extract_too_deep"] = page.tree.depth > config.max_depth
            if row["extract_too_deep"]:
                return row
            metadata = read_metadata(page, url)
            row.update(_valid(metadata))
            main = _valid_text(self._text_of(page)).strip()
            signals = read_signals(page, metadata, main)
        except Exception as error:
            return {**row, "extract_error": type(error).__name__}
        row.update({f"extract_{name}": value for name, value in signals._asdict().items()})
        row["extract_amp"] = signals.amp and metadata.canonical_url not in (None, url)
        return {**row, "text": main, "extract_chars": len(main)}


def make_method(config: ExtractConfig, assets: Mapping[str, Path]) -> TextOf:
    """The extractor that the config names."""
    markdown = config.format == "markdown"
    if config.method == "gristmill":
        try:
            return Extractor(assets["model"], config.favor, config.include_comments, config.include_tables, markdown)
        except ValueError as error:
            raise StageError(
                f"extract.model: {assets['model']} cannot be used: {error}; give the path of a block model"
            ) from error
    if config.method == "trafilatura":
        return trafilatura_method(
            config.fast, config.favor, config.include_comments, config.include_tables, markdown, config.max_bytes
        )
    if config.method == "resiliparse":
        return resiliparse_method(config.favor, config.include_comments, config.include_tables)
    return justext_method()


def _valid(metadata: Metadata) -> dict[str, str | None]:
    return {name: None if value is None else _valid_text(value) for name, value in metadata._asdict().items()}


def _valid_text(text: str) -> str:
    """Lone surrogates as U+FFFD: no Arrow string can hold them."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
