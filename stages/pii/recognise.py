"""Structured personal data - addresses, numbers, secrets - found in a text by its form, its check digits and the words before it.

Each recogniser first looks for a cheap cue (an `@`, a row of seven digits, a prefix), so that text without any costs little.
Scores are confidences from 0 to 1: about 0.9 for what check digits confirm, 0.5 for what its form makes likely, more with a word for it before,
and under 0.35 for what is more often something else.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Callable, Iterable, Sequence

from stages.pii.contact import email_addresses, top_level_domains
from stages.pii.coordinates import coordinates
from stages.pii.cues import fold, long_tokens
from stages.pii.entities import ENTITIES, STRUCTURED, Span, resolve
from stages.pii.national import KINDS, Digits, Letters
from stages.pii.network import ip_addresses, is_special, mac_addresses
from stages.pii.numbers import runs
from stages.pii.payment import credit_cards, ibans
from stages.pii.phone import Phones
from stages.pii.secrets import LONG, secrets
from stages.pii.wallets import wallets

__all__ = ["PHONE_REGIONS", "STRUCTURED", "Recognisers", "Span", "is_special", "resolve"]

PHONE_REGIONS = (
    "US", "CA", "GB", "IE", "DE", "AT", "CH", "FR", "BE", "NL", "IT", "ES", "PT", "SE", "FI", "PL", "TR", "IL", "ZA", "IN", "AU", "NZ",
    "JP", "KR", "CN", "BR", "MX", "AR",
)  # fmt: skip
PLACEHOLDER = re.compile(rf"<(?:{'|'.join(ENTITIES)})>")
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
        """All spans in a text, overlaps included, in no particular order. Placeholders of an earlier run are opaque."""
        if "<" in text:
            text = PLACEHOLDER.sub(_opaque, text)  # "<PHONE_NUMBER>" is no word for the number after it
        folded = fold(text)
        lower = folded.lower()
        tokens = long_tokens(folded, LONG)
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
        found += self._letters.spans(text, folded, lower)
        if "IBAN_CODE" in wanted:
            found += ibans(text, folded)
        if "IP_ADDRESS" in wanted:
            found += ip_addresses(text, folded, self._special_ips)
        if "MAC_ADDRESS" in wanted:
            found += mac_addresses(text, folded)
        if "CRYPTO" in wanted:
            found += wallets(folded, tokens)
        if "COORDINATES" in wanted:
            found += coordinates(text, folded)
        if wanted & SECRETS:
            found += [span for span in secrets(folded, lower, tokens) if span.entity in wanted]
        return found

    def settled(
        self, text: str, threshold: float, named: Iterable[Span] = (), left: Callable[[str, Span], bool] | None = None
    ) -> list[Span]:
        """The spans to take out of a text so that nothing is left to find when they are replaced; in order, not overlapping.

        What is next to a find may stand alone only once that is gone, so the text with placeholders is looked at again.
        `named`: more spans, found by a model; `left`: spans that stay, of those that are found in a text.
        """
        found = resolve([*self.spans(text), *named], threshold)
        chosen = [span for span in found if left is None or not left(text, span)]
        while chosen and _anything_left(text, chosen):
            replaced, offsets = replace(text, chosen)
            more = [
                span for span in resolve(self.spans(replaced), threshold) if left is None or not left(replaced, span)
            ]
            fresh = [moved for span in more if (moved := _moved(span, chosen, offsets)) is not None]
            if not fresh:
                break
            chosen = sorted(chosen + fresh)
        return chosen


# What every find holds at least one of; text between finds without any needs no second look.
TRACES = re.compile(
    r"[\d@:=]|-[0-9A-Fa-f]{2}-|[(\[{<] ?[aA][tT]|[\w.\-]{16}|pass|pwd|secret|token|key|credential", re.IGNORECASE
)


def _anything_left(text: str, spans: Sequence[Span]) -> bool:
    start = 0
    for span in spans:
        if TRACES.search(text, start, span.start):
            return True
        start = span.end
    return TRACES.search(text, start) is not None


def replace(text: str, spans: Sequence[Span]) -> tuple[str, list[int]]:
    """The text with placeholders for some spans (in order, not overlapping), and where each placeholder begins."""
    parts, places, done, length = [], [], 0, 0
    for span in spans:
        placeholder = f"<{span.entity}>"
        length += span.start - done
        places.append(length)
        parts += [text[done : span.start], placeholder]
        length += len(placeholder)
        done = span.end
    return "".join(parts) + text[done:], places


def _moved(span: Span, chosen: Sequence[Span], places: Sequence[int]) -> Span | None:
    """A span of a replaced text as one of the text before; None if it holds a placeholder."""
    before = bisect.bisect_right(places, span.start)
    if before != bisect.bisect_left(places, span.end):
        return None
    if before == 0:
        return span
    last = chosen[before - 1]
    end = places[before - 1] + len(last.entity) + 2
    return None if span.start < end else span._replace(start=span.start - end + last.end, end=span.end - end + last.end)


def _opaque(placeholder: re.Match[str]) -> str:
    return f"<{'_' * (len(placeholder[0]) - 2)}>"
