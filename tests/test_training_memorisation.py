"""What a model gives back: against generation token by token, on a model that learnt its documents by heart; canaries."""

import json
import math
import random

import numpy as np
import pytest
import torch

from tests.training_common import SMALL, write_dataset, write_tokenizer
from tokenizer_training.dataset.read import TokenDataset
from training.checkpoint import load_model
from training.config import resolve as pretrain_config
from training.evaluation.canaries import exposure
from training.evaluation.canaries_file import Canary, read_canaries
from training.evaluation.memorisation import memorisation, passages
from training.inference.batch import generate_batch
from training.inference.sampling import Sampling
from training.knobs import TrainingError
from training.pretrain import pretrain
from training.vocabulary import load_tokenizer

CPU = torch.device("cpu")
DIGITS = "0123456789"


def document(draw: random.Random) -> str:
    """Nothing that could be guessed."""
    return " ".join("".join(draw.choices("abcdefgh", k=4)) for _ in range(12))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(dataset, model folder): ten documents stand twenty times in the data, ten once, and a canary twenty times."""
    root = tmp_path_factory.mktemp("memory")
    draw = random.Random(5)
    often, once, held_out = ([document(draw) for _ in range(10)] for _ in range(3))
    canary = "the code is 42"
    corpus = [*often * 20, *once, *[canary] * 20]
    order = list(range(len(corpus)))
    draw.shuffle(order)
    tokenizer = write_tokenizer(root / "tokenizer", [*corpus, DIGITS], vocab_size=300)
    splits = {"train": [corpus[i] for i in order], "validation": held_out}
    write_dataset(root / "tokens", tokenizer, splits, root / "tokenizer", 128)
    import pyarrow as pa
    import pyarrow.parquet as pq

    sidecar = pq.read_table(root / "tokens" / "train-00000.parquet")
    names = pa.array([f"d{corpus.index(corpus[i])}" for i in order])
    repeats = pa.array([corpus.count(corpus[i]) for i in order], pa.int32())
    sidecar = sidecar.set_column(0, "id", names).set_column(4, "repeat", repeats)
    pq.write_table(sidecar, root / "tokens" / "train-00000.parquet")
    config = {
        **SMALL,
        "width": 64,
        "mlp_width": 128,
        "threads": 1,
        "steps": 160,
        "batch_rows": 12,
        "micro_batch_rows": 12,
    }
    config |= {"learning_rate": 0.01, "save_every": 160, "eval_every": 160}
    pretrain(pretrain_config(config), root / "tokens", root / "tokenizer", root / "model", log=lambda line: None)
    return root


@pytest.fixture(scope="module")
def loaded(run):
    model, end = load_model(run / "model", CPU)
    return model, load_tokenizer(run / "model"), end


def test_repeated_documents_come_back_and_held_out_ones_do_not(run, loaded):
    data = TokenDataset(run / "tokens")
    settings = {"prefixes": [4, 12], "continuation": 12, "documents": 10, "batch_tokens": 500}
    found = memorisation(loaded[0], data, **settings)
    assert found["train"]["documents"] == 20 and found["held_out"]["documents"] == 10
    by_repeat = {repeat: part["by_prefix"] for repeat, part in found["by_repeat"].items()}
    assert sorted(by_repeat) == ["1", "20"]
    assert by_repeat["20"][1]["extracted"] > 0.7 > 0.3 > by_repeat["1"][1]["extracted"]
    assert all(part["extracted"] == 0 for part in found["held_out"]["by_prefix"])
    assert by_repeat["20"][1]["extracted"] >= by_repeat["20"][0]["extracted"]
    assert by_repeat["20"][1]["nats_per_token"] < found["held_out"]["by_prefix"][1]["nats_per_token"]
    mean = (by_repeat["20"][1]["extracted"] + by_repeat["1"][1]["extracted"]) / 2
    assert found["train"]["by_prefix"][1]["extracted"] == pytest.approx(mean)


def test_one_pass_says_what_generation_through_the_cache_gives(run, loaded):
    model = loaded[0]
    data = TokenDataset(run / "tokens")
    asked = [passage for part in passages(data, "train", 24, 10).values() for passage in part]
    assert len({passage.id for passage in asked}) == len(asked) == 20
    found = memorisation(model, data, prefixes=[12], continuation=12, documents=10, batch_tokens=500)["train"]
    greedy = Sampling(temperature=0, max_new_tokens=12)
    new = [one.tokens for one in generate_batch(model, [passage.tokens[:12] for passage in asked], greedy, [])]
    equal = [one == passage.tokens[12:] for one, passage in zip(new, asked, strict=True)]
    assert found["by_prefix"][0]["extracted"] == np.mean(equal)
    back = [
        next((at for at, (a, b) in enumerate(zip(one, p.tokens[12:], strict=True)) if a != b), 12)
        for one, p in zip(new, asked, strict=True)
    ]
    assert found["by_prefix"][0]["tokens_given_back"] == pytest.approx(np.mean(back))


def test_short_documents_and_missing_splits_are_no_figures(run, loaded):
    data = TokenDataset(run / "tokens")
    found = memorisation(loaded[0], data, prefixes=[60], continuation=60, documents=5, batch_tokens=500)
    assert found["train"] is None and found["held_out"] is None and found["by_repeat"] == {}
    assert passages(data, "test", 5, 5) == {}
    with pytest.raises(ValueError, match="do not fit"):
        memorisation(loaded[0], data, prefixes=[120], continuation=60, documents=5, batch_tokens=500)


def exposed(loaded, canaries, samples=4096, seed=0):
    model, tokenizer, end = loaded
    return exposure(model, tokenizer, canaries, end=end[0], samples=samples, seed=seed, batch_tokens=4000)


def test_exposure_of_a_canary_that_was_inserted(loaded):
    inserted, never = (Canary("the code is {}", secret, DIGITS, (), 20) for secret in ("42", "87"))
    found = exposed(loaded, [inserted, never])
    assert found[0]["exact"] and found[0]["space"] == 100 and found[0]["compared"] == 99
    assert found[0]["rank"] == 1 and found[0]["exposure"] == found[0]["highest"] == pytest.approx(math.log2(100))
    assert found[1]["rank"] > 1 and found[1]["exposure"] == pytest.approx(math.log2(100) - math.log2(found[1]["rank"]))
    named = Canary("the code is {}", "42", None, ("42", "13", "77", "90"), None)
    assert exposed(loaded, [named])[0]["rank"] == 1 and exposed(loaded, [named])[0]["exposure"] == 2


def test_a_sample_estimates_what_the_whole_space_says(loaded):
    """Ranks of several secrets: the estimate is near the exact one, and cannot go beyond what the sample can show."""
    canaries = [Canary("the code is {}", f"{number:02d}", DIGITS, (), None) for number in (42, 10, 33, 58, 71, 96)]
    exact, sampled = exposed(loaded, canaries), exposed(loaded, canaries, samples=60)
    assert not any(one["exact"] for one in sampled) and all(one["compared"] == 60 for one in sampled)
    for one, other in zip(exact, sampled, strict=True):
        assert (other["rank"] - 1) / 60 == pytest.approx((one["rank"] - 1) / 99, abs=0.2)
    assert sampled[0]["at_least"] and sampled[0]["exposure"] == pytest.approx(math.log2(61))
    assert exposed(loaded, canaries, samples=60) == sampled
    assert exposed(loaded, canaries, samples=60, seed=1) != sampled


def test_canaries_that_cannot_be_used_are_named(tmp_path):
    good = {"template": "the code is {}", "secret": "42", "alphabet": DIGITS, "repeat": 3, "text": "the code is 42"}
    path = tmp_path / "c.jsonl"
    path.write_text(json.dumps(good))
    assert read_canaries(path) == [Canary("the code is {}", "42", DIGITS, (), 3)]
    for change, words in (
        ({"template": "no place"}, "template must be"),
        ({"secret": ""}, "secret must be"),
        ({"alphabet": None}, "either alphabet or candidates"),
        ({"alphabet": "0123"}, None),
        ({"alphabet": "0013"}, "alphabet must be"),
        ({"alphabet": None, "candidates": ["1", "2"]}, "candidates must be"),
        ({"repeat": -1}, "repeat must be"),
        ({"text": "the code is 43"}, "text is not the template"),
    ):
        path.write_text(json.dumps({**good, **change, "secret": change.get("secret", "42")}))
        if words is None:
            path.write_text(json.dumps({**good, **change, "secret": "23", "text": "the code is 23"}))
            assert read_canaries(path)[0].space == 16
            continue
        with pytest.raises(TrainingError, match=words):
            read_canaries(path)
    path.write_text("")
    with pytest.raises(TrainingError, match="holds no canary"):
        read_canaries(path)
