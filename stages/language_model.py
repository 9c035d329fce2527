"""A fastText language identifier: loading its file, and the best label of a text that fits the script it is written in."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from stages.fasttext_file import check_fasttext
from stages.language_names import names_of, scripts_of
from stages.language_second import SecondOpinion, combined
from stages.scripts import script_shares
from stages.stage import StageError

_PREFIX = "__label__"

# A label whose scripts hold a smaller share of the letters is passed over. Few characters of its own script are enough for a
# label (Japanese between program code); on the development gold set 0.01 to 0.25 give the same labels but for a few.
_VETO = 0.1

_UNSURE = 0.9  # a first model's probability below which the second is asked

_LONGEST_COMPOSED = 10_000  # characters; composing takes time quadratic in a run of combining marks


class Guess(NamedTuple):
    """A label, its probability (0 to 1), and the share of letters of each script in the text, largest first."""

    label: str
    score: float
    scripts: dict[str, float]


class Identifier:
    """Labels texts with a fastText model; equal texts get equal labels, whatever was asked before."""

    def __init__(
        self,
        predict: Callable[..., list[tuple[float, str]]],
        labels: Sequence[str],
        lower_case: bool = True,
        second: SecondOpinion | None = None,
    ) -> None:
        self.names = names_of(labels)
        self._scripts = {label: scripts_of(name) for label, name in self.names.items()}
        self._predict = predict  # (line, most labels, least probability, what to do with bad UTF-8)
        self._lower_case = lower_case
        self._second = second
        self._codes = {label: name.code if name else None for label, name in self.names.items()}

    def best(self, text: str) -> Guess:
        """The most likely label among those written in the text's scripts.

        The probability is the model's own; where its first choice is not written in the text's script, it is taken
        among the labels that are; with a second opinion, where the model is not sure, both models'. Empty texts get what
        the model gives them.
        """
        shares = script_shares(text)
        line = prepared(text, self._lower_case)
        found = self._predict(line, 1, 0.0, "strict")
        if not found:
            return Guess("und", 0.0, shares)
        score, label = found[0][0], found[0][1].removeprefix(_PREFIX)
        unsure = self._second is not None and score < _UNSURE
        if unsure or not self.fits(label, shares):
            ranked = self._predict(line, len(self.names), 0.0, "strict")
            likely = {name.removeprefix(_PREFIX): probability for probability, name in ranked}
            fitting = {name: probability for name, probability in likely.items() if self.fits(name, shares)}
            if fitting:  # otherwise the model has no label for this script, and its first choice stands
                whole = sum(fitting.values())
                label = next(iter(fitting))
                score = fitting[label] / whole if whole > 0 else 0.0
            if self._second is not None and score < _UNSURE:
                label, score = combined(fitting or likely, self._codes, self._second.probabilities(line))
        return Guess(label, min(1.0, max(0.0, float(score))), shares)

    def share(self, label: str, shares: dict[str, float]) -> float | None:
        """How much of the letters is in a label's scripts; None where there are no letters or its scripts are not known."""
        scripts = self._scripts.get(label)
        return sum(shares.get(script, 0.0) for script in scripts) if scripts and shares else None

    def fits(self, label: str, shares: dict[str, float]) -> bool:
        """Whether a text with these scripts can be in a label's language."""
        share = self.share(label, shares)
        return share is None or share >= _VETO


def prepared(text: str, lower_case: bool) -> str:
    """The line that the model reads: composed (NFC), Ethiopic word spaces as spaces, and for most models in lower case."""
    if lower_case:
        text = text.lower()
    if not text.isascii():
        text = text.encode("utf-8", "replace").decode("utf-8").replace("\u1361", " ")
        if len(text) <= _LONGEST_COMPOSED and not unicodedata.is_normalized("NFC", text):
            text = unicodedata.normalize("NFC", text)
    return text.replace("\n", " ") + "\n"


def spread(text: str, characters: int) -> str:
    """A third of the characters each from a text's beginning, middle and end; a text that is not longer as it is."""
    if len(text) <= characters:
        return text
    third = max(1, characters // 3)
    middle = (len(text) - third) // 2
    return f"{text[:third]} {text[middle : middle + third]} {text[-third:]}"


def load(path: Path, lower_case: bool = True, second: SecondOpinion | None = None) -> Identifier:
    """The identifier in a `.bin` or `.ftz` file, with a second opinion if one is given. Raises `StageError` for a missing, broken or unfit one."""
    if not path.is_file():
        raise StageError(
            f"language: no model file at {path}; give `model` the path of a fastText model, or leave it out"
        )
    try:
        check_fasttext(path)
    except ValueError as error:
        raise StageError(f"language: the model {path} cannot be used: {error}; replace the file") from error
    import fasttext

    # `load_model` of older releases warns on stderr; the class behind it does the same in silence
    model = fasttext.FastText._FastText(model_path=str(path))
    if not model.f.getLabels("strict")[0]:
        raise StageError(f"language: the model {path} has no labels (word vectors?); give `model` a classifier's file")
    labels = [label.removeprefix(_PREFIX) for label in model.get_labels()]
    # the C++ object: the Python wrapper's copies are not needed, and older ones break with numpy 2
    return Identifier(model.f.predict, labels, lower_case, second)
