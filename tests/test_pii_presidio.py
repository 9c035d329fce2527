"""presidio's recognisers behind the knob `method`."""

from __future__ import annotations

import pyarrow as pa
import pytest

from stages.batch import Batch
from stages.pii import Pii
from stages.pii.presidio import CLASSES
from stages.pii.redact import PiiConfig
from stages.stage import StageError
from tests.web_stages import ready

TEXT = "Mail jane.doe@example.org or call +1 415 555 0132; card 4111 1111 1111 1111, IBAN DE89 3704 0044 0532 0130 00, at 192.168.0.1."


def found(text: str, **knobs: object) -> list[tuple[str, str]]:
    stage = ready(Pii(PiiConfig.model_validate({"method": "presidio", **knobs})))
    spans = stage.measure(Batch(pa.table({"text": [text]})))["pii_spans"][0].as_py()
    return [(span["entity"], text[span["start"] : span["end"]]) for span in spans]


def test_its_finds_are_edited_like_ours() -> None:
    assert found(TEXT) == [
        ("EMAIL_ADDRESS", "jane.doe@example.org"),
        ("PHONE_NUMBER", "+1 415 555 0132"),
        ("CREDIT_CARD", "4111 1111 1111 1111"),
        ("IBAN_CODE", "DE89 3704 0044 0532 0130 00"),
        ("IP_ADDRESS", "192.168.0.1"),
    ]
    assert ("IP_ADDRESS", "192.168.0.1") not in found(TEXT, special_ips=False)
    assert found(TEXT, entities=["IBAN_CODE"]) == [("IBAN_CODE", "DE89 3704 0044 0532 0130 00")]
    assert found("", entities=["UK_NHS"]) == []


def test_the_email_domain_is_checked_without_the_network() -> None:
    assert found("jane@example.nosuchtld", entities=["EMAIL_ADDRESS"]) == []


def test_a_context_word_raises_a_score() -> None:
    assert found("my SSN is 078-05-1121 here", entities=["US_SSN"], score_threshold=0.8)
    assert not found("it is 078-05-1121 here", entities=["US_SSN"], score_threshold=0.8)


def test_entities_that_presidio_lacks_are_refused_by_name() -> None:
    with pytest.raises(StageError, match="no recogniser for COORDINATES"):
        found("x", entities=["COORDINATES", "CRYPTO"])


def test_every_class_is_there_and_looks_for_its_entity() -> None:
    from stages.pii.presidio import _recognisers

    made = _recognisers(list(CLASSES), ("US",))
    renamed = {entity: one.supported_entities[0] for entity, one in made.items() if one.supported_entities != [entity]}
    assert renamed == {}
