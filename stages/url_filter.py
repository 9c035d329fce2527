"""The `url_filter` stage: pages dropped by their address alone, before anything is parsed.

Lists of domains and addresses by path (any length), words and substrings by small lists of our own. Words are looked
for in the host and the path, percent-decoded and lower-case; the query is left alone, since it holds what visitors
typed.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple
from urllib.parse import unquote, urlsplit

import pyarrow as pa

from stages.batch import Batch
from stages.stage import ASSETS, Decision, Limit, MapStage, Resources, StageConfig, StageError, knob, register
from stages.url_lists import (
    HashedList,
    domain_entries,
    has_lists,
    host_key,
    list_files,
    read_entries,
    url_entries,
    url_key,
)

_OURS = ASSETS / "url_filter"
_WORD = re.compile(r"[^\W_]+")
_IGNORED = re.compile(r"[-._~]+")
_SCHEME = re.compile(r"^([a-z][a-z0-9+.-]{0,30}):(?!\d)", re.IGNORECASE)  # "localhost:8080" has a port, not a scheme
_MAX_URL = 8192  # characters; what follows is not looked at
_PREFIXES = 16  # path segments that are looked up in lists of addresses

Paths = str | tuple[str, ...] | None


class UrlFilterConfig(StageConfig):
    """Knobs of `url_filter`."""

    block_domains: Paths = knob(
        None,
        "lists of domains to drop: a file (one a line, hosts files too, .gz too), a folder in the form of UT1's "
        "(<category>/domains; its <category>/urls go to `block_urls` by themselves), or a list of such paths",
        "UT1 (University of Toulouse)",
    )
    block_urls: Paths = knob(None, "lists of addresses to drop: a listed path also covers what lies below it", "UT1")
    allow_domains: Paths = knob(None, "lists of domains that no rule drops: `block` lists and words give way to them")
    hard_words: str | None = knob(
        "ours", "words of which one is enough: `ours`, a path, or null", "list written for this project"
    )
    soft_words: str | None = knob(
        "ours", "words of which it takes several: `ours`, a path, or null", "list written for this project"
    )
    substrings: str | None = knob(
        "ours",
        "strings found inside words too, `-`, `_` and `.` ignored: `ours`, a path, or null",
        "list written for this project",
    )
    soft_threshold: int = knob(2, "different soft words that drop a page", "FineWeb", ge=1)
    block_ip_hosts: bool = knob(True, "drop pages whose host is an IP address")
    schemes: tuple[str, ...] = knob(("http", "https"), "schemes of addresses that stay")
    missing: Literal["keep", "drop"] = knob(
        "keep", "what happens to a row without an address, or with one that has no host"
    )


class Address(NamedTuple):
    """The parts of an address that rules look at; `scheme` is lower case, `host` as `host_key` writes it."""

    scheme: str
    host: str
    path: str
    query: str = ""


def parse_address(url: str) -> Address | None:
    """The parts of an address, None if it names no host; without a scheme it counts as http."""
    url = url.strip()[:_MAX_URL]
    match = _SCHEME.match(url)
    if match is None and "://" not in url[:32]:
        url = "http://" + url.lstrip("/")
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:  # an unbalanced bracket, say
        return None
    if not host:
        return Address(match.group(1).lower(), "", parts.path) if match and not parts.netloc else None
    return Address(parts.scheme.lower(), host_key(unquote(host)), parts.path, parts.query)


def is_ip(host: str) -> bool:
    """Whether a host is an IPv4 or IPv6 address, also in the one-number and hexadecimal forms that browsers take."""
    if ":" not in host and not host.rpartition(".")[2][:1].isdigit():
        return False  # what all of an IPv4 address's forms end in, spared for the many
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return bool(re.fullmatch(r"(?:0x[0-9a-f]+|\d+)(?:\.(?:0x[0-9a-f]+|\d+)){0,3}", host))
    return True


@register
class UrlFilter(MapStage):
    """Drops pages by scheme, IP host, lists of domains and addresses, and words in the address.

    Scored: for each rule the name of the list or word that matched, never the address. An allowed domain (or a host
    below it) is kept whatever else matches. `domain` is a listed registrable domain, `subdomain` a listed host below one.
    """

    name = "url_filter"
    version = 1
    config_model = UrlFilterConfig
    needs = ("url",)
    libraries: ClassVar[tuple[str, ...]] = ("tldextract",)
    resources = Resources(memory=256 << 20)
    config: UrlFilterConfig

    def __init__(self, config: UrlFilterConfig) -> None:
        super().__init__(config)
        self._lists: dict[str, HashedList] = {}
        self._words: dict[str, frozenset[str]] = {}
        self._substring: re.Pattern[str] | None = None
        self._suffixes: Any = None

    def provides(self) -> dict[str, pa.DataType]:
        """Nothing: the verdicts are all."""
        return {}

    def measures(self) -> dict[str, pa.DataType]:
        """What matched, by rule: names of lists, words, or null."""
        return {
            "url_filter_missing": pa.bool_(),
            "url_filter_allowed": pa.bool_(),
            "url_filter_scheme": pa.string(),  # set only where it is not one of `schemes`
            "url_filter_ip_host": pa.bool_(),
            "url_filter_domain": pa.string(),
            "url_filter_subdomain": pa.string(),
            "url_filter_url": pa.string(),
            "url_filter_hard_word": pa.string(),
            "url_filter_soft_words": pa.int64(),
            "url_filter_soft_matches": pa.string(),
            "url_filter_substring": pa.string(),
        }

    def scored(self) -> tuple[str, ...]:
        """Everything: `decide` needs the matches."""
        return tuple(self.measures())

    def limits(self) -> list[Limit]:
        """The number of soft words that drops."""
        return [Limit("url_filter_soft_words", "soft_words", self.config.soft_threshold)]

    def assets(self) -> dict[str, str]:
        """Every file of every list; names are `<knob>/<number>/<list>`."""
        config = self.config
        found: dict[str, str] = {}
        block = _tuple(config.block_domains)
        for kind, files in (
            ("block_domains", list_files(block, urls=False)),
            ("block_urls", list_files(_tuple(config.block_urls), urls=True)),
            ("block_urls", list_files([path for path in block if Path(path).is_dir()], urls=True)),
            ("allow_domains", list_files(_tuple(config.allow_domains), urls=False)),
        ):
            for name, path in files:
                found[f"{kind}/{len(found):04d}/{name}"] = path
        for kind in ("hard_words", "soft_words", "substrings"):
            if path := getattr(config, kind):
                found[kind] = str(_OURS / f"{kind}.txt") if path == "ours" else path
        return found

    def setup(self, assets: Mapping[str, Path]) -> None:
        """Load the lists: 10 bytes a domain or address, a million in about two seconds."""
        for given in (
            *_tuple(self.config.block_domains),
            *_tuple(self.config.block_urls),
            *_tuple(self.config.allow_domains),
        ):
            if Path(given).is_dir() and not has_lists(given):
                raise StageError(
                    f"url_filter: no list in the folder {given}; expected <category>/domains or <category>/urls files"
                )
        for name, path in sorted(assets.items()):
            if not path.is_file():
                raise StageError(
                    f"url_filter: no list at {path} (asset {name}); give a file, or a folder of <category>/domains"
                )
        for kind in ("block_domains", "block_urls", "allow_domains"):
            entries = url_entries if kind == "block_urls" else domain_entries
            files = [
                (name.split("/", 2)[2], path) for name, path in sorted(assets.items()) if name.startswith(f"{kind}/")
            ]
            self._lists[kind] = HashedList((name, entries(path)) for name, path in files)
        for kind in ("hard_words", "soft_words", "substrings"):
            self._words[kind] = (
                frozenset(_folded(word) for word in read_entries(assets[kind])) if kind in assets else frozenset()
            )
        compact = {_IGNORED.sub("", word) for word in self._words["substrings"]} - {""}
        # longest first: the match that is shown is then the same whatever the order of the file
        ordered = sorted(compact, key=lambda word: (-len(word), word))
        self._substring = re.compile("|".join(map(re.escape, ordered))) if ordered else None
        self._suffixes = _public_suffixes()

    def measure(self, batch: Batch) -> pa.Table:
        """Words row by row; lists by one look-up for the whole batch."""
        rows: list[dict[str, Any]] = []
        hosts: list[str] = []  # every host and parent host of every row, one after the other
        addresses: list[str] = []
        spans = []
        for url in batch.values("url"):
            address = parse_address(url) if url and url.strip() else None
            row, listed, keys = self._row(address)
            rows.append(row)
            spans.append((len(hosts), len(hosts) + len(listed), len(addresses), len(addresses) + len(keys)))
            hosts += listed
            addresses += keys
        blocked, allowed = self._lists["block_domains"].find(hosts), self._lists["allow_domains"].find(hosts)
        urls = self._lists["block_urls"].find(addresses)
        for row, (first, last, first_key, last_key) in zip(rows, spans, strict=True):
            row["url_filter_allowed"] = any(allowed[first:last])
            if last > first:  # the registrable domain stands last
                row["url_filter_domain"] = blocked[last - 1]
                row["url_filter_subdomain"] = next(filter(None, blocked[first : last - 1]), None)
            row["url_filter_url"] = next(filter(None, urls[first_key:last_key]), None)
        return pa.table(
            {name: pa.array([row.get(name) for row in rows], kind) for name, kind in self.measures().items()}
        )

    def _row(self, address: Address | None) -> tuple[dict[str, Any], list[str], list[str]]:
        """The values of one address that need no list, its hosts (most specific first), its keys for lists of addresses."""
        row: dict[str, Any] = {
            "url_filter_missing": address is None,
            "url_filter_ip_host": False,
            "url_filter_soft_words": 0,
        }
        if address is None:
            return row, [], []
        if address.scheme not in self.config.schemes:
            row["url_filter_scheme"] = address.scheme
        if not address.host:
            row["url_filter_missing"] = address.scheme in self.config.schemes
            return row, [], []
        row["url_filter_ip_host"] = is_ip(address.host)
        text = _folded(unquote(f"{address.host}{address.path}"))
        words = _WORD.findall(text)
        row["url_filter_hard_word"] = next((word for word in words if word in self._words["hard_words"]), None)
        soft = sorted(self._words["soft_words"].intersection(words))
        row["url_filter_soft_words"], row["url_filter_soft_matches"] = len(soft), ",".join(soft) or None
        if self._substring and (match := self._substring.search(_IGNORED.sub("", text))):
            row["url_filter_substring"] = match.group()
        return (
            row,
            self._hosts(address.host, row["url_filter_ip_host"]),
            _url_keys(address) if len(self._lists["block_urls"]) else [],
        )

    def _hosts(self, host: str, ip: bool) -> list[str]:
        """The host and its parents down to the registrable domain."""
        if not (len(self._lists["block_domains"]) or len(self._lists["allow_domains"])):
            return []
        if ip:
            return [host]
        found = self._suffixes(host)
        labels = host.split(".")
        # an unknown top level counts as a suffix of one label (the default rule of the public suffix list)
        depth = found.suffix.count(".") + 2 if found.suffix else 2
        return [".".join(labels[start:]) for start in range(max(1, len(labels) - depth + 1))]

    def decide(self, values: pa.Table) -> Decision:
        """Rules in order: missing, scheme, ip_host, domain, subdomain, url, hard_word, soft_words, substring."""
        decision = Decision.keep(values.num_rows)
        config = self.config
        for number, row in enumerate(values.to_pylist()):
            if row["url_filter_allowed"]:
                continue
            if row["url_filter_missing"]:
                if config.missing == "drop":
                    decision.drop(number, "missing")
                continue
            if row["url_filter_scheme"] is not None:
                decision.drop(number, "scheme", detail=row["url_filter_scheme"])
            if config.block_ip_hosts and row["url_filter_ip_host"]:
                decision.drop(number, "ip_host")
            for rule in ("domain", "subdomain", "url", "hard_word"):
                if row[f"url_filter_{rule}"] is not None:
                    decision.drop(number, rule, detail=row[f"url_filter_{rule}"])
            if row["url_filter_soft_words"] >= config.soft_threshold:
                count, matches = row["url_filter_soft_words"], row["url_filter_soft_matches"]
                decision.drop(number, "soft_words", count, config.soft_threshold, matches)
            if row["url_filter_substring"] is not None:
                decision.drop(number, "substring", detail=row["url_filter_substring"])
        return decision


def _tuple(paths: Paths) -> tuple[str, ...]:
    return () if paths is None else (paths,) if isinstance(paths, str) else paths


def _folded(text: str) -> str:
    """Lower case, composed: what an entry of a list and an address are compared in."""
    return unicodedata.normalize("NFC", text.lower())


def _url_keys(address: Address) -> list[str]:
    """The address with its query and without, and every folder above it, longest first."""
    key = url_key(address.host, address.path)
    ends = [place for place, character in enumerate(key) if character == "/"][1 : _PREFIXES + 1]
    query = [f"{key}?{unquote(address.query).lower()}"] if address.query else []
    return [*query, key, *(key[:end] for end in reversed(ends))]


def _public_suffixes() -> Any:
    """tldextract with the public suffix list that it ships: nothing is fetched, nothing is written."""
    from tldextract import TLDExtract

    extract = TLDExtract(suffix_list_urls=(), cache_dir=None)
    extract("probe.example.com")  # the list is read at the first use
    return extract
