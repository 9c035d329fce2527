"""Who sees whom: the forms that devices take are one rule; the mixture of experts and its balance; the vocabulary's padding."""

import math
import shutil
from itertools import pairwise

import pytest
import torch
import torch._dynamo
import torch.nn.functional as F
from torch.nn.attention.flex_attention import create_block_mask
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from tests.model_common import DOCUMENTS, FAMILIES, random_model, shape, tokens
from training import attention
from training.attention import Sight, attend, block_mask, document_lengths, document_segments, row_mask, sight_of_rows
from training.config import resolve
from training.data import Batch
from training.device import Place
from training.knobs import TrainingError
from training.loss import IGNORED
from training.model import Decoder, load_balance, model_config
from training.optimizer import build_optimizer
from training.step import train_step

CPU = torch.device("cpu")


def seen_by_hand(documents: list[int], window: int | None) -> list[list[int]]:
    """The keys that each position sees, from the definition."""
    segment = [0]
    for before, number in pairwise(documents):
        segment.append(segment[-1] + (before != number))
    return [
        [k for k in range(q + 1) if segment[k] == segment[q] and (window is None or q - k < window)]
        for q in range(len(documents))
    ]


@pytest.mark.parametrize("window", [None, 1, 5, 100])
def test_mask_and_blocks_are_the_rule(window):
    """The second document 4 of the last row is another one than the first."""
    documents = torch.cat([DOCUMENTS, torch.tensor([[4, 4, 9, 9, 9, 4] + [4] * 20 + [-1] * 6])])
    segment = document_segments(documents)
    mask = row_mask(segment, 32, window, CPU)
    for row in range(3):
        assert [q.nonzero()[:, 0].tolist() for q in mask[row, 0]] == seen_by_hand(documents[row].tolist(), window)
    blocks = block_mask(segment, 32, window, CPU)
    index = torch.arange(32)
    of_blocks = blocks.mask_mod(
        torch.arange(3)[:, None, None], torch.tensor(0), index[None, :, None], index[None, None, :]
    )
    assert torch.equal(of_blocks, mask[:, 0])


BLOCKS = ("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices", "q_num_blocks", "full_q_num_blocks")


@pytest.mark.parametrize("window", [None, 1, 100, 128, 129, 300, 1000])
@pytest.mark.parametrize("length", [1, 127, 128, 200, 640, 1000])
def test_blocks_are_those_that_torch_finds_by_looking_at_every_pair(length, window):
    generator = torch.Generator().manual_seed(length)
    starts = torch.rand(6, length, generator=generator) < torch.tensor([0, 0.001, 0.005, 0.01, 0.1, 1])[:, None]
    starts[3, ::128] = True  # documents that end where blocks do
    for segment in (document_segments(starts.cumsum(dim=1)), None):
        ours = block_mask(segment, length, window, CPU)
        rows = None if segment is None else len(segment)
        theirs = create_block_mask(ours.mask_mod, rows, None, length, length, device="cpu")
        assert ours.shape == theirs.shape and ours.BLOCK_SIZE == theirs.BLOCK_SIZE
        for name in BLOCKS:
            assert torch.equal(getattr(ours, name), getattr(theirs, name)), name


def test_blocks_of_long_rows_are_found_without_looking_at_every_pair():
    largest = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            largest.append(result.numel() if isinstance(result, torch.Tensor) else 0)
            return result

    segment = document_segments((torch.rand(2, 8192) < 0.001).cumsum(dim=1))
    with Watch():
        block_mask(segment, 8192, None, CPU)
    assert max(largest) < 8192 * 8192 / 1000


def packed(lengths: list[list[int]]) -> torch.Tensor:
    return torch.stack([torch.repeat_interleave(torch.arange(len(row)), torch.tensor(row)) for row in lengths])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_kernels_agree(kv_heads, dtype):
    """One by one, by mask, and flex_attention (whose forward runs on a CPU): outputs; for the first two gradients too."""
    documents = packed([[100, 1, 60, 95], [30, 30, 196, 0]])
    segment, generator = document_segments(documents), torch.Generator().manual_seed(0)
    assert document_lengths(segment) == [100, 1, 60, 95, 30, 30, 196]
    make = lambda heads: torch.randn(2, heads, 256, 16, generator=generator).to(dtype).requires_grad_()  # noqa: E731
    query, key, value = make(4), make(kv_heads), make(kv_heads)
    forms = {
        "mask": Sight(mask=row_mask(segment, 256, None, CPU)),
        "lengths": Sight(lengths=document_lengths(segment)),
        "blocks": Sight(blocks=block_mask(segment, 256, None, CPU)),
    }
    tolerance = 2e-6 if dtype == torch.float32 else 2e-2
    found, gradients = {}, {}
    for name, sight in forms.items():
        inputs = [x.detach() if name == "blocks" else x for x in (query, key, value)]
        found[name] = attend(*inputs, sight)
        if name != "blocks":  # no gradient of flex_attention on a CPU
            gradients[name] = torch.autograd.grad(found[name].float().square().sum(), (query, key, value))
    for name in ("lengths", "blocks"):
        assert (found[name] - found["mask"]).abs().max() < tolerance, name
    for one, other in zip(gradients["lengths"], gradients["mask"], strict=True):
        assert (one - other).float().norm() < (1e-5 if dtype == torch.float32 else 2e-2) * other.float().norm()


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile on the CPU needs a C++ compiler")
def test_one_compiled_layer_serves_all_layers_and_takes_new_blocks_at_each_step():
    """As on CUDA: compiled, flex_attention does leave out blocks. The forward pass alone, which a CPU has."""
    model, generator = random_model(shape("llama", context_length=600)), torch.Generator().manual_seed(0)
    compiled = [torch.compile(layer.forward) for layer in model.model.layers]
    torch._dynamo.utils.counters.clear()
    for lengths in ([[150, 50, 400], [20, 580]], [[599, 1], [300, 300]]):
        segment = document_segments(packed(lengths))
        blocks, mask = block_mask(segment, 600, 200, CPU), row_mask(segment, 600, 200, CPU)
        x, turn = model.embed(torch.randn(2, 600, model.config.width, generator=generator), torch.arange(600)[None])
        for layer, graph in zip(model.model.layers, compiled, strict=True):
            with torch.no_grad():
                y, _ = graph(x, turn, Sight(blocks=blocks), None, 0)
                expected, _ = layer(x, turn, Sight(mask=mask), None, 0)
            assert (y - expected).abs().max() < 2e-6
        assert blocks.sparsity() > 30
    counters = torch._dynamo.utils.counters
    assert counters["stats"]["unique_graphs"] == 1 < len(compiled) and not counters["graph_break"]


def test_flex_attention_keeps_the_window():
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 2, 200, 16, generator=generator) for _ in range(3))
    segment = document_segments(packed([[150, 50], [20, 180]]))
    by_blocks = attend(query, key, value, Sight(blocks=block_mask(segment, 200, 9, CPU)))
    assert (by_blocks - attend(query, key, value, Sight(mask=row_mask(segment, 200, 9, CPU)))).abs().max() < 2e-6


def test_the_fastest_form_is_taken():
    """What runs where: none is needed, one by one where it saves work, a mask else, blocks on CUDA (built here, not run)."""
    many, few = packed([[64] * 8] * 2), packed([[500, 12]] * 2)
    assert sight_of_rows(None, 512, None, CPU, torch.float32) == Sight()
    assert sight_of_rows(None, 512, 512, CPU, torch.float32) == Sight()
    assert sight_of_rows(many, 512, None, CPU, torch.float32).lengths == [64] * 16
    assert (
        sight_of_rows(many, 512, 64, CPU, torch.float32).lengths == [64] * 16
    )  # no document is longer than the window
    assert sight_of_rows(many, 512, 63, CPU, torch.float32).mask is not None
    assert sight_of_rows(few, 512, None, CPU, torch.float32).mask is not None
    assert sight_of_rows(many, 512, None, CPU, torch.bfloat16).mask is not None
    assert sight_of_rows(packed([[64] * 16]), 1024, None, CPU, torch.bfloat16).lengths == [64] * 16
    assert sight_of_rows(packed([[4] * 128]), 512, None, CPU, torch.float32).mask is not None


def test_a_cuda_device_gets_blocks(monkeypatch):
    """The choice alone, since there is no such device here: the mask of blocks is asked for with the same rule."""
    asked = []
    monkeypatch.setattr(attention, "block_mask", lambda *what: asked.append(what) or "blocks")
    cuda = torch.device("cuda", 0)
    assert sight_of_rows(DOCUMENTS, 32, 5, cuda, torch.bfloat16).blocks == "blocks"
    assert sight_of_rows(None, 32, 5, cuda, torch.bfloat16).blocks == "blocks"
    assert sight_of_rows(None, 32, None, cuda, torch.bfloat16) == Sight()
    assert torch.equal(asked[0][0], document_segments(DOCUMENTS)) and asked[1][0] is None
    assert [what[1:] for what in asked] == [(32, 5, cuda)] * 2


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3"])
def test_long_rows_of_short_documents_equal_separate_forwards(family):
    """Long enough that documents are attended one by one; loss and gradient are those of the documents alone."""
    model = random_model(shape(family, context_length=256))
    documents, x = packed([[100, 1, 60, 95], [30, 30, 100, 96]]), tokens(2, 256)
    assert sight_of_rows(documents, 256, None, CPU, torch.float32).lengths is not None
    targets = x.roll(-1, 1)
    targets[:, -1] = IGNORED
    targets[:, :-1][documents[:, 1:] != documents[:, :-1]] = IGNORED
    whole = model(x, targets, documents).objective
    gradient = torch.autograd.grad(whole, list(model.parameters()))
    alone = sum(
        model(x[row][where][None], targets[row][where][None]).objective
        for row in range(2)
        for where in (documents[row] == number for number in documents[row].unique())
    )
    assert torch.allclose(whole, alone, rtol=1e-6)
    for one, other in zip(gradient, torch.autograd.grad(alone, list(model.parameters())), strict=True):
        assert (one - other).norm() <= 2e-5 * max(other.norm(), gradient[0].norm())  # of gpt2's key biases it is 0


def test_balance_of_one_row_is_that_of_transformers():
    """On one row, with and without padding; and the balance of a row does not depend on the rows beside it."""
    logits = torch.randn(3, 2, 10, 4, generator=torch.Generator().manual_seed(0))  # layers, rows, positions, experts
    real = torch.ones(2, 10, dtype=torch.bool)
    real[1, 7:] = False
    ours = load_balance(logits.softmax(-1), 2, real)
    for row in range(2):
        theirs = load_balancing_loss_func(tuple(logits[:, row]), 4, 2, real[row : row + 1].long())
        assert torch.allclose(ours[row], theirs, rtol=1e-5)
        alone = load_balance(logits[:, row : row + 1].softmax(-1), 2, real[row : row + 1])[0]
        assert torch.allclose(alone, ours[row], rtol=1e-6)
    assert load_balance(torch.full((1, 1, 8, 4), 0.25), 2, torch.ones(1, 8, dtype=torch.bool)) == 2.0
    nothing = load_balance(logits.softmax(-1), 2, torch.zeros_like(real))
    assert torch.equal(nothing, torch.zeros(2))


def test_balance_is_in_the_objective_and_does_not_depend_on_micro_batches():
    config = shape("mixtral", balance_coefficient=0.5)
    model, x = random_model(config), tokens(4, 32)
    targets = x.roll(-1, 1)
    targets[:, -1] = IGNORED
    targets[2, 5:] = IGNORED
    together = model(x, targets)
    parts = [model(x[row : row + 1], targets[row : row + 1]) for row in range(4)]
    assert torch.allclose(together.objective, sum(part.objective for part in parts), rtol=1e-6)
    assert torch.allclose(together.nll, torch.cat([part.nll for part in parts]), atol=1e-5)
    assert together.objective > together.nll.sum() + 0.5 * 31  # nll is without it, and an even load costs 2 a target

    plain = Decoder(shape("mixtral", balance_coefficient=0.0))
    plain.load_state_dict(model.state_dict())
    assert torch.allclose(plain(x, targets).objective, plain(x, targets).nll.sum())

    router = model.model.layers[0].mlp.gate.weight
    with_balance = torch.autograd.grad(together.objective, router)[0]
    without = torch.autograd.grad(plain(x, targets).objective, plain.model.layers[0].mlp.gate.weight)[0]
    assert not torch.allclose(with_balance, without, rtol=1e-2)


def test_padding_has_no_part_in_the_balance_whether_documents_are_masked_or_not():
    """A row cut where its padding begins has the objective and gradient of the row, read as one text too."""
    x, real = tokens(1, 32), torch.arange(32)[None] < 20
    targets = torch.where(real.roll(-1, 1) & real, x.roll(-1, 1), IGNORED)
    found = []
    for length in (32, 20):
        model = random_model(shape("mixtral", balance_coefficient=0.5))
        losses = model(x[:, :length], targets[:, :length], real=real[:, :length])
        losses.objective.backward()
        found.append((losses.objective, model.model.layers[0].mlp.gate.weight.grad))
    assert torch.allclose(found[0][0], found[1][0], rtol=1e-6)
    assert torch.allclose(found[0][1], found[1][1], rtol=1e-4, atol=1e-6)
    assert not torch.allclose(model(x, targets).objective, found[0][0], rtol=1e-4)  # all 32 counted

    batch = Batch(x, targets, torch.where(real, 0, -1), [0])
    norms = []
    for cut in (32, 20):
        short = Batch(*(part[:, :cut] for part in batch[:3]), [0])
        model = random_model(shape("mixtral", balance_coefficient=0.5))
        config = resolve({"batch_rows": 1, "micro_batch_rows": 1, "document_mask": False})
        optimizer = build_optimizer(model, config)
        norms.append(train_step(model, optimizer, short, config, Place(0, 1, CPU, torch.float32, 1), 1e-3).grad_norm)
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)


def test_an_expert_without_tokens_has_a_zero_gradient():
    """None would stop DistributedDataParallel, which waits for every gradient."""
    model = random_model(shape("mixtral", experts=8))
    x = tokens(1, 2)
    model(x, x).objective.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert any((expert.down_proj.weight.grad == 0).all() for expert in model.model.layers[0].mlp.experts)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_at_start_is_that_of_guessing(family):
    """ln V, a little above for the logits' variance (sinusoids and post-norm included); every family learns a batch."""
    config = shape(family, vocab_size=512, tie_embeddings=True, width=64, mlp_width=256)
    model, x = Decoder(config).initialise(0), tokens(4, 16, 512)
    loss = model(x, x.roll(-1, 1)).nll.mean()
    assert abs(float(loss) - math.log(512)) < 0.1
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(8):
        optimizer.zero_grad()
        now = model(x, x.roll(-1, 1))
        (now.objective / x.numel()).backward()
        optimizer.step()
    assert now.nll.mean() < loss - 0.3


@pytest.mark.parametrize("tied", [True, False])
def test_padding_of_the_vocabulary_changes_nothing(tied):
    """Equal weights, logits, loss and gradients; the rows added are zero and stay it under AdamW."""
    plain, padded = (shape(tie_embeddings=tied, pad_vocabulary=to) for to in (1, 64))
    assert (plain.embedding_rows, padded.embedding_rows, padded.vocab_size) == (97, 128, 97)
    one, other = Decoder(plain).initialise(5), Decoder(padded).initialise(5)
    x = tokens(2, 32)
    assert other(x).shape[-1] == 97
    assert torch.allclose(one(x), other(x), atol=1e-6)
    for model in (one, other):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            (model(x, x.roll(-1, 1)).objective / 64).backward()
            optimizer.step()
    assert torch.allclose(one(x, x).nll, other(x, x).nll, atol=1e-4)
    for name in ("model.embed_tokens.weight", *([] if tied else ["lm_head.weight"])):
        weight = dict(other.named_parameters())[name]
        assert (weight[97:] == 0).all() and (weight[:97] != 0).any()


def test_a_larger_vocabulary_is_right_and_a_smaller_one_an_error():
    """More ids than the tokenizer's are ordinary ids, which training makes unlikely."""
    config = resolve({"vocab_size": 200})
    assert model_config(config, 150, 64).vocab_size == 200
    with pytest.raises(TrainingError, match=r"vocab_size=200 is less than the tokenizer's 300"):
        model_config(config, 300, 64)
    logits = Decoder(shape(vocab_size=97)).initialise(0)(tokens(1, 8, 50))
    assert logits.shape[-1] == 97 and F.softmax(logits, -1)[..., 50:].sum() > 0.3
