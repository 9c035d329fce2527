"""FLOPs by formula against torch's counter for every family, visible keys by hand, peaks, MFU."""

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from training.flops import (
    PEAKS,
    device_peak,
    flops_per_token,
    matrix_parameters,
    mean_visible_keys,
    measured_peak,
    utilisation,
    visible_keys,
)
from training.model import Decoder, ModelConfig

FAMILIES = {
    "gpt2": {"positions": "learned", "kv_heads": 4, "qkv_bias": True, "output_bias": True, "mlp_bias": True},
    "llama": {},
    "qwen3": {"tie_embeddings": False},
    "mistral": {"window": 8},
    "mixtral": {"experts": 4, "experts_per_token": 2},
}


def shape(family: str, **changes) -> ModelConfig:
    base = {"layers": 2, "width": 32, "heads": 4, "kv_heads": 2, "mlp_width": 64, "head_width": 8}
    return ModelConfig(100, 32, **{**base, "architecture": family, **FAMILIES[family], **changes})


@pytest.mark.parametrize("family", FAMILIES)
def test_the_formula_counts_what_torch_counts(family):
    """Plain attention computes every pair of a row, hidden by the mask or not: `keys` is the row's length."""
    config = shape(family)
    model = Decoder(config).initialise(0)
    tokens = torch.randint(0, 100, (3, 32), generator=torch.Generator().manual_seed(0))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(tokens, tokens).objective.backward()
    assert counter.get_total_flops() == 3 * 32 * flops_per_token(config, 32)


def test_what_makes_a_model_larger_costs_what_it_adds():
    base = matrix_parameters(shape("mixtral"))
    assert matrix_parameters(shape("mixtral", experts=8)) - base == 2 * 32 * 4  # the router alone
    assert matrix_parameters(shape("mixtral", experts_per_token=3)) - base == 2 * 3 * 32 * 64
    assert matrix_parameters(shape("llama", padded_vocab_size=128)) - matrix_parameters(shape("llama")) == 28 * 32


def test_visible_keys_are_those_that_the_mask_shows():
    documents = np.array([[0, 0, 0, 1, 1, 2, -1, -1], [0] * 8])
    for masked in (True, False):
        for window in (None, 1, 2, 3):
            pairs = 0
            for row in documents:
                for query in range(8):
                    for key in range(query + 1):
                        near = window is None or query - key < window
                        same = not masked or row[query] == row[key]
                        pairs += bool(row[query] >= 0 and near and same)
            assert visible_keys(documents, masked, window) == pairs


def test_the_mean_of_keys_over_a_split():
    class Split:
        def __len__(self):
            return 2

        def row(self, i):
            return np.zeros(4, np.int64), np.array([[0, 0, 1, -1], [0, 0, 0, 0]][i], np.int32)

    assert mean_visible_keys(Split(), True) == (1 + 2 + 1 + 10) / 7
    assert mean_visible_keys(Split(), False) == (1 + 2 + 3 + 10) / 7


@pytest.mark.parametrize(
    "name, entry",
    [
        ("NVIDIA A100-SXM4-80GB", "A100"), ("NVIDIA H100 80GB HBM3", "H100"), ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H100 NVL", "H100 NVL"), ("NVIDIA H200", "H200"), ("NVIDIA B200", "B200"), ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", "L40S"), ("NVIDIA L40", "L40"), ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("AMD Instinct MI300X", "MI300X"), ("NVIDIA GH200 480GB", "GH200"), ("NVIDIA A10", "A10"),
        ("NVIDIA A10G", None), ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None), ("Tesla T4", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None), ("NVIDIA GeForce RTX 4090 D", None), ("", None),
    ],
)  # fmt: skip
def test_peaks_by_the_names_that_torch_gives(name, entry):
    assert device_peak(name, "bfloat16") == (PEAKS[entry][0] * 1e12 if entry else None)


def test_peaks_are_ordered_as_hardware_is():
    for bfloat16, fp8, tf32, float32 in PEAKS.values():
        assert (bfloat16 or float32) >= float32
        assert fp8 is None or fp8 == pytest.approx(2 * bfloat16, rel=0.03)
        assert tf32 is None or tf32 == pytest.approx(bfloat16 / 2, rel=0.03)
    assert device_peak("NVIDIA A100-SXM4-80GB", "fp8") is None


def test_the_peak_of_a_cpu_is_a_product_that_was_timed():
    before = torch.get_rng_state()
    peak = measured_peak("float32", torch.get_num_threads())
    assert 1e8 < peak < 1e14 and torch.equal(torch.get_rng_state(), before)


def test_utilisation_is_the_plain_quotient():
    assert utilisation(1000.0, 6e9, 60e12) == pytest.approx(0.1)
    assert utilisation(1000.0, 6e9, None) is None
