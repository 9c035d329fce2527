"""How well a tokenizer fits a corpus, in numbers: compression, fertility, use of the vocabulary.

Formulas and their cautions: docs/tokens.md. All are diagnostics of the tokenizer, not predictions of a model's quality.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import regex

from tokenizer_training.config import TokenizerError
from tokenizer_training.corpus.documents import hash64, read_documents, text_bytes
from tokenizer_training.corpus.files import find_documents
from tokenizer_training.dataset.layout import write_json
from tokenizer_training.encoding.encoder import Encoder, clean

FORMAT = 1  # of report.json

# What counts as a word, recorded in the report because fertility means nothing without it. A word is encoded with the
# space before it, as it stands in text. Scripts written without spaces: one character (grapheme) is one word.
SEGMENTER = (
    r" ?(?:[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]\p{M}*"
    r"|(?:(?![\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}])[\p{L}\p{M}\p{N}])+)"
)
_WORD = regex.compile(SEGMENTER)

RENYI_ALPHA = 2.5  # Zouhar et al. 2023, Tokenization and the Noiseless Channel
DEAD_BELOW = 5  # a token seen less often than this belongs to the dead tail


@dataclass
class Group:
    """Sums over the documents of one language, one source, or all."""

    documents: int = 0
    bytes: int = 0
    characters: int = 0
    tokens: int = 0
    words: Counter[str] = field(default_factory=Counter)

    def add(self, text: str, tokens: int, words: Counter[str]) -> None:
        """Count one document."""
        self.documents += 1
        self.bytes += len(text.encode("utf-8"))
        self.characters += len(text)
        self.tokens += tokens
        self.words.update(words)


def evaluate(
    tokenizer_dir: str | Path, documents: Sequence[str | Path], *, max_bytes: int = 20_000_000
) -> dict[str, Any]:
    """Measure a tokenizer on documents (Parquet files or folders): the content of report.json.

    A corpus larger than `max_bytes` is sampled by document id, so that the result depends neither on the order nor on
    the files. Memory: the distinct words of that sample. Raises `TokenizerError` if there is no text.
    """
    encoder = Encoder(tokenizer_dir)
    files = find_documents(documents)
    total = sum(text_bytes(path) for path in files)
    if total == 0:
        raise TokenizerError(f"{', '.join(map(str, documents))}: no text to measure a tokenizer on")
    share = min(1.0, max_bytes / total)
    everything, by_language, by_source = Group(), {}, {}  # type: Group, dict[str, Group], dict[str, Group]
    counts = np.zeros(encoder.vocab_size, np.int64)
    lossless = 0
    for path in files:
        for batch in read_documents(path):
            used = [i for i, name in enumerate(batch.ids) if share == 1.0 or hash64("evaluate", name) < share * 2**64]
            texts = [clean(batch.texts[i]) for i in used]
            for i, text, tokens in zip(used, texts, encoder.encode_batch(texts), strict=True):
                counts += np.bincount(tokens, minlength=len(counts))
                lossless += encoder.decode(tokens) == text
                words = Counter(_WORD.findall(text))
                for group in (
                    everything,
                    by_language.setdefault(batch.languages[i] or "unknown", Group()),
                    by_source.setdefault(batch.sources[i] or "unknown", Group()),
                ):
                    group.add(text, len(tokens), words)
    if everything.tokens == 0:
        raise TokenizerError(f"max_bytes={max_bytes} of {total} bytes left no text after sampling whole documents")
    known = sorted(everything.words)
    pieces = dict(zip(known, map(len, encoder.encode_batch(known)), strict=True))
    return {
        "format": FORMAT,
        "tokenizer_sha256": encoder.sha256,
        "vocab_size": encoder.vocab_size,
        "pattern": encoder.pattern(),
        "segmenter": SEGMENTER,
        "corpus_bytes": total,
        "sample_bytes": everything.bytes,
        "lossless_share": lossless / everything.documents,
        "total": _row(everything, pieces),
        "vocabulary": vocabulary_use(counts, everything.bytes, len(encoder.special_ids)),
        "by_language": {name: _row(by_language[name], pieces) for name in _largest_first(by_language)},
        "by_source": {name: _row(by_source[name], pieces) for name in _largest_first(by_source)},
    }


def _largest_first(groups: dict[str, Group]) -> list[str]:
    return sorted(groups, key=lambda name: (-groups[name].bytes, name))


def _row(group: Group, pieces: dict[str, int]) -> dict[str, Any]:
    """One line of a table; ratios are null where there is nothing to divide by."""
    words = sum(group.words.values())
    tokens = sum(count * pieces[word] for word, count in group.words.items())
    continued = sum(count for word, count in group.words.items() if pieces[word] > 1)
    return {
        "documents": group.documents,
        "bytes": group.bytes,
        "characters": group.characters,
        "tokens": group.tokens,
        "words": words,
        "bytes_per_token": _ratio(group.bytes, group.tokens),
        "characters_per_token": _ratio(group.characters, group.tokens),
        "fertility": _ratio(tokens, words),
        "continued_word_share": _ratio(continued, words),
    }


def _ratio(a: float, b: float) -> float | None:
    return a / b if b else None


def vocabulary_use(counts: np.ndarray, text_bytes: int, special: int) -> dict[str, Any]:
    """How the tokens share the work, from how often each was seen (int64[vocabulary]).

    Special tokens, which text never uses, are left out of the shares. Rényi efficiency is of the tokens seen, over the
    nominal vocabulary: log2(sum p^a) / (1 - a) / log2(V).
    """
    seen = counts[counts > 0].astype(np.float64)
    p = seen / seen.sum()
    ordinary = len(counts) - special
    entropy = float(-(p * np.log2(p)).sum())
    renyi = float(np.log2((p**RENYI_ALPHA).sum()) / (1 - RENYI_ALPHA))
    return {
        "tokens_without_specials": ordinary,
        "used": len(seen),
        "used_share": len(seen) / ordinary,
        "dead_below": DEAD_BELOW,
        "dead_tail_share": 1 - int((counts >= DEAD_BELOW).sum()) / ordinary,
        "renyi_alpha": RENYI_ALPHA,
        "renyi_efficiency": renyi / np.log2(len(counts)).item(),
        "unigram_bits_per_token": entropy,
        "unigram_bits_per_byte": entropy * float(seen.sum()) / text_bytes,
    }


def write_report(facts: dict[str, Any], out_dir: str | Path) -> None:
    """Write report.json and report.html."""
    from tokenizer_training.dataset.layout import atomic
    from tokenizer_training.efficiency.report import render

    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "report.json", facts)
    with atomic(out / "report.html") as temporary:
        temporary.write_text(render(facts), encoding="utf-8")
