"""The `extract` stage: limits, decoding, the main text by the chosen method, metadata, and pages that hold no document.

Limits are on bytes, tags and depth, so that what is refused never depends on the speed of a machine. They are checked
before other parsers see the page: trafilatura's silently loses all that lies deeper than 256 elements, and resiliparse takes
quadratic time on deep nesting (100,000 levels: more than 20 s).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import model_validator

from stages.batch import Batch
from stages.stage import ASSETS, Decision, Limit, MapStage, Resources, StageConfig, StageError, knob, register

if TYPE_CHECKING:
    from stages.extract.reading import Reader

_STRINGS = ("title", "author", "published", "canonical_url", "declared_language", "licence")
_SIGNALS = ("shell", "frames", "soft_404", "amp")
_PROBE = (
    '<html lang="en"><head><title>Probe</title></head><body><article><h1>Probe</h1>'
    + "<p>A paragraph that every working extractor returns, with enough words in it to count as the main text of a page, and as "
    "long as it takes for those that look at the lengths of paragraphs, and at the share of frequent words in them.</p>"
    * 3
    + "</article></body></html>"
)
_TAKES: dict[str, tuple[str, ...]] = {  # knobs that only some methods have, where they are not at their default
    "fast": ("trafilatura",),
    "favor": ("gristmill", "trafilatura", "resiliparse"),
    "format": ("gristmill", "trafilatura"),
    "include_comments": ("gristmill", "trafilatura", "resiliparse"),
    "include_tables": ("gristmill", "trafilatura", "resiliparse"),
    "model": ("gristmill",),
}


class ExtractConfig(StageConfig):
    """Knobs of `extract`."""

    method: Literal["gristmill", "trafilatura", "resiliparse", "justext"] = knob(
        "gristmill",
        "gristmill: our own, a learned model over the blocks of the page; trafilatura; resiliparse: all of the main text and some "
        "of the page's furniture; justext: only paragraphs of prose. docs/extraction.md compares them",
        "measured on 906 pages with gold",
    )
    fast: bool = knob(
        True,
        "trafilatura without its fallback extractors: 1.3 times as fast, F1 0.919 instead of 0.924; `false` is for trafilatura only",
        "measured on trafilatura's own evaluation pages",
    )
    favor: Literal["balanced", "precision", "recall"] = knob(
        "balanced", "when unsure, leave text out (precision) or keep it (recall)", "trafilatura"
    )
    format: Literal["text", "markdown"] = knob(
        "text",
        "markdown keeps headings, nested lists, quotes, tables and the language of code; gristmill and trafilatura have it",
    )
    formulas: bool = knob(
        True, "formulas (MathML, TeX in scripts and in alternative texts of images) as TeX between dollar signs"
    )
    include_comments: bool = knob(False, "keep readers' comments")
    include_tables: bool = knob(True, "keep the text of tables", "trafilatura")
    model: str | None = knob(None, "gristmill: path of another block model; null is the one that ships")
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
    soft_404: bool = knob(
        True, "drop short pages whose title says that there is nothing (`soft_404`), though the server answered 200"
    )
    amp: Literal["keep", "drop"] = knob(
        "keep",
        "what happens to AMP pages that name another page as the canonical one (`amp`): doubles, where that was crawled too",
    )

    @model_validator(mode="after")
    def _knobs_of_the_method(self) -> ExtractConfig:
        for name, methods in _TAKES.items():
            default = type(self).model_fields[name].default
            if getattr(self, name) != default and self.method not in methods:
                raise ValueError(
                    f"{name}: {getattr(self, name)!r} is for method {' or '.join(methods)}; method {self.method} has no such choice: "
                    f"leave `{name}` out"
                )
        return self


@register
class Extract(MapStage):
    """Replaces `text` by the main text of `html` (string or bytes) and adds the page's metadata.

    Optional columns: `url` resolves relative addresses, `html_charset` is the charset of the HTTP header. A row without
    HTML passes with the text that it has. Scored: the size in bytes, the number of `<`, the length of the text in code
    points, the codec that decoded the page, the class of the exception that ended a failed one, and what speaks against a page.
    """

    name = "extract"
    version = 4
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
        "numba",
    )
    resources = Resources(memory=512 << 20)
    config: ExtractConfig

    def __init__(self, config: ExtractConfig) -> None:
        super().__init__(config)
        self._reader: Reader

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
            **{f"extract_{name}": pa.bool_() for name in _SIGNALS},  # amp: with another canonical page
        }

    def scored(self) -> tuple[str, ...]:
        """Numbers, signals, the codec, and the class name of an exception; no text, which would double what a run stores."""
        return (*super().scored(), "extract_charset", "extract_error")

    def limits(self) -> list[Limit]:
        """The limits that are numbers."""
        return [
            Limit("extract_bytes", "too_large", self.config.max_bytes),
            Limit("extract_tags", "too_many_tags", self.config.max_tags),
            Limit("extract_chars", "empty", 1),
        ]

    def assets(self) -> dict[str, str]:
        """The block model."""
        if self.config.method != "gristmill":
            return {}
        return {"model": self.config.model or str(ASSETS / "extract" / "blocks.npz")}

    def setup(self, assets: Mapping[str, Path]) -> None:
        """Load the extractor and try it, so that a broken installation is found before the first record."""
        method = self.config.method
        try:
            from stages.extract.reading import Reader  # compiled code: only where pages are read

            self._reader = Reader(self.config, assets)
            text, title = self._reader.try_out(_PROBE)
        except StageError:
            raise
        except Exception as error:
            package = "numba" if method == "gristmill" else f"{method} lxml_html_clean"
            raise StageError(
                f"extract: method {method} cannot be used ({type(error).__name__}: {error}); "
                f"reinstall it with: pip install --force-reinstall {package}"
            ) from error
        if "A paragraph that" not in text or title != "Probe":
            raise StageError(f"extract: method {method} found no text in a plain page; reinstall {method}")

    def measure(self, batch: Batch) -> pa.Table:
        """One extraction a row; an exception of a parser is that row's own."""
        columns: dict[str, list[Any]] = {name: [] for name in self.measures()}
        rows = zip(
            batch.values("html"), batch.values("html_charset"), batch.values("url"), batch.values("text"), strict=True
        )
        for html, charset, url, text in rows:
            row = _without_html(text) if html is None else self._reader.read(html, charset, url)
            for name, values in columns.items():
                values.append(row.get(name))
        return pa.table({name: pa.array(columns[name], kind) for name, kind in self.measures().items()})

    def explain(self, batch: Batch) -> str | None:
        """The blocks of each page, coloured by what became of them; for method gristmill."""
        if self.config.method != "gristmill":
            return None
        from stages.extract.explain import explain_pages

        rows = zip(batch.values("html"), batch.values("html_charset"), batch.values("url"), strict=True)
        return explain_pages(self._reader, [row for row in rows if row[0] is not None])

    def decide(self, values: pa.Table) -> Decision:
        """Rules in the order of the checks: too_large, too_many_tags, too_deep, error (failed), soft_404, amp, frames, shell, empty."""
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
        for rule, on in (
            ("soft_404", config.soft_404),
            ("amp", config.amp == "drop"),
            ("frames", True),
            ("shell", True),
        ):
            for row, found in enumerate(values.column(f"extract_{rule}").to_pylist() if on else ()):
                if found and (chars[row] == 0 or rule in ("soft_404", "amp")):
                    decision.drop(row, rule)
        decision.drop_where(chars == 0, "empty", chars, 1)
        return decision


def _without_html(text: str | None) -> dict[str, Any]:
    """A row that brings its text passes; one without anything is as empty as a page without text."""
    return {"text": text} if text is not None else {"extract_chars": 0}


def _numbers(values: pa.Table, name: str) -> np.ndarray:
    """A column of integers as floats, null as NaN (which no comparison holds for)."""
    return np.array([np.nan if value is None else value for value in values.column(name).to_pylist()], dtype=np.float64)
