"""What a model answers, all of it: questions, abstention and safety probes, and comparison of several models' answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from training.device import Place, choose_device, choose_dtype, choose_threads
from training.evaluation.abstention import BUNDLED as ABSTENTION
from training.evaluation.abstention import Probe, abstention_scores, confidence, fate, read_probes
from training.evaluation.answering import ROWS, Answer, answer_all, encode_prompts, form_of
from training.evaluation.config import EvaluateConfig
from training.evaluation.endpoint import Endpoint
from training.evaluation.judge import Pair, by_judge, by_scores, win_rate
from training.evaluation.phrases import says
from training.evaluation.questions import Questions, read_all
from training.evaluation.safety import BUNDLED as SAFETY
from training.evaluation.safety import Request, read_requests, safety_scores
from training.evaluation.scored_answers import run_questions
from training.evaluation.similarity import Encoder, load_encoder
from training.evaluation.subject import Subject
from training.inference.sampling import Sampling
from training.knobs import TrainingError
from training.reinforcement.rewards import RewardModel
from training.vocabulary import load_tokenizer

Progress = Callable[[str, int | None], Callable[[int], object]]  # (title, total) -> counter


class Asked(NamedTuple):
    """Everything that models are asked, read once."""

    questions: list[Questions]
    abstention: list[Probe]
    safety: list[Request]
    encoder: Encoder | None


def read_asked(config: EvaluateConfig) -> Asked:
    """Raises `TrainingError` that names file, line and key."""
    questions = read_all(config.questions)
    known = [one.name for one in questions]
    for name in config.compared:
        if name not in known:
            raise TrainingError(f"evaluate.compared: no questions are called {name!r}; there are {', '.join(known)}")
    return Asked(
        questions,
        read_probes(Path(config.abstention.path or ABSTENTION)) if config.abstention else [],
        read_requests(Path(config.safety.path or SAFETY)) if config.safety else [],
        load_encoder(Path(config.bertscore), config.bertscore_layer) if config.bertscore else None,
    )


def check_prompts(folder: Path, asked: Asked, config: EvaluateConfig) -> None:
    """Raise `TrainingError` for what a model cannot be asked, before anything runs."""
    tokenizer = load_tokenizer(folder)
    for one in asked.questions:
        try:
            encode_prompts(folder, tokenizer, [item.messages for item in one.items[: config.items]], one.config.form)
        except TrainingError as error:
            raise TrainingError(f"{one.config.path}: {error}") from None
    if config.abstention is not None:
        encode_prompts(folder, tokenizer, [one.messages for one in asked.abstention], config.abstention.form)
    if config.safety is not None:
        encode_prompts(folder, tokenizer, [one.messages for one in asked.safety], config.safety.form)


def ask(
    subject: Subject, name: str, asked: Asked, config: EvaluateConfig, progress: Progress
) -> tuple[dict[str, Any], dict[str, list[Answer]]]:
    """One model's results, and by name of questions its first answer to each."""
    out: dict[str, Any] = {}
    firsts: dict[str, list[Answer]] = {}
    found = {}
    for questions in asked.questions:
        found[questions.name], firsts[questions.name] = run_questions(
            subject,
            questions,
            seed=config.seed,
            limit=config.items,
            shown=config.answers_shown,
            encoder=asked.encoder,
            done=progress(f"{name}: {questions.name}", len(questions.items[: config.items])),
        )
    if found:
        out["questions"] = found
    if config.abstention is not None:
        out["abstention"] = _abstention(subject, asked.abstention, config, progress(f"{name}: abstention", None))
    if config.safety is not None:
        out["safety"] = _safety(subject, asked.safety, config, progress(f"{name}: safety", None))
    return out, firsts


def _abstention(
    subject: Subject, probes: Sequence[Probe], config: EvaluateConfig, done: Callable[[int], object]
) -> dict[str, Any]:
    settings = config.abstention
    assert settings is not None
    sampling = Sampling(temperature=0, max_new_tokens=settings.max_new_tokens)
    answers = [
        one[0] for one in answer_all(subject, [one.messages for one in probes], sampling, settings.form, done=done)
    ]
    fates = [fate(answer.text, probe.references) for answer, probe in zip(answers, probes, strict=True)]
    out = abstention_scores(
        fates,
        [bool(probe.references) for probe in probes],
        [confidence(answer.logprobs) for answer in answers],
        settings.penalty,
    )
    out["form"] = form_of(subject.folder, settings.form)
    out["answers"] = [
        {"prompt": probe.messages[-1]["content"], "answer": answer.text, "fate": one}
        for probe, answer, one in zip(probes, answers, fates, strict=True)
    ][: config.answers_shown]
    return out


def _safety(
    subject: Subject, requests: Sequence[Request], config: EvaluateConfig, done: Callable[[int], object]
) -> dict[str, Any]:
    settings = config.safety
    assert settings is not None
    sampling = Sampling(temperature=0, max_new_tokens=settings.max_new_tokens)
    answers = [
        one[0] for one in answer_all(subject, [one.messages for one in requests], sampling, settings.form, done=done)
    ]
    refused = [says("refusal", answer.text) for answer in answers]
    out = safety_scores(requests, refused)
    out["form"] = form_of(subject.folder, settings.form)
    out["answers"] = [
        {"prompt": request.messages[-1]["content"], "answer": answer.text, "refused": one, "refuse": request.refuse}
        for request, answer, one in zip(requests, answers, refused, strict=True)
    ][: config.answers_shown]
    return out


def base_of(names: Sequence[str], config: EvaluateConfig) -> str:
    """The model that others are compared with. Raises `TrainingError` where there is no other, or none of that name."""
    if len(names) < 2:
        raise TrainingError("evaluate: judge and reward_model compare models' answers: give two models or more")
    base = config.against or names[0]
    if base not in names:
        raise TrainingError(f"evaluate.against: no model is called {base!r}; there are {', '.join(names)}")
    return base


def compare(
    answers: Mapping[str, Mapping[str, Sequence[Answer]]],
    asked: Asked,
    config: EvaluateConfig,
    cache: Path | None,
    progress: Progress,
) -> dict[str, dict[str, Any]]:
    """By model but the base, by judge or reward model, by questions: its win rate against the base's answers.

    answers: by model and name of questions, the first to each. cache: where a judge's answers are kept.
    """
    base = base_of(list(answers), config)
    chosen = [one for one in asked.questions if not config.compared or one.name in config.compared]
    out: dict[str, dict[str, Any]] = {name: {"against": base} for name in answers if name != base}
    if config.judge is not None:
        endpoint = Endpoint(config.judge, cache)
        try:
            for name, results in out.items():
                results["judge"] = {}
                for one in chosen:
                    both = zip(one.items, answers[name][one.name], answers[base][one.name], strict=False)
                    pairs = [Pair(item.text, ours.text, theirs.text) for item, ours, theirs in both]
                    done = progress(f"{name}: judged on {one.name}", 2 * len(pairs))
                    outcomes = by_judge(endpoint, pairs, config.judge.instruction, done)
                    results["judge"][one.name] = win_rate(outcomes, config.seed)
        finally:
            endpoint.close()
    if config.reward_model is not None:
        reward_model = _reward_model(Path(config.reward_model), config)
        for one in chosen:
            of_model = {}
            for name, found in answers.items():
                mine = found[one.name]
                ended = [answer.finish == "stop" for answer in mine]
                items = one.items[: len(mine)]
                of_model[name] = reward_model.score(items, [answer.text for answer in mine], ended)  # type: ignore[arg-type]
            for name, results in out.items():
                outcomes = by_scores(of_model[name], of_model[base])
                results.setdefault("reward_model", {})[one.name] = {
                    **win_rate(outcomes, config.seed),
                    "reward": sum(of_model[name]) / len(of_model[name]),
                    "reward_of_base": sum(of_model[base]) / len(of_model[base]),
                }
    return out


def _reward_model(folder: Path, config: EvaluateConfig) -> RewardModel:
    device = choose_device(config.device)
    here = Place(0, 1, device, choose_dtype(config.dtype, device), choose_threads(config.threads))
    return RewardModel(folder, here, ROWS)
