"""The opt_out stage: every declaration in every place, who is addressed, and WARC bytes end to end."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import read_config
from pipeline.yamlfile import ConfigError
from stages.opt_out import _RULES, OptOut, OptOutConfig
from stages.opt_out_page import HEAD_BYTES, MOST, declarations
from tests.support import pipeline, write_config
from tests.toy_stages import run_toy
from tests.web_stages import ready, run

TEXT = "<title>Page</title><body><p>" + "A sentence that stands in the main part of this page. " * 8 + "</p></body>"


def meta(content: str, name: str = "robots") -> str:
    return f'<meta name="{name}" content="{content}">'


def rules(pages: list[bytes], fields: list[str | None] | None = None, **knobs: object) -> list[str | None]:
    columns = {"html": pa.array(pages, pa.large_binary())}
    columns["http_opt_out"] = pa.array(fields or [None] * len(pages), pa.string())
    _, decision = run(ready(OptOut(OptOutConfig(**knobs))), **columns)
    return decision.rule


@pytest.mark.parametrize(
    ("page", "declared"),
    [
        (meta("noindex"), "*:noindex:meta"),
        ("<META CONTENT='NoAI,NOIMAGEAI ; follow' NAME=Robots />", "*:noai:meta *:noimageai:meta"),
        ('<meta\n property="robots"\n content = noml>', "*:noml:meta"),
        (meta("max-snippet:-1, index, follow"), ""),
        (meta("index") + meta("noarchive"), "*:noarchive:meta"),
        (meta("noindex", "CCBot") + meta("none", "googlebot"), "ccbot:noindex:meta googlebot:none:meta"),
        (meta("1", "tdm-reservation"), "*:tdm_reservation:meta"),
        (meta("0", "TDM-Reservation") + meta("https://x/p", "tdm-policy"), ""),
        ('<meta http-equiv="X-Robots-Tag" content="nocache, gptbot: noai">', "*:nocache:meta gptbot:noai:meta"),
        (meta("train-ai=n", "content-usage"), "*:content_usage:meta"),
        ("<meta content='a > b noindex' name=robots>", "*:noindex:meta"),  # ">" inside quotes
        ("<meta name=robots data-x='noindex' content=index>", ""),
        (f"<!-- {meta('noindex')} --><script>'{meta('noai')}'</script><title>{meta('none')}</title>", ""),
        (f"<script>x</script>{meta('noml')}", "*:noml:meta"),
        (f"<noscript>{meta('noindex')}</noscript>", "*:noindex:meta"),
        ("&lt;meta name=robots content=noindex&gt; <metadata name=robots content=noindex>", ""),
        (meta("noindex", "a b:c"), ""),  # no name of an agent
        ("x" * HEAD_BYTES + meta("noindex"), ""),
        ("", ""),
    ],
)
def test_elements(page: str, declared: str) -> None:
    page = f"<html><head>{page}" if page else page
    assert " ".join(declarations(page.encode(), None, None)) == declared
    assert " ".join(declarations(page, None, None)) == declared
    for codec in ("utf-16", "utf-16-le", "utf-16-be", "utf-32"):
        if len(page) < 1000:  # without a mark the charset is told from the first bytes
            assert " ".join(declarations(f"{page:<40}".encode(codec), None, None)) == declared, codec


@pytest.mark.parametrize(
    ("fields", "declared"),
    [
        ("x-robots-tag: noindex, nofollow", "*:noindex:header"),
        ("x-robots-tag: googlebot: noarchive, nosnippet\nx-robots-tag: NoAI", "*:noai:header googlebot:noarchive:header googlebot:nosnippet:header"),
        ("x-robots-tag: unavailable_after: 25 Jun 2010 15:00:00 PST, noml", "*:noml:header"),
        ("x-robots-tag: max-snippet: 0, none", "*:none:header"),
        ("x-robots-tag: otherbot: noindex, ccbot: noai", "ccbot:noai:header otherbot:noindex:header"),
        ("x-robots-tag: bad agent: noindex", ""),
        ("tdm-reservation: 1\ntdm-policy: https://x", "*:tdm_reservation:header"),
        ("tdm-reservation: 0", ""),
        ("content-usage: search=y, train-ai=n;a=b", "*:content_usage:header"),
        ("content-usage: train-ai=n, train-ai=y", ""),  # of a repeated key the last value counts
        ("content-signal: search=yes,ai-train=no", "*:content_signal:header"),
        ("content-signal: ai-train=yes", ""),
        ("\n:\nx-robots-tag\n\x00: \ud800", ""),
    ],
)  # fmt: skip
def test_http_fields(fields: str, declared: str) -> None:
    assert " ".join(declarations(None, None, fields)) == declared


def test_each_declaration_is_a_rule_with_a_knob_of_its_own() -> None:
    robots = [rule for rule in _RULES if "_" not in rule]
    pages = [meta(rule).encode() for rule in robots] + [b"<p>"] * 3
    fields = [None] * len(robots) + ["tdm-reservation: 1", "content-usage: train-ai=n", "content-signal: ai-train=no"]
    declared = [*robots, "tdm_reservation", "content_usage", "content_signal"]
    assert sorted(declared) == sorted(_RULES)
    assert rules(pages, fields) == [None if rule == "nosnippet" else rule for rule in declared]
    for rule in _RULES:
        off = {name: name != rule for name in _RULES}
        assert rules(pages, fields, **off) == [None if name == rule else name for name in declared]


def test_whom_it_addresses() -> None:
    pages = [meta("noindex", agent).encode() for agent in ("robots", "CCBot", "googlebot", "description")]
    assert rules(pages) == ["noindex", "noindex", None, None]
    assert rules(pages, agents=("GoogleBot",)) == [None, None, "noindex", None]
    assert rules(pages, agents=()) == [None] * 4
    stage = ready(OptOut(OptOutConfig()))
    html = (meta("noindex", "gptbot") + meta("noarchive")).encode()
    _, decision = run(stage, html=pa.array([html], pa.large_binary()), http_opt_out=["x-robots-tag: noai"])
    assert (decision.rule, decision.detail) == (["noai"], ["* header"])
    _, decision = run(ready(OptOut(OptOutConfig(noai=False))), html=pa.array([html], pa.large_binary()))
    assert (decision.rule, decision.detail) == (["noindex"], ["gptbot meta"])


def test_columns_of_the_wrong_type_and_none() -> None:
    values, _ = run(ready(OptOut(OptOutConfig())), html=["<p>", None], http_opt_out=[1, 2], html_charset=[True, None])
    assert values.column("opt_out_declared").to_pylist() == [None, None]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            ["<meta ", "<!--", "-->", "<script>", "</script", '"', "'", ">", "name=robots", "content=", "noindex", "=", "\x00", "é", "\ud800", "<", "x" * 3000]
        ),
        max_size=30,
    ).map("".join)
)  # fmt: skip
def test_nothing_raises(page: str) -> None:
    for html in (page, page.encode("utf-8", "surrogatepass"), page.encode("utf-16", "surrogatepass")):
        for one in declarations(html, "utf-8", page):
            assert one.count(":") == 2 and " " not in one


def test_a_hostile_page_is_bounded() -> None:
    many = "".join(meta("noai", f"bot{number}") for number in range(5000))
    assert len(declarations(many, None, None)) == MOST
    for piece in ("<meta ", '<meta "', "<!--", "<script>", "<", "<meta name=robots content=noindex ", "<meta a='"):
        declarations(piece * (HEAD_BYTES // len(piece)), None, piece * 10_000)


# ---- end to end


def record(number: int, html: str, *fields: str) -> bytes:
    """A response in WARC bytes, with its HTTP fields as given."""
    body = html.encode()
    http = "\r\n".join(["HTTP/1.1 200 OK", "Content-Type: text/html; charset=utf-8", *fields, "", ""]).encode() + body
    head = (
        f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:{number}>\r\nWARC-Date: 2024-05-01T00:00:00Z\r\n"
        f"WARC-Target-URI: https://site{number}.example/\r\nContent-Type: application/http; msgtype=response\r\n"
        f"Content-Length: {len(http)}\r\n\r\n"
    )
    return gzip.compress(head.encode() + http + b"\r\n\r\n")


PAGES = [
    (TEXT, []),
    (TEXT, ["X-Robots-Tag: googlebot: noindex", "X-Robots-Tag: noai"]),
    (f"<head>{meta('noindex')}</head>{TEXT}", []),
    (TEXT, ["x-robots-tag: googlebot: noindex"]),
    (TEXT, ["TDM-Reservation:", " 1"]),  # a folded line
    (f"<head>{meta('nosnippet')}</head>{TEXT}", ["Content-Usage: train-ai=y"]),
]
FOUND = [None, "noai", "noindex", None, "tdm_reservation", None]


@pytest.fixture
def crawl(tmp_path: Path) -> Path:
    (tmp_path / "a.warc.gz").write_bytes(b"".join(record(n, html, *fields) for n, (html, fields) in enumerate(PAGES)))
    return write_config(
        tmp_path / "c.yaml",
        name="opt",
        input={"source": "web", "format": "warc", "paths": [str(tmp_path / "a.warc.gz")]},
        stages=["opt_out", {"extract": {"method": "resiliparse"}}, "normalize"],
    )


def ledger(out: Path) -> list[tuple[str | None, str | None]]:
    return [(row["stage"], row["rule"]) for row in pq.read_table(out / "ledger").to_pylist()]


def test_a_crawl(crawl: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, said = run_toy(crawl, out, debug=True)
    assert code == 0, said
    assert ledger(out) == [("opt_out" if rule else None, rule) for rule in FOUND]
    documents = pq.read_table(next((out / "documents").glob("*.parquet")))
    assert not [name for name in documents.column_names if "opt_out" in name]
    assert documents.num_rows == 3 and all("main part" in text for text in documents.column("text").to_pylist())
    details = {row["rule"]: row["detail"] for row in pq.read_table(out / "ledger").to_pylist() if row["rule"]}
    assert details == {"noai": "* header", "noindex": "* meta", "tdm_reservation": "* header"}


def test_a_changed_knob_decides_again_from_scores(crawl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    assert run_toy(crawl, out, debug=True)[0] == 0
    looked = []
    measure = OptOut.measure
    monkeypatch.setattr(OptOut, "measure", lambda self, batch: looked.append(len(batch)) or measure(self, batch))
    assert run_toy(crawl, out, "opt_out.agents=['*', googlebot]", "opt_out.nosnippet=true", debug=True)[0] == 0
    assert [rule for _, rule in ledger(out)] == [None, "noai", "noindex", "noindex", "tdm_reservation", "nosnippet"]
    assert looked == []


def test_apply(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "html": f"<head>{meta('noarchive')}</head>{TEXT}", "n": 1},
        {"id": "b", "html": TEXT, "http_opt_out": "x-robots-tag: ccbot: none", "n": [2]},
        {"id": "c", "html": TEXT, "http_opt_out": None},
        {"id": "d", "html": None},
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = pipeline("apply", "opt_out", tmp_path / "in.jsonl", tmp_path / "out.jsonl", "--executor", "inline")
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row.pop("verdict") for row in found] == ["opt_out:noarchive", "opt_out:none", "keep", "keep"]
    assert found == rows


def test_it_stands_before_extract(crawl: Path) -> None:
    text = crawl.read_text().replace("- opt_out\n", "").replace("- normalize", "- opt_out\n- normalize")
    crawl.write_text(text)
    with pytest.raises(ConfigError, match="opt_out needs `html`, which ends with `extract`: put `opt_out` before it"):
        read_config(crawl)
