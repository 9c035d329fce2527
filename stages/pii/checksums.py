"""Check digits of national numbers, cards and accounts. Every function takes the bare characters and says whether they are valid.

Rules are those that the issuing authorities publish; the tests compare each with python-stdnum on numbers made at random.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Sequence


def luhn(digits: str) -> bool:
    """ISO/IEC 7812-1 annex B."""
    odd = sum(map(int, digits[-1::-2]))
    return (odd + sum((0, 2, 4, 6, 8, 1, 3, 5, 7, 9)[int(digit)] for digit in digits[-2::-2])) % 10 == 0


def weighted(digits: str, weights: Sequence[int]) -> int:
    """The sum of digit times weight."""
    return sum(int(digit) * weight for digit, weight in zip(digits, weights, strict=False))


def is_date(year: int, month: int, day: int) -> bool:
    """Whether this day exists."""
    return 1 <= month <= 12 and 1 <= day <= calendar.monthrange(year, month)[1]


def _date6(digits: str, order: str = "ymd") -> bool:
    """Whether six digits are a date of some century."""
    part = {mark: int(digits[2 * place : 2 * place + 2]) for place, mark in enumerate(order)}
    return is_date(2000 + part["y"], part["m"], part["d"]) or is_date(1900 + (part["y"] or 4), part["m"], part["d"])


def us_ssn(digits: str) -> bool:
    """No check digit: area 001-899 but 666, no part all zeros (SSA, since 2011). Numbers from advertisements are none."""
    area, group, serial = digits[:3], digits[3:5], digits[5:]
    return (
        area not in ("000", "666") and area < "900" and group != "00" and serial != "0000"
        and digits not in ("078051120", "219099999", "123456789") and len(set(digits)) > 1
    )  # fmt: skip


def us_itin(digits: str) -> bool:
    """Area 9xx, group 50-65, 70-88, 90-92 or 94-99 (IRS)."""
    group = int(digits[3:5])
    return digits[0] == "9" and (50 <= group <= 65 or 70 <= group <= 88 or 90 <= group <= 92 or 94 <= group <= 99)


def ca_sin(digits: str) -> bool:
    """Luhn; 0 and 8 are not given first."""
    return digits[0] not in "08" and luhn(digits)


def uk_nhs(digits: str) -> bool:
    """Mod 11 of nine digits, weights 10 to 2."""
    check = 11 - weighted(digits[:9], range(10, 1, -1)) % 11
    return len(set(digits)) > 1 and (0 if check == 11 else check) == int(digits[9])


def de_tax_id(digits: str) -> bool:
    """ISO 7064 mod 11, 10; among the first ten digits one stands twice or three times, the others once at most."""
    counts = sorted((digits[:10].count(digit) for digit in set(digits[:10])), reverse=True)
    return digits[0] != "0" and counts[0] in (2, 3) and counts[1] == 1 and mod_11_10(digits)


def mod_11_10(digits: str) -> bool:
    """ISO 7064 mod 11, 10."""
    product = 10
    for digit in digits[:-1]:
        product = ((int(digit) + product) % 10 or 10) * 2 % 11
    return (11 - product) % 10 == int(digits[-1])


def fr_nir(value: str) -> bool:
    """Fifteen characters; 2A and 2B stand for Corsica. Sex 1-4, 7 or 8; month 1-12, 20-42 or 50-99 where it is not known."""
    digits = value[:5] + value[5:7].replace("2A", "19").replace("2B", "18") + value[7:]
    month = int(digits[3:5]) if digits.isdigit() else 13
    real = 1 <= month <= 12 or 20 <= month <= 42 or month >= 50
    return real and value[0] in "123478" and (97 - int(digits[:13]) % 97) == int(digits[13:])


NIF = "TRWAGMYFPDXBNJZSQVHLCKE"


def es_nif(value: str) -> bool:
    """The letter is the number mod 23 in the ministry's order."""
    return NIF[int(value[:8]) % 23] == value[8] and len(set(value[:8])) > 1


def es_nie(value: str) -> bool:
    """As a NIF, with 0, 1, 2 for X, Y, Z."""
    return NIF[int(str("XYZ".index(value[0])) + value[1:8]) % 23] == value[8]


_CF_ODD = dict(zip("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ",
                   (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23),
                   strict=True))  # fmt: skip


def it_fiscal_code(value: str) -> bool:
    """The sixteenth letter: values of odd and even places, mod 26 (decree of 23 December 1976)."""
    even = sum(int(c) if c.isdigit() else ord(c) - ord("A") for c in value[1:15:2])
    return chr((sum(_CF_ODD[c] for c in value[:15:2]) + even) % 26 + ord("A")) == value[15]


def nl_bsn(digits: str) -> bool:
    """The eleven test: weights 9 to 2, then -1."""
    return int(digits) > 0 and len(set(digits)) > 1 and weighted(digits, (9, 8, 7, 6, 5, 4, 3, 2, -1)) % 11 == 0


def be_nn(digits: str) -> bool:
    """Mod 97 of nine digits, with a 2 before them for those born since 2000; the month may be 0, or raised by 20 or 40."""
    month, day, check = int(digits[2:4]) % 20, int(digits[4:6]), int(digits[9:])
    if month > 12 or day > 31:
        return False
    return check in (97 - int(digits[:9]) % 97, 97 - int("2" + digits[:9]) % 97)


def ch_ahv(digits: str) -> bool:
    """EAN-13 with the country 756."""
    return digits.startswith("756") and weighted(digits, (1, 3) * 6 + (1,)) % 10 == 0


def pl_pesel(digits: str) -> bool:
    """A date, whose month tells the century, and weights 1, 3, 7, 9 mod 10."""
    century = {0: 1900, 1: 2000, 2: 2100, 3: 2200, 4: 1800}[int(digits[2:4]) // 20]
    return (
        is_date(century + int(digits[:2]), int(digits[2:4]) % 20, int(digits[4:6]))
        and weighted(digits, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1)) % 10 == 0
    )


def se_personnummer(digits: str) -> bool:
    """Ten or twelve digits; days raised by 60 are coordination numbers."""
    ten = digits[-10:]
    day = int(ten[4:6])
    return luhn(ten) and _date6(ten[:4] + f"{day - 60 if day > 60 else day:02d}")


def no_fodselsnummer(digits: str) -> bool:
    """Two check digits, mod 11; days raised by 40 are D-numbers, months by 40 or 80 synthetic persons."""
    first = -weighted(digits, (3, 7, 6, 1, 8, 9, 4, 5, 2)) % 11
    second = -weighted(digits, (5, 4, 3, 2, 7, 6, 5, 4, 3, 2)) % 11
    day, month = int(digits[:2]), int(digits[2:4])
    return (
        first == int(digits[9]) and second == int(digits[10])
        and _date6(f"{day - 40 if day > 40 else day:02d}{month % 40:02d}{digits[4:6]}", "dmy")
    )  # fmt: skip


def dk_cpr(digits: str) -> bool:
    """A date; the check digit is not used since 2007."""
    return _date6(digits[:6], "dmy")


def fi_personal_identity_code(value: str) -> bool:
    """A date and the number mod 31 as a letter (DVV)."""
    letters = "0123456789ABCDEFHJKLMNPRSTUVWXY"
    return _date6(value[:6], "dmy") and letters[int(value[:6] + value[7:10]) % 31] == value[10] and value[7:10] > "001"


def tr_national_id(digits: str) -> bool:
    """Two check digits: 7 times odd less even places, and the sum, mod 10."""
    odd, even = sum(map(int, digits[0:9:2])), sum(map(int, digits[1:8:2]))
    tenth = (7 * odd - even) % 10
    return digits[0] != "0" and tenth == int(digits[9]) and (odd + even + tenth) % 10 == int(digits[10])


def za_id_number(digits: str) -> bool:
    """A date, citizenship 0 to 2, and Luhn."""
    return digits[10] in "012" and _date6(digits[:6]) and luhn(digits)


def mx_curp(value: str) -> bool:
    """A date, and weights 18 to 2 mod 10 over letters and digits (RENAPO)."""
    letters = "0123456789ABCDEFGHIJKLMN\u00d1OPQRSTUVWXYZ"
    total = sum(letters.index(c) * weight for c, weight in zip(value[:17], range(18, 1, -1), strict=True))
    return _date6(value[4:10]) and -total % 10 == int(value[17]) if value[17].isdigit() else False


def br_cpf(digits: str) -> bool:
    """Two check digits mod 11, weights from 10 and from 11."""
    first = weighted(digits, range(10, 1, -1)) * 10 % 11 % 10
    second = weighted(digits, range(11, 1, -1)) * 10 % 11 % 10
    return len(set(digits)) > 1 and digits[9:] == f"{first}{second}"


def br_cnpj(digits: str) -> bool:
    """Two check digits mod 11, weights from 5 and from 6."""
    weights = (6, 5, 4, 3, 2, 9, 8, 7, 6, 5, 4, 3, 2)
    first = weighted(digits, weights[1:]) * 10 % 11 % 10
    second = weighted(digits, weights) * 10 % 11 % 10
    return len(set(digits)) > 1 and digits[12:] == f"{first}{second}"


_D5 = ("0123456789", "1234067895", "2340178956", "3401289567", "4012395678", "5987604321", "6598710432", "7659821043", "8765932104", "9876543210")  # fmt: skip
_PERMUTED = (
    "0123456789",
    "1576283094",
    "5803796142",
    "8916043527",
    "9453126870",
    "4286573901",
    "2793806415",
    "7046913258",
)


def in_aadhaar(digits: str) -> bool:
    """Verhoeff's check digit; the first is 2 to 9, and no palindrome (UIDAI)."""
    check = 0
    for place, digit in enumerate(reversed(digits)):
        check = int(_D5[check][int(_PERMUTED[place % 8][int(digit)])])
    return check == 0 and digits[0] > "1" and digits != digits[::-1]


def cn_resident_id(value: str) -> bool:
    """Eighteen characters: region, date of birth, order, ISO 7064 mod 11-2 (GB 11643)."""
    total = weighted(value[:17], [pow(2, 17 - i, 11) for i in range(17)])
    year = int(value[6:10])
    return (
        "10X98765432"[total % 11] == value[17].upper() and value[0] in "12345689" and 1850 <= year <= 2100
        and is_date(year, int(value[10:12]), int(value[12:14]))
    )  # fmt: skip


def kr_rrn(digits: str) -> bool:
    """A date and the digit of century and sex; numbers given since October 2020 have no check digit."""
    return _date6(digits[:6]) and digits[6] in "12345678"


def sg_nric_fin(value: str) -> bool:
    """Weights 2, 7, 6, 5, 4, 3, 2 mod 11 as a letter of the series."""
    total = weighted(value[1:8], (2, 7, 6, 5, 4, 3, 2)) + {"T": 4, "G": 4, "M": 3}.get(value[0], 0)
    if value[0] == "M":
        return "KLJNPQRTUWX"[10 - total % 11] == value[8]
    return ("JZIHGFEDCBA" if value[0] in "ST" else "XWUTRQPNMLK")[total % 11] == value[8]


def th_tnin(digits: str) -> bool:
    """Mod 11, weights 13 to 2."""
    return digits[0] in "12345678" and (11 - weighted(digits, range(13, 1, -1)) % 11) % 10 == int(digits[12])


def au_tfn(digits: str) -> bool:
    """Mod 11 (ATO)."""
    return len(set(digits)) > 1 and weighted(digits, (1, 4, 3, 7, 5, 8, 6, 9, 10)) % 11 == 0


def au_medicare(digits: str) -> bool:
    """The ninth digit: weights 1, 3, 7, 9 mod 10; the tenth is the issue."""
    return digits[0] in "23456" and weighted(digits, (1, 3, 7, 9, 1, 3, 7, 9)) % 10 == int(digits[8])


def mod_97(value: str) -> bool:
    """ISO 7064 mod 97-10 of an IBAN: the first four characters go to the end, letters count from 10."""
    return int("".join(str(int(c, 36)) for c in value[4:] + value[:4])) % 97 == 1


PAN = re.compile(r"[A-Z]{3}[ABCFGHJLPT][A-Z]\d{4}[A-Z]")


def in_pan(value: str) -> bool:
    """No check digit; the fourth letter is the kind of holder, and the number is not 0000."""
    return PAN.fullmatch(value) is not None and value[5:9] != "0000"


def uk_nino(value: str) -> bool:
    """No check digit; some prefixes are never given (HMRC)."""
    return (
        value[:2] not in ("BG", "GB", "NK", "KN", "NT", "TN", "ZZ")
        and value[0] not in "DFIQUV"
        and value[1] not in "DFIOQUV"
    )
