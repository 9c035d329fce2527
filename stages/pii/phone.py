"""Phone numbers: rows of digits that a `+`, a form or a word makes a number, checked against the plans of countries.

Four ways to be one, most certain first:

- international: `+` (or 00) with a known country code and a length that the country has, in any country;
- a word for it before (`phone`, `tel`, `call`, in some twenty languages): anything of 7 to 15 digits that is no date and the like;
- the form of the country: `(212) 555-0123` and `212-555-0123` in North America, and elsewhere a trunk prefix with the area code
  written as the country writes it, if the number is valid in one of the chosen regions;
- nothing of the kind: never. A bare row of digits is more often an id.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from stages.pii.cues import Lexicon, words_before
from stages.pii.entities import Span
from stages.pii.numbers import Group, ends_alone, starts_alone
from stages.pii.regions import international, national, plan

MOST_DIGITS = 15  # ITU-T E.164, without prefixes
CUE_REACH = 40
INTERNATIONAL, POSSIBLE, NATIONAL_FORM, CUED_VALID, CUED = 0.8, 0.5, 0.5, 0.75, 0.5

CUES = Lexicon("""
    phone phones telephone telephones iphone tel tels cell cellular cellphone cells mob mobile mobiles fax faxes telefax call calls called calling
    dial dialed dialled dialing dialling ring reach reached text texted sms whatsapp viber telegram hotline helpline landline voicemail pager
    switchboard contact contacts my_number his_number her_number our_number your_number their_number contact_number the_number registered
    toll_free ph phn
    tél téléphone telephone portable appelez appeler appel joindre numéro_de
    telefon* handy handynummer fon mobil* rufnummer* durchwahl anrufen erreichbar
    teléfono teléfonos telefono telefonos móvil movil celular celulares llame llama llamar llamando fijo cellulare chiamare chiama chiamate
    telefone telefones telemóvel ligue ligar telefoon* mobiel bellen gsm tfn tlf tlph puh puhelin* komórka kom dzwoń dzwonić
    sími тел телефон* моб мобильн* звоните звонить факс τηλ τηλέφωνο κιν هاتف جوال تليفون موبايل טלפון טל נייד फ़ोन फोन मोबाइल
    điện_thoại telepon çağrı cep
    电话 電話 手机 手機 携帯 联系 전화 휴대 연락처 핸드폰 โทร
""")
# A nearer word that says what the digits are instead.
OTHERS = Lexicon("""
    isbn* issn ean gtin upc doi pmid arxiv asin order orders invoice* account accounts acct ref reference id ids case ticket serial* sku part parts
    model models v version* iban card cards ssn zip* postal* postcode patent* page pages pp rs usd eur inr license* licence* passport bsn nhs tax sin
    cpf cnpj pesel nir imei vin tracking confirmation bank* routing sort social medicare aadhaar issue bug pr commit build uid gid pid rfc cve
    timestamp epoch size bytes total port lat latitude lon longitude steuer* identifikationsnummer idnr ahv* cc visa mastercard amex code insurance
    identity identification personnummer dni nif nie hetu national* insee sécu* pan curp cvv pin
    身份证 订单 注文 주민
""")

_YEAR = rb"(?:1[5-9]|20)\d\d"
# Dates, ranges of years and addresses of machines, at the beginning of a row of digits: never a phone number.
NEVER = re.compile(
    rb"(?:%b([-/.])[01]?\d\1[0-3]?\d|[0-3]?\d([-/.])[0-3]?\d\2(?:%b|\d\d(?![-/.\d]))|%b ?[-/] ?(?:%b|\d\d)|%b(?:0[1-9]|1[0-2])[0-3]\d[ -]?\d{4,6}"
    rb"|\d{1,3}\.\d{5,}|97[89][- ]\d[\d -]{9,12}|\d{1,3}(?:\.\d{1,3}){3}(?!\.))(?!\d)"
    % (_YEAR, _YEAR, _YEAR, _YEAR, _YEAR)
)
# Thousands, which a word before makes groups of a phone number.
THOUSANDS = re.compile(rb"\d{1,3}(?:\.\d{3}){2,}(?!\d)|\d{1,3}(?: \d{3}){2,}(?!\d)")
# With three spaces for marks it is more often a row of numbers.
NORTH_AMERICA = re.compile(rb"(?:1[ .-])?(?:\([2-9]\d\d\) ?[2-9]\d\d[ .-]|[2-9]\d\d[ .-][2-9]\d\d[.-])\d{4}")
USED = re.compile(r".*(?:\d\d|_>)[^\n]*\n", re.DOTALL)
EXTENSION = re.compile(rb",? ?(?:x|ext\.?|extension|Ext\.?|EXT\.?|#) ?\d{1,6}(?!\w)")


class Phones:
    """The phone numbers of some regions (and of all, where written with a `+`)."""

    def __init__(self, regions: Sequence[str]) -> None:
        """Raises `ValueError` for a region that is not known."""
        self._plans = [plan(region) for region in regions]
        self._american = [one for one in self._plans if one.country_code == "1"]

    def spans(self, text: str, folded: bytes, groups: list[Group]) -> Iterator[Span]:
        """The phone numbers of one run. Candidates do not overlap: the first wins."""
        place = 0
        cued_run: bool | None = None
        while place < len(groups):
            if cued_run is None:
                cued_run = self._cued(text, groups[0].start)
            found = self._at(text, folded, groups, place, cued_run and place == 0)
            if found is None:
                place += 1
                continue
            start, last, score = found
            end = groups[last].end
            extension = EXTENSION.match(folded, end)
            yield Span(start, extension.end() if extension else end, "PHONE_NUMBER", score)
            place = last + 1
            cued_run = cued_run if place < len(groups) else None

    def _cued(self, text: str, start: int) -> bool:
        """Whether the nearest word that says what a number is says that it is a phone number."""
        before = text[max(0, start - CUE_REACH) : start]
        used = USED.match(before)  # a word in an earlier line that has its number already
        words = words_before(text, start, CUE_REACH if used is None else len(before) - used.end())
        place = CUES.last(words)
        return place >= 0 and OTHERS.last(words) < place

    def _at(
        self, text: str, folded: bytes, groups: list[Group], place: int, cued: bool
    ) -> tuple[int, int, float] | None:
        """(start, last group, score) of the number that begins with a group, if one does."""
        first = groups[place]
        opened = folded[first.start - 1 : first.start] == b"("
        start = first.start - opened
        plus = (
            start > 0
            and folded[start - 1 : start] == b"+"
            and (
                start < 2 or (folded[start - 2] not in b"0123456789+)" and not folded[start - 2 : start - 1].isalpha())
            )
        )
        if not plus:
            american = folded[first.start] != ord("1") or first.end - first.start == 1
            if not (
                opened or cued or folded[first.start] == ord("0") or (american and first.end - first.start in (1, 3))
            ):
                return None
            if not starts_alone(folded, groups, place):
                return None
        if plus or (folded[first.start : first.start + 2] == b"00" and first.marks != b" "):
            found = self._international(folded, groups, place, plus)
            if found is not None:
                return start - plus, *found
        if NEVER.match(folded, first.start):
            return None
        if cued:
            found = self._cued_number(folded, groups, place)
            if found is not None:
                return start, *found
        if THOUSANDS.match(folded, first.start) or (
            first.end - first.start > 6 and folded[first.start : first.end] in b"01234567890"
        ):
            return None
        found = self._national_form(folded, groups, place, opened, start)
        if found is None or OTHERS.last(words_before(text, start, 16)[-1:]) == 0:
            return None
        return start, *found

    def _ends(self, folded: bytes, groups: list[Group], place: int, most: int) -> Iterator[tuple[int, str]]:
        """(last group, digits) of the numbers that begin with a group, the longest first."""
        digits, found = "", []
        for last in range(place, min(len(groups), place + 8)):
            digits += folded[groups[last].start : groups[last].end].decode()
            if len(digits) > most:
                break
            found.append((last, digits))
        for last, digits in reversed(found):
            if ends_alone(folded, groups, last) or (
                last + 1 == len(groups) and EXTENSION.match(folded, groups[last].end)
            ):
                yield last, digits

    def _international(self, folded: bytes, groups: list[Group], place: int, plus: bool) -> tuple[int, float] | None:
        possible: tuple[int, float] | None = None
        for last, digits in self._ends(folded, groups, place, MOST_DIGITS + (0 if plus else 2)):
            number = digits if plus else digits[2:]
            if len(number) < 7:
                break
            valid = international(number)
            if valid:
                return last, INTERNATIONAL
            if valid is False and possible is None and (plus or last > place):
                possible = last, POSSIBLE
        return possible

    def _cued_number(self, folded: bytes, groups: list[Group], place: int) -> tuple[int, float] | None:
        """The longest valid number, unless the row goes on in the same way: then as much as can be one."""
        possible: tuple[int, float] | None = None
        for last, digits in self._ends(folded, groups, place, MOST_DIGITS):
            if len(digits) < 7:
                break
            if national(digits, self._plans) is not None:
                goes_on = possible is not None and last > place and groups[last + 1].marks == groups[last].marks
                return possible if goes_on else (last, CUED_VALID)
            group = groups[last]
            if last > place and (
                group.end - group.start == 1 or re.match(_YEAR + rb"(?!\d)", folded[group.start : group.end])
            ):
                continue  # "555-0123 2 times", "555-0123 2021"
            if possible is None:
                possible = last, CUED
        return possible

    def _national_form(
        self, folded: bytes, groups: list[Group], place: int, opened: bool, start: int
    ) -> tuple[int, float] | None:
        first = groups[place]
        american = NORTH_AMERICA.match(folded, start) if self._american else None
        if american is not None:
            last = next((n for n in range(place, min(len(groups), place + 4)) if groups[n].end == american.end()), None)
            digits = american[0].translate(None, b" -.()").decode()[-10:]
            valid = any(one.significant(digits) for one in self._american)
            if valid and last is not None and ends_alone(folded, groups, last):
                return last, NATIONAL_FORM
        if not opened and folded[first.start] != ord("0"):
            return None
        for last, digits in self._ends(folded, groups, place, MOST_DIGITS):
            if len(digits) < 8:
                break
            if last == place:
                continue  # no marks at all: more often an id
            if not opened and (first.marks == b" " or (last + 1 < len(groups) and groups[last + 1].marks == b" ")):
                continue  # out of a row of numbers
            for one in self._plans:
                number = one.significant(digits)
                if number is None or (not opened and not (one.trunk and digits.startswith(one.trunk))):
                    continue
                size = first.end - first.start
                prefix = len(digits) - len(number)
                if size == one.area(number) + prefix:
                    return last, NATIONAL_FORM
        return None
