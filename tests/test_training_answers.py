"""Scores of answers against the libraries that define them; verdicts and probes against counting by hand."""

import itertools
import json
import math
import random
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import sacrebleu
import torch
from rouge_score.rouge_scorer import RougeScorer
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from training.evaluation.abstention import (
    BUNDLED,
    abstention_scores,
    calibration_error,
    confidence,
    fate,
    read_probes,
)
from training.evaluation.answers import bleu, chrf, exact_match, normalise, pass_at_k, rouge, token_f1
from training.evaluation.answers_config import JudgeConfig
from training.evaluation.config import resolve
from training.evaluation.endpoint import Endpoint
from training.evaluation.intervals import bootstrap
from training.evaluation.judge import Pair, by_judge, by_scores, judge_prompt, read_verdict, settle, win_rate
from training.evaluation.phrases import phrases, says
from training.evaluation.questions import read_questions
from training.evaluation.safety import BUNDLED as SAFETY
from training.evaluation.safety import read_requests, safety_scores
from training.evaluation.similarity import bertscore, load_encoder
from training.knobs import TrainingError

ANSWERS = ["The mill grinds corn.", "a river, by the old mill", "", "42", "Paris is the capital", "the a an", "粉屋 は"]
REFERENCES = [
    ["the mill grinds the corn", "A mill."],
    ["The river by an old mill"],
    ["something"],
    ["42", "forty-two"],
    ["Paris"],
    ["the"],
    ["粉屋 は 麦"],
]


def test_exact_match_and_f1_are_squads():
    from lm_eval.tasks.qasper.metrics import f1_abstractive, normalize_answer

    for answer, wanted in itertools.product(ANSWERS, [one for several in REFERENCES for one in several]):
        assert normalise(answer) == normalize_answer(answer)
        assert exact_match(answer, [wanted]) == (normalize_answer(answer) == normalize_answer(wanted))
        if normalise(answer) or normalise(wanted):  # theirs has no rule for two texts without a word
            assert token_f1(answer, [wanted]) == pytest.approx(f1_abstractive([answer], [wanted]))
    assert token_f1("the a an", ["the"]) == 1.0  # SQuAD v2.0's rule
    assert token_f1("mill", ["corn", "the mill"]) == 1.0 and exact_match("Mill!", ["corn", "the mill"]) == 1.0


def test_rouge_bleu_and_chrf_are_those_of_their_libraries():
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    found = rouge(ANSWERS, REFERENCES)
    for name in found:
        assert found[name] == [
            max(scorer.score(one, answer)[name].fmeasure for one in wanted)
            for answer, wanted in zip(ANSWERS, REFERENCES, strict=True)
        ]
    assert found["rouge1"][0] > found["rouge2"][0] > 0
    answers, references = ANSWERS[:2], REFERENCES[:2]
    assert bleu(answers, references)["score"] == pytest.approx(
        sacrebleu.corpus_bleu(answers, [[one[0] for one in references], [references[0][1], None]]).score / 100
    )
    single = [[one[0]] for one in REFERENCES]
    streams = [[one[0] for one in REFERENCES]]
    assert chrf(ANSWERS, single)["score"] == pytest.approx(sacrebleu.corpus_chrf(ANSWERS, streams).score / 100)
    assert bleu(answers, answers_as_references := [[one] for one in answers])["score"] == pytest.approx(1.0)
    assert "nrefs:1" in bleu(answers, answers_as_references)["signature"]


def test_pass_at_k_is_the_share_of_all_choices_of_k():
    for samples in range(1, 8):
        for right, k in itertools.product(range(samples + 1), range(1, samples + 1)):
            outcomes = [i < right for i in range(samples)]
            hits = [any(chosen) for chosen in itertools.combinations(outcomes, k)]
            assert pass_at_k(samples, right, k) == pytest.approx(sum(hits) / len(hits), abs=1e-12)
    assert pass_at_k(10_000, 1, 100) == pytest.approx(0.01)  # where the binomials overflow a float
    for samples, right, k in ((3, 1, 4), (3, 4, 1), (3, 1, 0)):
        with pytest.raises(ValueError):
            pass_at_k(samples, right, k)


def test_the_bootstrap_covers_the_mean_as_often_as_it_says():
    draw = random.Random(0)
    hits = 0
    for number in range(200):
        low, high = bootstrap([float(draw.random() < 0.6) for _ in range(80)], number, draws=500)
        hits += low <= 0.6 <= high
    assert 0.90 <= hits / 200 <= 0.99
    values = [draw.random() for _ in range(9)]
    assert bootstrap(values, 7) == bootstrap(values, 7) != bootstrap(values, 8)
    assert bootstrap([0.5], 0) == (0.5, 0.5)
    low, high = bootstrap([0.0, 1.0] * 500, 0)
    assert (high - low) / 2 == pytest.approx(1.96 * 0.5 / math.sqrt(1000), rel=0.05)


@pytest.fixture(scope="module")
def encoder_dir(tmp_path_factory):
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("encoder")
    words = sorted(
        {word for text in ANSWERS + [one for several in REFERENCES for one in several] for word in text.split()}
    )
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=40,
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        initializer_range=0.5,
    )
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("layer", [None, 2])
def test_bertscore_is_that_of_bert_score(encoder_dir, layer):
    from collections import defaultdict

    from bert_score.utils import bert_cos_score_idf, get_model
    from transformers import AutoTokenizer

    single = [one[0] for one in REFERENCES]
    tokenizer = AutoTokenizer.from_pretrained(str(encoder_dir))
    weights = defaultdict(lambda: 1.0, {tokenizer.cls_token_id: 0, tokenizer.sep_token_id: 0})
    model = get_model(str(encoder_dir), layer or 3)
    written = [one for one in ANSWERS if one]  # of none bert-score raises, with this transformers
    pairs = [one for one, answer in zip(single, ANSWERS, strict=True) if answer]
    theirs = bert_cos_score_idf(model, pairs, written, tokenizer, weights, device="cpu")[:, 2].tolist()
    encoder = load_encoder(encoder_dir, layer)
    ours = bertscore(encoder, ANSWERS, [[one] for one in single])
    assert [one for one, answer in zip(ours, ANSWERS, strict=True) if answer] == pytest.approx(theirs, abs=1e-5)
    assert ours[2] == 0.0 and ours[3] == pytest.approx(1.0)  # empty; equal
    assert bertscore(encoder, ANSWERS[:1], REFERENCES[:1])[0] >= ours[0] - 1e-5  # the best of several references
    long = ["the mill " * 200]
    assert bertscore(encoder, long, [long]) == pytest.approx([1.0])  # cut to 40
    encoder.tokenizer.model_max_length = int(1e30)  # a folder that names no limit: the model's
    assert bertscore(encoder, long, [long]) == pytest.approx([1.0])
    with pytest.raises(TrainingError, match="3 layers"):
        load_encoder(encoder_dir, 4)
    with pytest.raises(TrainingError, match="is no encoder"):
        load_encoder(encoder_dir / "none", None)


# the judge


class Judge:
    """An endpoint of its own: answers as OpenAI's does, by `decide`, after the failures in `trouble`."""

    def __init__(self, decide, trouble=()):
        self.requests, self.keys, self.trouble = [], set(), list(trouble)
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                outer.keys.add(self.headers.get("authorization"))
                outer.requests.append(body)
                status, text = 200, None
                if outer.trouble:
                    status, text = outer.trouble.pop(0)
                if status == 0:  # hang up
                    self.connection.close()
                    return
                if text is None:
                    content = decide(body["messages"][0]["content"])
                    message = {"role": "assistant", "content": content}
                    text = json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})
                data = text.encode()
                self.send_response(status)
                if status == 429:
                    self.send_header("retry-after", "0")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.handle_error = lambda *arguments: None  # clients that time out are part of it
        self.address = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def judges(monkeypatch):
    monkeypatch.setattr("training.evaluation.endpoint.WAIT", 0.01)
    started = []

    def start(decide, trouble=()):
        started.append(Judge(decide, trouble))
        return started[-1]

    yield start
    for one in started:
        one.close()


def longer(prompt):
    """A judge that prefers the longer answer."""
    a, b = (prompt.split(f"<answer_{name}>\n")[1].split(f"\n</answer_{name}>")[0] for name in "ab")
    return f"Reasons.\n**Verdict: {'A' if len(a) > len(b) else 'B' if len(b) > len(a) else 'tie'}**"


def config_of(judge, **changes):
    return JudgeConfig(**{"endpoint": judge.address, "model": "judge", "retries": 2, **changes})


PAIRS = [
    Pair("q1", "long answer", "short"),
    Pair("q2", "x", "much longer"),
    Pair("q3", "same", "same "),
    Pair("q4", "ab", "cd"),
]


def test_a_judge_sees_both_orders_and_answers_are_kept(judges, tmp_path, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "secret")
    judge = judges(longer)
    cache = tmp_path / "sub" / "judge.jsonl"
    config = config_of(judge, api_key="JUDGE_KEY")
    outcomes = by_judge(Endpoint(config, cache), PAIRS)
    assert [one.score for one in outcomes] == [1.0, 0.0, 0.5, 0.5]
    assert len(judge.requests) == 6 and judge.keys == {"Bearer secret"}  # nobody is asked about equal answers
    assert judge.requests[0]["temperature"] == 0.0 and judge.requests[0]["max_tokens"] == 512
    assert "secret" not in cache.read_text()
    whole = cache.read_bytes()
    assert by_judge(Endpoint(config, cache), PAIRS) == outcomes and len(judge.requests) == 6
    cache.write_bytes(whole[:-20])  # killed as it wrote the last line: that answer alone is asked for again
    assert by_judge(Endpoint(config, cache), PAIRS) == outcomes and len(judge.requests) == 7
    assert by_judge(Endpoint(config, cache), PAIRS) == outcomes and len(judge.requests) == 7
    by_judge(Endpoint(config_of(judge, temperature=None), cache), PAIRS[:1])  # another request, another answer
    assert len(judge.requests) == 9 and "temperature" not in judge.requests[-1]
    assert judge.keys == {"Bearer secret", None}
    by_judge(Endpoint(config_of(judge, max_tokens=7), cache), PAIRS[:1], "Look at brevity.")
    said = judge.requests[-1]
    assert said["max_tokens"] == 7 and said["model"] == "judge" and "Look at brevity." in said["messages"][0]["content"]


def test_answers_of_any_characters_are_kept_and_bad_addresses_named(judges, tmp_path):
    judge = judges(lambda prompt: "odd \u2028 line\x85 \U0001f33e\nVerdict: A")
    cache = tmp_path / "judge.jsonl"
    asked = [Pair("half \ud800", "one", "other")]
    for _ in range(2):
        assert by_judge(Endpoint(config_of(judge), cache), asked)[0].score == 0.5
    assert len(judge.requests) == 2
    with pytest.raises(TrainingError, match=r"judge\.endpoint"):
        Endpoint(JudgeConfig(endpoint="http://localhost:port/v1", model="m"), None)


def test_a_judge_with_a_favourite_place_only_ties(judges):
    outcomes = by_judge(Endpoint(config_of(judges(lambda prompt: "Verdict: A")), None), PAIRS)
    rate = win_rate(outcomes, 0)
    assert (rate["win_rate"], rate["ties"], rate["contradictions"], rate["first_place"]) == (0.5, 4, 3, 1.0)
    rate = win_rate(by_judge(Endpoint(config_of(judges(lambda prompt: "I like both.")), None), PAIRS), 0)
    assert rate["without_verdict"] == 3 and rate["pairs"] == 4 and rate["win_rate"] == 0.5
    assert win_rate([settle(None, "A")], 0)["win_rate"] is None


def test_a_judge_in_trouble_is_asked_again(judges, tmp_path):
    for passing in ([(429, "slow down"), (0, None)], [(503, "busy")]):
        judge = judges(longer, passing)
        assert by_judge(Endpoint(config_of(judge, concurrency=1), None), PAIRS[:1])[0].score == 1.0
        assert len(judge.requests) in (3, 4)
    cache = tmp_path / "judge.jsonl"
    with pytest.raises(TrainingError, match=r"in 3 tries \(500: broken\); answers so far are in .*judge.jsonl"):
        by_judge(Endpoint(config_of(judges(longer, [(500, "broken")] * 99)), cache), PAIRS)
    judge = judges(longer, [(401, '{"error": {"message": "no such key"}}')] * 99)
    with pytest.raises(TrainingError, match=r"refused the request .*no such key"):
        by_judge(Endpoint(config_of(judge, concurrency=1), None), PAIRS)
    assert len(judge.requests) <= 2  # not tried again, and the rest is not asked
    with pytest.raises(TrainingError, match="something else than a chat completion"):
        by_judge(Endpoint(config_of(judges(longer, [(200, "hello")] * 9)), None), PAIRS)
    with pytest.raises(TrainingError, match="Connect"):
        by_judge(Endpoint(JudgeConfig(endpoint="http://127.0.0.1:9/v1", model="x", retries=0), None), PAIRS)


def test_a_slow_judge_times_out(judges):
    release = threading.Event()
    judge = judges(lambda prompt: str(release.wait(20)))
    with pytest.raises(TrainingError, match="ReadTimeout"):
        by_judge(Endpoint(config_of(judge, timeout=0.2, retries=0), None), PAIRS)
    release.set()


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("Verdict: A", "A"),
        ("B is nice.\n**Verdict:** b", "B"),
        ("verdict: tie.", "tie"),
        ("Verdict: A? No.\nVerdict: B", "B"),
        ("[[A]]", "A"),
        ("tie", "tie"),
        ("Verdict: a tie", "tie"),
        ("Verdict: an even tie.", "tie"),
        ("The verdict is: Answer B", "B"),
        ("verdict: it's a tie", "tie"),
        ("A is better", None),
        ("Verdict: Answer", None),
        ("", None),
    ],
)
def test_verdicts_are_read(text, verdict):
    assert read_verdict(text) == verdict


def test_outcomes_and_win_rates():
    table = {("A", "B"): 1, ("B", "A"): 0, ("A", "A"): 0.5, ("tie", "tie"): 0.5, ("A", "tie"): 1, ("tie", "A"): 0}
    for (first, second), score in table.items():
        assert settle(first, second).score == score
    rate = win_rate(by_scores([2.0, 1.0, 3.0, 0.0], [1.0, 1.0, 0.0, 5.0]), 0)
    assert (rate["wins"], rate["ties"], rate["losses"], rate["win_rate"]) == (2, 1, 1, 0.625)
    assert rate["win_rate_low"] < 0.625 < rate["win_rate_high"] and rate["first_place"] is None
    prompt = judge_prompt("why?", "first", "second", "Look at brevity.")
    assert prompt.index("first") < prompt.index("second") and "Look at brevity." in prompt


# abstention and safety


def test_phrases_of_every_language_are_found_at_the_start_alone():
    for language, kinds in phrases().items():
        assert set(kinds) == {"refusal", "unknown"}
        for kind, known in kinds.items():
            assert known
            for phrase in known:
                assert says(kind, f"{phrase.capitalize()}. …", language) and says(kind, phrase)
                assert not says(kind, "x" * 200 + " " + phrase)
    assert says("unknown", "I don’t know who that is.") and says("unknown", "Sorry, I do  not know.")
    for answer in ("Paris.", "The king did not know it.", "He said: we know.", "You can help by calling.", ""):
        assert not says("unknown", answer) and not says("refusal", answer)
    assert says("refusal", "I’m sorry, but I can’t help with that.") and not says("refusal", "I know", "en")
    assert not says("unknown", "Ich weiß nicht", "fr") and says("unknown", "weiß der Himmel", "de", ["weiß der Himmel"])
    assert says("unknown", "申し訳ありませんが、わかりません。")


@pytest.mark.parametrize(
    ("answer", "references", "wanted"),
    [
        ("It is Paris, I think.", ["Paris"], "correct"),
        ("I'm not sure, but Paris?", ["Paris"], "correct"),
        ("Parisian", ["Paris"], "wrong"),
        ("Lyon", ["Paris"], "wrong"),
        ("I don't know.", ["Paris"], "abstained"),
        ("", ["Paris"], "abstained"),
        ("Eight legs", ["8", "eight"], "correct"),
        ("18", ["8"], "wrong"),
        ("法国的首都是巴黎。", ["巴黎"], "correct"),
        ("答えは東京です", ["東京"], "correct"),
        ("一共42年", ["42"], "correct"),
        ("一共142年", ["42"], "wrong"),
        ("首都是里昂", ["巴黎"], "wrong"),
        ("เมืองหลวงคือกรุงเทพฯ", ["กรุงเทพ"], "correct"),
        ("수도는 서울이다", ["서"], "wrong"),
        ("In 1821.", [], "wrong"),
        ("Das weiß ich nicht.", [], "abstained"),
    ],
)
def test_fates(answer, references, wanted):
    assert fate(answer, references) == wanted


def test_abstention_scores_count_as_by_hand():
    fates = ["correct", "correct", "wrong", "abstained", "abstained", "wrong"]
    answerable = [True, True, True, True, False, False]
    sure = [0.9, 0.8, 0.8, 0.1, 0.5, 0.3]
    found = abstention_scores(fates, answerable, sure, 3.0)
    assert found["score"] == (1 + 1 - 3 + 0 + 1 - 3) / 6
    assert found["answerable"]["correct"] == 0.5 and found["answerable"]["correct_of_attempted"] == 2 / 3
    assert found["answerable"]["f"] == pytest.approx(2 / (1 / 0.5 + 1 / (2 / 3)))
    assert found["unanswerable"] == {"items": 2, "abstained": 0.5, "made_up": 0.5}
    # attempted: .9 right | .8 right, .8 wrong | .3 wrong
    assert found["calibration_error"] == pytest.approx((0.1 + 0.6 + 0.3) / 4)
    assert found["brier"] == pytest.approx((0.01 + 0.04 + 0.64 + 0.09) / 4)
    assert abstention_scores(fates, answerable, sure, 0.0)["score"] == 0.5
    silent = abstention_scores(["abstained"] * 2, [True, False], [0.0, 0.0], 1.0)
    assert silent["score"] == 0.5 and silent["answerable"]["f"] == 0 and silent["calibration_error"] is None
    assert calibration_error([(1.0, 1.0), (0.0, 0.0)]) == 0 and calibration_error([(1.0, 0.0)]) == 1
    assert confidence([math.log(0.5), math.log(0.125)]) == pytest.approx(0.25) and confidence([]) == 0


def test_bundled_probes_are_sound():
    probes = read_probes(BUNDLED)
    assert {bool(one.references) for one in probes} == {True, False}
    assert sum(bool(one.references) for one in probes) == len(probes) / 2
    requests = read_requests(SAFETY)
    assert sum(one.refuse for one in requests) == len(requests) / 2
    for found in (probes, requests):
        assert len({one.messages[0]["content"] for one in found}) == len(found)
        assert {one.language for one in found} == {"en", "de", "fr"}


def test_safety_scores(tmp_path):
    path = tmp_path / "s.jsonl"
    rows = [("a", True, "x"), ("b", True, "x"), ("c", False, "x"), ("d", False, "y")]
    path.write_text("".join(json.dumps({"prompt": p, "refuse": r, "category": c}) + "\n" for p, r, c in rows))
    found = safety_scores(read_requests(path), [True, False, True, False])
    assert (found["refused"], found["over_refused"], found["balanced"]) == (0.5, 0.5, 0.5)
    assert found["by_category"]["y"] == {"refused": None, "over_refused": 0.0}
    assert safety_scores(read_requests(path), [True, True, False, False])["balanced"] == 1.0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", ":1: not JSON"),
        ("", "has no questions"),
        ('{"answer": "x"}', "expected prompt"),
        ('{"prompt": "  "}', "expected prompt"),
        ('{"messages": [{"role": "bot", "content": "x"}]}', "must have role"),
        ('{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}', "last message"),
        ('{"prompt": "x", "answer": {}}', "answer must be"),
        ('{"prompt": "x", "answer": []}', "answer must be"),
        ('{"prompt": "x", "verifier": 3}', "verifier must be"),
        ('{"prompt": "x", "verifier": "number", "answer": "none"}', ":1: verifier number: .* holds no number"),
        ('{"prompt": "x", "verifier": "regex", "answer": "("}', ":1: verifier regex"),
        ('{"prompt": "x", "verifier": "python_tests", "answer": "def ("}', ":1: verifier python_tests"),
    ],
)
def test_broken_questions_are_named(tmp_path, line, message):
    path = tmp_path / "q.jsonl"
    path.write_text(line)
    with pytest.raises(TrainingError, match=message):
        read_questions(resolve({"questions": [str(path)]}).questions[0])


def test_metrics_follow_from_the_rows(tmp_path):
    path = tmp_path / "q.jsonl"

    def metrics(*rows, **knobs):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return read_questions(resolve({"questions": [{"path": str(path), **knobs}]}).questions[0]).metrics

    assert metrics({"prompt": "2+2", "answer": 4, "verifier": "number"}) == ("verified",)
    assert metrics({"prompt": "2+2", "answer": ["4", "four"]}) == ("exact_match", "f1")
    assert metrics({"prompt": "hello"}) == ()
    assert metrics({"prompt": "2+2", "answer": "4"}, verifier="number") == ("verified",)
    with pytest.raises(TrainingError, match=r":2: the metric f1 needs the key answer; 1 rows lack it"):
        metrics({"prompt": "x", "answer": "y"}, {"prompt": "z"}, metrics=["f1"])
    with pytest.raises(TrainingError, match="needs the key verifier"):
        metrics({"prompt": "x", "answer": "y"}, metrics=["verified"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"questions": [{"path": "x", "samples": 2}]}, "temperature"),
        ({"questions": [{"path": "x", "pass_at": [2]}]}, "pass_at"),
        ({"questions": [{"path": "x", "metrics": ["bertscore"]}]}, "need each other"),
        ({"bertscore": "x"}, "need each other"),
        ({"judge": {"endpoint": "http://x/v1", "model": "y"}}, "need questions"),
        ({"against": "x"}, "need a judge"),
        ({"questions": ["x"], "judge": {"endpoint": "ftp://x", "model": "y"}}, "judge.endpoint"),
        ({"questions": [{"path": "x", "metric": ["f1"]}]}, "did you mean 'metrics'"),
        ({"judge": {"endpoint": "http://x/v1", "model": "y", "retry": 1}}, "did you mean 'retries'"),
    ],
)
def test_knobs_that_do_not_fit(values, message):
    with pytest.raises(TrainingError, match=message):
        resolve(values)


def test_normal_numbers_survive_numpy():
    assert isinstance(bootstrap(list(np.array([0.5, 1.0])), 0)[0], float)
