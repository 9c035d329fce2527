"""A real browser for pages that we write."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest


def chromium() -> str:
    """A browser's path; without one the test is skipped, or fails where GRISTMILL_REQUIRE_BROWSER=1."""
    found = os.environ.get("GRISTMILL_BROWSER") or next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if found is None:
        reason = "no Chromium on PATH (apt-get install chromium, or set GRISTMILL_BROWSER)"
        if os.environ.get("GRISTMILL_REQUIRE_BROWSER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


class Opened(NamedTuple):
    """A page in the browser, what it said on the console, and what it asked for."""

    page: Any
    messages: list[str]
    requests: list[str]


@contextmanager
def opened(file: Path | str, **options: Any) -> Iterator[Opened]:
    """A file of ours, or an address, in headless Chromium; `options` are Playwright's for a page."""
    path = chromium()
    if os.environ.get("GRISTMILL_REQUIRE_BROWSER") == "1":
        import playwright.sync_api as api
    else:
        api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])
        found = Opened(browser.new_page(**options), [], [])
        found.page.on("console", lambda message: found.messages.append(message.text))
        found.page.on("pageerror", lambda error: found.messages.append(str(error)))
        found.page.on("request", lambda request: found.requests.append(request.url))
        found.page.goto(file if isinstance(file, str) else file.resolve().as_uri())
        yield found
        browser.close()
