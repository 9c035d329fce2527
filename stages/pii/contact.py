"""E-mail addresses: RFC 5321 mailboxes without quoting, at a domain under a known top-level domain."""

from __future__ import annotations

import re
from collections.abc import Iterator

from stages.pii.entities import Span

LOCAL, DOMAIN = 64, 255  # RFC 5321, 4.5.3.1
BEFORE = re.compile(r"[\w!#$%&'*+/=?^`{|}~.\-]+")  # reversed text: the end of the local part comes first
AFTER = re.compile(
    r"(?:[^\W_](?:[\w\-]{0,61}[^\W_])?\.){1,10}(?:xn--[a-z0-9\-]{2,59}|[^\W\d_]{2,24})(?![^\W_]|-[^\W_])", re.IGNORECASE
)
# "jane (at) example [dot] org": both the at and the dot are written out, at least the at in brackets.
SPELLED_GATE = re.compile(rb"[\[({<] ?(?:at|AT|At|@) ?[\])}>]")
SPELLED_LOCAL = re.compile(r"[\w.+\-]{1,64}(?= ?$)")
SPELLED_DOMAIN = re.compile(r" ?[^\W_][\w\-]{0,61}(?: ?(?:\.|[\[({<] ?(?:dot|\.) ?[\])}>]| dot ) ?[^\W_][\w\-]{0,61}){1,4}", re.IGNORECASE)  # fmt: skip
DOT = re.compile(r" ?(?:\.|[\[({<] ?(?:dot|\.) ?[\])}>]| dot ) ?", re.IGNORECASE)
SCRIPT_BEFORE = re.compile(
    r".*[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af](?=[!-~])"
)  # "请联系jane@example.org"
SCORE, SPELLED_SCORE = 1.0, 0.75


def email_addresses(text: str, folded: bytes, top_level: frozenset[str]) -> Iterator[Span]:
    """All addresses of a text. `top_level`: the last labels that domains may have, lower case, as Unicode and as `xn--`."""
    at = folded.find(b"@")
    while at >= 0:
        span = _around(text, at, top_level)
        if span is not None:
            yield span
        at = folded.find(b"@", at + 1)
    for gate in SPELLED_GATE.finditer(folded):
        local = SPELLED_LOCAL.search(text, max(0, gate.start() - LOCAL - 1), gate.start())
        domain = SPELLED_DOMAIN.match(text, gate.end(), gate.end() + DOMAIN)
        if local is None or domain is None:
            continue
        end = _known_end(text, domain, top_level)
        start = local.end() - len(SCRIPT_BEFORE.sub("", local[0]))
        if end and start < local.end():
            yield Span(start, end, "EMAIL_ADDRESS", SPELLED_SCORE)


def _around(text: str, at: int, top_level: frozenset[str]) -> Span | None:
    domain = AFTER.match(text, at + 1, min(len(text), at + 1 + DOMAIN))
    if domain is None:
        return None
    end = domain.end()
    name = domain[0]
    while name.rpartition(".")[2].lower() not in top_level:  # "example.org.Next": the sentence went on without a space
        name = name.rpartition(".")[0]
        if "." not in name:
            return None
        end = at + 1 + len(name)
    before = BEFORE.match(text[max(0, at - LOCAL - 1) : at][::-1])
    if before is None or (before.end() > LOCAL and text[at - LOCAL - 1 : at - LOCAL].isalnum()):
        return None
    local = text[at - min(before.end(), LOCAL) : at]
    # What the address stands in: a URL or query (`?to=`, `/contact/`), a quotation, the end of a sentence.
    start = max(local.rfind(mark) for mark in "/=?&|`{}") + 1
    local = SCRIPT_BEFORE.sub("", local[start:]).lstrip(".'*_-#$%^!~+")
    if not local or local.endswith(".") or ".." in local:
        return None
    if local == "git" and text[end : end + 1] == ":":  # a repository
        return None
    return Span(at - len(local), end, "EMAIL_ADDRESS", SCORE)


def _known_end(text: str, domain: re.Match[str], top_level: frozenset[str]) -> int:
    """Where the longest start of a spelled-out domain that ends in a top-level domain ends; 0 if none does."""
    dots = list(DOT.finditer(domain[0]))
    for number in range(len(dots) - 1, -1, -1):
        end = dots[number + 1].start() if number + 1 < len(dots) else len(domain[0])
        if domain[0][dots[number].end() : end].lower() in top_level:
            return domain.start() + end
    return 0


def top_level_domains() -> frozenset[str]:
    """The last labels of the public suffix list in the package `tldextract`, never from the network."""
    import tldextract

    labels = {suffix.rpartition(".")[2] for suffix in tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None).tlds}
    return frozenset(labels | {label.encode("idna").decode() for label in labels if not label.isascii()})
