"""The url_filter stage: every rule, both ways, and lists in the forms that they come in."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pytest

from stages.stage import StageError
from stages.url_filter import UrlFilter, UrlFilterConfig, is_ip, parse_address
from stages.url_lists import HashedList
from tests.web_stages import ready, run


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


def test_odd_addresses_do_not_break_it(ut1: Path) -> None:
    urls = ["http://" + "a." * 5000 + "com/", "http://x.com/" + "a/" * 100_000, "http://xn--\u00e9.com/%ff%00%", "http://u:p@h.example/\x00",
            "http://%zz/", "http://\u2100.com/", "http://-.-/", "x" * 100_000, "http://" + "9" * 400 + "/"]  # fmt: skip
    assert len(rules(urls, block_domains=str(ut1))) == len(urls)


@pytest.mark.parametrize("knob", ["block_domains", "block_urls", "allow_domains", "hard_words"])
def test_a_missing_list_is_the_users_mistake(tmp_path: Path, knob: str) -> None:
    with pytest.raises(StageError, match="no list"):
        ready(UrlFilter(UrlFilterConfig(**{knob: str(tmp_path / "nothing.txt")})))
    if knob != "hard_words":
        with pytest.raises(StageError, match="no list in the folder"):
            ready(UrlFilter(UrlFilterConfig(**{knob: str(tmp_path)})))


def test_a_broken_gzip_list_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "cut.gz"
    path.write_bytes(gzip.compress(b"one.example\n" * 1000)[:30])
    with pytest.raises(StageError, match="cannot be read"):
        ready(UrlFilter(UrlFilterConfig(block_domains=str(path))))


def test_hashed_lists_are_exact_and_small() -> None:
    entries = [f"host-{i}.example" for i in range(300_000)]
    lists = HashedList([("even", iter(entries[::2])), ("all", iter(entries[:200_000]))])
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


def test_no_list_of_ours_holds_a_word_twice_or_in_the_wrong_case() -> None:
    from stages.url_filter import _OURS

    for path in _OURS.glob("*.txt"):
        lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
        assert len(lines) == len(set(lines)) and lines == [line.lower().strip() for line in lines]
