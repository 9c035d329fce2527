"""What a completion is worth: what its verifier says, and the scores of reward models, added up."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch

from training.chat.format import ChatFormat, chat_format
from training.device import Place, available_threads
from training.knobs import TrainingError
from training.preference.pairs import Answer, last_positions, pad
from training.preference.reward_model import Scorer, load_scorer
from training.reinforcement.prompts import Prompt
from training.tuning.run import model_identity
from training.verify import verifier
from training.verify.registry import check_answer
from training.verify.verdict import Verifier


class Verifiers:
    """The verifiers that prompts name, each made once. options: those of each by its name."""

    def __init__(self, options: dict[str, dict[str, Any]]) -> None:
        self.options = options
        self.made: dict[str, Verifier] = {}

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Raise `TrainingError` for a verifier that does not exist, or an answer that it cannot check by."""
        for prompt in prompts:
            if prompt.verifier is None:
                continue
            if prompt.answer is None:
                raise TrainingError(f"{prompt.where}: verifier {prompt.verifier!r} but no answer to check by")
            try:
                check = self.get(prompt.verifier)
            except TrainingError as error:
                raise TrainingError(f"{prompt.where}: {error}") from None
            check_answer(prompt.verifier, check, prompt.answer, prompt.where)

    def get(self, name: str) -> Verifier:
        """The verifier of this name."""
        if name not in self.made:
            self.made[name] = verifier(name, **self.options.get(name, {}))
        return self.made[name]

    def score(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[float]:
        """What each prompt's verifier says of its completion, in order; 0 of a prompt without one."""

        def one(prompt: Prompt, text: str) -> float:
            if prompt.verifier is None or prompt.answer is None:
                return 0.0
            return float(self.get(prompt.verifier)(text, prompt.answer).score)

        if any(prompt.verifier == "python_tests" for prompt in prompts):
            with ThreadPoolExecutor(available_threads()) as pool:
                return list(pool.map(one, prompts, texts))
        return [one(prompt, text) for prompt, text in zip(prompts, texts, strict=True)]


class RewardModel:
    """A reward model's folder, ready to score completions of another model. It never learns."""

    def __init__(self, folder: Path, here: Place, rows: int) -> None:
        self.scorer: Scorer = load_scorer(folder, here.device, here.dtype).requires_grad_(False)
        self.form: ChatFormat = chat_format(folder)
        self.device, self.rows = here.device, rows

    @torch.no_grad()
    def score(self, prompts: Sequence[Prompt], texts: Sequence[str], ended: Sequence[bool]) -> list[float]:
        """The score of each conversation, in order. One that is too long for the model is cut on the left.

        ended: whether the answer ended by itself; the end token that the template writes is taken off another.
        """
        limit = self.scorer.decoder.config.context_length
        answers = []
        for prompt, text, whole in zip(prompts, texts, ended, strict=True):
            ids = self.form.encode([*prompt.messages, {"role": "assistant", "content": text}]).ids
            if not whole:
                ids = ids[: max((at for at, one in enumerate(ids) if one in self.form.end_ids), default=len(ids))]
            answers.append(Answer(ids[-limit:], [False] * len(ids[-limit:])))
        found = [0.0] * len(answers)
        order = sorted(range(len(answers)), key=lambda at: len(answers[at].ids))
        for start in range(0, len(order), self.rows):
            some = order[start : start + self.rows]
            part = [answers[at] for at in some]
            tokens, _ = pad(part, self.device)
            scores = self.scorer(tokens).gather(1, last_positions(part, self.device)[:, None])[:, 0]
            for at, score in zip(some, scores.tolist(), strict=True):
                found[at] = score
        return found


class Rewards:
    """A run's rewards: verifiers and reward models, and the judge that is only watched."""

    def __init__(self, models: Sequence[Path], judge: Path | None, options: dict[str, dict[str, Any]]) -> None:
        self.folders, self.judge_folder = list(models), judge
        self.verifiers = Verifiers(options)
        self.models: list[RewardModel] = []
        self.judge: RewardModel | None = None

    def inputs(self) -> list[str]:
        """What identifies the reward models. Raises `TrainingError` for a folder that is none."""
        folders = [*self.folders, *([self.judge_folder] if self.judge_folder else [])]
        return [part for folder in folders for part in ("reward", *model_identity(folder))]

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Raise `TrainingError` if a completion of some prompt could not be rewarded at all."""
        self.verifiers.check(prompts)
        if not self.folders:
            for prompt in prompts:
                if prompt.verifier is None:
                    raise TrainingError(
                        f"{prompt.where}: nothing rewards this prompt: it names no verifier. Give one (the knob verifier), "
                        f"or a reward model"
                    )

    def load(self, here: Place, rows: int) -> None:
        """Read the models."""
        make = partial(RewardModel, here=here, rows=rows)
        self.models = [make(folder) for folder in self.folders]
        self.judge = make(self.judge_folder) if self.judge_folder else None

    def score(self, prompts: Sequence[Prompt], texts: Sequence[str], ended: Sequence[bool]) -> list[float]:
        """The reward of each completion: the sum of what rewards it."""
        found = self.verifiers.score(prompts, texts)
        for model in self.models:
            found = [sum(both) for both in zip(found, model.score(prompts, texts, ended), strict=True)]
        return found
