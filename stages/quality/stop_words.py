"""Frequent function words by language, for the stop-word rule."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from stages.characters import Keys
from stages.stage import StageError
from stages.words import word_key

# Three-letter codes of labels such as `deu` or `deu_Latn`.
ISO_639_1 = {
    "ara": "ar", "arb": "ar", "bul": "bg", "cat": "ca", "ces": "cs", "cze": "cs", "dan": "da", "deu": "de", "ger": "de", "ell": "el",
    "eng": "en", "est": "et", "ekk": "et", "fas": "fa", "pes": "fa", "fin": "fi", "fra": "fr", "fre": "fr", "heb": "he", "hin": "hi",
    "hrv": "hr", "hun": "hu", "ind": "id", "ita": "it", "lav": "lv", "lit": "lt", "lvs": "lv", "nb": "no", "nld": "nl", "dut": "nl",
    "nn": "no", "nno": "no", "nob": "no", "nor": "no", "pol": "pl", "por": "pt", "ron": "ro", "rum": "ro", "rus": "ru", "slk": "sk",
    "slo": "sk", "slv": "sl", "spa": "es", "srp": "sr", "swe": "sv", "tur": "tr", "ukr": "uk", "vie": "vi",
}  # fmt: skip


def language_code(label: str) -> str:
    """The two-letter code of a language label where one is known: `de`, `deu`, `de-AT` and `deu_Latn` are all `de`."""
    base = label.replace("_", "-").split("-")[0].lower()
    return ISO_639_1.get(base, base)


def load(path: Path, key: Callable[[str], int] = word_key) -> dict[str, Keys]:
    """The keys of each language's words, from a JSON object of lists of words.

    Raises `StageError` if the file is not that.
    """
    try:
        lists = json.loads(path.read_text(encoding="utf-8"))
        return {
            language: np.unique(np.array([key(word) for word in words], dtype=np.uint64))
            for language, words in lists.items()
        }
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise StageError(
            f"stop words {path.name}: expected a JSON object that maps language codes to lists of single words; {error}"
        ) from error
