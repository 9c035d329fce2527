"""Structured personal data - addresses, numbers, secrets - found in a text by its form, its check digits and the words before it.

Each recogniser first looks for a cheap cue (an `@`, a row of seven digits, a prefix), so that text without any costs little.
Scores are confidences from 0 to 1: about 0.9 for what check digits confirm, 0.5 for what its form makes likely, more with a word for it before,
and under 0.35 for what is more often something else.
"""

from __future__ import annotations

from collections.abc import Sequence

from stages.pii.contact import email_addresses, top_level_domains
from stages.pii.coordinates import coordinates
from stages.pii.cues import fold
from stages.pii.entities import STRUCTURED, Span, resolve
from stages.pii.national import KINDS, Digits, Letters
from stages.pii.network import ip_addresses, is_special, mac_addresses
from stages.pii.numbers import runs
from stages.pii.payment import credit_cards, ibans
from stages.pii.phone import Phones
from stages.pii.secrets import secrets
from stages.pii.wallets import wallets

__all__ = ["PHONE_REGIONS", "STRUCTURED", "Recognisers", "Span", "is_special", "resolve"]

PHONE_REGIONS = (
    "US", "CA", "GB", "IE", "DE", "AT", "CH", "FR", "BE", "NL", "IT", "ES", "PT", "SE", "FI", "PL", "TR", "IL", "ZA", "IN", "AU", "NZ",
    "JP", "KR", "CN", "BR", "MX", "AR",
)  # fmt: skip
SECRETS = frozenset(("API_KEY", "JWT", "PRIVATE_KEY", "PASSWORD"))


class Recognisers:
    """The recognisers of some structured entities. Costs a quarter of a second to make the first time; use it again."""

    def __init__(
        self,
        entities: Sequence[str] = STRUCTURED,
        phone_regions: Sequence[str] = PHONE_REGIONS,
        special_ips: bool = True,
    ) -> None:
        """`special_ips`: whether private, loopback, documentation and other special-purpose addresses count.

        Raises `ValueError` for an entity or a region that is not known.
        """
        unknown = sorted(set(entities) - set(STRUCTURED))
        if unknown:
            raise ValueError(f"unknown structured entities {unknown}; known are {list(STRUCTURED)}")
        self._wanted = frozenset(entities)
        self._special_ips = special_ips
        phones = Phones(phone_regions)  # unknown regions are refused whether or not phones are wanted
        self._phones = phones if "PHONE_NUMBER" in self._wanted else None
        self._digits = Digits(entities)
        self._letters = Letters(entities)
        self._top_level = top_level_domains() if "EMAIL_ADDRESS" in self._wanted else frozenset()
        self._runs = bool(self._wanted & {"PHONE_NUMBER", "CREDIT_CARD", *(kind.entity for kind in KINDS)})

    def spans(self, text: str) -> list[Span]:
        """All spans in a text, overlaps included, in no particular order."""
        folded = fold(text)
        found: list[Span] = []
        wanted = self._wanted
        if "EMAIL_ADDRESS" in wanted:
            found += email_addresses(text, folded, self._top_level)
        if self._runs:
            for groups in runs(folded):
                if self._phones is not None:
                    found += self._phones.spans(text, folded, groups)
                if "CREDIT_CARD" in wanted:
                    found += credit_cards(text, folded, groups)
                found += self._digits.spans(text, folded, groups)
        found += self._letters.spans(text, folded)
        if "IBAN_CODE" in wanted:
            found += ibans(text, folded)
        if "IP_ADDRESS" in wanted:
            found += ip_addresses(text, folded, self._special_ips)
        if "MAC_ADDRESS" in wanted:
            found += mac_addresses(text, folded)
        if "CRYPTO" in wanted:
            found += wallets(folded)
        if "COORDINATES" in wanted:
            found += coordinates(text, folded)
        if wanted & SECRETS:
            found += [span for span in secrets(folded) if span.entity in wanted]
        return found
