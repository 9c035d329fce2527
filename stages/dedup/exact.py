"""`dedup.exact`: of documents with equal text, one is kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from stages.batch import Batch
from stages.dedup.equal import EqualContents
from stages.dedup.survivor import TextDuplicateConfig
from stages.stage import knob, register


class ExactConfig(TextDuplicateConfig):
    """Knobs of `dedup.exact`."""

    normalize: tuple[Literal["whitespace", "case"], ...] = knob(
        ("whitespace",),
        "what texts may differ in and still be equal: whitespace (any run of Unicode whitespace counts as one space, none at the"
        " ends), case (compared in lower case); [] compares the text as it is",
    )


@register
class Exact(EqualContents):
    """Groups documents by a 128-bit hash (XXH3) of their text; one of each group is kept, the others are `duplicate`.

    A document whose text is empty or only whitespace is in no group: an empty page tells nothing about another.
    """

    name = "dedup.exact"
    config_model = ExactConfig
    needs = ("id", "text", "source")
    config: ExactConfig

    def contents(self, batch: Batch) -> Iterator[bytes | None]:
        """Each text as `normalize` has it."""
        normalize = self.config.normalize
        for text in self.config.texts(batch):
            if not text or text.isspace():
                yield None
                continue
            if "whitespace" in normalize:
                text = " ".join(text.split())
            if "case" in normalize:
                text = text.lower()
            yield text.encode("utf-8", "surrogatepass")
