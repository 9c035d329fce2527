"""The `extract` stage: limits, decoding, the main text by the chosen method, metadata.

Limits are on bytes, tags and depth, so that what is refused never depends on the speed of a machine. They are checked
before the text extractors see the page: trafilatura's parser silently loses all that lies deeper than 256 elements, and
resiliparse takes quadratic time on deep nesting (100,000 levels: more than 20 s).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import model_validator

from stages.batch import Batch
from stages.extract.charset import decode
from stages.extract.metadata import Metadata, read_metadata
from stages.extract.methods import TextOf, resiliparse_method, trafilatura_method
from stages.stage import Decision, Limit, MapStage, Resources, StageConfig, StageError, knob, register

_STRINGS = ("title", "author", "published", "canonical_url", "declared_language", "licence")
_PROBE = (
    "<html><head><title>Probe</title></head><body><article><h1>Probe</h1><p>A short paragraph that every working "
    "extractor returns, with enough words in it to count as the main text of a page.</p></article></body></html>"
)


class ExtractConfig(StageConfig):
    """Knobs of `extract`."""

    method: Literal["trafilatura", "resiliparse"] = knob(
        "trafilatura",
        "trafilatura: best precision (F1 0.919); resiliparse: all of the main text and some of the page's furniture (0.863), "
        "six times as fast",
        "measured on 776 of trafilatura's own evaluation pages",
    )
    fast: bool = knob(
        True,
        "trafilatura without its fallback extractors: 1.3 times as fast, F1 0.919 instead of 0.924; `false` is for trafilatura only",
        "measured on trafilatura's own evaluation pages",
    )
    favor: Literal["balanced", "precision", "recall"] = knob(
        "balanced", "when unsure, leave text out (precision) or keep it (recall)", "trafilatura"
    )
    include_comments: bool = knob(False, "keep readers' comments")
    include_tables: bool = knob(True, "keep the text of tables", "trafilatura")
    max_bytes: int = knob(20_000_000, "larger pages are dropped (`too_large`)", "trafilatura", ge=1)
    max_tags: int = knob(
        200_000,
        "pages with more `<` than this are dropped (`too_many_tags`): 0.1 ms each in trafilatura",
        "measured",
        ge=1,
    )
    max_depth: int = knob(
        256,
        "pages nested more deeply are dropped (`too_deep`)",
        "the limit of libxml2, which cuts the rest off",
        ge=1,
        le=256,
    )

    @model_validator(mode="after")
    def _fast_is_for_trafilatura(self) -> ExtractConfig:
        if self.method != "trafilatura" and not self.fast:
            raise ValueError(
                f"fast: false asks for trafilatura's fallback extractors; method {self.method} has none: leave `fast` out"
            )
        return self


@register
class Extract(MapStage):
    """Replaces `text` by the main text of `html` (string or bytes) and adds the page's metadata.

    Optional columns: `url` resolves relative addresses, `html_charset` is the charset of the HTTP header. A row without
    HTML passes with the text that it has. Scored: the size in bytes, the number of `<`, the length of the text in code
    points, the codec that decoded the page, and the class of the exception that ended a failed one.
    """

    name = "extract"
    version = 1
    config_model = ExtractConfig
    needs = ("html",)
    consumes = ("html",)
    libraries: ClassVar[tuple[str, ...]] = (
        "trafilatura",
        "resiliparse",
        "lxml",
        "lxml_html_clean",
        "jusText",
        "courlan",
    )
    resources = Resources(memory=512 << 20)
    config: ExtractConfig

    def __init__(self, config: ExtractConfig) -> None:
        super().__init__(config)
        self._text_of: TextOf | None = None
        self._parse: Callable[[str], Any]
        # an element with `max_depth` ancestors is too deep; matched in C, in one pass over the tree
        self._deep = " > ".join(["*"] * (config.max_depth + 1))

    def provides(self) -> dict[str, pa.DataType]:
        """`text` and the six metadata strings."""
        return {"text": pa.string(), **{name: pa.string() for name in _STRINGS}}

    def measures(self) -> dict[str, pa.DataType]:
        """Sizes are null for rows without HTML; `extract_chars` is null too where no text was made."""
        return {
            **self.provides(),
            "extract_bytes": pa.int64(),
            "extract_tags": pa.int64(),
            "extract_too_deep": pa.bool_(),
            "extract_chars": pa.int64(),
            "extract_charset": pa.string(),
            "extract_error": pa.string(),
        }

    def scored(self) -> tuple[str, ...]:
        """Numbers, the codec, and the class name of an exception."""
        return (*super().scored(), "extract_charset", "extract_error")

    def limits(self) -> list[Limit]:
        """The two limits that are numbers."""
        return [
            Limit("extract_bytes", "too_large", self.config.max_bytes),
            Limit("extract_tags", "too_many_tags", self.config.max_tags),
            Limit("extract_chars", "empty", 1),
        ]

    def setup(self, assets: Mapping[str, Path]) -> None:
        """Import the extractor and try it, so that a broken installation is found before the first record."""
        config = self.config
        try:
            from resiliparse.parse.html import HTMLTree

            make = trafilatura_method if config.method == "trafilatura" else resiliparse_method
            self._parse = HTMLTree.parse
            self._text_of = make(
                config.fast, config.favor, config.include_comments, config.include_tables, config.max_bytes
            )
            text, title = self._text_of(_PROBE, self._parse(_PROBE)), self._parse(_PROBE).title
        except Exception as error:
            raise StageError(
                f"extract: method {config.method} cannot be used ({type(error).__name__}: {error}); "
                f"reinstall it with: pip install --force-reinstall {config.method} lxml_html_clean"
            ) from error
        if "A short paragraph" not in text or title != "Probe":
            raise StageError(
                f"extract: method {config.method} found no text in a plain page; reinstall {config.method}"
            )

    def measure(self, batch: Batch) -> pa.Table:
        """One extraction a row; an exception of a parser is that row's own."""
        columns: dict[str, list[Any]] = {name: [] for name in self.measures()}
        rows = zip(
            batch.values("html"), batch.values("html_charset"), batch.values("url"), batch.values("text"), strict=True
        )
        for html, charset, url, text in rows:
            row = self._without_html(text) if html is None else self._row(html, charset, url)
            for name, values in columns.items():
                values.append(row.get(name))
        return pa.table({name: pa.array(columns[name], kind) for name, kind in self.measures().items()})

    def _without_html(self, text: str | None) -> dict[str, Any]:
        """A row that brings its text passes; one without anything is as empty as a page without text."""
        return {"text": text} if text is not None else {"extract_chars": 0}

    def _row(self, html: str | bytes, charset: str | None, url: str | None) -> dict[str, Any]:
        """The measured values of one page."""
        config = self.config
        assert self._text_of is not None, "setup() has not run"
        row: dict[str, Any] = {}
        row["extract_bytes"] = len(html) if isinstance(html, bytes) else len(html.encode("utf-8", "surrogatepass"))
        if row["extract_bytes"] > config.max_bytes:
            return row
        try:
            if isinstance(html, bytes):
                page, row["extract_charset"] = decode(html, charset)
            else:
                page = html.replace("\x00", "").removeprefix("\ufeff")
            row["extract_tags"] = page.count("<")
            if row["extract_tags"] > config.max_tags:
                return row
            tree = self._parse(page)
            row["extract_too_deep"] = tree.document.query_selector(self._deep) is not None
            if row["extract_too_deep"]:
                return row
            row.update(_valid(read_metadata(tree, url)))
            text = _valid_text(self._text_of(page, tree)).strip()
        except Exception as error:
            return {**row, "extract_error": type(error).__name__}
        return {**row, "text": text, "extract_chars": len(text)}

    def decide(self, values: pa.Table) -> Decision:
        """Rules in the order of the checks: too_large, too_many_tags, too_deep, error (failed), empty."""
        decision = Decision.keep(values.num_rows)
        config = self.config
        size, tags, chars = (_numbers(values, name) for name in ("extract_bytes", "extract_tags", "extract_chars"))
        decision.drop_where(size > config.max_bytes, "too_large", size, config.max_bytes)
        decision.drop_where(tags > config.max_tags, "too_many_tags", tags, config.max_tags)
        for row, deep in enumerate(values.column("extract_too_deep").to_pylist()):
            if deep:
                decision.drop(row, "too_deep", threshold=config.max_depth)
        for row, error in enumerate(values.column("extract_error").to_pylist()):
            if error is not None:
                decision.drop(row, "error", detail=error, failed=True)
        decision.drop_where(chars == 0, "empty", chars, 1)
        return decision


def _numbers(values: pa.Table, name: str) -> np.ndarray:
    """A column of integers as floats, null as NaN (which no comparison holds for)."""
    return np.array([np.nan if value is None else value for value in values.column(name).to_pylist()], dtype=np.float64)


def _valid(metadata: Metadata) -> dict[str, str | None]:
    return {name: None if value is None else _valid_text(value) for name, value in metadata._asdict().items()}


def _valid_text(text: str) -> str:
    """Lone surrogates as U+FFFD: no Arrow string can hold them."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
