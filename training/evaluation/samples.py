"""What a model writes behind fixed prompts: the same texts each time, so that models can be compared by eye."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer

from training.evaluation.continuations import continue_all
from training.generate import greedy, random_sampler
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
    out = []
    for number, prompt in enumerate(prompts):
        ids = encode_text(tokenizer, prompt)
        room = model.config.context_length - len(ids)
        if room < 1:
            raise TrainingError(
                f"evaluate.prompts: {prompt[:40]!r} has {len(ids)} tokens, the context is {model.config.context_length}"
            )
        sampler = greedy if temperature == 0 else random_sampler(seed + number, temperature)
        new = continue_all(model, [ids], min(new_tokens, room), end, sampler=sampler)[0]
        # together, since a character may be cut between them
        whole = tokenizer.decode(ids + new, skip_special_tokens=False)
        start = tokenizer.decode(ids, skip_special_tokens=False)
        out.append({"prompt": prompt, "text": whole[len(start) :]})
    return out
