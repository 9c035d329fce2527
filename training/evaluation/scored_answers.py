"""Questions put to a model, and its answers scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from training.evaluation.answering import Answer, answer_all, form_of
from training.evaluation.answers import bleu, chrf, exact_match, pass_at_k, rouge, token_f1
from training.evaluation.questions import Question, Questions, verifiers
from training.evaluation.scoring import mean_and_error
from training.evaluation.similarity import Encoder, bertscore
from training.evaluation.subject import Subject
from training.inference.sampling import Sampling

RIGHT = 1.0  # the score from which pass@k counts a verified answer


def run_questions(
    subject: Subject,
    questions: Questions,
    *,
    seed: int,
    limit: int | None,
    shown: int,
    encoder: Encoder | None,
    done: Callable[[int], object] = lambda count: None,
) -> tuple[dict[str, Any], list[Answer]]:
    """The results of one model on one file, and the first answer to each question.

    Scores are means over questions (of the means over samples) with their standard errors; bleu and chrf are of all first
    samples together and have none. `ended`: the share of answers that the model ended itself.
    """
    config, items = questions.config, questions.items[:limit]
    sampling = Sampling(
        temperature=config.temperature, max_new_tokens=config.max_new_tokens, stop=config.stop, seed=seed
    )
    answers = answer_all(
        subject, [item.messages for item in items], sampling, config.form, samples=config.samples, done=done
    )
    every = [one for of_item in answers for one in of_item]
    out: dict[str, Any] = {
        "items": len(items),
        "form": form_of(subject.folder, config.form),
        "samples": config.samples,
        "too_long": sum(of_item[0].finish == "too_long" for of_item in answers),
        "ended": sum(one.finish == "stop" for one in every) / len(every),
        "tokens": sum(len(one.logprobs) for one in every) / len(every),
        "scores": {},
    }
    for metric in questions.metrics:
        _score(out, metric, questions, items, answers, encoder)
    out["answers"] = [
        {"prompt": item.text, "answer": of_item[0].text, "references": list(item.references)}
        for item, of_item in zip(items[:shown], answers, strict=False)
    ]
    return out, [of_item[0] for of_item in answers]


def _score(
    out: dict[str, Any],
    metric: str,
    questions: Questions,
    items: Sequence[Question],
    answers: Sequence[Sequence[Answer]],
    encoder: Encoder | None,
) -> None:
    """Put a metric's figures into `out["scores"]`."""
    texts = [[one.text for one in of_item] for of_item in answers]
    references = [item.references for item in items]

    def put(name: str, per_question: Sequence[float]) -> None:
        value, error = mean_and_error(per_question)
        out["scores"][name] = {"value": value, "stderr": error}

    def means(values: Sequence[float]) -> list[float]:
        size = questions.config.samples
        return [sum(values[at : at + size]) / size for at in range(0, len(values), size)]

    if metric == "verified":
        scores = verify(items, texts, questions.config.allow_unsandboxed)
        put("verified", [sum(one) / len(one) for one in scores])
        for k in questions.config.pass_at if questions.config.samples > 1 else ():
            put(f"pass@{k}", [pass_at_k(len(one), sum(score >= RIGHT for score in one), k) for one in scores])
    elif metric in ("exact_match", "f1"):
        rule = exact_match if metric == "exact_match" else token_f1
        put(
            metric,
            [
                sum(rule(text, wanted) for text in of_item) / len(of_item)
                for of_item, wanted in zip(texts, references, strict=True)
            ],
        )
    elif metric in ("bleu", "chrf"):
        found = (bleu if metric == "bleu" else chrf)([of_item[0] for of_item in texts], references)
        out["scores"][metric] = {"value": found["score"], "stderr": None, "signature": found["signature"]}
    else:
        flat = [text for of_item in texts for text in of_item]
        repeated = [wanted for wanted in references for _ in range(questions.config.samples)]
        if metric == "rouge":
            for name, values in rouge(flat, repeated).items():
                put(name, means(values))
        else:
            assert encoder is not None
            put("bertscore", means(bertscore(encoder, flat, repeated)))


def verify(items: Sequence[Question], texts: Sequence[Sequence[str]], allow_unsandboxed: bool) -> list[list[float]]:
    """The verifiers' score of each text of each question, the best over references where there are several."""
    checks = verifiers(items, allow_unsandboxed)
    return [
        [max(checks[str(item.verifier)](text, one).score for one in item.answers) for text in of_item]
        for item, of_item in zip(items, texts, strict=True)
    ]
