"""Thresholds for a language by the share that the reference loses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pipeline.calibrate import calibrate, threshold_like
from pipeline.yamlfile import ConfigError
from tests.support import pipeline, write_config


def test_the_same_share_is_cut() -> None:
    reference, values = np.arange(1000.0), np.arange(1000.0) * 2
    found, share, before, after = threshold_like(values, reference, 949.0, "max")
    assert (share, before) == (0.05, pytest.approx(0.525)) and found == pytest.approx(1898, abs=2)
    assert after == pytest.approx(0.05, abs=0.002)
    found, share, before, after = threshold_like(values, reference, 100.0, "min")
    assert (share, before, found, after) == (0.1, 0.05, pytest.approx(200, abs=2), pytest.approx(0.1, abs=0.002))


def test_nulls_do_not_count_and_ties_are_not_cut() -> None:
    values = np.array([1.0] * 99 + [np.nan] * 50 + [2.0])
    found, share, _, after = threshold_like(values, np.array([0.0] * 90 + [1.0] * 10), 0.5, "max")
    assert share == 0.1 and found == 1.0 and after == 0.01
    assert threshold_like(values, values, 1.5, "max")[0] == 1.5  # the present one, where it is as good


def fake_run(folder: Path) -> Path:
    ids = [f"{number:032x}" for number in range(1000)]
    labels = ["en" if number % 2 else "fi" for number in range(1000)]
    lengths = [float(number % 100) / 10 + (0 if number % 2 else 2) for number in range(1000)]
    for stage, columns in {
        "language": {"language": labels},
        "quality.gopher": {"quality_gopher_mean_word_length": lengths},
    }.items():
        (folder / "scores" / stage).mkdir(parents=True)
        for part, rows in enumerate((slice(0, 400), slice(400, 1000))):
            table = pa.table({"id": ids[rows], **{name: values[rows] for name, values in columns.items()}})
            pq.write_table(table, folder / "scores" / stage / f"part-{part:05}.parquet")
    limit = {"column": "quality_gopher_mean_word_length", "rule": "max_mean_word_length", "threshold": 8.0}
    stages = [{"stage": "language", "limits": []}, {"stage": "quality.gopher", "limits": [limit]}]
    (folder / "run.json").write_text(json.dumps({"stages": stages}))
    return folder


def test_a_run_gives_yaml_for_a_config(tmp_path: Path) -> None:
    found = yaml.safe_load(calibrate(fake_run(tmp_path), "fi"))
    assert found == [
        {"quality.gopher": {"by_language": {"fi": {"max_mean_word_length": pytest.approx(9.9, abs=0.15)}}}}
    ]
    assert "nothing to change" in calibrate(tmp_path, "en")


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no scores/language"):
        calibrate(tmp_path, "fi")
    run = fake_run(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"scores of 0 documents labelled 'sv'.*enough of"):
        calibrate(run, "sv")
    with pytest.raises(ConfigError, match="needs 600"):
        calibrate(run, "fi", least=600)


def test_the_command_on_a_real_run(tmp_path: Path) -> None:
    rows = [
        {"text": f"Tämä on suomenkielinen lause numero {n}, ja siinä on monta sanaa" + " tänään" * (n % 2) + "."}
        for n in range(30)
    ]
    rows += [
        {"text": f"This is an English sentence with number {n}, and it has a few words" + " today" * (n % 2) + "."}
        for n in range(30)
    ]
    source = tmp_path / "in.jsonl"
    source.write_text("\n".join(map(json.dumps, rows)))
    config = write_config(
        tmp_path / "c.yaml",
        name="c",
        input={"source": "s", "format": "jsonl", "paths": [str(source)]},
        stages=[{"language": {"min_score": 0}}, {"quality.gopher": {"mode": "tag", "min_words": 15}}],
        engine={"executor": "inline"},
    )
    assert pipeline("run", config, "--output", tmp_path / "run").returncode == 0
    done = pipeline("calibrate", tmp_path / "run", "fi", "--least", "20")
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout)[0]["quality.gopher"]["by_language"]["fi"]["min_words"] in (11, 12)
    wrong = pipeline("calibrate", tmp_path / "run", "xx")
    assert wrong.returncode == 2 and "labelled 'xx'" in wrong.stderr and "Traceback" not in wrong.stderr
