"""Credentials in text: keys with a provider's prefix, tokens, private keys, and what is assigned to a word such as `password`."""

from __future__ import annotations

import base64
import json
import math
import re
from collections import Counter
from collections.abc import Iterator

from stages.pii.entities import Span

# What providers document of their keys; the prefixes are theirs.
_W = rb"[A-Za-z0-9_\-]"
PREFIXED = {
    rb"A": rb"A(?:KIA|SIA|BIA|CCA)[A-Z2-7]{16}(?![A-Za-z0-9])|AIza%b{35}(?!%b)" % (_W, _W),  # AWS, Google
    rb"g": rb"gh[pousr]_[A-Za-z0-9]{36,255}(?![A-Za-z0-9_])|github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}|glpat-%b{20,250}|gsk_[A-Za-z0-9]{40,250}" % _W,
    rb"x": rb"xox[abeoprs]-[A-Za-z0-9\-]{10,250}|xapp-\d-[A-Z0-9]{1,20}-\d{1,20}-[a-f0-9]{40,250}|xai-[A-Za-z0-9]{60,250}",  # Slack, xAI
    rb"s": rb"[srp]k_(?:live|test)_[A-Za-z0-9]{16,247}|sk-ant-[a-z0-9]{1,9}-%b{60,250}|sk-(?:proj-|svcacct-|admin-|or-v1-)?(?=[A-Za-z_\-]{0,60}\d)%b{20,200}(?!%b)|shp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}"
    % (_W, _W, _W),  # Stripe, Anthropic, OpenAI, Shopify
    rb"r": rb"rk_(?:live|test)_[A-Za-z0-9]{16,247}",
    rb"p": rb"pk_live_[A-Za-z0-9]{16,247}|pypi-AgEIcHlwaS5vcmc%b{50,250}|pat[A-Za-z0-9]{14}\.[a-f0-9]{64}" % _W,
    rb"n": rb"npm_[A-Za-z0-9]{36}(?![A-Za-z0-9])",
    rb"h": rb"hf_[A-Za-z]{34}(?![A-Za-z0-9])|hvs\.%b{24,250}|hooks\.slack\.com/services/T[A-Z0-9]{1,20}/B[A-Z0-9]{1,20}/[A-Za-z0-9]{20,250}" % _W,
    rb"S": rb"SG\.%b{22}\.%b{43}|SK[a-f0-9]{32}(?![a-f0-9])" % (_W, _W),  # SendGrid, Twilio
    rb"d": rb"do[opr]_v1_[a-f0-9]{64}|dapi[a-f0-9]{32}|dp\.pt\.[A-Za-z0-9]{40,250}",  # DigitalOcean, Databricks, Doppler
    rb"k": rb"key-[a-f0-9]{32}(?![a-f0-9])",  # Mailgun
    rb"y": rb"ya29\.%b{20,250}" % _W,  # Google OAuth
    rb"G": rb"GOCSPX-%b{28}" % _W,
    rb"E": rb"EAA[A-Za-z0-9]{60,250}",  # Facebook
}  # fmt: skip
KEY = re.compile(rb"(?<![A-Za-z0-9_])(?:" + b"|".join(PREFIXED.values()) + rb")")
LONG = 16  # no key is shorter
JWT = re.compile(rb"(?<![A-Za-z0-9_\-])eyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]*")
PEM = re.compile(rb"-----BEGIN (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
PEM_END = re.compile(rb"-----END (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
PEM_OPEN = re.compile(rb"(?:\s*[A-Za-z0-9+/=]{16,})*")
PEM_SIZE = 16_384

ASSIGNED_GATE = (b"pass", b"pwd", b"secret", b"token", b"key", b"credential")
WORDS = re.compile(rb"pass|pwd|secret|token|key|credential")
ASSIGNED = re.compile(
    rb"((?:pass(?:word|wd|phrase|code)?|pwd)|(?:api|access|auth|private|secret|client|encryption|signing|master|account|session|bearer|refresh|app|aws|admin|db|id)?[ _\-.]?"
    rb"(?:secret|token|credentials?|key)(?:[ _\-.]?(?:key|token|id))?)"
    rb"(?:['\"]?[ \t]{0,3}(?::=|=>|=|:)[ \t]{0,3}|[ \t]{1,3}is[ \t]{0,2}:?[ \t]{1,2})(?:['\"`]|&quot;)?([^\s'\"`,;<>(){}\[\]&|]{6,200})",
    re.IGNORECASE,
)
NO_SECRET = re.compile(
    rb"your|example|sample|dummy|placeholder|change|replace|insert|redact|hidden|removed|xxx|\*\*\*|\.\.\.|\$|%|^@|null|none|true|false|undefined|environ|getenv|config\.|process\.|self\.|this\.|secrets?\.|"
    rb"^:|^[A-Za-z]+\d?-[a-z]+$|required|optional|string|password|passwd|^[a-z]+[._-][a-z._-]+$|^/|://|^\d{1,8}$|^#|\\|=[a-z]+$|^test",
    re.IGNORECASE,
)
LETTER, DIGIT, MARK = re.compile(rb"[A-Za-z]"), re.compile(rb"\d"), re.compile(rb"[!-/:-@\[-`{-~]")
KEY_BITS, PASSWORD_BITS = 3.0, 2.5  # bits a character: random base64 has about 4.5 at this length, words 3


def secrets(folded: bytes, lower: bytes, tokens: list[tuple[int, int]]) -> Iterator[Span]:
    """All credentials of a text. `lower`: the text in lower case; `tokens`: its tokens of at least LONG bytes."""
    for start, end in tokens:
        for found in KEY.finditer(folded, start, min(len(folded), end + 100)):
            if found.start() < end and entropy(found[0]) >= KEY_BITS:
                yield Span(found.start(), found.end(), "API_KEY", 0.9)
    if b"eyJ" in folded:
        for found in JWT.finditer(folded):
            if _is_jose_header(found[0].split(b".")[0]):
                yield Span(found.start(), found.end(), "JWT", 1.0)
    if b"PRIVATE KEY" in folded:
        yield from _private_keys(folded)
    if any(cue in lower for cue in ASSIGNED_GATE):
        yield from _assigned(folded, lower)


def _private_keys(folded: bytes) -> Iterator[Span]:
    done = 0
    for found in PEM.finditer(folded):
        if found.start() < done:
            continue
        end = folded.find(b"-----", found.end(), found.end() + PEM_SIZE)
        whole = PEM_END.match(folded, end) if end >= 0 else None
        done = whole.end() if whole else PEM_OPEN.match(folded, found.end(), found.end() + PEM_SIZE).end()  # type: ignore[union-attr]  # it matches nothing, too
        if done > found.end():
            yield Span(found.start(), done, "PRIVATE_KEY", 1.0)


def _assigned(folded: bytes, lower: bytes) -> Iterator[Span]:
    done = 0
    for word in WORDS.finditer(lower):
        if word.start() < done:
            continue
        found = ASSIGNED.match(folded, word.start(), word.start() + 320)
        value = found[2].rstrip(b".:!?") if found else b""
        if found is None or NO_SECRET.search(value):
            continue
        end = found.start(2) + len(value)
        kinds = sum(pattern.search(value) is not None for pattern in (LETTER, DIGIT, MARK))
        is_password = lower.startswith((b"pass", b"pwd"), word.start())
        if is_password and len(value) >= 6 and kinds >= 2 and entropy(value) >= PASSWORD_BITS:
            yield Span(found.start(2), end, "PASSWORD", 0.6)
        elif (
            not is_password and len(value) >= LONG and kinds >= 2 and DIGIT.search(value) and entropy(value) >= KEY_BITS
        ):
            yield Span(found.start(2), end, "API_KEY", 0.6)
        else:
            continue
        done = end


def entropy(value: bytes) -> float:
    """Shannon's entropy of the characters, in bits a character."""
    total = len(value)
    return -sum(count / total * math.log2(count / total) for count in Counter(value).values())


def _is_jose_header(part: bytes) -> bool:
    try:
        header = json.loads(base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4)))
    except (ValueError, RecursionError):
        return False
    return isinstance(header, dict) and ("alg" in header or "typ" in header or "enc" in header)
