"""The url_filter stage: every rule, both ways, and lists in the forms that they come in."""

from __future__ import annotations

import gzip
import json
import random
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stages.url_address
from stages.stage import StageError
from stages.url_address import any_of
from stages.url_filter import UrlFilter, UrlFilterConfig, is_ip, parse_address
from stages.url_lists import ADDRESSES, DOMAINS, Form, HashedList, _entry, _hash, file_hashes
from tests.web_stages import ready, run


def entry_hashes(entries: Iterable[str]) -> Iterator[np.ndarray]:
    """Hashes of entries in normal form, one by one: what reading a file must come to."""
    yield np.array([_hash(entry) for entry in entries], dtype=np.uint64)


def rules(urls: list[str | None], **knobs: object) -> list[str | None]:
    _, decision = run(ready(UrlFilter(UrlFilterConfig(**knobs))), url=pa.array(urls, pa.string()))
    return decision.rule


@pytest.fixture
def ut1(tmp_path: Path) -> Path:
    """A folder in the form of UT1's."""
    for category, domains, urls in (
        (
            "gambling",
            "bad-bets.example\nbets.co.uk\nsub.shared.example\n\n# note\nPÖKER.example\n",
            "pages.example/bets\n",
        ),
        ("adult", "nasty.example\n10.1.2.3\n\xff\xfe\n", "videos.example/~user\nhost.example/show.php?id=7\n"),
    ):
        folder = tmp_path / "ut1" / category
        folder.mkdir(parents=True)
        (folder / "domains").write_bytes(domains.encode("latin-1" if category == "adult" else "utf-8"))
        (folder / "urls").write_text(urls)
        (folder / "usage").write_text("black")
    return tmp_path / "ut1"


def test_lists_match_domains_subdomains_and_addresses(ut1: Path) -> None:
    urls = {
        "https://www.bad-bets.example/": "domain",
        "http://a.b.bad-bets.example:8080/x?y#z": "domain",
        "https://BETS.co.uk./": "domain",
        "https://other.co.uk/": None,  # co.uk is a public suffix, not the domain
        "https://x.sub.shared.example/": "subdomain",
        "https://shared.example/": None,
        "https://xn--pker-5qa.example/": "domain",
        "https://www.pages.example/bets/": "url",
        "https://pages.example/BETS/deep/page.html": "url",
        "https://pages.example/bets-are-bad": None,
        "https://videos.example/%7Euser/clip": "url",
        "https://host.example/show.php?id=7": "url",
        "https://host.example/show.php?id=8": None,
    }
    values, decision = run(ready(UrlFilter(UrlFilterConfig(block_domains=str(ut1)))), url=list(urls))
    assert dict(zip(urls, decision.rule, strict=True)) == urls
    assert decision.detail[0] == "gambling" and decision.detail[10] == "adult"
    assert "example" not in json.dumps(values.to_pylist())  # addresses are personal data: no part of one is kept


def test_allow_wins_over_every_rule(ut1: Path, tmp_path: Path) -> None:
    allow = tmp_path / "allow.txt"
    allow.write_text("nasty.example\nporn-studies.example\n")
    urls = ["https://x.nasty.example/", "https://porn-studies.example/porn/casino-poker", "https://bad-bets.example/"]
    assert rules(urls, block_domains=str(ut1), allow_domains=str(allow)) == [None, None, "domain"]


def test_plain_hosts_and_gzip_lists(tmp_path: Path) -> None:
    plain, hosts, packed = tmp_path / "mine.txt", tmp_path / "hosts", tmp_path / "more.list.gz"
    plain.write_text("https://www.one.example/path\n*.two.example  # wildcard\n")
    hosts.write_text("127.0.0.1 localhost\n0.0.0.0 three.example\n")
    packed.write_bytes(gzip.compress(b"four.example\r\n"))
    urls = [f"http://{name}.example/" for name in ("one", "two", "three", "four", "five")]
    stage = ready(UrlFilter(UrlFilterConfig(block_domains=(str(plain), str(hosts), str(packed)))))
    assert run(stage, url=urls)[1].detail == ["mine", "mine", "hosts", "more", None]


def test_words_are_whole_and_found_behind_case_and_escapes() -> None:
    urls = {
        "https://example.com/PORN/1": "hard_word",
        "https://example.com/%70orn": "hard_word",
        "https://example.com/%D0%BF%D0%BE%D1%80%D0%BD%D0%BE": "hard_word",
        "https://example.com/popcorn": None,
        "https://example.com/?q=porn": None,
        "https://casino.example.com/": None,
        "https://casino.example.com/poker-bonus": "soft_words",
        "https://casino.example.com/casino/casino": None,  # the same word thrice is one word
        "https://my-free-porn-videos.com/": "hard_word",
        "https://freepornmovies.example/": "substring",
        "https://example.com/free.porn_tube": "substring",
        "https://example.com/情/色情小说": "substring",
        "https://www.essex.gov.uk/essex-camera-club": None,
        "https://en.wikipedia.org/wiki/Scunthorpe": None,
        "https://glutenfreespinach.example/": None,
    }
    got = dict(zip(urls, rules(list(urls), hard_words="ours"), strict=True))
    got["https://example.com/free.porn_tube"] = rules(["https://example.com/free.porn_tube"], hard_words=None)[0]
    assert got == urls


def test_soft_words_show_count_threshold_and_words() -> None:
    stage = ready(UrlFilter(UrlFilterConfig(soft_threshold=3)))
    _, decision = run(stage, url=["https://x.com/casino-poker-slots", "https://x.com/casino-poker"])
    assert decision.rule == ["soft_words", None]
    assert (decision.value[0], decision.threshold[0], decision.detail[0]) == (3, 3, "casino,poker,slots")


def test_words_of_ones_own(tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("Straße # a comment\n")
    assert rules(["https://x.de/STRASSE", "https://x.de/stra%C3%9Fe", "https://x.de/porn"], hard_words=str(words)) == [
        None,
        "hard_word",
        None,
    ]


def test_schemes_and_ip_hosts() -> None:
    urls = {
        "http://192.168.0.1/x": "ip_host",
        "http://[2001:db8::1]:80/": "ip_host",
        "http://0x7f.1/": "ip_host",
        "http://2130706433/": "ip_host",
        "https://1.2.3.4.example.com/": None,
        "https://123.com/": None,
        "ftp://example.com/file": "scheme",
        "mailto:someone@example.com": "scheme",
        "data:text/html,hello": "scheme",
        "dns:example.com": "scheme",
        "HTTPS://EXAMPLE.COM/": None,
        "example.com/page": None,
        "localhost:8080/page": None,
    }
    assert dict(zip(urls, rules(list(urls)), strict=True)) == urls
    assert rules(["http://192.168.0.1/x", "ftp://example.com/"], block_ip_hosts=False, schemes=("ftp",)) == [
        "scheme",
        None,
    ]


def test_a_missing_or_broken_address_is_kept_unless_told() -> None:
    urls = [None, "", "  ", "http://", "http://[::1", "///"]
    assert rules(urls) == [None] * 6
    assert rules(urls, missing="drop") == ["missing"] * 6


def test_what_browsers_forgive_hides_nothing(ut1: Path) -> None:
    urls = [
        r"http:\\nasty.example\x",
        "http:/nasty.example/",
        "https:nasty.example",
        "nasty.example/?u=http://good.example/",
        "//nasty.example",
    ]
    assert rules(urls, block_domains=str(ut1)) == ["domain"] * 5


def test_soft_lists_count_as_soft_words(ut1: Path, tmp_path: Path) -> None:
    patterns = tmp_path / "forums.txt"
    patterns.write_text("/viewtopic\\.php\n")
    words = tmp_path / "words.txt"
    words.write_text("casino\npoker\n")
    urls = {
        "https://bets.co.uk/": None,  # one soft list
        "https://bets.co.uk/casino": "soft_lists",
        "https://bets.co.uk/viewtopic.php?t=1": "soft_lists",
        "https://pages.example/bets/casino-poker": "soft_words",
        "https://nasty.example/": "domain",  # another category of the same folder: hard
    }
    soft = UrlFilterConfig(
        block_domains=str(ut1),
        block_patterns=str(patterns),
        soft_lists=("gambling", "forums"),
        soft_words=str(words),
    )
    values, decision = run(ready(UrlFilter(soft)), url=list(urls))
    assert dict(zip(urls, decision.rule, strict=True)) == urls
    assert decision.detail[1:3] == ["casino,list:gambling", "list:forums,list:gambling"]
    assert decision.value[1:3] == [2, 2] and decision.threshold[1] == 2
    assert values.column("url_filter_soft_words").to_pylist() == [0, 1, 0, 2, 0]
    with pytest.raises(StageError, match=r"soft_lists: no `block` list is called 'adlut'; there are: adult, gambling$"):
        ready(UrlFilter(UrlFilterConfig(block_domains=str(ut1), soft_lists=("adult", "adlut"))))


def test_patterns_of_a_file(tmp_path: Path) -> None:
    patterns = tmp_path / "paths.txt"
    patterns.write_bytes(b"# forums\n/(?:forum|board)s?/\r\n\n^example\\.org/tag/\n\xc3\xa4pfel$\n[?&]page=\\d{3,}\n")
    urls = {
        "https://x.com/Forums/1": "paths:2",
        "https://x.com/forum": None,
        "https://www.example.org/tag/a": "paths:4",
        "https://sub.example.org/tag/a": None,
        "https://x.com/%C3%84pfel": "paths:5",
        "https://x.com/list?a=1&page=100": "paths:6",
        "https://x.com/list?page=99": None,
        "mailto:forum@x.com/forum/": None,
    }
    _, decision = run(ready(UrlFilter(UrlFilterConfig(block_patterns=str(patterns)))), url=list(urls))
    assert dict(zip(urls, decision.detail, strict=True)) == {**urls, "mailto:forum@x.com/forum/": "mailto"}
    assert decision.rule[0] == "pattern"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("(a", r"broken.txt, line 2: '\(a' is no regular expression \(missing \), unterminated subpattern"),
        ("a*", r"broken.txt, line 2: 'a\*' fits every address"),
        ("a{99999999999999}", r"line 2: .* is no regular expression"),
    ],
)
def test_a_broken_pattern_names_file_and_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "broken.txt"
    path.write_text(f"fine\n{line}\n")
    with pytest.raises(StageError, match=message):
        ready(UrlFilter(UrlFilterConfig(block_patterns=str(path))))


def test_allowed_addresses(ut1: Path, tmp_path: Path) -> None:
    allow = tmp_path / "allow.txt"
    allow.write_text("https://nasty.example/research/\nporn.example/about\n")
    urls = ["https://nasty.example/research/1", "https://nasty.example/researchers", "https://porn.example/about"]
    assert rules(urls, block_domains=str(ut1), allow_urls=str(allow)) == [None, "domain", None]


ODD_LINES = ["example.com", "WWW.Upper.Example", "*.star.example", "0.0.0.0 hosts.example", "127.0.0.1\ttab.example", "||adblock.example^", " blank.example  # why",
             "# comment", "", "dot.example.", ".lead.example", "http://scheme.example/x", "pöker.example", "xn--bcher-kva.example", "10.1.2.3", "crlf.example\r",
             "under_score.example", "www.www.twice.example", "#", "a"]  # fmt: skip
ODD_ADDRESSES = ["example.com/a", "Example.com/A/", "http://www.x.example/b", "x.example/%7Euser", "x.example/c#part", "nothing.example", "x.example/q?id=1", "x.example./d",
                 "x.example/e/./f", "pöker.example/ä", "/nohost", "x.example:8080/g", " y.example/h", "", "z.example/"]  # fmt: skip


@pytest.mark.parametrize(("form", "lines"), [(DOMAINS, ODD_LINES), (ADDRESSES, ODD_ADDRESSES)], ids=["domains", "urls"])
def test_fast_reading_gives_what_each_line_alone_gives(tmp_path: Path, form: Form, lines: list[str]) -> None:
    """Lines that are in normal form are hashed by the block; the answer must be that of the careful way."""
    rng = random.Random(0)
    path = tmp_path / "list"
    for ending in ("\n", ""):
        some = [rng.choice(lines) for _ in range(500)]
        path.write_bytes(("\n".join(some) + ending).encode())
        want = [form.normal(_entry(line.encode())) for line in some]
        got = np.concatenate(list(file_hashes(path, form)))
        assert sorted(got.tolist()) == sorted(np.concatenate(list(entry_hashes(filter(None, want)))).tolist())


def test_a_list_longer_than_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.url_lists._BLOCK", 1000)
    names = [f"host-{i}.example" for i in range(1000)]
    path = tmp_path / "list.gz"
    path.write_bytes(gzip.compress(("\n".join(names) + "\n" + "x" * 200_000).encode()))
    found = HashedList([("a", file_hashes(path, DOMAINS))])
    assert found.find([*names, "host-1000.example"]) == ["a"] * 1000 + [None]


def test_odd_addresses_do_not_break_it(ut1: Path) -> None:
    urls = ["http://" + "a." * 5000 + "com/", "http://x.com/" + "a/" * 100_000, "http://xn--\u00e9.com/%ff%00%", "http://u:p@h.example/\x00",
            "http://%zz/", "http://\u2100.com/", "http://-.-/", "x" * 100_000, "http://" + "9" * 400 + "/"]  # fmt: skip
    assert len(rules(urls, block_domains=str(ut1))) == len(urls)


@pytest.mark.parametrize(
    "knob", ["block_domains", "block_urls", "block_patterns", "allow_domains", "allow_urls", "hard_words"]
)
def test_a_missing_list_is_the_users_mistake(tmp_path: Path, knob: str) -> None:
    with pytest.raises(StageError, match="no list"):
        ready(UrlFilter(UrlFilterConfig(**{knob: str(tmp_path / "nothing.txt")})))
    if knob not in ("hard_words", "block_patterns"):
        with pytest.raises(StageError, match="no list in the folder"):
            ready(UrlFilter(UrlFilterConfig(**{knob: str(tmp_path)})))


def test_a_broken_gzip_list_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "cut.gz"
    path.write_bytes(gzip.compress(b"one.example\n" * 1000)[:30])
    with pytest.raises(StageError, match="cannot be read"):
        ready(UrlFilter(UrlFilterConfig(block_domains=str(path))))


def test_hashed_lists_are_exact_and_small() -> None:
    entries = [f"host-{i}.example" for i in range(300_000)]
    lists = HashedList([("even", entry_hashes(entries[::2])), ("all", entry_hashes(entries[:200_000]))])
    assert len(lists) == 250_000
    assert lists.find(["host-0.example", "host-1.example", "host-299999.example", "nothing"]) == [
        "even",
        "all",
        None,
        None,
    ]
    assert lists._hashes.nbytes + lists._owners.nbytes == 10 * len(lists)


def test_parsing() -> None:
    assert parse_address("HTTP://User@WWW.Example.COM.:80/A?b=1#c") == ("http", "example.com", "/A", "b=1")
    assert is_ip("10.0.0.1") and is_ip("::1") and not is_ip("example.com") and not is_ip("1.2.3.4.5")


ODD = ["http://", "HTTPS://", "https://", "www.", "a.b", "example", ".", "-", "_", ":", "80", "/", "?", "#", "%41", "@", "\\", "[", "]", " ", "é", "x=1&y", "..", "\t", "\x00"]  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from(ODD), max_size=10).map("".join), st.booleans())
def test_the_short_way_to_the_parts_finds_what_the_long_way_finds(rest: str, web: bool) -> None:
    url = f"https://{rest}" if web else rest
    short = parse_address(url)
    with mock.patch.object(stages.url_address, "_PLAIN", re.compile("(?!)")):
        assert parse_address(url) == short


@settings(max_examples=200, deadline=None)
@given(
    st.sets(st.text("abc.|", min_size=1, max_size=5), min_size=1, max_size=12),
    st.text("abc.|x", max_size=30),
    st.booleans(),
)
def test_any_of_words_is_the_longest_at_the_first_place(words: set[str], text: str, long: bool) -> None:
    plain = re.compile("|".join(map(re.escape, sorted(words, key=len, reverse=True))))
    wanted = plain.search(text)
    found = re.compile(any_of(words | ({"y" * 5000} if long else set()))).search(text)
    assert (found and found.span()) == (wanted and wanted.span())


def test_no_list_of_ours_holds_a_word_twice_or_in_the_wrong_case() -> None:
    from stages.url_filter import _OURS

    for path in _OURS.glob("*.txt"):
        lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
        assert len(lines) == len(set(lines)) and lines == [line.lower().strip() for line in lines]
