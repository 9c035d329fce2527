"""National numbers of people: how each is written, checked and introduced.

A number scores its shape's score, more if a word for it stands before. The scores say how sure the shape and the check digits make it
by themselves: a bare row of nine digits passes a check of eleven by accident too often, so it counts only with a word.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from stages.pii import checksums as check
from stages.pii.cues import Cue, cue, cued
from stages.pii.entities import Span
from stages.pii.numbers import Group, Shapes, by_shape

BOOST, FLOOR, CHECKED_FLOOR = 0.4, 0.6, 0.8  # with a word for the number, and check digits that hold
GENERAL_FLOOR = 0.45  # with a word for such numbers anywhere, where check digits hold
WEAK = 0.1  # without a word: never counts by default


class Kind(NamedTuple):
    """A national number of digits alone: its check, the score of each shape, and the words for it."""

    entity: str
    valid: Callable[[str], bool]
    shapes: Mapping[str, float]
    cues: Cue
    checked: bool = True  # whether it has check digits


KINDS = (
    Kind("US_SSN", check.us_ssn, {"3-2-4": 0.5, "3 2 4": 0.3, "3.2.4": 0.3, "9": WEAK, "5-4": WEAK, "3-6": WEAK},
         cue("ssns?", "soc(?:ial)? sec\\w*", "social", "s\\.s\\.n\\.?", "security (?:number|no)", "seguro social"), False),
    Kind("US_ITIN", check.us_itin, {"3-2-4": 0.5, "3 2 4": 0.3, "9": WEAK}, cue("itins?", "taxpayer\\w*", "tax ?id\\w*", "tin"), False),
    Kind("CA_SIN", check.ca_sin, {"3-3-3": 0.3, "3 3 3": 0.3, "9": WEAK},
         cue("sin", "nas", "social insurance", "assurance sociale", "s\\.i\\.n\\.?")),
    Kind("BR_CPF", check.br_cpf, {"3.3.3-2": 0.95, "3.3.3.2": 0.6, "3 3 3 2": 0.5, "9-2": 0.6, "11": WEAK}, cue("cpf", "cadastro de pessoas?")),
    Kind("BR_CNPJ", check.br_cnpj, {"2.3.3/4-2": 0.95, "14": 0.3}, cue("cnpj", "cadastro nacional")),
    Kind("UK_NHS", check.uk_nhs, {"3 3 4": 0.3, "3-3-4": 0.2, "10": WEAK}, cue("nhs\\w*", "national health\\w*", "patient (?:id|no|number)", "health service")),
    Kind("DE_TAX_ID", check.de_tax_id, {"11": 0.3, "2 3 3 3": 0.7},
         cue("steuer\\w*", "steuer-?\\s?id\\w*", "steuer-?\\s?identifikations\\w*", "idnr", "id-nr", "tin", "tax id\\w*", "tax number", "identifikationsnummer")),
    Kind("FR_NIR", check.fr_nir, {"15": 0.6, "13 2": 0.85, "1 2 2 2 3 3 2": 0.95, "1.2.2.2.3.3.2": 0.95, "1-2-2-2-3-3-2": 0.95},
         cue("nir", "s[ée]cu\\w*", "s[ée]curit[ée] sociale", "insee", "num[ée]ro de s\\w*", "assur[ée]\\w*", "social security")),
    Kind("NL_BSN", check.nl_bsn, {"9": WEAK, "4.2.3": 0.6, "3.3.3": 0.2, "4 2 3": 0.4, "3 3 3": WEAK}, cue("bsn\\w*", "burgerservice\\w*", "sofi\\w*", "persoonsnummer", "citizen service")),
    Kind("BE_NN", check.be_nn, {"2.2.2-3.2": 0.95, "6-3-2": 0.7, "11": 0.3, "6 3 2": 0.6, "6-3.2": 0.8, "2 2 2 3 2": 0.5},
         cue("rijksregister\\w*", "registre national", "num[ée]ro national", "nationaal nummer", "insz\\w*", "niss", "nn", "rrn", "national (?:register )?number", "national registry")),
    Kind("CH_AHV", check.ch_ahv, {"3.4.4.2": 0.95, "13": 0.4, "3 4 4 2": 0.8}, cue("ahv\\w*", "avs", "oasi", "sozialversicherung\\w*", "versichertennummer", "assurance sociale")),
    Kind("PL_PESEL", check.pl_pesel, {"11": 0.3}, cue("pesel\\w*", "numer ewidencyjny", "ewidencji")),
    Kind("SE_PERSONNUMMER", check.se_personnummer, {"6-4": 0.5, "8-4": 0.7, "10": WEAK, "12": 0.3, "8 4": 0.3, "6 4": WEAK},
         cue("person(?:al)?(?:nummer|nr)\\w*", "personnr", "pnr", "personal identity", "samordningsnummer", "personal (?:id|number)")),
    Kind("NO_FODSELSNUMMER", check.no_fodselsnummer, {"11": 0.5, "6 5": 0.85, "6-5": 0.7}, cue("f[øo]dsels\\w*", "personnummer", "fnr", "d-nummer", "national identity")),
    Kind("DK_CPR", check.dk_cpr, {"6-4": 0.3, "10": WEAK, "6 4": WEAK}, cue("cpr\\w*", "personnummer", "cpr-?\\s?(?:nr|nummer)\\w*"), False),
    Kind("TR_NATIONAL_ID", check.tr_national_id, {"11": 0.3}, cue("t\\.?c\\.?", "kimlik\\w*", "tckn", "vatanda[şs]l[ıi]k\\w*", "turkish id\\w*")),
    Kind("ZA_ID_NUMBER", check.za_id_number, {"13": 0.4, "6 4 3": 0.6, "6 4 2 1": 0.7, "6 4 1 2": 0.7}, cue("south african", "sa id", "rsa id", "id(?:entity)? (?:number|no|document)", "id")),
    Kind("IN_AADHAAR", check.in_aadhaar, {"4 4 4": 0.3, "4-4-4": 0.4, "12": WEAK}, cue("aadh?aa?r\\w*", "uidai", "uid", "आधार")),
    Kind("CN_RESIDENT_ID", check.cn_resident_id, {"18": 0.8}, cue(".?身份证\\w*", "id card", "resident id\\w*", "公民身份号码?", "证件号码?")),
    Kind("KR_RRN", check.kr_rrn, {"6-7": 0.6, "13": WEAK}, cue("rrn", "주민\\w*", "주민등록번호", "resident registration", "외국인등록번호"), False),
    Kind("TH_TNIN", check.th_tnin, {"1-4-5-2-1": 0.95, "1 4 5 2 1": 0.8, "13": WEAK}, cue("thai\\w* (?:national )?id\\w*", "tnin", "เลขประจำตัว\\w*", "บัตรประชาชน", "เลขบัตร\\w*")),
    Kind("AU_TFN", check.au_tfn, {"9": WEAK, "3 3 3": WEAK, "3-3-3": WEAK}, cue("tfns?", "tax file\\w*", "tax file (?:number|no)")),
    Kind("AU_MEDICARE", check.au_medicare, {"4 5 1": 0.5, "10": WEAK, "4-5-1": 0.5}, cue("medicare\\w*")),
)  # fmt: skip

GENERAL = cue(
    "national (?:id\\w*|insurance|identification|identity)", "id(?:entity|entification)? ?(?:no|number|card|code|#)", "personal (?:id\\w*|identification|number|code)",
    "tax(?:payer)? ?(?:id\\w*|no|number|code|reference)", "citizen\\w* (?:id\\w*|number)", "social (?:insurance|security)\\w*", "government id", "identification number",
)  # fmt: skip
# What a number is that the words above may stand far before.
OTHERS = cue(
    "isbn\\S*",
    "issn",
    "ean",
    "gtin",
    "upc",
    "doi",
    "asin",
    "phone\\w*",
    "tel\\w*",
    "fax",
    "mobile",
    "order\\w*",
    "invoice\\w*",
    "tracking\\w*",
    "timestamp",
)


class Digits:
    """The national numbers of digits alone, of some entities."""

    def __init__(self, entities: Sequence[str]) -> None:
        self._kinds = by_shape((kind, kind.shapes) for kind in KINDS if kind.entity in entities)
        self.shapes = Shapes(self._kinds)

    def spans(self, text: str, folded: bytes, groups: list[Group]) -> Iterator[Span]:
        """The numbers of one run."""
        for start, end, shape, digits in self.shapes.windows(folded, groups):
            for kind in self._kinds[shape]:
                if kind.valid(digits):
                    yield Span(
                        start, end, kind.entity, _score(text, start, kind.shapes[shape], kind.cues, kind.checked)
                    )


def _score(text: str, start: int, base: float, cues: Cue, checked: bool = True) -> float:
    line = (
        min(20, start - text.rfind("\n", max(0, start - 20), start) - 1)
        if "\n" in text[max(0, start - 20) : start]
        else 20
    )
    if cued(text, start, OTHERS, line) and not cued(text, start, cues, 20):
        return min(base, WEAK)
    if cued(text, start, cues):
        return min(1.0, max(base + BOOST, CHECKED_FLOOR if checked else FLOOR))
    if checked and base < GENERAL_FLOOR and cued(text, start, GENERAL):
        return GENERAL_FLOOR
    return base


class Mixed(NamedTuple):
    """A national number with letters."""

    entity: str
    pattern: re.Pattern[bytes]  # all of it
    valid: Callable[[str], bool]
    score: float
    cues: Cue
    checked: bool = True


MIXED = (
    Mixed("IT_FISCAL_CODE", re.compile(rb"[A-Z]{6}[0-9LMNP-V]{2}[A-EHLMPRST][0-9LMNP-V]{2}[A-Z][0-9LMNP-V]{3}[A-Z]"), check.it_fiscal_code, 0.9, cue("codice fiscale", "c\\.?f\\.?")),
    Mixed("UK_NINO", re.compile(rb"[A-Z]{2}([ -]?)\d\d\1\d\d\1\d\d\1[A-D]"), check.uk_nino, 0.6, cue("national insurance", "nino?", "ni (?:no|number)", "insurance n\\w*"), False),
    Mixed("IN_PAN", re.compile(rb"[A-Z]{3}[ABCFGHJLPT][A-Z]\d{4}[A-Z]"), check.in_pan, 0.5, cue("pan", "permanent account", "income tax\\w*"), False),
    Mixed("MX_CURP", re.compile(rb"[A-Z]{4}\d{6}[HMX][A-Z]{5}[0-9A-Z]\d"), check.mx_curp, 0.9, cue("curp")),
    Mixed("SG_NRIC_FIN", re.compile(rb"[STFGM]\d{7}[A-Z]"), check.sg_nric_fin, 0.6, cue("nric\\w*", "fin", "singapore\\w*")),
    Mixed("ES_NIE", re.compile(rb"[XYZ][- ]?\d{7}[- ]?[A-Z]"), check.es_nie, 0.7, cue("nie", "extranjer\\w*")),
    Mixed("ES_NIF", re.compile(rb"\d{8}[- ]?[A-Z]"), check.es_nif, 0.5, cue("dni", "nif", "d\\.n\\.i\\.?", "documento nacional\\w*", "identidad", "identificaci[óo]n")),
    Mixed("ES_NIF", re.compile(rb"\d\d\.\d{3}\.\d{3}[- ]?[A-Z]"), check.es_nif, 0.9, cue("dni", "nif", "d\\.n\\.i\\.?", "identidad")),
    Mixed("FI_PERSONAL_IDENTITY_CODE", re.compile(rb"\d{6}[-+A-FU-Y]\d{3}[0-9A-FHJ-NPR-Y]"), check.fi_personal_identity_code, 0.9, cue("hetu", "henkil[öo]tunnus\\w*", "personbeteckning\\w*", "identity code")),
    Mixed("CN_RESIDENT_ID", re.compile(rb"\d{17}[Xx]"), check.cn_resident_id, 0.9, cue("身份证", "id")),
    Mixed("FR_NIR", re.compile(rb"\d([ .]?)\d\d\1\d\d\1(?:2[AB])\1\d{3}\1\d{3}\1\d\d"), check.fr_nir, 0.9, cue("nir", "s[ée]cu\\w*")),
)  # fmt: skip
# What begins one: a capital with a digit soon after, or digits that go on in a letter (one look at the text for each).
FROM_LETTER = re.compile(
    rb"[A-Z](?<![A-Za-z0-9_].)(?:[A-Z]{5}[0-9LMNP-V]{2}[A-Z]|[A-Z]{4}\d{4}|[A-Z]{3}\d{6}|[A-Z][ -]?\d\d[ -]?\d\d|[- ]?\d{7})"
)
FROM_DIGIT = re.compile(
    rb"\d(?<![A-Za-z0-9_].)(?:\d{5}[-+A-FU-Y]\d{3}[0-9A-Y]|\d{7}[- ]?[A-Z]|\d\.\d{3}\.\d{3}[- ]?[A-Z]|\d{16}[Xx]|[ .]?\d\d[ .]?\d\d[ .]?2[AB])"
)
AFTER = re.compile(rb"(?![A-Za-z0-9_]|[-.]\d)")


class Letters:
    """The national numbers with letters, of some entities."""

    def __init__(self, entities: Sequence[str]) -> None:
        self._kinds = [kind for kind in MIXED if kind.entity in entities]
        self._licences = "US_DRIVER_LICENSE" in entities

    def spans(self, text: str, folded: bytes, lower: bytes) -> Iterator[Span]:
        """All such numbers of a text."""
        if self._licences:
            yield from _licences(folded, lower)
        if not self._kinds:
            return
        for gate in (FROM_LETTER, FROM_DIGIT):
            for begun in gate.finditer(folded):
                start = begun.start()
                if (
                    start
                    and folded[start - 1 : start] in (b".", b"-", b"/", b"+")
                    and start > 1
                    and folded[start - 2 : start - 1].isalnum()
                ):
                    continue
                for kind in self._kinds:
                    found = kind.pattern.match(folded, start)
                    if found is None or AFTER.match(folded, found.end()) is None:
                        continue
                    if kind.valid(
                        found[0].translate(None, b" -." if kind.entity != "FI_PERSONAL_IDENTITY_CODE" else b"").decode()
                    ):
                        yield Span(
                            start, found.end(), kind.entity, _score(text, start, kind.score, kind.cues, kind.checked)
                        )


# A licence has no form of its own across the states, so the words must come first, and the number soon after.
LICENCE_GATE = re.compile(rb"licen[cs]e")
LICENCE = re.compile(
    rb"(?:driv(?:er|ing)\S{0,3} licen[cs]es?|\bDL)(?: ?(?:no\.?|number|num|nr|id|#))?(?: ?(?:is|was|:|#|=|-)){0,2} ?((?=[A-Z\d-]{0,8}\d)[A-Z\d](?:[A-Z\d]|[-](?=[A-Z\d])){4,17})(?![A-Za-z0-9])",
    re.IGNORECASE,
)


def _licences(folded: bytes, lower: bytes) -> Iterator[Span]:
    for gate in LICENCE_GATE.finditer(lower):
        found = LICENCE.search(folded, max(0, gate.start() - 12), gate.end() + 48)
        if found is not None and sum(48 <= byte <= 57 for byte in found[1]) >= 4:
            yield Span(found.start(1), found.end(1), "US_DRIVER_LICENSE", 0.6)
