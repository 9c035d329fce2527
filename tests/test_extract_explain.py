"""`apply extract --explain`: the page that shows why, and who is told that there is none."""

import json
from pathlib import Path

import pytest

from pipeline.cli import main
from tests.browser import opened

PROSE = "A paragraph with enough words in it, and a comma or two, to be taken for what the page is about. "
PAGE = (
    '<html><head><title>Why &lt;this&gt;</title></head><body><nav class="menu"><ul><li><a href=/>Home page</a></li></ul></nav><article class="post">'
    + f"<h1>Heading</h1><p>{PROSE * 3}</p><p>{PROSE * 2}<script>alert(1)</script></p>" * 2
    + '</article><footer class="footer"><p>&copy; 2020 &lt;script&gt;alert(2)&lt;/script&gt;</p></footer></body></html>'
)


def explained(tmp_path: Path, *more: str) -> int:
    source = tmp_path / "in.jsonl"
    rows = [
        {"html": PAGE, "url": "https://a.example/<x>"},
        {"html": "", "url": None},
        {"html": None, "text": "as it is"},
    ]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return main(
        ["apply", "extract", str(source), str(tmp_path / "out.jsonl"), "--explain", str(tmp_path / "why.html"), *more]
    )


def test_every_block_stands_there_in_its_colour(tmp_path: Path) -> None:
    assert explained(tmp_path) == 0
    with opened(tmp_path / "why.html", viewport={"width": 1280, "height": 900}) as (page, messages, requests):
        assert page.title() == "What was extracted"
        assert page.locator("h2").all_inner_texts() == ["https://a.example/<x>", "A page"]
        assert "Why <this>" in page.locator("p.about").all_inner_texts()[1]
        kept = page.locator("tr.kept td.text").all_inner_texts()
        assert sum(PROSE.strip() in text for text in kept) == 4 and not any("Home page" in text for text in kept)
        others = page.locator("tr.dropped td.text, tr.near td.text").all_inner_texts()
        assert any("Home page" in text for text in others) and any(
            "<script>alert(2)</script>" in text for text in others
        )
        colours = {
            page.locator(f"tr.{kind}").first.evaluate("row => getComputedStyle(row).backgroundColor")
            for kind in ("kept", "dropped")
        }
        assert len(colours) == 2
        assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    assert messages == [] and len(requests) == 1
    assert [json.loads(line)["verdict"] for line in (tmp_path / "out.jsonl").read_text().splitlines()] == [
        "keep",
        "extract:empty",
        "keep",
    ]


def test_who_has_no_such_view_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert explained(tmp_path, "--set", "method=resiliparse") == 2
    assert "--explain: extract has no such view with these knobs" in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists() and not (tmp_path / "why.html").exists()
