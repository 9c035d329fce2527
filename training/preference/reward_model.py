"""A reward model: a decoder with a score in place of the output projection, trained on which of two answers is better.

It is saved as transformers' *ForSequenceClassification with one label: the score of a conversation is that of its last token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.architectures import SCORER_CLASSES, from_transformers, read_weights, weights
from training.checkpoint import copy_tokenizer, write_json, write_tensors, write_whole
from training.config_json import config_json, read_model_config
from training.device import Place
from training.knobs import TrainingError
from training.model import Decoder
from training.parallel import unwrap
from training.preference.calibration import judge
from training.preference.config import RewardConfig
from training.preference.losses import bradley_terry_losses, preferred
from training.preference.pairs import Example, last_positions, pad
from training.preference.task import PairTask
from training.shards import whole
from training.tuning.run import Bench, steps_of, tune
from training.tuning.update import Figures

SCORE_STD = 0.02  # of the head's first weights, as transformers draws them


class Scorer(nn.Module):
    """A decoder whose hidden states are scored: rewards of conversations, or values of states."""

    def __init__(self, decoder: Decoder, std: float = 0.0, seed: int = 0) -> None:
        """Takes the decoder over. std: of the head's weights, drawn with `seed`; 0: every score is 0 at first."""
        super().__init__()
        decoder.config = replace(
            decoder.config, tie_embeddings=True
        )  # so that no unused projection is trained or saved
        decoder.tie()
        self.decoder = decoder
        self.score = nn.Linear(decoder.config.width, 1, bias=False)
        with torch.no_grad():
            self.score.weight.normal_(0.0, std, generator=torch.Generator().manual_seed(seed % 2**63))

    def forward(self, tokens: Tensor, documents: Tensor | None = None) -> Tensor:
        """The score at every position, float32 `[B, L]`, of int64 tokens `[B, L]`; `documents` as `Decoder.forward` takes them."""
        hidden = self.decoder.hidden(tokens, documents)
        return (hidden.float() @ self.score.weight.float().T)[..., 0]


def save_scorer(folder: Path, scorer: Scorer, tokenizer_dir: Path, end: list[int], turn_end: int, here: Place) -> None:
    """Write config, float32 weights and tokenizer as transformers loads them. All processes call this, the first writes.

    end: ids that end a text; turn_end: the one that ends an assistant's turn. transformers finds a conversation's last token as the
    last that is not padding, so the padding is an id that ends texts and no turn; without one it scores one conversation at a time.
    """
    tensors = weights(scorer.decoder, keep=here.rank == 0)
    tensors["score.weight"] = whole(scorer.score.weight.detach()).float().cpu()
    if here.rank > 0:
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "model.safetensors", lambda file: write_tensors(file, tensors))
    copy_tokenizer(tokenizer_dir, folder)
    about = config_json(scorer.decoder.config, end)
    padding = [one for one in end if one != turn_end]
    about |= {
        "architectures": [SCORER_CLASSES[about["architectures"][0]]],
        "num_labels": 1,
        "id2label": {"0": "score"},
        "label2id": {"score": 0},
        "pad_token_id": padding[0] if padding else None,
    }
    write_json(folder / "config.json", about)


def load_scorer(folder: Path, device: torch.device, dtype: torch.dtype = torch.float32) -> Scorer:
    """The reward model of a folder, with float32 weights, computing in `dtype`. Raises `TrainingError` if it is none."""
    config, _ = read_model_config(folder, SCORER_CLASSES)
    tensors = read_weights(folder)
    score = tensors.pop("score.weight", None)
    if score is None or score.shape != (1, config.width):
        shown = "missing" if score is None else list(score.shape)
        raise TrainingError(
            f"{folder}: score.weight is {shown}, expected [1, {config.width}]: a reward model of one label"
        )
    scorer = Scorer(Decoder(replace(config, tie_embeddings=True), dtype))
    ours = from_transformers(scorer.decoder.config, tensors, folder)
    with torch.no_grad():
        for name, parameter in scorer.decoder.named_parameters():
            parameter.copy_(ours[name])
        scorer.score.weight.copy_(score)
    return scorer.to(device).eval()


class RewardTask(PairTask):
    """A reward model from the pairs of a file or folder."""

    kind = "reward"
    config: RewardConfig
    shown = ("loss", "accuracy", "margin")

    def __init__(self, config: RewardConfig, model_dir: Path, pairs: Path) -> None:
        super().__init__(config, model_dir, pairs)
        self.judged: dict[str, Any] = {}

    def prepare(self, model: Decoder, here: Place) -> nn.Module:
        """The model with a head of small random weights."""
        self.scorer = Scorer(model, SCORE_STD, self.config.seed)
        return self.scorer

    def begin(self, bench: Bench) -> int:
        """Encode the pairs."""
        self.train, self.held_out = self.encoded(bench)
        return steps_of(self.config, len(self.train))

    def objective(self, network: nn.Module, part: Sequence[Example]) -> tuple[Tensor, Figures]:
        """The sum of the pairs' losses, and figures."""
        chosen, rejected = pair_scores(network, part, self.bench.here.device)
        margins = torch.tensor([one.margin for one in part], device=chosen.device) if self.config.margins else None
        losses = bradley_terry_losses(chosen, rejected, margins, self.config.centring)
        pairs, apart = float(len(part)), (chosen - rejected).detach()
        return losses.sum(), {
            "accuracy": (preferred(apart).sum(), pairs),
            "margin": (apart.sum(), pairs),
            "mean_score": ((chosen + rejected).detach().sum() / 2, pairs),
        }

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Accuracy, loss and calibration on held-out pairs; the bins of the last one stand in training.json."""
        here, rows = self.bench.here, self.config.micro_batch_rows
        if not self.held_out:
            return {}
        network = unwrap(self.bench.network)
        mine = self.held_out[here.rank :: here.world]
        apart: list[float] = []
        for start in range(0, -(-len(self.held_out) // here.world), rows):
            part = mine[start : start + rows]
            chosen, rejected = pair_scores(network, part or self.held_out[:1], here.device)
            apart += (chosen - rejected).tolist()[: len(part)]
        shares = here.gather(apart)
        self.judged = judge([shares[at % here.world][at // here.world] for at in range(len(self.held_out))])
        names = ("loss", "accuracy", "margin", "calibration_error")
        return {f"validation_{name}": self.judged[name] for name in names}

    def save(self, folder: Path, bench: Bench) -> None:
        """Write the folder of a *ForSequenceClassification."""
        save_scorer(folder, self.scorer, bench.folder, bench.end, self.form.end_ids[0], bench.here)

    def summary(self) -> dict[str, Any]:
        """The bins of the reliability diagram."""
        return {"held_out": self.judged}


def pair_scores(network: nn.Module, part: Sequence[Example], device: torch.device) -> tuple[Tensor, Tensor]:
    """Scores of the chosen and of the rejected conversations, float32 `[N]` each, in one pass."""
    answers = [one.chosen for one in part] + [one.rejected for one in part]
    tokens, _ = pad(answers, device)
    scores = network(tokens).gather(1, last_positions(answers, device)[:, None])[:, 0]
    return scores[: len(part)], scores[len(part) :]


def reward(
    config: RewardConfig,
    model_dir: str | Path,
    pairs: str | Path,
    out_dir: str | Path,
    *,
    log: Callable[[str], Any] = print,
    show: Callable[[str], Any] | None = None,
    stop: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Train a reward model from the model in `model_dir`; see `tuning.run.tune` for what is left, returned and raised."""
    task = RewardTask(config, Path(model_dir), Path(pairs))
    return tune(task, config, model_dir, out_dir, log=log, show=show, stop=stop)
