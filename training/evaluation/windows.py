"""A long text in windows, so that each token is predicted once, as lm-evaluation-harness cuts them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from training.evaluation.scoring import Request


def rolling_windows(tokens: Sequence[int], prefix: int, context: int, stride: int) -> Iterator[Request]:
    """Windows of at most `context` input tokens that predict `tokens` from `prefix` and those before.

    The first predicts `context` tokens, each later one the next `stride`, from the `context - stride + 1` and more before
    them; with `stride == context` each sees one token of what came before. The same as
    `lm_eval.utils.get_rolling_token_windows(tokens, prefix, context, context - stride + 1)` made disjoint.
    """
    if not 1 <= stride <= context:
        raise ValueError(f"stride {stride} of a context of {context}")
    if not tokens:
        return
    first = min(context, len(tokens))
    yield Request([prefix], tokens[:first])
    done = first
    while done < len(tokens):
        end = min(done + stride, len(tokens))
        # input is what stands before the last token; of it the part before the first predicted one is context
        yield Request(tokens[end - context - 1 : done], tokens[done:end])
        done = end
