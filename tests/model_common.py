"""Small models of every family with weights that are far from the initial ones, for the trainer's tests."""

import torch

from training.config import resolve
from training.model import Decoder, ModelConfig, model_config

# On tensors this small threads only wait for each other
torch.set_num_threads(1)

BASE = {"layers": 2, "width": 32, "heads": 4, "mlp_width": 56, "tie_embeddings": False}

# every family, and the options of the teaching preset
FAMILIES = {
    "gpt2": {"architecture": "gpt2"},
    "llama": {"architecture": "llama", "kv_heads": 2},
    "qwen3": {"architecture": "qwen3", "kv_heads": 2, "head_width": 16},
    "mistral": {"architecture": "mistral", "kv_heads": 2, "sliding_window": 5},
    "mixtral": {"architecture": "mixtral", "kv_heads": 2, "experts": 4, "balance_coefficient": 0.02},
    "sinusoidal": {"architecture": "gpt2", "positions": "sinusoidal"},
    "post-norm": {"architecture": "gpt2", "norm": "post", "mlp_width": 128},
    "post-norm sinusoidal": {"architecture": "gpt2", "norm": "post", "positions": "sinusoidal", "mlp_width": 128},
    "rotary": {"architecture": "gpt2", "positions": "rotary"},
}


def shape(family: str = "llama", vocab_size: int = 97, context_length: int = 48, **changes) -> ModelConfig:
    """The shape that a config with these knobs gives."""
    return model_config(resolve({**BASE, **FAMILIES.get(family, {}), **changes}), vocab_size, context_length)


def random_model(config: ModelConfig, seed: int = 3) -> Decoder:
    """Norms and biases moved too, so that every part matters; rows that pad the vocabulary stay zero."""
    model = Decoder(config).initialise(seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator) * 0.1
            if name in ("model.embed_tokens.weight", "lm_head.weight"):
                noise[config.vocab_size :] = 0
            parameter.add_(noise)
    return model.eval()


def tokens(rows: int, length: int, vocab: int = 97, seed: int = 1) -> torch.Tensor:
    """Random ids."""
    return torch.randint(0, vocab, (rows, length), generator=torch.Generator().manual_seed(seed))


# numbers as a packer gives them: several documents, one of a single token, padding at the end
DOCUMENTS = torch.tensor([[0] * 7 + [1] + [2] * 12 + [3] * 12, [5] * 20 + [6] * 4 + [-1] * 8])
