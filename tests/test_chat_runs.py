"""Chat, preference and prompt data in whole runs: the sample, other shapes, and `stages apply`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import resolve
from pipeline.run import Options, run
from pipeline.yamlfile import ConfigError, Located
from tests.support import ROOT, pipeline, tree

SAMPLE = ROOT / "data" / "sample" / "chat"
U, A = (lambda text: {"role": "user", "content": text}), (lambda text: {"role": "assistant", "content": text})


def config(**sections: Any) -> Any:
    return resolve(Located({"name": "talk", "engine": {"executor": "inline"}, **sections}, "test", {}))


def input_of(path: Path, **more: Any) -> dict[str, Any]:
    return {"source": path.stem, "format": "jsonl", "paths": [str(path)], "kind": "chat", **more}


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


@pytest.fixture(scope="module")
def sample_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chat") / "run"
    done = pipeline("run", "configs/conversations.yaml", "--executor", "inline", "--output", folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_row_of_the_sample_ends_as_it_says(sample_run: Path) -> None:
    expected = {}
    for path in SAMPLE.glob("*.jsonl"):
        for number, line in enumerate(path.read_text().splitlines()):
            try:
                expected[path.name, number] = json.loads(line)["expect"]
            except ValueError:
                expected[path.name, number] = "read:bad_row"
    ledger = rows_of(sample_run / "ledger")
    found = {
        (row["file"], row["offset"]): "kept" if row["fate"] == "kept" else f"{row['stage']}:{row['rule']}"
        for row in ledger
    }
    assert found == expected
    fixed = {row["detail"] for row in ledger if row["fate"] == "kept"}
    assert {"control_characters, trimmed", "end_tokens", "merged", "system_first", "roles_mapped"} <= fixed


def test_sample_in_its_folders(sample_run: Path) -> None:
    chat, preferences, prompts = (rows_of(sample_run / name) for name in ("chat", "preferences", "prompts"))
    assert list(chat[0])[:3] == ["id", "source", "messages"]
    assert list(preferences[0])[:5] == ["id", "source", "prompt", "chosen", "rejected"]
    assert list(prompts[0])[:5] == ["id", "source", "prompt", "answer", "verifier"]
    assert rows_of(sample_run / "documents") == []
    ledger = {row["id"]: row for row in rows_of(sample_run / "ledger")}
    together = [*chat, *preferences, *prompts]
    assert {row["id"] for row in together} == {id_ for id_, row in ledger.items() if row["fate"] == "kept"}
    assert {row["source"] for row in chat} == {"alpaca", "sharegpt", "messages"}
    assert "text" not in chat[0] and chat[0]["language"] == "en" and chat[0]["chat_turns"] == 2
    assert all(set(row["messages"][0]) == {"role", "content"} for row in chat)
    assert "example.com" not in json.dumps(chat) and "<EMAIL" in json.dumps(chat).upper()
    tags = {tag for row in chat for tag in row["chat_tags"]}
    assert {
        "truncated",
        "refusal",
        "disclaimer",
        "injection",
        "unsafe_request",
        "repeated_answer",
        "role_spoof",
    } == tags
    assert {row["verifier"] for row in prompts} == {"number", "integer", "python_tests"}
    assert '[{"input": 2, "output": 4}]' in {row["answer"] for row in prompts}
    report = (sample_run / "report.html").read_text(encoding="utf-8")
    assert f"chat/: {len(chat)}" in report and "repeated_answer 1" in report and "python_tests 1" in report
    samples = rows_of(sample_run / "samples")
    assert any(row["text"].startswith("[user]\n") for row in samples if row["stage"] == "chat")


def test_run_again_and_in_small_shards(sample_run: Path, tmp_path: Path) -> None:
    before = tree(sample_run, "chat", "preferences", "prompts", "ledger")
    again = pipeline("run", "configs/conversations.yaml", "--executor", "inline", "--output", sample_run)
    assert (
        "everything is done already" in again.stderr
        and tree(sample_run, "chat", "preferences", "prompts", "ledger") == before
    )
    small = pipeline(
        "run", "configs/conversations.yaml", "--executor", "ray", "--workers", "2", "--output", tmp_path / "run",
        "--set", "engine.shard_bytes=8kB", "--set", "name=chat", timeout=900,
    )  # fmt: skip
    assert small.returncode == 0, small.stderr
    assert len(list((tmp_path / "run" / "chat").glob("*.parquet"))) > 2
    for name in ("chat", "preferences", "prompts"):
        one, many = (sorted(rows_of(run / name), key=lambda row: row["id"]) for run in (sample_run, tmp_path / "run"))
        assert one == many


def test_text_beside_chat_and_a_kind_that_goes(tmp_path: Path) -> None:
    talk, text = tmp_path / "talk.jsonl", tmp_path / "text.jsonl"
    talk.write_text(json.dumps({"messages": [U("Mail me at jan@example.com, please."), A("I will.")]}) + "\n")
    text.write_text(json.dumps({"text": "Write to jan@example.com."}) + "\n")
    both = [input_of(talk), input_of(text, kind="text")]
    made = config(input=both, stages=["chat", {"normalize": {"only": {"source": ["text"]}}}, "pii"])
    said: list[str] = []
    assert run(made, Options(str(tmp_path / "run")), said.append) == 0
    (chat,), (document,) = rows_of(tmp_path / "run/chat"), rows_of(tmp_path / "run/documents")
    assert "jan@" not in json.dumps(chat) + json.dumps(document, default=str)
    assert "chat_tags" not in document and document["text"].startswith("Write to")
    ledger = rows_of(tmp_path / "run/ledger")
    assert [row["fate"] for row in ledger] == ["kept", "kept"]
    alone = config(input=[input_of(text, kind="text")], stages=["pii"])
    assert run(alone, Options(str(tmp_path / "run")), said.append) == 0
    assert not (tmp_path / "run/chat").exists() and len(rows_of(tmp_path / "run/documents")) == 1


def test_parquet_with_nested_columns(tmp_path: Path) -> None:
    table = pa.table(
        {"conversations": pa.array([[{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], None, []])}
    )
    pq.write_table(table, tmp_path / "talk.parquet")
    made = config(
        input=[input_of(tmp_path / "talk.parquet", format="parquet")],
        stages=["chat"],
        engine={"executor": "inline", "max_failed": 1},
    )
    assert run(made, Options(str(tmp_path / "run")), lambda line: None) == 0
    (row,) = rows_of(tmp_path / "run/chat")
    assert row["messages"] == [U("a"), A("b")]
    fates = [(row["fate"], row["rule"]) for row in rows_of(tmp_path / "run/ledger")]
    assert fates == [("kept", None), ("failed", "bad_row"), ("dropped", "no_conversation")]
    pq.write_table(pa.table({"other": ["x"]}), tmp_path / "odd.parquet")
    with pytest.raises(ConfigError, match=r"no column of chat data; it has other"):
        run(config(input=input_of(tmp_path / "odd.parquet", format="parquet")), Options(str(tmp_path / "r2")), print)


@pytest.mark.parametrize(
    ("sections", "why"),
    [
        ({"stages": ["normalize"]}, "normalize writes a new `text`.*only renders"),
        ({"stages": ["chat"], "input": {"kind": "text"}}, "chat needs `messages`, which only inputs of another kind"),
        ({"input": {"format": "warc"}}, "chat rows come as jsonl or parquet, not as warc"),
        ({"input": {"kind": "text", "verifier": "x"}}, "input.verifier: is for conversations"),
        ({"input": {"kind": "talk"}}, "kind"),
        ({"tokenizer": {}}, "`tokenizer` learns from documents/"),
    ],
)
def test_what_cannot_be_is_said_before_the_run(tmp_path: Path, sections: dict[str, Any], why: str) -> None:
    entry = {**input_of(tmp_path / "a.jsonl"), **sections.pop("input", {})}
    with pytest.raises(ConfigError, match=why):
        config(input=entry, **sections)


def test_apply_reads_any_shape(tmp_path: Path) -> None:
    lines = [
        {"instruction": "Hi", "output": "Hello<|im_end|>"},
        {"instruction": "Hi"},
        {"conversations": [{"from": "gpt", "value": "x"}]},
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = pipeline("apply", "chat", tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["verdict"] for row in rows] == ["keep", "chat:no_conversation", "chat:order"]
    assert rows[0]["messages"] == [U("Hi"), A("Hello")] and rows[0]["fixed"] == "end_tokens"
    done = pipeline("apply", "dedup.exact", tmp_path / "in.jsonl", tmp_path / "out.jsonl", "--set", "compare=prompt")
    assert done.returncode == 2 and "compare: prompt is for conversations" in done.stderr


def test_nested_strings_that_are_no_utf8_fail_alone(tmp_path: Path) -> None:
    good, bad = b"fine", b"\xff\xfe"
    contents = pa.array([good, bad, good, good], pa.binary())
    as_text = pa.Array.from_buffers(pa.string(), 4, contents.buffers())
    roles = pa.array(["user", "assistant"] * 2)
    turns = pa.StructArray.from_arrays([roles, as_text], ["role", "content"])
    table = pa.table({"messages": pa.ListArray.from_arrays(pa.array([0, 2, 4], pa.int32()), turns)})
    pq.write_table(table, tmp_path / "talk.parquet")
    made = config(
        input=input_of(tmp_path / "talk.parquet", format="parquet"), engine={"executor": "inline", "max_failed": 1}
    )
    assert run(made, Options(str(tmp_path / "run")), lambda line: None) == 0
    ledger = rows_of(tmp_path / "run/ledger")
    assert [(row["fate"], row["detail"]) for row in ledger] == [("failed", "not UTF-8"), ("kept", None)]
    assert rows_of(tmp_path / "run/chat")[0]["messages"] == [U("fine"), A("fine")]
