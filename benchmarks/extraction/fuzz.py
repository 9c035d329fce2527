"""Hostile pages by the hundred thousand, through every method of `extract`.

    NUMBA_BOUNDSCHECK=1 python -m benchmarks.extraction.fuzz [--inputs N] [--seed N] [--gold DIR] [--methods NAME ...]

Tag soup, random bytes, and stretches of real pages with bytes changed, each read as the stage reads a page: charset, parser,
formulas, metadata, the method, signals; gristmill's text and Markdown both. With NUMBA_BOUNDSCHECK=1 every access to an array of ours is
checked. Each method runs in a process of its own: a process that dies, or an input that takes `LIMIT` CPU seconds, costs
that input, as in a run. For gristmill any exception, death or slow input makes the exit code 1, and the input is left in a file.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.extraction.gold import read_set
from stages.extract.extract import Extract, ExtractConfig
from stages.extract.reading import Reader
from stages.extract.tags import NAMES

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
SLOW = 1.0  # CPU seconds: such inputs are named
LIMIT = 60  # CPU seconds: there the engine ends a record
METHODS = ("gristmill", "trafilatura", "resiliparse", "justext")


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


def page_of(seed: int, number: int, pages: list[bytes]) -> bytes:
    """The input of that number."""
    rng = random.Random(f"{seed}:{number}")
    kind = rng.random()
    if kind < 0.7 or (kind >= 0.85 and not pages):
        return soup(rng)
    return bytes(rng.choices(BYTES, k=rng.randint(0, 300))) if kind < 0.85 else damaged(rng, pages)


@dataclass
class Result:
    """What became of the inputs of one method."""

    errors: Counter[str] = field(default_factory=Counter)
    slow: list[int] = field(default_factory=list)
    deaths: list[int] = field(default_factory=list)
    bad: list[int] = field(default_factory=list)  # the first of each kind
    slowest: float = 0.0
    texts: int = 0


def readers(method: str) -> list[Reader]:
    """The method as the stage has it, and as Markdown too if it has that."""
    formats = ("text", "markdown") if method in ("gristmill", "trafilatura") else ("text",)
    configs = [ExtractConfig.model_validate({"method": method, "format": format}) for format in formats]
    return [Reader(config, {name: Path(path) for name, path in Extract(config).assets().items()}) for config in configs]


def work(method: str, seed: int, first: int, end: int, pages: list[bytes], out: Connection) -> None:
    """Read the inputs; (number, CPU seconds, error, characters) of each goes into `out`."""
    ready = readers(method)
    for reader in ready:
        reader.try_out("<p>What is loaded or compiled at the first page is not the page's time.</p>")
    for number in range(first, end):
        data = page_of(seed, number, pages)
        started = time.process_time()
        resource.setrlimit(resource.RLIMIT_CPU, (int(started) + LIMIT, resource.RLIM_INFINITY))
        rows = [reader.read(data, None, None) for reader in ready]
        took = time.process_time() - started
        error = next((row["extract_error"] for row in rows if "extract_error" in row), None)
        out.send((number, took, error, len(rows[0].get("text", ""))))


def fuzz(method: str, seed: int, inputs: int, pages: list[bytes]) -> Result:
    """Put every input through the method, in a process that is started again where it dies."""
    result = Result()
    context = multiprocessing.get_context("fork")
    done = 0
    while done < inputs:
        receiving, sending = context.Pipe(duplex=False)
        process = context.Process(target=work, args=(method, seed, done, inputs, pages, sending))
        process.start()
        sending.close()
        try:
            while done < inputs:
                number, took, error, characters = receiving.recv()
                done = number + 1
                result.slowest = max(result.slowest, took)
                result.texts += characters > 0
                if took > SLOW:
                    result.slow.append(number)
                if error:
                    if error not in result.errors:
                        result.bad.append(number)
                    result.errors[error] += 1
        except EOFError:
            process.join()
            if process.exitcode and process.exitcode > 0:
                raise SystemExit(f"{method}: the worker ended with a Python error at input {done}") from None
            result.deaths.append(done)
            done += 1
        process.join()
    return result


def main() -> None:
    """Run and print a line for each method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--gold", type=Path, help="a gold set, whose pages are damaged")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    given = parser.parse_args()
    pages = [page.html for page in read_set(given.gold) if page.html] if given.gold else []
    failed = False
    for method in given.methods:
        result = fuzz(method, given.seed, given.inputs, pages)
        errors = ", ".join(f"{name} {count}" for name, count in result.errors.most_common()) or "none"
        print(
            f"{method}: {given.inputs:,} inputs, {result.texts:,} with text; exceptions: {errors}; deaths: {len(result.deaths)};"
            f" over {SLOW:.0f} CPU second: {len(result.slow)}; slowest {result.slowest * 1000:.0f} CPU ms",
            flush=True,
        )
        for number in sorted({*result.bad, *result.slow[:5], *result.deaths[:5]}):
            with tempfile.NamedTemporaryFile(suffix=f"-{number}.html", delete=False) as file:
                file.write(page_of(given.seed, number, pages))
            print(f"  input {number} of seed {given.seed}: {file.name}", flush=True)
        failed |= method == "gristmill" and bool(result.errors or result.deaths or result.slow)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
