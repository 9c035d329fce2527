"""Canaries as a file names them: secrets that were inserted into the data, and what else they might have been.

A line of JSONL has `template` (a text with `{}` where the secret stands), `secret`, and its space: `alphabet` (each
character of the secret is one of these) or `candidates` (a list of whole secrets). `repeat` says how often it was
inserted; `text`, the whole canary, makes the same file an input of the pipeline.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from training.evaluation.texts import json_lines
from training.knobs import TrainingError


class Canary(NamedTuple):
    """A secret, the text around it, and the space that it was drawn from."""

    template: str
    secret: str
    alphabet: str | None
    candidates: tuple[str, ...]
    repeat: int | None

    @property
    def space(self) -> int:
        """How many secrets there are."""
        return len(self.candidates) if self.alphabet is None else len(self.alphabet) ** len(self.secret)

    def alternatives(self, count: int, seed: int) -> list[str]:
        """All other secrets where there are at most `count`, else so many drawn at random, with replacement."""
        if self.alphabet is None:
            others = [one for one in self.candidates if one != self.secret]
        elif self.space <= count + 1:
            product = itertools.product(self.alphabet, repeat=len(self.secret))
            others = [text for text in ("".join(letters) for letters in product) if text != self.secret]
        else:
            draw = Random(f"{seed}:{self.template}:{self.secret}")
            others = []
            while len(others) < count:
                text = "".join(draw.choices(self.alphabet, k=len(self.secret)))
                if text != self.secret:
                    others.append(text)
            return others
        if len(others) <= count:
            return others
        return Random(f"{seed}:{self.template}:{self.secret}").choices(others, k=count)


def read_canaries(path: Path) -> list[Canary]:
    """The canaries of a file. Raises `TrainingError` that names file, line and key."""
    try:
        found = [_canary(row, where) for where, row in json_lines(path)]
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingError(f"evaluate.canaries: cannot read {path}: {error}") from None
    if not found:
        raise TrainingError(f"evaluate.canaries: {path} holds no canary")
    return found


def _canary(row: dict[str, Any], where: str) -> Canary:
    def refuse(what: str) -> TrainingError:
        return TrainingError(f"{where}: {what}")

    template, secret, repeat = row.get("template"), row.get("secret"), row.get("repeat")
    alphabet, candidates = row.get("alphabet"), row.get("candidates")
    if not isinstance(template, str) or template.count("{}") != 1:
        raise refuse("template must be a text with {} once, where the secret stands")
    if not isinstance(secret, str) or not secret:
        raise refuse("secret must be a text")
    if (alphabet is None) == (candidates is None):
        raise refuse("give either alphabet or candidates: what else the secret might have been")
    if alphabet is not None and (
        not isinstance(alphabet, str) or len(set(alphabet)) < max(2, len(alphabet)) or not set(secret) <= set(alphabet)
    ):
        raise refuse("alphabet must be a text of different characters that holds those of the secret")
    if candidates is not None and (
        not isinstance(candidates, list)
        or not all(isinstance(one, str) and one for one in candidates)
        or secret not in candidates
        or len(set(candidates)) < max(2, len(candidates))
    ):
        raise refuse("candidates must be a list of different texts, the secret among them")
    if repeat is not None and (isinstance(repeat, bool) or not isinstance(repeat, int) or repeat < 0):
        raise refuse("repeat must be a whole number")
    text = row.get("text")
    if text is not None and text != template.replace("{}", secret):
        raise refuse("text is not the template with the secret in it; leave it out or mend it")
    return Canary(template, secret, alphabet, tuple(candidates or ()), repeat)
