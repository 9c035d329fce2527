"""The page, its data, and the commands `evaluate` and `compare`, looked at in a browser."""

from __future__ import annotations

import html
import json
import re

import pyarrow.parquet as pq
import pytest

from tests.browser import opened
from tests.tokens_corpus import ARTICLES, python_texts, rows_of, write_documents
from tokenizer_training.cli import main
from tokenizer_training.efficiency import charts
from tokenizer_training.efficiency.compare import compare
from tokenizer_training.efficiency.definitions import HONESTY, METRICS
from tokenizer_training.efficiency.measure import evaluate, write_report
from tokenizer_training.efficiency.report import percent, visible, write
from tokenizer_training.efficiency.sample import read_sample
from tokenizer_training.vocabulary.config import TokenizerConfig
from tokenizer_training.vocabulary.train import train_tokenizer

NASTY_TEXTS = ["<script>alert(1)</script>" * 9, "\x1b[31mred\x00", "</span></table>" * 9]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    rows = rows_of(
        [*python_texts(30), *ARTICLES.values(), *NASTY_TEXTS],
        language=["en"] * 30 + [*ARTICLES] + ["", "<b>x</b>", None],
    )
    files = write_documents(folder / "d", rows)
    train_tokenizer(files, TokenizerConfig(vocab_size=900), folder / "small")
    train_tokenizer(files, TokenizerConfig(vocab_size=1500), folder / "large")
    return folder, files


@pytest.fixture(scope="module")
def pages(trained, tmp_path_factory):
    folder, files = trained
    out = tmp_path_factory.mktemp("pages")
    write_report(evaluate(folder / "small", files, timed=True), out / "one")
    sample = read_sample(files, 10**9)
    reports = compare([str(folder / "small"), f"a <script>'s name={folder / 'large'}"], sample)
    write(reports, out / "two", [{"name": "small", "reason": "marked <i>by the test</i>"}])
    lone = write_documents(tmp_path_factory.mktemp("lone") / "d", rows_of([ARTICLES["zh"]], language=[""]))
    write_report(evaluate(folder / "small", lone), out / "lone")
    return out


@pytest.mark.parametrize("page", ["one", "two", "lone"])
def test_a_browser_shows_the_page_without_script_request_or_overflow(pages, page):
    file = pages / page / "report.html"
    shown = []
    for scheme, width in (("light", 1280), ("dark", 380)):
        with opened(file, color_scheme=scheme, viewport={"width": width, "height": 900}) as browser:
            assert browser.messages == [] and browser.requests == [file.resolve().as_uri()]
            assert browser.page.evaluate("document.documentElement.scrollWidth") <= width
            assert browser.page.evaluate("document.scripts.length") == 0
            shown.append(browser.page.evaluate("getComputedStyle(document.body).backgroundColor"))
            # no two labels of a chart lie over each other, and none leaves its chart
            overlaps = browser.page.evaluate(
                """() => [...document.querySelectorAll('svg.chart')].flatMap(svg => {
                    const frame = svg.getBoundingClientRect();
                    const boxes = [...svg.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()]);
                    const out = boxes.filter(([, b]) => b.left < frame.left - 1 || b.right > frame.right + 1);
                    const over = boxes.flatMap(([s, a], i) => boxes.slice(i + 1)
                        .filter(([, b]) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 3 && b.top < a.bottom - 3)
                        .map(([t]) => `${s} | ${t}`));
                    return [...out.map(([s]) => s), ...over];
                })"""
            )
            assert overlaps == []
            assert browser.page.locator("svg.chart").count() >= 6
            browser.page.locator("details").last.click()
    assert shown == ["rgb(255, 255, 255)", "rgb(20, 24, 29)"]


def test_the_page_says_what_it_must(pages):
    page = (pages / "one" / "report.html").read_text()
    assert html.escape(HONESTY) in page or HONESTY in page
    for metric in METRICS:
        assert html.escape(metric.caveat).replace("&#x27;", "&#39;") in page, metric.name
    facts = json.loads((pages / "one" / "report.json").read_text())
    assert facts["tokenizer_sha256"] in page and facts["sample_sha256"] in page
    assert f"{facts['total']['bytes_per_token']:.2f}" in page
    assert "http" not in page and "<script" not in page


def test_markup_in_names_labels_and_tokens_is_text(pages):
    page = (pages / "two" / "report.html").read_text()
    assert "<script" not in page and "<b>x" not in page and "<i>by" not in page
    assert "&lt;b&gt;x&lt;/b&gt;" in page and "&lt;i&gt;by the test" in page and "&lt;script&gt;" in page
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", page)
    assert "small *" in page


def test_json_and_parquet_say_the_same(pages):
    content = json.loads((pages / "two" / "report.json").read_text())
    assert [one["name"] for one in content["unlike"]] == ["small"]
    rows = pq.read_table(pages / "two" / "report.parquet").to_pylist()
    values = {(row["tokenizer"], row["scope"], row["group"], row["metric"]): row["value"] for row in rows}
    assert len(values) == len(rows)
    for facts in content["tokenizers"]:
        name = facts["name"]
        assert values[name, "total", "", "bytes_per_token"] == facts["total"]["bytes_per_token"]
        assert values[name, "language", "ru", "tokens"] == facts["by_language"]["ru"]["tokens"]
        assert values[name, "parallel", "hi", "parity"] == facts["parallel"]["languages"]["hi"]["parity"]
        assert values[name, "class", "SPECIAL", "tokens"] == 70
        lengths = facts["normalized_sequence_length"]
        assert values[name, "total", "", "normalized_sequence_length"] == lengths["total"]
        assert values[name, "script", "Thai", "normalized_sequence_length"] == lengths["by_script"]["Thai"]
        point = facts["size_curve"][3]
        assert values[name, "size_curve", str(point["vocab_size"]), "tokens"] == point["tokens"]
        assert any(key[1].startswith("probe digits") for key in values)


def test_the_same_facts_give_the_same_bytes(trained, tmp_path):
    folder, files = trained
    for name in ("a", "b"):
        write_report(evaluate(folder / "small", files), tmp_path / name)
    for file in ("report.html", "report.json", "report.parquet"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_commands(trained, tmp_path, capsys):
    folder, files = trained
    (tmp_path / "p").mkdir()
    for code in ("en", "de"):
        (tmp_path / "p" / f"{code}.txt").write_text(ARTICLES[code] + "\n")
    given = ["--parallel", str(tmp_path / "p"), "--shape", "2x64x128", "--dead-below", "3", "--max-bytes", "50000"]
    small = str(folder / "small")
    assert main(["evaluate", small, *map(str, files), "--output", str(tmp_path / "e"), *given]) == 0
    printed = json.loads(capsys.readouterr().out)
    facts = json.loads((tmp_path / "e" / "report.json").read_text())
    assert printed["total"] == facts["total"] and facts["vocabulary"]["dead_below"] == 3
    assert [(c["layers"], c["width"], c["context"], c["parameters"]) for c in facts["costs"]] == [(2, 64, 128, 98304)]
    assert facts["parallel_user"]["languages"]["en"]["parity"] == 1 and facts["speed"]["load_seconds"] > 0
    assert "2 languages" in (tmp_path / "e" / "report.html").read_text()
    compared = ["compare", small, str(folder / "large"), "--output", str(tmp_path / "c")]
    assert main([*compared, "--documents", *map(str, files), *given]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["name"] for line in lines] == ["small", "large"] and lines[1]["tokens"] < lines[0]["tokens"]
    for wrong, message in (
        ([*compared], "--documents"),
        ([*compared, "--documents", *map(str, files), "--shape", "12"], "LAYERSxWIDTHxCONTEXT"),
        ([*compared, "--documents", *map(str, files), "--max-bytes", "0"], "at least 1"),
        (["compare", str(tmp_path / "no"), "--output", "x", "--documents", *map(str, files)], "no such file"),
    ):
        assert main(wrong) == 2
        assert message in capsys.readouterr().err


def test_unlike_tokenizers_need_the_flag(trained, tmp_path, capsys):
    folder, files = trained
    train_tokenizer(files, TokenizerConfig(vocab_size=600, normalization="nfc"), tmp_path / "nfc")
    command = ["compare", str(folder / "small"), str(tmp_path / "nfc"), "--output", str(tmp_path / "c"), "--documents"]
    assert main([*command, *map(str, files)]) == 2
    assert "refusing to compare" in capsys.readouterr().err and not (tmp_path / "c").exists()
    assert main([*command, *map(str, files), "--allow-unlike"]) == 0
    assert "Unlike settings" in (tmp_path / "c" / "report.html").read_text()


def test_small_parts_of_the_page():
    assert visible("a\n\tb\r\x1b[0m\u202e👩\u200d👧") == "a⏎\n→\tb␍\\x1b[0m\\u202e👩\u200d👧"
    assert [percent(x) for x in (None, 0.0, 0.00012, 0.5, 0.99999, 1.0)] == [
        "–", "0.0 %", "0.012 %", "50.0 %", "99.999 %", "100.0 %",
    ]  # fmt: skip
    assert [charts.short(x) for x in (0.25, 999, 1000, 32768, 1.5e6, 2e9)] == [
        "0.25",
        "999",
        "1k",
        "32.8k",
        "1.5M",
        "2G",
    ]
    assert charts.Scale(1, 1000, 0, 300, True).at(10) == pytest.approx(100)
    assert charts.Scale(0, 10, 0, 100).ticks(5) == [0, 2, 4, 6, 8, 10]
    assert charts.curves([], "x", "x", "y") == "" and charts.rank_frequency([], 5, 5, "x") == ""
