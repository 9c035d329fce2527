# ruff: noqa: F811  # fixtures by their names
"""Likelihoods, tasks and generation against lm-evaluation-harness on the same folder; the rest against plain arithmetic."""

import gzip
import json
import math
import os
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

os.environ["HF_DATASETS_OFFLINE"] = os.environ["HF_HUB_OFFLINE"] = "1"

from lm_eval.api.instance import Instance
from lm_eval.api.metrics import bits_per_byte, weighted_perplexity
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from tests.evaluation_common import CPU, choices_file, folders, loaded, long_texts, model_dir, theirs  # noqa: F401
from tests.training_common import SMALL, make, texts
from tokenizer_training.dataset.read import TokenDataset
from training import cli
from training.config import resolve as pretrain_config
from training.evaluation.config import resolve
from training.evaluation.evaluate import evaluate
from training.evaluation.harness_model import GristmillLM
from training.evaluation.perplexity import perplexity
from training.evaluation.texts import Document, count_words, file_documents, split_documents
from training.evaluation.windows import rolling_windows
from training.knobs import TrainingError
from training.pretrain import pretrain
from training.vocabulary import token_bytes


def request(*arguments) -> Instance:
    return Instance(request_type="loglikelihood", doc={}, arguments=arguments, idx=0)


@pytest.mark.parametrize("count", [1, 4, 5, 9, 40, 41])
@pytest.mark.parametrize(("context", "stride"), [(4, 4), (4, 1), (10, 3), (1, 1), (64, 64)])
def test_windows_are_those_of_the_harness(count, context, stride):
    tokens = list(range(100, 100 + count))
    ours = [(list(one.context), list(one.continuation)) for one in rolling_windows(tokens, 7, context, stride)]
    windows = get_rolling_token_windows(tokens, 7, context, context - stride + 1)
    assert ours == [make_disjoint_window(window) for window in windows]
    assert [token for _, part in ours for token in part] == tokens and list(rolling_windows([], 7, 4, 4)) == []


def test_perplexity_is_that_of_the_harness(loaded, theirs):
    """Sums to 1e-5 relative, and the three metrics to 1e-5, from its own class on the same folder."""
    model, tokenizer, end = loaded
    corpus = long_texts()
    wanted = theirs.loglikelihood_rolling([request(text) for text in corpus], disable_tqdm=True)
    documents = [Document(tokenizer.encode(text).ids, len(text.encode()), count_words(text), {}) for text in corpus]
    assert max(len(document.tokens) for document in documents) > 3 * 64
    ours = perplexity(
        model, documents, end=end[0], lengths=None, context=64, stride=64, batch_tokens=300
    )  # fmt: skip
    pairs = [(ll, len(text.encode())) for ll, text in zip(wanted, corpus, strict=True)]
    words = [(ll, len(text.split())) for ll, text in zip(wanted, corpus, strict=True)]
    assert ours["nats"] == pytest.approx(-sum(wanted), rel=1e-6)
    assert ours["bits_per_byte"] == pytest.approx(bits_per_byte(pairs), abs=1e-5)
    assert ours["byte_perplexity"] == pytest.approx(weighted_perplexity(pairs), abs=1e-5)
    assert ours["word_perplexity"] == pytest.approx(weighted_perplexity(words), rel=1e-5)
    registered = GristmillLM(loaded=loaded).loglikelihood_rolling([request(text) for text in corpus])
    assert registered == pytest.approx(wanted, rel=1e-5)


def test_every_token_has_the_context_it_should_and_first_tokens_may_be_left_out(loaded):
    model, tokenizer, end = loaded
    ids = tokenizer.encode(" ".join(texts(30, seed=3)[:9])).ids[:90]
    lengths = np.arange(model.config.vocab_size) % 5 + 1
    document = Document(ids, int(lengths[ids].sum()), 3, {})
    run = lambda **changes: perplexity(  # noqa: E731
        model,
        [document],
        **{"end": end[0], "lengths": lengths, "context": 32, "stride": 1, "batch_tokens": 500, **changes},
    )

    def plain(row: list[int], since: int) -> float:
        """Each token from the 32 before it, one forward pass a token."""
        with torch.no_grad():
            return sum(
                -float(model(torch.tensor([row[max(0, at - 32) : at]]))[0, -1].log_softmax(-1)[row[at]])
                for at in range(since, len(row))
            )

    assert run()["nats"] == pytest.approx(plain([end[0], *ids], 1), rel=1e-5)
    skipped = run(end=None)
    assert skipped["nats"] == pytest.approx(plain(ids, 1), rel=1e-5)
    assert skipped["tokens"] == 89 and skipped["bytes"] == document.bytes - lengths[ids[0]]
    assert len({run(context=c, stride=s)["nats"] for c, s in ((32, 1), (32, 32), (16, 16), (64, 64))}) == 4
    free = lengths.copy()
    free[ids[5]] = 0  # a special token stands for no byte, and costs nothing
    at = [number for number, token in enumerate(ids) if token == ids[5]]
    assert run(lengths=free)["tokens"] == 90 - len(at) and run(lengths=free)["nats"] < run()["nats"]


def test_groups_and_errors_add_up(loaded):
    model, tokenizer, end = loaded
    corpus = texts(20, seed=5)
    documents = [
        Document(tokenizer.encode(text).ids, len(text.encode()), 1, {"source": "ab"[i % 2], "language": "xyz"[i % 3]})
        for i, text in enumerate(corpus)
    ]
    documents.insert(3, Document([], 0, 1, {"source": "a"}))
    found = perplexity(model, documents, end=end[0], lengths=None, context=64, stride=64, batch_tokens=999)
    assert found["documents"] == 20 and found["empty_documents"] == 1
    for by in ("by_source", "by_language"):
        for key in ("documents", "tokens", "bytes", "nats"):
            assert sum(group[key] for group in found[by].values()) == pytest.approx(found[key])
    single = [
        perplexity(model, [d], end=end[0], lengths=None, context=64, stride=64, batch_tokens=99) for d in documents
    ]
    nats, size = (np.array([one[key] for one in single if one["documents"]]) for key in ("nats", "bytes"))
    ratio = nats.sum() / size.sum()
    error = math.sqrt(((nats - ratio * size) ** 2).sum() * 20 / 19) / size.sum() / math.log(2)
    assert found["bits_per_byte_stderr"] == pytest.approx(error, rel=1e-6)
    none = perplexity(model, [], end=end[0], lengths=None, context=64, stride=64, batch_tokens=99)
    assert none["bits_per_byte"] is None and none["documents"] == 0

    tokenizer = loaded[1]


def test_a_split_is_its_texts(folders, loaded):
    tokenizer = loaded[1]
    data = TokenDataset(folders[0])
    lengths = token_bytes(folders[1], data.vocab_size)
    found = list(
        split_documents(data, "validation", tokenizer, lengths, lambda name: {"validation0001": "de"}.get(name))
    )
    corpus = texts(12, seed=1)
    assert [document.bytes for document in found] == [len(text.encode()) for text in corpus]
    assert [document.words for document in found] == [len(text.split()) for text in corpus]
    assert [document.tokens for document in found] == [tokenizer.encode(text).ids for text in corpus]
    assert found[1].groups == {"source": "test", "language": "de"} and found[0].groups == {"source": "test"}
    with pytest.raises(TrainingError, match="no split 'test'"):
        next(split_documents(data, "test", tokenizer, lengths, lambda name: None))


def test_files_of_every_kind_are_read(tmp_path, loaded):
    tokenizer = loaded[1]
    corpus = texts(6, seed=2)
    rows = [{"text": text, "source": "s", "language": "de"} for text in corpus]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        file.write("".join(json.dumps({"body": row["text"]}) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "c.parquet")
    (tmp_path / "d").mkdir()
    for number, text in enumerate(corpus):
        (tmp_path / "d" / f"{number}.txt").write_text(text)
    read = lambda path, field="text": list(file_documents(str(tmp_path / path), field, tokenizer))  # noqa: E731
    first = read("a.jsonl")
    assert first == read("c.parquet") and first[0].groups == {"source": "s", "language": "de"}
    for path, field in (("b.jsonl.gz", "body"), ("d", "text"), ("d/*.txt", "text")):
        assert [document.tokens for document in read(path, field)] == [document.tokens for document in first]
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{"text": 3}\n')
    (tmp_path / "worse.jsonl").write_text('{"text": "a"\n')
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    for path, words in (
        ("bad.jsonl", r"bad.jsonl:2: 'text' is a int"),
        ("worse.jsonl", "worse.jsonl:1: not JSON"),
        ("broken.parquet", "cannot read"),
        ("none*", "no such file"),
    ):
        with pytest.raises(TrainingError, match=words):
            read(path)
    with pytest.raises(TrainingError, match=r"missing \(there are body\)"):
        read("b.jsonl.gz")


# Whole evaluations


def test_command_line_compares_models_and_writes_the_same_bytes_each_time(
    folders, model_dir, choices_file, tmp_path, capsys
):
    other = tmp_path / "other"
    config = pretrain_config({**SMALL, "threads": 1, "steps": 2})
    pretrain(config, *folders, other, log=lambda line: None)
    arguments = ["evaluate", model_dir, other, "--tokens", folders[0], "--output", tmp_path / "e.json"]
    arguments += ["--set", f"tasks=['{choices_file}']", "--set", "prompts=['the mill']", "--set", "threads=1"]
    assert cli.main([str(argument) for argument in arguments]) == 0
    said = capsys.readouterr().out
    first = (tmp_path / "e.json").read_bytes()
    found = json.loads(first)
    assert list(found["models"]) == ["model", "other"]
    ours, theirs_ = (found["models"][name]["perplexity"]["validation"] for name in ("model", "other"))
    assert ours["bits_per_byte"] < theirs_["bits_per_byte"] and f"{ours['bits_per_byte']:.4f}" in said
    assert found["models"]["model"]["core"] == found["models"]["model"]["tasks"]["mill"]["centred"]
    assert "model: [the mill]" in said and "mill: accuracy" in said
    assert cli.main([str(argument) for argument in arguments]) == 0
    assert (tmp_path / "e.json").read_bytes() == first
    summary = json.loads((model_dir / "training.json").read_text())
    skipped = evaluate([model_dir], resolve({"first_token": "skipped", "memorisation": False}), tokens=folders[0])
    # the trainer's own figure, of rows that cut some documents in two, is close
    near = skipped["models"]["model"]["perplexity"]["validation"]["bits_per_byte"]
    assert near == pytest.approx(summary["bits_per_byte"], rel=0.1)


def test_a_knob_changes_what_it_says(folders, model_dir, choices_file):
    base = {"memorisation": False, "prompts": ["der"], "sample_tokens": 6, "tasks": [str(choices_file)], "threads": 1}
    run = lambda **changes: evaluate([model_dir], resolve({**base, **changes}), tokens=folders[0])["models"]["model"]  # noqa: E731
    plain = run()
    for changes, part in (
        ({"documents": 3}, "perplexity"),
        ({"perplexity": ["train"]}, "perplexity"),
        ({"context": 16}, "perplexity"),
        ({"stride": 8}, "perplexity"),
        ({"first_token": "skipped"}, "perplexity"),
        ({"items": 2}, "tasks"),
        ({"tasks": [{"path": str(choices_file), "delimiter": "\n"}]}, "tasks"),
        ({"tasks": [{"path": str(choices_file), "chance": 0.1}]}, "tasks"),
        ({"tasks": [{"path": str(choices_file), "name": "n"}]}, "tasks"),
        ({"prompts": ["la"]}, "samples"),
        ({"sample_tokens": 2}, "samples"),
        ({"temperature": 3.0}, "samples"),
        ({"temperature": 3.0, "seed": 1}, "samples"),
        ({"dtype": "bfloat16"}, "perplexity"),
        ({"memorisation": True}, "memorisation"),
    ):
        changed = run(**changes)
        assert changed[part] != plain[part], changes
    assert run(temperature=3.0, seed=1)["samples"] != run(temperature=3.0)["samples"]
    free = {"path": str(choices_file), "unconditional": "Answer:"}
    alone = [model["tasks"]["mill"] for model in (run(tasks=[free]), plain)]
    assert alone[0].keys() == alone[1].keys()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["context=100"], "more than the context of"),
        (["stride=65"], "more than a window of"),
        (["context=8", "stride=9"], "stride must not be above context"),
        (["perplexty=[x]"], "did you mean 'perplexity'"),
        (["perplexity=[/no/such.txt]"], "/no/such.txt"),
        (["tasks=[/no/such.jsonl]"], "/no/such.jsonl"),
        (["tasks=[{path: a, shotz: 1}]"], "did you mean 'shots'"),
        (["canaries=/no/such.jsonl"], "/no/such.jsonl"),
        (["prompts=['']"], "'' has 0 tokens"),
        (["harness=[no_such_task_anywhere.yaml]"], "no_such_task_anywhere.yaml"),
        (["memorisation_prefixes=[0]"], "from 1"),
        (["documents"], "KEY=VALUE"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(settings, words, model_dir, folders, tmp_path, capsys):
    arguments = ["evaluate", str(model_dir), "--tokens", str(folders[0]), "--output", str(tmp_path / "e.json")]
    assert cli.main([*arguments, *(part for one in settings for part in ("--set", one))]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("error: ") and words in said
    assert not (tmp_path / "e.json").exists()


def test_models_and_data_that_do_not_belong_together_are_refused(model_dir, folders, tmp_path, capsys):
    assert cli.main(["evaluate", str(model_dir), str(model_dir), "--output", str(tmp_path / "e.json")]) == 2
    assert "given twice" in capsys.readouterr().err
    assert cli.main(["evaluate", str(model_dir), str(folders[0])]) == 2
    assert "--output FILE is needed" in capsys.readouterr().err
    assert cli.main(["evaluate", str(model_dir), "--tokens", "/no/such"]) == 2
    assert "/no/such" in capsys.readouterr().err
    other = make(tmp_path / "other", documents=30)[0]
    assert cli.main(["evaluate", str(model_dir), "--tokens", str(other)]) == 2
    assert "another tokenizer" in capsys.readouterr().err


def test_documents_must_be_there_and_readable(model_dir, folders, tmp_path, capsys):
    """Also where no split of the dataset would ask for them."""
    (tmp_path / "part-0.parquet").write_bytes(b"PAR1 broken")
    output = ["--output", str(tmp_path / "e")]
    for documents, words in ((tmp_path / "none", "has no *.parquet"), (tmp_path, "cannot read")):
        given = ["evaluate", str(model_dir), "--tokens", str(folders[0]), "--documents", str(documents), *output]
        assert cli.main(given) == 2
        said = capsys.readouterr().err
        assert str(documents) in said and words in said and said.count("\n") == 1
    assert cli.main(["evaluate", str(model_dir), "--documents", str(tmp_path), *output]) == 2
    assert "give --tokens too" in capsys.readouterr().err


def test_a_split_that_a_dataset_lacks_is_said(model_dir, folders, tmp_path):
    shutil.copytree(folders[0], tmp_path / "tokens")
    facts = json.loads((tmp_path / "tokens" / "dataset.json").read_text())
    del facts["splits"]["validation"]
    (tmp_path / "tokens" / "dataset.json").write_text(json.dumps(facts))
    quiet, said = resolve({"memorisation": False, "prompts": []}), []
    assert evaluate([model_dir], quiet, tokens=tmp_path / "tokens", say=said.append)
    assert len(said) == 1 and "tokens has no such split" in said[0]


@pytest.mark.parametrize("cut", [False, True])
def test_a_compressed_file_that_is_damaged_is_one_line(model_dir, tmp_path, capsys, cut):
    """In its middle, which zlib notices itself, or without its end."""
    rows = b"".join(b'{"text": "%d"}\n' % number for number in range(1500))
    packed = bytearray(gzip.compress(rows))
    packed[len(packed) // 2] ^= 0xFF
    file = tmp_path / "texts.jsonl.gz"
    file.write_bytes(packed[: len(packed) // 2] if cut else packed)
    for knob in (f"perplexity=[{file}]", f"tasks=[{file}]", f"questions=[{file}]"):
        assert cli.main(["evaluate", str(model_dir), "--set", knob, "--output", str(tmp_path / "e")]) == 2
        said = capsys.readouterr().err
        assert "texts.jsonl.gz" in said and "Traceback" not in said


def test_a_dataset_that_was_copied_in_part_is_one_line(model_dir, folders, tmp_path, capsys):
    shutil.copytree(folders[0], tmp_path / "cut")
    file = next(file for file in (tmp_path / "cut").glob("validation-*.bin"))
    file.write_bytes(file.read_bytes()[:-1])
    assert (
        cli.main(["evaluate", str(model_dir), "--tokens", str(tmp_path / "cut"), "--output", str(tmp_path / "e")]) == 2
    )
    said = capsys.readouterr().err
    assert f"{file.name} is " in said and "copy the dataset again" in said and "Traceback" not in said
