"""A second opinion on a text's language: py3langid, where the first model is not sure.

py3langid (naive Bayes over byte n-grams, 140 languages, taught on other text than lid.176) is right on other texts than a fastText
model; `combined` weighs both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from stages.language_names import names_of

# The share that py3langid would give a language it does not know, and what either model may be wrong about a language it gives
# nothing; weights and constants were chosen on 12,000 rows of the development gold set (docs/languages.md).
_UNKNOWN = 0.05
_DOUBT = 1e-6

_NOT_LANGUAGE = "zxx"  # its label for numbers, codes and symbols


class SecondOpinion:
    """py3langid's probabilities by ISO 639-3 code.

    The sum over n-grams is ours, in double precision and in a fixed order: matrix products in single precision differ from
    processor to processor, and output may not.
    """

    def __init__(self) -> None:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier, visit_counts

        self._model = model = LanguageIdentifier.from_model_file(MODEL_FILE)
        self._visits = visit_counts
        self._rows = [row << 8 for row in model.tk_row]
        names = names_of(list(dict.fromkeys(model.nb_classes)))
        self._codes = [name.code if (name := names[label]) else label for label in model.nb_classes]

    @property
    def languages(self) -> frozenset[str]:
        """The codes of all languages it knows."""
        return frozenset(self._codes)

    def probabilities(self, text: str) -> dict[str, float]:
        """Each language's probability; no n-gram that it knows: an empty dictionary."""
        read = text.encode("utf-8", "replace")
        model = self._model
        visits = self._visits(model.tk_nextmove, self._rows, model.tk_output, read)
        if not visits:
            return {}
        places = sorted(visits)
        weights = np.array([math.log1p(visits[place]) for place in places])
        scores = np.add.reduce(weights[:, None] * model.nb_ptc[places].astype(np.float64), axis=0)
        scores += model.nb_pc.astype(np.float64)
        # a temperature of the root of the length in bytes, as py3langid's own normalised probabilities have it
        shares = np.exp((scores - scores.max()) / math.sqrt(len(read)))
        shares /= shares.sum()
        found: dict[str, float] = {}
        for code, share in zip(self._codes, shares.tolist(), strict=True):  # two scripts of a language are two columns
            found[code] = found.get(code, 0.0) + share
        return found


def combined(
    first: Mapping[str, float], codes: Mapping[str, str | None], second: Mapping[str, float]
) -> tuple[str, float]:
    """The best label of both and its probability, from the first model's by label and the second's by code.

    The root of the first times the second, made to sum to 1; text that the second takes for no language lowers the sum.
    """
    if not second:
        label = max(first, key=lambda label: first[label])
        return label, first[label]
    weights = {
        label: (math.sqrt(share) + _DOUBT) * (second.get(codes[label] or label, _UNKNOWN) + _DOUBT)
        for label, share in first.items()
    }
    label = max(weights, key=lambda label: weights[label])
    return label, round(weights[label] / (sum(weights.values()) + second.get(_NOT_LANGUAGE, 0.0)), 6)
