"""Exposure: how much likelier a model finds an inserted secret than secrets that were never inserted.

Source: Carlini et al. 2019, The Secret Sharer (arXiv 1802.08232). Exposure is log2 of the number of possible secrets over
the rank of this one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tokenizers import Tokenizer

from training.evaluation.canaries_file import Canary
from training.evaluation.scoring import Request, score
from training.model import Decoder
from training.vocabulary import encode_text


def exposure(
    model: Decoder,
    tokenizer: Tokenizer,
    canaries: list[Canary],
    *,
    end: int,
    samples: int,
    seed: int,
    batch_tokens: int,
    done: Callable[[int], object] = lambda count: None,
) -> list[dict[str, Any]]:
    """Rank and exposure in bits of each canary.

    `exact`: the rank is among the whole space. Otherwise the share of a sample that is at least as likely, the secret
    counted in, stands for the rank's share of the space: the estimate cannot go above log2(samples + 1), and `at_least`
    says that no alternative was likelier, so that the true exposure may be any amount above it.
    """
    out = []
    for canary in canaries:
        secrets = [canary.secret, *canary.alternatives(samples, seed)]
        exact = len(secrets) == canary.space
        texts = [canary.template.replace("{}", secret) for secret in secrets]
        scored = score(model, [Request([end], encode_text(tokenizer, text)) for text in texts], batch_tokens, done=done)
        values = [one.loglikelihood for one in scored]
        rank = 1 + sum(value >= values[0] for value in values[1:])
        out.append(
            {
                "template": canary.template,
                "repeat": canary.repeat,
                "space": canary.space,
                "compared": len(secrets) - 1,
                "exact": exact,
                "rank": rank,
                "exposure": math.log2(len(secrets)) - math.log2(rank),
                "highest": math.log2(canary.space),
                "at_least": not exact and rank == 1,
                "nats": -values[0],
            }
        )
    return out
