r"""`diversity`: of each document a small sketch of its words and topics, from which the report tells how varied the corpus is.

It drops nothing, and stands once, early: the ledger says which stage each document ended in, so that one sketch is enough to
compare what there was before and after every stage behind it.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pyarrow as pa

from stages.batch import Batch
from stages.stage import MapStage, StageConfig, knob, register

# Scripts without spaces between words: a letter is a word (Thai, Lao, Myanmar, Khmer, kana, Han).
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
_BIGRAM = re.compile(rf"(?=([{_UNSPACED}]{{2}}))")

CANDIDATES = 5  # words that a document's topic is chosen from
LOOKED_AT = 100  # most frequent words among which these are looked for
TOPIC_LETTERS = 4  # of a word that may name a topic; function words are mostly shorter


class DiversityConfig(StageConfig):
    """Knobs of `diversity`."""

    sample: int = knob(
        64,
        "one in so many distinct words is followed, by its hash, the same ones in all documents: fewer cost less, more tell small"
        " corpora apart",
        "sampling distinct values by their hashes: Gibbons 2001",
        ge=1,
        le=2**20,
    )


@register
class Diversity(MapStage):
    """Sketches the words of each document; the report's section on diversity is made of it.

    Scores: the number of words (runs of letters and digits in lower case), the hashes and counts of those followed, and the
    most frequent longer words, one of which names the topic. What later stages change in a text is not seen.
    """

    name = "diversity"
    config_model = DiversityConfig
    drops = False
    libraries = ("xxhash",)
    config: DiversityConfig

    def provides(self) -> dict[str, pa.DataType]:
        """No columns of documents."""
        return {}

    def measures(self) -> dict[str, pa.DataType]:
        """The sketch."""
        return {
            "diversity_tokens": pa.int64(),
            "diversity_words": pa.list_(pa.uint32()),
            "diversity_counts": pa.list_(pa.int32()),
            "diversity_topics": pa.list_(pa.string()),
        }

    def scored(self) -> tuple[str, ...]:
        """All of it."""
        return tuple(self.measures())

    def measure(self, batch: Batch) -> pa.Table:
        """Each text's sketch."""
        out: dict[str, list[Any]] = {name: [] for name in self.measures()}
        for text in batch.texts():
            words = Counter(_WORD.findall(text.lower()))
            followed = sketch(words, self.config.sample)
            out["diversity_tokens"].append(words.total())
            out["diversity_words"].append(list(followed))
            out["diversity_counts"].append(list(followed.values()))
            out["diversity_topics"].append(candidates(text, words))
        return pa.table({name: pa.array(out[name], kind) for name, kind in self.measures().items()})


def sketch(words: Counter[str], sample: int) -> dict[int, int]:
    """The followed words, by hash, with their counts, in the order of the hashes."""
    from xxhash import xxh3_64_intdigest

    found: dict[int, int] = {}
    for word, count in words.items():
        value = xxh3_64_intdigest(word.encode("utf-8", "surrogatepass"))
        if value % sample == 0:
            short = (value // sample) & 0xFFFFFFFF
            found[short] = min(found.get(short, 0) + count, 2**31 - 1)
    return dict(sorted(found.items()))


def candidates(text: str, words: Counter[str]) -> list[str]:
    """The longer words that a text uses most, more than once each; of scripts without spaces pairs of letters.

    Words of equal count stand in the order in which the text has them.
    """
    frequent = [word for word, n in words.most_common(LOOKED_AT) if n > 1]
    found = [word for word in frequent if TOPIC_LETTERS <= len(word) <= 40 and word.isalpha()]
    if not found:
        found = [pair for pair, n in Counter(_BIGRAM.findall(text)).most_common(CANDIDATES) if n > 1]
    return [word.encode("utf-8", "replace").decode() for word in found[:CANDIDATES]]
