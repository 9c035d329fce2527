"""Which personal data is found, and what only looks like it."""

import itertools
import random
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stages.pii.cues import fold, long_tokens
from stages.pii.entities import STRUCTURED, Span, resolve
from stages.pii.recognise import PHONE_REGIONS, Recognisers, replace
from stages.pii.regions import plan

# (words before, value): enough words for the weakest forms.
VALUES: dict[str, list[tuple[str, str]]] = {
    "EMAIL_ADDRESS": [("", "jane.doe@example.com"), ("", "x+y@sub.example.co.uk"), ("", "müller@xn--mnchen-3ya.de"), ("", "jane [at] example [dot] org"), ("", "jane.roe (at) example.org")],
    "PHONE_NUMBER": [("", "+1 212-555-0123"), ("", "(212) 555-0123"), ("", "+49 30 901820"), ("", "+44 20 7946 0958"), ("", "212.555.0123 ext. 17"), ("", "+44 (0)20 7946 0958"),
                     ("", "0049 30 901820"), ("", "01 42 68 53 00"), ("", "(11) 91234-5678"), ("call ", "0431 19 97 94"), ("Phone:\n", "467 3395"), ("тел. ", "8 (495) 123-45-67"),
                     ("電話", "03-3210-7000"), ("whatsapp ", "2125550123"), ("Tel.", "030 901820"), ("", "001-284-393-4829x123"), ("", "+91 98765 43210"), ("call ", "٠٥٠١٢٣٤٥٦٧")],
    "CREDIT_CARD": [("", "4111 1111 1111 1111"), ("", "4012888888881881"), ("", "3782-822463-10005"), ("", "5555-5555-5555-4444"), ("my card ", "4131034282458809939")],
    "US_SSN": [("", "460-89-9847"), ("ssn ", "514 69 0360"), ("his SSN is ", "460899847")],
    "US_ITIN": [("", "952-91-0181"), ("ITIN: ", "952910181")],
    "US_DRIVER_LICENSE": [("My driver's license number is ", "U62928788557186"), ("driving licence: ", "LH329609T")],
    "IBAN_CODE": [("", "GB56HXDO88167774656119"), ("", "DE89 3704 0044 0532 0130 00"), ("", "NO93-8601-1117-947")],
    "IP_ADDRESS": [("", "8.8.8.8"), ("", "2001:4860:4860::8888"), ("", "172.61.42.192/24"), ("", "fe80::1"), ("", "::1"), ("", "6e40:4041:c617:e898:c11:40d2:c669:2eb4")],
    "MAC_ADDRESS": [("", "00:1A:2B:3C:4D:5E"), ("", "00-1a-2b-3c-4d-5e"), ("", "0012.3456.789a")],
    "CRYPTO": [("", "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa"), ("", "3J98t1WpEZ73CNmQviecrnyiWrnqRhWNLy"), ("", "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4"), ("", "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed")],
    "COORDINATES": [("GPS: ", "52.520008, 13.404954"), ("", "40.7128° N, 74.0060° W"), ("", "48°51'24\"N 2°21'03\"E"), ("at @", "52.520008,13.404954")],
    "API_KEY": [("", "AKIAIOSFODNN7QRSTUVW"), ("", "ghp_" + "aB3dE5gH7jK9mN1pQ2rS4tU6vW8xY0zA1bC2"), ("", "xoxb-2345678901-abcdefGHIJKL"), ("", "AIzaSyD-9tSrke72PouQMnMX-a7eZSW0jkFMBWY"),
                ("", "sk_live_4eC39HqLyjWDarjtT1zdp7dc"), ("", "sk-proj-Ab3dEf6hIj9kLm2nOp5q"), ("api_key = ", "9f8a7c6b5d4e3f2a1b0c"), ("client_secret: ", "Zm9vYmFyYmF6cXV4MTIz")],
    "JWT": [("", "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U")],
    "PRIVATE_KEY": [("", "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA1234567890abcdef\nABCDEF==\n-----END RSA PRIVATE KEY-----")],
    "PASSWORD": [("password: ", "hunter2!x"), ("DB_PASSWORD=", "s3cr3t_Pa55")],
    "CA_SIN": [("SIN ", "760-189-555"), ("social insurance number: ", "529170342")],
    "UK_NHS": [("NHS number ", "907 866 6617"), ("nhs no. ", "1163726516")],
    "UK_NINO": [("", "AB 12 34 56 C"), ("", "AB123456C")],
    "DE_TAX_ID": [("Steuer-ID: ", "87950324181"), ("", "46 298 537 114")],
    "FR_NIR": [("", "2 69 07 75 771 910 54"), ("", "249117566012077"), ("", "253072A07300443")],
    "ES_NIF": [("DNI ", "65630481G"), ("", "72930682-M")],
    "ES_NIE": [("", "Y2761125N"), ("", "X-9132742-V")],
    "IT_FISCAL_CODE": [("", "RSSMRA15H04H661N")],
    "NL_BSN": [("BSN ", "327523682"), ("burgerservicenummer: ", "1732.06.001")],
    "BE_NN": [("", "04.06.15-178.12"), ("rijksregisternummer ", "03011847455")],
    "CH_AHV": [("", "756.5157.1259.05"), ("AHV-Nr. ", "7569971755461")],
    "PL_PESEL": [("PESEL: ", "02021235690")],
    "SE_PERSONNUMMER": [("", "111219-2693"), ("personnummer ", "20050615-6159"[:0] + "1205156159")],
    "NO_FODSELSNUMMER": [("", "131014 03690"), ("fødselsnummer ", "03100624957")],
    "DK_CPR": [("CPR-nr. ", "211062-5629")],
    "FI_PERSONAL_IDENTITY_CODE": [("", "080413-559S")],
    "TR_NATIONAL_ID": [("TC Kimlik No: ", "26495076504")],
    "ZA_ID_NUMBER": [("ID number ", "1205168932188")],
    "MX_CURP": [("", "XAXX051002HDFXXX04")],
    "BR_CPF": [("", "360.848.529-55"), ("CPF ", "51131154444")],
    "BR_CNPJ": [("", "76.282.627/8333-59")],
    "IN_AADHAAR": [("Aadhaar ", "3237 5357 7020")],
    "IN_PAN": [("PAN: ", "ACUPA7085R")],
    "CN_RESIDENT_ID": [("", "110108197810169224"), ("身份证", "11010819900419343X")],
    "KR_RRN": [("", "040409-1303303")],
    "SG_NRIC_FIN": [("", "S0000001I"), ("FIN ", "G0000001P")],
    "TH_TNIN": [("", "8-3643-28977-20-5")],
    "AU_TFN": [("TFN ", "506 428 536"), ("tax file number ", "225840621")],
    "AU_MEDICARE": [("Medicare ", "2937 90491 1")],
}  # fmt: skip
PAIRS = [(entity, cue, value) for entity, some in VALUES.items() for cue, value in some]


@pytest.fixture(scope="module")
def recognisers() -> Recognisers:
    return Recognisers()


def found(recognisers: Recognisers, text: str, threshold: float = 0.35) -> list[tuple[str, str]]:
    return [(span.entity, text[span.start : span.end]) for span in resolve(recognisers.spans(text), threshold)]


def test_all_entities_are_tried() -> None:
    assert set(VALUES) == set(STRUCTURED)


@pytest.mark.parametrize(("entity", "cue", "value"), PAIRS)
@pytest.mark.parametrize("around", ["{}", "here: {}.", "före {} и после", "\n{}\n", "“{}”", "是{}，"])
def test_each_entity_is_found_whole(recognisers: Recognisers, entity: str, cue: str, value: str, around: str) -> None:
    assert found(recognisers, around.format(cue + value)) == [(entity, value)]


@pytest.mark.parametrize(
    "text",
    [
        "user@localhost, @name, a@b.invalidtld, logo@2x.png, git@github.com:a/b.git, package@1.2.3",
        "4111 1111 1111 1112 fails its checksum",
        "GB56HXDO88167774656118",
        "std::vector, 12:30:45, 999.1.1.1, 1.2.3, a::b, dead::beef, v1.2.3.4, Firefox version 3.6.1.28",
        "from 1990-1995 to 2020-01-02, 31.12.2019 and 3.14159265358",
        "000-12-3456 and 460-89 9847",
        "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNb",
        "ISBN 978-3-16-148410-0, ISBN 0-306-40615-2, ISBN: 9783161484100, ISSN 0317-8471, doi:10.1000/182345678",
        "20200102123456 1589564123 1589564123456 2020-01-02T12:30:45.123456789Z 20200102-123456",
        "d41d8cd98f00b204e9800998ecf8427e da39a3ee5e6b4b0d3255bfef95601890afd80709 550e8400-e29b-41d4-a716-446655440000",
        "1,234,567.89 and 1.234.567,89 and $1234567890 and 12 345 678 and 1 234 567 890",
        "2001 2002 2003 2004 2005 2006 2007 2008 2009 2010",
        "4523 1187 9034 5512 6678 1290 3345 8871 9902 1156 4111 1111 1111 1111 7761 9925",
        "https://example.org/a/1234567890/b?id=2125550123&t=1589564123",
        "order 123456789012, invoice no. 2125550123, ticket 030123456, part number 555-123-4567890",
        "0123456789 and 9876543210 and 1234567890",
        "AB:CD:EF:01:23:45:67:89:AB:CD:EF:01:23:45:67:89:AB:CD:EF:01",
        "12.3456 45.6789 0.12345, 0.54321; loss 0.69314 0.70001",
        "password: required, token: optional, secret = ${SECRET}, api_key: YOUR_API_KEY_HERE, key = os.environ['KEY'], FunctionPass::skipLoop()",
        "the key is to find a good place, pass: fail, passwd: /etc/passwd",
        "<EMAIL_ADDRESS> <PHONE_NUMBER> 123456789 <US_SSN> 123456789 <CREDIT_CARD>",
        "libfoo-1.2.3.4-5.tar.gz 10.1.2 OID 1.3.6.1.4.1.311.21.20",
        "RFC 7230, CVE-2020-12345678, KB4012598, bug #1234567, PMID: 12345678",
        "",
        "\0",
    ],
)  # fmt: skip
def test_what_only_looks_like_it_is_left(recognisers: Recognisers, text: str) -> None:
    assert found(recognisers, text) == []


def test_an_address_in_a_url_is_narrowed_to_the_address(recognisers: Recognisers) -> None:
    text = "https://news.example.org/unsubscribe?to=jane.doe@example.com&x=1"
    assert found(recognisers, text) == [("EMAIL_ADDRESS", "jane.doe@example.com")]


def test_a_word_before_raises_weak_scores(recognisers: Recognisers) -> None:
    assert found(recognisers, "the code is 460899847") == []
    assert found(recognisers, "his ssn is 460899847") == [("US_SSN", "460899847")]
    assert found(recognisers, "see 467 3395") == []
    assert found(recognisers, "phone 467 3395") == [("PHONE_NUMBER", "467 3395")]
    assert found(recognisers, "phone book, order 4673395") == []  # the nearer word counts
    low = {span.score for span in recognisers.spans("4539 1488 0343 6467")}
    high = {span.score for span in recognisers.spans("card 4539 1488 0343 6467")}
    assert max(low) < max(high)


def test_numbers_of_all_countries_are_found_with_plus() -> None:
    import phonenumbers

    recognisers = Recognisers(("PHONE_NUMBER",))
    missed = []
    for region in sorted(phonenumbers.SUPPORTED_REGIONS):
        number = phonenumbers.example_number(region)
        text = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.INTERNATIONAL)
        if found(recognisers, f"see {text} or not") != [("PHONE_NUMBER", text)]:
            missed.append((region, text))
    assert missed == []


def test_plans_hold_what_phonenumbers_holds() -> None:
    import phonenumbers

    rng = random.Random(3)
    agreed = 0
    for region in PHONE_REGIONS:
        example_ = phonenumbers.example_number(region)
        base = phonenumbers.format_number(example_, phonenumbers.PhoneNumberFormat.NATIONAL)
        digits = re.sub(r"\D", "", base)
        for _ in range(60):
            place = rng.randrange(len(digits))
            value = digits[:place] + rng.choice("0123456789") + digits[place + 1 :]
            try:
                expected = phonenumbers.is_valid_number_for_region(phonenumbers.parse(value, region), region)
            except phonenumbers.NumberParseException:
                expected = False
            ours = plan(region).significant(value) is not None
            agreed += ours == expected
    assert agreed >= 0.97 * 60 * len(PHONE_REGIONS)


def test_special_addresses() -> None:
    text = "ping 127.0.0.1, 192.168.0.1, fe80::1 and 8.8.8.8"
    assert [value for _, value in found(Recognisers(("IP_ADDRESS",), special_ips=False), text)] == ["8.8.8.8"]
    assert len(found(Recognisers(("IP_ADDRESS",)), text)) == 4


def test_each_entity_can_be_looked_for_alone(recognisers: Recognisers) -> None:
    everything = "\n".join(cue + value for _, cue, value in PAIRS)
    for entity in STRUCTURED:
        alone = Recognisers((entity,)).spans(everything)
        assert {span.entity for span in alone} == {entity}
    with pytest.raises(ValueError, match="EMAIL"):
        Recognisers(("EMAIL",))


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


def test_folding_keeps_places() -> None:
    text = "é–٣\u00a0世\U0001f600\udc80Ａ５x"
    assert fold(text) == b"\xe9-3 ???A5x" and len(fold(text)) == len(text)
    assert fold("plain") == b"plain"
    assert long_tokens(b"ab abcdef\nabc-_.d", 6) == [(3, 9), (10, 17)]


PIECES = st.one_of(
    st.sampled_from([cue + value for _, cue, value in PAIRS]),
    st.sampled_from(["+", "-", " ", ".", ",", "(", ")", "@", ":", "/", "<", ">", "\n", "0", "12", "2003", "phone ", "ssn ", "card", "x", "é", "\u0301", "שלום", "\u202e", "\udcff", "<PHONE_NUMBER>", "²", "１２３４５６７８９"]),
    st.text(max_size=12),
    st.text("0123456789 -.+()", max_size=24),
    st.text("0123456789abcdefABCDEF:.", max_size=24),
)  # fmt: skip
TEXTS = st.lists(PIECES, max_size=14).map("".join)
ANY = Recognisers()


@settings(max_examples=400, deadline=None)
@given(TEXTS)
@example("212-555-0123-4567 1.2.3.4.5")
@example("call jane@example.org 1234567, order@example.org 1234567")
def test_any_text(text: str) -> None:
    """Never raises; spans are inside the text and apart; what is replaced once stays as it is."""
    spans = ANY.settled(text, 0.35)
    assert all(0 <= span.start < span.end <= len(text) and 0 < span.score <= 1 for span in spans)
    assert all(a.end <= b.start for a, b in itertools.pairwise(spans))
    once, places = replace(text, spans)
    assert all(once.startswith(f"<{span.entity}>", place) for span, place in zip(spans, places, strict=True))
    assert ANY.settled(once, 0.35) == []


@settings(max_examples=150, deadline=None)
@given(TEXTS, st.sampled_from(STRUCTURED))
def test_a_threshold_above_all_scores_finds_nothing_and_one_entity_is_a_part_of_all(text: str, entity: str) -> None:
    assert resolve(ANY.spans(text), 1.01) == []
    assert {s for s in ANY.spans(text) if s.entity == entity} == set(Recognisers((entity,)).spans(text))


@pytest.mark.parametrize(
    "text",
    ["a.b." * 100_000 + "@x", "@" * 200_000, "1" * 1_000_000, "a@" * 100_000, "x" * 5_000_000, "word " * 400_000, "A1" * 200_000, "::" * 100_000, "- " * 200_000, "1 " * 200_000, "1-" * 200_000,
     "+1 " * 100_000, "(1) " * 100_000, "1.1" * 200_000, "4111 " * 100_000, "eyJ" * 100_000, "-----BEGIN PRIVATE KEY-----" * 5_000, "password=" * 50_000, "A" * 500_000 + "1", "<at>" * 50_000,
     "12.34567 " * 50_000, "ghp_" * 100_000, "sk-" * 100_000, "driver license " * 30_000, "call 555 0123 " * 20_000, "a.a@a.a" * 30_000, "1:1:" * 100_000, "0x" + "a" * 500_000, "DE89" * 100_000, "\u0660" * 300_000],
)  # fmt: skip
@pytest.mark.timeout(120)  # linear: a few seconds; quadratic: hours
def test_hard_texts_end(recognisers: Recognisers, text: str) -> None:
    spans = recognisers.spans(text)
    assert all(0 <= span.start < span.end <= len(text) for span in spans)
