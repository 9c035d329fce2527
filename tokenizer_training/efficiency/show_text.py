"""A text as one or several tokenizers cut it: coloured text, ids and bytes, share of a context, price."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from tokenizer_training.efficiency.peers import Peer
from tokenizer_training.efficiency.probes import spans
from tokenizer_training.efficiency.reach import shown
from tokenizer_training.efficiency.report import visible

BACKGROUNDS = (153, 223, 151, 183)  # of the 256 colours of terminals, behind black letters


def read_text(given: str) -> tuple[str, str]:
    """The text of a file, or the argument itself, and what it is in words."""
    try:
        is_file = given != "" and Path(given).is_file()
    except (OSError, ValueError):  # too long for a name, or a NUL in it
        is_file = False
    if not is_file:
        return given, "text"
    raw = Path(given).read_bytes()
    text = raw.decode("utf-8", "replace")
    note = "" if text.encode("utf-8") == raw else " (not UTF-8: what is broken is U+FFFD)"
    return text, f"{given}{note}"


def coloured(peer: Peer, ids: Sequence[int], color: bool) -> str:
    """The text of ids: tokens by background colours in turn, or with a bar between where there is no colour.

    Control characters are written as escapes, so that no text can steer a terminal.
    """
    found = []
    for at, (text, count) in enumerate(spans(peer, list(ids))):
        marked = visible(text) + (f"\u2039{count}\u203a" if count > 1 else "")
        if color:
            start = f"\x1b[30;48;5;{BACKGROUNDS[at % len(BACKGROUNDS)]}m"
            marked = "\n".join(f"{start}{part}\x1b[0m" if part else "" for part in marked.split("\n"))
        found.append(marked)
    return ("" if color else "|").join(found)


def show_text(
    given: str, peers: Sequence[Peer], *, context: int, price: float | None, most: int, color: bool
) -> Iterator[str]:
    """Lines for each tokenizer: figures, the text in colours, and a table of ids and bytes of its first `most` tokens.

    `context` in tokens; `price` for a million tokens, in any currency.
    """
    text, what = read_text(given)
    size = len(text.encode("utf-8", "surrogatepass"))
    yield f"{what}: {size:,} bytes, {len(text):,} characters"
    for peer in peers:
        ids = peer.encode(text)
        line = f"{len(ids):,} tokens"
        if ids:
            line += f", {size / len(ids):.2f} bytes per token"
        line += f", {100 * len(ids) / context:.3g} % of a context of {context:,}"
        if price is not None:
            line += f", {len(ids) * price / 1e6:.6g} at {price:g} per million tokens"
        yield ""
        yield f"{peer.name} ({peer.vocab_size:,}): {line}"
        if len(ids) > most:
            yield f"the first {most:,} tokens:"
        if ids[:most]:
            yield coloured(peer, ids[:most], color)
            yield f"{'token':>6} {'id':>8}  bytes"
        for at, number in enumerate(ids[:most]):
            yield f"{at:>6} {number:>8}  {peer.pieces[number].hex(' '):<24} {shown(peer.pieces[number])}"
