"""Which tokens of a vocabulary text can reach, and which bytes they are."""

from __future__ import annotations

from typing import Any

import numpy as np

from tokenizer_training.efficiency.peers import Peer

# After Land and Bartolo 2024, "Fishing for Magikarp" (arXiv 2405.05417), section on unreachable and partial tokens.
CLASSES = ("OK", "SPECIAL", "UNDECODEABLE", "UNREACHABLE_MULTI", "UNREACHABLE_OTHER", "UNUSED_ID", "CONTINUES_WORD")
OK, SPECIAL, UNDECODEABLE, MULTI, OTHER, UNUSED, CONTINUES = range(len(CLASSES))
LONGEST_LISTED = 200


def is_whole(piece: bytes) -> bool:
    """Whether bytes are whole characters of UTF-8."""
    try:
        piece.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def partial_tokens(pieces: list[bytes]) -> np.ndarray:
    """bool[V]: tokens that are partial UTF-8; a single byte >= 0x80 always is."""
    return np.array([not is_whole(piece) for piece in pieces], np.bool_)


def reach_classes(peer: Peer) -> np.ndarray:
    """uint8[V] into CLASSES: what becomes of each token when it is decoded and encoded again, by itself."""
    classes = np.full(peer.vocab_size, OK, np.uint8)
    classes[sorted(peer.continuing)] = CONTINUES
    partial = partial_tokens(peer.pieces)
    classes[partial] = UNDECODEABLE
    for number, piece in enumerate(peer.pieces):
        if not piece:
            classes[number] = SPECIAL if number in peer.specials else UNUSED
    tested = np.flatnonzero(classes == OK)
    tokens, offsets = peer.encode_batch([peer.pieces[i].decode("utf-8") for i in tested.tolist()])
    counts = np.diff(offsets)
    classes[tested[counts > 1]] = MULTI
    one = counts == 1
    same = np.zeros(len(tested), np.bool_)
    same[one] = tokens[offsets[:-1][one]] == tested[one]
    classes[tested[(counts <= 1) & ~same]] = OTHER
    return classes


def shown(piece: bytes) -> str:
    """A token as text that can be printed: control and invisible characters as escapes, broken UTF-8 as bytes."""
    if not is_whole(piece):
        return "".join(f"\\x{byte:02x}" for byte in piece)
    text = piece.decode("utf-8")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def vocabulary_health(peer: Peer, counts: np.ndarray, dead_below: int) -> dict[str, Any]:
    """Classes of reach, and lists of tokens worth a look; `counts` int64[V] how often each was seen."""
    classes = reach_classes(peer)
    listed = {}
    for code in (MULTI, OTHER):
        numbers = np.flatnonzero(classes == code)[:LONGEST_LISTED].tolist()
        listed[CLASSES[code]] = [{"id": i, "token": shown(peer.pieces[i])} for i in numbers]
    rare = np.flatnonzero((counts < dead_below) & (classes != SPECIAL) & (classes != UNUSED))
    rare = rare[np.argsort(counts[rare], kind="stable")]
    lengths = np.bincount(peer.lengths[peer.lengths > 0], minlength=1)
    return {
        "classes": {name: int((classes == code).sum()) for code, name in enumerate(CLASSES)},
        "unreachable": listed,
        "undertrained_below": dead_below,
        "undertrained": len(rare),
        "undertrained_first": [
            {"id": i, "token": shown(peer.pieces[i]), "seen": int(counts[i])} for i in rare[:LONGEST_LISTED].tolist()
        ],
        "token_lengths": {str(size): int(n) for size, n in enumerate(lengths.tolist()) if n},
    }
