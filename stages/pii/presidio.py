"""presidio-analyzer's pattern recognisers behind the interface of ours, for comparison and for those who know its finds.

They run directly, on the whole text, without presidio's NLP engine: patterns, checksums, and, as its context enhancer does but on words
instead of lemmas, a higher score (0.35 more, 0.4 at least) where a recogniser's context word is among the five words before.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from stages.pii.entities import STRUCTURED, Span
from stages.pii.ner import FRAMEWORKS, hidden
from stages.pii.network import is_special
from stages.pii.recognise import PHONE_REGIONS, Recognisers

# The classes of presidio 2.2 that look for an entity of ours; the others it has no recogniser for, or are not of this kind.
CLASSES = {
    "EMAIL_ADDRESS": "EmailRecognizer", "PHONE_NUMBER": "PhoneRecognizer", "CREDIT_CARD": "CreditCardRecognizer",
    "IBAN_CODE": "IbanRecognizer", "IP_ADDRESS": "IpRecognizer", "MAC_ADDRESS": "MacAddressRecognizer", "CRYPTO": "CryptoRecognizer",
    "US_SSN": "UsSsnRecognizer", "US_ITIN": "UsItinRecognizer", "US_DRIVER_LICENSE": "UsLicenseRecognizer", "CA_SIN": "CaSinRecognizer",
    "UK_NHS": "NhsRecognizer", "UK_NINO": "UkNinoRecognizer", "DE_TAX_ID": "DeTaxIdRecognizer", "ES_NIF": "EsNifRecognizer",
    "ES_NIE": "EsNieRecognizer", "IT_FISCAL_CODE": "ItFiscalCodeRecognizer", "PL_PESEL": "PlPeselRecognizer",
    "SE_PERSONNUMMER": "SePersonnummerRecognizer", "FI_PERSONAL_IDENTITY_CODE": "FiPersonalIdentityCodeRecognizer",
    "TR_NATIONAL_ID": "TrNationalIdRecognizer", "ZA_ID_NUMBER": "ZaIdNumberRecognizer", "IN_AADHAAR": "InAadhaarRecognizer",
    "IN_PAN": "InPanRecognizer", "KR_RRN": "KrRrnRecognizer", "SG_NRIC_FIN": "SgFinRecognizer", "TH_TNIN": "ThTninRecognizer",
    "AU_TFN": "AuTfnRecognizer", "AU_MEDICARE": "AuMedicareRecognizer",
}  # fmt: skip
CONTEXT_WORDS, CONTEXT_BOOST, CONTEXT_FLOOR = 5, 0.35, 0.4  # presidio's defaults


class PresidioRecognisers(Recognisers):
    """presidio's recognisers of some structured entities. Costs seconds to make the first time; use it again."""

    def __init__(
        self,
        entities: Sequence[str] = STRUCTURED,
        phone_regions: Sequence[str] = PHONE_REGIONS,
        special_ips: bool = True,
    ) -> None:
        """As ours. Raises `ValueError` for entities that presidio has no recogniser for, unless all of ours are asked for."""
        super().__init__((), phone_regions, special_ips)
        missing = [] if set(entities) == set(STRUCTURED) else [entity for entity in entities if entity not in CLASSES]
        if missing:
            raise ValueError(
                f"presidio has no recogniser for {', '.join(missing)}; it has them for {', '.join(CLASSES)}"
            )
        self._special_ips = special_ips
        self._presidio = _recognisers([entity for entity in CLASSES if entity in entities], phone_regions)
        self._context = {entity: _context(one.context or []) for entity, one in self._presidio.items()}

    def spans(self, text: str) -> list[Span]:
        """All spans in a text, overlaps included, in no particular order."""
        found = []
        for entity, recogniser in self._presidio.items():
            for result in recogniser.analyze(text, [recogniser.supported_entities[0]], None) or ():
                span = Span(result.start, result.end, entity, float(result.score))
                if entity == "IP_ADDRESS" and not self._special_ips and is_special(text[span.start : span.end]):
                    continue
                if span.score < 1.0 and self._context[entity].search(_words_before(text, span.start)):
                    span = span._replace(score=min(1.0, max(span.score + CONTEXT_BOOST, CONTEXT_FLOOR)))
                found.append(span)
        return found


def _context(words: Sequence[str]) -> re.Pattern[str]:
    """A pattern for the words a recogniser is made more certain by (never matching if it has none)."""
    some = "|".join(re.escape(word.strip()) for word in words)
    return re.compile(rf"\b(?:{some})\b" if some else r"(?!)", re.IGNORECASE)


def _words_before(text: str, start: int) -> str:
    return " ".join(text[max(0, start - 100) : start].split()[-CONTEXT_WORDS:])


def _recognisers(entities: Sequence[str], phone_regions: Sequence[str]) -> dict[str, Any]:
    import tldextract

    # presidio imports whatever NLP frameworks it finds, for engines that are not used here: seconds of processor time
    with hidden(*FRAMEWORKS):
        from presidio_analyzer import predefined_recognizers

    extract = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)  # the list in the package, never the network
    email_class: Any = predefined_recognizers.EmailRecognizer

    class OfflineEmailRecognizer(email_class):  # type: ignore[misc]
        """Checks the domain (what follows the last `@`) against the bundled public suffix list."""

        def validate_result(self, pattern_text: str) -> bool:
            return extract(pattern_text.rsplit("@", 1)[-1]).fqdn != ""

    made: dict[str, Any] = {}
    for entity in entities:
        if entity == "EMAIL_ADDRESS":
            made[entity] = OfflineEmailRecognizer()
        elif entity == "PHONE_NUMBER":
            made[entity] = predefined_recognizers.PhoneRecognizer(supported_regions=tuple(phone_regions))
        else:
            made[entity] = getattr(predefined_recognizers, CLASSES[entity])()
    return made
