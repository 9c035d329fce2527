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
from tokenizer_training.corpus.pieces import LONGEST_PIECE, LONGEST_RUN, cut
from tokenizer_training.dataset.layout import dtype_of, sha256_of
from tokenizer_training.vocabulary.special import END_OF_DOCUMENT

# Characters handed to the tokenizer at once. Its answer takes some 100 bytes a token until it is turned into an array.
BATCH_CHARACTERS = 2_000_000
COLUMN_ROWS = 1000  # of a column made Python strings at once


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
    normalises; U+FFFD for lone surrogates). Very long texts and runs are cut as `pieces.py` says.
    """

    def __init__(self, tokenizer_dir: str | Path) -> None:
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

    def __reduce__(self) -> tuple[type[Encoder], tuple[Path]]:
        return Encoder, (self.path,)

    def encode(self, text: str) -> np.ndarray:
        """The ids of one text, without an end token."""
        return self.encode_batch([text])[0]

    def encode_batch(
        self, texts: Sequence[str], longest_run: int = LONGEST_RUN, longest_piece: int = LONGEST_PIECE
    ) -> list[np.ndarray]:
        """The ids of each text (uint16 or int32, see `layout.dtype_of`), without end tokens."""
        arrays: list[np.ndarray] = []
        pieces: list[str] = []
        counts: list[int] = []
        size = 0
        for text in texts:
            parts = cut(clean(text), longest_run, longest_piece)
            counts.append(len(parts))
            for part in parts:
                pieces.append(part)
                size += len(part)
                if size >= BATCH_CHARACTERS:
                    arrays.extend(self._encode(pieces))
                    pieces, size = [], 0
        arrays.extend(self._encode(pieces))
        result = []
        at = 0
        for count in counts:
            result.append(arrays[at] if count == 1 else np.concatenate(arrays[at : at + count]))
            at += count
        return result

    def encode_column(self, column: pa.Array | pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
        """The ids of all texts of a string column, one after the other (uint16 or int32), and int64[rows + 1] offsets.

        The ids of row i are `tokens[offsets[i] : offsets[i + 1]]`, without an end token; nulls give none. Raises
        `TokenizerError` if the column holds anything but strings.
        """
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if not (pa.types.is_null(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise TokenizerError(f"a column of texts is of type {column.type}: expected string")
        offsets = np.zeros(len(column) + 1, np.int64)
        parts: list[np.ndarray] = []
        for start in range(0, len(column), COLUMN_ROWS):
            texts = [text or "" for text in column.slice(start, COLUMN_ROWS).to_pylist()]
            encoded = self.encode_batch(texts)
            offsets[start + 1 : start + 1 + len(texts)] = [len(ids) for ids in encoded]
            parts += encoded
        np.cumsum(offsets, out=offsets)
        return (np.concatenate(parts) if parts else np.zeros(0, self.dtype)), offsets

    def _encode(self, pieces: list[str]) -> list[np.ndarray]:
        encodings = self.tokenizer.encode_batch_fast(pieces, add_special_tokens=False)
        return [np.array(encoding.ids, dtype=self.dtype) for encoding in encodings]

    def decode(self, ids: np.ndarray | Sequence[int], skip_special: bool = False) -> str:
        """The text of ids; special tokens appear as they are written unless skipped, broken UTF-8 as U+FFFD."""
        text: str = self.tokenizer.decode(np.asarray(ids).tolist(), skip_special_tokens=skip_special)
        return text

    def pattern(self) -> str:
        """The pre-tokenizer as JSON, for reports."""
        content: dict[str, Any] = json.loads(self.tokenizer.to_str())
        return json.dumps(content["pre_tokenizer"], ensure_ascii=False)
