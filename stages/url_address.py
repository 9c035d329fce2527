"""The parts of an address that the rules of `url_filter` look at, and the keys under which lists are asked for them."""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Callable, Iterable
from functools import cache, lru_cache
from typing import Any, Literal, NamedTuple
from urllib.parse import unquote, urlsplit

from stages.url_canonical import ODD_SCHEME, SCHEME
from stages.url_lists import host_key, url_key

_MAX_URL = 8192  # characters; what follows is not looked at
_PREFIXES = 16  # path segments that are looked up in lists of addresses
_DEEPEST = 64  # characters of a word; regular expressions cannot nest much deeper
_SUFFIX_CACHE = 1 << 14  # hosts; pages of a site stand together in an archive
# Most addresses, in one look: what the longer way of `parse_address` finds too.
_PLAIN = re.compile(
    r"(https?)://(?:www\.)?((?!www\.)[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?)(?::[0-9]{1,4})?(/[!-\"$->@-\[\]-~]*)?(?:\?([!-\"$-\[\]-~]*))?(?:#[!-\[\]-~]*)?"
)


class Address(NamedTuple):
    """The parts of an address that rules look at; `scheme` is lower case, `host` as `host_key` writes it."""

    scheme: str
    host: str
    path: str
    query: str = ""


def parse_address(url: str) -> Address | None:
    """The parts of an address, None if it names no host; without a scheme it counts as http."""
    plain = _PLAIN.fullmatch(url) if len(url) <= _MAX_URL else None
    if plain:
        return Address(plain[1], plain[2], plain[3] or "", plain[4] or "")
    url = url.strip()[:_MAX_URL]
    match = SCHEME.match(url)
    if match is None:
        if not ODD_SCHEME.match(url):
            url = "http://" + url.lstrip("/")
    elif match[1].lower() in ("http", "https") and not url.startswith("//", match.end()):
        url = f"{match[0]}//{url[match.end() :].lstrip('/').lstrip(chr(92))}"  # browsers forgive this and `\`
    if "\\" in url:
        url = url.replace("\\", "/")
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:  # an unbalanced bracket, say
        return None
    if not host:
        return Address(match.group(1).lower(), "", parts.path) if match and not parts.netloc else None
    return Address(parts.scheme.lower(), host_key(unquote(host) if "%" in host else host), parts.path, parts.query)


def is_ip(host: str) -> bool:
    """Whether a host is an IPv4 or IPv6 address, also in the one-number and hexadecimal forms that browsers take."""
    if ":" not in host and not host.rpartition(".")[2][:1].isdigit():
        return False  # what all of an IPv4 address's forms end in, spared for the many
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return bool(re.fullmatch(r"(?:0x[0-9a-f]+|\d+)(?:\.(?:0x[0-9a-f]+|\d+)){0,3}", host))
    return True


def folded(text: str) -> str:
    """Lower case, composed: what words are compared in."""
    return text.lower() if text.isascii() else unicodedata.normalize("NFC", text.lower())


def words_text(address: Address) -> str:
    """Host and path as words are looked for in them: decoded, folded, international names in their own script."""
    host = address.host
    if "xn--" in host:
        import idna

        labels = host.split(".")
        for place, label in enumerate(labels):
            if label.startswith("xn--"):
                try:
                    labels[place] = idna.ulabel(label)
                except (UnicodeError, IndexError):
                    continue
        host = ".".join(labels)
    return folded(unquote(f"{host}{address.path}"))


def pattern_text(address: Address) -> str:
    """What regular expressions are searched in: `host/path?query`, percent-decoded; the host as in lists."""
    return unquote(f"{address.host}{address.path or '/'}{'?' if address.query else ''}{address.query}")


def any_of(words: Iterable[str]) -> str:
    """A regular expression for any of some words, the longest where several fit; common starts are tried once.

    A plain alternation tries every word at every place: five times as slow for a hundred words.
    """
    ordered = sorted(words, key=lambda word: (-len(word), word))
    if ordered and len(ordered[0]) > _DEEPEST:
        return "|".join(map(re.escape, ordered))
    tree: dict[str, Any] = {}
    for word in ordered:
        node = tree
        for character in word:
            node = node.setdefault(character, {})
        node[""] = {}

    def written(node: dict[str, Any]) -> str:
        branches = [re.escape(character) + written(below) for character, below in node.items() if character]
        if not branches:
            return ""
        whole = branches[0] if len(branches) == 1 and "" not in node else f"(?:{'|'.join(branches)})"
        return f"{whole}?" if "" in node else whole

    return written(tree)


def url_keys(address: Address) -> list[str]:
    """The address with its query and without, and every folder above it, longest first."""
    key = url_key(address.host, address.path)
    ends = [place for place, character in enumerate(key) if character == "/"][1 : _PREFIXES + 1]
    query = [f"{key}?{unquote(address.query).lower()}"] if address.query else []
    return [*query, key, *(key[:end] for end in reversed(ends))]


def host_keys(host: str) -> list[str]:
    """A host and its parents of two labels or more; `host_level` tells which of them count."""
    keys = [host]
    if is_ip(host):
        return keys
    place = host.find(".")
    while (after := host.find(".", place + 1)) >= 0:
        keys.append(host[place + 1 :])
        place = after
    return keys


def host_level(key: str, host: str, depth: Callable[[str], int]) -> Literal["domain", "subdomain"] | None:
    """Whether a key of a host is its registrable domain or a host below it; None for a public suffix above it."""
    labels = key.count(".") + 1
    wanted = depth(host)
    if labels == wanted or (key == host and (labels < wanted or is_ip(host))):
        return "domain"
    return "subdomain" if labels > wanted else None


@cache  # a worker sets its stages up for every unit, and reading the list takes 50 ms
def registrable_depth() -> Callable[[str], int]:
    """A function: how many labels the registrable domain of a host has, by the public suffix list (its ICANN section).

    The list is the one that tldextract ships: nothing is fetched, nothing is written. An unknown top level counts as a
    suffix of one label, the list's own default rule.
    """
    from tldextract import TLDExtract

    extract = TLDExtract(suffix_list_urls=(), cache_dir=None)
    extract("probe.example.com")  # the list is read at the first use

    @lru_cache(maxsize=_SUFFIX_CACHE)
    def depth(host: str) -> int:
        suffix = extract(host).suffix
        return suffix.count(".") + 2 if suffix else 2

    return depth


def registrable_domain(host: str, depth: Callable[[str], int]) -> str | None:
    """The registrable domain of a host name; None for an IP address, a public suffix, a name of one label."""
    if is_ip(host):
        return None
    labels = host.split(".")
    wanted = depth(host)
    return ".".join(labels[-wanted:]) if len(labels) >= wanted else None
