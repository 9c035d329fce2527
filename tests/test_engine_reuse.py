"""Scores of an earlier run: changed thresholds measure nothing again, loosened ones only the rows newly let through."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.batch import Batch
from stages.stage import ASSETS, MapStage, registry
from tests.support import tree, write_config
from tests.tiny_scorer import save
from tests.toy_stages import run_toy, write_rows

EVERYTHING = ("documents", "ledger", "samples", "scores")


class Lab:
    """A corpus of texts of 1 to 60 characters, and runs over it with two stages that log what they measure."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        rows = ["x" * n for n in range(1, 61)] + ["[[length]][[raise]]"]
        write_rows(folder / "in.jsonl", rows)
        self.config = write_config(
            folder / "config.yaml",
            name="reuse",
            input={"source": "toy", "format": "jsonl", "paths": [str(folder / "in.jsonl")]},
            stages=[
                {"toy.length": {"as": "a", "shortest": 20, "log": str(folder / "a.log")}},
                {"toy.length": {"as": "b", "unit": 2, "log": str(folder / "b.log")}},
                "toy.first",
                {"toy.length": {"as": "c", "log": str(folder / "c.log")}},
            ],
            engine={"shard_bytes": "1100B", "max_failed": 1.0},
        )

    def run(self, *overrides: str) -> tuple[int, int, int]:
        """Rows that each stage measured, those that always fail aside."""
        for name in "abc":
            (self.folder / f"{name}.log").write_text("")
        code, said = run_toy(self.config, self.folder / "out", *overrides, debug=True)
        assert code == 0, said
        broken = [
            row["id"]
            for row in pq.read_table(self.folder / "out/ledger").to_pylist()
            if row["fate"] == "failed" and row["stage"] == "a"
        ]
        assert len(broken) == 1
        measured = [
            len([line for line in (self.folder / f"{name}.log").read_text().split() if line not in broken])
            for name in "abc"
        ]
        return measured[0], measured[1], measured[2]

    def same_as_fresh(self, *overrides: str) -> bool:
        code, said = run_toy(
            self.config, self.folder / f"fresh-{'-'.join(overrides) or 'plain'}", *overrides, debug=True
        )
        assert code == 0, said
        fresh = tree(self.folder / f"fresh-{'-'.join(overrides) or 'plain'}", *EVERYTHING)
        return tree(self.folder / "out", *EVERYTHING) == fresh


def test_only_what_is_not_known_is_measured(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    a, b, c = lab.run()
    assert a >= 60 and b == c == 41  # a's one failing row has its batch measured row by row
    assert lab.run("b.shortest=15") == (0, 0, 0), "a threshold was tightened"
    assert lab.run("a.shortest=10", "b.shortest=15") == (0, 10, 0), "an earlier stage lets ten more rows through"
    assert lab.same_as_fresh("a.shortest=10", "b.shortest=15")
    assert lab.run("a.shortest=10") == (0, 0, 20), "30 to 50 characters reach the last stage for the first time"
    assert lab.run("a.shortest=10", "b.unit=3") == (0, 51, 51), (
        "another measure, whose column the last stage might read"
    )
    assert lab.same_as_fresh("a.shortest=10", "b.unit=3")
    assert lab.run("a.shortest=10", "b.unit=3", "a.longest=1000") == (0, 0, 0)
    assert lab.run("a.shortest=10", "b.unit=3", "a.longest=1000") == (0, 0, 0), "nothing changed at all"


def test_a_changed_input_is_measured_again(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.run()
    with (tmp_path / "in.jsonl").open("a") as file:
        file.write('{"text": "' + "y" * 70 + '"}\n')
    a, _, _ = lab.run()
    assert a >= 20
    assert lab.same_as_fresh()


TEXT = """Gristmill grinds the grain of the web, and the flour it gives is text.

- one thing here...
- another thing there; terms of use
- one thing here...
The quick brown fox jumps over the lazy dog. The quick brown fox jumps over the lazy dog. # # {lorem ipsum}"""

ROWS = {
    "id": [f"{n:032x}" for n in range(5)],
    "text": [TEXT, "", "Kurz.", "Der schnelle braune Fuchs springt über den faulen Hund. " * 20, TEXT * 5],
    "url": ["https://example.org/", None, "https://example.com/a?b=c", "http://casino.example.net/x", "not a url"],
    "language": ["en", "en", "de", "de", None],
    "source": ["s"] * 5,
    "html": [f"<html><body><p>{TEXT}</p></body></html>".encode(), b"", b"<p>Kurz.", None, b"\xff<title>x</title>" + TEXT.encode()],
    "html_charset": [None, "utf-8", None, None, "latin-1"],
}  # fmt: skip


NEEDED = {  # knobs without which another is refused
    ("language", "min_share"): {"paragraphs": True},
    ("language", "cut"): {"paragraphs": True, "keep": ("en",)},
    ("quality.classifier", "alpha"): {"keep": "pareto"},
    ("toxicity", "max_score"): {"model": str(ASSETS / "quality" / "prose.ftz")},
}


def needed_by(name: str, knob: str) -> dict[str, Any]:
    """Knobs without which a stage cannot be, or another of its knobs is refused."""
    own: dict[str, Any] = {}
    match name:
        case "language_guess":
            own = {"keep": ("en",)}
        case "quality.perplexity":
            own = {"model": str(Path(__file__).parent / "recorded" / "tiny.arpa")}
        case "quality.regression":
            own = {"model": scorer(), "max_tokens": 128}
    return own | NEEDED.get((name, knob), {})


@cache
def scorer() -> str:
    """A folder of a small model; one for all tests."""
    return str(save(Path(tempfile.mkdtemp()) / "scorer"))


def other_values(stage: type[MapStage], knob: str) -> list[Any]:
    """Values unlike the default that the knob takes."""
    needed = needed_by(stage.name, knob)
    default = stage.config_model.model_fields[knob].default
    tried = [None, True, False, 0, 1, 2, 0.3, 0.9, 1000, ("de",), ("fr", "en"), (), "drop", "tag", "all", {"de": 0.5}]
    found = []
    for value in tried:
        if value != default:
            try:
                stage.config_model.model_validate({**needed, knob: value})
            except ValueError:
                continue
            found.append(value)
    return found


DECLARED = [
    (name, knob)
    for name, stage in registry().items()
    if stage.kind == "map" and not name.startswith("toy.")
    for knob in stage.decide_knobs
]


def test_the_quality_filters_declare_their_thresholds() -> None:
    """Changing what only decides must not parse, label or count words again."""
    assert {"language", "quality.gopher", "quality.gopher_repetition", "quality.fineweb"} <= {
        name for name, _ in DECLARED
    }
    assert ("quality.gopher", "min_words") in DECLARED and ("language", "min_score") in DECLARED
    assert ("quality.fineweb", "short_line_length") not in DECLARED
    for name in ("language", "quality.gopher", "quality.gopher_repetition", "quality.fineweb"):
        stage = registry()[name](registry()[name].config_model())
        assert isinstance(stage, MapStage)
        assert set(stage.scored()) == set(stage.measures()), f"{name}: decisions cannot be made again from its scores"


def measured(stage: type[MapStage], **knobs: Any) -> pa.Table:
    made = stage(stage.config_model.model_validate(knobs))
    made.setup({name: Path(path) for name, path in made.assets().items()})
    columns = {
        name: values
        for name, values in ROWS.items()
        if name in {"id", "text", "url", "language", "source"} | set(made.needs)
    }
    table = pa.table(columns)
    table = table.set_column(1, "text", table.column("text").cast(pa.large_string()))
    return made.measure(Batch(table))


@pytest.mark.parametrize(("name", "knob"), DECLARED, ids=[f"{name}-{knob}" for name, knob in DECLARED])
def test_measuring_does_not_depend_on_what_only_decides(name: str, knob: str) -> None:
    stage: Any = registry()[name]
    assert knob in stage.config_model.model_fields, "no such knob"
    values = other_values(stage, knob)
    assert values, "no other value to try"
    needed = needed_by(name, knob)
    plain = measured(stage, **needed)
    made = stage(stage.config_model.model_validate(needed))
    for value in values:
        try:
            changed = measured(stage, **{**needed, knob: value})
        except ValueError:
            continue  # refused by setup: a label that the model does not have
        assert changed.equals(plain), f"{knob}={value!r} changes what is measured"
        other = stage(stage.config_model.model_validate({**needed, knob: value}))
        assert other.measures() == made.measures() and other.scored() == made.scored()
        assert other.assets() == made.assets()
