"""Log-probabilities and entropies of tokens by chunks against the plain formulas."""

import pytest
import torch

from tests.model_common import random_model, shape
from training.logprobs import token_scores
from training.loss import IGNORED


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_values_and_gradients_are_those_of_log_softmax(temperature):
    torch.manual_seed(0)
    hidden = torch.randn(2, 7, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(11, 8, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 11, (2, 7))
    targets[0, 3:] = IGNORED
    seen = targets != IGNORED
    up, of_entropy = torch.randn(2, 2, 7, dtype=torch.float64)

    logp = (hidden @ weight.T / temperature).log_softmax(-1)
    chosen = logp.gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    entropy = -(logp.exp() * logp).sum(-1)
    ((chosen * up + entropy * of_entropy) * seen).sum().backward()
    expected = hidden.grad, weight.grad
    hidden.grad = weight.grad = None

    found = token_scores(hidden, weight, targets, temperature, chunk_rows=3)
    (found.logprobs * up + found.entropies * of_entropy).sum().backward()
    assert torch.allclose(found.logprobs, chosen * seen, atol=1e-12)
    assert torch.allclose(found.entropies, entropy * seen, atol=1e-12)
    for mine, theirs in zip((hidden.grad, weight.grad), expected, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-12)


def test_a_decoder_gives_the_log_probabilities_of_its_logits_without_ids_that_pad_the_vocabulary():
    model = random_model(shape(pad_vocabulary=64))
    tokens = torch.randint(0, model.config.vocab_size, (2, 6))
    targets = tokens.roll(-1, 1)
    scores = model(tokens, targets, logprobs=1.0)
    expected = model(tokens).log_softmax(-1).gather(-1, targets[..., None])[..., 0]
    assert torch.allclose(scores.logprobs, expected, atol=1e-5)
    assert torch.allclose(scores.logprobs, -model(tokens, targets).nll, atol=1e-5)


def test_no_row_at_all():
    scores = token_scores(torch.zeros(0, 4, 8), torch.zeros(11, 8), torch.zeros(0, 4, dtype=torch.long))
    assert scores.logprobs.shape == scores.entropies.shape == (0, 4)
