"""Our decoder as a model of lm-evaluation-harness, registered there as `gristmill`. Imported only where lm_eval is installed.

Scoring is batched and needs no key/value cache; generation uses one. Text never becomes a special token here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from tokenizers import Tokenizer

from training.checkpoint import load_model
from training.device import choose_device, choose_dtype
from training.evaluation.scoring import Request, score
from training.evaluation.windows import rolling_windows
from training.inference.batch import generate_batch
from training.inference.sampling import Sampling
from training.knobs import TrainingError
from training.model import Decoder
from training.vocabulary import encode_text, load_tokenizer

NEW_TOKENS = 256  # where a task names no limit, as HFLM
LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # names that tasks have for it


@register_model("gristmill")
class GristmillLM(TemplateLM):
    """A model folder, or a decoder that is loaded already."""

    def __init__(
        self,
        path: str | None = None,
        *,
        loaded: tuple[Decoder, Tokenizer, list[int]] | None = None,
        device: str = "auto",
        dtype: str = "float32",
        batch_tokens: int = 8192,
        **unused: Any,  # what the harness passes to every model: batch_size, max_batch_size
    ) -> None:
        super().__init__()
        if loaded is None:
            if path is None:
                raise TrainingError("the model gristmill needs model_args path=MODEL")
            where = choose_device(str(device))
            model, end = load_model(Path(path), where, choose_dtype(dtype, where))
            loaded = model, load_tokenizer(Path(path)), end
        self.decoder, self.encoder, self.end = loaded
        self.batch_tokens = int(batch_tokens)
        self._device = next(self.decoder.parameters()).device

    @property
    def eot_token_id(self) -> int:
        if not self.end:
            raise TrainingError("config.json names no eos_token_id, which the harness puts before a text")
        return self.end[0]

    @property
    def max_length(self) -> int:
        """Tokens of the context."""
        return self.decoder.config.context_length

    @property
    def tokenizer_name(self) -> str:
        return "gristmill"

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **unused: Any) -> list[int]:
        return encode_text(self.encoder, string)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **unused: Any
    ) -> list[tuple[float, bool]]:
        wanted = [Request(context, continuation) for _, context, continuation in requests]
        found = score(self.decoder, wanted, self.batch_tokens, likeliest=True)
        answers = [(one.loglikelihood, one.greedy) for one in found]
        for (texts, _, _), answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood", texts, answer)
        return answers

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        windows: list[Request] = []
        owners: list[int] = []
        for number, request in enumerate(requests):
            for window in rolling_windows(
                self.tok_encode(request.args[0]), self.eot_token_id, self.max_length, self.max_length
            ):
                windows.append(window)
                owners.append(number)
        totals = [0.0] * len(requests)
        for owner, one in zip(owners, score(self.decoder, windows, self.batch_tokens), strict=True):
            totals[owner] += one.loglikelihood
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        answers: list[str] = [""] * len(requests)
        same: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            same.setdefault(repr(request.args[1]), []).append(number)
        for numbers in same.values():
            settings = requests[numbers[0]].args[1]
            texts = self._generate([requests[i].args[0] for i in numbers], settings)
            for number, text in zip(numbers, texts, strict=True):
                answers[number] = text
                self.cache_hook.add_partial("generate_until", requests[number].args, text)
        return answers

    def _generate(self, contexts: list[str], settings: dict[str, Any]) -> list[str]:
        until = settings.get("until") or []
        until = [until] if isinstance(until, str) else [text for text in until if text]
        new_tokens = int(next((settings[key] for key in LIMITS if key in settings), NEW_TOKENS))
        room = self.max_length - new_tokens
        if room < 1:
            raise TrainingError(f"a task asks for {new_tokens} new tokens, the model's context is {self.max_length}")
        temperature = float(settings.get("temperature") or 0.0)
        sampled = settings.get("do_sample", temperature > 0) and temperature > 0
        sampling = Sampling(
            temperature=temperature if sampled else 0.0,
            top_k=(settings.get("top_k") or None) if sampled else None,
            top_p=settings.get("top_p") if sampled else None,
            max_new_tokens=new_tokens,
            stop=tuple(until),
        )
        # without a context the harness starts from the end token, as for likelihoods
        prompts = [(self.tok_encode(context) or [self.eot_token_id])[-room:] for context in contexts]
        found = generate_batch(self.decoder, prompts, sampling, self.end, tokenizer=self.encoder)
        return [one.text for one in found]
