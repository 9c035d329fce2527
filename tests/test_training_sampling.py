"""The rules of sampling against transformers' classes, row by row and many at once; drawing; stop strings and half characters."""

import random

import pytest
import torch
from transformers.generation import logits_process as theirs

from tests.training_common import texts, write_tokenizer
from training.inference import sampling as ours
from training.inference.sampling import Sampling, choose, settings_of
from training.inference.stop import TextStream, held_back
from training.knobs import TrainingError

CPU = torch.device("cpu")
LOGITS = torch.randn(5, 40, generator=torch.Generator().manual_seed(0)) * 3
IDS = torch.randint(0, 40, (5, 12), generator=torch.Generator().manual_seed(1))
COLUMN = torch.tensor([[0.2], [0.5], [0.9], [0.99], [0.7]])  # a value for each row


def seen(ids: torch.Tensor) -> torch.Tensor:
    return torch.zeros(len(ids), 40, dtype=torch.bool).scatter_(1, ids, True)


RULES = [
    (ours.with_temperature, theirs.TemperatureLogitsWarper, [0.3, 1.0, 1.7]),
    (ours.with_top_k, theirs.TopKLogitsWarper, [1, 3, 40, 100]),
    (ours.with_top_p, theirs.TopPLogitsWarper, [1e-6, 0.1, 0.5, 0.9, 0.999]),
    (ours.with_min_p, theirs.MinPLogitsWarper, [0.0, 0.05, 0.3, 1.0]),
    (ours.with_typical, theirs.TypicalLogitsWarper, [1e-6, 0.2, 0.5, 0.9, 0.999]),
]


@pytest.mark.parametrize(("rule", "oracle", "values"), RULES, ids=[rule.__name__ for rule, _, _ in RULES])
def test_rules_are_those_of_transformers(rule, oracle, values):
    for value in values:
        assert torch.equal(rule(LOGITS, value), oracle(value)(None, LOGITS)), value
    assert not all(torch.equal(rule(LOGITS, value), LOGITS) for value in values)
    if rule is ours.with_top_k:
        each = torch.tensor([[1], [5], [40], [100], [2]])
    else:
        each = COLUMN
    together = rule(LOGITS, each)
    for row, value in enumerate(each[:, 0].tolist()):
        alone = oracle(value)(None, LOGITS[row : row + 1])
        assert torch.allclose(together[row], alone[0], rtol=1e-6), row


def test_top_p_of_a_large_vocabulary_is_that_of_a_sort():
    """Most rows are decided by their first tokens; one that is flat, or p near 1, needs all of them."""
    logits = torch.randn(4, 3000, generator=torch.Generator().manual_seed(2)) * torch.tensor(
        [[4.0], [2.0], [1.0], [6.0]]
    )
    for p in (0.3, 0.9, 0.999):
        assert torch.equal(ours.with_top_p(logits[::3], p), theirs.TopPLogitsWarper(p)(None, logits[::3]))
        assert torch.equal(ours.with_top_p(logits, p), theirs.TopPLogitsWarper(p)(None, logits))
    assert torch.equal(ours.with_top_p(logits, torch.tensor([[0.5], [1.0], [0.5], [1.0]]))[1::2], logits[1::2])


def test_equal_logits_and_the_whole_of_the_probability():
    tied = torch.tensor([[1.0, 1.0, 0.0, 1.0]])
    assert torch.equal(ours.with_top_k(tied, 2), theirs.TopKLogitsWarper(2)(None, tied))
    assert torch.equal(ours.with_min_p(tied, 1.0).isfinite(), torch.tensor([[True, True, False, True]]))
    for rule in (ours.with_top_p, ours.with_typical):
        assert torch.equal(rule(LOGITS, 1.0), LOGITS)
        assert torch.equal(rule(LOGITS, torch.ones(5, 1)), LOGITS)


def test_penalties():
    for penalty in (0.5, 1.0, 1.3):
        expected = theirs.RepetitionPenaltyLogitsProcessor(penalty)(IDS, LOGITS)
        assert torch.equal(ours.with_repetition_penalty(LOGITS, seen(IDS), penalty), expected)
    each = torch.tensor([[0.5], [1.0], [1.3], [2.0], [1.1]])
    together = ours.with_repetition_penalty(LOGITS, seen(IDS), each)
    for row in range(5):
        alone = theirs.RepetitionPenaltyLogitsProcessor(float(each[row]))(IDS[row : row + 1], LOGITS[row : row + 1])
        assert torch.allclose(together[row], alone[0])
    counts = torch.stack([torch.bincount(row, minlength=40) for row in IDS]).float()
    found = ours.with_count_penalties(LOGITS, counts, 0.4, 0.3)
    for row in range(5):
        for token in range(40):
            times = IDS[row].tolist().count(token)
            by_hand = float(LOGITS[row, token]) - 0.4 * times - (0.3 if times else 0.0)
            assert float(found[row, token]) == pytest.approx(by_hand, abs=1e-5)


def test_all_rules_in_one_batch_in_the_order_of_transformers():
    rows = [
        Sampling(temperature=0.7, top_k=12, top_p=0.8, min_p=0.05, typical_p=0.9, repetition_penalty=1.3),
        Sampling(),
        Sampling(top_p=0.6, temperature=1.4),
        Sampling(min_p=0.2, repetition_penalty=0.8),
        Sampling(typical_p=0.5, top_k=7),
    ]
    settings = settings_of(rows, 40, CPU)
    found = ours.truncated(ours.penalised(LOGITS, settings, seen(IDS), None), settings)
    for row, one in enumerate(rows):
        score = LOGITS[row : row + 1]
        for value, neutral, oracle in (
            (one.repetition_penalty, 1.0, theirs.RepetitionPenaltyLogitsProcessor),
            (one.temperature, 1.0, theirs.TemperatureLogitsWarper),
            (one.top_k, None, theirs.TopKLogitsWarper),
            (one.top_p, None, theirs.TopPLogitsWarper),
            (one.min_p, None, theirs.MinPLogitsWarper),
            (one.typical_p, None, theirs.TypicalLogitsWarper),
        ):
            if value != neutral:
                score = oracle(value)(IDS[row : row + 1], score)
        assert torch.allclose(found[row], score[0], rtol=1e-5), row


def test_draws_follow_the_distribution_and_give_its_logprobs():
    rows, draw = 20_000, random.Random(3)
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0, -60.0]]).expand(rows, 5)
    settings = settings_of([Sampling(temperature=0.7, top_k=3)] * rows, 5, CPU)
    uniforms = torch.tensor([draw.random() for _ in range(rows)], dtype=torch.float64)
    tokens, logprobs = choose(logits, settings, uniforms)
    expected = theirs.TopKLogitsWarper(3)(None, logits[:1] / 0.7).softmax(-1)[0]
    share = torch.bincount(tokens, minlength=5) / rows
    assert (share - expected).abs().max() < 4 * 0.5 / rows**0.5 and share[3] == share[4] == 0
    whole = (logits[0] / 0.7).log_softmax(-1)  # untruncated
    assert torch.allclose(logprobs, whole[tokens], atol=1e-6)
    ends = ours.draw(torch.tensor([[-torch.inf, 0.0, 0.0, -torch.inf]] * 2), torch.tensor([0.0, 1.0 - 2**-53]).double())
    assert ends.tolist() == [1, 2]  # never one of probability 0


@pytest.mark.parametrize(
    "odd", [{"temperature": 1e-40}, {"temperature": 1e-6}, {"top_k": 10**20}, {"repetition_penalty": 1e-3}]
)
def test_odd_settings_draw_a_token_and_leave_others_alone(odd):
    logits = torch.tensor([[3.0, 1.0, -2.0, 60.0]]).expand(2, 4)
    settings = settings_of([Sampling(**odd), Sampling(temperature=0.5)], 4, CPU)
    uniforms = torch.tensor([0.5, 0.5], dtype=torch.float64)
    tokens, logprobs = choose(
        ours.penalised(logits, settings, torch.ones(2, 4, dtype=torch.bool), None), settings, uniforms
    )
    assert tokens.tolist() == [3, 3] and torch.isfinite(logprobs).all()


def test_greedy_and_random_rows_share_a_batch():
    rows = [
        Sampling(temperature=0),
        Sampling(),
        Sampling(temperature=0, repetition_penalty=50.0),
        Sampling(),
        Sampling(),
    ]
    uniforms = torch.rand(5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    likeliest = LOGITS.argmax(-1)
    said = torch.zeros(5, 40, dtype=torch.bool)
    said[2, likeliest[2]] = True
    tokens, logprobs = choose(LOGITS, settings_of(rows, 40, CPU), uniforms, said)
    assert tokens[0] == likeliest[0] and tokens[2] != likeliest[2]
    assert torch.allclose(logprobs, LOGITS.log_softmax(-1).gather(1, tokens[:, None])[:, 0])
    alone, _ = choose(LOGITS[1:2], settings_of(rows[1:2], 40, CPU), uniforms[1:2])
    assert tokens[1] == alone[0]


@pytest.mark.parametrize(
    "bad",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_k": 0},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"min_p": -1},
        {"typical_p": 0},
        {"repetition_penalty": 0},
        {"frequency_penalty": float("inf")},
        {"max_new_tokens": 0},
        {"stop": ("",)},
    ],
)
def test_settings_that_no_rule_can_have_are_mistakes(bad):
    with pytest.raises(TrainingError, match=next(iter(bad))):
        Sampling(**bad)


# Text


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"), texts(60))


def streamed(tokenizer, ids, stops=(), prompt=()):
    stream, pieces = TextStream(tokenizer, list(prompt), stops), []
    for token in ids:
        pieces.append(stream.add(token))
        if stream.stopped:
            return pieces, True
    pieces.append(stream.end())
    return pieces, stream.stopped


def test_a_character_that_the_prompt_breaks_off_in_is_told_when_it_is_whole(tokenizer):
    for text, end in (("the mill 🦔", "🦔"), ("a🪿", "🪿")):
        ids = tokenizer.encode(text).ids
        cut = next(at for at in range(len(ids)) if tokenizer.decode(ids[: at + 1]).endswith("\ufffd"))
        pieces, _ = streamed(tokenizer, [*ids[cut + 1 :], *tokenizer.encode(" mill").ids], prompt=ids[: cut + 1])
        assert "".join(pieces) == f"{end} mill"
    spoilt = tokenizer.encode("read wrongly \ufffd").ids  # a character of its own, which nothing completes
    assert "".join(streamed(tokenizer, tokenizer.encode(" mill").ids, prompt=spoilt)[0]) == " mill"


def test_pieces_are_whole_characters_and_add_up_to_the_text(tokenizer):
    for text in [*texts(30, seed=4), "🥖🌾粉", "é", "� real ��", "  two  spaces ", "\n\n"]:
        ids = tokenizer.encode(text).ids
        pieces, _ = streamed(tokenizer, ids)
        assert "".join(pieces) == text
        if "\ufffd" not in text:
            assert not any("\ufffd" in piece for piece in pieces)
    assert any(len(tokenizer.encode(c).ids) > 1 for c in "🥖粉")  # characters do span tokens here


def test_bytes_that_are_no_text_come_out_as_the_decoder_writes_them(tokenizer):
    draw = random.Random(0)
    for _ in range(40):
        ids = [draw.randrange(3, 400) for _ in range(25)]
        pieces, _ = streamed(tokenizer, ids)
        assert "".join(pieces) == tokenizer.decode(ids)


def test_stop_strings_across_tokens_and_inside_a_repeated_beginning(tokenizer):
    """'aab' is in 'aaab' although a match that begins with the first a fails."""
    letters = {c: tokenizer.encode(c).ids[0] for c in "aab<>x"}
    for text, stops, cut in (
        ("aaab", ("aab",), "a"),
        ("aaaab!", ("aab", "b"), "aa"),
        ("xaax", ("aab",), "xaax"),
        ("aa", ("aab",), "aa"),  # what was held back comes when nothing follows
        ("a<x><b>a", ("<b>",), "a<x>"),
        ("b", ("b",), ""),
        ("xab", ("ab", "xab"), ""),  # the one that begins first
    ):
        ids = [letters.get(c) or tokenizer.encode(c).ids[0] for c in text]
        pieces, stopped = streamed(tokenizer, ids, stops)
        assert ("".join(pieces), stopped) == (cut, cut != text), text


def test_random_texts_stop_where_a_search_of_the_whole_text_does(tokenizer):
    draw = random.Random(1)
    for _ in range(300):
        text = "".join(draw.choice("aab麦") for _ in range(draw.randint(1, 14)))
        stops = tuple(
            "".join(draw.choice("aab麦") for _ in range(draw.randint(1, 4))) for _ in range(draw.randint(1, 3))
        )
        ids = tokenizer.encode(text).ids if draw.random() < 0.5 else [i for c in text for i in tokenizer.encode(c).ids]
        pieces, stopped = streamed(tokenizer, ids, stops)
        at = min((text.find(stop) for stop in stops if stop in text), default=-1)
        # a stop string that ends first may hide one that begins earlier and has not ended yet
        ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
        assert stopped == (at >= 0)
        said = "".join(pieces)
        assert text.startswith(said)
        if at < 0:
            assert said == text
        else:
            assert at <= len(said) <= min(ends)
            assert not any(stop in said for stop in stops)


def test_held_back_is_the_longest_possible_beginning():
    assert held_back("xxaa", ["aab"]) == 2
    assert held_back("xxaaa", ["aab"]) == 2
    assert held_back("aab", ["ab"]) == 0
    assert held_back("abab", ["ababc", "bx"]) == 4
