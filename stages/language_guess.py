"""The `language_guess` stage: a cheap guess at the language of an HTML page, before its text is extracted.

Tags are cut out by pattern and long runs of text are read; pages that are surely in a language that is not kept end here.
"""

from __future__ import annotations

import codecs
import html as entities
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from stages.batch import Batch
from stages.extract.charset import decode, meta_charset
from stages.language_model import Identifier, load
from stages.language_names import resolve
from stages.stage import ASSETS, Decision, MapStage, Resources, StageConfig, StageError, knob, register

LONG_RUN = 60  # bytes between two tags that are read first: sentences rather than menus
SHORT_RUN = 12  # and where those are few, the shorter ones
ENOUGH = 1000  # characters that are read

SURE = 0.8  # score from which a guess of another language drops a page unread; docs/languages.md says what that loses

_PAGE = 1 << 20  # bytes of a page that are looked at
_PART = 1 << 13  # at a time

_HIDDEN = re.compile(rb"<(?:(script|style|noscript|template|textarea|svg|code|pre)[\s>/]|(!--))", re.IGNORECASE)
_RUN = re.compile(rb">([^<>]{%d,})(?=<)" % SHORT_RUN)
_SPACE = re.compile(r"\s+")


class LanguageGuessConfig(StageConfig):
    """Knobs of `language_guess`. Languages are named by any code, as in `language`."""

    keep: tuple[str, ...] = knob(
        ...,
        "languages to keep; name every language that later stages are to see, pages in others end here (`not_kept`)",
        min_length=1,
    )
    sure: float = knob(
        SURE,
        "a page is dropped only if its guess is another language with at least this score; the others, and pages without "
        "text to guess by, go on to be extracted and labelled",
        "measured",
        ge=0,
        le=1,
    )
    model: str | None = knob(
        None,
        "path of another fastText model with `__label__` labels, as in `language`; null is lid.176.ftz, which ships",
    )
    lower_case: bool | None = knob(
        None, "whether the model reads texts in lower case, as in `language`; null does with lid.176"
    )


@register
class LanguageGuess(MapStage):
    """Drops pages that are surely in another language, before they are extracted at many times the price.

    Stands before `extract`, which ends the HTML. Reads the first longer runs of text between tags. It takes nothing from
    `language`, which is to judge the extracted text of what goes on. Scored: the label, its score, and the labels of the
    halves of what was read, as half-translated pages begin in one language and go on in another; rows without HTML have
    none, and pass. The ledger's detail is the label.
    """

    name = "language_guess"
    version = 2
    config_model = LanguageGuessConfig
    needs = ("html",)
    decide_knobs = ("keep", "sure")
    libraries = ("fasttext-community",)
    resources = Resources(memory=64 << 20)
    config: LanguageGuessConfig

    def __init__(self, config: LanguageGuessConfig) -> None:
        super().__init__(config)
        self._model: Identifier
        self._keep: frozenset[str]

    def provides(self) -> dict[str, pa.DataType]:
        """Nothing: the verdicts are all."""
        return {}

    def measures(self) -> dict[str, pa.DataType]:
        """The label (`und` where a page has no text), its score (0 to 1), the labels of both halves; null without HTML."""
        return {
            "language_guess": pa.string(),
            "language_guess_score": pa.float64(),
            "language_guess_halves": pa.list_(pa.string()),
        }

    def scored(self) -> tuple[str, ...]:
        """All: `decide` needs them."""
        return tuple(self.measures())

    def assets(self) -> dict[str, str]:
        """The model file."""
        return {"model": self.config.model or str(ASSETS / "lid.176.ftz")}

    def setup(self, assets: Mapping[str, Path]) -> None:
        """Load the model; refuses a broken file, and languages that it does not have."""
        config = self.config
        self._model = load(assets["model"], config.model is None if config.lower_case is None else config.lower_case)
        try:
            # where a script narrows a name, its label is kept in every script: `language` tells them apart on the text
            kept = [resolve(name, self._model.names) for name in config.keep]
        except ValueError as error:
            raise StageError(f"{self.name}.keep: {error}") from None
        self._keep = frozenset(label for wanted in kept for label in wanted.labels)

    def measure(self, batch: Batch) -> pa.Table:
        """One guess a page."""
        pairs = zip(batch.values("html"), batch.values("html_charset"), strict=True)
        found = [self._row(html, charset) for html, charset in pairs]
        columns = zip(*found, strict=True) if found else [()] * len(self.measures())
        return pa.table(
            {n: pa.array(column, k) for (n, k), column in zip(self.measures().items(), columns, strict=True)}
        )

    def _row(self, html: Any, charset: Any) -> tuple[str | None, float | None, list[str] | None]:
        if isinstance(html, str):
            html, charset = html.encode("utf-8", "replace"), "utf-8"
        if not isinstance(html, bytes):  # a column of a user's file may hold anything
            return None, None, None
        return guess(html, self._model, charset if isinstance(charset, str) else None)

    def decide(self, values: pa.Table) -> Decision:
        """One rule, `not_kept`: value is the score, threshold `sure`, detail the label."""
        decision, sure = Decision.keep(values.num_rows), self.config.sure
        columns = (values.column(name).to_pylist() for name in self.measures())
        for row, (label, score, halves) in enumerate(zip(*columns, strict=True)):
            if label is not None and label != "und" and score >= sure and self._keep.isdisjoint((label, *halves)):
                decision.drop(row, "not_kept", score, sure, label)
        return decision


def guess(page: bytes, model: Identifier, charset: str | None = None) -> tuple[str, float, list[str]]:
    """The label of a page, its score (0 to 1), and the labels of both halves, from its first longer pieces of text.

    `und`, 0 and no halves where it has no text. `charset` is that of the HTTP header. Never raises: what is not HTML has no
    runs between tags and is read as it is.
    """
    text = page_text(page, charset)
    if not text:
        return "und", 0.0, []
    label, score, _ = model.best(text)
    half = len(text) // 2
    return label, score, [model.best(part).label for part in (text[:half], text[half:]) if part.strip()]


def page_text(page: bytes, charset: str | None = None) -> str:
    """Up to `ENOUGH` characters of a page's text, in its order, without scripts, styles, comments and tags."""
    page = page[:_PAGE]
    if page[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        page = page.decode("utf-16", "replace").encode("utf-8", "replace")
    runs: list[bytes] = []
    size = 0  # bytes in long runs
    for part in _shown(page):
        for run in _RUN.findall(part):
            if not run.isspace():
                runs.append(run)
                size += len(run) if len(run) >= LONG_RUN else 0
        if size >= 4 * ENOUGH:  # at most four bytes a character
            break
    if size >= ENOUGH // 2:
        runs = [run for run in runs if len(run) >= LONG_RUN]
    if not runs and b"<" not in page:
        runs = [page]
    text = _decoded(b"\n".join(runs)[: 4 * ENOUGH], page, charset)
    return _SPACE.sub(" ", entities.unescape(text)).strip()[:ENOUGH]


def _shown(page: bytes) -> Iterator[bytes]:
    """The parts of a page, a few kilobytes each, between elements that hold no text for readers.

    An element that is never closed hides the rest. Takes time linear in the page.
    """
    lower, place = page.lower(), 0
    while place < len(page):
        found = _HIDDEN.search(lower, place)
        stop = len(page) if found is None else found.start()
        while place < stop:  # parts end before a tag, so that no run is cut
            end = lower.find(b"<", min(place + _PART, stop), stop)
            end = stop if end < 0 else end
            yield page[place : end + 1]  # with the `<` that ends its last run
            place = end
        if found is None:
            return
        closer = b"-->" if found[2] else b"</" + found[1]
        end = lower.find(closer, found.end())
        if end < 0:
            return
        place = end + (3 if found[2] else 0)


def _decoded(text: bytes, page: bytes, charset: str | None) -> str:
    """UTF-8 where it is that (the last character may be cut), else as `extract` would decode these bytes alone."""
    try:
        return codecs.getincrementaldecoder("utf-8")().decode(text)
    except UnicodeDecodeError:
        return decode(text, charset or meta_charset(page))[0]
