"""Structured personal data - e-mail addresses, numbers, network addresses - by presidio-analyzer's recognisers.

The recognisers run directly, without presidio's NLP engine, and only on the windows of `stages.pii.cues`. Scores are
presidio's: a checked checksum is 1.0; a context word of the recogniser among the five words before raises a score by 0.35, and to 0.4 at
least (as its context enhancer does, but on words instead of lemmas).
"""

from __future__ import annotations

import bisect
import contextlib
import ipaddress
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from stages.pii.cues import GATES, PHONE_DIGITS, Characters, windows

STRUCTURED = tuple(GATES)
PHONE_REGIONS = ("US", "GB", "DE", "FR", "IL", "IN", "CA", "BR")  # presidio 2.2


class Span(NamedTuple):
    """Code points [start, end) of a text hold an `entity`, with a confidence from 0 to 1."""

    start: int
    end: int
    entity: str
    score: float


class Recognisers:
    """The recognisers of some structured entities. Costs a second or two to make the first time; use it again."""

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
        self._recognisers = _presidio(phone_regions)
        self._entities = [entity for entity in STRUCTURED if entity in entities]
        self._special_ips = special_ips
        self._shortest = {region: _shortest_number(region) for region in phone_regions}
        self._context = {entity: _context(self._recognisers[entity].context) for entity in self._entities}

    def spans(self, text: str) -> list[Span]:
        """All spans in a text, overlaps included, in no particular order."""
        found: list[Span] = []
        characters = Characters(text)
        for entity in self._entities:
            for start, end in windows(text, characters, entity):
                found += self._in_window(text, entity, start, end)
        return found

    def _in_window(self, text: str, entity: str, start: int, end: int) -> Iterable[Span]:
        if entity == "PHONE_NUMBER":
            self._recognisers[entity].supported_regions = self._regions(text[start:end])
        for result in self._recognisers[entity].analyze(text[start:end], [entity], None):
            span = Span(start + result.start, start + result.end, entity, result.score)
            value = text[span.start : span.end]
            if entity == "PHONE_NUMBER" and sum(map(str.isdigit, value)) < PHONE_DIGITS:
                continue
            if entity == "IP_ADDRESS" and not self._special_ips and is_special(value):
                continue
            if entity == "EMAIL_ADDRESS":
                span = span._replace(start=span.start + _before_local_part(value))
            if span.score < 1.0 and self._context[entity].search(_words_before(text, span.start)):
                span = span._replace(score=min(1.0, max(span.score + CONTEXT_BOOST, CONTEXT_FLOOR)))
            yield span

    def _regions(self, window: str) -> list[str]:
        """The regions whose shortest number the window's digits could make; all of them for a number with `+`."""
        if "+" in window or "＋" in window:
            return list(self._shortest)
        digits = sum(map(str.isdigit, window))
        return [region for region, shortest in self._shortest.items() if shortest <= digits]


CONTEXT_WORDS, CONTEXT_BOOST, CONTEXT_FLOOR = 5, 0.35, 0.4  # presidio's defaults


def _context(words: list[str]) -> re.Pattern[str]:
    """A pattern for the words a recogniser is made more certain by (never matching if it has none)."""
    some = "|".join(re.escape(word.strip()) for word in words)
    return re.compile(rf"\b(?:{some})\b" if some else r"(?!)", re.IGNORECASE)


def _words_before(text: str, start: int) -> str:
    return " ".join(text[max(0, start - 100) : start].split()[-CONTEXT_WORDS:])


def _before_local_part(address: str) -> int:
    """How much of a match is the URL or query that the address stands in (`?to=`, `/contact/`), not the address."""
    local = address[: address.rindex("@")]
    return max(local.rfind(mark) for mark in "/=?&") + 1


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


def _presidio(phone_regions: Sequence[str]) -> dict[str, Any]:
    import phonenumbers
    import tldextract

    # presidio imports whatever NLP frameworks it finds, for engines that are not used here: 8.7 s of processor time instead of 1.7.
    with hidden(*FRAMEWORKS):
        from presidio_analyzer.predefined_recognizers import (
            CreditCardRecognizer,
            CryptoRecognizer,
            EmailRecognizer,
            IbanRecognizer,
            IpRecognizer,
            MacAddressRecognizer,
            PhoneRecognizer,
            UsSsnRecognizer,
        )

    unknown = sorted(set(phone_regions) - set(phonenumbers.SUPPORTED_REGIONS))
    if unknown:
        raise ValueError(f"unknown phone regions {unknown}; expected two-letter codes such as US, GB, DE")
    extract = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)  # the list in the package, never the network

    class OfflineEmailRecognizer(EmailRecognizer):
        """Checks the domain (what follows the last `@`) against the bundled public suffix list."""

        def validate_result(self, pattern_text: str) -> bool:
            return extract(pattern_text.rsplit("@", 1)[-1]).fqdn != ""

    return {
        "EMAIL_ADDRESS": OfflineEmailRecognizer(),
        "PHONE_NUMBER": PhoneRecognizer(supported_regions=()),
        "CREDIT_CARD": CreditCardRecognizer(),
        "US_SSN": UsSsnRecognizer(),
        "IBAN_CODE": IbanRecognizer(),
        "IP_ADDRESS": IpRecognizer(),
        "CRYPTO": CryptoRecognizer(),
        "MAC_ADDRESS": MacAddressRecognizer(),
    }


def _shortest_number(region: str) -> int:
    from phonenumbers import PhoneMetadata

    metadata: Any = PhoneMetadata.metadata_for_region(region)
    return min(metadata.general_desc.possible_length)


# Special-purpose addresses (RFC 6890 and its registries), listed here because `ipaddress` changes its own list between releases.
SPECIAL_NETWORKS = tuple(
    ipaddress.ip_network(network)
    for network in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24"),
        *("192.0.2.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3"),
        *("::/127", "64:ff9b:1::/48", "100::/64", "2001:db8::/32", "fc00::/7", "fe80::/10", "ff00::/8"),
    )
)


def is_special(address: str) -> bool:
    """Whether an IP address (with or without prefix length) is private, loopback, documentation or the like."""
    ip = ipaddress.ip_interface(address).ip
    return any(ip in network for network in SPECIAL_NETWORKS if network.version == ip.version)


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
