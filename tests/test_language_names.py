"""What labels and wanted languages mean: codes, macrolanguages, scripts, and models that name their labels differently."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from stages.language import Language, LanguageConfig
from stages.language_names import Name, iso639_3, names_of, parse, resolve, scripts_of
from stages.scripts import script_shares
from stages.stage import ASSETS, StageError
from tests.test_language import TEXTS
from tests.web_stages import ready, run


@cache
def shipped() -> list[str]:
    import fasttext

    model = fasttext.FastText._FastText(model_path=str(ASSETS / "lid.176.ftz"))
    return [label.removeprefix("__label__") for label in model.get_labels()]


FLORES = ["eng_Latn", "deu_Latn", "fra_Latn", "rus_Cyrl", "jpn_Jpan", "cmn_Hani", "arb_Arab", "hin_Deva", "nob_Latn", "nno_Latn",
          "srp_Cyrl", "srp_Latn", "hrv_Latn", "zsm_Latn", "pes_Arab", "prs_Arab", "als_Latn", "yue_Hani"]  # fmt: skip


def found(wanted: str, labels: list[str]) -> tuple[list[str], str | None]:
    answer = resolve(wanted, names_of(labels))
    return sorted(answer.labels), answer.script


def test_every_label_of_the_shipped_model_has_a_code_and_scripts() -> None:
    assert len(shipped()) == 176
    assert all(len(iso639_3(label) or "") == 3 for label in shipped())
    assert all(scripts_of(name) for name in names_of(shipped()).values())
    assert [iso639_3(label) for label in ("als", "als_Latn", "eng_Latn", "yue", "xx", "zh-Hant")] == [
        "gsw", "als", "eng", "yue", None, "zho",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("codes", "here", "there"),
    [
        (("en", "eng", "eng_Latn", "en-Latn", "ENG"), "en", ["eng_Latn"]),
        (("de", "deu", "ger", "deu_Latn"), "de", ["deu_Latn"]),
        (("zh", "zho", "cmn", "chi", "cmn_Hani", "zho_Hani"), "zh", ["cmn_Hani"]),
        (("ar", "ara", "arb", "arb_Arab"), "ar", ["arb_Arab"]),
        (("no", "nor", "nob", "nob_Latn"), "no", ["nob_Latn"]),
        (("nn", "nno", "nno_Latn"), "nn", ["nno_Latn"]),
        (("ms", "msa", "zsm"), "ms", ["zsm_Latn"]),
        (("fa", "fas", "pes", "per"), "fa", ["pes_Arab"]),
        (("sr", "srp"), "sr", ["srp_Cyrl", "srp_Latn"]),
        (("sq", "sqi", "als_Latn"), "sq", ["als_Latn"]),
        (("yue", "yue_Hani"), "yue", ["yue_Hani"]),
    ],
)
def test_one_language_has_many_names_and_means_the_same_in_every_model(
    codes: tuple[str, ...], here: str, there: list[str]
) -> None:
    for code in codes:
        assert found(code, shipped()) == ([here], None), code
        assert found(code, FLORES) == (there, None), code


def test_a_label_of_the_model_is_itself() -> None:
    assert found("als", shipped()) == (["als"], None)  # Alemannic, as Wikipedia calls it
    assert found("gsw", shipped()) == (["als"], None)
    assert found("als", FLORES) == (["als_Latn"], None)  # Tosk Albanian, as ISO 639-3 calls it
    assert found("sh", shipped()) == (["sh"], None)
    for label in shipped():
        assert found(label, shipped()) == ([label], None)


def test_a_script_that_labels_leave_open_is_looked_up_in_the_text() -> None:
    assert found("srp_Latn", shipped()) == (["sr"], "Latn")
    assert found("srp_Latn", FLORES) == (["srp_Latn"], None)
    assert found("zho", ["zho_Hans", "zho_Hant"]) == (["zho_Hans", "zho_Hant"], None)
    assert found("zho_Hani", ["zho_Hans", "zho_Hant"]) == (["zho_Hans", "zho_Hant"], None)
    assert found("zho_Hant", ["zho_Hans", "zho_Hant"]) == (["zho_Hant"], None)


@pytest.mark.parametrize(
    ("wanted", "labels", "message"),
    [
        ("zho_Hans", shipped, "in that script; it has 'zh'"),
        ("eng_Cyrl", shipped, "in that script; it has 'en'"),
        ("hbs", lambda: FLORES, "several languages here: choose among 'hrv_Latn', 'srp_Cyrl', 'srp_Latn'"),
        ("prs", shipped, "did you mean 'fa'"),
        ("zlm", shipped, "did you mean 'ms'"),
        ("de-AT", shipped, "did you mean 'de'"),
        ("pt_BR", shipped, "did you mean 'pt'"),
        ("eng_Lat", lambda: FLORES, "did you mean 'eng_Latn'"),
        ("english", shipped, "did you mean|it has"),
        ("", shipped, "it has af, als"),
        ("??", lambda: ["x"], "it has x"),
    ],
)
def test_unknown_and_ambiguous_languages_are_refused(wanted: str, labels: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        found(wanted, labels())  # type: ignore[operator]


def test_names_of_labels() -> None:
    assert parse("zh-Hant") == Name("zho", "Hant") and parse("cmn") == Name("zho", None)
    assert parse("english") is None and parse("en-US") is None and parse("e1") is None and parse("e\x00") is None
    assert scripts_of(Name("zho", "Hant")) == ("Hani",) and scripts_of(Name("eng", None)) == ("Latn",)
    assert scripts_of(Name("qaa", None)) is None and scripts_of(None) is None


def train(folder: Path, labels: dict[str, str]) -> str:
    """A small fastText model, whose labels are the values for the languages of `TEXTS`."""
    import fasttext

    source = folder / "train.txt"
    lines = []
    for language, label in labels.items():
        words = TEXTS[language].lower().split()
        lines += [f"__label__{label} {' '.join(words[turn:] + words[:turn])}" for turn in range(len(words))] * 20
    source.write_text("\n".join(lines) + "\n")
    model = fasttext.train_supervised(
        str(source), dim=16, minn=2, maxn=4, minCount=1, epoch=40, lr=0.5, bucket=20_000, thread=1, verbose=0
    )
    path = folder / "model.bin"
    model.save_model(str(path))
    return str(path)


LABELS = {
    "short": {"en": "en", "de": "de", "ru": "ru", "zh": "zh"},
    "long": {"en": "eng_Latn", "de": "deu_Latn", "ru": "rus_Cyrl", "zh": "cmn_Hani"},
    "own": {"en": "good", "de": "bad", "ru": "ugly", "zh": "rus"},
}


@pytest.mark.parametrize("kind", ["short", "long"])
@pytest.mark.parametrize("names", [("en", "zh"), ("eng", "cmn"), ("eng_Latn", "zho_Hani")])
def test_models_with_either_kind_of_labels_keep_the_same_rows(
    tmp_path: Path, kind: str, names: tuple[str, ...]
) -> None:
    model = train(tmp_path, LABELS[kind])
    config = LanguageConfig(model=model, keep=names, min_score=0.3, min_scores={names[1]: 0.2}, lower_case=True)
    values, decision = run(ready(Language(config)), text=[TEXTS[name] for name in LABELS[kind]])
    assert values.column("language").to_pylist() == list(LABELS[kind].values())  # the model's own labels
    assert values.column("language_iso639_3").to_pylist()[:3] == ["eng", "deu", "rus"]
    assert decision.rule == [None, "not_kept", "not_kept", None]
    assert decision.detail[1] == LABELS[kind]["de"]


def test_labels_that_are_no_languages_can_be_kept_as_they_are(tmp_path: Path) -> None:
    model = train(tmp_path, LABELS["own"])
    stage = ready(Language(LanguageConfig(model=model, keep=("good",), min_score=0)))
    values, decision = run(stage, text=[TEXTS[name] for name in ("en", "de", "ru")])
    assert values.column("language").to_pylist() == ["good", "bad", "ugly"]
    assert values.column("language_iso639_3").to_pylist() == [None, "bad", None]  # Banda, by its three letters
    assert decision.rule == [None, "not_kept", "not_kept"]
    with pytest.raises(StageError, match=r"language\.keep: the model has no label 'en'; it has bad, good"):
        ready(Language(LanguageConfig(model=model, keep=("en",))))


def test_word_vectors_are_no_model(tmp_path: Path) -> None:
    import fasttext

    (tmp_path / "words.txt").write_text("some words and some more words\n" * 50)
    vectors = fasttext.train_unsupervised(
        str(tmp_path / "words.txt"), dim=4, minCount=1, bucket=100, verbose=0, thread=1
    )
    vectors.save_model(str(tmp_path / "vectors.bin"))
    with pytest.raises(StageError, match="has no labels"):
        ready(Language(LanguageConfig(model=str(tmp_path / "vectors.bin"))))


@pytest.mark.parametrize(
    ("text", "script"),
    [("", "Zyyy"), ("12 + 3 = 😀", "Zyyy"), ("東京タワー", "Jpan"), ("中文", "Hani"), ("한국어 漢", "Hang"), ("ไทย", "Thai"),
     ("Καλημέρα hi", "Grek"), ("ქართული", "Geor"), ("ᠮᠣᠩᠭᠣᠯ", "Mong"), ("é", "Latn"), ("x\U0010ffff", "Latn"), ("𠀀", "Hani"),
     ("\ud800 é", "Latn"), ("\x00", "Zyyy")],
)  # fmt: skip
def test_scripts(text: str, script: str) -> None:
    assert next(iter(script_shares(text)), "Zyyy") == script


def test_shares_of_scripts() -> None:
    assert script_shares("abc где 123") == {"Latn": 0.5, "Cyrl": 0.5}
    assert script_shares("ab漢字かなabcd") == {"Latn": 0.6, "Jpan": 0.4}
    assert script_shares("abc, 12") == {"Latn": 1.0} and script_shares("12\n") == {}
    assert list(script_shares("a где")) == ["Cyrl", "Latn"]
