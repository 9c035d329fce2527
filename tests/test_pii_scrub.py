"""What samples, reports and the ledger show."""

import time

import pytest

from stages.pii.scrub import Scrubber, scrub_url


def test_text() -> None:
    scrubber = Scrubber()
    assert scrubber.text("Mail jane.doe@example.com or +1 212-555-0123!") == "Mail <EMAIL_ADDRESS> or <PHONE_NUMBER>!"
    clean = "Nothing to see in 1998.\n"
    assert scrubber.text(clean) is clean
    assert scrubber.text("") == ""


@pytest.mark.parametrize(
    ("url", "scrubbed"),
    [
        ("https://user:secret@host.org/a", "https://<USERINFO>@host.org/a"),
        ("ftp://user@host.org/a@b", "ftp://<USERINFO>@host.org/a@b"),
        ("//u:p@host.org/", "//<USERINFO>@host.org/"),
        ("https://h.org/u/joe%40example.org/p?q=1", "https://h.org/u/<EMAIL_ADDRESS>/p?q=1"),
        ("https://h.org/u/joe%2540example.org", "https://h.org/u/<EMAIL_ADDRESS>"),
        ("https://h.org/?x=joe.doe@example.org#top", "https://h.org/?x=<EMAIL_ADDRESS>#top"),
        ("https://h.org/?a=1&token=abc123&b=2", "https://h.org/?a=1&token=<REDACTED>&b=2"),
        ("https://h.org/?PASSWORD=x;access_token=y", "https://h.org/?PASSWORD=<REDACTED>;access_token=<REDACTED>"),
        ("https://h.org/?n=%2B4930123456&l=de", "https://h.org/?n=<PHONE_NUMBER>&l=de"),
        ("mailto:joe@example.org?subject=hi", "mailto:<EMAIL_ADDRESS>?subject=hi"),
        ("tel:+49-30-123456", "tel:<PHONE_NUMBER>"),
        ("https://h.org/a/b.html?page=2&id=123456789", "https://h.org/a/b.html?page=2&id=123456789"),
        ("https://medium.com/@joe/post", "https://medium.com/@joe/post"),
        ("https://h.org/keyboard?monkey=1&tokens=5", "https://h.org/keyboard?monkey=1&tokens=5"),
        ("", ""),
        ("not a url", "not a url"),
    ],
)
def test_urls(url: str, scrubbed: str) -> None:
    assert scrub_url(url) == scrubbed
    assert scrub_url(scrubbed) == scrubbed  # once is enough


@pytest.mark.parametrize(
    "url", ["http://h/" + "a" * 100_000 + "@", "http://h/" + "@" * 100_000, "?" * 100_000, "http://h/@" + "a." * 50_000]
)
def test_long_urls_take_linear_time(url: str) -> None:
    start = time.process_time()
    scrub_url(url)
    assert time.process_time() - start < 5
