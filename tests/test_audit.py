"""The audit: a sample of every rule, marks made in a real browser, and what they say of each rule."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from pipeline.audit import audit
from pipeline.audit.draw import Stratum, draw, strata
from pipeline.audit.estimate import Estimate, Mark, estimate, estimates, read_marks, together, wilson
from pipeline.config import resolve
from pipeline.engine.store import Store
from pipeline.run import Options, run
from pipeline.yamlfile import ConfigError, Located
from tests.browser import opened
from tests.support import pipeline

HOSTILE = (
    "</script><script>document.title='owned'</script><img src=http://evil.example/x.png onerror=alert(1)>\x00\u202e"
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 60 texts: those with too few words dropped, copies removed."""
    folder = tmp_path_factory.mktemp("audit")
    rows = [
        {"text": f"Page {n} tells how the lamp of house {n} was lit and put out again, night by night."}
        for n in range(30)
    ]
    rows += [{"text": f"short {n}"} for n in range(20)] + [
        {"text": "One text that came ten times over, word for word."}
    ] * 9
    rows += [
        {"text": f"Write to mara.lindqvist@example.com about the lamp, the wick, the glass and the oil. {HOSTILE}"}
    ]
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "broken\n")
    config: dict[str, Any] = {
        "name": "lamps",
        "input": {"source": "web", "format": "jsonl", "paths": [str(folder / "in.jsonl")]},
        "stages": [
            {"quality.c4": {"terminal_punctuation": False, "min_line_words": 4, "min_sentences": 1}},
            "dedup.exact",
        ],
        "engine": {"executor": "inline", "max_failed": 0.5},
    }
    assert run(resolve(Located(config, "test", {})), Options(str(folder / "run")), lambda line: None) == 0
    return folder / "run"


def test_every_stratum_is_drawn_and_scrubbed(finished: Path) -> None:
    counts = strata(finished)
    assert sum(counts.values()) == 61
    drawn = {one.stratum: one for one in draw(finished, 5)}
    assert set(drawn) == set(counts) and next(iter(drawn)).fate == "kept"
    for stratum, one in drawn.items():
        assert one.population == counts[stratum]
        assert len(one.rows) == (0 if stratum.stage == "read" else min(5, counts[stratum]))
        assert [row["id"] for row in one.rows] == sorted(row["id"] for row in one.rows)
    copies = drawn[Stratum("dropped", "dedup.exact", "duplicate")]
    assert copies.population == 8 and all(row["kept"].startswith("One text") for row in copies.rows)
    everything = json.dumps([one.rows for one in draw(finished, 100)])
    assert "mara.lindqvist" not in everything and "<EMAIL_ADDRESS>" in everything


def test_intervals() -> None:
    # Wilson's interval of 8 of 10, of a large population: 0.4902 to 0.9433
    low, high = wilson(8, 10, 10**9)
    assert (round(low, 4), round(high, 4)) == (0.4902, 0.9433)
    assert wilson(0, 0, 5) == (0.0, 1.0)
    assert wilson(3, 4, 4) == (0.75, 0.75)  # all marked: nothing is unknown
    for right in range(11):
        low, high = wilson(right, 10, 40)
        wide = wilson(right, 10, 10**6)
        assert 0 <= wide[0] <= low <= right / 10 <= high <= wide[1] <= 1


def test_strata_are_weighted_by_population() -> None:
    large = estimate(900, {"right": 9, "wrong": 1})
    small = estimate(100, {"right": 0, "wrong": 10, "unsure": 2})
    both = together([large, small, estimate(10**6, {"unsure": 3})])
    assert both.population == 1000 and both.marked == 20 and both.precision is not None
    assert math.isclose(both.precision, 0.81)
    assert large.low - 0.1 < both.low < 0.81 < both.high < 0.9 + 0.1
    # one stratum alone: its own interval
    alone = together([large])
    assert math.isclose(alone.low, large.low) and math.isclose(alone.high, large.high)
    assert together([]) == Estimate(0, 0, 0, 0, None, 0.0, 1.0)


def test_intervals_cover_the_truth() -> None:
    """A stratified draw of 30 and 30 from strata that are right in 95 % and 40 %: the truth is inside in about 95 of 100."""
    import random

    lot = random.Random(7)
    populations, shares = (4000, 1000), (0.95, 0.40)
    truth = sum(n * share for n, share in zip(populations, shares, strict=True)) / sum(populations)
    inside = 0
    for _ in range(400):
        parts = []
        for population, share in zip(populations, shares, strict=True):
            right = sum(lot.random() < share for _ in range(30))
            parts.append(estimate(population, {"right": right, "wrong": 30 - right}))
        found = together(parts)
        inside += found.low <= truth <= found.high
    assert 0.90 <= inside / 400 <= 0.99


def test_a_mark_holds_while_its_decision_does() -> None:
    a, b = Stratum("dropped", "s", "short"), Stratum("kept", None, None)
    marks = [
        Mark("1", a, "wrong"),
        Mark("1", a, "right"),
        Mark("2", a, "wrong"),
        Mark("3", b, "right"),
        Mark("4", a, "right"),
    ]
    found, stale = estimates({a: 10, b: 5}, marks, {"1": a, "2": b, "3": b})
    assert stale == ["2", "4"]
    assert (found[a].marked, found[a].right, found[b].marked) == (1, 1, 1)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{", "not JSON"),
        ("[]", "expected an object with a list `marks`"),
        ('{"marks": [], "format": 9, "run": "lamps"}', "format 9"),
        ('{"marks": [], "format": 1, "run": "other"}', "of the run 'other'"),
        ('{"marks": [{}], "format": 1, "run": "lamps"}', r"marks\[0\]: expected"),
        ('{"marks": [{"id": "a", "mark": "good"}], "format": 1, "run": "lamps"}', r"marks\[0\].mark: expected one of"),
        ('{"marks": [{"id": "a", "mark": "right", "fate": 3}], "format": 1, "run": "lamps"}', "fate, stage and rule"),
        (
            '{"marks": [{"id": "a", "mark": "right", "fate": "kept"}], "format": 1, "run": "lamps"}',
            "none of its 1 records",
        ),
    ],
)
def test_broken_marks_are_named(finished: Path, tmp_path: Path, content: str, why: str) -> None:
    (tmp_path / "marks.json").write_text(content)
    with pytest.raises(ConfigError, match=why):
        audit(Store(str(finished)), 5, tmp_path / "marks.json")


def test_command_line(finished: Path, tmp_path: Path) -> None:
    done = pipeline("audit", finished, "--rows", "3")
    assert done.returncode == 0 and "documents of" in done.stdout and "read:bad_row" in done.stdout, done.stderr
    page = (finished / "audit.html").read_text(encoding="utf-8")
    assert "http://evil.example" not in page.replace("\\u003cimg src=http://evil.example", "")
    assert pipeline("audit", tmp_path).returncode == 2
    assert pipeline("audit", finished, "--marks", tmp_path / "none.json").returncode == 2
    assert pipeline("audit", finished, "--rows", "0").returncode == 2


def test_marks_made_in_a_browser_become_estimates(finished: Path, tmp_path: Path) -> None:
    audit(Store(str(finished)), 6, None)
    with opened(finished / "audit.html", accept_downloads=True) as found:
        page = found.page
        assert page.title() == "lamps · audit"
        assert page.locator("#title").inner_text() == "Kept"
        assert "short" not in page.locator("#text").inner_text()
        for key in "rrrwu":  # five of the six kept ones, by keyboard
            page.keyboard.press(key)
        assert "5 of" in page.locator("#saved").inner_text()
        page.keyboard.press("ArrowLeft")
        assert page.locator("#unsure").get_attribute("aria-pressed") == "true"
        page.keyboard.press("r")  # thinks better of it
        copies = page.locator("#strata button", has_text="dedup.exact:duplicate")
        copies.click()
        assert page.locator("#kept").inner_text().startswith("Kept instead:")
        for _ in range(6):
            page.locator("#right").click()
        page.reload()  # marks outlive the page
        assert "6 of 6 marked" in copies.inner_text()
        with page.expect_download() as download:
            page.keyboard.press("d")
        download.value.save_as(tmp_path / "marks.json")
        assert found.messages == [] and all(url.startswith(("file:", "blob:", "data:")) for url in found.requests)
    marks = read_marks(tmp_path / "marks.json", "lamps")
    assert len(marks) == 11
    said = audit(Store(str(finished)), 6, tmp_path / "marks.json")
    facts = json.loads((finished / "audit.json").read_text())
    by_name = {one["name"]: one for one in facts["strata"]}
    kept, copies_ = by_name["kept"], by_name["dedup.exact:duplicate"]
    assert (kept["marked"], kept["right"], kept["precision"]) == (5, 4, 0.8)
    assert (copies_["marked"], copies_["right"], copies_["precision"], copies_["high"]) == (6, 6, 1.0, 1.0)
    assert 0.5 < copies_["low"] < 1 and "dedup.exact:duplicate" in said and "all drops, weighted" in said
    assert facts["dropped"]["population"] == 8 and 0 < facts["dropped"]["covered"] < 1
    with opened(finished / "audit.html") as found:
        assert "0.800" in found.page.locator("#estimates").inner_text()
        assert "5 of 6 marked" in found.page.locator("#strata button", has_text="kept").inner_text()
        found.page.set_viewport_size({"width": 360, "height": 700})
        width = found.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert width <= 0
