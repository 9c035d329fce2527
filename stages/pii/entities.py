"""The entities that are looked for, by presidio's names where it has one, and what a find is."""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from typing import Literal, NamedTuple, get_args

Structured = Literal[
    "EMAIL_ADDRESS", "PHONE_NUMBER", "CREDIT_CARD", "IBAN_CODE", "IP_ADDRESS", "MAC_ADDRESS", "CRYPTO", "COORDINATES",
    "API_KEY", "JWT", "PRIVATE_KEY", "PASSWORD",
    "US_SSN", "US_ITIN", "US_DRIVER_LICENSE", "CA_SIN", "MX_CURP", "BR_CPF", "BR_CNPJ",
    "UK_NHS", "UK_NINO", "DE_TAX_ID", "FR_NIR", "ES_NIF", "ES_NIE", "IT_FISCAL_CODE", "NL_BSN", "BE_NN", "CH_AHV", "PL_PESEL",
    "SE_PERSONNUMMER", "NO_FODSELSNUMMER", "DK_CPR", "FI_PERSONAL_IDENTITY_CODE", "TR_NATIONAL_ID", "ZA_ID_NUMBER",
    "IN_AADHAAR", "IN_PAN", "CN_RESIDENT_ID", "KR_RRN", "SG_NRIC_FIN", "TH_TNIN", "AU_TFN", "AU_MEDICARE",
]  # fmt: skip
Named = Literal["PERSON", "LOCATION", "ORGANIZATION", "NRP", "DATE_TIME", "ADDRESS"]

STRUCTURED: tuple[str, ...] = get_args(Structured)
NAMED: tuple[str, ...] = get_args(Named)  # by a model
ENTITIES = STRUCTURED + NAMED


class Span(NamedTuple):
    """Code points [start, end) of a text hold an `entity`, with a confidence from 0 to 1."""

    start: int
    end: int
    entity: str
    score: float


def resolve(spans: Iterable[Span], threshold: float) -> list[Span]:
    """Spans of at least the threshold, without overlaps, in order.

    Of overlapping ones the higher score wins, then the longer, then the earlier, then the first entity by name.
    """
    ranked = sorted(
        {span for span in spans if span.score >= threshold and span.start < span.end},
        key=lambda span: (-span.score, span.start - span.end, span.start, span.entity),
    )
    chosen: list[Span] = []
    taken: list[tuple[int, int]] = []  # sorted and disjoint
    for span in ranked:
        place = bisect.bisect_left(taken, (span.start, span.end))
        if place and taken[place - 1][1] > span.start:
            continue
        if place < len(taken) and taken[place][0] < span.end:
            continue
        taken.insert(place, (span.start, span.end))
        chosen.append(span)
    return sorted(chosen)
