"""The stage: what it measures, and what becomes of a find."""

import ipaddress
import random
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from pydantic import ValidationError

from stages.batch import Batch
from stages.pii.allow import Allowed
from stages.pii.checksums import luhn, mod_97
from stages.pii.entities import STRUCTURED
from stages.pii.pseudonym import CHECKS, stand_in
from stages.pii.recognise import Recognisers
from stages.pii.redact import Pii, PiiConfig
from stages.stage import StageError
from tests.test_pii_recognise import PAIRS, TEXTS, found

KEY = "0123456789abcdef-secret"


def stage(**knobs: object) -> Pii:
    one = Pii(PiiConfig(**knobs))
    one.setup({})
    return one


def measure(one: Pii, texts: list[str | None], **columns: list[str | None]) -> pa.Table:
    values = one.measure(Batch(pa.table({"text": pa.array(texts, pa.string()), **columns})))
    assert values.schema == pa.schema(list(one.measures().items()))
    return values


def apply(one: Pii, text: str) -> str:
    decision = one.decide(measure(one, [text]))
    assert decision.rule == [None]
    out, done = "", 0
    for edit in decision.edits.get(0, []):
        assert edit.start >= done
        out += text[done : edit.start] + edit.replacement
        done = edit.end
    return out + text[done:]


TEXT = "😀 Mail jane.doe@example.com, or call +1 212-555-0123."


def test_policies() -> None:
    assert apply(stage(), TEXT) == "😀 Mail <EMAIL_ADDRESS>, or call <PHONE_NUMBER>."
    masked = apply(stage(policy="mask"), TEXT)
    assert masked == "😀 Mail ********************, or call ***************." and len(masked) == len(TEXT)
    drop = stage(policy="drop", max_spans=1)
    decision = drop.decide(measure(drop, [TEXT, "Mail jane.doe@example.com", "Nothing here."]))
    assert decision.rule == ["max_spans", None, None]
    assert (decision.value[0], decision.threshold[0]) == (2, 1)
    assert {row: [edit.replacement for edit in edits] for row, edits in decision.edits.items()} == {
        1: ["<EMAIL_ADDRESS>"]
    }
    assert decision.detail == [None] * 3  # no raw value
    assert [limit.rule for limit in drop.limits()] == ["max_spans"]


def test_a_document_above_a_density_is_dropped() -> None:
    drop = stage(policy="drop", max_spans=100, max_density=10)
    decision = drop.decide(measure(drop, [TEXT, TEXT + " word" * 200, ""]))
    assert decision.rule == ["max_density", None, None]
    assert decision.value[0] == pytest.approx(2000 / len(TEXT), rel=1e-6) and decision.threshold[0] == 10


def test_measured_values() -> None:
    row = measure(stage(), [TEXT, None, ""]).to_pylist()
    assert [(span["start"], span["end"], span["entity"]) for span in row[0]["pii_spans"]] == [
        (7, 27, "EMAIL_ADDRESS"),
        (37, 52, "PHONE_NUMBER"),
    ]
    assert row[0]["pii_count"] == 2 and row[0]["pii_email_address"] == row[0]["pii_phone_number"] == 1
    assert row[1]["pii_spans"] == row[2]["pii_spans"] == [] and row[1]["pii_count"] == 0
    assert row[0]["pii_iban_code"] is row[1]["pii_email_address"] is row[0]["pii_stand_ins"] is None
    assert "pii_spans" in Pii.apply_only and "pii_count" in stage().provides()


def test_entities_regions_and_threshold() -> None:
    assert apply(stage(entities=("EMAIL_ADDRESS",)), TEXT) == "😀 Mail <EMAIL_ADDRESS>, or call +1 212-555-0123."
    assert "212" in apply(stage(score_threshold=0.9), "number 212-555-0123")
    assert apply(stage(phone_regions=("SE",)), "see 08-508 290 00") == "see <PHONE_NUMBER>"
    assert apply(stage(phone_regions=("US",)), "see 08-508 290 00") == "see 08-508 290 00"


@settings(max_examples=60, deadline=None)
@given(TEXTS, TEXTS)
def test_a_row_does_not_depend_on_the_others(one: str, other: str) -> None:
    texts: list[str | None] = [text.encode("utf-8", "replace").decode() for text in (one, other, TEXT)]
    together = measure(DEFAULT, [*texts, None]).to_pylist()
    assert [measure(DEFAULT, [text]).to_pylist()[0] for text in texts] == together[:3]
    assert list(reversed(measure(DEFAULT, texts[::-1]).to_pylist())) == together[:3]


DEFAULT = stage()


def test_mistakes_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidationError, match="EMAIL_ADDRESS"):
        PiiConfig(entities=("EMAIL",))
    with pytest.raises(ValidationError, match="entities is empty"):
        PiiConfig(entities=())
    with pytest.raises(ValidationError, match="replace"):
        PiiConfig(policy="pseudonymise")
    with pytest.raises(ValidationError, match="'not a contact' is none of a domain"):
        PiiConfig(allow=("not a contact",))
    with pytest.raises(StageError, match=r"unknown phone regions.*XX"):
        stage(phone_regions=("US", "XX"))
    monkeypatch.delenv("GRISTMILL_PII_KEY", raising=False)
    with pytest.raises(ValidationError, match=r"is not set; set it to a secret of 16 characters or more"):
        PiiConfig(policy="pseudonym")
    monkeypatch.setenv("GRISTMILL_PII_KEY", "short-secret")
    with pytest.raises(ValidationError, match="has 12 characters") as error:
        PiiConfig(policy="pseudonym")
    assert "short-secret" not in str(error.value)


# ---- stand-ins


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("GRISTMILL_PII_KEY", KEY)
    return KEY


def test_stand_ins_are_the_same_for_the_same_value_anywhere(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one = stage(policy="pseudonym")
    made = apply(one, TEXT)
    assert "jane.doe" not in made and "212-555-0123" not in made and made.count("@example.org") == 1
    name = made.split("Mail ")[1].split(",")[0]
    assert apply(stage(policy="pseudonym"), "Write to JANE.DOE@example.com now") == f"Write to {name} now"
    assert (
        key not in repr(one.config) and key not in one.config.model_dump_json() and len(one.config.key_check or "") == 8
    )
    monkeypatch.setenv("GRISTMILL_PII_KEY", KEY + "2")
    assert name not in apply(stage(policy="pseudonym"), TEXT)
    assert PiiConfig(policy="pseudonym") != one.config  # the fingerprint of a run tells the keys apart
    with pytest.raises(ValidationError, match="is another one"):
        PiiConfig(policy="pseudonym", key_check=one.config.key_check)
    with pytest.raises(StageError, match="another one on this worker"):
        one.setup({})


@pytest.mark.parametrize(("entity", "cue", "value"), PAIRS)
def test_stand_ins_have_the_form_of_the_value_and_are_nobodys(entity: str, cue: str, value: str) -> None:
    made = stand_in(KEY.encode(), entity, value)
    assert made != value and made == stand_in(KEY.encode(), entity, value)
    assert made != stand_in(b"another key of some length", entity, value)
    if entity in ("EMAIL_ADDRESS", "PHONE_NUMBER", "CREDIT_CARD", "IP_ADDRESS", "MAC_ADDRESS"):
        assert found(Recognisers((entity,)), f"call {made}") == [(entity, made)] or entity == "CREDIT_CARD"
    bare = "".join(filter(str.isalnum, made))
    match entity:
        case "EMAIL_ADDRESS":
            assert made.endswith("@example.org")
        case "IP_ADDRESS":
            network = ipaddress.ip_interface(made).ip
            assert network in ipaddress.ip_network("2001:db8::/32" if ":" in made else "198.18.0.0/15")
        case "CREDIT_CARD":
            assert luhn(bare) and bare.startswith("9999") and len(made) == len(value)
        case "IBAN_CODE":
            assert mod_97(bare) and bare.startswith("XX") and len(made) == len(value)
        case "US_SSN":
            assert bare.startswith("666") and len(made) == len(value)
        case _ if entity in CHECKS:
            assert len(made) == len(value)
            assert not _valid(CHECKS[entity], bare)


def _valid(check: object, value: str) -> bool:
    try:
        return bool(check(value))  # type: ignore[operator]
    except (ValueError, KeyError, IndexError):
        return False


# ---- what stays


def test_public_contact_points_stay() -> None:
    text = "info@firm.de, jane@firm.de, press@x.org, bob@sub.example.com, +49 30 901820, 192.0.2.7, 8.8.8.8"
    assert apply(stage(allow_roles=True), text).startswith("info@firm.de, <EMAIL_ADDRESS>, press@x.org, <EMAIL")
    left = apply(stage(allow=("@example.com", "Jane@Firm.de", "0049 30 901820", "192.0.2.0/24")), text)
    assert (
        left
        == "<EMAIL_ADDRESS>, jane@firm.de, <EMAIL_ADDRESS>, bob@sub.example.com, +49 30 901820, 192.0.2.7, <IP_ADDRESS>"
    )
    allowed = Allowed(("example.com",), roles=False)
    assert allowed.holds("EMAIL_ADDRESS", "a@example.com") and not allowed.holds("EMAIL_ADDRESS", "a@notexample.com")
    assert not allowed.holds("PHONE_NUMBER", "example.com")


def test_nothing_heavy_is_imported_for_structured_data() -> None:
    code = (
        "import sys; from stages.pii.scrub import Scrubber; Scrubber().text('a@b.org 212-555-0123'); "
        "print([m for m in ('torch', 'transformers', 'spacy', 'presidio_analyzer') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent.parent
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_text_of_many_finds_is_settled() -> None:
    rng = random.Random(0)
    text = " ".join(cue + value for _, cue, value in rng.choices(PAIRS, k=300))
    once = apply(DEFAULT, text)
    assert apply(DEFAULT, once) == once
    assert {f"<{entity}>" for entity in STRUCTURED} & set(once.split())
