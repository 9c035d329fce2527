"""Hostile pages by the hundred thousand: `NUMBA_BOUNDSCHECK=1 python -m benchmarks.extraction.fuzz [--inputs N] [--seed N] [--gold DIR]`.

Tag soup, random bytes, and stretches of real pages with bytes changed. Every input goes through parser, blocks, model, text, Markdown,
formulas, metadata and signals. With NUMBA_BOUNDSCHECK=1 every access to an array is checked. Stops at the first exception or
at an input that takes a CPU second, and leaves it in a file.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path

from benchmarks.extraction.gold import read_set
from stages.extract.formulas import has_formulas, with_formulas
from stages.extract.gristmill import Extractor
from stages.extract.metadata import read_metadata
from stages.extract.page import Page
from stages.extract.signals import read_signals
from stages.extract.tags import NAMES
from stages.stage import ASSETS

TAGS = [name for name in NAMES if not name.startswith("#")]
ATTRIBUTES = (
    "", "", ' class="main-content x"', " href=x", ' style="display:none"', " a='b", "/", " class=language-py hidden", " aria-hidden=true",
    ' rel="canonical" href="//[x"', ' itemprop=author', ' name=author content="&#x41;"', ' type="application/ld+json"', " datetime=2020-01-01",
)  # fmt: skip
ODD = (
    "<!--",
    "-->",
    "<![CDATA[",
    "]]>",
    "<?xml",
    "<!",
    "</",
    "<",
    "&nbsp;",
    "&amp",
    "&#xD800;",
    "\x00",
    "\n\n",
    "  ",
    '"',
    "'",
    "=",
    "\ud800",
)
TEXTS = ("word", "Some words here, and more. ", "字符。", "نص؟ ", "x" * 200, "1 2 3", "\n", "é", "\U0001f600")
BYTES = b"<>/=\"'! -abpdivtlc&;\n\x00\xe3\x80\xff"
SLOW = 1.0  # CPU seconds


def soup(rng: random.Random) -> bytes:
    """Tags and texts without any order."""
    parts = []
    for _ in range(rng.randint(1, 80)):
        kind = rng.random()
        if kind < 0.35:
            parts.append(f"<{rng.choice(TAGS)}{rng.choice(ATTRIBUTES)}>")
        elif kind < 0.6:
            parts.append(f"</{rng.choice(TAGS)}>")
        else:
            parts.append(rng.choice(ODD if kind < 0.68 else TEXTS))
    return "".join(parts).encode("utf-8", "surrogatepass")


def damaged(rng: random.Random, pages: list[bytes]) -> bytes:
    """A stretch of a real page with up to 20 bytes changed."""
    page = rng.choice(pages)
    start = rng.randrange(len(page))
    part = bytearray(page[start : start + rng.randint(1, 4000)])
    for _ in range(rng.randint(0, 20)):
        part[rng.randrange(len(part))] = rng.randrange(256)
    return bytes(part)


def main() -> None:
    """Run until as many inputs have gone through."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--gold", type=Path, help="a gold set, whose pages are damaged")
    given = parser.parse_args()
    rng = random.Random(given.seed)
    pages = [page.html for page in read_set(given.gold) if page.html] if given.gold else []
    extractors = [
        Extractor(ASSETS / "extract" / "blocks.npz", comments=True, markdown=markdown) for markdown in (False, True)
    ]
    slowest = 0.0
    for number in range(given.inputs):
        kind = rng.random()
        if kind < 0.7 or (kind >= 0.85 and not pages):
            data = soup(rng)
        elif kind < 0.85:
            data = bytes(rng.choices(BYTES, k=rng.randint(0, 300)))
        else:
            data = damaged(rng, pages)
        started = time.process_time()
        try:
            page = Page(data.decode("utf-8", "replace"), data)
            if has_formulas(page.tree):
                with_formulas(page.text)
            metadata = read_metadata(page)
            texts = [extractor(page) for extractor in extractors]
            read_signals(page, metadata, texts[0])
            took = time.process_time() - started
            if number and took > SLOW:
                raise TimeoutError(f"{took:.1f} CPU seconds")
        except Exception:
            with tempfile.NamedTemporaryFile(suffix=".html", delete=False) as file:
                file.write(data)
            print(f"input {number} of seed {given.seed} is in {file.name}")
            raise
        slowest = max(slowest, took) if number else 0.0
    print(f"{given.inputs:,} inputs went through; the slowest took {slowest * 1000:.0f} CPU ms")


if __name__ == "__main__":
    main()
