"""Adapters in training: what learns and what does not, recomputation, processes, resume, virtual tokens, `merge`."""

import json

import pytest
import torch
from safetensors.torch import load_file

from tests.adapter_common import CPU, LORA, adapted, loss_of, run
from tests.model_common import DOCUMENTS, random_model, shape, tokens
from tests.test_tuning_loop import Rows, config_of, folder  # noqa: F401  (a fixture)
from tests.training_processes import run_group
from training import cli
from training.adapters.adapter import adapter_parameters, add_adapter, merge, without_adapter
from training.adapters.config import AdapterConfig
from training.adapters.load import load_adapter
from training.adapters.save import save_adapter
from training.architectures import weights
from training.checkpoint import checkpoints, load_model, save_model
from training.inference.batch import generate_batch
from training.inference.cache import KeyValueCache
from training.inference.sampling import Sampling
from training.knobs import TrainingError
from training.logprobs import token_scores
from training.loss import token_losses
from training.optimizer import build_optimizer
from training.precision import use_float8
from training.recompute import recompute_layers
from training.resume import Stopped
from training.tuning.run import tune
from training.vocabulary import load_tokenizer

PROMPT = {"kind": "prompt", "virtual_tokens": 3}


def test_only_the_adapter_learns_and_at_first_it_changes_nothing():
    model = random_model(shape())
    rows, before = tokens(2, 20), {name: p.clone() for name, p in model.named_parameters()}
    expected = model(rows)
    add_adapter(model, AdapterConfig(**LORA))
    assert torch.equal(model(rows), expected)
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert learning == set(adapter_parameters(model)) and len(learning) == 2 * 7 * 2
    assert sum(p.numel() for p in adapter_parameters(model).values()) == 2 * 4 * (4 * 64 - 2 * 16 + 3 * (32 + 56))
    optimizer = build_optimizer(model, config_of())
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = loss_of(model, rows)
        loss.backward()
        optimizer.step(0.01)
        losses.append(float(loss))
    assert losses[-1] < 0.9 * losses[0]
    for name, parameter in before.items():
        assert torch.equal(model.get_parameter(name), parameter) and model.get_parameter(name).grad is None, name
    assert all(float(p.abs().max()) > 0 for p in adapter_parameters(model).values())


def test_a_frozen_output_projection_gets_no_gradient_and_takes_none_from_the_rest():
    draw = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(2, 9, 16, generator=draw), torch.randn(50, 16, generator=draw)
    targets = torch.randint(0, 50, (2, 9), generator=draw)
    for scored in (lambda h, w: token_losses(h, w, targets, 1e-3).objective, lambda h, w: sum(x.sum() for x in token_scores(h, w, targets, 0.7))):  # fmt: skip
        found = []
        for learns in (True, False):
            h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_(learns)
            scored(h, w).backward()
            assert (w.grad is not None) == learns
            found.append(h.grad)
        assert torch.equal(*found)


@pytest.mark.parametrize("how", ["full", "selective"])
@pytest.mark.parametrize("knobs", [{**LORA, "dropout": 0.3}, PROMPT])
def test_recomputation_gives_the_same_gradients(how, knobs):
    """With dropout the second forward pass must drop the same inputs."""
    rows, found = tokens(2, 20), []
    for recompute in ("none", how):
        model = adapted(knobs).train()
        recompute_layers(model, config_of(recompute=recompute))
        torch.manual_seed(4)
        loss_of(model, rows).backward()
        found.append({name: p.grad for name, p in adapter_parameters(model).items()})
    for name, gradient in found[0].items():
        assert float(gradient.abs().max()) > 0
        assert torch.allclose(found[1][name], gradient, rtol=1e-5, atol=1e-6), name


def test_dropout_is_of_training_steps_alone_and_follows_the_seed():
    model, rows = adapted({**LORA, "dropout": 0.4}), tokens(2, 20)
    assert torch.equal(model(rows), model(rows)) and torch.equal(model(rows), adapted()(rows))
    model.train()
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(model(rows))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_the_model_without_its_adapter_is_the_model_before():
    rows, base = tokens(2, 20), random_model(shape())
    for knobs in (LORA, PROMPT):
        model = adapted(knobs)
        with_adapter = model(rows)
        for _ in range(2):
            with without_adapter(model):
                assert torch.equal(model(rows), base(rows))
        with pytest.raises(KeyError), without_adapter(model):
            raise KeyError
        assert torch.equal(model(rows), with_adapter) and not torch.equal(with_adapter, base(rows))
    with pytest.raises(ValueError, match="adapter"), without_adapter(base):
        pass


def test_in_bfloat16_masters_stay_float32():
    model, rows = adapted(), tokens(2, 20)
    expected = model(rows)
    model.dtype = torch.bfloat16
    found = model(rows)
    loss_of(model, rows).backward()
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in adapter_parameters(model).values())
    assert 0 < float((found - expected).abs().max()) < 0.05 * float(expected.abs().max())


@pytest.mark.parametrize("knobs", [LORA, PROMPT])
def test_a_compiled_model_has_its_adapter_and_can_leave_it_out(knobs):
    """Traced and differentiated as for any compiler, which writing machine code would not change."""
    model, rows, documents = adapted(knobs, layers=1), tokens(2, 20), DOCUMENTS[:, :20]
    compiled = torch.compile(model, backend="aot_eager")
    loss_of(model, rows, documents).backward()
    expected = {name: p.grad.clone() for name, p in adapter_parameters(model).items()}
    model.zero_grad()
    loss_of(compiled, rows, documents).backward()
    for name, parameter in adapter_parameters(model).items():
        assert torch.allclose(parameter.grad, expected[name], rtol=1e-4, atol=1e-5), name
    with without_adapter(model), torch.no_grad():
        assert torch.allclose(loss_of(compiled, rows, documents), loss_of(model, rows, documents), rtol=1e-5)


def test_eight_bit_products_keep_the_adapter():
    model, rows = adapted(mlp_width=64), tokens(2, 16)
    model.dtype = torch.bfloat16
    use_float8(model)
    found = model(rows)
    with without_adapter(model):
        assert float((found - model(rows)).abs().max()) > 0.05


def changes_logits(a, b, seeds=(0, 0)):
    rows = tokens(2, 20)
    one, two = (adapted(knobs, seed=seed)(rows) for knobs, seed in zip((a, b), seeds, strict=True))
    return not torch.equal(one, two)


def test_every_knob_of_lora_changes_something():
    for key, value in {
        "alpha": 9.0,
        "rank": 5,
        "rslora": True,
        "init": "gaussian",
        "target_modules": ("q_proj",),
    }.items():
        assert changes_logits(LORA, {**LORA, key: value}), key
    assert changes_logits(LORA, LORA, (0, 1)) and not changes_logits(LORA, LORA)
    assert not changes_logits(LORA, {**LORA, "rslora": True, "alpha": 4.0})  # 4 / sqrt(4) = 8 / 4


def test_every_knob_of_virtual_tokens_changes_something(folder, tmp_path):  # noqa: F811
    table = random_model(shape(vocab_size=300)).model.embed_tokens.weight.detach()

    def first(**knobs):
        model = random_model(shape(vocab_size=300))
        add_adapter(model, AdapterConfig(kind="prompt", **knobs), 1, knobs.get("prompt_text") and folder)
        return model.prompt.weight.detach()

    drawn = first(virtual_tokens=5)
    assert drawn.shape == (5, 32) and all(any(torch.equal(row, one) for one in table) for row in drawn)
    noise = first(virtual_tokens=40, prompt_init="random")
    assert float(noise.std()) == pytest.approx(float(table.std()), rel=0.1) and not torch.equal(noise[:5], drawn)
    said = first(virtual_tokens=7, prompt_init="text", prompt_text="xz")
    ids = load_tokenizer(folder).encode("xz").ids
    assert len(ids) == 2 and torch.equal(said, table[torch.tensor((ids * 4)[:7])])
    with pytest.raises(TrainingError, match="leave no room"):
        first(virtual_tokens=48)
    text = AdapterConfig(kind="prompt", prompt_init="text", prompt_text="xz")
    with pytest.raises(TrainingError, match="needs a tokenizer"):
        add_adapter(random_model(shape(vocab_size=300)), text)
    with pytest.raises(TrainingError, match="wrong tokenizer"):
        add_adapter(random_model(shape(vocab_size=40)), text, 0, folder)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"adapter.rank": 0}, "adapter.rank"),
        ({"adapter.ranks": 2}, "ranks"),
        ({"adapter.virtual_tokens": 9}, "virtual_tokens means something with kind: prompt only"),
        ({"adapter.kind": "prompt", "adapter.rank": 9}, "rank means something with kind: lora or qlora only"),
        ({"adapter.double_quantisation": False}, "qlora only"),
        ({"adapter.kind": "prompt", "adapter.prompt_init": "text"}, "need each other"),
        ({"adapter.kind": "prompt", "adapter.prompt_text": "a"}, "need each other"),
        ({"adapter.target_modules": []}, "each once"),
        ({"adapter.target_modules": ["q_proj", "q_proj"]}, "each once"),
        ({"adapter.target_modules": "query"}, "'query' cannot have an adapter; choose of q_proj"),
        ({"merge": True}, "merge needs adapter"),
        ({"merge": True, "adapter.kind": "prompt"}, "merge needs adapter"),
        ({"adapter.kind": "qlora", "float8": True}, "exclude each other"),
    ],
)
def test_mistakes_in_the_knobs_are_named(values, words):
    top = {key: value for key, value in values.items() if "." not in key}
    inner = {key.partition(".")[2]: value for key, value in values.items() if "." in key}
    with pytest.raises(TrainingError, match=words):
        config_of(**top, **({"adapter": inner} if inner else {}))


# Virtual tokens


@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral", "mixtral"])
def test_documents_of_a_packed_row_each_have_their_virtual_tokens(family):
    model, rows = adapted(PROMPT, family), tokens(2, 32)
    found = model(rows, documents=DOCUMENTS)
    for row in range(2):
        for number in DOCUMENTS[row].unique():
            if number >= 0:
                at = DOCUMENTS[row] == number
                assert torch.allclose(found[row, at], model(rows[row, at][None])[0], atol=2e-5), (row, number)
    assert loss_of(model, rows, DOCUMENTS).isfinite()
    assert torch.allclose(found, model(rows, documents=DOCUMENTS.where(DOCUMENTS >= 0, -7)), atol=2e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral"])
def test_virtual_tokens_with_a_cache_and_prompts_of_several_lengths(family):
    model, rows = adapted(PROMPT, family), tokens(3, 12)
    assert model.config.context_length == 45
    whole = model(rows)
    cache = KeyValueCache(model.config, 3, 12, CPU, torch.float32)
    parts = [model(part, cache=cache) for part in rows.split([7, 1, 4], dim=1)]
    assert torch.allclose(torch.cat(parts, dim=1), whole, atol=2e-5) and cache.lengths.tolist() == [12] * 3
    with pytest.raises(ValueError, match="cannot hold"):
        model(rows[:, :1], cache=cache)
    prompts = [rows[0, :3].tolist(), rows[1].tolist(), rows[2, :7].tolist(), rows[0, :3].tolist()]
    found = generate_batch(model, prompts, Sampling(temperature=0.0, max_new_tokens=6), [], max_rows=2)
    for prompt, one in zip(prompts, found, strict=True):
        said = list(prompt)
        for _ in range(6):
            said.append(int(model(torch.tensor([said]))[0, -1].argmax()))
        assert one.tokens == said[len(prompt) :]
    with without_adapter(model):
        alone = generate_batch(model, prompts, Sampling(temperature=0.0, max_new_tokens=6), [], max_rows=2)
    plain = generate_batch(random_model(shape(family)), prompts, Sampling(temperature=0.0, max_new_tokens=6), [])
    assert [one.tokens for one in alone] == [one.tokens for one in plain]
    half = KeyValueCache(model.config, 2, 12, CPU, torch.float32)
    half.lengths[0] = 1
    with pytest.raises(ValueError, match="some rows"):
        model(rows[:2], cache=half)


# The loop


@pytest.mark.parametrize("knobs", [{**LORA, "dropout": 0.1}, PROMPT])
def test_a_run_leaves_an_adapter_folder_and_resumes_to_equal_bits(knobs, folder, tmp_path):  # noqa: F811
    given = {"adapter": knobs, "steps": 20, "learning_rate": 2e-2, "save_every": 5, "eval_every": 20}
    summary = run(folder, tmp_path / "whole", **given)
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert (
        losses[-1] < (0.93 if knobs["kind"] == "lora" else 1.0) * losses[0]
        and summary["learning"] < summary["parameters"]
    )
    assert not (tmp_path / "whole" / "config.json").exists()
    newest = checkpoints(tmp_path / "whole" / "trainer_state")[-1]
    held = load_file(newest / "model.safetensors")
    assert sum(tensor.numel() for tensor in held.values()) == summary["learning"]
    asked = iter([False] * 6 + [True])
    with pytest.raises(Stopped):
        run(folder, tmp_path / "cut", stop=lambda: next(asked), **given)
    run(folder, tmp_path / "cut", **given)
    files = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("whole", "cut")]
    assert files[0] == files[1]
    model, end = load_model(tmp_path / "whole", CPU)
    base, _ = load_model(folder, CPU)
    assert end == [0] and (tmp_path / "whole" / "tokenizer.json").exists()
    for name, parameter in base.named_parameters():
        moved = not torch.equal(model.get_parameter(name), parameter)
        assert moved == (knobs["kind"] == "lora" and name.endswith("_proj.weight")), name
    rows = Rows(config_of()).rows[:20]
    assert float(loss_of(model, rows)) / 220 == pytest.approx(losses[-1], rel=0.1)


def test_merge_leaves_a_whole_model_and_early_stop_keeps_the_best(folder, tmp_path):  # noqa: F811
    given = {"adapter": LORA, "steps": 8, "learning_rate": 2e-2, "eval_every": 2}
    run(folder, tmp_path / "apart", **given)
    run(folder, tmp_path / "merged", merge=True, **given)
    apart, merged = (
        load_file(tmp_path / "merged" / "model.safetensors"),
        weights(load_model(tmp_path / "apart", CPU)[0]),
    )
    assert apart.keys() == merged.keys()
    assert all(torch.allclose(apart[name], merged[name], atol=1e-7) for name in apart)
    assert not (tmp_path / "merged" / "adapter_config.json").exists()
    config = config_of(**{**given, "early_stop": 1, "steps": 20})
    task = Rows(config, validation=[2.0, 1.0, 3.0])
    summary = tune(task, config, folder, tmp_path / "best", log=lambda _: None)
    assert (summary["best_step"], summary["steps"]) == (4, 6)
    run(folder, tmp_path / "four", **{**given, "steps": 8, "schedule": "constant", "warmup_ratio": 0.0})
    assert (tmp_path / "best" / "adapter_model.safetensors").exists()


def test_training_on_from_an_adapter_folder_merges_it_first(folder, tmp_path):  # noqa: F811
    run(folder, tmp_path / "one", adapter=LORA)
    run(tmp_path / "one", tmp_path / "two", adapter={**LORA, "rank": 2}, seed=1)
    assert json.loads((tmp_path / "two" / "adapter_config.json").read_text())["base_model_name_or_path"] == str(
        tmp_path / "one"
    )
    run(tmp_path / "two", tmp_path / "full", steps=1)
    assert (tmp_path / "full" / "model.safetensors").exists()
    model, _ = load_model(folder, CPU)
    load_adapter(model, tmp_path / "one")
    merge(model)
    load_adapter(model, tmp_path / "two")
    rows = tokens(2, 20)
    assert torch.allclose(model(rows), load_model(tmp_path / "two", CPU)[0](rows), atol=1e-5)


JOBS = """
import json, sys
sys.path[:0] = json.loads(sys.argv[1])
import torch.distributed as dist
from tests.test_tuning_loop import Rows, config_of
from training.tuning.run import tune
from training.resume import Stopped
dist.init_process_group("gloo")
for knobs, folder, out, stop_at in json.loads(sys.argv[2]):
    config, calls = config_of(**knobs), []
    try:
        tune(Rows(config), config, folder, out, log=lambda _: None, stop=lambda: calls.append(1) or len(calls) == stop_at)
    except Stopped:
        pass
    dist.barrier()
"""


def test_two_processes_take_the_steps_of_one(folder, tmp_path):  # noqa: F811
    """DDP and FSDP2, an adapter saved from shards, resumed from shards, and merged from shards."""
    given = {
        "adapter": LORA,
        "learning_rate": 1e-2,
        "steps": 6,
        "batch_rows": 4,
        "micro_batch_rows": 1,
        "grad_clip": 0.05,
    }
    run(folder, tmp_path / "one", **given)
    jobs = [
        ({**given, "parallel": "ddp"}, "ddp", 0),
        ({**given, "parallel": "fsdp2"}, "fsdp2", 0),
        ({**given, "parallel": "fsdp2"}, "cut", 3),
        ({**given, "parallel": "fsdp2"}, "cut", 0),
        ({**given, "parallel": "fsdp2", "merge": True}, "merged", 0),
        ({**given, "parallel": "fsdp2", "adapter": PROMPT}, "prompt", 0),
    ]
    work = [(knobs, str(folder), str(tmp_path / name), stop) for knobs, name, stop in jobs]
    run_group(JOBS, json.dumps(work))
    expected = load_file(tmp_path / "one" / "adapter_model.safetensors")
    for name in ("ddp", "fsdp2", "cut"):
        found = load_file(tmp_path / name / "adapter_model.safetensors")
        assert found.keys() == expected.keys()
        for key, tensor in expected.items():
            assert float((found[key] - tensor).norm()) <= 1e-5 * float(tensor.norm()), (name, key)
    whole, merged = weights(load_model(tmp_path / "one", CPU)[0]), load_file(tmp_path / "merged" / "model.safetensors")
    assert all(torch.allclose(merged[key], tensor, atol=1e-5) for key, tensor in whole.items())
    run(folder, tmp_path / "prompt one", **{**given, "adapter": PROMPT})
    found, alone = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("prompt", "prompt one"))
    assert torch.allclose(found["prompt_embeddings"], alone["prompt_embeddings"], atol=1e-6)


# `merge`


@pytest.mark.parametrize(("dtype", "limit"), [("float32", 1e-6), ("bfloat16", 2e-2), ("float16", 3e-3)])
def test_command_line_merges_for_transformers(dtype, limit, folder, tmp_path, capsys):  # noqa: F811
    from transformers import AutoModelForCausalLM

    model, end = load_model(folder, CPU)
    add_adapter(model, AdapterConfig(**LORA))
    with torch.no_grad():
        for parameter in adapter_parameters(model).values():
            parameter.normal_(0, 0.05, generator=torch.Generator().manual_seed(2))
    save_adapter(tmp_path / "adapter", model, folder, end)
    arguments = ["merge", str(tmp_path / "adapter"), "--output", str(tmp_path / "out"), "--dtype", dtype]
    assert cli.main(arguments) == 0 and dtype in capsys.readouterr().out
    there = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert there.dtype == getattr(torch, dtype)
    rows = tokens(2, 20)
    with torch.no_grad():
        ours, theirs = model(rows), there.float()(rows).logits
    assert float((ours - theirs).abs().max()) <= limit * float(ours.abs().max())
    assert (tmp_path / "out" / "tokenizer.json").exists()
    again, ends = load_model(tmp_path / "out", CPU)
    assert ends == end and torch.allclose(again(rows), theirs, atol=1e-4)


def test_command_line_says_what_cannot_be_merged(folder, tmp_path, capsys):  # noqa: F811
    model, _ = load_model(folder, CPU)
    save_adapter(tmp_path / "prompt", add_adapter(model, AdapterConfig(**PROMPT)), folder)
    with pytest.raises(TrainingError, match="cannot be merged"):
        merge(model)
    with pytest.raises(TrainingError, match="virtual tokens"):
        save_model(tmp_path / "x", model, folder, 0)
    model, _ = load_model(folder, CPU)
    with pytest.raises(TrainingError, match="no adapter to merge"):
        merge(model)
    with pytest.raises(TrainingError, match="no adapter to save"):
        save_adapter(tmp_path / "x", model, folder)
    save_adapter(tmp_path / "lora", add_adapter(model, AdapterConfig(**LORA)), folder)
    with pytest.raises(TrainingError, match="already"):
        add_adapter(model, AdapterConfig(**LORA))
    for arguments, words in (
        ([tmp_path / "prompt", "--output", tmp_path / "x"], "virtual tokens, which cannot be merged"),
        ([folder, "--output", tmp_path / "x"], "is no adapter folder"),
        ([tmp_path / "lora", "--output", tmp_path / "lora"], "choose another folder"),
        ([tmp_path / "lora", "--output", folder, "--base", folder], "choose another folder"),
    ):
        assert cli.main(["merge", *map(str, arguments)]) == 2
        assert words in capsys.readouterr().err
    about = tmp_path / "lora" / "adapter_config.json"
    about.write_text(about.read_text().replace(str(folder), "/gone"))
    assert cli.main(["merge", str(tmp_path / "lora"), "--output", str(tmp_path / "x")]) == 2
    assert "base_model_name_or_path" in capsys.readouterr().err
    assert cli.main(["merge", str(tmp_path / "lora"), "--output", str(tmp_path / "x"), "--base", str(folder)]) == 0
    assert cli.main(["export", str(tmp_path / "lora"), "--format", "gguf", "--output", str(tmp_path / "x.gguf")]) == 2
    assert "training merge" in capsys.readouterr().err
