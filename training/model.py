"""A decoder in plain PyTorch: GPT-2, Llama, Qwen, Mistral and Mixtral are this one file with other parts chosen.

Modules carry the names of transformers' Llama, whatever the family; what other libraries call them is in
training/architectures.py. Shapes in comments: B rows, L positions, W width, H query heads, K key/value heads, D head width,
E experts, V vocabulary.

Sources: Radford et al. 2019 (GPT-2); Touvron et al. 2023 (Llama, arXiv 2302.13971); Yang et al. 2025 (Qwen3, arXiv 2505.09388);
Jiang et al. 2023 (Mistral 7B, arXiv 2310.06825) and 2024 (Mixtral, arXiv 2401.04088). Their parts: Zhang and Sennrich 2019 (RMSNorm,
arXiv 1910.07467); Shazeer 2020 (SwiGLU, arXiv 2002.05202); Ainslie et al. 2023 (grouped-query attention, arXiv 2305.13245).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.attention import Sight, attend, document_positions, sight_of_rows
from training.config import PretrainConfig
from training.knobs import TrainingError
from training.logprobs import token_scores
from training.loss import IGNORED, Losses, token_losses
from training.norm import rms_norm
from training.presets import RopeScaling
from training.rotary import frequencies, rotary, rotate, sinusoids
from training.shards import part_like

if TYPE_CHECKING:  # it is made for a model's config
    from training.inference.cache import KeyValueCache


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a decoder and the parts that make its family.

    `vocab_size` ids have logits; the matrices may have more rows (`padded_vocab_size`), which are zero and stay it.
    `window`: keys that a query sees, itself included. `experts`: 0 is one MLP for all tokens.
    """

    vocab_size: int
    context_length: int
    layers: int
    width: int
    heads: int
    kv_heads: int
    mlp_width: int
    head_width: int
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5
    tie_embeddings: bool = True
    architecture: Literal["gpt2", "llama", "qwen2", "qwen3", "mistral", "mixtral"] = "llama"
    positions: Literal["learned", "sinusoidal", "rotary"] = "rotary"
    norm: Literal["pre", "post"] = "pre"
    rope_scaling: RopeScaling | None = None
    window: int | None = None
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    experts: int = 0
    experts_per_token: int = 2
    balance_coefficient: float = 0.0
    padded_vocab_size: int | None = None
    virtual_tokens: int = 0  # in front of each document (adapters/prompt.py); `context_length` is what they leave

    @property
    def embedding_rows(self) -> int:
        """Rows of the embedding and output matrices."""
        return self.padded_vocab_size or self.vocab_size


def model_config(config: PretrainConfig, vocab_size: int, context_length: int) -> ModelConfig:
    """The model that a run trains, for a tokenizer of `vocab_size` ids and rows of `context_length` tokens.

    Raises `TrainingError` if the run asks for fewer ids than the tokenizer has.
    """
    if config.vocab_size is not None and config.vocab_size < vocab_size:
        raise TrainingError(
            f"vocab_size={config.vocab_size} is less than the tokenizer's {vocab_size}: give at least that, or leave it out"
        )
    ids = config.vocab_size or vocab_size
    padded = -(-ids // config.pad_vocabulary) * config.pad_vocabulary
    gpt2 = config.architecture == "gpt2"
    return ModelConfig(
        vocab_size=ids,
        context_length=context_length,
        layers=config.layers,
        width=config.width,
        heads=config.heads,
        kv_heads=config.kv_heads,
        mlp_width=config.mlp_width,
        head_width=config.head_width or config.width // config.heads,
        rope_theta=config.rope_theta,
        norm_eps=1e-6 if config.architecture == "qwen3" else 1e-5,  # as in the configs that were published
        tie_embeddings=config.tie_embeddings,
        architecture=config.architecture,
        positions=config.positions,
        norm=config.norm,
        rope_scaling=config.rope_scaling,
        window=config.sliding_window,
        qkv_bias=gpt2,
        output_bias=gpt2,
        mlp_bias=gpt2,
        experts=config.experts,
        experts_per_token=config.experts_per_token,
        balance_coefficient=config.balance_coefficient,
        padded_vocab_size=padded if padded > ids else None,
    )


class Linear(nn.Linear):
    """A linear map whose float32 weights are cast to the dtype of its input.

    The optimizer always sees float32 master weights; in bfloat16 only the matrix products and the activations are. `adapter`,
    if there is one, adds to what comes out (adapters/lora.py).
    """

    adapter: Any

    def __init__(self, inputs: int, outputs: int, bias: bool = False) -> None:
        super().__init__(inputs, outputs, bias)
        self.register_module("adapter", None)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., inputs] -> [..., outputs]` in the dtype of `x`."""
        y = self.product(x)
        return y if self.adapter is None else self.adapter(x, y)

    def product(self, x: Tensor) -> Tensor:
        """The map itself."""
        return F.linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))


class RMSNorm(nn.Module):
    """Scale each position to unit root mean square, in float32, then by a learned weight."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """`[..., W] -> [..., W]` in the dtype of `x`."""
        return rms_norm(x, self.weight, self.eps)


class LayerNorm(nn.LayerNorm):
    """Ba et al. 2016 (arXiv 1607.06450), in float32."""

    def forward(self, x: Tensor) -> Tensor:
        """`[..., W] -> [..., W]` in the dtype of `x`."""
        weight, bias = self.weight.float(), self.bias.float()  # FSDP2 gathers them in the dtype of the products
        return F.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps).to(x.dtype)


def embedding(rows: int, width: int) -> nn.Embedding:
    """A table of zeros. Its own random draw would be thrown away, and on `meta` it loads torch's compiler: two seconds."""
    return nn.Embedding.from_pretrained(torch.zeros(rows, width), freeze=False)


def norm(config: ModelConfig) -> nn.Module:
    """The family's norm over the residual stream."""
    return (LayerNorm if config.architecture == "gpt2" else RMSNorm)(config.width, config.norm_eps)


class Attention(nn.Module):
    """Causal self-attention; every `heads / kv_heads` query heads share one key and value head.

    The projections are matrices of their own: one matrix for all three is no faster on a CPU (docs/models.md), and Muon and
    adapters want them apart.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head_width = config.head_width
        self.q_proj = Linear(config.width, config.heads * config.head_width, config.qkv_bias)
        self.k_proj = Linear(config.width, config.kv_heads * config.head_width, config.qkv_bias)
        self.v_proj = Linear(config.width, config.kv_heads * config.head_width, config.qkv_bias)
        self.o_proj = Linear(config.heads * config.head_width, config.width, config.output_bias)
        qk_norm = config.architecture == "qwen3"
        self.q_norm: nn.Module = RMSNorm(config.head_width, config.norm_eps) if qk_norm else nn.Identity()
        self.k_norm: nn.Module = RMSNorm(config.head_width, config.norm_eps) if qk_norm else nn.Identity()

    def forward(
        self, x: Tensor, turn: tuple[Tensor, Tensor] | None, sight: Sight, cache: KeyValueCache | None, layer: int
    ) -> Tensor:
        """`[B, L, W] -> [B, L, W]`. turn: cosines and sines of the positions, if they are rotary."""
        split = (*x.shape[:2], -1, self.head_width)
        query = self.q_norm(self.q_proj(x).view(split)).transpose(1, 2)  # [B, H, L, D]
        key = self.k_norm(self.k_proj(x).view(split)).transpose(1, 2)  # [B, K, L, D]
        value = self.v_proj(x).view(split).transpose(1, 2)
        if turn is not None:
            query, key = rotate(query, *turn), rotate(key, *turn)
        if cache is not None:
            key, value = cache.extend(layer, key, value)
        return self.o_proj(attend(query, key, value, sight).transpose(1, 2).flatten(2))


class GatedMLP(nn.Module):
    """SwiGLU: silu(gate) * up, projected back down."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = Linear(config.width, config.mlp_width, config.mlp_bias)
        self.up_proj = Linear(config.width, config.mlp_width, config.mlp_bias)
        self.down_proj = Linear(config.mlp_width, config.width, config.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., W] -> [..., W]`."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class PlainMLP(nn.Module):
    """GPT-2's: up, GELU by its tanh formula (Hendrycks and Gimpel 2016, arXiv 1606.08415), down."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.up_proj = Linear(config.width, config.mlp_width, config.mlp_bias)
        self.down_proj = Linear(config.mlp_width, config.width, config.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., W] -> [..., W]`."""
        return self.down_proj(F.gelu(self.up_proj(x), approximate="tanh"))


class MixtureOfExperts(nn.Module):
    """Each token goes through its `experts_per_token` likeliest MLPs; none is ever turned away."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.chosen = config.experts_per_token
        self.gate = Linear(config.width, config.experts)
        self.experts = nn.ModuleList(GatedMLP(config) for _ in range(config.experts))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, L, W] -> [B, L, W]` and the router's probabilities, float32 `[B, L, E]`."""
        flat = x.flatten(0, 1)
        probabilities = self.gate(flat).float().softmax(dim=-1)
        shares, experts = probabilities.topk(self.chosen, dim=-1)
        shares = (shares / shares.sum(dim=-1, keepdim=True)).to(x.dtype)
        # choices in the order of their experts, so that each takes one stretch; one without tokens too: its gradient is then
        # zero, not missing
        order = experts.flatten().argsort(stable=True)
        counts = F.one_hot(experts.flatten(), len(self.experts)).sum(dim=0).tolist()
        stretches = flat.index_select(0, order // self.chosen).split(counts)
        found = torch.cat([expert(tokens) for expert, tokens in zip(self.experts, stretches, strict=True)])
        y = found.index_select(0, order.argsort()).view(len(flat), self.chosen, -1) * shares[..., None]
        y = y.sum(dim=1)
        return y.view_as(x), probabilities.view(*x.shape[:2], -1)


class Layer(nn.Module):
    """Attention and MLP, each added to the residual stream; the norms stand before them, or behind the sums."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm_first = config.norm == "pre"
        self.input_layernorm = norm(config)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = norm(config)
        mlp = MixtureOfExperts if config.experts else PlainMLP if config.architecture == "gpt2" else GatedMLP
        self.mlp: nn.Module = mlp(config)

    def forward(
        self, x: Tensor, turn: tuple[Tensor, Tensor] | None, sight: Sight, cache: KeyValueCache | None, layer: int
    ) -> tuple[Tensor, Tensor | None]:
        """`[B, L, W] -> [B, L, W]`, and the router's probabilities if there are experts."""
        if self.norm_first:
            x = x + self.self_attn(self.input_layernorm(x), turn, sight, cache, layer)
            y, router = self.transform(self.post_attention_layernorm(x))
            return x + y, router
        x = self.input_layernorm(x + self.self_attn(x, turn, sight, cache, layer))
        y, router = self.transform(x)
        return self.post_attention_layernorm(x + y), router

    def transform(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The MLP's output, and the router's probabilities if there are experts."""
        y = self.mlp(x)
        return y if isinstance(y, tuple) else (y, None)


class Trunk(nn.Module):
    """Embedding, layers and the last norm, which post-norm layers make needless: `model.*` in the names of transformers."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = embedding(config.embedding_rows, config.width)
        if config.positions == "learned":
            self.embed_positions = embedding(config.context_length, config.width)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = norm(config) if config.norm == "pre" else nn.Identity()


class Decoder(nn.Module):
    """The layers with the output projection. `dtype` is that of activations and matrix products, not of the weights."""

    prompt: Any  # virtual tokens, if they are trained (adapters/prompt.py)
    adapter_config: Any  # adapters.config.AdapterConfig of what is trained beside the model

    def __init__(self, config: ModelConfig, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.config, self.dtype = config, dtype
        self.z_loss = 0.0  # see loss.token_losses; a trainer sets it
        self.loss = token_losses  # a trainer may compile it
        self.model = Trunk(config)
        self.lm_head = Linear(config.width, config.embedding_rows)
        self.register_module("prompt", None)
        self.adapter_config = None
        self.tie()

    def tie(self) -> None:
        """Make the output projection the input embedding, if the config says so; moving off `meta` parts them."""
        if self.config.tie_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def initialise(self, seed: int) -> Decoder:
        """Draw all weights from a private generator, wherever they are: normal, 0.02; projections into the residual stream smaller.

        The scale 1 / sqrt(2 * layers) of the latter keeps the residual's variance at start (Radford et al. 2019, GPT-2; so do
        Llama-style trainers). Norms begin with 1, biases with 0, rows that pad the vocabulary stay 0.
        """
        generator = torch.Generator().manual_seed(seed)
        residual = 0.02 / math.sqrt(2 * self.config.layers)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if parameter.dim() < 2:
                    parameter.fill_(0.0 if name.endswith("bias") else 1.0)
                    continue
                std = residual if name.endswith(("o_proj.weight", "down_proj.weight")) else 0.02
                padded = name in ("model.embed_tokens.weight", "lm_head.weight")
                drawn = torch.zeros(parameter.shape)  # one at a time: a sharded model is never whole in any process
                drawn[: self.config.vocab_size if padded else len(drawn)].normal_(0.0, std, generator=generator)
                parameter.copy_(part_like(drawn, parameter))
        return self

    def forward(
        self,
        tokens: Tensor,
        targets: Tensor | None = None,
        documents: Tensor | None = None,
        cache: KeyValueCache | None = None,
        logprobs: float | None = None,
        at: Tensor | None = None,
        real: Tensor | None = None,
    ) -> Any:
        """Predict the next token at every position.

        tokens: int64 `[B, L]`. targets: int64 `[B, L]`, `IGNORED` where nothing is predicted. documents: integers
        `[B, L]` as the packer gives them, negative where padded; if given, a position sees only its own document and positions
        restart at 0 in each. cache: keys and values of earlier positions of the same rows (not together with `documents`).
        at: int64 `[B]`, the one position of each row whose logits are wanted. real: bool `[B, L]`, false where padded: for
        the experts' balance, where `documents` do not say it.

        Returns float32 logits `[B, L, V]` (with `at` `[B, V]`); with `targets` `loss.Losses`; with `targets` and `logprobs`, a
        temperature, `logprobs.TokenScores` of the targets at it.
        """
        x, routers = self._layers(tokens, documents, cache)
        if at is not None:
            x = x[torch.arange(len(x), device=x.device), at]
        if targets is None:
            return self.lm_head(x)[..., : self.config.vocab_size].float()
        # ids that pad the vocabulary have no logit, so they take no probability and get no gradient
        weight = self.lm_head.weight
        if self.config.padded_vocab_size:
            weight = weight[: self.config.vocab_size]
        if logprobs is not None:
            return token_scores(x, weight, targets, logprobs)
        losses = self.loss(x, weight, targets, self.z_loss)
        if self.config.experts and self.config.balance_coefficient:
            if real is None:
                real = torch.ones_like(tokens, dtype=torch.bool) if documents is None else documents >= 0
            balance = load_balance(torch.stack(routers), self.config.experts_per_token, real)
            share = (targets != IGNORED).sum(dim=1) * self.config.balance_coefficient
            losses = Losses(losses.objective + (balance * share).sum(), losses.nll)
        return losses

    def hidden(self, tokens: Tensor, documents: Tensor | None = None, cache: KeyValueCache | None = None) -> Tensor:
        """What the output projection sees, `[B, L, W]` behind the last norm: for heads of another kind."""
        return self._layers(tokens, documents, cache)[0]

    def _layers(
        self, tokens: Tensor, documents: Tensor | None, cache: KeyValueCache | None
    ) -> tuple[Tensor, list[Any]]:
        """`hidden`, and the routers' probabilities of each layer with experts."""
        x, places, inserted = self.model.embed_tokens(tokens), None, 0
        if self.prompt is not None and self.prompt.enabled and (cache is None or cache.fresh):
            x, documents, places = self.prompt(x, documents)
            inserted = x.shape[1] - tokens.shape[1]
        length = x.shape[1]
        if cache is not None:
            positions, sight = cache.begin(length, self.config.window, inserted)
        else:
            sight = sight_of_rows(documents, length, self.config.window, tokens.device, self.dtype)
            if documents is not None:
                positions = document_positions(documents)
            else:
                positions = torch.arange(length, device=tokens.device)[None]

        x, turn = self.embed(x, positions, cache)
        routers = []
        for number, layer in enumerate(self.model.layers):
            x, router = layer(x, turn, sight, cache, number)
            routers.append(router)
        if cache is not None:
            cache.advance(length - inserted)
        x = self.model.norm(x)
        if places is not None:  # what stands behind virtual tokens is nobody's business
            x, *routers = (None if y is None else _taken(y, places) for y in (x, *routers))
        return x, routers

    def embed(
        self, x: Tensor, positions: Tensor, cache: KeyValueCache | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """What goes into the first layer `[B, L, W]`, and the cosines and sines of the positions if they are rotary."""
        config = self.config
        if config.positions == "learned":
            return (x + self.model.embed_positions(positions)).to(self.dtype), None
        if config.positions == "sinusoidal":
            return (x + sinusoids(positions, config.width)).to(self.dtype), None
        if cache is not None:
            return x.to(self.dtype), cache.turn(positions)
        context = config.context_length + config.virtual_tokens
        frequency, factor = frequencies(
            config.head_width, config.rope_theta, config.rope_scaling, context, positions.device
        )
        return x.to(self.dtype), rotary(positions, frequency, factor, self.dtype)


def _taken(x: Tensor, places: Tensor) -> Tensor:
    """The positions `places [B, L]` of `x [B, M, ...]`: `[B, L, ...]`."""
    return x.gather(1, places[..., None].expand(-1, -1, x.shape[-1]))


def load_balance(probabilities: Tensor, chosen: int, real: Tensor) -> Tensor:
    """The load-balancing loss of each row: float32 `[B]`, 1 times `chosen` where the experts share the work evenly.

    probabilities: the routers' of all layers, float32 `[layers, B, L, E]`; real: bool `[B, L]`, false for padding. E times
    the sum over experts of (share of tokens sent there) x (mean probability), over all layers together (Fedus et al. 2021,
    arXiv 2101.03961, equations 4 to 6, as transformers does). By row, so that it does not depend on how rows are batched.
    """
    experts = probabilities.shape[-1]
    sent = F.one_hot(probabilities.topk(chosen, dim=-1).indices, experts).sum(dim=-2)  # [layers, B, L, E]
    weight = real[None, :, :, None].float() / (real.sum(dim=1)[None, :, None, None] * len(probabilities)).clamp(min=1)
    return experts * ((sent * weight).sum((0, 2)) * (probabilities * weight).sum((0, 2))).sum(-1)
