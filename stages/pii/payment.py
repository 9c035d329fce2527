"""Payment cards and bank accounts."""

from __future__ import annotations

import re
from collections.abc import Iterator

from stages.pii.checksums import luhn, mod_97
from stages.pii.cues import cue, cued
from stages.pii.entities import Span
from stages.pii.numbers import Group, Shapes

# Lengths of cards by the networks' leading digits (ISO/IEC 7812 registrations as the networks publish them).
NETWORKS = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})"  # Visa
    r"|(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}"  # Mastercard
    r"|3[47]\d{13}"  # American Express
    r"|(?:6011|64[4-9]\d|65\d\d)\d{12,15}"  # Discover
    r"|35(?:2[89]|[3-8]\d)\d{12,15}|(?:2131|1800)\d{11}"  # JCB
    r"|3(?:0[0-5]\d|095|[689]\d\d)\d{10,15}"  # Diners Club
    r"|(?:62|81)\d{14,17}"  # UnionPay
    r"|220[0-4]\d{12,15}"  # Mir
)
OTHER_NETWORKS = re.compile(r"(?:50|5[6-8]|6\d)\d{10,17}")  # Maestro, RuPay, Verve and local ones
CARDS = cue("cards?", "credit\\w*", "debit\\w*", "visa", "master ?card", "amex", "american express", "discover", "maestro", "jcb", "diners", "cc", "ccn", "pan",
            "payment\\w*", "billed", "charged?", "karte\\w*", "kreditkarte\\w*", "carte\\w*", "tarjeta\\w*", "cart[aã]o\\w*", "carta", "kaart", "kort\\w*", "карт\\w*", "信用卡", "カード", "카드")  # fmt: skip
GROUPS = ("4444", "44443", "465", "464")
CARD_SHAPES = Shapes(
    dict.fromkeys([*map(str, range(12, 20)), *(mark.join(sizes) for mark in " -." for sizes in GROUPS)])
)
ACCOUNTS = cue(
    "iban", "accounts?", "bank\\w*", "konto\\w*", "compte", "cuenta", "conto", "rekening\\w*", "transfer\\w*", "wire"
)

# Lengths of IBANs by country (SWIFT's IBAN registry, release 99).
IBAN_LENGTHS = {
    country: length
    for length, countries in {
        15: "NO", 16: "BE", 18: "DK FO FI GL NL SD FK", 19: "MK SI", 20: "AT BA EE KZ LT LU XK MN", 21: "HR LV LI CH",
        22: "BH BG CR GE DE IE ME RS GB VA", 23: "GI IL AE TL IQ OM SO", 24: "AD CZ MD PK RO SA SK ES SE TN VG", 25: "LY PT ST",
        26: "IS TR", 27: "BI DJ FR GR IT MC MR SM", 28: "AL AZ BY CY DO SV GT HU LB NI PL", 29: "BR EG PS QA UA", 30: "JO KW MU YE",
        31: "MT SC", 32: "LC", 33: "RU",
    }.items()
    for country in countries.split()
}  # fmt: skip
IBAN = re.compile(rb"[A-Z](?<![A-Za-z0-9].)[A-Z]\d\d(?:[ -]?[A-Z0-9]){11,30}")


def credit_cards(text: str, folded: bytes, groups: list[Group]) -> Iterator[Span]:
    """The payment cards of one run: a network's leading digits and length, and Luhn's check digit."""
    for start, end, shape, digits in CARD_SHAPES.windows(folded, groups):
        if not 12 <= len(digits) <= 19 or not luhn(digits) or len(set(digits)) == 1:
            continue
        context = cued(text, start, CARDS)
        grouped = not shape.isdigit()
        if NETWORKS.fullmatch(digits):
            score = 1.0 if context else 0.8 if len(digits) > 13 or grouped else 0.3
        elif OTHER_NETWORKS.fullmatch(digits):
            score = 0.9 if context else 0.5 if grouped and len(digits) == 16 else 0.3
        else:
            score = 0.4 if context else 0.1
        yield Span(start, end, "CREDIT_CARD", score)


def ibans(text: str, folded: bytes) -> Iterator[Span]:
    """IBANs: a country's length, and ISO 7064's check digits."""
    for found in IBAN.finditer(folded):
        length = IBAN_LENGTHS.get(found[0][:2].decode())
        if length is None:
            continue
        end, count = found.start(), 0
        while end < found.end() and count < length:
            count += folded[end] not in b" -"
            end += 1
        after = folded[end : end + 1]
        value = folded[found.start() : end].translate(None, b" -").decode()
        if count == length and not after.isalnum() and mod_97(value):
            yield Span(found.start(), end, "IBAN_CODE", 1.0 if cued(text, found.start(), ACCOUNTS) else 0.9)
