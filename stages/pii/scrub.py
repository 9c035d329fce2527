"""Scrubbing what is shown to people: samples, reports and the URLs of the ledger. Structured data only, no model."""

from __future__ import annotations

import re
from functools import cache

from stages.pii.recognise import STRUCTURED, Recognisers, replace

THRESHOLD = 0.35


class Scrubber:
    """Replaces structured personal data by typed placeholders. Takes about a quarter of a second to make; use it again."""

    def __init__(self) -> None:
        self._recognisers = Recognisers()

    def text(self, text: str) -> str:
        """The text with `<EMAIL_ADDRESS>`, `<PHONE_NUMBER>` and so on in place of what the recognisers find."""
        spans = self._recognisers.settled(text, THRESHOLD)
        return replace(text, spans)[0] if spans else text


# `%` escapes may themselves be escaped: `%40`, `%2540`.
_AT, _PLUS = r"(?:@|%(?:25)*40)", r"(?:\+|%(?:25)*2[bB])"
_NAMES = (
    r"e?-?mail(?:address)?|user(?:name)?|login|phone|tel|telephone|mobile|fax|"
    r"pass(?:word|wd)?|pwd|secret|token|\w*[_-]?token|api_?-?key|key|auth|authorization|sig|signature|"
    r"sid|sess(?:ion)?(?:_?id)?|phpsessid|jsessionid|ssn"
)
USERINFO = re.compile(r"^([a-zA-Z][a-zA-Z0-9+.\-]*:)?//[^/?#]*@")
EMAIL = re.compile(rf"[^\s/?#&=;:,@<>\"']{{1,128}}{_AT}(?:[\w\-]{{1,63}}\.){{1,8}}[^\W\d_]{{2,24}}")
SECRET = re.compile(rf"([?&;](?:{_NAMES})=)(?!<)[^&;#]+", re.IGNORECASE)
PHONE = re.compile(rf"((?:[=:/]|%3[aA])){_PLUS}\d(?:[\d\-. ()]|%20){{6,24}}")
GATE = re.compile(
    rf"{_AT}|[?&;#]|{_PLUS}\d|tel:|eyJ|gh[pousr]_|github_pat_|xox|AKIA|ASIA|AIza|sk_live|sk-", re.IGNORECASE
)
TELEPHONE = re.compile(r"^(tel|callto|sms|fax):[^?#]+", re.IGNORECASE)


def scrub_url(url: str) -> str:
    """A URL without user name and password, e-mail addresses (`%40` too), international phone numbers and the values of query
    parameters that are credentials or contacts by their name; in queries and fragments, also without card, account and national
    numbers, wallets and keys. The rest, and what other URLs are, stays as it is.
    """
    if GATE.search(url) is None:
        return url
    url = USERINFO.sub(lambda match: f"{match[1] or ''}//<USERINFO>@", url)
    url = TELEPHONE.sub(lambda match: f"{match[1]}:<PHONE_NUMBER>", url)
    url = EMAIL.sub("<EMAIL_ADDRESS>", url)
    url = SECRET.sub(r"\1<REDACTED>", url)
    url = PHONE.sub(r"\1<PHONE_NUMBER>", url)
    begin = VALUES.search(url)
    if begin is None:
        return url
    query = url[begin.start() :]
    spans = _for_urls().settled(query, URL_THRESHOLD)
    return url[: begin.start()] + replace(query, spans)[0] if spans else url


# Where the values are that a recogniser looks at: from the query on, or keys by their prefix wherever they are.
VALUES = re.compile(r"[?#;][^?#;]*\d|(?<=[/=])(?:eyJ|gh[pousr]_|github_pat_|xox|AKIA|ASIA|AIza|sk_live|sk-)")
URL_THRESHOLD = 0.5
NOT_IN_URLS = ("EMAIL_ADDRESS", "PHONE_NUMBER", "IP_ADDRESS", "MAC_ADDRESS")  # done above, or the address of a page


@cache
def _for_urls() -> Recognisers:
    return Recognisers([entity for entity in STRUCTURED if entity not in NOT_IN_URLS])
