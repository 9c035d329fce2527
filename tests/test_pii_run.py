"""No raw value in what a run shows: a whole run over planted values of every entity, searched byte by byte and row by row."""

import json
from pathlib import Path
from urllib.parse import quote

import pyarrow.parquet as pq
import pytest

from tests.support import pipeline, write_config
from tests.test_pii_recognise import VALUES

CANARIES = [(entity, cue, value) for entity, some in VALUES.items() for cue, value in some[:1]]
IN_URLS = {  # what a URL can hold as it is, by the parameter's name
    "EMAIL_ADDRESS": ("q", "jane.doe@example.com"), "PHONE_NUMBER": ("n", "+12125550123"), "CREDIT_CARD": ("card", "4012888888881881"), "IBAN_CODE": ("x", "GB56HXDO88167774656119"),
    "US_SSN": ("ssn", "460-89-9847"), "CRYPTO": ("to", "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa"), "API_KEY": ("x", "AKIAIOSFODNN7QRSTUVW"), "PASSWORD": ("password", "hunter2!x"),
    "JWT": ("x", "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"), "IT_FISCAL_CODE": ("cf", "RSSMRA15H04H661N"),
    "BR_CPF": ("cpf", "360.848.529-55"), "CN_RESIDENT_ID": ("id", "110108197810169224"), "ES_NIE": ("nie", "Y2761125N"), "PL_PESEL": ("pesel", "02021235690"),
}  # fmt: skip
SHOWN = ("ledger", "samples", "journal", "documents")


def everything_shown(run: Path) -> str:
    """All that a run shows: every cell of its tables, and every other file as text; phases/ and scores/ are personal data by contract."""
    parts = []
    for path in sorted(run.rglob("*")):
        folder = path.relative_to(run).parts[0]
        if not path.is_file() or folder in ("phases", "scores", "tmp"):
            continue
        if path.suffix == ".parquet":
            parts += [json.dumps(row, ensure_ascii=False, default=str) for row in pq.read_table(path).to_pylist()]
        else:
            parts.append(path.read_bytes().decode("utf-8", "replace"))
    return "\n".join(parts)


@pytest.mark.parametrize("policy", ["replace", "pseudonym", "drop"])
def test_planted_values_do_not_reach_what_a_run_shows(tmp_path: Path, policy: str) -> None:
    rows = []
    for number, (entity, cue, value) in enumerate(CANARIES):
        rows.append(
            {
                "id": f"t{number}",
                "url": f"https://example.org/page/{number}",
                "text": f"A page about {entity.lower()}.\n{cue}{value}\nThat was page {number}.",
            }
        )
    for number, (name, value) in enumerate(IN_URLS.values()):
        for form in (value, quote(value, safe="+@!:.")):
            rows.append(
                {
                    "id": f"u{number}{form == value}",
                    "url": f"https://example.org/find?lang=en&{name}={form}",
                    "text": f"Nothing to see on page {number} of this site. {form == value}",
                }
            )
    rows.append(
        {"id": "all", "url": "https://example.org/all", "text": "\n".join(cue + value for _, cue, value in CANARIES)}
    )
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = write_config(
        tmp_path / "c.yaml",
        name="canary",
        input={"source": "web", "format": "jsonl", "paths": [str(source)]},
        stages=[{"pii": {"policy": policy, **({"max_spans": 0} if policy == "drop" else {})}}, {"quality.gopher": {}}],
        engine={"executor": "inline"},
    )
    run = tmp_path / "run"
    secret = "a-key-that-nobody-may-see-5561"
    done = pipeline("run", config, "--output", run, env={"GRISTMILL_PII_KEY": secret})
    assert done.returncode == 0, done.stderr
    shown = everything_shown(run) + done.stdout + done.stderr
    assert "samples" in {path.name for path in run.iterdir()} and (run / "report.html").is_file()
    planted = [value for _, _, value in CANARIES] + [value for _, value in IN_URLS.values()] + [secret]
    assert [value for value in planted if value in shown or json.dumps(value)[1:-1] in shown] == []
    # The values were really looked at, and what was found is in the samples as placeholders.
    samples = "".join(
        str(row["text"]) for path in (run / "samples").glob("*.parquet") for row in pq.read_table(path).to_pylist()
    )
    assert "<EMAIL_ADDRESS>" in samples and "That was page" in samples


def test_edits_in_some_batches_only_before_a_phase_that_is_stored(tmp_path: Path) -> None:
    texts = [f"page number {number} of many" + " jane.doe@example.com" * (number == 150) for number in range(200)]
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    config = write_config(
        tmp_path / "c.yaml",
        name="some",
        input={"source": "web", "format": "jsonl", "paths": [str(source)]},
        stages=["normalize", "pii", "dedup.exact"],
        engine={"executor": "inline"},
    )
    done = pipeline("run", config, "--output", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    rows = [
        row
        for path in sorted((tmp_path / "run/documents").glob("*.parquet"))
        for row in pq.read_table(path).to_pylist()
    ]
    assert len(rows) == 200 and "jane.doe" not in rows[150]["text"]
