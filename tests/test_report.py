"""The report of a run made by hand: its numbers, hostile text, missing parts, and a real browser."""

import html
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from markupsafe import escape

from pipeline.report import ReportError, corpus, write_report
from pipeline.report.histogram import histograms
from tests.browser import opened
from training.report import human

HOSTILE = (
    "<script>document.title='owned'</script><img src=http://evil.example/x.png onerror=alert(1)>{{ 7*7 }}\x00\u202eabc"
)

LEDGER = pa.schema(
    [(n, pa.string()) for n in ("id", "record_id", "url", "source", "file")]
    + [("offset", pa.int64())]
    + [(n, pa.string()) for n in ("fate", "stage", "rule")]
    + [("value", pa.float64()), ("threshold", pa.float64()), ("kept_id", pa.string()), ("similarity", pa.float64()), ("detail", pa.string())]
)  # fmt: skip
SAMPLES = pa.schema([(n, pa.string()) for n in ("id", "url", "source", "stage", "rule")]
                    + [("value", pa.float64()), ("threshold", pa.float64()), ("kept_id", pa.string()), ("similarity", pa.float64())]
                    + [("detail", pa.string()), ("text", pa.string())])  # fmt: skip


def table(path: Path, rows: list[dict[str, Any]], schema: pa.Schema | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, compression="zstd", row_group_size=300)


def stage(
    name: str, kind: str, rows: tuple[int, int], size: tuple[int, int], dropped: dict[str, int], **more: Any
) -> dict[str, Any]:
    return {"stage": name, "kind": kind, "rows_in": rows[0], "rows_out": rows[1], "bytes_in": size[0], "bytes_out": size[1],
            "dropped": dropped, "failed": {}, "skipped": {}, "seconds": 1.5, "limits": [], **more}  # fmt: skip


RUN: dict[str, Any] = {
    "format": 1, "name": "fixture <b>run</b>", "status": "done", "started": "2024-05-01T12:00:00+00:00",
    "finished": "2024-05-01T12:04:10+00:00", "seconds": 250.0,
    "config": {"name": "fixture", "input": [{"source": "web", "storage_options": {"key": "AKIA", "secret": "hunter2"}}]},
    "versions": {"pyarrow": "26.0.1", "ray": "2.60.0"},
    "inputs": [{"source": "web", "files": 4, "bytes": 7_600_000, "records": 1772, "dropped": 36, "failed": 3}],
    "other_records": {"request": 71, "metadata": 36},
    "stages": [
        stage("read", "read", (1772, 1733), (30_631_418, 30_111_222), {"read:http_status": 24, "read:content_type": 12}, failed={"read:corrupt": 3}),
        stage("extract", "map", (1733, 1690), (30_111_222, 8_123_456), {"extract:empty": 43}, seconds=31.0),
        stage("quality.gopher", "map", (1690, 1234), (8_123_456, 6_543_210), {"gopher:short_doc": 400, "gopher:<i>x</i>": 56},
              limits=[{"column": "words", "rule": "gopher:short_doc", "threshold": 50.0}], skipped={"gopher:stop_words": 17}),
        stage("dedup.fuzzy", "group", (1234, 1200), (6_543_210, 6_400_000), {"dedup.fuzzy:duplicate": 34}),
    ],
    "sections": {"pretrain": {"bits_per_byte": 1.8123, "unigram_bits_per_byte": 2.9456, "parameters": 3_456_789,
                              "tokens_per_second": 12345.6, "samples": [{"prompt": "The server", "text": " is <b>ready</b>" + HOSTILE}]},
                 "pack": {"rows": 2345}},
    "alarms": ["source web: 41 % dropped <script>alert(2)</script>"],
}  # fmt: skip


def fill(run: Path) -> None:
    """A run directory as the engine and its sections leave it."""
    (run / "run.json").write_text(json.dumps(RUN), encoding="utf-8")
    rng = np.random.default_rng(7)
    urls = [
        f"https://www.site{n % 3}.example.co.uk/p{n}" if n % 4 else f"http://192.0.2.{n % 5}/{n}" for n in range(1772)
    ]
    ledger = []
    for n in range(1772):
        kept = n < 1200
        near = 1200 <= n < 1234
        ledger.append({"id": f"{n:032x}", "url": urls[n], "source": "web", "file": "a.warc.gz", "offset": n, "fate": "kept" if kept else "dropped",
                       "stage": None if kept else "dedup.fuzzy" if near else "quality.gopher", "rule": None if kept else "r",
                       "kept_id": f"{0:032x}" if near else None, "similarity": 0.8 + n % 20 / 100 if near else None})  # fmt: skip
    table(run / "ledger" / "part-00000.parquet", ledger[:1000], LEDGER)
    table(run / "ledger" / "part-00001.parquet", ledger[1000:], LEDGER)
    words = np.concatenate([rng.lognormal(5.5, 1, 1290).astype(int) + 50, rng.integers(1, 50, 400)]).tolist()
    rows = [
        {"id": f"{n:032x}", "words": w, "mean_word": float(rng.normal(4.8, 0.6)), "ok": w > 60}
        for n, w in enumerate(words)
    ]
    table(run / "scores" / "quality.gopher" / "part-00000.parquet", rows)
    samples = [{"id": f"{n:032x}", "url": "https://www.example.com/", "source": "web", "stage": "quality.gopher", "rule": "gopher:short_doc",
                "value": 12.0, "threshold": 50.0, "detail": HOSTILE, "text": f"sample number {n} " + (HOSTILE if n == 3 else "word " * 600)}
               for n in range(40, -1, -1)]  # fmt: skip
    table(run / "samples" / "part-00000.parquet", samples, SAMPLES)
    documents = [{"id": f"{n:032x}", "url": urls[n], "text": "é" * (n + 1), "source": "web", "language": ["en", "de", "ja", None][min(n // 400, 3) if n % 100 else 3],
                  "language_score": 0.9, "repeat": 1, "dup_cluster_size": 7 if n == 5 else 2 if n % 50 == 1 else 1} for n in range(1200)]  # fmt: skip
    table(run / "documents" / "part-00000.parquet", documents)
    report = {"total": {"bytes_per_token": 3.8765}, "vocab_size": 8192, "new_key": {"inner": 5}, "odd": [1, 2], "vocabulary": {"unigram_bits_per_byte": 2.9456, "used_share": None},
              "by_language": {"en": {"documents": 396, "bytes": 2_000_000, "tokens": 500_111, "bytes_per_token": 4.0, "fertility": 1.31}}}  # fmt: skip
    (run / "tokenizer").mkdir()
    (run / "tokenizer" / "report.json").write_text(json.dumps(report), encoding="utf-8")
    (run / "tokens").mkdir()
    splits = {"train": [{"file": "train-00000.bin", "tokens": 1_600_123, "documents": 1150}, {"file": "train-00001.bin", "tokens": 7, "documents": 1}],
              "validation": [{"file": "validation-00000.bin", "tokens": 54_321, "documents": 49}]}  # fmt: skip
    dataset = {"format": 1, "dtype": "uint16", "vocab_size": 8192, "splits": splits, "pack": {"sequence_length": 512}}
    (run / "tokens" / "dataset.json").write_text(json.dumps(dataset), encoding="utf-8")
    (run / "model").mkdir()
    with (run / "model" / "metrics.jsonl").open("w", encoding="utf-8") as lines:
        for step in range(1, 3001):
            lines.write(
                json.dumps(
                    {
                        "step": step,
                        "loss": 9 * step**-0.15,
                        "learning_rate": 1e-3,
                        "tokens": step * 512,
                        "seconds": step * 0.1,
                    }
                )
                + "\n"
            )
            if step % 500 == 0:
                lines.write(
                    json.dumps({"step": step, "validation_loss": 9.2 * step**-0.15, "bits_per_byte": 4 * step**-0.1})
                    + "\n"
                )
        lines.write('{"step": 3001, "loss": NaN}\n{"step": 3002, "lo')


@pytest.fixture
def run(tmp_path: Path) -> Path:
    fill(tmp_path)
    return tmp_path


class Page(HTMLParser):
    """Elements, visible text, and attributes that a browser would act on."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.handlers: list[str] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "link", "circle", "path", "rect"):
            self.open.append(tag)
        self.loads += [v or "" for k, v in attrs if k in ("src", "href", "srcset", "poster", "data", "xlink:href")]
        self.handlers += [k for k, _ in attrs if k.startswith("on")]

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            while self.open.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def section(text: str, name: str) -> Page:
    found = re.search(rf'<section id="{name}">.*?</section>', text, re.S)
    assert found
    return Page(found.group())


def test_numbers_are_those_of_the_run(run: Path) -> None:
    path = write_report(run)
    assert path == run / "report.html"
    text = path.read_text(encoding="utf-8")
    funnel = section(text, "funnel").text
    for s in RUN["stages"]:
        dropped = sum(s["dropped"].values())
        row = f"{s['stage']} {s['kind']} {s['rows_in']:,} {s['rows_out']:,}"
        assert row in funnel
        assert re.search(re.escape(row) + rf" [\d.<>]+ % {dropped:,} {sum(s['failed'].values()):,} ", funnel), s[
            "stage"
        ]
    assert "web 4 7.60 MB 1,772 36 3" in funnel and "request 71" in funnel
    reasons = section(text, "reasons").text
    assert re.search(r"quality\.gopher gopher:short_doc 400 23\.7 % 5 samples url", reasons)
    assert "dedup.fuzzy dedup.fuzzy:duplicate 34 2.8 %" in reasons and "read:corrupt (failed) 3 0.17 %" in reasons
    assert "gopher:stop_words 17" in reasons
    languages = section(text, "languages").text
    assert f"en {396:,} 33.0 %" in languages and f"(none) {12:,} 1.0 %" in languages
    sizes = sum(2 * (n + 1) for n in range(400) if n % 100)
    assert human.size(sizes) in languages
    domains = section(text, "domains").text
    assert re.search(r"example\.co\.uk", domains) and "192.0.2.4" in domains
    kept = sum(1 for n in range(1200) if n % 4)
    assert f"example.co.uk {1329:,} {kept:,} " in domains
    tokens = section(text, "tokens").text
    assert "train 2 1,151 1,600,130" in tokens and "validation 1 49 54,321" in tokens and "512" in tokens
    tokenizer = section(text, "tokenizer").text
    assert "3.877" in tokenizer and "8,192" in tokenizer and "en 396 2.00 MB 500,111 4.00 1.31" in tokenizer
    model = section(text, "model").text
    assert (
        "1.812" in model
        and "2.946" in model
        and "3,456,789" in model
        and "38.5 % lower" in model
        and "The server" in model
    )
    duplicates = section(text, "duplicates").text
    clustered = len({n for n in range(1200) if n % 50 == 1} | {5})
    assert f"{clustered} stand for a cluster" in duplicates and "34 values from 0.8 to 0.99" in duplicates
    assert "1,654,451" in Page(text).text  # all tokens, on top
    assert "4 min 10 s" in text and "pyarrow 26.0.1" in section(text, "config").text


def test_histograms_count_everything_and_draw_thresholds(run: Path) -> None:
    text = write_report(run).read_text(encoding="utf-8")
    scores = section(text, "lengths")
    assert "gopher:short_doc 50" in scores.text and scores.text.count("1,690 values") == 3
    assert text.count('class="limit"') >= 2  # the word count's threshold, the unigram level
    values = np.concatenate([np.arange(1000.0), [np.nan, 1e9]])
    found = histograms(lambda: iter([{"x": values[:300]}, {"x": values[300:]}]), {"x": [50.0]})["x"]
    assert found.counts.sum() == found.total == 1001 and found.missing == 1 and found.high == 1e9
    assert found.below + found.above >= 1
    constant = histograms(lambda: iter([{"x": np.full(5, 3.25)}]), {})["x"]
    assert constant.counts.sum() == 5
    assert histograms(lambda: iter([{"x": np.array([np.nan])}]), {}) == {}


def test_hostile_text_is_inert(run: Path) -> None:
    text = write_report(run).read_text(encoding="utf-8")
    page = Page(text)
    assert "script" not in page.tags and "img" not in page.tags and not page.handlers
    assert all(load.startswith("#") or load == "data:," for load in page.loads)
    assert str(escape(HOSTILE[:30])) in text and "{{ 7*7 }}" in html.unescape(text)
    assert "\x00" not in text and "\u202e" not in text and "⟨U+202E⟩" in text
    assert "hunter2" not in text and "AKIA" not in text


def test_samples_are_those_with_the_smallest_ids(run: Path) -> None:
    text = section(write_report(run).read_text(encoding="utf-8"), "reasons").text
    assert re.findall(r"sample number (\d+)", text) == ["0", "1", "2", "3", "4"]
    assert text.count("more characters") == 4  # all but the hostile one are longer than what is shown


def test_only_stages(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(
        json.dumps({**RUN, "sections": {}, "alarms": [], "status": "running", "finished": None})
    )
    text = write_report(tmp_path).read_text(encoding="utf-8")
    for name, said in {"tokenizer": "No tokenizer was trained", "tokens": "No token dataset", "model": "No model was trained",
                       "duplicates": "not searched for", "lengths": "Nothing was measured", "languages": "No language"}.items():  # fmt: skip
        assert said in section(text, name).text
    assert "has not finished" in text and 'role="alert"' not in text


def test_nothing_but_a_name(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"format": 1, "name": "bare"}')
    assert "No stage has finished" in write_report(tmp_path).read_text(encoding="utf-8")


def test_empty_documents(tmp_path: Path) -> None:
    fill(tmp_path)
    for folder in ("documents", "ledger", "samples"):
        for path in (tmp_path / folder).glob("*.parquet"):
            pq.write_table(pq.read_schema(path).empty_table(), path)
    assert write_report(tmp_path).is_file()


def test_a_broken_part_is_named_and_the_rest_is_shown(run: Path) -> None:
    (run / "documents" / "part-00000.parquet").write_bytes(b"PAR1 this is no parquet")
    (run / "tokens" / "dataset.json").write_text("{")
    text = write_report(run).read_text(encoding="utf-8")
    alarms = re.search(r'<div class="alarms".*?</div>', text, re.S)
    assert alarms and "documents/ could not be read" in alarms.group() and "tokens/ could not be read" in alarms.group()
    assert "quality.gopher gopher:short_doc" in section(text, "reasons").text


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no run.json"), ("[1]", "JSON object"), ("{", "cannot be read"), ('{"format": 2}', "format 2")],
)
def test_no_run(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(ReportError, match=message):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_it_is_replaced_whole_and_the_same_twice(run: Path) -> None:
    first = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == first
    assert [path.name for path in run.iterdir() if path.name.startswith(".")] == []


def test_large_parts_are_sampled(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "TEXT_BUDGET", 500_000)
    monkeypatch.setattr(corpus, "HOSTS_HELD", 4)
    text = write_report(run).read_text(encoding="utf-8")
    assert re.search(r"Text sizes are from [369]00 of 1,200 documents", section(text, "languages").text)
    assert "of more than" in section(text, "domains").text


def test_numbers_for_people() -> None:
    assert [human.size(n) for n in (0, 999, 1000, 1_234_567, 45_600_000, 7e11)] == [
        "0 B",
        "999 B",
        "1.00 kB",
        "1.23 MB",
        "45.6 MB",
        "700 GB",
    ]
    assert [human.duration(s) for s in (0.5, 59.94, 250, 3720, 100_000)] == [
        "0.50 s",
        "59.9 s",
        "4 min 10 s",
        "1 h 02 min",
        "1 d 3 h",
    ]
    assert [human.percent(a, b) for a, b in ((1, 3), (0, 5), (1, 10**6), (999_999, 10**6), (5, 0))] == [
        "33.3 %",
        "0.0 %",
        "<0.01 %",
        ">99.9 %",
        "–",
    ]
    assert (
        corpus.domain("https://a.b.example.co.uk:8080/x") == "example.co.uk" and corpus.domain("http://[::1]/") == "::1"
    )
    assert corpus.domain("http://[bad/") == "(no valid URL)" and corpus.domain(None) == "(no host)"
    assert human.shown("a\r\x1b[1m\ud800", 100) == "a\n⟨U+001B⟩[1m⟨U+D800⟩"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser(run: Path, scheme: Any) -> None:
    report = write_report(run)
    with opened(report, color_scheme=scheme, viewport={"width": 1280, "height": 900}) as (page, messages, requests):
        for details in page.locator("details").all():
            details.evaluate("element => { element.open = true }")
        assert page.locator("h1").inner_text() == RUN["name"] and page.title().startswith(RUN["name"])
        headings = page.locator("h2")
        names = [
            "Funnel",
            "Drop reasons",
            "Languages",
            "Domains",
            "Lengths and scores",
            "Duplicates",
            "Diversity",
            "Tokenizer",
            "Token dataset",
            "Model",
            "Config and versions",
        ]
        assert headings.all_inner_texts() == names and all(h.is_visible() for h in headings.all())
        assert page.locator("svg.chart").count() >= 6
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(17, 21, 28)"
        assert dark == (scheme == "dark")
        for width in (1280, 400):  # nothing sticks out sideways, on a telephone either
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        if os.environ.get("GRISTMILL_SCREENSHOTS"):
            page.set_viewport_size({"width": 1280, "height": 900})
            page.screenshot(path=f"{os.environ['GRISTMILL_SCREENSHOTS']}/report-{scheme}.png", full_page=True)
    assert messages == []
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    assert len([url for url in requests if url.startswith("file:")]) == 1
