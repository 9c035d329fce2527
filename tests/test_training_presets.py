"""Presets hold what their names say, `depth` follows its formulas, and every knob of the model changes it."""

import pytest
import torch

from tests.model_common import shape, tokens
from training import cli
from training.commands.arguments import config_from
from training.config import PretrainConfig, resolve
from training.knobs import TrainingError
from training.model import Decoder, ModelConfig, model_config
from training.presets import PRESETS, RopeScaling, gated_width

# millions of parameters and the vocabulary that they are counted with
SIZES = {
    "cpu-tiny": (1.8, 8_192), "tiny": (12.8, 8_192), "teaching": (2.0, 8_192), "1M": (1.1, 8_192), "5M": (5.1, 8_192),
    "15M": (15.2, 32_000), "50M": (54.9, 32_000), "124M": (124.4, 50_257), "small": (123.6, 50_304), "350M": (355.1, 50_304),
    "1B": (1235.8, 128_256), "1b": (1235.8, 128_256), "3B": (3212.7, 128_256), "7B": (6738.4, 32_000),
}  # fmt: skip


def parameters(config: ModelConfig) -> int:
    """A closed formula, by parts."""
    width, inner, head = config.width, config.mlp_width, config.head_width
    gpt2, post = config.architecture == "gpt2", config.norm == "post"
    queries, keys = config.heads * head, config.kv_heads * head
    attention = width * (queries + 2 * keys) + queries * width
    attention += (queries + 2 * keys) * config.qkv_bias + width * config.output_bias
    attention += 2 * head * (config.architecture == "qwen3")
    mlp = (2 if gpt2 else 3) * width * inner + (inner + width) * config.mlp_bias
    if config.experts:
        mlp = config.experts * mlp + config.experts * width
    norm = width * (2 if gpt2 else 1)
    outside = config.vocab_size * width * (1 if config.tie_embeddings else 2) + norm * (not post)
    return (
        config.layers * (attention + mlp + 2 * norm)
        + outside
        + config.context_length * width * (config.positions == "learned")
    )


def count(config: ModelConfig) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Decoder(config).parameters())


@pytest.mark.parametrize("name", PRESETS)
def test_parameters_of_a_preset(name):
    millions, vocabulary = SIZES[name]
    config = model_config(resolve({"preset": name, "pad_vocabulary": 1}), vocabulary, 1_024)
    assert count(config) == parameters(config)
    assert count(config) / 1e6 == pytest.approx(millions, abs=0.06)


@pytest.mark.parametrize(
    "changes",
    [
        {"architecture": "gpt2"}, {"architecture": "gpt2", "norm": "post", "mlp_width": 128}, {"architecture": "qwen3", "head_width": 6},
        {"architecture": "mixtral", "experts": 3}, {"kv_heads": 1}, {"architecture": "gpt2", "positions": "sinusoidal"},
    ],
)  # fmt: skip
def test_the_formula_holds_for_every_family(changes):
    for tied in (True, False):
        config = shape("plain", **{**changes, "tie_embeddings": tied})
        assert count(config) == parameters(config)


def test_published_shapes():
    """As in the config.json of these models."""
    llama = resolve({"preset": "1B"})
    assert (llama.layers, llama.width, llama.heads, llama.kv_heads, llama.mlp_width) == (16, 2_048, 32, 8, 8_192)
    gpt2 = model_config(resolve({"preset": "124M"}), 50_257, 1_024)
    assert (gpt2.embedding_rows, gpt2.mlp_width, gpt2.positions, count(gpt2)) == (50_304, 3_072, "learned", 124_475_904)
    assert resolve({"preset": "124M", "architecture": "llama"}).mlp_width == gated_width(768) == 2_048


@pytest.mark.parametrize("depth", [2, 4, 12, 26])
def test_depth_follows_its_formulas(depth):
    """By hand: compute C = 6 N D, batch 0.2920 C^0.3271 tokens, learning rate 0.3118 C^-0.1250 (DeepSeek LLM, equation 1)."""
    config = resolve({"depth": depth, "sequence_length": 1_024})
    assert (config.layers, config.width, config.heads, config.kv_heads) == (depth, 64 * depth, depth, depth)
    weights = depth * (4 * config.width**2 + 3 * config.width * config.mlp_width)
    assert weights == pytest.approx(12 * depth * config.width**2, rel=0.05)
    assert config.tokens == 20 * 12 * depth * config.width**2 and config.steps is None
    compute = 6 * config.tokens * config.tokens / 20
    assert config.learning_rate == pytest.approx(0.3118 * compute**-0.125, rel=0.01)
    assert config.batch_rows * 1_024 == pytest.approx(0.2920 * compute**0.3271, rel=0.1)
    assert config.batch_rows < 8 or config.batch_rows % 8 == 0
    assert 1 <= config.micro_batch_rows <= config.batch_rows


def test_knobs_given_beside_depth_win():
    plain = resolve({"depth": 4, "sequence_length": 512})
    given = {"width": 320, "heads": 5, "kv_heads": 1, "learning_rate": 1e-3, "batch_rows": 3, "steps": 7, "layers": 2}
    config = resolve({"depth": 4, "sequence_length": 512, **given})
    assert all(getattr(config, name) == value for name, value in given.items()) and config.tokens is None
    assert resolve({"depth": 4, "batch_rows": 16}).layers == 4
    assert resolve({**plain.model_dump(), "depth": None}).identity() == plain.identity()
    gpt2 = resolve({"depth": 4, "sequence_length": 512, "architecture": "gpt2"})
    assert (gpt2.mlp_width, gpt2.positions) == (1_024, "learned")


def test_a_resolved_config_resolves_to_itself():
    scaling = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 64}
    for values in (
        *({"preset": name} for name in PRESETS),
        {"architecture": "mistral", "sliding_window": None, "rope_scaling": scaling},
        {"architecture": "mixtral"},
    ):
        config = resolve(values)
        assert resolve(config.model_dump()) == config
    assert resolve({"architecture": "mistral"}).sliding_window == 4_096
    assert resolve({"architecture": "mistral", "sliding_window": None}).sliding_window is None


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"depth": 4}, "give sequence_length too"),
        ({"depth": 0, "sequence_length": 8}, "whole number from 1"),
        ({"architecture": "gpt3"}, "architecture: Input should be 'gpt2'"),
        ({"architecture": "gpt2", "kv_heads": 2}, "leave kv_heads out, or give 4"),
        ({"architecture": "gpt2", "head_width": 16}, "leave head_width out"),
        ({"positions": "learned"}, "learned and sinusoidal positions and norm: post are for gpt2"),
        ({"norm": "post"}, "are for gpt2"),
        ({"architecture": "gpt2", "norm": "post", "mlp_width": 99}, "leave mlp_width out"),
        ({"architecture": "gpt2", "rope_scaling": {"rope_type": "linear", "factor": 2}}, "not for learned ones"),
        ({"sliding_window": 8}, "sliding_window is for mistral and mixtral, not for llama"),
        ({"experts": 4}, "experts are for mixtral, not for llama"),
        ({"architecture": "mixtral", "experts": 1}, "at least 2 experts"),
        ({"architecture": "mixtral", "experts": 2, "experts_per_token": 3}, "more than the 2 experts"),
        ({"balance_coefficient": 0.1}, "balance_coefficient is for mixtral"),
        ({"head_width": 7}, "even whole number for rotary positions; got 7"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2}}, "rope_scaling.rope_type"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "rope_scaling.factor: Field required"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2, "beta_fast": 3}}, "linear scaling has no beta_fast"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 2, "low_freq_factor": 9}}, "high_freq_factor must be above"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(values, words):
    with pytest.raises(TrainingError) as error:
        resolve(values)
    assert words in str(error.value)


# For each knob of the model a config and the value that must change what the model computes or holds
CHANGES = {
    "depth": ({"sequence_length": 48}, 2),
    "architecture": ({}, "qwen3"),
    "layers": ({}, 3),
    "width": ({}, 64),
    "heads": ({"kv_heads": 1}, 2),
    "kv_heads": ({}, 4),
    "head_width": ({}, 16),
    "mlp_width": ({}, 64),
    "positions": ({"architecture": "gpt2"}, "sinusoidal"),
    "norm": ({"architecture": "gpt2"}, "post"),
    "rope_theta": ({}, 100.0),
    "rope_scaling": ({}, {"rope_type": "linear", "factor": 4}),
    "sliding_window": ({"architecture": "mistral"}, 3),
    "experts": ({"architecture": "mixtral", "experts": 4}, 5),
    "experts_per_token": ({"architecture": "mixtral", "experts": 4}, 1),
    "tie_embeddings": ({}, False),
    "vocab_size": ({}, 120),
}


@pytest.mark.parametrize("knob", CHANGES)
def test_every_knob_of_the_model_changes_its_output(knob):
    """`balance_coefficient` and `pad_vocabulary` have tests of their own (test_training_attention.py)."""
    base, value = CHANGES[knob]
    base = {"preset": "cpu-tiny", "layers": 2, **base}
    one, other = (
        Decoder(model_config(resolve(values), 97, 48)).initialise(0) for values in (base, {**base, knob: value})
    )
    x = tokens(1, 48)
    with torch.no_grad():
        for model in (one, other):  # far from the initial weights, where rotary angles hardly matter
            for parameter in model.parameters():
                parameter.mul_(3.0)
        first, second = one(x), other(x)
    assert first.shape != second.shape or not torch.allclose(first, second, atol=1e-4)


def test_every_knob_of_the_model_is_in_the_list_above():
    names = list(PretrainConfig.model_fields)
    of_the_model = names[names.index("depth") : names.index("sequence_length")]
    assert set(of_the_model) - {"balance_coefficient", "pad_vocabulary"} == set(CHANGES)


def test_scaling_is_hashable_and_frozen():
    assert len({RopeScaling(rope_type="linear", factor=2.0), RopeScaling(rope_type="linear", factor=2.0)}) == 1


def test_depth_is_a_flag_that_knows_the_rows_of_the_dataset(tmp_path):
    def config(*arguments):
        options = cli.parser().parse_args(
            ["pretrain", "--tokens", str(tmp_path), "--tokenizer", "t", "--output", "o", *arguments]
        )
        return config_from(options, options.tokens)

    with pytest.raises(TrainingError, match="give sequence_length too"):
        config("--depth", "3")  # there is no dataset yet
    (tmp_path / "dataset.json").write_text('{"pack": {"256": {}}}')
    found = config("--depth", "3")
    assert (found.depth, found.layers, found.width, found.sequence_length) == (3, 3, 192, 256)
    assert config("--depth", "3", "--set", "heads=6").heads == 6
    assert config("--depth", "3", "--set", "sequence_length=512").batch_rows < found.batch_rows
    assert config().depth is None and config().sequence_length is None
