"""Check digits: each rule against python-stdnum, on numbers made at random and on neighbours of valid ones."""

import importlib
import random
import re
from collections.abc import Callable

import pytest

from stages.pii import checksums as check
from stages.pii.national import KINDS, MIXED
from stages.pii.pseudonym import CHECKS
from stages.pii.wallets import is_base58check, is_bech32, is_ethereum, keccak256

D = "0123456789"
L = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def date(rng: random.Random, order: str, shift: dict[str, int] | None = None) -> str:
    part = {
        "y": rng.randrange(20),
        "m": rng.randrange(1, 13),
        "d": rng.randrange(1, 29),
        "Y": rng.randrange(1900, 2020),
    }  # past in every century: stdnum refuses the future
    for name, by in (shift or {}).items():
        part[name] += by
    return "".join(f"{part[mark]:0{4 if mark == 'Y' else 2}d}" for mark in order)


def digits(rng: random.Random, count: int) -> str:
    return "".join(rng.choice(D) for _ in range(count))


# Our rule, stdnum's module, and how to make a candidate whose last character or two are the check.
RULES: dict[str, tuple[Callable[[str], bool], str, Callable[[random.Random], str], str]] = {
    "us_itin": (check.us_itin, "us.itin", lambda r: f"9{digits(r, 2)}{r.randrange(66, 100)}" + digits(r, 4), D),
    "ca_sin": (check.ca_sin, "ca.sin", lambda r: digits(r, 9), D),
    "uk_nhs": (check.uk_nhs, "gb.nhs", lambda r: digits(r, 10), D),
    "de_tax_id": (check.de_tax_id, "de.idnr", lambda r: "".join(r.sample(D, 9)) + digits(r, 2), D),
    "es_nif": (check.es_nif, "es.dni", lambda r: digits(r, 8) + r.choice(L), L),
    "es_nie": (check.es_nie, "es.nie", lambda r: r.choice("XYZ") + digits(r, 7) + r.choice(L), L),
    "it_fiscal_code": (check.it_fiscal_code, "it.codicefiscale", lambda r: "RSSMRA" + digits(r, 2) + r.choice("ABCDEHLMPRST") + f"{r.randrange(1, 29):02d}" + "H" + digits(r, 3) + r.choice(L), L),
    "nl_bsn": (check.nl_bsn, "nl.bsn", lambda r: digits(r, 9), D),
    "ch_ahv": (check.ch_ahv, "ch.ssn", lambda r: "756" + digits(r, 10), D),
    "pl_pesel": (check.pl_pesel, "pl.pesel", lambda r: date(r, "ymd") + digits(r, 5), D),
    "no_fodselsnummer": (check.no_fodselsnummer, "no.fodselsnummer", lambda r: date(r, "dmy") + digits(r, 5), D),
    "tr_national_id": (check.tr_national_id, "tr.tckimlik", lambda r: digits(r, 11), D),
    "za_id_number": (check.za_id_number, "za.idnr", lambda r: date(r, "ymd") + digits(r, 4) + r.choice("01") + "8" + digits(r, 1), D),
    "br_cpf": (check.br_cpf, "br.cpf", lambda r: digits(r, 11), D),
    "br_cnpj": (check.br_cnpj, "br.cnpj", lambda r: digits(r, 14), D),
    "in_aadhaar": (check.in_aadhaar, "in_.aadhaar", lambda r: digits(r, 12), D),
    "cn_resident_id": (check.cn_resident_id, "cn.ric", lambda r: "110108" + date(r, "Ymd") + digits(r, 3) + r.choice(D + "X"), D + "X"),
    "th_tnin": (check.th_tnin, "th.pin", lambda r: r.choice("12345678") + digits(r, 12), D),
    "au_tfn": (check.au_tfn, "au.tfn", lambda r: digits(r, 9), D),
    "fi": (check.fi_personal_identity_code, "fi.hetu", lambda r: date(r, "dmy") + "-" + f"{r.randrange(2, 900):03d}" + r.choice("0123456789ABCDEFHJKLMNPRSTUVWXY"), "0123456789ABCDEFHJKLMNPRSTUVWXY"),
    "be_nn": (check.be_nn, "be.nn", lambda r: date(r, "ymd") + digits(r, 5), D),
    "fr_nir": (check.fr_nir, "fr.nir", lambda r: r.choice("12") + digits(r, 2) + f"{r.randrange(1, 13):02d}75" + digits(r, 8), D),
    "mx_curp": (check.mx_curp, "mx.curp", lambda r: "XAXX" + date(r, "ymd") + "HDFXXX0" + digits(r, 1), D),
    "luhn": (check.luhn, "luhn", lambda r: digits(r, 16), D),
    "se": (check.se_personnummer, "se.personnummer", lambda r: date(r, "ymd") + digits(r, 4), D),
}  # fmt: skip


@pytest.mark.parametrize("name", RULES)
def test_against_stdnum(name: str) -> None:
    ours, module, make, last = RULES[name]
    theirs = importlib.import_module(f"stdnum.{module}")
    rng = random.Random(name)
    agreed = 0
    for _ in range(400):
        base = make(rng)
        for end in rng.sample(last, min(12, len(last))):
            value = base[:-1] + end
            expected = theirs.is_valid(value[:6] + "-" + value[6:] if name == "se" else value)
            assert ours(value) == expected, (value, expected)
            agreed += expected
    assert agreed > 3  # valid ones were among them


def test_known_numbers() -> None:
    valid = {
        "us_ssn": ["536904399"], "us_itin": ["912903456"], "uk_nino": ["AB123456C"], "in_pan": ["ACUPA7085R"], "sg_nric_fin": ["S0000001I", "T0000001E", "F0000001U", "G0000001P", "M1234567K"],
        "au_medicare": ["2123456701"], "fr_nir": ["295109912611193", "253072A07300443"], "es_nif": ["54362315K"],
    }  # fmt: skip
    for name, numbers in valid.items():
        for number in numbers:
            assert getattr(check, name)(number), (name, number)
    for name, number in (("us_ssn", "000123456"), ("us_ssn", "666123456"), ("us_ssn", "912345678"), ("us_ssn", "123004567"), ("uk_nino", "GB123456A"), ("sg_nric_fin", "S0000001J"),
                         ("dk_cpr", "3213851234"), ("au_medicare", "2123456711")):  # fmt: skip
        assert not getattr(check, name)(number), (name, number)


def test_ibans() -> None:
    from stdnum import iban

    rng = random.Random(5)
    right = 0
    for number in [
        "GB82WEST12345698765432",
        "DE89370400440532013000",
        "FR1420041010050500013M02606",
        "NO9386011117947",
    ]:
        assert check.mod_97(number)
        for _ in range(50):
            place = rng.randrange(4, len(number))
            changed = number[:place] + rng.choice(D) + number[place + 1 :]
            right += iban.is_valid(changed, check_country=False)
            assert check.mod_97(changed) == iban.is_valid(changed, check_country=False)
    assert right


def test_wallets() -> None:
    assert is_base58check("1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa") and not is_base58check(
        "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNb"
    )
    assert is_base58check("3J98t1WpEZ73CNmQviecrnyiWrnqRhWNLy")
    assert is_bech32("bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4") and not is_bech32(
        "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t5"
    )
    assert is_bech32("bc1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vqzk5jj0")  # BIP 350
    for address in (
        "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
        "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
    ):  # EIP-55
        assert is_ethereum(address) and is_ethereum(address.lower())
        assert not is_ethereum(address.swapcase().replace("X", "x"))
    assert not is_ethereum("0x" + "0" * 40)
    assert keccak256(b"").hex() == "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"


def test_every_checked_number_refuses_most_neighbours() -> None:
    """A check that lets everything through would fail here."""
    rng = random.Random(1)
    for kind in KINDS:
        if not kind.checked:
            continue
        sizes = {sum(map(int, re.findall(r"\d+", shape))) for shape in kind.shapes}
        passed = sum(kind.valid(digits(rng, size)) for size in sizes for _ in range(600)) / (600 * len(sizes))
        assert passed < 0.15, kind.entity
    assert {kind.entity for kind in KINDS if kind.checked} | {kind.entity for kind in MIXED if kind.checked} == set(
        CHECKS
    )
