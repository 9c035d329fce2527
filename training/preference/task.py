"""What DPO and the reward model share: pairs are read, held out by prompt, and `batch_rows` of them make a step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.chat.format import chat_format
from training.data import step_rows
from training.preference.pairs import Example, encode_pairs, pairs_identity, read_pairs
from training.tuning.config import TuneConfig
from training.tuning.run import Bench, Step, Task
from training.tuning.update import Figures, update


class PairTask(Task):
    """Training on the preference pairs of a file or folder. `train`: what `begin` made of the pairs to train on."""

    config: TuneConfig
    train: Sequence[Any]

    def __init__(self, config: TuneConfig, model_dir: Path, pairs: Path) -> None:
        self.config, self.model_dir, self.path = config, model_dir, pairs

    def inputs(self) -> list[str]:
        """The checksum of the pairs."""
        self.pairs = read_pairs(self.path)
        return [pairs_identity(self.pairs)]

    def encoded(self, bench: Bench) -> tuple[list[Example], list[Example]]:
        """(training, held-out) pairs as tokens; the held-out ones at most `eval_rows`."""
        self.bench, self.form = bench, chat_format(self.model_dir)
        context, config = bench.model.config.context_length, self.config
        limit = min(config.sequence_length or context, context)
        train, held_out = encode_pairs(self.pairs, self.form, limit, config.validation, bench.log)
        return train, held_out[: config.eval_rows]

    def objective(self, network: nn.Module, part: Sequence[Any]) -> tuple[Tensor, Figures]:
        """The sum of the pairs' losses, and figures."""
        raise NotImplementedError

    def tokens(self, pair: Any) -> int:
        """How many tokens are read of one of `train`."""
        return len(pair.chosen.ids) + len(pair.rejected.ids)

    def step(self, number: int, rate: float) -> Step:
        """One update from `batch_rows` pairs."""
        here, config = self.bench.here, self.config
        rows = step_rows(number, len(self.train), config.batch_rows, config.seed, True, here.rank, here.world)
        pairs, size = [self.train[row] for row in rows], config.micro_batch_rows
        parts = [pairs[at : at + size] for at in range(0, len(pairs), size)]
        made = update(
            self.bench.network, self.bench.optimizer, parts, self.objective, config.batch_rows, config, here, rate
        )
        read = torch.tensor(sum(map(self.tokens, pairs)), device=here.device)
        return Step(made, int(here.sum(read)))
