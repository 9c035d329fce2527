"""Texts with personal data at known places, made from templates: phone numbers of 24 countries, letters, tables, logs - and what looks like it.

All values are random and nobody's on purpose (or fictional ranges where plans have them); a seed makes the texts the same everywhere. Numbers with check digits
come from python-stdnum's generators or from trial with its checks, never from ours, so that a mistake of ours cannot hide in them.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import phonenumbers
from phonenumbers import PhoneNumberFormat
from stdnum import luhn
from stdnum.be import nn
from stdnum.br import cpf
from stdnum.de import idnr
from stdnum.es import dni
from stdnum.fi import hetu
from stdnum.gb import nhs
from stdnum.iban import calc_check_digits
from stdnum.nl import bsn
from stdnum.pl import pesel
from stdnum.se import personnummer

Gold = dict[str, Any]
NAMES = (
    "Maria Keller",
    "John Abbott",
    "Anna Nowak",
    "Luis Ortega",
    "Emma Dubois",
    "Arjun Mehta",
    "Sofia Rossi",
    "Jonas Lind",
)
PHONE_LINES = {
    "US": "Call me at {}", "GB": "Tel: {}", "DE": "Telefon: {}", "FR": "Tél. {}", "ES": "Teléfono {}", "IT": "Telefono: {}", "NL": "Telefoon {}", "SE": "Ring {}", "PL": "Telefon {}",
    "BR": "Telefone: {}", "MX": "Llame al {}", "AR": "Celular {}", "IN": "Mobile: {}", "AU": "Phone {}", "NZ": "You can reach us on {}", "ZA": "Cell {}", "JP": "電話 {}", "KR": "전화 {}",
    "CN": "手机 {}", "RU": "тел. {}", "TR": "Telefon: {}", "DK": "Tlf. {}", "NO": "Tlf. {}", "FI": "Puh. {}",
}  # fmt: skip


def digits(rng: random.Random, count: int) -> str:
    return "".join(rng.choice("0123456789") for _ in range(count))


def tried(rng: random.Random, make: Callable[[], str], valid: Callable[[str], bool]) -> str:
    """The first of many candidates that is valid."""
    return next(value for value in (make() for _ in range(100_000)) if valid(value))


def phone(rng: random.Random, region: str, form: int) -> str:
    """A valid number of a country: its example with other last digits."""
    example = phonenumbers.example_number_for_type(region, rng.choice((0, 1)))
    base = str(example.national_number)
    for _ in range(1000):
        example.national_number = int(base[:-4] + digits(rng, 4))
        if phonenumbers.is_valid_number(example):
            return str(phonenumbers.format_number(example, form))
    raise ValueError(f"no valid number of {region} near {base}")


def card(rng: random.Random) -> str:
    prefix, size = rng.choice((("4", 16), ("51", 16), ("55", 16), ("34", 15), ("37", 15), ("6011", 16), ("2221", 16)))
    body = prefix + digits(rng, size - len(prefix) - 1)
    value = body + luhn.calc_check_digit(body)
    if rng.random() < 0.5:
        return value
    mark = rng.choice(" -")
    parts = (value[:4], value[4:10], value[10:]) if size == 15 else tuple(value[n : n + 4] for n in range(0, 16, 4))
    return mark.join(parts)


def iban(rng: random.Random) -> str:
    country, size = rng.choice((("DE", 18), ("FR", 23), ("NL", 14), ("ES", 20), ("AT", 16), ("CH", 17), ("PL", 24)))
    body = (
        "".join(rng.choice("ABCDEFGHINGB") for _ in range(4)) + digits(rng, 10)
        if country == "NL"
        else digits(rng, size)
    )
    value = country + calc_check_digits(country + "00" + body) + body
    return " ".join(value[n : n + 4] for n in range(0, len(value), 4)) if rng.random() < 0.5 else value


def ip(rng: random.Random) -> str:
    if rng.random() < 0.7:
        return ".".join(str(rng.randrange(1, 255)) for _ in range(4))
    return "2a01:" + ":".join(f"{rng.randrange(1, 65536):x}" for _ in range(7))


def email(rng: random.Random) -> str:
    first, last = rng.choice(NAMES).lower().split()
    return f"{first}{rng.choice(('.', '_', ''))}{last}{rng.choice(('', digits(rng, 2)))}@{rng.choice(('example.com', 'mail.example.org', 'firma-example.de', 'example.co.uk'))}"


def mac(rng: random.Random) -> str:
    return rng.choice(":-").join(f"{rng.randrange(256):02x}" for _ in range(6))


def ssn(rng: random.Random) -> str:
    return f"{rng.randrange(1, 665):03d}-{rng.randrange(1, 99):02d}-{rng.randrange(1, 9999):04d}"


VALUES: dict[str, tuple[Callable[[random.Random], str], tuple[str, ...]]] = {
    "EMAIL_ADDRESS": (email, ("Write to {}.", "<{}>", "E-mail: {}", "Contact {} for details", "{}; please reply")),
    "CREDIT_CARD": (card, ("Card number {}", "I paid with {} yesterday", "Kreditkarte: {}", "Visa {} exp 09/27")),
    "IBAN_CODE": (iban, ("IBAN: {}", "Bitte überweisen Sie auf {}", "pay to {} within 14 days")),
    "IP_ADDRESS": (ip, ("Failed login from {} port 22", "client {} - GET /index.html", "IP: {}", "{} replied in 12 ms")),
    "MAC_ADDRESS": (mac, ("ether {} txqueuelen 1000", "DHCPACK to {}", "MAC: {}")),
    "US_SSN": (ssn, ("SSN: {}", "social security number {}", "My SSN is {}.")),
    "UK_NHS": (lambda r: tried(r, lambda: digits(r, 10), nhs.is_valid), ("NHS number: {}", "NHS No {}")),
    "DE_TAX_ID": (lambda r: tried(r, lambda: "".join(r.sample("0123456789", 9)) + digits(r, 2), idnr.is_valid), ("Steuer-ID: {}", "Steueridentifikationsnummer {}")),
    "NL_BSN": (lambda r: tried(r, lambda: digits(r, 9), bsn.is_valid), ("BSN: {}", "burgerservicenummer {}")),
    "ES_NIF": (lambda r: (lambda n: n + dni.calc_check_digit(n))(digits(r, 8)), ("DNI {}", "con NIF {}", "{} (DNI)")),
    "PL_PESEL": (lambda r: tried(r, lambda: f"{r.randrange(50, 99)}{r.randrange(1, 13):02d}{r.randrange(1, 29):02d}{digits(r, 5)}", pesel.is_valid), ("PESEL: {}", "numer PESEL {}")),
    "BR_CPF": (lambda r: cpf.format(tried(r, lambda: digits(r, 11), cpf.is_valid)), ("CPF: {}", "portador do CPF {}", "{}")),
    "SE_PERSONNUMMER": (lambda r: tried(r, lambda: f"{r.randrange(50, 99)}{r.randrange(1, 13):02d}{r.randrange(1, 29):02d}-{digits(r, 4)}", personnummer.is_valid), ("personnummer {}", "född, {}")),
    "FI_PERSONAL_IDENTITY_CODE": (lambda r: tried(r, lambda: f"{r.randrange(1, 29):02d}{r.randrange(1, 13):02d}{r.randrange(50, 99)}-{digits(r, 3)}{r.choice('0123456789ABCDEFHJKLMNPRSTUVWXY')}", hetu.is_valid), ("hetu {}", "henkilötunnus: {}", "{}")),
    "BE_NN": (lambda r: nn.format(tried(r, lambda: f"{r.randrange(50, 99)}{r.randrange(1, 13):02d}{r.randrange(1, 29):02d}{digits(r, 5)}", nn.is_valid)), ("rijksregisternummer {}", "{}")),
}  # fmt: skip


def look_alike(rng: random.Random) -> str:
    """A line that holds nothing personal and much that looks like it."""
    n = lambda count: digits(rng, count)  # noqa: E731
    return rng.choice(
        (
            f"Version {rng.randrange(1, 9)}.{rng.randrange(20)}.{rng.randrange(20)}.{rng.randrange(1, 9)} was released on 20{n(1)}{rng.randrange(2, 9)}-0{rng.randrange(1, 9)}-1{n(1)}.",
            f"ISBN 978-{n(1)}-{n(2)}-{n(6)}-{n(1)}, pp. {rng.randrange(100, 400)}-{rng.randrange(400, 900)}, ISSN {n(4)}-{n(4)}",
            f"[1{n(9)}.{n(6)}] cpu{n(1)}: event {n(5)} took {n(4)} us, addr 0x{rng.randrange(1 << 48):012x}",
            f"20{rng.randrange(10, 26)}-0{rng.randrange(1, 9)}-1{n(1)} 1{n(1)}:3{n(1)}:0{n(1)},{n(3)} INFO order {n(9)} shipped, tracking {n(12)}",
            f"sha1 {rng.getrandbits(160):040x} size {n(7)} uuid {rng.getrandbits(32):08x}-{n(4)}-4{n(3)}-a{n(3)}-{rng.getrandbits(48):012x}",
            " ".join(n(rng.choice((3, 4, 5))) for _ in range(12)),
            "\t".join(f"{rng.randrange(1000)},{n(3)}.{n(2)}" for _ in range(6)),
            f"Invoice {n(8)} of 1{n(1)}.0{rng.randrange(1, 9)}.20{rng.randrange(10, 26)}: total {rng.randrange(1, 99)},{n(3)},{n(3)} EUR; item {n(10)}",
            f"https://example.org/news/{n(8)}/story-{n(10)}.html?id={n(9)}&ts=1{n(9)}",
            f"The years 19{n(2)}-19{n(2)} and 20{n(2)}/20{n(2)}; population 1{n(1)} {n(3)} {n(3)}; pi is 3.{n(12)}.",
            f"std::vector<a::b> x; // see bug #{n(6)}, RFC {n(4)}, CVE-20{n(2)}-{n(5)}, section 4.{n(1)}.{n(1)}.1",
            f"Patent US {n(7)} and DOI 10.{n(4)}/{n(8)}; arXiv:{n(4)}.{n(5)}; PMID {n(8)}",
        )
    )


def texts(count: int, seed: int = 7) -> list[Gold]:
    """Rows of text and spans: label, start, end."""
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        parts: list[tuple[str, str | None, str]] = []  # line, label, value
        for _ in range(rng.randrange(1, 4)):
            if rng.random() < 0.4:
                region = rng.choice(list(PHONE_LINES))
                plain = rng.random() < 0.6
                value = phone(rng, region, PhoneNumberFormat.NATIONAL if plain else PhoneNumberFormat.INTERNATIONAL)
                parts.append(
                    (
                        PHONE_LINES[region] if plain or rng.random() < 0.5 else "{} is the new one.",
                        "PHONE_NUMBER",
                        value,
                    )
                )
            else:
                label = rng.choice(list(VALUES))
                make, lines = VALUES[label]
                parts.append((rng.choice(lines), label, make(rng)))
        parts += [(look_alike(rng).replace("{", "(").replace("}", ")"), None, "") for _ in range(rng.randrange(3))]
        rng.shuffle(parts)
        text, spans = f"Dear {rng.choice(NAMES)},\n", []
        for line, label, value in parts:
            if label is not None:
                start = len(text) + line.index("{}")
                spans.append({"label": label, "start": start, "end": start + len(value)})
            text += (line.replace("{}", value) if label else line) + "\n"
        rows.append({"id": f"made-{number}", "text": text, "spans": spans})
    return rows
