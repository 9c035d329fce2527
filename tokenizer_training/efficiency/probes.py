"""Short texts whose splits show a tokenizer's habits, side by side."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from tokenizer_training.efficiency.peers import Peer
from tokenizer_training.efficiency.reach import is_whole, shown

PROBES: dict[str, list[str]] = {
    "digits": [f" {'1234567890123'[:n]}" for n in range(1, 13)],
    "numbers": [" 3.14159", " 1,000,000", " -42", " 6.02e23", " ½", " ١٢٣٤"],
    "dates": [" 2024-02-29", " 29/02/2024", " 2024-02-29T23:59:59Z", " Feb. 29, 2024", " 10:45 pm"],
    "hexadecimal": [" 0x7fffffff", " deadbeef", " #ff8800", " 550e8400-e29b-41d4-a716-446655440000"],
    "indentation": [" " * n + "x" for n in range(17)] + ["\t" * n + "x" for n in range(1, 5)],
    "line ends": ["a\nb", "a\r\nb", "a\n\nb", "a\r\n\r\nb", "a\n\n\n\nb", "a  \nb"],
    "URLs": [" https://example.org/a/b?q=1&lang=en#top", " user@example.org", " /usr/local/lib/python3.11"],
    "LaTeX": [r" \frac{a_1}{\sqrt{x^2+1}}", r" $\alpha \leq \beta$", r" \begin{equation}"],
    "emoji": [" 😀", " 👩‍👩‍👧‍👦", " 🏳️‍🌈", " 👍🏽", " 🇺🇳"],
    "case": [" camelCaseName", " PascalCaseName", " snake_case_name", " kebab-case-name", " UPPER_CASE", " iPhone", " HELLO hello Hello"],
    "contractions": [" don't", " DON'T", " we'll", " l’été"],
    "punctuation": [" ...", " !?!?", " -----", " ====", " });", ' {"a": [1, 2]}'],
    "scripts": [" naïve café", " Straße", " нейросеть", " 人工智能", " 人工知能です", " 인공지능", " الذكاء", " कृत्रिम", " ปัญญา"],
}  # fmt: skip

# The sentence of the coloured strips: some of everything.
STRIPS = (
    "The tokenizer's 2nd test: costs rose 12.5% to €1,234,567 in 2024.",
    "def f(x):\n    return x ** 2  # squared",
    "Die Donaudampfschifffahrt war schön. Все люди рождаются свободными. 人人生而自由，在尊严和权利上一律平等。",
    "すべての人間は、生まれながらにして自由である。 सभी मनुष्यों को गौरव और अधिकारों के मामले में 😀👩‍👩‍👧‍👦",
)


def split(peer: Peer, texts: list[str]) -> list[list[int]]:
    """The ids of each text."""
    tokens, offsets = peer.encode_batch(texts)
    return [tokens[a:b].tolist() for a, b in pairwise(offsets)]


def measure_probes(peer: Peer) -> dict[str, list[dict[str, Any]]]:
    """For each kind of probe the texts with their tokens as printable strings."""
    flat = [text for texts in PROBES.values() for text in texts]
    found = iter(split(peer, flat))
    return {
        kind: [{"text": text, "tokens": [shown(peer.pieces[i]) for i in next(found)]} for text in texts]
        for kind, texts in PROBES.items()
    }


def spans(peer: Peer, ids: list[int]) -> list[tuple[str, int]]:
    """Text as readers see it, and how many tokens it is: tokens that end inside a character are joined to the next."""
    found: list[tuple[str, int]] = []
    waiting, count = b"", 0
    for number in ids:
        waiting += peer.pieces[number]
        count += 1
        if is_whole(waiting):
            found.append((waiting.decode("utf-8"), count))
            waiting, count = b"", 0
    if count:
        found.append((waiting.decode("utf-8", "replace"), count))
    return found


def measure_strips(peer: Peer) -> list[dict[str, Any]]:
    """The sentences of the strips: spans of text with the number of tokens in each."""
    return [
        {"text": text, "tokens": len(ids), "spans": [list(span) for span in spans(peer, ids)]}
        for text, ids in zip(STRIPS, split(peer, list(STRIPS)), strict=True)
    ]
