"""Stand-ins: the same value always gets the same one, by HMAC-SHA256 with a key; without the key nobody can go back or make the table.

A stand-in has the form of what it stands for but is nobody's: addresses at example.org (RFC 2606), telephone numbers kept for fiction,
networks for documentation, card and account numbers that no institution has, and else letters for letters and digits for digits, of which no check
digit is right.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Iterator

from stages.pii import checksums as check
from stages.pii.national import KINDS, MIXED

FIRST = ("Alex", "Ashton", "Avery", "Blake", "Casey", "Dana", "Devon", "Ellis", "Emery", "Finley", "Harper", "Jamie", "Jordan", "Kai", "Kelly", "Lee",
         "Logan", "Marin", "Morgan", "Nico", "Parker", "Quinn", "Reese", "Riley", "Robin", "Rowan", "Sasha", "Skyler", "Sydney", "Taylor", "Toni", "Val")  # fmt: skip
LAST = ("Abbott", "Barton", "Calder", "Dalton", "Easton", "Fenwick", "Garner", "Holt", "Ingram", "Jarvis", "Keller", "Lowell", "Mercer", "Norwood",
        "Oakley", "Prescott", "Quimby", "Ramsey", "Sutton", "Thorne", "Underhill", "Vance", "Weston", "Yardley", "Archer", "Benton", "Colby", "Dunmore",
        "Elwood", "Forrest", "Granger", "Hadley")  # fmt: skip
NO_FORM = {"PRIVATE_KEY": "key", "JWT": "token", "LOCATION": "Place", "ORGANIZATION": "Organization", "NRP": "Group"}
PHONE_EXTENSION = re.compile(r"(?:[x#,]|ext)", re.IGNORECASE)


class Stream:
    """Numbers that follow from a key and a value alone."""

    def __init__(self, key: bytes, entity: str, value: str) -> None:
        self._bytes = self._all(key, f"{entity}\0{value}".encode("utf-8", "surrogatepass"))

    @staticmethod
    def _all(key: bytes, message: bytes) -> Iterator[int]:
        block = hmac.digest(key, message, "sha256")
        while True:
            yield from block
            block = hmac.digest(key, block + message, "sha256")

    def below(self, limit: int) -> int:
        """The next number from 0 to limit - 1, each as likely as the next to one part in 2^32."""
        number = 0
        for _ in range(5 if limit <= 256 else 8):
            number = number << 8 | next(self._bytes)
        return number % limit

    def digits(self, count: int) -> str:
        return "".join(str(self.below(10)) for _ in range(count))

    def hex(self, count: int) -> str:
        return "".join("0123456789abcdef"[self.below(16)] for _ in range(count))


def key_check(key: bytes) -> str:
    """Eight hexadecimal digits that tell keys apart and say nothing else about them."""
    return hmac.digest(key, b"gristmill key check", "sha256")[:4].hex()


def stand_in(key: bytes, entity: str, value: str) -> str:
    """What to write in place of a value."""
    stream = Stream(key, entity, canonical(entity, value))
    make = MAKERS.get(entity)
    if make is not None:
        return make(stream, value)
    if entity in NO_FORM:
        return f"{NO_FORM[entity]}-{stream.hex(8)}"
    return _same_form(stream, entity, value)


def canonical(entity: str, value: str) -> str:
    """The value without the marks that people write differently."""
    if entity == "EMAIL_ADDRESS":
        return value.casefold()
    if entity == "PHONE_NUMBER":
        return "".join(filter(str.isdigit, PHONE_EXTENSION.split(value)[0])).removeprefix("00")
    if entity in ("PERSON", "LOCATION", "ORGANIZATION", "NRP", "DATE_TIME"):
        return " ".join(value.casefold().split())
    if entity in ("API_KEY", "JWT", "PASSWORD", "CRYPTO"):
        return value
    if entity in ("IP_ADDRESS", "COORDINATES"):
        return value.casefold().replace(" ", "")
    return "".join(filter(str.isalnum, value)).upper()


def _filled(pattern: str, characters: str) -> str:
    """The digits of a pattern, one by one, replaced by the characters."""
    rest = iter(characters)
    return re.sub(r"[0-9]", lambda match: next(rest, match[0]), pattern)


def _email(stream: Stream, value: str) -> str:
    return f"{FIRST[stream.below(32)]}.{LAST[stream.below(32)]}.{stream.hex(8)}@example.org".lower()


def _phone(stream: Stream, value: str) -> str:
    """Numbers for drama of Ofcom (GB), ARCEP (FR), Bundesnetzagentur (DE) by the country code; else 555-01xx of North America."""
    digits = "".join(filter(str.isdigit, value))
    plus = value.lstrip("(").startswith(("+", "00"))
    if plus and digits.removeprefix("00").startswith("44"):
        return f"+44 7700 900{stream.digits(3)}"
    if plus and digits.removeprefix("00").startswith("33"):
        tail = stream.digits(4)
        return f"+33 6 39 98 {tail[:2]} {tail[2:]}"
    if plus and digits.removeprefix("00").startswith("49"):
        return f"+49 30 23125 {stream.digits(3)}"
    area = f"{2 + stream.below(8)}{stream.below(9)}{stream.below(10)}"
    return f"{'+1 ' if plus else ''}{area}-555-01{stream.digits(2)}"


def _card(stream: Stream, value: str) -> str:
    """Under 9999, which ISO/IEC 7812 leaves to national bodies and no network uses; Luhn's check digit is right."""
    count = sum(map(str.isdigit, value))
    body = "9999" + stream.digits(count - 5)
    return _filled(value, next(body + last for last in "0123456789" if check.luhn(body + last)))


def _iban(stream: Stream, value: str) -> str:
    """Under XX, which ISO 3166 leaves to users."""
    bare = "".join(filter(str.isalnum, value))
    body = "".join(str(stream.below(10)) if c.isdigit() else chr(65 + stream.below(26)) for c in bare[4:])
    checked = 98 - int("".join(str(int(c, 36)) for c in body + "XX00")) % 97
    rest = iter(f"XX{checked:02d}{body}")
    return "".join(next(rest) if c.isalnum() else c for c in value)


def _ip(stream: Stream, value: str) -> str:
    """In 198.18.0.0/15 (RFC 2544) or 2001:db8::/32 (RFC 3849)."""
    address, _, prefix = value.partition("/")
    made = (
        f"2001:db8:{stream.hex(4)}:{stream.hex(4)}::{stream.hex(4)}" if ":" in address
        else f"198.{18 + stream.below(2)}.{stream.below(256)}.{stream.below(256)}"
    )  # fmt: skip
    return f"{made}/{prefix}" if prefix else made


def _mac(stream: Stream, value: str) -> str:
    """A locally administered address, in the same marks."""
    rest = iter("02" + stream.hex(10))
    made = "".join(next(rest) if c.isalnum() else c for c in value)
    return made.upper() if value.upper() == value else made


def _person(stream: Stream, value: str) -> str:
    return f"{FIRST[stream.below(32)]} {LAST[stream.below(32)]}"


def _coordinates(stream: Stream, value: str) -> str:
    """A place in the ocean between 0 and 1 degrees south and west, with as many digits."""
    return re.sub(
        r"\d+(?:\.(\d+))?",
        lambda match: (
            f"0.{stream.digits(len(match[1]))}"
            if match[1]
            else f"{stream.below(60):0{len(match[0])}d}"[: len(match[0])]
        ),
        value,
    )


MAKERS: dict[str, Callable[[Stream, str], str]] = {
    "EMAIL_ADDRESS": _email, "PHONE_NUMBER": _phone, "CREDIT_CARD": _card, "IBAN_CODE": _iban, "IP_ADDRESS": _ip, "MAC_ADDRESS": _mac,
    "PERSON": _person, "COORDINATES": _coordinates,
    "US_SSN": lambda stream, value: _filled(value, "666" + stream.digits(6)),  # an area that is never given
    "US_ITIN": lambda stream, value: _filled(value, f"9{stream.digits(2)}00{stream.digits(4)}"),  # a group that is never given
}  # fmt: skip
CHECKS: dict[str, Callable[[str], bool]] = {
    **{kind.entity: kind.valid for kind in KINDS if kind.checked},
    **{kind.entity: kind.valid for kind in MIXED if kind.checked},
}
TRIES = 64  # one in ten is right by accident


def _same_form(stream: Stream, entity: str, value: str) -> str:
    """Digits for digits and letters for letters, such that the check digits are wrong where there are any."""
    made = value
    for _ in range(TRIES):
        made = "".join(_like(stream, c) for c in value)
        if entity not in CHECKS or not _passes(CHECKS[entity], made):
            break
    return made


def _like(stream: Stream, character: str) -> str:
    if character.isdigit():
        return str(stream.below(10))
    if character.isalpha():
        letter = chr(97 + stream.below(26))
        return letter.upper() if character.isupper() else letter
    return character


def _passes(valid: Callable[[str], bool], value: str) -> bool:
    try:
        return valid("".join(filter(str.isalnum, value)))
    except (ValueError, KeyError, IndexError):  # letters where this number has digits
        return False
