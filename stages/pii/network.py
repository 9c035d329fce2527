"""Addresses of machines: IPv4, IPv6, MAC."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from stages.pii.cues import cue, cued
from stages.pii.entities import Span

_OCTET = rb"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
IPV4_GATE = re.compile(rb"\d\.\d{1,3}\.\d{1,3}\.\d")
IPV4 = re.compile(rb"%b(?:\.%b){3}(?:/(?:3[0-2]|[12]?\d)(?![\d/]))?(?![A-Za-z0-9_]|\.\d|-[A-Za-z])" % (_OCTET, _OCTET))
IPV6_GATE = re.compile(rb":[0-9A-Fa-f]{0,4}:")
IPV6_RUN = re.compile(rb"[0-9A-Fa-f:]+(?:\.\d{1,3}){0,3}")
PREFIX = re.compile(rb"/(?:12[0-8]|1[01]\d|[1-9]?\d)(?![\d/])")
MAC = re.compile(rb"[0-9A-Fa-f]{2}(?:(:[0-9A-Fa-f]{2}){5}|(-[0-9A-Fa-f]{2}){5})(?![:\-]?[0-9A-Za-z])")
MAC_GATE = re.compile(rb"-[0-9A-Fa-f]{2}-[0-9A-Fa-f]{2}-")
MAC_DOTS = re.compile(rb"\.[0-9A-Fa-f]{4}\.")
MAC_CISCO = re.compile(rb"[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}(?!\w|\.\w)")

# "Firefox 3.6.1.2", "v2.0.0.1", "section 4.1.2.3": four numbers that are no address.
VERSIONS = cue("v", "ver", "version\\w*", "release\\w*", "build", "revision", "rev", "firmware", "sections?", "chapter", "clause", "paragraph",
               "kapitel", "abschnitt", "driver", "update", "upgrade\\w*", "table", "figure")  # fmt: skip
ADDRESSES = cue("ip\\w*", "address\\w*", "adress\\w*", "host\\w*", "server\\w*", "ping\\w*", "client\\w*", "dns", "gateway", "netmask", "subnet",
                "router", "from", "network", "login", "connect\\w*", "proxy", "node", "remote", "src", "dst")  # fmt: skip
SECTION = re.compile(rb"\.?[ \t]+\w")  # "4.1.2.3 Title" at the beginning of a line
WORD = frozenset(b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_")
LETTERS = WORD - frozenset(b"0123456789_")


def ip_addresses(text: str, folded: bytes, special: bool) -> Iterator[Span]:
    """IPv4 and IPv6 addresses. `special`: whether those of special-purpose networks count."""
    done = 0
    for gate in IPV4_GATE.finditer(folded):
        start = gate.start()
        while start > 0 and gate.start() - start < 3 and 48 <= folded[start - 1] <= 57:
            start -= 1
        found = IPV4.match(folded, start)
        if found is None or start < done or not _stands_alone(folded, start):
            continue
        done = found.end()
        short = found.end() - start <= 7  # four single digits: more often a version or a section
        if ((short or start == 0 or folded[start - 1] in b" (") and cued(text, start, VERSIONS, 16)) or (
            not special and is_special(found[0])
        ):
            continue
        if short and SECTION.match(folded, found.end()) and (start == 0 or folded[start - 1] in b"\n\r"):
            continue
        score = 0.5 if short and not cued(text, start, ADDRESSES, 32) else 0.8
        yield Span(start, found.end(), "IP_ADDRESS", score)
    done = 0
    for gate in IPV6_GATE.finditer(folded):
        if gate.start() < done:
            continue
        start = gate.start()
        while start > max(done, gate.start() - 40) and folded[start - 1] in b"0123456789abcdefABCDEF:":
            start -= 1
        run = IPV6_RUN.match(folded, start)
        assert run is not None  # it holds what the gate matched
        done = max(run.end(), gate.end())
        value = run[0]
        if value.endswith(b":") and not value.endswith(b"::"):
            value = value[:-1]
        if (start and folded[start - 1] in WORD) or folded[start + len(value) : start + len(value) + 1].isalpha():
            continue
        if not _is_ipv6(value) or (not special and is_special(value)):
            continue
        end = start + len(value)
        prefix = PREFIX.match(folded, end)
        yield Span(start, prefix.end() if prefix else end, "IP_ADDRESS", 0.8)


def _stands_alone(folded: bytes, start: int) -> bool:
    """Whether what starts here is not the rest of a longer number, word or name (`lib-1.2.3.4`)."""
    if start == 0:
        return True
    before = folded[start - 1]
    if before in WORD or before in b".+":
        return False
    return not (before in b"-" and start > 1 and folded[start - 2] in LETTERS)


def _is_ipv6(value: bytes) -> bool:
    """Whether this is an address, and neither a time nor code (`std::add`, `a::b`)."""
    if not 3 <= len(value) <= 45 or value.count(b":") < 2:
        return False
    groups = [group for group in value.split(b":") if group]
    try:
        ipaddress.IPv6Address(value.decode())
    except ValueError:
        return False
    if not any(48 <= byte <= 57 for byte in value):
        return False
    return len(groups) >= 3 or value == b"::1" or (len(groups[0]) == 4 and not value.startswith(b"::"))


def mac_addresses(text: str, folded: bytes) -> Iterator[Span]:
    """MAC addresses in colons, hyphens or Cisco's dots; longer rows of bytes (fingerprints, dumps) are none."""
    for gate, offset, pattern in ((IPV6_GATE, 2, MAC), (MAC_GATE, 2, MAC), (MAC_DOTS, 4, MAC_CISCO)):
        done = 0
        for cue_found in gate.finditer(folded):
            start = cue_found.start() - offset
            found = pattern.match(folded, start) if start >= done else None
            if found is None:
                continue
            if start and (
                folded[start - 1] in WORD or (folded[start - 1] in b":-." and start > 1 and folded[start - 2] in WORD)
            ):
                continue
            done = found.end()
            if pattern is MAC_CISCO and found[0].replace(b".", b"").isdigit():
                continue  # 2020.0102.1234
            if len(set(found[0]) - set(b":-.")) > 1 or found[0][:2].lower() == b"ff":
                yield Span(start, found.end(), "MAC_ADDRESS", 0.8)


# Special-purpose addresses (RFC 6890 and its registries), listed here because `ipaddress` changes its own list between releases.
SPECIAL_NETWORKS = tuple(
    ipaddress.ip_network(network)
    for network in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24"),
        *("192.0.2.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3"),
        *("::/127", "64:ff9b:1::/48", "100::/64", "2001:db8::/32", "fc00::/7", "fe80::/10", "ff00::/8"),
    )
)


def is_special(address: str | bytes) -> bool:
    """Whether an IP address (with or without prefix length) is private, loopback, documentation or the like."""
    text = address.decode() if isinstance(address, bytes) else address
    ip = ipaddress.ip_interface(text).ip
    return any(ip in network for network in SPECIAL_NETWORKS if network.version == ip.version)
