"""The pipeline's section `evaluate`: after pretraining, into run.json and the report, and again only for a reason."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import yaml

from pipeline import sections
from pipeline.config import read_config
from pipeline.report.write import write_report
from pipeline.run import prepare
from pipeline.yamlfile import ConfigError
from tests.toy_stages import run_toy
from tests.training_common import texts

TRAINING = {
    "layers": 1,
    "width": 32,
    "heads": 2,
    "kv_heads": 1,
    "mlp_width": 64,
    "steps": 3,
    "batch_rows": 2,
    "micro_batch_rows": 2,
    "threads": 1,
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    draw = random.Random(1)
    corpus = [f"{text} {draw.random()}" for text in texts(150)]
    (folder / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in corpus))
    items = [{"query": "the old mill", "choices": ["turns", "x y z"], "gold": 0}] * 3
    (folder / "mill.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    wanted = {
        "name": "measured",
        "input": {"source": "toy", "format": "jsonl", "paths": [str(folder / "a.jsonl")]},
        "tokenizer": {"vocab_size": 400},
        "pack": {"sequence_length": 64, "validation": 0.1},
        "pretrain": TRAINING,
        "evaluate": {"tasks": [str(folder / "mill.jsonl")], "prompts": ["the <mill>"], "threads": 1},
        "engine": {"executor": "inline"},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(wanted))
    return folder / "run.yaml"


def test_the_model_is_measured_and_only_again_for_a_reason(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run_toy(config, out, debug=True)[0] == 0
    found = json.loads((out / "evaluation" / "evaluation.json").read_text())["models"]["model"]
    facts = json.loads((out / "run.json").read_text())["sections"]["evaluate"]
    assert facts == {"models": {"model": {key: value for key, value in found.items() if key != "samples"}}}
    assert found["perplexity"]["validation"]["bits_per_byte"] > 0 and found["tasks"]["mill"]["items"] == 3
    assert list(found["perplexity"]["validation"]["by_source"]) == ["toy"] and found["memorisation"]["train"]
    page = write_report(out).read_text()
    assert "validation: bits per byte" in page and f"{found['perplexity']['validation']['bits_per_byte']:.4f}" in page
    assert "the &lt;mill&gt;" in page and "mill: accuracy" in page

    def parts(*overrides: str) -> dict[str, str] | None:
        settings = read_config(config, ["engine.executor=inline", *overrides])
        work = prepare(settings, str(out))
        return sections.components("evaluate", settings, work, work.store)

    same = parts()
    assert same is not None and parts("evaluate.batch_tokens=100") == same  # no figure depends on it
    assert parts("evaluate.prompts=[der]") != same
    items = config.parent / "mill.jsonl"
    items.write_text(items.read_text() + items.read_text().splitlines()[0] + "\n")
    assert parts() != same
    code, said = run_toy(config, out, debug=True)
    assert code == 0 and "pretrain: done already" in said and "evaluate: done already" not in said
    assert (
        json.loads((out / "run.json").read_text())["sections"]["evaluate"]["models"]["model"]["tasks"]["mill"]["items"]
        == 4
    )
    assert run_toy(config, out, "evaluate=null", debug=True)[0] == 0
    assert not (out / "evaluation").exists() and (out / "model" / "model.safetensors").exists()
    assert "Evaluation</h2>" not in write_report(out).read_text()


def test_mistakes_are_found_before_the_first_record(config: Path, tmp_path: Path) -> None:
    for override, words in (
        ("evaluate.tasks=[/no/such.jsonl]", "/no/such.jsonl"),
        ("evaluate.perplexity=[/no/such/*.txt]", "/no/such"),
        ("evaluate.canaries=/no/such.jsonl", "/no/such.jsonl"),
        ("evaluate.harness=[/no/such.yaml]", "/no/such.yaml"),
    ):
        with pytest.raises(ConfigError, match=words):
            prepare(read_config(config, [override]), str(tmp_path / "out"))
    with pytest.raises(ConfigError, match="`evaluate` needs a section that trains"):
        read_config(config, ["pretrain=null"])
    with pytest.raises(ConfigError, match="did you mean 'prompts'"):
        read_config(config, ["evaluate.promts=[a]"])
