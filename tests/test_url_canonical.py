"""`canonical_url`: what becomes one, what stays apart, and the properties that hold for any input."""

from __future__ import annotations

import gzip
import json

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stages.url_canonical import SESSION_NAMES, TRACKING_NAMES, canonical_host, canonical_url
from stages.url_filter import UrlFilter, UrlFilterConfig
from tests.support import SAMPLE
from tests.web_stages import ready, run

SESSION = "0123456789abcdef01"
CASES = {
    # case, ports, credentials, what browsers forgive
    "HTTP://User:pw@WWW.Example.COM.:80/A": "http://www.example.com/A",
    "https://example.com:443": "https://example.com/",
    "https://example.com:080/": "https://example.com:80/",
    "https://example.com:/": "https://example.com/",
    "  http:\\\\example.com\\a\tb\n": "http://example.com/ab",
    "http:/example.com/": "http://example.com/",
    "//example.com/x": "http://example.com/x",
    "example.com/x?u=http://y.example/": "http://example.com/x?u=http://y.example/",
    "localhost:8080/x": "http://localhost:8080/x",
    "http://[2001:DB8:0:0::1]:80/": "http://[2001:db8::1]/",
    "http://%65xample.com/": "http://example.com/",
    "http://under_score.example.com/": "http://under_score.example.com/",
    # IDNA
    "https://BÜCHER.example/": "https://xn--bcher-kva.example/",
    "https://straße.de/": "https://xn--strae-oqa.de/",
    "http://例え。テスト/": "http://xn--r8jz45g.xn--zckzah/",
    "http://xn--bcher-kva.EXAMPLE/": "http://xn--bcher-kva.example/",
    # percent-encoding
    "http://x.com/%7euser/%e2%82%ac": "http://x.com/~user/%E2%82%AC",
    "http://x.com/ä b": "http://x.com/%C3%A4%20b",
    "http://x.com/a%2Fb%3f": "http://x.com/a%2Fb%3F",  # reserved: another address than a/b
    "http://x.com/%%41?%zz": "http://x.com/%25A?%25zz",
    "http://x.com/?q=a+b&r=%2B": "http://x.com/?q=a+b&r=%2B",
    "http://x.com/\ud800": "http://x.com/%EF%BF%BD",
    # dot segments
    "http://x.com/a/./b/../c": "http://x.com/a/c",
    "http://x.com/../..": "http://x.com/",
    "http://x.com/a/%2e%2E/b/.": "http://x.com/b/",
    "http://x.com/a//b": "http://x.com/a//b",
    "http://x.com/.well-known/a": "http://x.com/.well-known/a",
    # fragments
    "http://x.com/a#part": "http://x.com/a",
    "http://x.com/a#!/page": "http://x.com/a#!/page",
    "http://x.com/a#!": "http://x.com/a",
    # parameters
    "http://x.com/?b=2&utm_source=n&a=1&fbclid=3": "http://x.com/?b=2&a=1",
    "http://x.com/?UTM%5FMedium=n": "http://x.com/",
    "http://x.com/?&a&&b=&": "http://x.com/?a&b=",
    "http://x.com/?ref=7&source=a&from=b": "http://x.com/?ref=7&source=a&from=b",
    "http://x.com/?q=utm_source=1": "http://x.com/?q=utm_source=1",
    f"http://x.com/?PHPSESSID=1&id=2&sid={SESSION}": "http://x.com/?id=2",
    "http://x.com/?sid=04/12&session=spring": "http://x.com/?sid=04/12&session=spring",  # a story, a season
    "http://x.com/a;jsessionid=12AB.node/b;v=1?x": "http://x.com/a/b;v=1?x",
    "http://x.com/(S(abcdefghijklmnopqrstuvwx))/a.aspx": "http://x.com/a.aspx",
    # what stays: other servers may answer otherwise
    "http://x.com/Index.html": "http://x.com/Index.html",
    "http://x.com/a/": "http://x.com/a/",
}
NO_HOST = ["", "mailto:Foo@x.com", "data:text/html,x", "http://", "http:///", "http://a b/", "http://x.com:99999/", "1http://x/",
           "http://x.com:8o/", "http://[::1", "http://[zz]/", "http://\u2100.com/", "javascript:void(0)"]  # fmt: skip


@pytest.mark.parametrize("url", CASES)
def test_one_spelling(url: str) -> None:
    assert canonical_url(url) == CASES[url]
    assert canonical_url(CASES[url]) == CASES[url]


@pytest.mark.parametrize("url", NO_HOST)
def test_what_names_no_host_stays(url: str) -> None:
    assert canonical_url(f" {url}\n") == url


PIECES = ["http", "https", "://", "//", "/", "..", ".", "%2e", "%2F", "%", "%4", "41", "?", "&", "=", "utm_a=1", "sid=", "#", "#!", "@", ":", "80",
          ":443", "[", "::1", "]", "ex.com", "EX.com", "ß", ";jsessionid=", "(S(", "))", "\\", "xn--", "pker-5qa", "%C3%A9", "é", "1", "mailto:",
          "_", "。", "İ", "\ud800", "\x00", "abcdefghijklmnopqrstuvwx", SESSION, "\t", " ", "\n"]  # fmt: skip
anything = st.one_of(st.text(max_size=40), st.lists(st.sampled_from(PIECES), max_size=12).map("".join))


@settings(max_examples=600, deadline=None)
@given(st.one_of(anything, anything.map("http://ex.com/".__add__), anything.map("http://".__add__)))
@example("http://x.com/..;jsessionid=1/a")
@example("http://x.com/(S(abcdefghijklmnopqrstuvw/(S(abcdefghijklmnopqrstuvwx))x))/")
def test_it_is_idempotent_and_gives_valid_strings(url: str) -> None:
    once = canonical_url(url)
    assert canonical_url(once) == once
    once.encode()
    host = canonical_host(once)
    if host is not None:
        assert once.isascii() and host == host.lower()
        assert "#" not in once.replace("#!", "") and "/../" not in once.partition("?")[0] + "/"


def test_every_dropped_name_is_dropped_and_written_in_lower_case() -> None:
    names = sorted(TRACKING_NAMES | SESSION_NAMES)
    assert names == [name.lower() for name in names]
    query = "&".join(f"{name.upper()}=1" for name in names)
    assert canonical_url(f"http://x.com/?a=1&{query}") == "http://x.com/?a=1"


def test_addresses_of_real_pages_stay_as_they_are() -> None:
    with gzip.open(SAMPLE / "manifest.jsonl.gz", "rt", encoding="utf-8") as lines:
        urls = [json.loads(line)["url"] for line in lines]
    assert [canonical_url(url) for url in urls] == urls


def test_long_addresses_take_linear_time() -> None:
    for url in ("a/../" * 200_000, "%" * 1_000_000, "?" + "&" * 1_000_000, ";jsessionid=" * 80_000, "/(S(" * 250_000):
        assert canonical_url(f"http://x.com/{url}").startswith("http://x.com/")
    assert canonical_url("http://" + "a-" * 500_000 + "!") and canonical_url("http://" + "a." * 500_000)


def test_columns() -> None:
    urls = ["https://WWW.Bücher.co.uk:443/a/../b?utm_source=x", "http://10.1.2.3/", "http://co.uk/", "http://localhost/x", "http://[::1]/",
            "https://a.b.example.unknowntld/", "mailto:x@example.com", " ", None]  # fmt: skip
    values, decision = run(ready(UrlFilter(UrlFilterConfig(columns=True))), url=pa.array(urls, pa.string()))
    assert values.column("url_canonical").to_pylist() == [
        "https://www.xn--bcher-kva.co.uk/b", "http://10.1.2.3/", "http://co.uk/", "http://localhost/x", "http://[::1]/",
        "https://a.b.example.unknowntld/", "mailto:x@example.com", None, None]  # fmt: skip
    assert values.column("url_host").to_pylist() == [
        "www.xn--bcher-kva.co.uk", "10.1.2.3", "co.uk", "localhost", "::1", "a.b.example.unknowntld", None, None, None]  # fmt: skip
    assert values.column("url_domain").to_pylist() == [
        "xn--bcher-kva.co.uk", None, None, None, None, "example.unknowntld", None, None, None]  # fmt: skip
    assert decision.rule == [None, "ip_host", None, None, "ip_host", None, "scheme", None, None]
    assert "url_canonical" not in UrlFilter(UrlFilterConfig()).provides()
