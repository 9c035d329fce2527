"""What the model says at fixed prompts while it learns: samples.jsonl. Nothing here touches the run's random state."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from training.config import PretrainConfig
from training.device import Place
from training.inference.batch import generate_batch
from training.inference.sampling import Sampling
from training.metrics import MetricsFile
from training.model import Decoder
from training.vocabulary import encode_text, load_tokenizer


class Samples:
    """The prompts of a run, encoded once, and the file of their continuations."""

    def __init__(
        self,
        config: PretrainConfig,
        context_length: int,
        tokenizer_dir: Path,
        eos_id: int,
        out_dir: Path,
        here: Place,
        done: int,
        log: Callable[[str], Any],
    ) -> None:
        """Go on behind step `done`. A prompt without a token, or without room for another behind it, is left out aloud."""
        self.config, self.eos_id, self.seed = config, eos_id, config.seed % 2**63
        self.tokenizer = load_tokenizer(tokenizer_dir)
        self.prompts: list[tuple[str, list[int]]] = []
        for prompt in config.sample_prompts:
            ids = encode_text(self.tokenizer, prompt)
            if 0 < len(ids) < context_length:
                self.prompts.append((prompt, ids))
            else:
                log(f"sample prompt {prompt[:40]!r} has {len(ids)} tokens, rows have {context_length}: left out")
        self.file = MetricsFile(out_dir / "samples.jsonl", done) if here.rank == 0 and self.prompts else None
        self.last: list[dict[str, str]] = []

    def cut(self, step: int) -> None:
        """Take back the samples of later steps."""
        if self.file is not None:
            self.file.cut(step)

    def draw(self, step: int, model: Decoder) -> None:
        """Continue each prompt with the random numbers of the seed, the same at every step.

        Every process draws, and takes equally many forward passes, since weights may be shared out among them: none stops at
        an end token, what follows it is cut away.
        """
        config, prompts = self.config, [ids for _, ids in self.prompts]
        sampling = Sampling(temperature=config.sample_temperature, max_new_tokens=config.sample_tokens)
        found = generate_batch(model, prompts, sampling, [], seeds=[self.seed] * len(prompts))
        self.last = [
            {"prompt": prompt, "text": self._text(ids, one.tokens)}
            for (prompt, ids), one in zip(self.prompts, found, strict=True)
        ]
        if self.file is not None:
            self.file.write({"step": step, "samples": self.last})

    def _text(self, ids: list[int], new: list[int]) -> str:
        if self.eos_id in new:
            new = new[: new.index(self.eos_id)]
        start = self.tokenizer.decode(ids, skip_special_tokens=False)
        return self.tokenizer.decode(ids + new, skip_special_tokens=False)[len(start) :]
