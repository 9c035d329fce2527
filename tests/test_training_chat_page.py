"""The chat page in a real browser."""

import pytest

from tests.browser import opened
from tests.chat_model import teach, write_chat_model
from tests.serve_common import KEY, metric, wait_for, within

HI = "Ask <b>me</b> & <script>alert(1)</script>"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    base = write_chat_model(folder / "base", context=256)
    endless = write_chat_model(folder / "endless", context=2048, ends=False)
    return teach(base, folder / "polite", [("say hi", HI), ("again", "more")], 200), endless


def answers(page) -> list[str]:
    return [one.text_content() for one in page.locator(".turn.assistant").all()]


def test_a_talk(models):
    with within(models[0]) as address, opened(f"{address}/", color_scheme="dark") as (page, said, requests):
        assert (
            page.title() == "polite"
            and page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(24, 23, 20)"
        )
        page.fill("#text", "say hi")
        page.press("#text", "Enter")
        page.wait_for_selector(".note.wrong")  # no key yet
        assert "API key" in answers(page)[0] and page.locator("#send").is_visible()
        page.fill("#key", KEY)
        page.locator("#temperature").fill("0")
        page.fill("#text", "say hi")
        page.click("#send")
        page.wait_for_selector(".turn.assistant:nth-of-type(4) .note")
        assert answers(page)[1].startswith(HI)  # markup is text
        assert page.locator("main b, main script").count() == 0
        page.fill("#text", "x")
        page.press("#text", "Shift+Enter")
        assert page.input_value("#text") == "x\n" and page.locator(".turn").count() == 4
        page.click("#theme")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(253, 252, 249)"
        page.click("#new")
        assert page.locator(".turn").count() == 0
        assert all(one.startswith((address, "data:")) for one in requests)
        assert [line for line in said if "401" not in line] == [], said
        page.set_viewport_size({"width": 360, "height": 640})
        assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_the_stop_button_frees_the_row(models):
    with within(models[1], tokens=2000) as address, opened(f"{address}/") as (page, said, _):
        page.fill("#key", KEY)
        page.fill("#tokens", "2000")
        page.fill("#text", "talk on")
        page.press("#text", "Enter")
        wait_for(lambda: answers(page) and len(answers(page)[0]) > 30)
        assert page.locator("#send").is_hidden() and page.locator(".turn.busy").count() == 1
        page.click("#stop")
        page.wait_for_selector(".note")
        assert answers(page)[0].endswith("Stopped.") and page.locator("#send").is_visible()
        wait_for(lambda: metric(address, "gristmill_running_samples") == 0)
        assert metric(address, "gristmill_cancelled_requests_total") == 1
        assert metric(address, "gristmill_generated_tokens_total") < 2000 and said == []
