"""The loop: what a row says is what it says alone, whoever is beside it, and what the model says without a cache."""

import random

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.model_common import FAMILIES, random_model, shape, tokens
from tests.training_common import texts, write_tokenizer
from training.checkpoint import save_model
from training.inference.batch import generate_batch
from training.inference.cache import KeyValueCache
from training.inference.engine import PREFILL_TOKENS, Engine
from training.inference.fused import fused
from training.inference.load import cast_weights
from training.inference.sampling import Sampling
from training.knobs import TrainingError
from training.model import Decoder
from training.presets import RopeScaling

YARN = RopeScaling(rope_type="yarn", factor=4.0, original_max_position_embeddings=12)
SHAPES = {
    **{name: shape(name) for name in FAMILIES},
    "llama yarn": shape("llama", rope_scaling=YARN),
    "tied, padded": shape("llama", tie_embeddings=True, pad_vocabulary=64),
    "mixtral window": shape("mixtral", sliding_window=4),
}
PROMPTS = [list(range(3 + i, 9 + 2 * i)) for i in (0, 1, 1, 4, 9)] + [[5]]


def without_cache(model, prompt, count):
    """The likeliest tokens by whole forward passes, with their log-probabilities."""
    row, scores = list(prompt), []
    with torch.no_grad():
        for _ in range(count):
            logits = model(torch.tensor([row]))[0, -1].log_softmax(-1)
            row.append(int(logits.argmax()))
            scores.append(float(logits.max()))
    return row[len(prompt) :], scores


@pytest.mark.parametrize("name", SHAPES)
def test_ragged_rows_through_the_cache_say_what_the_model_says_without_it(name):
    model = random_model(SHAPES[name])
    found = generate_batch(model, PROMPTS, Sampling(temperature=0, max_new_tokens=20), [])
    for prompt, one in zip(PROMPTS, found, strict=True):
        expected, scores = without_cache(model, prompt, 20)
        assert one.tokens == expected and one.finish == "length"
        assert torch.allclose(torch.tensor(one.logprobs), torch.tensor(scores), atol=1e-4)


@pytest.mark.parametrize("name", SHAPES)
def test_a_row_does_not_depend_on_its_batch(name):
    """Any number of rows at a time, alone, in another order: the same seed says the same."""
    model = random_model(SHAPES[name])
    sampling = Sampling(top_p=0.9, temperature=1.1, max_new_tokens=15)
    together = generate_batch(model, PROMPTS, sampling, [5])
    for rows in (1, 2, 3):
        assert [one.tokens for one in generate_batch(model, PROMPTS, sampling, [5], max_rows=rows)] == [
            one.tokens for one in together
        ]
    seeds = list(range(len(PROMPTS)))
    back = generate_batch(model, PROMPTS[::-1], sampling, [5], seeds=seeds[::-1])[::-1]
    assert [one.tokens for one in back] == [one.tokens for one in together]
    other = generate_batch(model, PROMPTS, sampling, [5], seeds=[9 + seed for seed in seeds])
    assert [one.tokens for one in other] != [one.tokens for one in together]


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3", "mistral", "mixtral"])
def test_greedy_is_that_of_transformers(family, tmp_path):
    model = random_model(shape(family))
    save_model(tmp_path, model, tmp_path, eos_id=0)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ours = generate_batch(model, PROMPTS, Sampling(temperature=0, max_new_tokens=16), [])
    penalised = Sampling(temperature=0, max_new_tokens=16, repetition_penalty=1.4)
    careful = generate_batch(model, PROMPTS, penalised, [])
    assert [one.tokens for one in ours] != [one.tokens for one in careful]
    for prompt, one, other in zip(PROMPTS, ours, careful, strict=True):
        settings = {"max_new_tokens": 16, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        whole = theirs.generate(torch.tensor([prompt]), **settings)[0].tolist()
        assert one.tokens == whole[len(prompt) :]
        whole = theirs.generate(torch.tensor([prompt]), repetition_penalty=1.4, **settings)[0].tolist()
        assert other.tokens == whole[len(prompt) :]


def drain(engine, into=None):
    found = {} if into is None else into
    while engine.busy:
        for event in engine.step():
            found.setdefault((event.request, event.sample), []).append(event)
    return found


@pytest.mark.parametrize("family", ["gpt2", "llama", "mistral"])
def test_rows_join_leave_and_are_cancelled_in_the_middle_without_a_trace(family):
    model = fused(random_model(shape(family)))
    draw = random.Random(0)
    work = [
        (PROMPTS[draw.randrange(len(PROMPTS))], sampling)
        for sampling in (
            Sampling(temperature=0, max_new_tokens=12),
            Sampling(top_k=9, max_new_tokens=5, seed=4),
            Sampling(repetition_penalty=1.5, presence_penalty=0.5, frequency_penalty=0.2, max_new_tokens=14, seed=2),
            Sampling(min_p=0.05, typical_p=0.8, max_new_tokens=9, seed=8),
            Sampling(temperature=0, repetition_penalty=3.0, max_new_tokens=11),
            Sampling(max_new_tokens=20, seed=5),
        )
    ]
    alone = []
    for prompt, sampling in work:
        engine = Engine(model, [7], max_rows=1)
        engine.add(prompt, sampling)
        alone.append([(event.token, event.finish) for event in drain(engine)[0, 0]])
    engine, found = Engine(model, [7], max_rows=3), {}
    cancelled = engine.add(PROMPTS[0], Sampling(max_new_tokens=25, seed=77))
    numbers = []
    for prompt, sampling in work:
        numbers.append(engine.add(prompt, sampling))
        for event in engine.step():
            found.setdefault((event.request, event.sample), []).append(event)
        if len(numbers) == 3:
            engine.cancel(cancelled)
            engine.cancel(9999)
    drain(engine, found)
    for number, expected in zip(numbers, alone, strict=True):
        got = [(event.token, event.finish) for event in found[number, 0]]
        assert [token for token, _ in got] == [token for token, _ in expected]
        assert [finish for _, finish in got[:-1]] == [None] * (len(got) - 1) and got[-1][1] == expected[-1][1]
    assert not any(event.finish for event in found[cancelled, 0])
    assert int(engine.cache.lengths.max()) <= engine.positions


def test_samples_of_a_request_share_their_prefill_and_differ():
    model, calls = random_model(shape("llama")), []
    model.register_forward_pre_hook(lambda module, inputs: calls.append(tuple(inputs[0].shape)))
    engine = Engine(model, [], max_rows=8)
    engine.add(PROMPTS[4], Sampling(max_new_tokens=6, seed=3), n=5, top=2)
    found = drain(engine)
    assert calls[0] == (1, len(PROMPTS[4])) and set(calls[1:]) == {(5, 1)}
    said = {tuple(event.token for event in found[0, sample]) for sample in range(5)}
    assert len(said) > 1
    one = generate_batch(model, [PROMPTS[4]] * 5, Sampling(max_new_tokens=6, seed=3), [])
    assert [[event.token for event in found[0, i]] for i in range(5)] == [each.tokens for each in one]
    for event in found[0, 0]:
        assert len(event.top) == 2 and event.top[0][1] >= event.top[1][1] and event.logprob <= event.top[0][1]


def test_the_end_token_counts_and_is_not_text(tmp_path):
    tokenizer = write_tokenizer(tmp_path, texts(40))
    model = random_model(shape("llama", vocab_size=tokenizer.get_vocab_size()))
    prompt = tokenizer.encode("the old mill").ids
    free = generate_batch(model, [prompt], Sampling(temperature=0, max_new_tokens=12), [], tokenizer=tokenizer)[0]
    assert free.text == tokenizer.decode(prompt + free.tokens)[len(tokenizer.decode(prompt)) :]
    end = free.tokens[6]
    first = free.tokens.index(end)
    found = generate_batch(model, [prompt], Sampling(temperature=0, max_new_tokens=12), [end], tokenizer=tokenizer)[0]
    assert found.tokens == free.tokens[: first + 1] and found.finish == "stop"
    assert len(found.logprobs) == len(found.tokens)
    assert found.text == tokenizer.decode(prompt + free.tokens[:first])[len(tokenizer.decode(prompt)) :]
    stop = next(text for text in (free.text[at : at + 2] for at in range(2, 9)) if "\ufffd" not in text)
    cut = generate_batch(
        model, [prompt], Sampling(temperature=0, max_new_tokens=12, stop=(stop,)), [], tokenizer=tokenizer
    )
    assert cut[0].text == free.text[: free.text.index(stop)] and cut[0].finish == "stop"
    assert free.tokens[: len(cut[0].tokens)] == cut[0].tokens


def test_limits_and_mistakes():
    model = random_model(shape("llama"))
    long = list(range(3, 47))  # leaves 4 of 48
    one = generate_batch(model, [long, [3]], Sampling(max_new_tokens=9), [])
    assert [len(each.tokens) for each in one] == [4, 9] and {each.finish for each in one} == {"length"}
    assert generate_batch(model, [], Sampling(), []) == []
    for prompts, word in (([[]], "empty"), ([list(range(48))], "48"), ([[97]], "token 97"), ([[-1]], "token")):
        with pytest.raises(TrainingError, match=word):
            generate_batch(model, prompts, Sampling(), [])
    with pytest.raises(TrainingError, match="tokenizer"):
        generate_batch(model, [[3]], Sampling(stop=("a",)), [])
    with pytest.raises(TrainingError, match="seeds"):
        generate_batch(model, [[3]], Sampling(), [], seeds=[1, 2])
    model.train()
    generate_batch(model, [[3]], Sampling(max_new_tokens=2), [])
    assert model.training


def test_long_and_short_prompts_are_not_padded_to_one_length():
    model, calls = random_model(shape("llama", context_length=9000)), []
    model.register_forward_pre_hook(lambda module, inputs: calls.append(tuple(inputs[0].shape)))
    engine = Engine(model, [], max_rows=8, positions=400)
    for length in (300, 10, 9, 8, 310):
        engine.add([5] * length, Sampling(temperature=0, max_new_tokens=2))
    engine.step()
    assert [call for call in calls if call[1] > 1] == [(1, 300), (3, 10), (1, 310)]
    assert PREFILL_TOKENS < 9000


@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen3", "post-norm"])
def test_joined_matrices_change_nothing(name):
    """In bfloat16 the joined products round as the single ones did, up to the order of sums."""
    model = random_model(shape(name, width=64, heads=4, mlp_width=256 if name == "post-norm" else 128))
    x = tokens(3, 17)
    new = fused(model)
    assert new is not model and fused(new) is new
    with torch.no_grad():
        assert (new(x) - model(x)).abs().max() < 1e-5
        before = [parameter.clone() for parameter in model.parameters()]
        model.dtype = torch.bfloat16
        other = fused(model)
        assert (other(x) - model(x)).abs().max() < 0.1
        cache = KeyValueCache(other.config, 3, 20, x.device, torch.bfloat16)
        steps = torch.cat([other(x[:, a:b], cache=cache) for a, b in ((0, 9), (9, 10), (10, 17))], 1)
        assert (steps - other(x)).abs().max() < 0.1
    for one, same in zip(model.parameters(), before, strict=True):
        assert one.requires_grad and torch.equal(one, same) and one.dtype == torch.float32
    cast = cast_weights(Decoder(shape("mixtral"), torch.bfloat16).initialise(0))
    assert {module.weight.dtype for module in cast.modules() if isinstance(module, torch.nn.Linear)} == {torch.bfloat16}


def test_what_is_more_than_the_plain_decoder_is_not_rearranged():
    for change in ("hook", "forward", "module", "experts"):
        model = random_model(shape("mixtral" if change == "experts" else "llama"))
        layer = model.model.layers[0]
        if change == "hook":
            layer.self_attn.q_proj.register_forward_hook(lambda module, inputs, y: y + 1)
        if change == "forward":
            layer.self_attn.q_proj.forward = lambda x: x[..., :32]
        if change == "module":
            layer.mlp.up_proj = torch.nn.Linear(32, 56, bias=False)
        assert fused(model) is model
