"""The page about a run and the model card: numbers, hostile text, unfinished runs, equal bytes, a real browser."""

import json
import re
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tests.browser import opened
from tests.training_common import SMALL
from tests.training_sources import make_sources
from tokenizer_training.dataset.read import TokenDataset
from training.card import MACHINE, card, count_columns
from training.cli import main
from training.config import resolve
from training.knobs import TrainingError
from training.pretrain import pretrain
from training.report.curves import POINTS, SAMPLES, read_metrics, read_samples
from training.report.view import page
from training.resume import Stopped

HOSTILE = "<script>document.title='owned'</script>{{ 7*7 }}\u202eabc"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(model folder, summary, the folder above with tokens and documents) of a run of three sources."""
    above = tmp_path_factory.mktemp("report")
    tokens, tokenizer, documents = make_sources(above)
    config = resolve({**SMALL, "threads": 1, "eval_every": 2, "sample_prompts": ["the", HOSTILE]})
    return above / "model", pretrain(config, tokens, tokenizer, above / "model", documents, log=print), above


def test_curves_are_thinned_and_smoothed(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with path.open("w") as lines:
        for step in range(1, 5001):
            lines.write(json.dumps({"step": step, "loss": 3.0 if step < 5000 else 9.0, "grad_norm": step}) + "\n")
        lines.write('{"step": 5000, "validation_loss": 2.5, "bits_per_byte": null}\n')
        lines.write(
            '{"step": 4, "event": "rollback", "why": "w", "position": 3}\n[1]\n{"step": "x"}\n{"step": 5001, "lo'
        )
    found = read_metrics(path)
    points = found.points("loss")
    assert POINTS <= len(points) <= 2 * POINTS + 1 and points[0] == (1, 3.0)
    assert found.points("grad_norm")[10][0] == found.points("grad_norm")[10][1]
    assert found.points("smooth")[0] == (1, pytest.approx(3.0)) and found.points("smooth")[-1][1] < 3.3
    assert found.points("validation_loss") == [(5000.0, 2.5)] and found.points("bits_per_byte") == []
    assert found.validation["step"] == found.last["step"] == 5000 and found.rollbacks[0]["why"] == "w"
    with (tmp_path / "samples.jsonl").open("w") as lines:
        for step in range(1, 101):
            lines.write(json.dumps({"step": step, "samples": [{"prompt": "p", "text": f"t{step}"}]}) + "\n")
    texts = read_samples(tmp_path / "samples.jsonl")[0]["texts"]
    assert len(texts) == SAMPLES and texts[0] == (100, "t100") and texts[-1] == (1, "t1")


def test_the_page_has_the_numbers_of_the_run(trained):
    model, summary, _ = trained
    text = page(model)
    assert f"{summary['bits_per_byte']:.3f}" in text and f"{summary['parameters']:,}" in text
    for name, part in [*summary["by_source"].items(), *summary["by_language"].items()]:
        cells = f'<td class="n">{part["targets"]:,}</td>'
        assert cells in text and f"{part['bits_per_byte']:.4g}" in text
        assert name.replace("<", "&lt;").replace(">", "&gt;") in text
    assert text.count("<svg") == 6 and "<script>" not in text and "{{ 7*7 }}" in text and "\u202e" not in text
    assert summary["lineage"]["tokenizer_sha256"][:16] in text
    assert "After step 8" in text and "3 earlier" in text


def test_the_command_writes_pages_of_finished_unfinished_and_no_runs(trained, tmp_path, capsys):
    model, _, above = trained
    assert main(["report", str(model), "--output", str(tmp_path / "sub" / "page.html")]) == 0
    assert (tmp_path / "sub" / "page.html").read_text() == page(model)
    config = resolve({**SMALL, "threads": 1, "sample_prompts": []})
    asked = iter([False, True])
    with pytest.raises(Stopped):
        pretrain(config, above / "tokens", above / "tokenizer", tmp_path / "m", log=print, stop=lambda: next(asked))
    text = page(tmp_path / "m")
    assert "has not finished" in text and "tokens trained on" in text and "learning rate" in text.lower()
    assert main(["report", str(tmp_path / "nothing"), "--output", str(tmp_path / "no.html")]) == 2
    assert "nothing was trained there" in capsys.readouterr().err and not (tmp_path / "no.html").exists()


def test_the_page_needs_no_torch(trained):
    code = f"import sys; from pathlib import Path; from training.report.view import page; page(Path({str(trained[0])!r})); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser(trained, tmp_path, scheme):
    file = tmp_path / "page.html"
    file.write_text(page(trained[0]), encoding="utf-8")
    with opened(file, color_scheme=scheme, viewport={"width": 1200, "height": 900}) as (shown, messages, requests):
        assert shown.title().startswith("model") and messages == [] and len(requests) == 1
        charts = shown.locator("figure svg.chart")
        assert charts.count() == 6 and all(chart.is_visible() for chart in charts.all())
        dark = shown.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(17, 21, 28)"
        assert dark == (scheme == "dark")
        bars = shown.locator("td.bar-cell i").all()
        assert max(bar.bounding_box()["width"] for bar in bars) > 50
        for width in (1200, 400):
            shown.set_viewport_size({"width": width, "height": 900})
            assert shown.evaluate("document.documentElement.scrollWidth") <= width


def test_the_card_says_data_config_metrics_and_lineage(trained):
    model, summary, above = trained
    text = (model / "README.md").read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["pipeline_tag"] == "text-generation" and front["language"] == ["en", "de"]
    tokens = TokenDataset(above / "tokens")
    assert f"| train | {tokens.documents('train'):,} | {tokens.tokens('train'):,} | {tokens.bytes('train'):,} |" in text
    assert "| CC-BY-4.0 | 66 |" in text and "| not stated | 66 |" in text
    assert f"| all | {summary['validation_loss']:.4g} | {summary['bits_per_byte']:.4g} |" in text
    assert r"source \<b\>odd\</b\>" in text and "<b>" not in text
    assert summary["lineage"]["tokenizer_sha256"] in text and summary["fingerprint"] in text
    assert "| learning_rate | 0.004 |" in text.replace("\\", "")
    lines = text.splitlines()
    hostile = next(at for at, line in enumerate(lines) if "<script>" in line)
    assert lines[hostile - 1] == lines[hostile + 1] and set(lines[hostile - 1]) == {"`"}


def test_a_column_that_is_no_text_is_not_counted(tmp_path):
    table = pa.table({"id": ["a"], "language": ["en"], "licence": [["CC-BY-4.0"]]})
    pq.write_table(table, tmp_path / "part-0.parquet")
    assert count_columns(tmp_path) == {"language": {"en": 1}}
    (tmp_path / "part-1.parquet").write_bytes(b"PAR1")
    with pytest.raises(TrainingError, match=r"cannot read .*part-1\.parquet"):
        count_columns(tmp_path)


def test_equal_runs_give_equal_cards_but_for_the_machine(trained, tmp_path):
    model, summary, above = trained
    again = {**summary, **{key: 7 for key in MACHINE}, "seconds": 1.0, "first_step_seconds": 3.0, "save_seconds": 9.0}
    counted = count_columns(above / "documents")
    texts = [card("model", one, TokenDataset(above / "tokens"), counted) for one in (summary, again)]
    assert texts[0] == (model / "README.md").read_text()
    parts = [re.split(r"(?m)^## Measured", text) for text in texts]
    assert parts[0][0] == parts[1][0] and parts[0][1] != parts[1][1]
    assert "licences of the texts are not known" in card("m", summary, TokenDataset(above / "tokens"), {})
