"""Adapters of every family against peft: ours there, peft's here, merged weights, virtual tokens, refusals."""

import json
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, PeftModel, PromptTuningConfig, TaskType, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.training_common import write_tokenizer
from training.adapters.adapter import adapter_parameters, add_adapter, has_adapter, merge, without_adapter
from training.adapters.config import AdapterConfig
from training.adapters.load import load_adapter
from training.adapters.lora import adapters
from training.adapters.save import save_adapter
from training.architectures import weights
from training.checkpoint import load_model, save_model
from training.knobs import TrainingError
from training.model import Decoder, ModelConfig

LLAMA = ModelConfig(300, 64, 2, 32, 4, 2, 48, 8)
GPT2 = replace(LLAMA, architecture="gpt2", kv_heads=4, positions="learned", mlp_width=128, qkv_bias=True, output_bias=True, mlp_bias=True)  # fmt: skip
FAMILIES = {
    "llama": LLAMA,
    "qwen3": replace(LLAMA, architecture="qwen3", norm_eps=1e-6, tie_embeddings=False),
    "mistral": replace(LLAMA, architecture="mistral", window=5),
    "mixtral": replace(LLAMA, architecture="mixtral", experts=4),
    "gpt2": GPT2,
    "gpt2 post": replace(GPT2, norm="post"),
    "gpt2 rotary": replace(GPT2, positions="rotary"),
}
TOKENS = torch.randint(0, 300, (2, 17), generator=torch.Generator().manual_seed(5))
torch.set_num_threads(1)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tokenizer_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, ["the miller grinds the corn"] * 20, 300)
    return folder


@pytest.fixture(scope="module")
def bases(tokenizer_dir, tmp_path_factory):
    """A model folder of each family."""
    root = tmp_path_factory.mktemp("bases")
    for name, config in FAMILIES.items():
        save_model(root / name, Decoder(config).initialise(3), tokenizer_dir, 0)
    return root


def fill(model, seed=0):
    """As after training: no matrix is zero."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter_parameters(model).values():
            parameter.normal_(0, 0.08, generator=draw)
    return model


def logits(model, tokens=TOKENS):
    with torch.no_grad():
        found = model(tokens)
    return getattr(found, "logits", found)


def close(a, b, limit=1e-6):
    scale = max(float(a.abs().max()), float(b.abs().max()), 1.0)
    worst = float((a - b).abs().max())
    assert worst <= limit * scale, worst


def theirs(folder):
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()


CHOICES = [
    {},
    {"rank": 3, "alpha": 5.0, "rslora": True, "target_modules": ("q_proj", "v_proj", "down_proj")},
    {"rank": 2, "alpha": 1.5, "target_modules": ("k_proj", "up_proj"), "init": "gaussian"},
]


@pytest.mark.parametrize(
    ("choice", "family"),
    [(CHOICES[0], family) for family in FAMILIES]
    + [(choice, family) for choice in CHOICES[1:] for family in ("llama", "mixtral", "gpt2", "gpt2 rotary")],
)
def test_ours_loads_in_peft_and_back_and_merges_as_there(choice, family, bases, tmp_path):
    base = bases / family
    if family == "mixtral" and "target_modules" in choice:
        choice = {**choice, "target_modules": tuple(name for name in choice["target_modules"] if name[0] in "qkv")}
    model, _ = load_model(base, CPU)
    before = logits(model)
    add_adapter(model, AdapterConfig(**choice), seed=1)
    assert torch.equal(logits(model), before)
    fill(model)
    ours = logits(model)
    assert float((ours - before).abs().max()) > 1e-4
    save_adapter(tmp_path, model, base)

    there = PeftModel.from_pretrained(theirs(base), tmp_path).eval()
    close(ours, logits(there))
    again, _ = load_model(base, CPU)
    load_adapter(again, tmp_path)
    assert torch.equal(logits(again), ours)
    assert {k: tuple(p.shape) for k, p in adapter_parameters(again).items()} == {
        k: tuple(p.shape) for k, p in adapter_parameters(model).items()
    }
    assert again.adapter_config == model.adapter_config

    merged, expected = weights(model), there.merge_and_unload().state_dict()
    if family != "mixtral":  # whose experts transformers keeps joined
        for name, tensor in merged.items():
            close(tensor, expected[name])
    close(logits(merge(model)), ours)
    assert not has_adapter(model) and all(p.requires_grad for p in model.parameters())
    loaded, end = load_model(tmp_path, CPU)
    assert end == [0] and not has_adapter(loaded)
    close(logits(loaded), ours)


PEFT_TARGETS = {
    "gpt2": ["c_attn", "mlp.c_proj"],
    "gpt2 post": ["c_attn", "c_fc"],
    "gpt2 rotary": ["query_key_value", "dense"],
}


@pytest.mark.parametrize("family", FAMILIES)
def test_peft_adapter_loads_here_and_goes_back(family, bases, tmp_path):
    """With ranks and alphas of single modules, in some layers only: what our own knobs do not make."""
    base, targets = bases / family, PEFT_TARGETS.get(family, ["q_proj", "o_proj"])
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM, r=4, lora_alpha=6, target_modules=targets, init_lora_weights=False,
        rank_pattern={targets[0]: 3}, alpha_pattern={targets[1]: 11}, layers_to_transform=[1], lora_dropout=0.1,
    )  # fmt: skip
    torch.manual_seed(0)
    there = get_peft_model(theirs(base), config).eval()
    there.save_pretrained(tmp_path / "theirs")
    model, _ = load_model(base, CPU)
    load_adapter(model, tmp_path / "theirs")
    assert all(key.startswith("model.layers.1.") for key in adapters(model))
    close(logits(model), logits(there))
    assert float((logits(model) - logits(load_model(base, CPU)[0])).abs().max()) > 1e-3
    save_adapter(tmp_path / "ours", model, base)
    close(logits(PeftModel.from_pretrained(theirs(base), tmp_path / "ours").eval()), logits(there))


@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral", "mixtral"])
def test_virtual_tokens_are_those_of_peft(family, bases, tmp_path):
    base = bases / family
    model, _ = load_model(base, CPU)
    before = logits(model)
    fill(add_adapter(model, AdapterConfig(kind="prompt", virtual_tokens=5)))
    ours = logits(model)
    assert ours.shape == before.shape and float((ours - before).abs().max()) > 1e-4
    save_adapter(tmp_path / "ours", model, base)
    there = PeftModel.from_pretrained(theirs(base), tmp_path / "ours").eval()
    close(logits(there)[:, 5:], ours)
    loaded, _ = load_model(tmp_path / "ours", CPU)
    assert torch.equal(logits(loaded), ours)
    with without_adapter(loaded):
        assert torch.equal(logits(loaded), before)

    there = get_peft_model(
        theirs(base),
        PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=3, prompt_tuning_init="RANDOM"),
    ).eval()
    there.save_pretrained(tmp_path / "theirs")
    model, _ = load_model(base, CPU)
    load_adapter(model, tmp_path / "theirs")
    close(logits(there)[:, 3:], logits(model))


def test_text_for_virtual_tokens_is_written_as_peft_reads_it(bases, tmp_path):
    model, _ = load_model(bases / "llama", CPU)
    config = AdapterConfig(kind="prompt", virtual_tokens=4, prompt_init="text", prompt_text="the miller")
    add_adapter(model, config, tokenizer_dir=bases / "llama")
    save_adapter(tmp_path, model, bases / "llama")
    there = PeftModel.from_pretrained(theirs(bases / "llama"), tmp_path).eval()
    close(logits(there)[:, 4:], logits(model))


def test_a_note_that_does_not_fit_the_tensors_is_not_believed(bases, tmp_path):
    """Another program may have changed the tensors and kept the metadata."""
    model, _ = load_model(bases / "gpt2", CPU)
    save_adapter(tmp_path, fill(add_adapter(model, AdapterConfig(rank=2))), bases / "gpt2")
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    key = "base_model.model.transformer.h.0.attn.c_attn.lora_B.weight"
    tensors[key] = torch.randn(tensors[key].shape, generator=torch.Generator().manual_seed(0))
    note = {
        "format": "pt",
        "parts": json.dumps({"transformer.h.0.attn.c_attn": {"model.layers.0.self_attn.q_proj": 6}}),
    }
    for metadata in (note, {"format": "pt"}):
        save_file(tensors, file, metadata)
        again, _ = load_model(bases / "gpt2", CPU)
        close(
            logits(load_adapter(again, tmp_path)), logits(PeftModel.from_pretrained(theirs(bases / "gpt2"), tmp_path))
        )


def edited(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa_niter_4"}, "changes the model itself"),
        ({"peft_type": "IA3"}, "IA3"),
        ({"r": 5}, "has rank 2, adapter_config.json says 5"),
        ({"r": None}, "not as peft writes it"),
        ({"rank_pattern": 3}, "not as peft writes it"),
        ({"rank_pattern": {"q_proj": 7}}, "says 7"),
    ],
)
def test_what_is_not_computed_here_is_refused(changes, words, bases, tmp_path):
    model, _ = load_model(bases / "llama", CPU)
    save_adapter(tmp_path, add_adapter(model, AdapterConfig(rank=2)), bases / "llama")
    edited(tmp_path, **changes)
    with pytest.raises(TrainingError, match=words):
        load_adapter(load_model(bases / "llama", CPU)[0], tmp_path)


def test_adapters_of_embeddings_experts_and_other_models_are_refused(bases, tmp_path):
    """A merged adapter of tied embeddings is ruined on reload elsewhere; here it never comes to be."""
    config = LoraConfig(task_type=TaskType.CAUSAL_LM, r=2, target_modules=["embed_tokens", "q_proj"])
    get_peft_model(theirs(bases / "llama"), config).save_pretrained(tmp_path / "embeddings")
    with pytest.raises(TrainingError, match="embed"):
        load_model(tmp_path / "embeddings", CPU)
    config = LoraConfig(task_type=TaskType.CAUSAL_LM, r=2, target_modules=["lm_head"])
    get_peft_model(theirs(bases / "qwen3"), config).save_pretrained(tmp_path / "head")
    with pytest.raises(TrainingError, match="lm_head"):
        load_model(tmp_path / "head", CPU)
    for name in ("embed_tokens", "lm_head"):
        with pytest.raises(ValueError, match="tied"):
            AdapterConfig(target_modules=(name,))
    with pytest.raises(ValueError, match="experts"):
        AdapterConfig(target_modules="gate")
    for name in ("gate_proj", "down_proj"):
        with pytest.raises(TrainingError, match="experts of a layer in one tensor"):
            add_adapter(load_model(bases / "mixtral", CPU)[0], AdapterConfig(target_modules=(name,)))
    with pytest.raises(TrainingError, match=r"'gate_proj' of gpt2 .* it has q_proj"):
        add_adapter(load_model(bases / "gpt2", CPU)[0], AdapterConfig(target_modules=("gate_proj",)))

    model, _ = load_model(bases / "llama", CPU)
    save_adapter(tmp_path / "llama", add_adapter(model, AdapterConfig(rank=2)), bases / "llama")
    with pytest.raises(TrainingError, match="gpt2"):
        load_adapter(load_model(bases / "gpt2", CPU)[0], tmp_path / "llama")
    wide = Decoder(replace(LLAMA, mlp_width=64)).initialise(0)
    with pytest.raises(TrainingError, match="not a pair"):
        load_adapter(wide, tmp_path / "llama")
    with pytest.raises(TrainingError, match="already"):
        load_adapter(model, tmp_path / "llama")


def test_broken_and_dangling_adapter_folders_say_what_is_wrong(bases, tmp_path):
    model, _ = load_model(bases / "llama", CPU)
    save_adapter(tmp_path, add_adapter(model, AdapterConfig(rank=2)), bases / "llama")
    weights_file = tmp_path / "adapter_model.safetensors"
    whole = weights_file.read_bytes()
    weights_file.write_bytes(whole[:100])
    with pytest.raises(TrainingError, match=r"adapter_model\.safetensors"):
        load_model(tmp_path, CPU)
    weights_file.write_bytes(whole)
    for name in ("/no/such", "", str(tmp_path), "meta-llama/Llama-3"):
        edited(tmp_path, base_model_name_or_path=name)
        with pytest.raises(TrainingError, match="nothing is downloaded"):
            load_model(tmp_path, CPU)
    (tmp_path / "adapter_config.json").write_text("[]")
    with pytest.raises(TrainingError, match="expected a mapping"):
        load_model(tmp_path, CPU)


def test_an_adapter_of_an_adapted_model(bases, tmp_path):
    """SFT, then DPO, each an adapter: the second's model is the first's folder; a path beside it works too."""
    model, _ = load_model(bases / "llama", CPU)
    save_adapter(tmp_path / "sft", fill(add_adapter(model, AdapterConfig(rank=2)), 1), bases / "llama")
    second, _ = load_model(tmp_path / "sft", CPU)
    fill(add_adapter(second, AdapterConfig(rank=3)), 2)
    save_adapter(tmp_path / "dpo", second, tmp_path / "sft")
    (tmp_path / "dpo" / "sft").symlink_to(tmp_path / "sft")
    edited(tmp_path / "dpo", base_model_name_or_path="sft")
    close(logits(load_model(tmp_path / "dpo", CPU)[0]), logits(second), 4e-6)  # two sums of matrices lie between
    assert (tmp_path / "dpo" / "tokenizer.json").exists()
