"""Our own engine: compiled pre-tokenizers, a cache of the words seen, and byte-pair merging for the others."""

from __future__ import annotations

import numpy as np

from tokenizer_training.encoding.bpe_file import BytePairs
from tokenizer_training.encoding.engines.engine import Unavailable
from tokenizer_training.encoding.merges import pair_table, slots
from tokenizer_training.encoding.texts import Texts
from tokenizer_training.encoding.words import HOT, encode_rows, put_tokens
from tokenizer_training.vocabulary.characters import character_classes
from tokenizer_training.vocabulary.patterns import GPT2_STYLE

CHUNK_BYTES = 1 << 20  # of text encoded at once: with its pre-tokens and ids it stays in the processor's caches
CACHED_WORDS = 1 << 20  # beside the vocabulary. Room for them: 8 bytes of long words, and 4 ids, each
LONGEST_USUAL = 8200  # bytes; no pre-token is longer where endless runs are cut
PADDING = 32  # bytes after the texts that the kernels may read


class GristmillEngine:
    """Exact for byte-level BPE with one of the named patterns. On the calling thread; the cache lasts as long as the engine.

    Memory: 32 bytes for each slot of the cache, of which there are at least one and a half times as many as words and tokens: 64 MB.
    """

    name = "gristmill"

    def __init__(self, model: BytePairs, cached_words: int = CACHED_WORDS) -> None:
        if model.rules is None:
            raise Unavailable(
                "the pre-tokenizer is compiled for the named patterns only, and this tokenizer has another"
            )
        self.style, self.digits = model.rules.style, model.rules.digits
        self.before_word = np.array([self._precedes(chr(code)) for code in range(128)])
        self.byte_ids = np.array(model.byte_ids, np.int64)
        self.pairs = pair_table(model.merges)
        known = len(model.tokens) + cached_words
        spelled = sum(map(len, model.tokens))
        self.limits = np.array([known, 4 * known + spelled, 8 * known + spelled], np.int64)
        self.table = np.zeros(4 * slots(known + known // 2), np.uint64)
        self.ids = np.empty(self.limits[1], np.int32)
        self.arena = np.empty(self.limits[2], np.uint8)
        self.used = np.zeros(4, np.int64)
        self.hot = np.zeros(4 * HOT, np.uint64)
        self._buffer = np.zeros(CHUNK_BYTES + PADDING, np.uint8)
        self._out = np.empty(CHUNK_BYTES, np.int32)
        self._scratch = np.empty(6 * LONGEST_USUAL, np.int64)
        self._vocabulary = Texts.of_bytes(list(model.tokens))
        self._numbers = np.fromiter(model.tokens.values(), np.int64, len(model.tokens))
        self._merging = not model.ignore_merges
        self._put_vocabulary()

    def _precedes(self, character: str) -> bool:
        if self.style == GPT2_STYLE:
            return character == " "
        return not (character.isalnum() or character in "\r\n'")  # an apostrophe may begin a contraction

    def _put_vocabulary(self) -> None:
        """Begin with a cache of the tokens alone, so that a pre-token that is a token is found at once."""
        self.table[:] = 0
        self.hot[:] = 0
        self.used[:] = 0
        data, words, ends = self._padded(self._vocabulary)
        put_tokens(
            data, words, ends, self._numbers, self._merging,
            self.byte_ids, self.pairs, self.table, self.ids, self.arena, self.used,
        )  # fmt: skip

    def encode(self, texts: Texts) -> tuple[np.ndarray, np.ndarray]:
        """Ids of all texts (int32) and offsets (int64[n + 1])."""
        offsets = np.zeros(len(texts) + 1, np.int64)
        parts = [np.zeros(0, np.int32)]
        start = made = 0
        while start < len(texts):
            stop = int(np.searchsorted(texts.offsets, texts.offsets[start] + CHUNK_BYTES, "right")) - 1
            stop = max(stop, start + 1)
            if (self.used[:3] * 10 >= self.limits * 9).any():
                self._put_vocabulary()  # full
            data, words, row_ends = self._padded(texts.rows(start, stop))
            ids, places = self._rows(data, words, row_ends)
            offsets[start + 1 : stop + 1] = made + places[1:]
            parts.append(ids)
            made += len(ids)
            start = stop
        return np.concatenate(parts), offsets

    def _padded(self, texts: Texts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The bytes in a buffer that the kernels may read as whole words, as bytes and as words, and the ends of texts."""
        first, last = int(texts.offsets[0]), int(texts.offsets[-1])
        size = last - first
        if size + PADDING > len(self._buffer):
            self._buffer = np.zeros((size + PADDING + 7) // 8 * 8, np.uint8)
        self._buffer[:size] = texts.data[first:last]
        self._buffer[size : size + PADDING] = 0  # no letter, so that a word ends there
        return self._buffer, self._buffer.view(np.uint64), texts.offsets[1:] - first

    def _rows(self, data: np.ndarray, words: np.ndarray, row_ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if int(row_ends[-1]) + 3 > len(self._out):
            self._out = np.empty(int(row_ends[-1]) + 3, np.int32)
        offsets = np.zeros(len(row_ends) + 1, np.int64)
        count = -1
        while count < 0:
            count = encode_rows(
                data, words, row_ends, character_classes(), self.style, self.digits, self.before_word,
                self.byte_ids, self.pairs, self.table, self.ids, self.arena, self.used, self.limits,
                self._scratch, self.hot, self._out, offsets,
            )  # fmt: skip
            if count < 0:
                self._scratch = np.empty(-6 * 2 * count, np.int64)
        return self._out[:count].copy(), offsets
