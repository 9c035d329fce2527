"""ARPA files: the text format of n-gram models that KenLM, SRILM and we read and write."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from stages.ngram.model import BEGIN, END, UNKNOWN, Floats, Ints, Model, find


def write_arpa(model: Model, path: Path) -> None:
    """Write a model; compressed if the name ends in .gz (without a time in it: equal models give equal bytes)."""
    names = list(model.words)
    with path.open("wb") as raw:
        packed = gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) if path.suffix == ".gz" else raw
        lines = _lines(model, names)
        while block := "".join(line for _, line in zip(range(100_000), lines, strict=False)):
            packed.write(block.encode())
        if packed is not raw:
            packed.close()


def _lines(model: Model, names: list[str]) -> Iterator[str]:
    yield "\\data\\\n"
    for order, keys in enumerate(model.keys, start=1):
        yield f"ngram {order}={len(keys)}\n"
    grams = names
    for order, keys in enumerate(model.keys, start=1):
        yield f"\n\\{order}-grams:\n"
        if order > 1:
            contexts, last = np.divmod(keys, len(names))
            grams = [
                f"{grams[context]} {names[word]}"
                for context, word in zip(contexts.tolist(), last.tolist(), strict=True)
            ]
        longest = order == model.order
        for value, gram, weight in zip(
            model.probability[order - 1].tolist(), grams, model.backoff[order - 1].tolist(), strict=True
        ):
            yield f"{value:.7g}\t{gram}\n" if longest else f"{value:.7g}\t{gram}\t{weight:.7g}\n"
    yield "\n\\end\\\n"


def read_arpa(path: Path) -> Model:
    """The model in an ARPA file, plain or gzipped.

    Raises `ValueError` saying what is wrong: another format, an end too early, an n-gram without its own beginning.
    """
    with path.open("rb") as raw:
        start = raw.read(2)
    try:
        if start == b"\x1f\x8b":
            with gzip.open(path, "rt", encoding="utf-8", newline="\n") as file:
                return _read(file)
        with path.open(encoding="utf-8", newline="\n") as plain:
            return _read(plain)
    except UnicodeDecodeError as error:
        raise ValueError("it is no ARPA file (not UTF-8 text; KenLM's binary files are not read)") from error
    except (EOFError, OSError) as error:
        raise ValueError(f"it cannot be read: {error}") from error


def _read(file: IO[str]) -> Model:
    sizes = _header(file)
    words = {UNKNOWN: 0, BEGIN: 1, END: 2}
    keys: list[Ints] = []
    logs: list[Floats] = []
    backoff: list[Floats] = []
    for order, size in enumerate(sizes, start=1):
        line = _next(file)
        if line != f"\\{order}-grams:":
            raise ValueError(f"expected \\{order}-grams:, got {line[:40]!r}")
        values, weights = np.zeros(size), np.zeros(size)
        ids = np.zeros((size, order), dtype=np.int64)
        for row in range(size):
            fields = file.readline().split()
            if len(fields) not in (order + 1, order + 2):
                raise ValueError(
                    f"the {order}-gram {row + 1} of {size} has {len(fields)} fields: {' '.join(fields)[:40]!r}"
                )
            try:
                values[row] = float(fields[0])
                weights[row] = float(fields[order + 1]) if len(fields) > order + 1 else 0.0
            except ValueError:
                raise ValueError(f"the {order}-gram {row + 1} of {size} has no number where one is due") from None
            for place, word in enumerate(fields[1 : order + 1]):
                number = words.setdefault(word, len(words)) if order == 1 else words.get(word, -1)
                if number < 0:
                    raise ValueError(f"the {order}-gram {row + 1} has the word {word!r}, which is no unigram")
                ids[row, place] = number
        if order == 1:
            values, weights = _unigrams(words, ids, values, weights)
            keys.append(np.arange(len(words), dtype=np.int64))
        else:
            rows = ids[:, 0]
            for place in range(1, order - 1):
                rows = np.where(rows >= 0, find(keys[place], rows * len(words) + ids[:, place]), -1)
            if (rows < 0).any():
                raise ValueError(
                    f"the {order}-gram {int(np.argmax(rows < 0)) + 1} begins with words that are no {order - 1}-gram"
                )
            key = rows * len(words) + ids[:, -1]
            sorting = np.argsort(key, kind="stable")
            keys.append(key[sorting])
            values, weights = values[sorting], weights[sorting]
        logs.append(values)
        backoff.append(weights)
    if _next(file) != "\\end\\":
        raise ValueError("it ends too early")
    return Model(words, tuple(keys), tuple(logs), tuple(backoff))


def _unigrams(words: dict[str, int], ids: Ints, values: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Values and weights by word id; special words that the file lacks are as unlikely as its least likely one."""
    by_id, backoff = np.full(len(words), min(values.min(initial=0.0), -7.0)), np.zeros(len(words))
    by_id[ids[:, 0]], backoff[ids[:, 0]] = values, weights
    return by_id, backoff


def _header(file: IO[str]) -> list[int]:
    """The number of n-grams of each order."""
    if _next(file) != "\\data\\":
        raise ValueError("it is no ARPA file (which begins with \\data\\; KenLM's binary files are not read)")
    sizes: list[int] = []
    for line in iter(lambda: file.readline().strip(), ""):
        name, _, number = line.partition("=")
        if name.split() != ["ngram", str(len(sizes) + 1)] or not number.strip().isdecimal():
            raise ValueError(f"expected `ngram {len(sizes) + 1}=COUNT`, got {line[:40]!r}")
        sizes.append(int(number))
    if not sizes or not all(sizes):
        raise ValueError("it has no n-grams")
    return sizes


def _next(file: IO[str]) -> str:
    """The next line that is not blank; empty at the end."""
    for line in file:
        if line.strip():
            return line.strip()
    return ""
