"""Every family against transformers: our folder loaded there, theirs loaded here, options, biases, scaling, faults."""

import json

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from tests.model_common import DOCUMENTS, FAMILIES, random_model, shape, tokens
from tests.training_common import make
from training.architectures import from_transformers, to_transformers, weights
from training.attention import document_positions
from training.checkpoint import load_model, save_model
from training.config import resolve
from training.config_json import config_json, read_model_config
from training.inference.cache import KeyValueCache
from training.knobs import TrainingError
from training.model import Decoder

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tokenizer_dir(tmp_path_factory):
    return make(tmp_path_factory.mktemp("tokenizer"), documents=40)[1]


def in_transformers(folder):
    theirs, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    return theirs.eval()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_our_folder_has_equal_logits_in_transformers_and_comes_back_bit_for_bit(family, tied, tmp_path, tokenizer_dir):
    model = random_model(shape(family, tie_embeddings=tied))
    save_model(tmp_path, model, tokenizer_dir, eos_id=0)
    theirs = in_transformers(tmp_path)
    x = tokens(2, 32)
    with torch.no_grad():
        assert (theirs(x).logits - model(x)).abs().max() < 2e-5
    again, end = load_model(tmp_path, CPU)
    assert end == [0] and again.config == model.config
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


SMALL = {"vocab_size": 61, "tie_word_embeddings": False}
LLAMA = {
    **SMALL, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 40,
}  # fmt: skip
GPT = {**SMALL, "n_embd": 24, "n_layer": 2, "n_head": 4, "n_positions": 40}
NEOX = {
    **SMALL, "hidden_size": 24, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 40, "use_parallel_residual": False, "hidden_act": "gelu_new",
    "rope_parameters": {"rope_type": "default", "rope_theta": 300.0, "partial_rotary_factor": 1.0},
}  # fmt: skip
THEIRS = {
    "gpt2": ("GPT2", GPT),
    "gpt2 tied, inner width": ("GPT2", {**GPT, "tie_word_embeddings": True, "n_inner": 56}),
    "openai gpt": ("OpenAIGPT", {**GPT, "tie_word_embeddings": True}),
    "neox": ("GPTNeoX", NEOX),
    "llama": ("Llama", LLAMA),
    "llama with biases": ("Llama", {**LLAMA, "attention_bias": True, "mlp_bias": True}),
    "llama tied": ("Llama", {**LLAMA, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2", LLAMA),
    "qwen3": ("Qwen3", {**LLAMA, "head_dim": 16}),
    "qwen3 with biases and windows": (
        "Qwen3",
        {**LLAMA, "head_dim": 8, "attention_bias": True, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0},
    ),
    "mistral": ("Mistral", {**LLAMA, "sliding_window": 6}),
    "mistral without window": ("Mistral", {**LLAMA, "sliding_window": None}),
    "mixtral": ("Mixtral", {**LLAMA, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "mixtral with window": ("Mixtral", {**LLAMA, "num_local_experts": 3, "num_experts_per_tok": 1, "sliding_window": 5}),
}  # fmt: skip


def theirs_with_random_weights(name: str, **changes):
    kind, settings = THEIRS[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**{**settings, "eos_token_id": 7, **changes})
    suffix = "LMHeadModel" if kind in ("GPT2", "OpenAIGPT") else "ForCausalLM"
    model = getattr(transformers, kind + suffix)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.mark.parametrize("name", THEIRS)
def test_a_folder_of_transformers_has_equal_logits_here(name, tmp_path):
    theirs = theirs_with_random_weights(name)
    theirs.save_pretrained(tmp_path)
    ours, end = load_model(tmp_path, CPU)
    x = tokens(2, 32, 61)
    with torch.no_grad():
        assert (theirs(x).logits - ours(x)).abs().max() < 2e-5
    assert end == [7]


def test_a_folder_in_several_files_is_read(tmp_path):
    theirs = theirs_with_random_weights("mixtral")
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    ours, _ = load_model(tmp_path, CPU)
    x = tokens(1, 20, 61)
    with torch.no_grad():
        assert (theirs(x).logits - ours(x)).abs().max() < 2e-5
    next(tmp_path.glob("model-*.safetensors")).unlink()
    with pytest.raises(TrainingError, match="cannot read the weights"):
        load_model(tmp_path, CPU)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(TrainingError, match="weight_map"):
        load_model(tmp_path, CPU)


def test_old_names_of_gpt2_are_read(tmp_path):
    """The published gpt2 files have no `transformer.` and carry the causal mask as a tensor."""
    from safetensors.torch import load_file, save_file

    theirs = theirs_with_random_weights("gpt2 tied, inner width")
    theirs.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in load_file(path).items()}
    tensors["h.0.attn.bias"] = torch.ones(1, 1, 40, 40).tril()
    save_file(tensors, path, {"format": "pt"})
    ours, _ = load_model(tmp_path, CPU)
    x = tokens(1, 20, 61)
    with torch.no_grad():
        assert (theirs(x).logits - ours(x)).abs().max() < 2e-5


def test_version_4_of_a_config_is_enough(tmp_path, tokenizer_dir):
    """`rope_theta` and `rope_scaling` alone are version 4, `rope_parameters` alone version 5: either is read here and there."""
    scaling = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 16}
    model = random_model(shape("qwen3", rope_scaling=scaling, rope_theta=500.0))
    save_model(tmp_path, model, tokenizer_dir, eos_id=0)
    written = json.loads((tmp_path / "config.json").read_text())
    x = tokens(1, 40)
    for left_out in (["rope_theta", "rope_scaling"], ["rope_parameters"]):
        kept = {key: value for key, value in written.items() if key not in left_out}
        (tmp_path / "config.json").write_text(json.dumps(kept))
        with torch.no_grad():
            assert (in_transformers(tmp_path)(x).logits - model(x)).abs().max() < 2e-5
            assert torch.equal(load_model(tmp_path, CPU)[0](x), model(x))


SCALINGS = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "llama3": {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 24},
    "llama3 other bounds": {
        "rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 200, "low_freq_factor": 2.0,
        "high_freq_factor": 16.0,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 200},
    "yarn, other bounds": {
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 100, "beta_fast": 8.0, "beta_slow": 2.0,
        "truncate": False,
    },
    "yarn, given sharpness": {
        "rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 24, "attention_factor": 1.5,
    },
    "yarn, as DeepSeek": {
        "rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 24, "mscale": 1.0, "mscale_all_dim": 0.7,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", SCALINGS)
def test_scaled_rotary_positions_are_those_of_transformers(name, tmp_path, tokenizer_dir):
    plain, scaled = (
        shape(context_length=48, width=64, rope_theta=100.0, rope_scaling=s) for s in (None, SCALINGS[name])
    )
    model = random_model(scaled)
    save_model(tmp_path, model, tokenizer_dir, eos_id=0)
    x = tokens(2, 48)
    unscaled = Decoder(plain)
    unscaled.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert (in_transformers(tmp_path)(x).logits - model(x)).abs().max() < 2e-5
        assert (unscaled(x) - model(x)).abs().max() > 1e-3  # the knob does something
    assert load_model(tmp_path, CPU)[0].config.rope_scaling == scaled.rope_scaling.model_copy(
        update={"original_max_position_embeddings": SCALINGS[name].get("original_max_position_embeddings", 48)}
    )


def test_the_context_of_a_checkpoint_is_extended_by_its_config(tmp_path, tokenizer_dir):
    model = random_model(shape(context_length=24))
    save_model(tmp_path, model, tokenizer_dir, eos_id=0)
    config = json.loads((tmp_path / "config.json").read_text())
    scaling = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 24}
    config |= {"max_position_embeddings": 48, "rope_scaling": scaling}
    config["rope_parameters"] = {**scaling, "rope_theta": config["rope_theta"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    longer, _ = load_model(tmp_path, CPU)
    assert longer.config.context_length == 48
    x = tokens(1, 48)
    with torch.no_grad():
        assert (in_transformers(tmp_path)(x).logits - longer(x)).abs().max() < 2e-5


def test_what_is_not_computed_here_is_refused(tmp_path):
    def refused(name, **changes) -> str:
        kind, settings = THEIRS[name]
        config = getattr(transformers, f"{kind}Config")(**settings)
        suffix = "LMHeadModel" if kind in ("GPT2", "OpenAIGPT") else "ForCausalLM"
        about = {**config.to_dict(), "architectures": [kind + suffix], **changes}
        (tmp_path / "config.json").write_text(json.dumps(about))
        with pytest.raises(TrainingError) as error:
            load_model(tmp_path, CPU)
        return str(error.value)

    assert "activation_function relu" in refused("gpt2", activation_function="relu")
    assert "scale_attn_by_inverse_layer_idx" in refused("gpt2", scale_attn_by_inverse_layer_idx=True)
    assert "afn relu" in refused("openai gpt", afn="relu")
    assert "use_parallel_residual" in refused("neox", use_parallel_residual=True)
    partial = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25}
    assert "0.25 of a head" in refused("neox", rope_parameters=partial)
    assert "rope type dynamic" in refused("llama", rope_parameters={"rope_type": "dynamic", "factor": 2.0})
    mixed = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1, "layer_types": None}
    assert "in some layers only" in refused("qwen3", **mixed)
    assert "quantized" in refused("llama", quantization_config={"quant_method": "x"})


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("hidden_size", "x", "width is 'x'"),
        ("num_hidden_layers", 0, "layers is 0"),
        ("num_attention_heads", 0, "heads is 0"),
        ("num_key_value_heads", 3, "cannot share 3"),
        ("vocab_size", 1e3, "vocab size is 1000.0"),
        ("rope_theta", "a", "not what it should be"),
        ("rms_norm_eps", None, "norm eps is None"),
        ("eos_token_id", ["a"], "eos_token_id is"),
    ],
)
def test_values_that_no_model_has_are_named(tmp_path, key, value, why):
    model = random_model(shape("llama"))
    about = {**config_json(model.config, 0), key: value}
    about = {key: value for key, value in about.items() if key != "rope_parameters"}
    (tmp_path / "config.json").write_text(json.dumps(about))
    with pytest.raises(TrainingError, match=why):
        read_model_config(tmp_path)


@pytest.mark.parametrize("family", FAMILIES)
def test_names_and_back_are_exact_and_every_weight_is_written(family):
    config = shape(family, pad_vocabulary=64)
    model = random_model(config)
    theirs = weights(model)
    assert sum(t.numel() for t in theirs.values()) >= sum(p.numel() for p in model.parameters()) - 2 * 31 * 32
    ours = from_transformers(config, theirs, None)
    assert all(torch.equal(ours[name], parameter) for name, parameter in model.named_parameters())
    assert set(ours) == {name for name, _ in model.named_parameters()}
    assert to_transformers(config, ours).keys() == theirs.keys()


def test_rotary_positions_with_post_norm_are_refused():
    with pytest.raises(TrainingError, match="transformers knows no architecture"):
        resolve({"architecture": "gpt2", "positions": "rotary", "norm": "post"})


def test_sinusoidal_positions_are_fixed_and_learned_ones_are_weights():
    fixed, learned = (random_model(shape(name)) for name in ("sinusoidal", "gpt2"))
    assert "model.embed_positions.weight" not in dict(fixed.named_parameters())
    assert "model.embed_positions.weight" in dict(learned.named_parameters())
    written = to_transformers(fixed.config, dict(fixed.named_parameters()))["transformer.wpe.weight"]
    # section 3.5 of Vaswani et al. 2017, by hand: position 3, coordinates 0 to 3 of 32
    expected = [torch.tensor(3 / 10_000 ** (i / 32)) for i in (0, 2)]
    by_hand = torch.stack([expected[0].sin(), expected[0].cos(), expected[1].sin(), expected[1].cos()])
    assert torch.allclose(written[3, :4] / 0.02, by_hand, atol=1e-6)
    assert config_json(fixed.config, 0)["positions"] == "sinusoidal"


@pytest.mark.parametrize("family", FAMILIES)
def test_documents_of_a_row_do_not_see_each_other(family, tmp_path, tokenizer_dir):
    """Equal to separate forwards, and to transformers given position ids that restart in each document."""
    model = random_model(shape(family))
    x = tokens(2, 32)
    with torch.no_grad():
        packed, blind = model(x, documents=DOCUMENTS), model(x)
        for row in range(2):
            for number in DOCUMENTS[row].unique():
                where = DOCUMENTS[row] == number
                assert (packed[row][where] - model(x[row][where][None])[0]).abs().max() < 1e-5
    assert (packed - blind).abs().max() > 1e-2  # the mask does something
    if family.startswith("post-norm"):
        return  # this class of transformers has no packed rows
    save_model(tmp_path, model, tokenizer_dir, eos_id=0)
    theirs, positions = in_transformers(tmp_path), document_positions(DOCUMENTS)
    for row in range(2):
        with torch.no_grad():
            oracle = theirs(x[row][None], position_ids=positions[row][None], use_cache=False).logits[0]
        assert (packed[row] - oracle).abs().max() < 2e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_cache_gives_the_logits_of_no_cache(family):
    """In pieces of several sizes; and with rows of several lengths, whose prompts were padded on the right."""
    model, x = random_model(shape(family)), tokens(3, 24)
    cache = KeyValueCache(model.config, 3, 24, x.device, torch.float32)
    with torch.no_grad():
        whole = model(x)
        pieces = [model(x[:, a:b], cache=cache) for a, b in ((0, 9), (9, 10), (10, 14), (14, 24))]
        assert (torch.cat(pieces, 1) - whole).abs().max() < 1e-5

        lengths = torch.tensor([9, 4, 1])
        cache = KeyValueCache(model.config, 4, 24, x.device, torch.float32).part(1, 4)
        first = model(x[:, :9], cache=cache, at=lengths - 1)
        cache.lengths.copy_(lengths)
        assert (first - whole[torch.arange(3), lengths - 1]).abs().max() < 1e-5
        for size in (1, 4, 1, 1):  # each row goes on from where it was
            new = torch.stack([x[row, n : n + size] for row, n in enumerate(cache.lengths.tolist())])
            wanted = torch.stack([whole[row, n : n + size] for row, n in enumerate(cache.lengths.tolist())])
            assert (model(new, cache=cache) - wanted).abs().max() < 1e-5
