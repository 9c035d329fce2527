"""Which tokens end a sentence or a line: a table by token id, so that packing can cut there without decoding.

A token ends a line or sentence for sure if its bytes end with a line feed or a full stop of scripts written without spaces;
it may end one if they end with a stop, a question or an exclamation mark (closing quotes and brackets behind it aside), which
holds where the next token starts with white space. So "3.14" and "e.g.," are left alone; an abbreviation before a space is not.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tokenizers import Tokenizer

from tokenizer_training.dataset.bins import ENDS, MAY_END, STARTS, TURN
from tokenizer_training.vocabulary.byte_level import CHARACTER_OF_BYTE

LINE_ENDS = "\n\r\u2028\u2029"
FULL_STOPS = "。！？｡．‼⁇⁈⁉།༎။።፧၊"  # no space follows these
STOPS = ".!?…‽؟۔।॥։។"
CLOSING = "\"')]}»”’›」』】》）"
SPACES = " \t\u00a0\u3000" + LINE_ENDS


def vocabulary_bytes(tokenizer: Tokenizer, vocab_size: int) -> list[bytes]:
    """The UTF-8 bytes of each token of a byte-level vocabulary (of others: of its spelling); none of special tokens."""
    to_bytes = str.maketrans({character: chr(byte) for byte, character in enumerate(CHARACTER_OF_BYTE)})
    special = {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    found = [b""] * vocab_size
    for token, number in tokenizer.get_vocab(with_added_tokens=True).items():
        if number not in special:
            try:
                found[number] = token.translate(to_bytes).encode("latin-1")
            except UnicodeEncodeError:  # a spelling with characters that stand for no byte
                found[number] = token.replace("\u2581", " ").encode("utf-8", "replace")
    return found


def token_flags(tokens: Sequence[bytes], turns: Sequence[int] = ()) -> str:
    """One hexadecimal digit for each token: ENDS | MAY_END | STARTS | TURN. `turns`: ids that begin a turn of the user.

    A mark cut by a token's edge is not seen.
    """
    digits = []
    line_ends = tuple(LINE_ENDS)
    for number, raw in enumerate(tokens):
        if raw.isalnum() and number not in turns:
            digits.append("0")
            continue
        text = raw.decode("utf-8", "replace")
        spaceless = text.rstrip(" \t")
        bare = spaceless.rstrip(CLOSING)
        flags = 0
        if text.endswith(line_ends) or (bare and bare[-1] in FULL_STOPS):
            flags |= ENDS
        elif bare and bare[-1] in STOPS:
            flags |= ENDS if len(spaceless) < len(text) else MAY_END
        if text[:1] and text[0] in SPACES:
            flags |= STARTS
        if number in turns:
            flags |= TURN | STARTS
        digits.append(f"{flags:x}")
    return "".join(digits)


def flags_of(digits: str) -> np.ndarray:
    """The table (uint8, by token id) as written by `token_flags`."""
    return np.array([int(digit, 16) for digit in digits], np.uint8)
