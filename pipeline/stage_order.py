"""Whether each stage of a config stands behind what it needs: text, columns, sources."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from pipeline.mistakes import nearest
from pipeline.yamlfile import Key, Mistake
from stages.conversation import CONVERSATION
from stages.stage import Stage, registry

if TYPE_CHECKING:
    from pipeline.config import InputConfig, RunConfig, StageSpec

HTML_FORMATS = ("warc", "html")  # what holds pages, so that there is no text before `extract`


def stage_order(config: RunConfig, places: Sequence[Key]) -> list[Mistake]:
    """Stages that stand before what they need: the text of HTML input, a column that only a later stage writes."""
    mistakes: list[Mistake] = []
    pages = next((entry for entry in config.input if entry.format in HTML_FORMATS), None)
    have = {"id", "record_id", "url", "source", "date", "html", "payload_hash"} | (set() if pages else {"text"})
    have |= set(CONVERSATION) if any(entry.kind != "text" for entry in config.input) else set()
    sources = sorted({entry.source for entry in config.input})
    ended: dict[str, str] = {}  # columns that a stage before has used up
    for spec, place in zip(config.stages, places, strict=True):
        stage = spec.stage_class(spec.config)
        for need in sorted(set(stage.needs) - have):
            if need in ended:
                text = f"which ends with `{ended[need]}`: put `{spec.name}` before it"
            elif need in CONVERSATION:
                text = "which only inputs of another kind than text have: set input.kind to chat, preference or prompt"
            else:
                why = f"; the input {pages.source!r} holds HTML" if pages and need == "text" else ""
                text = f"which no stage before it writes{why}{_writer(need)}"
            mistakes.append((place, f"{spec.name} needs `{need}`, {text}"))
            have.add(need)  # said once
        only = spec.config.only
        uses = [("only", "only: {language: ...}")] if only and only.language is not None else []
        uses += [("by_language", "by_language")] if spec.config.by_language else []
        for key, what in uses:
            if "language" not in have:
                mistakes.append(
                    (
                        (*place, key),
                        f"{spec.name}: {what} looks at `language`, which no stage before it writes{_writer('language')}",
                    )
                )
        for source in (only.source or ()) if only else ():
            if source not in sources:
                mistakes.append(
                    (
                        (*place, "only"),
                        f"{spec.name}.only.source: no input has the source {source!r}{nearest(source, sources)}",
                    )
                )
        for source in spec.config.sources():
            if source not in sources:
                text = f"{spec.name}: no input has the source {source!r}{nearest(source, sources)}"
                mistakes.append((place, text))
        talk = _rewritten(spec, stage, config.input)
        if talk is not None:
            mistakes.append(
                (
                    place,
                    f"{spec.name} writes a new `text`, but that of the input {talk.source!r} (kind {talk.kind}) only renders "
                    f"its messages, which would stay as they were: add `only: {{source: [...]}}` with the sources of kind text",
                )
            )
        gone = {*stage.consumes, *(["payload_hash"] if "html" in stage.consumes else [])}
        have = (have | set(stage.provides())) - gone
        ended |= dict.fromkeys(gone, spec.name)
    if pages and "text" not in have:
        mistakes.append(
            (("stages",), f"input {pages.source!r} holds HTML: add `extract` to the stages, so that there is text")
        )
    return mistakes


def _rewritten(spec: StageSpec, stage: Stage, inputs: Iterable[InputConfig]) -> InputConfig | None:
    """An input of conversations whose rendering a stage would replace. Edits of a rendering reach the messages; a new text cannot."""
    if "text" not in stage.provides() or "messages" in stage.needs or "html" in stage.consumes:
        return None
    only = spec.config.only.source if spec.config.only else None
    return next((e for e in inputs if e.kind != "text" and (only is None or e.source in only)), None)


def _writer(column: str) -> str:
    """Which stage to put before, for a column that some stage writes."""
    preferred = {"text": "extract"}.get(column)
    names = [preferred] if preferred else [n for n, s in registry().items() if column in _provided(s)]
    return f": put `{names[0]}` before it" if names else ""


def _provided(stage_class: type[Stage]) -> Iterable[str]:
    try:
        return stage_class(stage_class.config_model.model_validate({})).provides()
    except ValueError:  # a stage with a required knob
        return ()
