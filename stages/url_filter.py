"""The `url_filter` stage: pages dropped by their address alone, before anything is parsed.

Lists of domains and addresses by path (any length), regular expressions by path, words and substrings by small lists
of our own. Words are looked for in the host and the path, percent-decoded and lower-case; the query is left alone,
since it holds what visitors typed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import pyarrow as pa

from stages.batch import Batch
from stages.stage import ASSETS, Decision, Limit, MapStage, Resources, StageConfig, StageError, knob, register
from stages.url_address import (
    Address,
    any_of,
    folded,
    host_keys,
    host_level,
    is_ip,
    parse_address,
    pattern_text,
    registrable_depth,
    registrable_domain,
    url_keys,
    words_text,
)
from stages.url_canonical import canonical_host, canonical_url
from stages.url_lists import (
    ADDRESSES,
    DOMAINS,
    HashedList,
    file_hashes,
    has_lists,
    list_files,
    read_blocks,
    read_entries,
)

_OURS = ASSETS / "url_filter"
_WORD = re.compile(r"[^\W_]+")
_IGNORED = {ord(character): None for character in "-._~"}
_BLOCK = {"block_domains": DOMAINS, "block_urls": ADDRESSES}
_ALLOW = {"allow_domains": DOMAINS, "allow_urls": ADDRESSES}
_COLUMNS = ("url_canonical", "url_domain", "url_host")

_EMPTY = {pa.bool_(): False, pa.int64(): 0}  # what a row has where nothing is found; other columns null

Paths = str | tuple[str, ...] | None
Columns = dict[str, list[Any]]
Soft = tuple[set[str], set[str]]


class UrlFilterConfig(StageConfig):
    """Knobs of `url_filter`."""

    block_domains: Paths = knob(
        None,
        "lists of domains to drop: a file (one a line, hosts files and `||domain^` too, .gz too), a folder in the form of "
        "UT1's (<category>/domains; its <category>/urls go to `block_urls` by themselves), or a list of such paths",
        "UT1 (University of Toulouse)",
    )
    block_urls: Paths = knob(None, "lists of addresses to drop: a listed path also covers what lies below it", "UT1")
    block_patterns: Paths = knob(
        None,
        "files of regular expressions (Python's, one a line; a line that begins with # is a comment) that drop a page "
        "where one is found in `host/path?query`: percent-decoded, host without `www.`, upper and lower case alike",
    )
    allow_domains: Paths = knob(None, "lists of domains that no rule drops: `block` lists and words give way to them")
    allow_urls: Paths = knob(None, "lists of addresses that no rule drops, with all that lies below them")
    soft_lists: tuple[str, ...] = knob(
        (),
        "names of `block` lists (a UT1 category, a file without its suffixes) that do not drop a page by themselves: each "
        "that matches counts as one soft word",
    )
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
    soft_threshold: int = knob(2, "different soft words and soft lists that drop a page", "FineWeb", ge=1)
    block_ip_hosts: bool = knob(True, "drop pages whose host is an IP address")
    schemes: tuple[str, ...] = knob(("http", "https"), "schemes of addresses that stay")
    missing: Literal["keep", "drop"] = knob(
        "keep", "what happens to a row without an address, or with one that has no host"
    )
    columns: bool = knob(
        False,
        "add the columns `url_canonical` (one spelling for the many of an address; see docs/urls.md), `url_domain` (the "
        "registrable domain) and `url_host`; keeping one document of each canonical address is a deduplication stage's work",
        "RFC 3986, section 6; public suffix list",
    )


class Pattern(NamedTuple):
    """A regular expression of a list, with the list's name and its line."""

    list: str
    line: int
    search: Callable[[str], Any]


@register
class UrlFilter(MapStage):
    """Drops pages by scheme, IP host, lists of domains and addresses, regular expressions, and words in the address.

    Scored: for each rule the name of the list or word that matched; the address itself only with `columns`. An allowed
    domain (or a host below it) or address is kept whatever else matches. `domain` is a listed registrable domain,
    `subdomain` a listed host below one. An entry that several lists hold counts for the first of them.
    """

    name = "url_filter"
    version = 2
    config_model = UrlFilterConfig
    needs = ("url",)
    decide_knobs = ("soft_threshold", "block_ip_hosts", "missing")
    libraries: ClassVar[tuple[str, ...]] = ("tldextract", "idna")
    resources = Resources(memory=256 << 20)
    config: UrlFilterConfig

    def __init__(self, config: UrlFilterConfig) -> None:
        super().__init__(config)
        self._hard: dict[str, HashedList] = {}  # by knob
        self._soft: dict[str, HashedList] = {}
        self._allow: dict[str, HashedList] = {}
        self._patterns: list[Pattern] = []
        self._words: dict[str, frozenset[str]] = {}
        self._substring: re.Pattern[str] | None = None
        self._depth: Callable[[str], int]

    def provides(self) -> dict[str, pa.DataType]:
        """Nothing but the verdicts, unless `columns` asks for more."""
        return dict.fromkeys(_COLUMNS, pa.string()) if self.config.columns else {}

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
            "url_filter_pattern": pa.string(),  # list:line
            "url_filter_hard_word": pa.string(),
            "url_filter_soft_words": pa.int64(),
            "url_filter_soft_hits": pa.int64(),  # soft words and soft lists
            "url_filter_soft_matches": pa.string(),
            "url_filter_substring": pa.string(),
            **self.provides(),
        }

    def scored(self) -> tuple[str, ...]:
        """Everything: `decide` needs the matches."""
        return tuple(self.measures())

    def limits(self) -> list[Limit]:
        """The number of soft words, and of soft words and lists, that drops."""
        threshold = self.config.soft_threshold
        return [
            Limit("url_filter_soft_words", "soft_words", threshold),
            Limit("url_filter_soft_hits", "soft_lists", threshold),
        ]

    def assets(self) -> dict[str, str]:
        """Every file of every list; names are `<knob>/<number>/<list>`."""
        config = self.config
        found: dict[str, str] = {}
        block = _tuple(config.block_domains)
        for kind, files in (
            ("block_domains", list_files(block, urls=False)),
            ("block_urls", list_files(_tuple(config.block_urls), urls=True)),
            ("block_urls", list_files([path for path in block if Path(path).is_dir()], urls=True)),
            ("block_patterns", [(Path(path).name.split(".")[0], path) for path in _tuple(config.block_patterns)]),
            ("allow_domains", list_files(_tuple(config.allow_domains), urls=False)),
            ("allow_urls", list_files(_tuple(config.allow_urls), urls=True)),
        ):
            for name, path in files:
                found[f"{kind}/{len(found):04d}/{name}"] = path
        for kind in ("hard_words", "soft_words", "substrings"):
            if path := getattr(config, kind):
                found[kind] = str(_OURS / f"{kind}.txt") if path == "ours" else path
        return found

    def setup(self, assets: Mapping[str, Path]) -> None:
        """Load the lists: 10 bytes a domain or address, a million in about a second."""
        config = self.config
        for given in (
            *_tuple(config.block_domains),
            *_tuple(config.block_urls),
            *_tuple(config.allow_domains),
            *_tuple(config.allow_urls),
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
        lists: dict[str, list[tuple[str, Path]]] = {}
        for name, path in sorted(assets.items()):
            if "/" in name:
                kind, _, list_name = name.split("/", 2)
                lists.setdefault(kind, []).append((list_name, path))
        names = sorted({name for kind in (*_BLOCK, "block_patterns") for name, _ in lists.get(kind, [])})
        if unknown := sorted(set(config.soft_lists) - set(names)):
            raise StageError(
                f"url_filter.soft_lists: no `block` list is called {unknown[0]!r}; there are: {', '.join(names) or 'none'}"
            )
        soft = set(config.soft_lists)
        for kind, form in _BLOCK.items():
            files = lists.get(kind, [])
            self._hard[kind] = HashedList((name, file_hashes(path, form)) for name, path in files if name not in soft)
            self._soft[kind] = HashedList((name, file_hashes(path, form)) for name, path in files if name in soft)
        for kind, form in _ALLOW.items():
            self._allow[kind] = HashedList((name, file_hashes(path, form)) for name, path in lists.get(kind, []))
        self._patterns = [
            pattern for name, path in lists.get("block_patterns", []) for pattern in read_patterns(name, path)
        ]
        for kind in ("hard_words", "soft_words", "substrings"):
            self._words[kind] = (
                frozenset(folded(word) for word in read_entries(assets[kind])) if kind in assets else frozenset()
            )
        compact = {word.translate(_IGNORED) for word in self._words["substrings"]} - {""}
        self._substring = re.compile(any_of(compact)) if compact else None
        self._depth = registrable_depth()

    def measure(self, batch: Batch) -> pa.Table:
        """Words and patterns row by row; lists by one look-up for the whole batch."""
        urls = batch.values("url")
        columns: Columns = {name: [_EMPTY.get(kind)] * len(urls) for name, kind in self.measures().items()}
        hosts: list[str] = []  # every host and parent host of every row, one after the other
        keys: list[str] = []
        host_rows: list[int] = []  # the row of each
        key_rows: list[int] = []
        addresses = [parse_address(url) if url and not url.isspace() else None for url in urls]
        soft = [(set[str](), set[str]()) for _ in urls]  # words and lists
        any_hosts = any(
            map(len, (self._hard["block_domains"], self._soft["block_domains"], self._allow["allow_domains"]))
        )
        any_urls = any(map(len, (self._hard["block_urls"], self._soft["block_urls"], self._allow["allow_urls"])))
        for row, (url, address) in enumerate(zip(urls, addresses, strict=True)):
            columns["url_filter_missing"][row] = address is None
            if address is not None:
                self._row(columns, row, address, *soft[row])
                if any_hosts and address.host:
                    hosts += host_keys(address.host)
                    host_rows += [row] * (len(hosts) - len(host_rows))
                if any_urls and address.host:
                    keys += url_keys(address)
                    key_rows += [row] * (len(keys) - len(key_rows))
            if self.config.columns and url is not None:
                self._columns(columns, row, url)
        self._look_up_hosts(columns, addresses, soft, hosts, host_rows)
        self._look_up_urls(columns, soft, keys, key_rows)
        for row, (words, lists) in enumerate(soft):
            if words or lists:
                columns["url_filter_soft_words"][row], columns["url_filter_soft_hits"][row] = (
                    len(words),
                    len(words) + len(lists),
                )
                names = [*sorted(words), *(f"list:{name}" for name in sorted(lists))]
                columns["url_filter_soft_matches"][row] = ",".join(names)
        return pa.table({name: pa.array(columns[name], kind) for name, kind in self.measures().items()})

    def _row(self, columns: Columns, row: int, address: Address, soft_words: set[str], soft_lists: set[str]) -> None:
        """Fill in what needs no hashed list; `soft_words` and `soft_lists` take what is soft."""
        if address.scheme not in self.config.schemes:
            columns["url_filter_scheme"][row] = address.scheme
        if not address.host:
            columns["url_filter_missing"][row] = address.scheme in self.config.schemes
            return
        columns["url_filter_ip_host"][row] = is_ip(address.host)
        text = words_text(address)
        words = _WORD.findall(text)
        if not self._words["hard_words"].isdisjoint(words):
            columns["url_filter_hard_word"][row] = next(word for word in words if word in self._words["hard_words"])
        soft_words |= self._words["soft_words"].intersection(words)
        if self._substring and (match := self._substring.search(text.translate(_IGNORED))):
            columns["url_filter_substring"][row] = match.group()
        if self._patterns:
            text = pattern_text(address)
            for pattern in self._patterns:
                if pattern.search(text):
                    if pattern.list in self.config.soft_lists:
                        soft_lists.add(pattern.list)
                    elif columns["url_filter_pattern"][row] is None:
                        columns["url_filter_pattern"][row] = f"{pattern.list}:{pattern.line}"

    def _look_up_hosts(
        self, columns: Columns, addresses: list[Address | None], soft: list[Soft], hosts: list[str], rows: list[int]
    ) -> None:
        """Ask the lists of domains. The public suffix list is asked only about hits: they are few."""

        def hits(found: HashedList) -> Iterator[tuple[int, str, str]]:
            for place, name in found.hits(hosts):
                address = addresses[rows[place]]
                level = address and host_level(hosts[place], address.host, self._depth)
                if level:
                    yield rows[place], level, name

        for row, level, name in hits(self._hard["block_domains"]):
            if columns[f"url_filter_{level}"][row] is None:
                columns[f"url_filter_{level}"][row] = name
        for row, _, name in hits(self._soft["block_domains"]):
            soft[row][1].add(name)
        for row, _, _ in hits(self._allow["allow_domains"]):
            columns["url_filter_allowed"][row] = True

    def _look_up_urls(self, columns: Columns, soft: list[Soft], keys: list[str], rows: list[int]) -> None:
        """Ask the lists of addresses."""
        for place, name in self._hard["block_urls"].hits(keys):
            if columns["url_filter_url"][rows[place]] is None:
                columns["url_filter_url"][rows[place]] = name
        for place, name in self._soft["block_urls"].hits(keys):
            soft[rows[place]][1].add(name)
        for place, _ in self._allow["allow_urls"].hits(keys):
            columns["url_filter_allowed"][rows[place]] = True

    def _columns(self, columns: Columns, row: int, url: str) -> None:
        """The document columns of one address."""
        canonical = canonical_url(url)
        host = canonical_host(canonical)
        columns["url_canonical"][row], columns["url_host"][row] = canonical or None, host
        columns["url_domain"][row] = registrable_domain(host, self._depth) if host else None

    def decide(self, values: pa.Table) -> Decision:
        """Rules: missing, scheme, ip_host, domain, subdomain, url, pattern, hard_word, soft_words, soft_lists, substring."""
        decision = Decision.keep(values.num_rows)
        config = self.config

        def told(name: str) -> list[tuple[int, Any]]:
            """Rows with a value that says something, and it; rows of allowed addresses aside."""
            column = values.column(f"url_filter_{name}")
            if column.null_count == len(column):
                return []
            return [(row, value) for row, value in enumerate(column.to_pylist()) if value and row not in allowed]

        allowed: set[int] = set()
        allowed = {row for row, _ in told("allowed")}
        matches = values.column("url_filter_soft_matches")
        for flag, wanted in (
            ("missing", config.missing == "drop"),
            ("scheme", True),
            ("ip_host", config.block_ip_hosts),
        ):
            for row, value in told(flag) if wanted else []:
                decision.drop(row, flag, detail=value if flag == "scheme" else None)
        for rule in ("domain", "subdomain", "url", "pattern", "hard_word"):
            for row, name in told(rule):
                decision.drop(row, rule, detail=name)
        for rule, count in (("soft_words", "soft_words"), ("soft_lists", "soft_hits")):
            for row, hits in told(count):
                if hits >= config.soft_threshold:
                    decision.drop(row, rule, hits, config.soft_threshold, matches[row].as_py())
        for row, text in told("substring"):
            decision.drop(row, "substring", detail=text)
        return decision


def read_patterns(name: str, path: Path) -> list[Pattern]:
    """The regular expressions of a file. Raises `StageError` with the line of one that is broken, or that fits all."""
    found = []
    for number, line in enumerate(b"".join(read_blocks(path)).split(b"\n"), start=1):
        text = line.decode("utf-8", "replace").strip()
        if not text or text.startswith("#"):
            continue
        try:
            pattern = re.compile(text, re.IGNORECASE)
        except (re.error, OverflowError, RecursionError) as error:
            raise StageError(
                f"url_filter: {path}, line {number}: {text!r} is no regular expression ({error}); correct it, or escape "
                "what is meant literally with a backslash"
            ) from error
        if pattern.search(""):
            raise StageError(
                f"url_filter: {path}, line {number}: {text!r} fits every address; say what must stand in it"
            )
        found.append(Pattern(name, number, pattern.search))
    return found


def _tuple(paths: Paths) -> tuple[str, ...]:
    return () if paths is None else (paths,) if isinstance(paths, str) else paths
