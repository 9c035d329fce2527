"""What a model writes behind fixed prompts: the same texts each time, so that models can be compared by eye."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer

from training.inference.batch import generate_batch
from training.inference.sampling import Sampling
from training.knobs import TrainingError
from training.model import Decoder
from training.vocabulary import encode_text


def samples(
    model: Decoder,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    *,
    end: Sequence[int],
    new_tokens: int,
    temperature: float,
    seed: int,
) -> list[dict[str, str]]:
    """`prompt` and `text` (without the prompt) of each. A prompt draws from its own seed, so others do not change it."""
    encoded = encode(tokenizer, prompts, model.config.context_length)
    sampling = Sampling(temperature=temperature, max_new_tokens=new_tokens, seed=seed)
    found = generate_batch(model, encoded, sampling, end, tokenizer=tokenizer, special=True)
    return [{"prompt": prompt, "text": one.text} for prompt, one in zip(prompts, found, strict=True)]


def encode(tokenizer: Tokenizer, prompts: Sequence[str], context: int) -> list[list[int]]:
    """The ids of each prompt. Raises `TrainingError` for one without a token, or that fills the context."""
    encoded = [encode_text(tokenizer, prompt) for prompt in prompts]
    for prompt, ids in zip(prompts, encoded, strict=True):
        if not 0 < len(ids) < context:
            raise TrainingError(
                f"evaluate.prompts: {prompt[:40]!r} has {len(ids)} tokens; expected 1 to {context - 1}, the context is {context}"
            )
    return encoded
