"""The engine for a tokenizer: the fastest that gives the ids of `tokenizers`, chosen, and watched while it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tokenizer_training.config import TokenizerError
from tokenizer_training.encoding.bpe_file import BytePairs
from tokenizer_training.encoding.engines.engine import Engine, Unavailable
from tokenizer_training.encoding.engines.tokenizers import TokenizersEngine
from tokenizer_training.encoding.texts import Texts

# In the order in which `auto` tries them. gigatoken is two to three times as fast as our own engine, but keeps every word that it has
# seen: its memory grew by 420 MB over 54 MB of distinct words, ours not at all (benchmarks/tokens/encoding.py --memory).
PREFERENCE = ("gristmill", "gigatoken", "tiktoken")
ENGINES = ("auto", *PREFERENCE, "tokenizers")

SAMPLE_BYTES = 200_000  # of the first documents, on which an engine is verified
SMALL = 200_000  # bytes in all up to which `auto` stays with `tokenizers`: compiled code takes a second to load
VERIFY_EVERY = 1000

# Texts on which engines have been seen to differ, or may: special tokens, cases, digits, white space, marks, emoji, scripts
PROBES = (
    "", " ", "a", "\n", "\x00", "<|endoftext|>", "x<|endoftext|>y <|end|><|assistant|>", "I'LL can't we'Ve 'S 'ſ x'ſy ’s",
    "1234567890 12 3,456.78 ٣٤٥ ²³ Ⅻ ½ 1²a", " \n \r\n\r\n\t  x\n\n\n  y   \u00a0\u2003 z\u0085\u2028 ", "   leading\n    indented\n\n\n",
    "camelCase HTTPServer ABCdef ǅungla ÉCOLE école éÉ", "e\u0301 a\u030a\u0323 \u0301x क्षत्रिय สวัสดี ქართული ᚠᛇᚻ",
    "漢字かな交じり文。한국어 문장입니다 \u1112\u1161\u11ab ﬁ Å \ufb1d", "👩‍👩‍👧‍👦🏳️‍🌈 e\ufe0f\u20e3 \U0001d54f\U0001d7ce", "...!?\n// a/b --x== $%^\r\n(/x)/\n/", "\u0378\U000e0001\uffff\ufdd0",
    "word " * 30, "ab" * 700, "." * 700, " " * 700 + "x", "\n" * 300 + "x", "9" * 301,
)  # fmt: skip


class ExactEngine:
    """Encodes as `tokenizers` does, by a faster engine where there is one.

    On first use an engine is chosen: with `auto` the first of `PREFERENCE` that is installed, takes the tokenizer, and gives the ids
    of `tokenizers` on `PROBES` and on the first documents; with a name that one, or an error. Then every `verify_every`-th
    document (0: none) is encoded by `tokenizers` too. A document on which the engine fails or differs gets the ids of `tokenizers`.
    """

    def __init__(
        self,
        reference: TokenizersEngine,
        model: BytePairs | TokenizerError,
        name: str,
        verify_every: int = VERIFY_EVERY,
    ) -> None:
        if name not in ENGINES:
            raise TokenizerError(f"encoder {name!r}: expected one of {', '.join(ENGINES)}")
        if verify_every < 0:
            raise TokenizerError(f"verify_every {verify_every}: expected 0 (never) or more")
        self.reference = reference
        self.model = model
        self.wanted = name
        self.verify_every = verify_every
        self.engine: Engine | None = reference if name == "tokenizers" else None
        self.passed_over: dict[str, str] = {}
        self.documents = self.bytes = self.verified = self.fell_back = self.differed = 0

    def facts(self) -> dict[str, Any]:
        """The engine's name, documents encoded and verified, those that it failed on and those on which it differed."""
        return {
            "engine": self.engine.name if self.engine else self.reference.name,
            "documents": self.documents,
            "verified": self.verified,
            "fell_back": self.fell_back,
            "differed": self.differed,
        }

    def encode(self, pieces: Texts, first_piece: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ids of all documents (int32) and offsets (int64[documents + 1]); document i is pieces first_piece[i] to [i + 1]."""
        documents = len(first_piece) - 1
        self.bytes += int(pieces.offsets[-1] - pieces.offsets[0])
        engine = self.engine
        if engine is None:
            engine = self.reference if self.wanted == "auto" and self.bytes <= SMALL else self._choose(pieces)
        before, self.documents = self.documents, self.documents + documents
        if engine is self.reference:
            ids, offsets = engine.encode(pieces)
            return ids, offsets[first_piece]
        replaced: dict[int, np.ndarray] = {}
        made = _attempt(engine, pieces)
        if made is None:
            ids, offsets = self._one_by_one(engine, pieces, first_piece)
        else:
            ids, offsets = made[0], made[1][first_piece]
        for row in self._to_verify(before, documents):
            right = self._by_reference(pieces, first_piece, row)
            self.verified += 1
            if not np.array_equal(right, ids[offsets[row] : offsets[row + 1]]):
                self.differed += 1
                replaced[row] = right
        if replaced:
            rows = [replaced.get(row, ids[offsets[row] : offsets[row + 1]]) for row in range(documents)]
            ids, offsets = np.concatenate(rows), np.cumsum([0, *map(len, rows)])
        return ids, offsets

    def _to_verify(self, before: int, documents: int) -> range:
        if self.verify_every == 0:
            return range(0)
        return range(-before % self.verify_every, documents, self.verify_every)

    def _by_reference(self, pieces: Texts, first_piece: np.ndarray, row: int) -> np.ndarray:
        return self.reference.encode(pieces.rows(int(first_piece[row]), int(first_piece[row + 1])))[0]

    def _one_by_one(self, engine: Engine, pieces: Texts, first_piece: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        parts = [np.zeros(0, np.int32)]
        for row in range(len(first_piece) - 1):
            made = _attempt(engine, pieces.rows(int(first_piece[row]), int(first_piece[row + 1])))
            if made is None:
                self.fell_back += 1
            parts.append(self._by_reference(pieces, first_piece, row) if made is None else made[0])
        return np.concatenate(parts), np.cumsum([len(part) for part in parts])

    def _choose(self, pieces: Texts) -> Engine:
        """The engine for this tokenizer. The sample is not counted as verified."""
        stop = int(np.searchsorted(pieces.offsets, pieces.offsets[0] + SAMPLE_BYTES, "right")) - 1
        samples = [Texts.of(PROBES), pieces.rows(0, min(max(stop, 1), len(pieces)))]
        if isinstance(self.model, BytePairs) and self.model.nfc:
            samples[0] = Texts.of([self.reference.normal(text) for text in PROBES])
        right = [self.reference.encode(sample) for sample in samples]
        for name in PREFERENCE if self.wanted == "auto" else (self.wanted,):
            try:
                if isinstance(self.model, TokenizerError):
                    raise Unavailable(str(self.model))
                engine = _MAKERS[name](self.model)
                self._check(engine, samples, right)
            except Unavailable as error:
                if self.wanted != "auto":
                    raise TokenizerError(f"encoder {name}: {error}; choose another, or auto") from None
                self.passed_over[name] = str(error)
            else:
                self.engine = engine
                return engine
        self.engine = self.reference
        return self.engine

    def _check(self, engine: Engine, samples: list[Texts], right: list[tuple[np.ndarray, np.ndarray]]) -> None:
        for sample, (ids, offsets) in zip(samples, right, strict=True):
            try:
                made = engine.encode(sample)
            except (KeyboardInterrupt, SystemExit, GeneratorExit):
                raise
            except BaseException as error:
                raise Unavailable(f"fails on a sample of the documents: {error!r}") from None
            if not (np.array_equal(made[0], ids) and np.array_equal(made[1], offsets)):
                raise Unavailable("its ids differ from those of tokenizers on a sample of the documents")


def _attempt(engine: Engine, texts: Texts) -> tuple[np.ndarray, np.ndarray] | None:
    """What the engine makes of the texts; None if it fails, panics of Rust code included, which are no Exceptions."""
    try:
        return engine.encode(texts)
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException:
        return None


def _gristmill(model: BytePairs) -> Engine:
    from tokenizer_training.encoding.engines.gristmill import GristmillEngine

    return GristmillEngine(model)


def _gigatoken(model: BytePairs) -> Engine:
    from tokenizer_training.encoding.engines.gigatoken import GigatokenEngine

    return GigatokenEngine(model)


def _tiktoken(model: BytePairs) -> Engine:
    from tokenizer_training.encoding.engines.tiktoken import TiktokenEngine

    return TiktokenEngine(model)


_MAKERS: dict[str, Callable[[BytePairs], Engine]] = {
    "gristmill": _gristmill,
    "gigatoken": _gigatoken,
    "tiktoken": _tiktoken,
}
