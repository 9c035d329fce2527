"""The sections behind the stages do only what must be done: kept counts, encoded parts and shards, and the same bytes."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline import sections
from pipeline.sections import pack as pack_section
from pipeline.sections import tokenizer as tokenizer_section
from tests.support import tree
from tests.toy_stages import run_toy
from tokenizer_training.dataset.verify import verify

WORDS = [f"{a}{b}" for a in ("gra", "mil", "sto", "whe", "flo") for b in ("in", "ling", "nes", "at", "ur", "er")]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    draw = random.Random(7)
    rows = [{"text": " ".join(draw.choices(WORDS, k=draw.randrange(5, 60))) + "."} for _ in range(300)]
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = folder / "run.yaml"
    wanted: dict[str, Any] = {
        "name": "reuse",
        "input": {"source": "toy", "format": "jsonl", "paths": [str(folder / "a.jsonl")]},
        "tokenizer": {"vocab_size": 400},
        "pack": {"sequence_length": 64, "shard_tokens": 2000, "validation": 0.1},
        "engine": {"executor": "inline", "shard_bytes": "10kB"},
    }
    path.write_text(yaml.safe_dump(wanted))
    return path


@pytest.fixture(scope="module")
def undisturbed(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    assert run_toy(config, out, debug=True)[0] == 0
    return out


def made(folder: Path) -> dict[str, str]:
    return tree(folder, "documents", "tokenizer", "tokens")


def calls_of(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> list[str]:
    """The files that a section's unit was called for."""
    called: list[str] = []
    whole = getattr(module, name)

    def counted(*positional: Any, **named: Any) -> Any:
        path = named.get("documents_path") or named["files"][0]
        called.append(Path(path).stem)
        return whole(*positional, **named)

    monkeypatch.setattr(module, name, counted)
    return called


def test_another_row_length_makes_rows_only(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    assert run_toy(config, out, debug=True)[0] == 0
    encoded = calls_of(monkeypatch, pack_section, "encode_documents")
    payload = {path: time for path, time in times(out).items() if not path.endswith(".json") and "pack" not in path}
    code, said = run_toy(config, out, "pack.sequence_length=32", "pack.strategy=concat", debug=True)
    assert code == 0 and "the shards are there already" in said and encoded == []
    assert {path: time for path, time in times(out).items() if path in payload} == payload
    assert verify(out / "tokens") == []
    fresh = tmp_path / "fresh"
    assert run_toy(config, fresh, "pack.sequence_length=32", "pack.strategy=concat", debug=True)[0] == 0
    assert encoded and made(out) == made(fresh)


def times(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (out / "tokens").iterdir()}


@pytest.mark.parametrize("knob", ["pack.seed=5", "pack.validation=0.3", "tokenizer.vocab_size=380"])
def test_what_the_shards_depend_on_makes_them_again(config: Path, tmp_path: Path, undisturbed: Path, knob: str) -> None:
    out = tmp_path / "out"
    assert run_toy(config, out, debug=True)[0] == 0
    code, said = run_toy(config, out, knob, debug=True)
    assert code == 0 and "the shards are there already" not in said
    assert verify(out / "tokens") == [] and made(out) != made(undisturbed)


@pytest.mark.parametrize("knob", ["pack.memory=2000000", "pack.encoder=tokenizers", "pack.verify_every=1"])
def test_knobs_of_speed_change_nothing(config: Path, undisturbed: Path, tmp_path: Path, knob: str) -> None:
    assert run_toy(config, tmp_path / "out", knob, debug=True)[0] == 0
    assert made(tmp_path / "out") == made(undisturbed)
    code, said = run_toy(config, undisturbed, knob, debug=True)
    assert code == 0 and "pack: done already" in said


def test_a_flipped_bit_in_a_shard_is_not_used_again(config: Path, undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run_toy(config, out, debug=True)[0] == 0
    shard = out / "tokens" / "train-00000.bin"
    content = bytearray(shard.read_bytes())
    content[10] ^= 1
    shard.write_bytes(content)
    assert run_toy(config, out, "pack.sequence_length=32", debug=True)[0] == 0
    assert verify(out / "tokens") == [] and shard.read_bytes() == (undisturbed / "tokens" / shard.name).read_bytes()


@pytest.mark.parametrize(
    ("module", "unit"), [(tokenizer_section, "count_documents"), (pack_section, "encode_documents")]
)
def test_a_run_that_died_in_a_section_goes_on_with_what_it_had(
    config: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any, unit: str
) -> None:
    out = tmp_path / "out"
    whole = getattr(module, unit)
    with monkeypatch.context() as broken:
        first = calls_of(broken, module, unit)

        def dying(*positional: Any, **named: Any) -> Any:
            if len(first) == 3:
                raise KeyboardInterrupt
            return inner(*positional, **named)

        inner = getattr(module, unit)
        broken.setattr(module, unit, dying)
        with pytest.raises(KeyboardInterrupt):
            run_toy(config, out, debug=True)
    assert getattr(module, unit) is whole and len(first) == 3
    again = calls_of(monkeypatch, module, unit)
    assert run_toy(config, out, debug=True)[0] == 0
    assert set(first) & set(again) == set() and len(first) + len(again) >= 4
    assert made(out) == made(undisturbed)
    assert not any((out / "phases").glob("counts/*")) and not any((out / "phases").glob("encoded/*"))


def test_the_names_of_kept_units_are_known_to_the_cleaning() -> None:
    assert {tokenizer_section.COUNTS, pack_section.ENCODED} == sections.KEPT
