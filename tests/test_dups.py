"""`dups` on a real run: chains over stages, tags, where texts come from, differences, the page in a browser."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.cli import main
from pipeline.config import resolve
from pipeline.dups.difference import MOST_WORDS, difference
from pipeline.run import Options, run
from pipeline.yamlfile import Located
from tests.browser import opened
from tests.support import pipeline

HOSTILE = (
    "</pre><script>document.title='owned'</script><img src=http://evil.example/x.png onerror=alert(1)>\x1b[2J\u202e"
)
WORDS = [f"word{n}" for n in range(120)]
LONG = " ".join([*WORDS, "the end of it"])
SHORT = " ".join(WORDS)  # near LONG
OTHER = "Write to mara.lindqvist@example.com about the lamp, the wick, the glass and the oil, once and for all."


def rows() -> list[dict[str, Any]]:
    texts = [SHORT, f"{SHORT}  ", LONG, OTHER, OTHER.replace("all.", "good."), "alone among all of them", ""]
    found = [{"text": text, "url": f"http://e.org/{n}", "date": "2024-05-01T00:00:00Z"} for n, text in enumerate(texts)]
    found.append({"text": f"{LONG} {HOSTILE}", "url": "http://e.org/x?email=mara.lindqvist@example.com", "date": None})
    return found


def carry_out(folder: Path, stages: list[Any], name: str = "run", **engine: Any) -> Path:
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
    config = {
        "name": "lamps",
        "input": {"source": "web", "format": "jsonl", "paths": [str(folder / "in.jsonl")]},
        "stages": stages,
        "engine": {"executor": "inline", **engine},
    }
    assert run(resolve(Located(config, "test", {})), Options(str(folder / name)), lambda line: None) == 0
    return folder / name


STAGES: list[Any] = ["normalize", "dedup.exact", {"dedup.fuzzy": {"threshold": 0.6}}]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return carry_out(tmp_path_factory.mktemp("dups"), STAGES)


def ids(run: Path) -> list[str]:
    """Ids in the order of the input."""
    table = pq.read_table(run / "ledger").sort_by("offset")
    found: list[str] = table.column("id").to_pylist()
    return found


def said(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    assert main(["dups", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_a_chain_over_two_stages(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short, copy, long, *_, hostile = ids(finished)
    out = said(capsys, finished, copy)
    lines = out.splitlines()
    assert lines[0] == f"cluster of 4 documents, kept: {hostile}"
    assert lines[1:3] == ["  removed by dedup.exact:duplicate: web 1", "  removed by dedup.fuzzy:near_duplicate: web 2"]
    assert (
        f"dropped by dedup.exact:duplicate for {short}, similarity 1, which dedup.fuzzy:near_duplicate dropped for"
        in out
    )
    assert f"{copy}  <- asked for" in out and out.count("<- asked for") == 1
    assert "the same words (text: phases/00-normalize)" in out
    assert "[-the end of it" in out and " same words … " in out  # the kept one has more
    # whichever is asked for, the cluster is the same
    for one in (short, long, hostile):
        assert said(capsys, finished, one).splitlines()[0] == lines[0]
    assert said(capsys, finished, "http://e.org/1") == out


def test_personal_data_and_terminal_codes_are_not_shown(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    everything = "".join(said(capsys, finished, one) for one in ids(finished))
    assert "mara.lindqvist" not in everything and "<EMAIL_ADDRESS>" in everything
    assert "\x1b" not in everything
    assert "1 word differs" in everything and "[-good.-]{+all.+}" in everything
    assert said(capsys, finished, "http://e.org/x?email=mara.lindqvist@example.com").startswith("cluster of 4")


def test_a_document_alone_and_one_that_is_unknown(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alone = ids(finished)[5]
    assert said(capsys, finished, alone).splitlines()[0] == f"{alone} has no duplicates: kept:"
    empty = ids(finished)[6]
    assert (
        said(capsys, finished, empty).splitlines()[0].startswith(f"{empty} has no duplicates: dropped in the end by ")
    )
    for unknown in ("http://nowhere.example/", "", "\udcff", "\x00", "x" * 100_000):
        assert main(["dups", str(finished), unknown]) == 2
        assert "no record of" in capsys.readouterr().err
    assert main(["dups", str(finished.parent), alone]) == 2
    assert "holds no run" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["dups", str(finished), alone, "--max", "0"])


def test_no_more_than_asked_for_but_always_the_asked_one(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = ids(finished)[1]
    out = said(capsys, finished, copy, "--max", "1")
    assert "<- asked for" in out and "1 more are not shown (--max)" in out


def test_texts_that_are_gone(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "in.jsonl").write_bytes((finished.parent / "in.jsonl").read_bytes())
    short = ids(finished)[0]
    assert main(["clean", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    out = said(capsys, tmp_path / "run", short)
    assert "text: samples/; of the other: documents/, as the run left it" in out
    shutil.rmtree(tmp_path / "run" / "samples")
    out = said(capsys, tmp_path / "run", short)
    assert out.count("text: not there: phases/ is gone (`clean`), and samples/ does not have this document") == 3
    again = said(capsys, tmp_path / "run", short, "--reread")
    assert "the input, read again, through the stages before dedup.fuzzy" in again and "not there" not in again
    changed = finished.parent / "in.jsonl"
    before = changed.read_bytes()
    try:
        changed.write_bytes(before.splitlines(keepends=True)[5])
        assert "the input has no such record any more" in said(capsys, tmp_path / "run", short, "--reread")
        changed.unlink()
        assert "the input cannot be read again" in said(capsys, tmp_path / "run", short, "--reread")
    finally:
        changed.write_bytes(before)


def test_tags_that_drop_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = carry_out(
        tmp_path, [{"dedup.exact": {"mode": "tag"}}, {"dedup.fuzzy": {"threshold": 0.6, "linkage": "component"}}]
    )
    _, copy, *_, hostile = ids(done)
    out = said(capsys, done, hostile)
    assert out.splitlines()[0].startswith("cluster of ") and hostile in out.splitlines()[0]
    assert "⟨U+001B⟩" in out and "\x1b" not in out
    tagged = carry_out(tmp_path, [{"dedup.exact": {"mode": "tag"}}], "tags")
    out = said(capsys, tagged, copy)
    assert out.splitlines()[0].startswith("cluster of 2 documents, kept:")
    assert "tagged by a stage with mode: tag" in out and "removed by tagged: web 1" in out


def test_a_cluster_of_which_nothing_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = carry_out(tmp_path, ["dedup.exact", {"quality.gopher": {"min_words": 100_000}}])
    first, copy, *_ = ids(done)
    title = said(capsys, done, copy).splitlines()[0]
    assert title.startswith("cluster of 2 documents, dropped in the end by quality.gopher:") and title.endswith(first)


def test_a_document_of_another_run(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A deduplication against an index drops documents for those of earlier runs, which this ledger does not have."""
    shutil.copytree(finished, tmp_path / "run")
    _, copy, *_, hostile = ids(finished)
    file, other = tmp_path / "run" / "ledger" / "part-00000.parquet", "f" * 32
    table = pq.read_table(file)
    kept = [other if one == hostile else one for one in table.column("kept_id").to_pylist()]
    place = table.column_names.index("kept_id")
    pq.write_table(table.set_column(place, "kept_id", pa.array(kept, pa.string())), file)
    for what in (copy, other):
        out = said(capsys, tmp_path / "run", what, "--reread")
        assert out.splitlines()[0] == f"cluster of 4 documents, kept in another run: {other}"
        assert "text of the other: not there: a document of another run" in out
    main(["dups", str(tmp_path / "run"), other, "--html", str(tmp_path / "page.html")])
    assert "kept in another run" in (tmp_path / "page.html").read_text()


def test_pages_of_the_same_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = f"<html><body><article><p>{LONG} and so on.</p></article></body></html>"
    (tmp_path / "in.jsonl").write_text(
        "".join(json.dumps({"html": page, "url": f"http://e.org/{n}"}) + "\n" for n in range(3))
    )
    config = {
        "name": "pages",
        "input": {"source": "web", "format": "jsonl", "paths": [str(tmp_path / "in.jsonl")]},
        "stages": ["dedup.payload", "extract", "dedup.url"],
        "engine": {"executor": "inline"},
    }
    assert run(resolve(Located(config, "test", {})), Options(str(tmp_path / "run")), lambda line: None) == 0
    out = said(capsys, tmp_path / "run", "http://e.org/2")
    assert out.count("not there: dropped before `extract` made a text of its page (phases/00-read)") == 2


def test_the_page_in_a_browser(finished: Path, tmp_path: Path) -> None:
    copy = ids(finished)[1]
    done = pipeline("dups", finished, copy, "--html", tmp_path / "sub" / "dups.html")
    assert done.returncode == 0, done.stderr
    assert "cluster of 4 documents" in done.stdout
    with opened(tmp_path / "sub" / "dups.html") as browser:
        page = browser.page
        assert page.title().startswith("Duplicates of")
        assert page.locator("section.member").count() == 3
        assert page.locator("del", has_text="the end of it").count() >= 1
        assert page.locator(".asked").count() == 1
        assert page.locator("script, img").count() == 0
        assert browser.messages == [] and len(browser.requests) == 1
    assert pipeline("dups", finished, copy, "--html", tmp_path).returncode == 2


def test_colours_on_a_terminal(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    out = said(capsys, finished, ids(finished)[0])
    assert "\x1b[31;9mthe end of it" in out and "[-" not in out
    monkeypatch.setenv("NO_COLOR", "1")
    assert "[-the end of it" in said(capsys, finished, ids(finished)[0])


def joined(found: Any, *kinds: str) -> str:
    return "".join(piece.text for piece in found.pieces if piece.kind in kinds)


def test_differences() -> None:
    found = difference("a b c d", "a  x c\nd e")
    assert [(piece.kind, piece.text.strip()) for piece in found.pieces] == [
        ("same", "a"), ("first", "b"), ("second", "x"), ("same", "c d"), ("second", "e")
    ]  # fmt: skip
    assert found.changed == 2 and found.unread == (0, 0)
    assert difference("a\nb", " a b ").changed == 0 and difference("", "").pieces == []
    assert difference("", "a b").changed == 2
    assert joined(difference("東京都庁舎", "東京市庁舎"), "first", "second") == "都市"
    long = " ".join(f"w{n}" for n in range(500))
    gaps = difference(f"{long} x {long}", f"{long} y {long}")
    assert [piece.kind for piece in gaps.pieces] == ["gap", "same", "first", "second", "same", "gap"]
    assert sum(piece.words for piece in gaps.pieces if piece.kind in ("gap", "same")) == 1000


def test_differences_of_odd_texts() -> None:
    spam = difference("buy " * 50_000, "buy " * 49_999 + "sell")
    assert spam.changed == 0 and spam.unread == (50_000 - MOST_WORDS,) * 2
    assert difference("a" * 1_000_000, "a" * 999_999).changed == 1
    assert difference("\x00 \ud800", "\x00 \udfff").changed == 1
    assert difference("x y z " * 900, "z y x " * 900).changed > 0  # takes minutes where every word may begin a match
