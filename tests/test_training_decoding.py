"""Beams against transformers, speculative decoding against the model alone, weights in few bits, what `--show` shows."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.model_common import random_model, shape, tokens
from tests.training_common import texts, write_tokenizer
from training import cli
from training.checkpoint import save_model
from training.inference.batch import generate_batch
from training.inference.beam import beam_search
from training.inference.engine import Engine
from training.inference.fused import fused
from training.inference.quantise import bits_per_byte, quantise, weight_bytes
from training.inference.sampling import Sampling
from training.inference.show import attention_maps, explain, lines, page
from training.inference.speculative import Speculation
from training.knobs import TrainingError
from training.model import Decoder

PROMPT = [5, 9, 2, 30, 11]


def softer(model: Decoder, by: float = 0.35) -> Decoder:
    """So that no token is nearly certain."""
    with torch.no_grad():
        model.lm_head.weight.mul_(by)
    return model


@pytest.mark.parametrize("family", ["gpt2", "llama", "mistral"])
def test_beams_are_those_of_transformers(family, tmp_path):
    model = softer(random_model(shape(family)))
    save_model(tmp_path, model, tmp_path, eos_id=0)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    free = generate_batch(model, [PROMPT], Sampling(temperature=0, max_new_tokens=12), [])[0].tokens
    said = set()
    for beams, penalty, early, end in (
        (1, 1.0, False, [free[3]]),
        (3, 1.0, False, []),
        (4, 1.0, False, [free[2], free[4]]),
        (4, 0.0, True, [free[2], free[4]]),
        (4, 2.0, "never", [free[2], 17]),
        (3, -1.0, "never", [free[1]]),
        (5, -0.5, True, [free[1], 3]),
    ):
        ours = beam_search(
            model,
            PROMPT,
            end,
            beams=beams,
            max_new_tokens=12,
            length_penalty=penalty,
            early_stopping=early,
            count=beams,
        )
        settings = {
            "length_penalty": penalty,
            "early_stopping": early,
            "return_dict_in_generate": True,
            "output_scores": True,
        }
        if beams == 1:
            expected = generate_batch(model, [PROMPT], Sampling(temperature=0, max_new_tokens=12), end)[0].tokens
            assert len(ours) == 1 and ours[0].tokens == expected
            continue
        found = theirs.generate(
            torch.tensor([PROMPT]), num_beams=beams, num_return_sequences=beams, max_new_tokens=12, do_sample=False,
            eos_token_id=end or None, pad_token_id=96, **settings,
        )  # fmt: skip
        assert len(ours) == beams
        for one, row, score in zip(ours, found.sequences.tolist(), found.sequences_scores.tolist(), strict=True):
            assert row[len(PROMPT) :][: len(one.tokens)] == one.tokens
            assert set(row[len(PROMPT) + len(one.tokens) :]) <= {96}
            assert one.score == pytest.approx(score, abs=1e-4)
            said.add(tuple(one.tokens))
    assert len({len(one) for one in said}) > 2
    with pytest.raises(TrainingError, match="as are returned"):
        beam_search(model, PROMPT, [], beams=2, max_new_tokens=3, count=3)


@pytest.mark.parametrize("family", ["gpt2", "llama", "mistral", "qwen3"])
def test_a_draft_does_not_change_what_is_likeliest(family):
    model, draft = random_model(shape(family)), random_model(shape("llama", layers=1), seed=8)
    for prompt in (PROMPT, [4], list(range(30))):
        for end in ([], [generate_batch(model, [prompt], Sampling(temperature=0, max_new_tokens=9), [])[0].tokens[-1]]):
            wanted = generate_batch(model, [prompt], Sampling(temperature=0, max_new_tokens=25), end)[0]
            for count in (1, 3, 7):
                found = list(
                    Speculation(model, draft, count).complete(prompt, Sampling(temperature=0, max_new_tokens=25), end)
                )
                assert [token for token, _ in found] == wanted.tokens
                assert torch.allclose(torch.tensor([s for _, s in found]), torch.tensor(wanted.logprobs), atol=1e-4)
    itself = Speculation(model, fused(model), 4)
    list(itself.complete(PROMPT, Sampling(temperature=0, max_new_tokens=20), []))
    assert itself.accepted == itself.proposed > 10


def test_a_draft_leaves_the_distribution_as_it_is():
    """Of the first two tokens, over all pairs: the share of each within five standard deviations of the exact chance."""
    small = {"vocab_size": 6, "width": 16, "heads": 2, "mlp_width": 24, "layers": 1}
    model, draft = softer(random_model(shape(**small)), 1.0), softer(random_model(shape(**small), seed=9), 1.0)
    both, runs = Speculation(model, draft, 2), 1500
    sampling = Sampling(temperature=0.9, top_k=5, max_new_tokens=2)
    pairs = torch.zeros(6, 6)
    for seed in range(runs):
        one = Sampling(temperature=0.9, top_k=5, max_new_tokens=2, seed=seed)
        (first, _), (second, _) = both.complete([1, 3], one, [])
        pairs[first, second] += 1

    def chances(ids):
        with torch.no_grad():
            logits = model(torch.tensor([ids]))[0, -1] / sampling.temperature
        return logits.masked_fill(logits < logits.topk(5).values[-1], -torch.inf).softmax(-1)

    exact = torch.stack([chances([1, 3])[token] * chances([1, 3, token]) for token in range(6)])
    deviation = (exact * (1 - exact) / runs).sqrt()
    assert ((pairs / runs - exact).abs() <= 5 * deviation + 1e-6).all()
    assert 0.05 < both.accepted_share < 0.95  # both ways of getting a token were taken


def test_a_draft_with_a_shorter_context_helps_as_far_as_it_sees():
    model, draft = (
        softer(random_model(shape(context_length=64))),
        softer(random_model(shape(context_length=12), seed=9)),
    )
    for prompt in (PROMPT, PROMPT * 3):  # within the draft's context at first, and beyond it
        for limit in (3, 20, 200):
            sampling = Sampling(temperature=0, max_new_tokens=limit)
            wanted = generate_batch(model, [prompt], sampling, [])[0].tokens
            both = Speculation(model, draft, 4)
            assert [token for token, _ in both.complete(prompt, sampling, [])] == wanted
            assert (both.proposed > 0) == (prompt == PROMPT)


def test_drafts_that_do_not_fit_are_mistakes():
    model = random_model(shape())
    with pytest.raises(TrainingError, match="50 ids"):
        Speculation(model, random_model(shape(vocab_size=50)))
    with pytest.raises(TrainingError, match="penalties"):
        list(Speculation(model, model).complete(PROMPT, Sampling(presence_penalty=1.0), []))


def test_what_no_memory_holds_and_no_number_is_are_mistakes(monkeypatch):
    model = random_model(shape())
    for penalty in (1e6, -1e6, float("nan")):
        with pytest.raises(TrainingError, match="length_penalty"):
            beam_search(model, PROMPT, [], beams=2, max_new_tokens=5, length_penalty=penalty)
    with pytest.raises(TrainingError, match=r"100,000,000 rows of .* GiB"):
        Engine(model, [], None, max_rows=100_000_000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model folder with its tokenizer, of random weights."""
    at = tmp_path_factory.mktemp("model")
    tokenizer = write_tokenizer(at / "tokenizer", texts(60))
    model = softer(random_model(shape("llama", vocab_size=tokenizer.get_vocab_size(), width=64, mlp_width=128)))
    save_model(at, model, at / "tokenizer", eos_id=0)
    tokenizer.encode_special_tokens = True
    return at, model, tokenizer


def test_few_bits_cost_little_and_save_memory(folder):
    _, model, tokenizer = folder
    text = " ".join(texts(20, seed=5))
    x, exact = tokens(2, 20), bits_per_byte(model, tokenizer, text, 0)
    errors = {}
    for kind in ("int8", "int4"):
        small = Decoder(model.config)
        small.load_state_dict(model.state_dict())
        before = weight_bytes(small)
        quantise(small, kind)
        with torch.no_grad():
            errors[kind] = float((small(x) - model(x)).abs().mean())
        assert abs(bits_per_byte(small, tokenizer, text, 0) - exact) < (0.01 if kind == "int8" else 0.3)
        found = generate_batch(small, [PROMPT, PROMPT[:2]], Sampling(temperature=0, max_new_tokens=5), [])
        assert [len(one.tokens) for one in found] == [5, 5]
        assert fused(small) is small and weight_bytes(small) < before
    assert 0 < errors["int8"] < errors["int4"]
    with pytest.raises(TrainingError, match="multiples of 32"):
        quantise(random_model(shape(width=48, heads=4)), "int4")


def test_bits_per_byte_by_hand(folder):
    _, model, tokenizer = folder
    ids = tokenizer.encode("the old mill 粉屋").ids
    with torch.no_grad():
        scores = model(torch.tensor([[0, *ids[:-1]]]))[0].log_softmax(-1)
    nats = -sum(float(scores[at, token]) for at, token in enumerate(ids))
    assert bits_per_byte(model, tokenizer, "the old mill 粉屋", 0) == pytest.approx(
        nats / 0.6931471805599453 / len("the old mill 粉屋".encode()), rel=1e-5
    )


def test_the_candidates_of_each_step_by_hand(folder):
    _, model, tokenizer = folder
    sampling = Sampling(temperature=0.6, top_k=3, repetition_penalty=1.8, max_new_tokens=4)
    new = generate_batch(model, [PROMPT], sampling, [])[0].tokens
    steps = explain(model, tokenizer, PROMPT, new, sampling, 4)
    assert [step.token for step in steps] == new
    for at, step in enumerate(steps):
        so_far = [*PROMPT, *new[:at]]
        with torch.no_grad():
            logits = model(torch.tensor([so_far]))[0, -1]
        said = logits.clone()
        for token in set(so_far):
            said[token] = said[token] / 1.8 if said[token] > 0 else said[token] * 1.8
        said = said / 0.6
        drawn = said.masked_fill(said < said.topk(3).values[-1], -torch.inf).softmax(-1)
        assert len(step.candidates) == 4 and new[at] in [one.token for one in step.candidates]
        for one in step.candidates:
            assert one.model == pytest.approx(float(logits.softmax(-1)[one.token]), abs=1e-5)
            assert one.drawn == pytest.approx(float(drawn[one.token]), abs=1e-5)
    greedy = explain(model, tokenizer, PROMPT, new[:1], Sampling(temperature=0), 2)[0].candidates
    assert next(one.drawn for one in greedy) == 1.0 or greedy[1].drawn in (0.0, 1.0)
    assert len(lines(steps)) == 4 and "%" in lines(steps)[0]


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3", "mistral"])
def test_attention_maps_are_those_of_transformers(family, tmp_path):
    model = random_model(shape(family))
    save_model(tmp_path, model, tmp_path, eos_id=0)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    x = tokens(1, 14)
    with torch.no_grad():
        expected = torch.stack([one[0] for one in theirs(x, output_attentions=True).attentions])
    found = attention_maps(model, x[0].tolist())
    assert found.shape == expected.shape and (found - expected).abs().max() < 1e-5
    assert not any(module._forward_pre_hooks for module in model.modules())


def run(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


def test_the_page_stands_alone_and_escapes_what_was_said(folder, tmp_path, capsys):
    at, model, tokenizer = folder
    steps = explain(model, tokenizer, PROMPT, [6, 7], Sampling(), 3)
    found = page(steps, ["<b>&", "x"], torch.full((1, 2, 2, 2), 0.5))
    assert "&lt;b&gt;&amp;" in found and "<b>&" not in found and "http" not in found and "<script" not in found
    out = tmp_path / "show.html"
    command = ["generate", "--model", at, "--prompt", "the mill", "--max-new-tokens", 5]
    assert run(*command, "--show", out, "--top-k", 4) == 0
    said = capsys.readouterr()
    assert said.out.startswith("the mill") and said.err.count(" > ") == 5 * 5
    assert out.read_text().count("data:image/png;base64,") == 2 * 4
    assert run(*command, "--show") == 0 and capsys.readouterr().err.count("\n") == 5


def test_command_line_of_beams_drafts_and_bits(folder, tmp_path, capsys):
    at, model, tokenizer = folder
    command = ["generate", "--model", at, "--prompt", "the mill", "--max-new-tokens", 6]
    assert run(*command, "--beams", 3, "--samples", 2, "--length-penalty", 0.5, "--json") == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    ids = tokenizer.encode("the mill").ids
    wanted = beam_search(model, ids, [0], beams=3, max_new_tokens=6, length_penalty=0.5, count=2)
    assert [one["tokens"] for one in found] == [one.tokens for one in wanted]

    assert run(*command, "--greedy") == 0
    plain = capsys.readouterr().out
    assert run(*command, "--greedy", "--draft", at) == 0
    said = capsys.readouterr()
    assert said.out == plain and "(100%)" in said.err

    (tmp_path / "t.txt").write_text(" ".join(texts(5, seed=5)))
    assert run(*command, "--quantize", "int8", "--quantize-text", tmp_path / "t.txt") == 0
    said = capsys.readouterr().err
    assert "bits per byte" in said and "MB" in said

    for extra, word in (
        (["--length-penalty", 1], "--beams"),
        (["--early-stopping", "true"], "--beams"),
        (["--draft-tokens", 3], "--draft"),
        (["--quantize-text", "x"], "--quantize"),
        (["--beams", 2, "--top-k", 3], "--top-k"),
        (["--beams", 2, "--stop", "x"], "--stop"),
        (["--draft", at, "--show"], "--show"),
        (["--beams", 2, "--samples", 3], "returned"),
        (["--quantize", "int8", "--quantize-text", tmp_path / "none"], "none"),
    ):
        assert run(*command, *extra) == 2, extra
        assert word in capsys.readouterr().err
