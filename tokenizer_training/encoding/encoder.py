"""Text to token ids and back, by rules that hold for every text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer

from tokenizer_training.config import TokenizerError
from tokenizer_training.dataset.layout import dtype_of, sha256_of
from tokenizer_training.encoding.bpe_file import BytePairs, read_byte_pairs
from tokenizer_training.encoding.engines.tokenizers import TokenizersEngine
from tokenizer_training.encoding.exact import VERIFY_EVERY, ExactEngine
from tokenizer_training.encoding.texts import Texts, texts_of_column
from tokenizer_training.vocabulary.characters import character_classes
from tokenizer_training.vocabulary.pretokenize import LONGEST_RUN, room_for_cuts, run_cuts, to_nfc
from tokenizer_training.vocabulary.special import END_OF_DOCUMENT


def clean(text: str) -> str:
    """The text with each lone surrogate, which UTF-8 cannot carry, replaced by U+FFFD; others come back as they are."""
    if text.isascii():
        return text
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


class Encoder:
    """Encodes documents with the tokenizer in a folder.

    Text never yields a special token, whatever it spells. Decoding gives back the text (its NFC where the tokenizer
    normalises; U+FFFD for lone surrogates). Endless runs are cut as `pretokenize.py` says.

    `engine` is the library that does it, or "auto" for the fastest that is installed and gives the ids of `tokenizers` (see
    `exact.py`); `verify_every`: every so many documents are encoded by `tokenizers` too, 0 for none. `facts()` says which engine
    it was, and what was verified.
    """

    def __init__(self, tokenizer_dir: str | Path, engine: str = "auto", verify_every: int = VERIFY_EVERY) -> None:
        self.path = Path(tokenizer_dir)
        file = self.path / "tokenizer.json"
        if not file.is_file():
            raise TokenizerError(f"{file}: no such file; give the folder of a trained tokenizer")
        try:
            self.tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises plain Exception
            raise TokenizerError(f"{file}: not a usable tokenizer ({error})") from None
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.tokenizer.encode_special_tokens = True  # special tokens spelled in text are text
        self.sha256 = sha256_of(file)
        self.special_ids = {
            token.content: number
            for number, token in sorted(self.tokenizer.get_added_tokens_decoder().items())
            if token.special
        }
        if END_OF_DOCUMENT not in self.special_ids:
            raise TokenizerError(
                f"{file}: no special token {END_OF_DOCUMENT}, which ends every document; train it here"
            )
        self.vocab_size: int = 1 + max(self.tokenizer.get_vocab(with_added_tokens=True).values())
        self.dtype = np.dtype(dtype_of(self.vocab_size))
        self.eos_id: int = self.special_ids[END_OF_DOCUMENT]
        model: BytePairs | TokenizerError
        try:
            model = read_byte_pairs(file)
        except TokenizerError as error:  # not a byte-level BPE: for the reference alone
            model = error
        self._nfc = isinstance(model, BytePairs) and model.nfc
        named = isinstance(model, BytePairs) and model.rules is not None
        self._engine = ExactEngine(TokenizersEngine(self.tokenizer, cut_safely=named), model, engine, verify_every)

    def __reduce__(self) -> tuple[type[Encoder], tuple[Path, str, int]]:
        return Encoder, (self.path, self._engine.wanted, self._engine.verify_every)

    def facts(self) -> dict[str, Any]:
        """The engine, and how many documents were encoded, verified, encoded by `tokenizers` for want of its ids, or differed."""
        return self._engine.facts()

    def encode(self, text: str) -> np.ndarray:
        """The ids of one text, without an end token."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of each text (uint16 or int32, see `layout.dtype_of`), without end tokens."""
        ids, offsets = self._encode(Texts.of([clean(text) for text in texts]))
        return np.split(ids, offsets[1:-1]) if len(texts) else []

    def encode_column(self, column: pa.Array | pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
        """The ids of all texts of a string column, one after the other (uint16 or int32), and int64[rows + 1] offsets.

        The ids of row i are `tokens[offsets[i] : offsets[i + 1]]`, without an end token; nulls give none. Raises
        `TokenizerError` if the column holds anything but strings.
        """
        made = [self._encode(texts) for texts in texts_of_column(column)]
        offsets = np.zeros(len(column) + 1, np.int64)
        np.cumsum(np.concatenate([np.zeros(0, np.int64), *(np.diff(places) for _, places in made)]), out=offsets[1:])
        return np.concatenate([np.zeros(0, self.dtype), *(ids for ids, _ in made)]), offsets

    def _encode(self, texts: Texts) -> tuple[np.ndarray, np.ndarray]:
        if self._nfc:
            texts = _normal(texts)
        ids, offsets = self._engine.encode(*_pieces(texts))
        return ids.astype(self.dtype), offsets

    def decode(self, ids: np.ndarray | Sequence[int], skip_special: bool = False) -> str:
        """The text of ids; special tokens appear as they are written unless skipped, broken UTF-8 as U+FFFD."""
        text: str = self.tokenizer.decode(np.asarray(ids).tolist(), skip_special_tokens=skip_special)
        return text

    def pattern(self) -> str:
        """The pre-tokenizer as JSON, for reports."""
        content: dict[str, Any] = json.loads(self.tokenizer.to_str())
        return json.dumps(content["pre_tokenizer"], ensure_ascii=False)


def _normal(texts: Texts) -> Texts:
    """The texts in NFC."""
    if not len(texts) or texts.data[texts.offsets[0] : texts.offsets[-1]].max(initial=0) < 0x80:
        return texts
    return Texts.of([to_nfc(text) for text in texts])


def _pieces(texts: Texts) -> tuple[Texts, np.ndarray]:
    """The texts cut at endless runs, and which piece each begins with (int64[n + 1])."""
    cuts: dict[int, np.ndarray] = {}
    for row in np.flatnonzero(np.diff(texts.offsets) > LONGEST_RUN).tolist():
        start, stop = int(texts.offsets[row]), int(texts.offsets[row + 1])
        room = room_for_cuts(stop - start)
        count = run_cuts(texts.data, start, stop, character_classes(), LONGEST_RUN, room)
        if count:
            cuts[row] = room[:count]
    first = np.arange(len(texts) + 1)
    if not cuts:
        return texts, first
    rows = sorted(cuts)
    first[1:] += np.cumsum(np.bincount(rows, [len(cuts[row]) for row in rows], len(texts)).astype(np.int64))
    offsets = np.insert(
        texts.offsets,
        np.repeat(np.array(rows) + 1, [len(cuts[row]) for row in rows]),
        np.concatenate([cuts[row] for row in rows]),
    )
    return Texts(texts.data, offsets), first
