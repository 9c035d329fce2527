"""The training loops that `step.py` compares, one a process. Needs torch, and what the contestant is made of.

    python step_contestants.py NAME SETTINGS        SETTINGS: JSON, see `Shape`

Prints a line of JSON once it is warm, and one for each line it reads: the seconds of `steps` optimizer steps, of the
process's CPU time (on CUDA of the clock). Whoever compares gives lines to the contestants in turn.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch


@dataclass(frozen=True)
class Shape:
    layers: int
    width: int
    heads: int
    block: int
    batch: int
    vocabulary: int
    dtype: str
    compile: bool
    device: str
    threads: int
    steps: int
    nanogpt: str | None

    @property
    def mlp(self) -> int:
        """The inner width of a gated MLP with as many weights as an ungated one of 4 times the width."""
        return 8 * self.width // 3

    @property
    def expert(self) -> int:
        """The inner width of each of `EXPERTS`."""
        return self.mlp // 4


EXPERTS, CHOSEN = 8, 2
Step = Callable[[torch.Tensor], Any]
UNTIL_THE_END = ExitStack()


def gristmill(shape: Shape, architecture: str) -> tuple[torch.nn.Module, Step]:
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from training.compiling import compile_regions
    from training.config import resolve
    from training.data import Batch
    from training.device import Place
    from training.heap import freed_memory_kept
    from training.loss import IGNORED
    from training.model import Decoder, model_config
    from training.optimizer import build_optimizer
    from training.step import train_step

    gpt2, mixtral = architecture == "gpt2", architecture == "mixtral"
    mlp = 4 * shape.width if gpt2 else shape.expert if mixtral else shape.mlp
    config = resolve(
        {
            "architecture": architecture, "layers": shape.layers, "width": shape.width, "heads": shape.heads,
            "kv_heads": shape.heads, "mlp_width": mlp, "batch_rows": shape.batch, "tie_embeddings": True,
            "micro_batch_rows": shape.batch, "document_mask": False, **({"positions": "learned"} if gpt2 else {}),
            **({"experts": EXPERTS, "experts_per_token": CHOSEN} if mixtral else {}),
        }
    )  # fmt: skip
    device, dtype = torch.device(shape.device), getattr(torch, shape.dtype)
    model = Decoder(model_config(config, shape.vocabulary, shape.block), dtype).initialise(0).to(device)
    optimizer = build_optimizer(model, config)
    if shape.compile:
        compile_regions(model)
    here = Place(0, 1, device, dtype, shape.threads)
    if shape.device == "cpu":
        UNTIL_THE_END.enter_context(freed_memory_kept())  # as a run does

    def step(tokens: torch.Tensor) -> float:
        targets = torch.full_like(tokens, IGNORED)
        targets[:, :-1] = tokens[:, 1:]
        batch = Batch(tokens, targets, torch.zeros_like(tokens), list(range(len(tokens))))
        return train_step(model, optimizer, batch, config, here, 1e-3).loss

    return model, step


def plain_loop(shape: Shape, model: torch.nn.Module, loss: Callable[[Any, torch.Tensor], torch.Tensor]) -> Step:
    """The loop of the model's own examples: autocast, backward, clip, fused AdamW."""
    model.to(shape.device).train()
    network: Any = torch.compile(model) if shape.compile else model
    groups = [
        {"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), fused=True)
    half = torch.autocast(shape.device, torch.bfloat16, enabled=shape.dtype == "bfloat16")

    def step(tokens: torch.Tensor) -> float:
        optimizer.zero_grad(set_to_none=True)
        tokens = tokens.to(shape.device)
        with half:
            value = loss(network, tokens)
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return float(value.detach())

    return step


def transformers_model(shape: Shape, family: str) -> tuple[torch.nn.Module, Step]:
    from transformers import (
        GPT2Config,
        GPT2LMHeadModel,
        LlamaConfig,
        LlamaForCausalLM,
        MixtralConfig,
        MixtralForCausalLM,
    )

    model: Any
    same = {
        "vocab_size": shape.vocabulary, "hidden_size": shape.width, "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads, "num_key_value_heads": shape.heads,
        "max_position_embeddings": shape.block, "tie_word_embeddings": True,
    }  # fmt: skip
    if family == "gpt2":
        model = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=shape.vocabulary, n_positions=shape.block, n_embd=shape.width, n_layer=shape.layers,
                n_head=shape.heads, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
            )
        )  # fmt: skip
    elif family == "mixtral":
        experts = {"num_local_experts": EXPERTS, "num_experts_per_tok": CHOSEN, "output_router_logits": True}
        model = MixtralForCausalLM(
            MixtralConfig(**same, **experts, router_aux_loss_coef=0.02, intermediate_size=shape.expert)
        )
    else:
        model = LlamaForCausalLM(LlamaConfig(**same, intermediate_size=shape.mlp))
    return model, plain_loop(shape, model, lambda network, x: network(input_ids=x, labels=x, use_cache=False).loss)


def nanogpt(shape: Shape) -> tuple[torch.nn.Module, Step]:
    assert shape.nanogpt is not None
    sys.path.insert(0, shape.nanogpt)
    from model import GPT, GPTConfig

    model: Any = GPT(
        GPTConfig(
            block_size=shape.block, vocab_size=shape.vocabulary, n_layer=shape.layers, n_head=shape.heads,
            n_embd=shape.width, dropout=0.0, bias=False,
        )
    )  # fmt: skip
    return model, plain_loop(shape, model, lambda network, x: network(x, x.roll(-1, 1))[1])


def litgpt(shape: Shape) -> tuple[torch.nn.Module, Step]:
    from litgpt import GPT, Config

    config = Config(
        block_size=shape.block, vocab_size=shape.vocabulary, padded_vocab_size=shape.vocabulary, n_layer=shape.layers,
        n_head=shape.heads, n_embd=shape.width, rotary_percentage=1.0, parallel_residual=False, bias=False,
        norm_class_name="RMSNorm", mlp_class_name="LLaMAMLP", intermediate_size=shape.mlp,
    )  # fmt: skip
    model: Any = GPT(config)
    model.lm_head.weight = model.transformer.wte.weight
    cross_entropy = torch.nn.functional.cross_entropy
    return model, plain_loop(
        shape, model, lambda network, x: cross_entropy(network(x).flatten(0, 1), x.roll(-1, 1).flatten())
    )


CONTESTANTS: dict[str, Callable[[Shape], tuple[torch.nn.Module, Step]]] = {
    "gristmill llama": lambda shape: gristmill(shape, "llama"),
    "gristmill gpt2": lambda shape: gristmill(shape, "gpt2"),
    "gristmill mixtral": lambda shape: gristmill(shape, "mixtral"),
    "transformers mixtral": lambda shape: transformers_model(shape, "mixtral"),
    "transformers llama": lambda shape: transformers_model(shape, "llama"),
    "transformers gpt2": lambda shape: transformers_model(shape, "gpt2"),
    "nanogpt": nanogpt,
    "litgpt llama": litgpt,
}


def flops_of_a_token(shape: Shape, model: torch.nn.Module) -> float:
    """Forward and backward: 6 a weight that a token is multiplied with, 12 a layer, width and position (PaLM, appendix B)."""
    parameters = {
        id(p): p.numel() * (CHOSEN / EXPERTS if ".experts." in name else 1)
        for name, p in model.named_parameters()
        if p.dim() >= 2
    }
    tables = {id(p): p.numel() for m in model.modules() if isinstance(m, torch.nn.Embedding) for p in m.parameters()}
    multiplied = sum(size for key, size in parameters.items() if key not in tables) + shape.width * shape.vocabulary
    head = [m.weight for name, m in model.named_modules() if name.endswith("lm_head")]
    if head and id(head[0]) not in tables:  # untied: counted among the parameters already
        multiplied -= shape.width * shape.vocabulary
    return 6 * multiplied + 12 * shape.layers * shape.width * shape.block


def matmul_rate(shape: Shape) -> float:
    """FLOP a second of a product of 2,048 x 2,048 matrices (8,192 on CUDA): what this machine does at best."""
    size = 8192 if shape.device == "cuda" else 2048
    a, b = (torch.randn(size, size).to(shape.device, getattr(torch, shape.dtype)) for _ in range(2))
    (a @ b).sum().item()
    begun = clock(shape)
    for _ in range(4):
        c = a @ b
    c.sum().item()
    return 4 * 2 * size**3 / (clock(shape) - begun)


def clock(shape: Shape) -> float:
    if shape.device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def main() -> None:
    shape = Shape(**json.loads(sys.argv[2]))
    torch.set_num_threads(shape.threads)
    torch.manual_seed(0)
    out, sys.stdout = sys.stdout, sys.stderr  # a model may print

    def say(**values: Any) -> None:
        print(json.dumps(values), file=out, flush=True)

    if sys.argv[1] == "matmul":
        say(flops=0)
        for _ in sys.stdin:
            say(rate=matmul_rate(shape))
        return
    model, step = CONTESTANTS[sys.argv[1]](shape)
    tokens = torch.randint(0, shape.vocabulary, (shape.batch, shape.block))
    begun = time.perf_counter()
    for _ in range(3):
        loss = step(tokens)
    say(flops=flops_of_a_token(shape, model), warm=time.perf_counter() - begun, loss=loss)
    for _ in sys.stdin:
        begun = clock(shape)
        for _ in range(shape.steps):
            step(tokens)
        say(seconds=clock(shape) - begun)


if __name__ == "__main__":
    main()
