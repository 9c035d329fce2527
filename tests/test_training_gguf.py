"""GGUF files of every family: logits by transformers' own reader, weights by the gguf package's, vocabulary and mistakes."""

import json
import tracemalloc

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tests.training_common import texts, write_tokenizer
from tokenizer_training.vocabulary.exports.gguf import export_gguf as export_vocabulary
from training import cli
from training.exports.gguf import export_gguf
from training.exports.gguf_names import rope_factors
from training.knobs import TrainingError

ROWS = 416  # more than the tokenizer has
SIZES = {
    "vocab_size": ROWS,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": None,
    "rms_norm_eps": 1e-5,
}
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True)),
    "llama untied": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, head_dim=32)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=None, head_dim=16)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES)),
    "qwen3": lambda: Qwen3ForCausalLM(
        Qwen3Config(**SIZES, head_dim=128)
    ),  # the width that its reader takes for granted
    "gpt2": lambda: GPT2LMHeadModel(
        # its reader takes 1,024 positions for granted
        GPT2Config(vocab_size=ROWS, n_positions=1024, n_embd=64, n_layer=2, n_head=4, bos_token_id=0)
    ),
    "mixtral": lambda: MixtralForCausalLM(MixtralConfig(**SIZES, num_local_experts=4)),
}
READ_BY_TRANSFORMERS = [name for name in MODELS if name != "mixtral"]  # it has no experts for this architecture
IDS = torch.randint(1, 400, (2, 40), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder a family, with the tokenizer's files, and vocabulary.gguf."""
    root = tmp_path_factory.mktemp("gguf")
    write_tokenizer(root / "tokenizer", texts(120))
    export_vocabulary(root / "tokenizer", root / "vocabulary.gguf")
    for name, build in MODELS.items():
        torch.manual_seed(1)
        model = build().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape) * 0.08)  # norms and biases too
        model.save_pretrained(root / name)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            (root / name / file).write_bytes((root / "tokenizer" / file).read_bytes())
        with torch.no_grad():
            np.save(root / name / "logits.npy", model(IDS).logits.numpy())
    return root


def logits_of(file, model_folder) -> float:
    """Largest difference to the model's own logits."""
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()
    with torch.no_grad():
        return float(np.abs(model(IDS).logits.numpy() - np.load(model_folder / "logits.npy")).max())


@pytest.mark.parametrize("name", READ_BY_TRANSFORMERS)
def test_logits_are_equal_by_the_reader_of_transformers(name, folder, tmp_path):
    file = tmp_path / "m.gguf"
    made = export_gguf(folder / name, file, folder / "vocabulary.gguf", "f32")
    assert made["tensors"] == len(GGUFReader(file).tensors) and made["notes"] == []
    assert logits_of(file, folder / name) < 1e-5


@pytest.mark.parametrize(("dtype", "most"), [("f16", 0.01), ("bf16", 0.05), ("q8_0", 0.15)])
def test_fewer_bits_cost_little(dtype, most, folder, tmp_path):
    """Logits here are up to 2.5."""
    file = tmp_path / "m.gguf"
    export_gguf(folder / "llama", file, folder / "vocabulary.gguf", dtype)
    assert 0 < logits_of(file, folder / "llama") < most
    kind = {"f16": "F16", "bf16": "BF16", "q8_0": "Q8_0"}[dtype]
    kinds = {tensor.name: tensor.tensor_type for tensor in GGUFReader(file).tensors}
    assert kinds["blk.1.ffn_down.weight"] == kinds["token_embd.weight"] == GGMLQuantizationType[kind]
    assert {kinds[name] for name in kinds if "norm" in name} == {GGMLQuantizationType.F32}


def test_experts_are_stacked_and_routed_as_they_were(folder, tmp_path):
    """Every weight back from the file, by the package's reader."""
    file = tmp_path / "m.gguf"
    export_gguf(folder / "mixtral", file, folder / "vocabulary.gguf", "f32")
    reader = GGUFReader(file)
    found = {tensor.name: dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors}
    weights = load_file(folder / "mixtral" / "model.safetensors")
    for matrix, name in {"w1": "ffn_gate_exps", "w2": "ffn_down_exps", "w3": "ffn_up_exps"}.items():
        for expert in range(4):
            wanted = weights[f"model.layers.1.block_sparse_moe.experts.{expert}.{matrix}.weight"]
            assert np.array_equal(found[f"blk.1.{name}.weight"][expert], wanted.numpy())
    assert np.array_equal(
        found["blk.0.ffn_gate_inp.weight"], weights["model.layers.0.block_sparse_moe.gate.weight"].numpy()
    )
    value = lambda key: reader.fields[key].contents()  # noqa: E731
    assert (value("llama.expert_count"), value("llama.expert_used_count")) == (4, 2)
    # rows of a head's two halves alternate
    turned = found["blk.0.attn_k.weight"].reshape(2, 8, 2, 64)
    plain = weights["model.layers.0.self_attn.k_proj.weight"].numpy().reshape(2, 2, 8, 64)
    assert np.array_equal(turned, plain.swapaxes(1, 2))
    export_gguf(folder / "mixtral", file, folder / "vocabulary.gguf", "q8_0")
    kinds = {tensor.name: tensor.tensor_type for tensor in GGUFReader(file).tensors}
    assert kinds["blk.0.ffn_gate_inp.weight"] == GGMLQuantizationType.F32
    assert kinds["blk.0.ffn_down_exps.weight"] == GGMLQuantizationType.Q8_0


def test_the_vocabulary_is_the_other_file_s_and_rows_beyond_it_are_unused(folder, tmp_path):
    file = tmp_path / "m.gguf"
    export_gguf(folder / "gpt2", file, folder / "vocabulary.gguf", "f16")
    ours, theirs = GGUFReader(file).fields, GGUFReader(folder / "vocabulary.gguf").fields
    for name in (name for name in theirs if name.startswith("tokenizer.")):
        mine, other = ours[name].contents(), theirs[name].contents()
        assert ours[name].types == theirs[name].types
        if name == "tokenizer.ggml.tokens":
            assert len(mine) == ROWS and mine[: len(other)] == other and mine[-1] == f"[PAD{ROWS - 1}]"
        elif name == "tokenizer.ggml.token_type":
            assert len(mine) == ROWS and mine[: len(other)] == other and set(mine[len(other) :]) == {5}
        else:
            assert mine == other
    assert ours["tokenizer.ggml.pre"].contents() == "gpt-2"


def test_rotary_scaling_goes_along(folder, tmp_path):
    """The factors of Llama 3 are those of transformers; linear and YaRN are named."""
    rope = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    rope |= {"original_max_position_embeddings": 64, "rope_theta": 10_000.0}
    model = LlamaForCausalLM(LlamaConfig(**{**SIZES, "rope_parameters": rope}))
    plain = LlamaForCausalLM(LlamaConfig(**SIZES)).model.rotary_emb.inv_freq
    config = json.loads(LlamaConfig(**{**SIZES, "rope_parameters": rope}).to_json_string(use_diff=False))
    assert rope_factors(config) == pytest.approx((plain / model.model.rotary_emb.inv_freq).numpy(), rel=1e-5)
    about = json.loads((folder / "llama" / "config.json").read_text())
    for kind in ("llama3", "linear", "yarn", "longrope"):
        (tmp_path / "model.safetensors").write_bytes((folder / "llama" / "model.safetensors").read_bytes())
        (tmp_path / "config.json").write_text(json.dumps({**about, "rope_parameters": {**rope, "rope_type": kind}}))
        if kind == "longrope":
            with pytest.raises(TrainingError, match="rope type longrope"):
                export_gguf(tmp_path, tmp_path / "m.gguf", folder / "vocabulary.gguf", "f32")
            continue
        export_gguf(tmp_path, tmp_path / "m.gguf", folder / "vocabulary.gguf", "f32")
        reader = GGUFReader(tmp_path / "m.gguf")
        names = {tensor.name for tensor in reader.tensors}
        assert ("rope_freqs.weight" in names) == (kind == "llama3")
        assert ("llama.rope.scaling.type" in reader.fields) == (kind != "llama3")
        if kind != "llama3":
            assert reader.fields["llama.rope.scaling.type"].contents() == kind


def test_all_of_yarn_goes_along_or_is_refused(folder, tmp_path):
    about = json.loads((folder / "llama" / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes((folder / "llama" / "model.safetensors").read_bytes())

    def export(**values):
        rope = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10_000.0, **values}
        (tmp_path / "config.json").write_text(json.dumps({**about, "rope_parameters": rope}))
        export_gguf(tmp_path, tmp_path / "m.gguf", folder / "vocabulary.gguf", "f32")
        fields = GGUFReader(tmp_path / "m.gguf").fields
        return {
            key.removeprefix("llama.rope.scaling."): field.contents()
            for key, field in fields.items()
            if "scaling" in key
        }

    plain = {"type": "yarn", "factor": 4.0, "original_context_length": about["max_position_embeddings"]}
    assert export() == plain
    assert export(beta_fast=8.0, beta_slow=2.0) == {**plain, "yarn_beta_fast": 8.0, "yarn_beta_slow": 2.0}
    for values in ({"attention_factor": 0.5}, {"mscale": 1.0, "mscale_all_dim": 1.0}, {"truncate": False}):
        with pytest.raises(TrainingError, match="cannot be exported"):
            export(**values)


def test_a_window_shortens_the_context_and_says_so(folder, tmp_path):
    about = json.loads((folder / "mistral" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**about, "sliding_window": 48}))
    (tmp_path / "model.safetensors").write_bytes((folder / "mistral" / "model.safetensors").read_bytes())
    made = export_gguf(tmp_path, tmp_path / "m.gguf", folder / "vocabulary.gguf", "f16")
    assert "48 of 128" in made["notes"][0]
    assert GGUFReader(tmp_path / "m.gguf").fields["llama.context_length"].contents() == 48


def test_memory_is_that_of_one_tensor(folder, tmp_path):
    """Of a model of 8 equal layers, far less than the whole is held at once."""
    config = LlamaConfig(**{**SIZES, "num_hidden_layers": 8, "hidden_size": 256, "intermediate_size": 512})
    LlamaForCausalLM(config).save_pretrained(tmp_path / "deep")
    size = (tmp_path / "deep" / "model.safetensors").stat().st_size
    export_gguf(tmp_path / "deep", tmp_path / "m.gguf", folder / "vocabulary.gguf", "q8_0")  # what is imported once
    tracemalloc.start()
    export_gguf(tmp_path / "deep", tmp_path / "m.gguf", folder / "vocabulary.gguf", "q8_0")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size > 15_000_000 and peak < size / 4


def test_command_line_makes_the_vocabulary_itself(folder, tmp_path, capsys):
    file = tmp_path / "out" / "m.gguf"
    arguments = ["export", str(folder / "llama"), "--format", "gguf", "--output", str(file), "--dtype", "f32"]
    assert cli.main(arguments) == 0
    first = file.read_bytes()
    assert "20 tensors" in capsys.readouterr().out and not list(file.parent.glob("*.tmp"))
    assert cli.main([*arguments, "--vocabulary", str(folder / "vocabulary.gguf")]) == 0
    assert file.read_bytes() == first


def test_mistakes_are_one_line_and_leave_nothing(folder, tmp_path, capsys):
    about = json.loads((folder / "llama" / "config.json").read_text())
    weights = load_file(folder / "llama" / "model.safetensors")

    def model(name, config=None, tensors=None):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({**about, **(config or {})}))
        save_file(tensors if tensors is not None else weights, tmp_path / name / "model.safetensors")
        return tmp_path / name

    missing = dict(weights)
    del missing["model.layers.1.mlp.up_proj.weight"]
    broken = model("broken")
    (broken / "model.safetensors").write_bytes(b"x" * 99)
    no_vocabulary = tmp_path / "none.gguf"
    no_vocabulary.write_bytes(b"GGUX" + bytes(40))
    small = tmp_path / "small"
    small_tokens = {name: tensor[:300] if "embed" in name else tensor for name, tensor in weights.items()}
    model("small", {"vocab_size": 300}, small_tokens)
    vocabulary = folder / "vocabulary.gguf"
    for place, words, file in (
        (model("other", {"architectures": ["FalconForCausalLM"]}), "not of FalconForCausalLM", vocabulary),
        (model("bias", {"attention_bias": True}), "attention_bias", vocabulary),
        (model("act", {"hidden_act": "gelu"}), "hidden_act gelu", vocabulary),
        (model("missing", tensors=missing), "up_proj", vocabulary),
        (broken, "cannot read the weights", vocabulary),
        (small, "is it of this tokenizer", vocabulary),
        (folder / "llama", "cannot read the vocabulary", no_vocabulary),
        (folder / "llama", "cannot read the vocabulary", tmp_path / "gone.gguf"),
        (tmp_path, "no model folder", vocabulary),
    ):
        with pytest.raises(TrainingError, match=words):
            export_gguf(place, tmp_path / "m.gguf", file, "f16")
        assert not (tmp_path / "m.gguf").exists() and not (tmp_path / "m.gguf.tmp").exists()
    assert cli.main(["export", str(small), "--format", "gguf", "--output", str(tmp_path / "m.gguf")]) == 2
    assert "tokenizer.json" in capsys.readouterr().err
    arguments = ["export", str(folder / "llama"), "--format", "gguf", "--output", str(tmp_path)]
    assert cli.main([*arguments, "--vocabulary", str(vocabulary)]) == 2
    assert "it is a folder" in capsys.readouterr().err
