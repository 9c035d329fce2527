"""A second opinion where the language model is not sure."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.language import Language, LanguageConfig
from stages.language_second import SecondOpinion, combined
from tests.web_stages import ready, run

# Short texts that lid.176 alone takes for a neighbouring language.
HARD = {
    "ms": "Beliau berkata kerajaan negeri akan menyediakan peruntukan bagi membaiki jalan raya itu.",
    "nn": "Eg veit ikkje kva dei skal gjere med huset no.",
    "so": "Waxaan doonayaa inaan kuu sheego sheeko gaaban.",
}
CLEAR = "The committee will meet again next week to discuss the results of the survey in detail."


@pytest.fixture(scope="module")
def second() -> SecondOpinion:
    return SecondOpinion()


def labels(config: LanguageConfig, texts: list[str]) -> list[tuple[str, float]]:
    values, _ = run(ready(Language(config)), text=texts)
    return list(zip(values["language"].to_pylist(), values["language_score"].to_pylist(), strict=True))


def test_neighbours_are_told_apart() -> None:
    alone = labels(LanguageConfig(), list(HARD.values()))
    both = labels(LanguageConfig(second_opinion=True), list(HARD.values()))
    assert [label for label, _ in both] == list(HARD)
    assert [label for label, _ in alone] != list(HARD)
    assert all(0 <= score <= 1 for _, score in both)


def test_what_the_model_is_sure_of_stays() -> None:
    assert labels(LanguageConfig(second_opinion=True), [CLEAR]) == labels(LanguageConfig(), [CLEAR])


def test_numbers_and_symbols_are_not_sure_to_be_a_language() -> None:
    [(_, score)] = labels(
        LanguageConfig(second_opinion=True), ["const FRAC: f32 = 0.39269908169872415480783042290993786;"]
    )
    assert score < 0.2


@pytest.mark.parametrize("text", [*HARD.values(), CLEAR, "委员会将于下周再次开会。"])
def test_probabilities_are_those_of_the_library(text: str, second: SecondOpinion) -> None:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    theirs = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True).rank(text)
    ours = second.probabilities(text)
    assert sorted(ours.values(), reverse=True)[:5] == pytest.approx([share for _, share in theirs][:5], abs=1e-3)


@given(st.text())
def test_any_text_has_probabilities_or_none(second: SecondOpinion, text: str) -> None:
    shares = second.probabilities(text)
    assert not shares or sum(shares.values()) == pytest.approx(1.0)
    assert shares == second.probabilities(text)


def test_both_count() -> None:
    codes: dict[str, str | None] = {"id": "ind", "ms": "msa", "x": None}
    label, score = combined({"id": 0.7, "ms": 0.2, "x": 0.1}, codes, {"msa": 0.9, "ind": 0.1})
    assert label == "ms" and 0.7 < score < 0.9
    assert combined({"id": 0.7, "ms": 0.3}, codes, {}) == ("id", 0.7)
    # a language that the second does not know is not ruled out by it
    assert combined({"x": 0.8, "id": 0.01}, codes, {"ind": 0.01, "eng": 0.99})[0] == "x"
    # nor is what the second takes for no language sure to be one
    assert combined({"id": 0.9, "ms": 0.1}, codes, {"zxx": 0.99, "ind": 0.01})[1] < 0.1
