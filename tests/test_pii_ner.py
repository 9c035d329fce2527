"""Names by models: spaCy's, one for token classification, GLiNER's."""

import json
import sys
import types
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from stages.batch import Batch
from stages.pii.ner import load_model, pieces, printable
from stages.pii.redact import Pii, PiiConfig
from stages.stage import StageError


def stage(**knobs: object) -> Pii:
    one = Pii(PiiConfig(**knobs))
    one.setup({})
    return one


def test_names_by_spacy() -> None:
    one = stage(entities=("PERSON", "LOCATION", "EMAIL_ADDRESS"))
    texts: list[str | None] = ["John Smith lives in Paris: john@example.com", "John Smith lives in Paris", None]
    values = one.measure(Batch(pa.table({"text": texts, "language": ["en", "de", None]})))
    assert [span["entity"] for span in values.column("pii_spans")[0].as_py()] == ["PERSON", "LOCATION", "EMAIL_ADDRESS"]
    assert values.column("pii_person").to_pylist() == [1, None, None]
    assert one.decide(values).skipped == {"ner": 1}
    long = "John Smith lives in Paris. " * 1000  # in pieces, offsets right
    spans = one.named.spans(long) if one.named else []
    assert len(spans) > 1500 and {long[s.start : s.end] for s in spans if s.entity == "PERSON"} == {"John Smith"}
    with pytest.raises(StageError, match="does not find ADDRESS, only DATE_TIME"):
        stage(entities=("ADDRESS",))


def test_mistakes_of_the_user(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"no_such_model.*gristmill\[ner\]"):
        stage(entities=("PERSON",), ner_model="no_such_model")
    with pytest.raises(StageError, match=r"is no model: it has none of meta\.json"):
        stage(entities=("PERSON",), ner_model=str(tmp_path))
    (tmp_path / "meta.json").write_text('{"lang": "en", "pipeline": []}')
    with pytest.raises(StageError, match="cannot be loaded"):
        stage(entities=("PERSON",), ner_model=str(tmp_path))
    (tmp_path / "meta.json").unlink()
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(StageError, match="cannot be loaded"):
        stage(entities=("PERSON",), ner_model=str(tmp_path))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of one layer that takes the word `anna`, and the piece after it, for a person: hand-made weights, nothing trained."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    folder = tmp_path_factory.mktemp("classifier")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "anna", "##lena", "lives", "in", "rome", "."]
    tokenizer = Tokenizer(models.WordPiece({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16, max_position_embeddings=34,
        id2label={0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC"},
    )  # fmt: skip
    model = transformers.BertForTokenClassification(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        embeddings = model.bert.embeddings
        embeddings.LayerNorm.weight.fill_(1)
        layer = model.bert.encoder.layer[0]
        layer.attention.output.LayerNorm.weight.fill_(1)
        layer.output.LayerNorm.weight.fill_(1)
        for word, label in (("anna", 1), ("##lena", 2), ("rome", 3)):
            embeddings.word_embeddings.weight[words.index(word), label] = 10
            model.classifier.weight[label, label] = 5
        model.classifier.bias[0] = 2
    model.save_pretrained(folder)
    return folder


def test_names_by_token_classification(classifier: Path) -> None:
    model = load_model(str(classifier), ("PERSON", "LOCATION"))
    text = "é Annalena lives in Rome. " * 20  # in several windows of the model
    spans = model.spans(text)
    assert model.language is None
    assert [(span.entity, text[span.start : span.end]) for span in spans] == [
        ("PERSON", "Annalena"),
        ("LOCATION", "Rome"),
    ] * 20
    assert all(0.5 < span.score <= 1 for span in spans)
    assert {span.entity for span in load_model(str(classifier), ("PERSON",)).spans(text)} == {"PERSON"}
    assert model.spans("\udcff Rome \0") and model.spans("") == []
    with pytest.raises(StageError, match="does not find ORGANIZATION, only LOCATION, PERSON"):
        load_model(str(classifier), ("ORGANIZATION",))


def test_names_by_gliner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked of the package `gliner`, and that its answers become spans; the package itself is not needed for tests."""
    (tmp_path / "gliner_config.json").write_text(json.dumps({}))
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "gliner", None)
        with pytest.raises(StageError, match="pip install gliner"):
            load_model(str(tmp_path), ("PERSON",))
    asked: list[Any] = []

    class GLiNER:
        @classmethod
        def from_pretrained(cls, folder: str, *, local_files_only: bool, map_location: str) -> "GLiNER":
            asked.append((folder, local_files_only, map_location))
            return cls()

        def predict_entities(self, text: str, labels: list[str], threshold: float) -> list[dict[str, Any]]:
            asked.append((labels, len(text) <= 1000))
            at = text.find("5 Main St")
            return [{"start": at, "end": at + 9, "label": "postal address", "score": 0.75}] if at >= 0 else []

    monkeypatch.setitem(sys.modules, "gliner", types.SimpleNamespace(GLiNER=GLiNER))  # type: ignore[arg-type]
    text = "word " * 300 + "5 Main St"
    (span,) = load_model(str(tmp_path), ("PERSON", "ADDRESS")).spans(text)
    assert (text[span.start : span.end], span.entity, span.score) == ("5 Main St", "ADDRESS", 0.75)
    assert asked[0] == (str(tmp_path), True, "cpu") and asked[1] == (["postal address", "person"], True)


def test_pieces() -> None:
    for text in ("", "a" * 95, "ab cd\n" * 30, "x" * 10 + " " * 30):
        parts = list(pieces(text, 10))
        assert "".join(part for _, part in parts) == text
        assert all(text[at : at + len(part)] == part and 0 < len(part) <= 10 for at, part in parts)
    assert printable("a\ud800b") == "a\ufffdb"
