"""Public contact points that stay: domains, single addresses and numbers, networks, and addresses of roles (`info@`)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

# RFC 2142, and what organisations publish in several languages.
ROLES = frozenset({
    "info", "marketing", "sales", "support", "abuse", "noc", "security", "postmaster", "hostmaster", "usenet", "news", "webmaster", "www",
    "uucp", "ftp", "press", "media", "presse", "pr", "office", "contact", "contacts", "kontakt", "contacto", "contato", "contatti", "hello",
    "help", "helpdesk", "service", "services", "customerservice", "customercare", "admin", "administration", "administrator", "jobs", "careers",
    "recruiting", "billing", "orders", "shop", "enquiries", "inquiries", "feedback", "editor", "editorial", "redaktion", "redaction",
    "redaccion", "reception", "privacy", "datenschutz", "legal", "newsletter", "noreply", "no-reply", "donotreply", "do-not-reply", "mail",
    "mailer-daemon", "team", "subscribe", "unsubscribe", "list-request", "majordomo",
})  # fmt: skip
DOMAIN = re.compile(r"@?((?:[^\W_](?:[\w\-]{0,61}[^\W_])?\.)+[^\W\d_][\w\-]{1,62})")


class Allowed:
    """What is never touched."""

    def __init__(self, entries: Iterable[str], roles: bool) -> None:
        """Raises `ValueError` for an entry that is none of a domain, an e-mail address, a phone number, an IP address or network."""
        self._roles = roles
        self._addresses: set[str] = set()
        self._domains: set[str] = set()
        self._numbers: set[str] = set()
        self._networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
        for entry in entries:
            self._add(entry.strip().lower())

    def _add(self, entry: str) -> None:
        if domain := DOMAIN.fullmatch(entry):
            self._domains.add(domain[1])
        elif "@" in entry and DOMAIN.fullmatch(entry.rpartition("@")[2]):
            self._addresses.add(entry)
        elif network := _network(entry):
            self._networks.append(network)
        elif re.fullmatch(r"[+\d ()./\-]+", entry) and len(_digits(entry)) >= 7:
            self._numbers.add(_digits(entry))
        else:
            raise ValueError(
                f"allow: {entry!r} is none of a domain (example.org), an e-mail address, a phone number, an IP address or network (192.0.2.0/24)"
            )

    def __bool__(self) -> bool:
        return self._roles or bool(self._addresses or self._domains or self._numbers or self._networks)

    def holds(self, entity: str, value: str) -> bool:
        """Whether a find is a public contact point."""
        if entity == "EMAIL_ADDRESS":
            local, _, domain = value.lower().rpartition("@")
            if (self._roles and local.partition("+")[0] in ROLES) or value.lower() in self._addresses:
                return True
            labels = domain.split(".")
            return any(".".join(labels[place:]) in self._domains for place in range(len(labels)))
        if entity == "PHONE_NUMBER":
            return _digits(value) in self._numbers
        if entity == "IP_ADDRESS" and self._networks:
            found = _network(value.partition("/")[0])
            return found is not None and any(_inside(found, one) for one in self._networks)
        return False


def _digits(value: str) -> str:
    return "".join(filter(str.isdigit, value)).removeprefix("00")


def _network(value: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(value, strict=False)
    except ValueError:
        return None


def _inside(
    small: ipaddress.IPv4Network | ipaddress.IPv6Network, large: ipaddress.IPv4Network | ipaddress.IPv6Network
) -> bool:
    return small.version == large.version and small.network_address in large and small.prefixlen >= large.prefixlen
