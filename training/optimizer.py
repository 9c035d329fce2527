"""AdamW, or Muon with AdamW, as one object whose state goes by the names of the parameters; gradient clipping.

What a checkpoint keeps of an optimizer is `Optimizer.state()`: a flat dict from `"ENTRY.NAME"` to a tensor, where NAME
is the parameter's and ENTRY is `step`, `exp_avg`, `exp_avg_sq` (AdamW) or `momentum_buffer` (Muon). The tensors are the
live ones, on the device of the parameter and, like it, DTensors where the model is sharded. Nothing else changes from
step to step: rates are set before every update and the groups follow from model and config.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from training.device import choose_dtype
from training.knobs import TrainerConfig
from training.shards import local, one_each, parts_of_each, turns, whole

MUON_STEPS = 5  # of Newton-Schulz, with coefficients a, b, c that make small singular values grow fastest (Jordan 2024)
MUON_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
MUON_EPS = 1e-7

ADAMW_ENTRIES = ("step", "exp_avg", "exp_avg_sq")  # of the state of a parameter
MUON_ENTRIES = ("momentum_buffer",)


class Optimizer:
    """One or two of torch's optimizers over the parameters of a model."""

    def __init__(self, parts: list[torch.optim.Optimizer], names: Mapping[nn.Parameter, str]) -> None:
        self.parts = parts
        self._names: dict[Tensor, str] = {parameter: name for parameter, name in names.items()}

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of all parts; `rate_scale` is a group's learning rate as a share of the run's."""
        return [group for part in self.parts for group in part.param_groups]

    def zero_grad(self) -> None:
        """Free the gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def step(self, rate: float) -> None:
        """One update of every parameter that has a gradient, at the learning rate `rate` times its group's scale."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = rate * group["rate_scale"]
            part.step()

    def state(self) -> dict[str, Tensor]:
        """All that must be kept to go on exactly; see the top of the file. Empty before the first update."""
        return {
            f"{entry}.{self._names[parameter]}": value
            for part in self.parts
            for parameter, entries in part.state.items()
            for entry, value in entries.items()
        }

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Put `state()` back: copies, on the parameter's device. Entries of no parameter of this model are left alone.

        Raises `KeyError` with the name of an entry that is missing beside others of its parameter, or if there are none.
        """
        for part in self.parts:
            state = {}
            ordered = [parameter for group in part.param_groups for parameter in group["params"]]
            for number, parameter in enumerate(ordered):
                keys = {entry: f"{entry}.{self._names[parameter]}" for entry in self._entries(part)}
                if any(key in tensors for key in keys.values()):  # an expert that no token chose has none yet
                    state[number] = {entry: tensors[key].clone() for entry, key in keys.items()}
            if ordered and not state:
                raise KeyError(next(iter(keys.values())))
            part.load_state_dict({**part.state_dict(), "state": state})

    @staticmethod
    def _entries(part: torch.optim.Optimizer) -> tuple[str, ...]:
        return MUON_ENTRIES if isinstance(part, Muon) else ADAMW_ENTRIES


def build_optimizer(model: nn.Module, config: TrainerConfig, copies: int = 1) -> Optimizer:
    """The optimizer that the config asks for, over all parameters of the model that learn; `copies`: processes that hold the
    whole model and take every step together (DDP).

    Matrices and embeddings decay, vectors (norms and biases) do not; `decay_embeddings: false` spares embeddings too.
    With Muon, AdamW is left with embeddings, output projection and vectors.
    """
    names = {parameter: name for name, parameter in model.named_parameters() if parameter.requires_grad}
    adamw: list[dict[str, Any]] = []
    muon: list[dict[str, Any]] = []
    for group in parameter_groups(model, config):
        (muon if group.pop("muon") else adamw).append(group)
    parts: list[torch.optim.Optimizer] = []
    if adamw:
        betas = (config.beta1, config.beta2)
        parts.append(torch.optim.AdamW(adamw, lr=config.learning_rate, betas=betas, fused=True))
    if muon:
        parts.append(Muon(muon, lr=config.learning_rate, momentum=config.muon_momentum, copies=copies))
    return Optimizer(parts, names)


def parameter_groups(model: nn.Module, config: TrainerConfig) -> list[dict[str, Any]]:
    """The parameters in groups of equal treatment: `params`, `weight_decay`, `rate_scale`, `muon`; none is empty.

    A tied output projection is an embedding here.
    """
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    embeddings = {id(parameter) for module in tables for parameter in module.parameters(recurse=False)}
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        decay, rate, muon = config.weight_decay, config.learning_rate, False
        if parameter.dim() < 2:
            decay = 0.0
        elif id(parameter) in embeddings:
            rate = config.embedding_learning_rate or rate
            decay = decay if config.decay_embeddings else 0.0
        elif name == "lm_head.weight":
            rate = config.head_learning_rate or rate
        elif config.optimizer == "muon":
            rate, muon = config.muon_learning_rate or rate, True
        settings = {"weight_decay": decay, "rate_scale": rate / config.learning_rate, "muon": muon}
        groups.setdefault(tuple(settings.values()), {"params": [], **settings})["params"].append(parameter)
    return list(groups.values())


class Muon(torch.optim.Optimizer):
    """Momentum whose step is made orthogonal, so that no direction of a matrix dominates (Jordan et al. 2024).

    Updates are scaled by 0.2 * sqrt(max(rows, columns)), whose root mean square is AdamW's, so that AdamW's learning
    rate and decay serve here too (Liu et al. 2025, Muon is Scalable for LLM Training, arXiv 2502.16982). The numbers are
    those of `torch.optim.Muon` with `adjust_lr_fn="match_rms_adamw"` where bfloat16 is native; elsewhere the iterations run in
    float32, which is 25 times faster there. Three things it lacks are why this one exists:

    - a parameter with an attribute `row_blocks` (such as `(H * D, K * D, K * D)` of a fused query, key and value
      projection) is orthogonalised block by block, as separate matrices would be;
    - a parameter of three dimensions (the experts of a layer) is a stack of matrices;
    - the work is shared out over processes: of the parameters that they hold copies or parts of each takes one at a time, and
      computes its direction for all. The step is that of one process with the whole matrix.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], lr: float, momentum: float, weight_decay: float = 0.0, copies: int = 1
    ) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.copies = copies  # processes that each hold all of every parameter and gradient

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient, with Nesterov's momentum."""
        assert closure is None
        for group in self.param_groups:
            learning = [parameter for parameter in group["params"] if parameter.grad is not None]
            for parameters in turns(learning, self.copies):
                updates = [self._momentum(parameter, group["momentum"]) for parameter in parameters]
                mine, update = one_each(updates, self.copies)
                direction = None if update is None else _direction(update, parameters[mine])
                for parameter, moved in zip(parameters, parts_of_each(direction, updates, self.copies), strict=True):
                    mine_of_it = local(parameter)
                    mine_of_it.mul_(1 - group["lr"] * group["weight_decay"])
                    mine_of_it.add_(moved, alpha=-group["lr"])

    def _momentum(self, parameter: Tensor, momentum: float) -> Tensor:
        """What the step is the direction of, and the new momentum in the parameter's state."""
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        return gradient.lerp(state["momentum_buffer"].lerp_(gradient, 1 - momentum), momentum)


def _direction(update: Tensor, parameter: Tensor) -> Tensor:
    blocks = _row_blocks(update, getattr(parameter, "row_blocks", None))
    return torch.cat([muon_direction(block) for block in blocks], dim=-2)


def _row_blocks(matrix: Tensor, sizes: tuple[int, ...] | None) -> Iterator[Tensor]:
    yield from matrix.split(list(sizes), dim=-2) if sizes else (matrix,)


def muon_direction(update: Tensor) -> Tensor:
    """`[rows, columns]`, or a stack of such, with singular values near 1 and the scale of AdamW's updates, in the dtype of `update`.

    Newton-Schulz iterations of the fifth degree, in bfloat16 where it is native.
    """
    a, b, c = MUON_COEFFICIENTS
    rows, columns = update.shape[-2:]
    x = update.to(choose_dtype("auto", update.device))
    if rows > columns:
        x = x.mT
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=MUON_EPS)
    add_product = torch.addmm if x.dim() == 2 else torch.baddbmm
    for _ in range(MUON_STEPS):
        gram = x @ x.mT
        gram = add_product(gram, gram, gram, beta=b, alpha=c)
        x = add_product(x, gram, x, beta=a)
    if rows > columns:
        x = x.mT
    return x.to(update.dtype) * (0.2 * math.sqrt(max(rows, columns)))


def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """The Euclidean norm of all gradients together, over all shards of sharded ones: a float32 scalar."""
    norm = get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    return whole(norm)


def clip_gradient(parameters: Iterable[Tensor], limit: float, norm: Tensor) -> None:
    """Scale gradients whose norm is `norm` down to `limit` if they are longer (0: never)."""
    if limit > 0:
        clip_grads_with_norm_(parameters, limit, norm)
