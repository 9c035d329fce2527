"""How much of its training data a model gives back word for word (Carlini et al. 2022, arXiv 2202.07646).

A document is shown up to some token and must be continued exactly. The same stretch of it is asked for at every length
of prefix, so that the lengths can be compared. Held-out documents say how much of it anyone could have guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tokenizer_training.dataset.read import TokenDataset
from training.evaluation.scoring import Request, mean_and_error, score
from training.model import Decoder


class Passage(NamedTuple):
    """The first tokens of a document, how often it stands in the data, and its id."""

    tokens: list[int]
    repeat: int
    id: str


def passages(data: TokenDataset, split: str, length: int, count: int) -> dict[int, list[Passage]]:
    """The first `length` tokens of the first `count` documents that have as many, for each number of repeats.

    Documents stand in shuffled order, so the first ones are a fair sample. A copy of a document already taken is left out.
    """
    found: dict[int, list[Passage]] = {}
    seen: set[str] = set()
    for number in range(len(data.splits.get(split, []))):
        sidecar = data.sidecar(split, number)
        payload = data.shard(split, number)
        enough = np.asarray(sidecar.lengths) >= length
        for repeat in np.unique(sidecar.repeats[enough]).tolist():
            taken = found.setdefault(int(repeat), [])
            for at in np.flatnonzero(enough & (sidecar.repeats == repeat)).tolist():
                if len(taken) == count:
                    break
                name = sidecar.ids[at].as_py()
                if name not in seen:
                    seen.add(name)
                    start = int(sidecar.offsets[at])
                    taken.append(Passage(payload[start : start + length].astype(np.int64).tolist(), int(repeat), name))
    return found


def memorisation(
    model: Decoder,
    data: TokenDataset,
    *,
    prefixes: Sequence[int],
    continuation: int,
    documents: int,
    batch_tokens: int,
    done: Callable[[int], object] = lambda count: None,
) -> dict[str, Any]:
    """Shares extracted at each length of prefix: of train documents, by how often they stand in the data, and of held-out ones.

    A continuation is extracted if greedy decoding gives all its tokens; that is so exactly where each is the likeliest
    one after the true tokens before it, which one forward pass shows. None where no document is long enough.
    """
    longest = max(prefixes)
    out: dict[str, Any] = {"prefixes": list(prefixes), "continuation": continuation}
    if longest + continuation > model.config.context_length:
        raise ValueError(f"{longest} + {continuation} tokens do not fit a context of {model.config.context_length}")
    train = passages(data, "train", longest + continuation, documents)
    held_out = passages(data, "validation", longest + continuation, documents)
    out["train"] = _extracted(
        model, [p for r in sorted(train) for p in train[r]], prefixes, continuation, batch_tokens, done
    )
    by_repeat = {
        str(repeat): _extracted(model, train[repeat], prefixes, continuation, batch_tokens, done)
        for repeat in sorted(train)
    }
    out["by_repeat"] = by_repeat if len(by_repeat) > 1 else {}
    out["held_out"] = _extracted(
        model, [p for r in sorted(held_out) for p in held_out[r]], prefixes, continuation, batch_tokens, done
    )
    return out


def _extracted(
    model: Decoder,
    asked: list[Passage],
    prefixes: Sequence[int],
    continuation: int,
    batch_tokens: int,
    done: Callable[[int], object],
) -> dict[str, Any] | None:
    if not asked:
        return None
    longest = max(prefixes)
    rows = []
    for prefix in prefixes:
        requests = [Request(p.tokens[longest - prefix : longest], p.tokens[longest:]) for p in asked]
        scored = score(model, requests, batch_tokens, likeliest=True, done=done)
        share, error = mean_and_error([float(one.greedy) for one in scored])
        given_back = [_leading(one.likeliest) for one in scored]
        rows.append(
            {
                "prefix": prefix,
                "extracted": share,
                "extracted_stderr": error,
                "tokens_given_back": sum(given_back) / len(given_back),
                "nats_per_token": sum(float(one.nll.mean()) for one in scored) / len(scored),
            }
        )
    return {"documents": len(asked), "by_prefix": rows}


def _leading(hits: np.ndarray | None) -> int:
    """How many tokens are given back before the first that is not."""
    assert hits is not None
    return int(np.logical_and.accumulate(hits).sum())
