"""A conversation for people: its text with the trained tokens coloured, its ids, its counts; for a terminal or as a page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import NamedTuple

from tokenizers import Tokenizer

from training.chat.format import Encoded

COLOUR, PLAIN = "\x1b[1;32m", "\x1b[0m"
MARKS = ("⟦", "⟧")  # around trained text where there is no colour


class Shown(NamedTuple):
    """A conversation to show: a title, and its tokens."""

    title: str
    encoded: Encoded


def stretches(encoded: Encoded, tokenizer: Tokenizer) -> list[tuple[bool, str]]:
    """(trained, text) of each stretch of tokens that are alike in that."""
    pairs = zip(encoded.trained, encoded.ids, strict=True)
    return [
        (trained, tokenizer.decode([token for _, token in group], skip_special_tokens=False))
        for trained, group in groupby(pairs, key=lambda pair: pair[0])
    ]


def counts(encoded: Encoded) -> str:
    """How much of it is trained."""
    trained, size = sum(encoded.trained), len(encoded.ids)
    return f"{size:,} tokens, {trained:,} trained ({trained / max(1, size):.1%})"


def as_text(shown: Shown, tokenizer: Tokenizer, colour: bool, ids: bool) -> str:
    """For a terminal: trained stretches in green, or between ⟦ and ⟧; `ids`: below it each token, its id, and whether it is trained."""
    before, after = (COLOUR, PLAIN) if colour else MARKS
    text = "".join(
        f"{before}{visible(part)}{after}" if trained else visible(part)
        for trained, part in stretches(shown.encoded, tokenizer)
    )
    lines = [f"{shown.title}: {counts(shown.encoded)}", text]
    if ids:
        for number, (token, trained) in enumerate(zip(*shown.encoded, strict=True)):
            piece = tokenizer.decode([token], skip_special_tokens=False)
            mark = f"{before}trained{after if colour else ''}" if colour and trained else "trained" if trained else "-"
            lines.append(f"{number:>6} {token:>7}  {visible(repr(piece))}  {mark}")
    return "\n".join(lines)


def visible(text: str) -> str:
    """Without characters that would steer a terminal: C0 and C1 controls but line feed and tab become pictures or U+FFFD."""
    return "".join(
        chr(0x2400 + ord(one)) if one < " " and one not in "\n\t" else "\ufffd" if "\x7f" <= one <= "\x9f" else one
        for one in text
    )


def as_page(all_shown: Iterable[Shown], tokenizer: Tokenizer) -> str:
    """One HTML file that loads nothing: each token with its id in its title, trained ones coloured."""
    from jinja2 import Environment

    conversations = [
        {"title": one.title, "counts": counts(one.encoded), "tokens": _tokens(one.encoded, tokenizer)}
        for one in all_shown
    ]
    return Environment(autoescape=True).from_string(_PAGE).render(conversations=conversations)


def _tokens(encoded: Encoded, tokenizer: Tokenizer) -> Sequence[tuple[str, str, bool]]:
    """(text, ids, trained); tokens that share a character go together."""
    found: list[tuple[str, str, bool]] = []
    waiting: list[int] = []
    for number, (token, trained) in enumerate(zip(*encoded, strict=True)):
        waiting.append(token)
        text = tokenizer.decode(waiting, skip_special_tokens=False)
        last = number + 1 == len(encoded.ids) or encoded.trained[number + 1] != trained
        if last or not text.endswith("\ufffd"):
            found.append((text, " ".join(map(str, waiting)), trained))
            waiting = []
    return found


_PAGE = """\
<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Conversations as tokens</title>
<style>
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --ink: #1b2130; --soft: #5b6475; --line: #e1e5ec; --on: #bbf7d0; }
@media (prefers-color-scheme: dark) {
  :root { --page: #11151c; --card: #181e28; --ink: #e6eaf2; --soft: #9aa5b8; --line: #2a3342; --on: #14532d; }
}
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.6 system-ui, "Noto Sans", sans-serif; }
main { max-width: 980px; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h2 { font-size: 1rem; margin: 0; } p { color: var(--soft); margin: .1rem 0 .7rem; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 1rem 1.2rem; margin: 1rem 0; }
pre { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; font: 13.5px/1.8 ui-monospace, monospace; }
span { border-bottom: 1px solid var(--line); margin-right: 1px; } .on { background: var(--on); border-radius: 3px; }
</style>
<main>
<p>Trained tokens are <span class="on">coloured</span>; point at a token for its id.</p>
{% for one in conversations %}<section><h2>{{ one.title }}</h2><p>{{ one.counts }}</p><pre>
{%- for text, ids, trained in one.tokens %}<span title="{{ ids }}"{% if trained %} class="on"{% endif %}>{{ text }}</span>{% endfor %}</pre></section>
{% endfor %}</main></html>
"""
