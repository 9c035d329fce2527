"""Supervised fine-tuning: cross-entropy of what the assistant writes, and of nothing else, in packed rows."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from training.chat.folder import needed_tokens, own_template
from training.chat.grow import check_rows, grow_vocabulary, write_chat_tokenizer
from training.chat.templates import TEMPLATES
from training.checkpoint import checksum
from training.data import Batch, load_batch, open_dataset, step_rows
from training.device import Place
from training.knobs import TrainingError
from training.loss import IGNORED
from training.model import Decoder
from training.parallel import unwrap
from training.step import micro_batches
from training.tuning.examples import RowEncoder, read_examples
from training.tuning.run import Bench, Step, Task, steps_of, tune
from training.tuning.sft_config import OF_ROWS, SftConfig
from training.tuning.update import Figures, update
from training.vocabulary import tokenizer_sha256


class Source(Protocol):
    """Packed rows, each with something to train on."""

    def __len__(self) -> int: ...

    def batch(self, rows: Sequence[int]) -> Batch: ...


class Packed:
    """A split of a token dataset of conversations, whose masks say what is trained."""

    def __init__(self, split: Any) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split)

    def batch(self, rows: Sequence[int]) -> Batch:
        """As `Examples.batch`, of the dataset's row length."""
        return load_batch(self.split, list(rows), True)


class Sft(Task):
    """Fine-tuning on examples; `data`: a file or folder of rows, or a token dataset of kind chat."""

    kind = "sft"

    def __init__(self, config: SftConfig, model_dir: Path, data: Path) -> None:
        self.config, self.folder, self.data = config, model_dir, data
        self.packed_already = (data / "dataset.json").exists()
        self.told: dict[str, Any] = {}
        self.grown = 0
        self.scale: Tensor | None = None  # NEFTune's, of the micro-batch that is in work

    def inputs(self) -> list[str]:
        """Checksums of the data's files, and the chat template."""
        if self.packed_already:
            for key in OF_ROWS:
                if getattr(self.config, key) != SftConfig.model_fields[key].default:
                    raise TrainingError(
                        f"{key} is about rows that are still text; {self.data} is packed already: leave it out"
                    )
            return [checksum(self.data / "dataset.json")["xxh3"]]
        if not self.data.exists():
            raise TrainingError(
                f"{self.data}: no such file or folder; expected Parquet or JSONL rows, or a token dataset"
            )
        files = [self.data] if self.data.is_file() else sorted(file for file in self.data.iterdir() if file.is_file())
        template = "" if self.config.template else own_template(self.folder) or ""
        return [json.dumps([[file.name, checksum(file)["xxh3"]] for file in files]), template]

    def prepare(self, model: Decoder, here: Place) -> nn.Module:
        """Rows for new tokens, and noise on the embeddings."""
        self.encode = RowEncoder(self.folder, self.config.template, self.config.add_tokens, 0)
        if self.config.add_tokens:
            if not all(parameter.requires_grad for parameter in model.parameters()):
                raise TrainingError(
                    "add_tokens is for full fine-tuning: the rows of new tokens must learn; leave adapter out"
                )
            size = self.encode.form.tokenizer.get_vocab_size(with_added_tokens=True)
            self.grown = grow_vocabulary(model, size, self.config.seed)
        if self.config.neftune:
            model.model.embed_tokens.register_forward_hook(self._noise)
        return model

    def begin(self, bench: Bench) -> int:
        """Read and pack the data."""
        self.bench = bench
        limit = bench.model.config.context_length
        length = self.config.sequence_length or (None if self.packed_already else limit)
        if length is not None and length > limit:
            raise TrainingError(f"sequence_length={length:,} is more than the model's context of {limit:,}")
        if self.packed_already:
            self._open_packed(length)
        else:
            self._read(length or limit)
        form = self._form()
        if form is not None:
            bench.end = list(dict.fromkeys([*form.end_ids, *bench.end]))
        if self.grown:
            bench.log(
                f"{self.grown:,} special tokens are new to the model: {', '.join(needed_tokens(self.config.template))}"
            )
        return steps_of(self.config, len(self.train))

    def _read(self, length: int) -> None:
        config, bench = self.config, self.bench
        self.encode.end = bench.end[0]
        train, held, accounts = read_examples(
            self.data,
            self.encode,
            length,
            too_long=config.too_long,
            bad_rows=config.bad_rows,
            validation=config.validation,
            packing=config.packing,
            padding=bench.end[0],
        )
        size = max(int(side.tokens.max(initial=0)) for side in (train, held)) + 1
        check_rows(bench.model, size, self.folder)
        for line in accounts.lines():
            bench.log(line)
        tokens = int(train.starts[-1])
        bench.log(
            f"data: {len(train):,} rows to train on, {tokens / (len(train) * length):.1%} of {length:,} tokens filled; "
            f"{len(held):,} held out"
        )
        self.train: Source = train
        self.held: Source = held
        self.told = {
            **accounts.values(),
            "rows_packed": len(train),
            "rows_packed_held_out": len(held),
            "row_length": length,
        }

    def _open_packed(self, length: int | None) -> None:
        data = open_dataset(self.data, length)
        if data.tokens.facts.get("kind") != "chat":
            raise TrainingError(f"{self.data} holds documents, not conversations: `pretrain` trains on them")
        if data.sequence_length > self.bench.model.config.context_length:
            raise TrainingError(
                f"{self.data} has rows of {data.sequence_length:,} tokens, more than the model's context"
            )
        if data.tokens.facts.get("tokenizer_sha256") != tokenizer_sha256(self.folder):
            raise TrainingError(f"{self.data} was encoded with another tokenizer than that of {self.folder}")
        self.train, self.held = Packed(data.train), Packed(data.validation)
        if not self.config.validation:
            self.bench.log(f"validation: 0, so the {len(self.held):,} validation rows of {self.data} are not looked at")
        self.told = {
            "rows_packed": len(self.train),
            "rows_packed_held_out": len(self.held),
            "row_length": data.sequence_length,
        }

    def _form(self) -> Any:
        """The chat format, if the data or the folder has one."""
        wanted = self.config.template or own_template(self.folder)
        return self.encode.form if wanted or "form" in vars(self.encode) else None

    def step(self, number: int, rate: float) -> Step:
        """One update; its loss is the sum over all trained tokens divided by their number, over all processes."""
        config, here, bench = self.config, self.bench.here, self.bench
        rows = step_rows(number, len(self.train), config.batch_rows, config.seed, True, here.rank, here.world)
        batch = self.train.batch(rows)
        counts = [int((batch.documents >= 0).sum()), int((batch.targets != IGNORED).sum())]
        tokens, targets = here.sum(torch.tensor(counts, device=here.device)).tolist()
        if not targets:
            raise TrainingError(
                f"step {number + 1}: no token of rows {rows[:8]} is trained; look at the masks of {self.data}"
            )
        parts = list(micro_batches(batch, config.micro_batch_rows, here.device))
        made = update(bench.network, bench.optimizer, parts, self._objective, targets, config, here, rate)
        return Step(made, tokens)

    def _objective(self, network: nn.Module, part: Batch) -> tuple[Tensor, Figures]:
        if self.config.neftune:
            self.scale = noise_scale(part.documents, self.bench.model.config.width, self.config.neftune)
        losses = network(part.tokens, part.targets, part.documents)
        return losses.objective, {}

    def _noise(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        """Uniform noise on what goes into the first layer, while training."""
        if not module.training or self.scale is None:
            return output
        return output + self.scale * torch.empty_like(output).uniform_(-1, 1)

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Mean loss of the trained tokens of the first held-out rows, shared out among the processes."""
        config, here = self.config, self.bench.here
        rows = min(config.eval_rows, len(self.held)) if config.validation else 0
        if not rows:
            return {}
        sums = torch.zeros(2, dtype=torch.float64, device=here.device)
        mine = list(range(here.rank, rows, here.world))
        for start in range(0, -(-rows // here.world), config.micro_batch_rows):
            chosen = mine[start : start + config.micro_batch_rows]
            batch = self.held.batch(chosen or [0])
            if not chosen:  # every process takes as many forward passes: weights may be shared out among them
                batch.targets.fill_(IGNORED)
            part = next(micro_batches(batch, len(batch.rows), here.device))
            nll = unwrap(self.bench.network)(part.tokens, part.targets, part.documents).nll
            sums += torch.stack([nll.double().sum(), (part.targets != IGNORED).double().sum()])
        total, count = here.sum(sums).tolist()
        if not count:
            return {}
        if not math.isfinite(total):
            raise TrainingError(
                "the loss of held-out examples is not finite: the model has diverged; lower learning_rate"
            )
        return {"validation_loss": total / count}

    def save(self, folder: Path, bench: Bench) -> None:
        """The folder, with tokens and template that came new."""
        super().save(folder, bench)
        if bench.here.rank == 0:
            name = self.config.template
            template = TEMPLATES[name].text if name else None
            write_chat_tokenizer(self.folder, folder, needed_tokens(name) if self.config.add_tokens else (), template)

    def summary(self) -> dict[str, Any]:
        """What became of the data."""
        return {"data": self.told, "new_tokens": self.grown}


def noise_scale(documents: Tensor, width: int, alpha: float) -> Tensor:
    """NEFTune's bound of the noise, float32 `[B, L, 1]`: alpha / sqrt(n * width), n the tokens of a position's own example; 0 where padded.

    Jain et al. 2023 (arXiv 2310.05914), who have one example a row. documents: int64 `[B, L]`, from 0 in each row, -1 where padded.
    """
    number = documents + 1
    sizes = torch.zeros_like(number).scatter_add(1, number, torch.ones_like(number))
    bound = alpha / (sizes.gather(1, number) * width).sqrt()
    return bound.where(documents >= 0, 0.0)[..., None]


def sft(
    config: SftConfig,
    model_dir: str | Path,
    data: str | Path,
    out_dir: str | Path,
    *,
    log: Callable[[str], Any] = print,
    show: Callable[[str], Any] | None = None,
    stop: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Fine-tune a model folder on a file or folder of rows (Parquet, JSONL) or a token dataset of kind chat; see `tune`.

    Rows: `messages`; or `instruction`, `input`, `output`; or `text`. Raises `TrainingError` that names a bad one.
    """
    return tune(Sft(config, Path(model_dir), Path(data)), config, model_dir, out_dir, log=log, show=show, stop=stop)
