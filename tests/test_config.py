"""Every kind of mistake in a config is one clear line: where, which key, what was expected, what is near."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import RunConfig, read_config, redact
from pipeline.yamlfile import ConfigError, parse_value
from stages.stage import parse_bytes

GOOD = """\
name: test
input: {source: web, format: warc, paths: [a.warc.gz]}
stages:
  - url_filter
  - extract: {method: trafilatura}
  - language: {min_score: 0.5}
  - quality.gopher
  - quality.gopher_repetition
  - dedup.fuzzy: {survivor: [longest]}
  - pii
tokenizer: {vocab_size: 8192}
pack: {sequence_length: 512}
pretrain: {preset: cpu-tiny}
engine: {executor: inline}
"""
INPUT = "input: {source: web, format: warc, paths: [a.warc.gz]}"


def read(folder: Path, text: str | bytes, *overrides: str) -> RunConfig:
    path = folder / "c.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_config(path, overrides)


def mistakes(folder: Path, text: str | bytes, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        read(folder, text, *overrides)
    return [line.replace(f"{folder}/", "") for line in str(raised.value).split("\n")]


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


def test_a_good_config(tmp_path: Path) -> None:
    config = read(tmp_path, GOOD)
    assert [spec.name for spec in config.stages][:2] == ["url_filter", "extract"]
    assert config.input[0].paths == ("a.warc.gz",)
    assert config.pretrain is not None and config.pretrain.layers == 4


FILES = [
    ("", "c.yaml: the file is empty; expected a mapping of sections"),
    ("# nothing\n\n", "c.yaml: the file is empty"),
    ("- a\n- b\n", "c.yaml:1: expected a mapping of sections (name, input, stages, ...), got ['a', 'b']"),
    ("hello", "c.yaml:1: expected a mapping of sections"),
    ("name: q\ninput:\n\tsource: s\n", "c.yaml:3: not valid YAML: a tab stands where only spaces may"),
    ("name: [q\ninput: }\n", "c.yaml:2: not valid YAML: expected ',' or ']'"),
    ("name: q\n---\nname: r\n", "c.yaml:2: not valid YAML: a second document begins"),
    ("name: q\ninput: *b\n", "c.yaml:2: not valid YAML: found undefined alias 'b'"),
    ("name: q\ninput: &i [*i]\n", "c.yaml:2: an alias (*) stands inside what it names"),
    ("name: q\nx: &x {a: 1}\ninput:\n  <<: *x\n", "c.yaml:4: merge keys (`<<`) are not known here"),
    (b"name: q\ninput: \xff\n", "c.yaml:2: not UTF-8 text"),
    (b"name: q\ninput: a\x00b\n", "c.yaml:2: the character '\\x00' may not stand in YAML"),
    ("name: " + "[" * 5000, "c.yaml: nested too deeply"),
    ("name: q\n? [a]\n: b\n", "c.yaml:2: keys must be plain words"),
    ("name: !!python/name:os.system x\n", "c.yaml:1: not valid YAML: could not determine a constructor"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), FILES)
def test_files_that_are_no_config(tmp_path: Path, text: str | bytes, message: str) -> None:
    (line,) = mistakes(tmp_path, text)
    assert line.startswith(message)


def test_aliases_that_multiply(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.yamlfile.MAX_VALUES", 10_000)
    lines = ["a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"{k}: &{k} [{', '.join(['*' + p] * 10)}]" for p, k in zip("abcdefgh", "bcdefghi", strict=True)]
    assert mistakes(tmp_path, "\n".join(lines)) == ["c.yaml: more than 10,000 values; is it a config?"]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such config file"):
        read_config(tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match="is a directory"):
        read_config(tmp_path)


VALUES = [
    (GOOD + "name: z\n", "c.yaml:15: the key 'name' is given twice, first in line 1"),
    (changed("{min_score: 0.5}", "{min_score: 0.5, min_score: 2}"), "c.yaml:6: the key 'min_score' is given twice"),
    (GOOD + "tokeniser: {}\n", "c.yaml:15: unknown key 'tokeniser'; did you mean 'tokenizer'?"),
    (GOOD + "zzz: {}\n", "c.yaml:15: unknown key 'zzz'; valid keys: name, input, stages, mix, index, tokenizer, pack, pretrain"),
    (changed("url_filter", "url_fliter"), "c.yaml:4: unknown stage 'url_fliter'; did you mean 'url_filter'?"),
    (changed("{method:", "{metod:"), "c.yaml:5: unknown key 'extract.metod'; did you mean 'method'? (`python -m pipeline stages extract`"),
    (changed("{method: trafilatura}", "{method: trafilatur}"),
     "c.yaml:5: extract.method: expected one of gristmill, trafilatura, resiliparse, justext, got 'trafilatur'; did you mean 'trafilatura'?"),
    (changed("min_score: 0.5", "min_score: high"), "c.yaml:6: language.min_score: expected a number, got 'high'"),
    (changed("min_score: 0.5", "min_score: true"), "c.yaml:6: language.min_score: expected a number, got true"),
    (changed("min_score: 0.5", "min_score: .nan"), "c.yaml:6: language.min_score: expected a finite number, got nan"),
    (changed("min_score: 0.5", "min_score: 1.5"), "c.yaml:6: language.min_score: expected at most 1, got 1.5"),
    (changed("name: test\n", ""), "c.yaml:1: 'name' is missing: name of the run"),
    (changed(INPUT + "\n", ""), "c.yaml:1: 'input' is missing: where the records come from"),
    (changed(INPUT, "input: null"), "c.yaml:2: input: expected a mapping (source, format, paths), or a list of them"),
    (changed(INPUT, "input: []"), "c.yaml:2: `input` is empty"),
    (changed(INPUT, "input: [a.warc]"), "c.yaml:2: input.0: expected a mapping (`key: value`), got 'a.warc'"),
    (changed("[a.warc.gz]", "a.warc.gz"), "c.yaml:2: input.paths: expected a list, as in [a.warc.gz], got 'a.warc.gz'"),
    (changed("[a.warc.gz]", "[7]"), "c.yaml:2: input.paths.0: expected a string (in quotes: \"7\"), got 7"),
    (changed("[a.warc.gz]", "[]"), "c.yaml:2: input.paths: is empty"),
    (changed("paths: [a.warc.gz]", "id_field: x"), "c.yaml:2: input 'web' needs either `paths` or `paths_file`"),
    (changed("format: warc", "format: wrac"), "c.yaml:2: input.format: expected one of warc, wet, jsonl, parquet, html, text, got 'wrac'; did you mean 'warc'?"),
    (changed("name: test", "name: a/b"), "c.yaml:1: name: expected letters, digits and any of _ . -"),
    (changed("  - url_filter\n", "  - 7\n"), "c.yaml:4: stages: expected a stage name, or one `name: {knob: value}`, got 7"),
    (changed("  - url_filter\n", "  -\n"), "c.yaml:4: stages: expected a stage name"),
    (changed("language: {min_score: 0.5}", "language:\n    min_score: 0.5"), "c.yaml:6: stages: expected a stage name, or one `name: {knob: value}`, "
     "got {'language': None, 'min_score': 0.5}: indent the knobs deeper than 'language'"),
    (changed("{method: trafilatura}", "trafilatura"), "c.yaml:5: extract: expected knobs as a mapping (`knob: value`), got 'trafilatura'"),
    (changed("  - pii\n", "  - pii\n  - pii: {policy: mask}\n"), "c.yaml:11: stage 'pii' is used twice; give one of them `as: NAME`"),
    (changed("  - pii\n", "  - pii: {as: A b}\n"), "c.yaml:10: pii.as: expected lower-case letters"),
    (changed("  - pii\n", "  - pii: {as: tokenizer}\n"), "c.yaml:10: pii.as: 'tokenizer' is the name of another stage or section"),
    (changed("  - pii\n", "  - pii: {only: {languages: [en]}}\n"), "c.yaml:10: unknown key 'pii.only.languages'; did you mean 'language'?"),
    (changed("  - pii\n", "  - pii: {only: {language: en}}\n"), "c.yaml:10: pii.only.language: expected a list, as in [en], got 'en'"),
    (changed("  - pii\n", "  - pii: {only: [en]}\n"), "c.yaml:10: pii.only: expected a mapping (`key: value`), got ['en']"),
    (changed("  - pii\n", "  - pii: {only: {source: [wed]}}\n"), "c.yaml:10: pii.only.source: no input has the source 'wed'; did you mean 'web'?"),
    (changed("  - quality.gopher\n", "  - quality.gopher:\n      by_language:\n        de: {min_word: 3}\n"),
     "c.yaml:9: unknown key 'quality.gopher.by_language.de.min_word'; did you mean 'min_words'?"),
    (changed("  - quality.gopher\n", "  - quality.gopher: {by_language: {de: 3}}\n"), "c.yaml:7: quality.gopher.by_language.de: expected a mapping"),
    (changed("  - quality.gopher\n", "  - quality.gopher: {by_language: {de: {as: x}}}\n"), "c.yaml:7: quality.gopher.by_language.de: `as` holds for the whole stage"),
    (changed("  - pii\n", "  - pii: {by_language: {de: {entities: [IP_ADDRESS]}}}\n"), "c.yaml:10: pii.by_language.de: changes which columns pii writes"),
    (changed("{survivor: [longest]}", "{by_language: {de: {ngram: 3}}}"), "c.yaml:9: dedup.fuzzy: by_language is for map stages"),
    (changed("[longest]", "[longer]"), "c.yaml:9: dedup.fuzzy.survivor: 'longer' is no survivor criterion; use longest"),
    (changed("  - pii\n", "  - pii: {entities: [EMAIL]}\n"), "c.yaml:10: pii.entities.0: expected one of EMAIL_ADDRESS"),
    (changed("{method: trafilatura}", "{method: resiliparse, fast: false}"), "c.yaml:5: extract.fast: False is for method trafilatura"),
    (changed("preset: cpu-tiny", "preset: cpu-tny"), "c.yaml:13: pretrain.preset: there is no 'cpu-tny'"),
    (changed("{preset: cpu-tiny}", "{steps: 3, tokens: 4}"), "c.yaml:13: pretrain: give either steps or tokens"),
    (changed("{preset: cpu-tiny}", "{learningrate: 1}"), "c.yaml:13: unknown key 'pretrain.learningrate'; did you mean 'learning_rate'?"),
    (changed("{preset: cpu-tiny}", "{sequence_length: 1024}"), "c.yaml:13: pretrain.sequence_length: the tokens are packed for 512"),
    (changed("8192", "10"), "c.yaml:11: tokenizer.vocab_size: expected at least 326, got 10"),
    (changed("{vocab_size: 8192}", "true"), "c.yaml:11: tokenizer: expected a mapping (`key: value`), got true"),
    (changed("tokenizer: {vocab_size: 8192}", "tokenizer: null"), "c.yaml:12: `pack` needs the section `tokenizer`"),
    (changed("pack: {sequence_length: 512}\n", ""), "c.yaml:12: `pretrain` needs the section `pack`"),
    (changed("{executor: inline}", "{workers: many}"), "c.yaml:14: engine.workers: expected auto or a whole number, got 'many'"),
    (changed("{executor: inline}", "{workers: 0}"), "c.yaml:14: engine.workers: expected auto or at least 1, got 0"),
    (changed("{executor: inline}", "{executor: inline, workers: 2}"), "c.yaml:14: engine.workers: the inline executor works on one unit"),
    (changed("{executor: inline}", "{memory: lots}"), "c.yaml:14: engine.memory: expected auto or a size, such as 64MB, 2GiB or a number of bytes, got 'lots'"),
    (changed("{executor: inline}", "{memory: 100MB}"), "c.yaml:14: engine.memory: 100,000,000 bytes are less than one unit may take"),
    (changed("{executor: inline}", "{shard_bytes: 1XB}"), "c.yaml:14: engine.shard_bytes: expected a size"),
    (changed("{executor: inline}", "{unit_memory: 1MB}"), "c.yaml:14: engine.unit_memory: expected at least 67,108,864"),
    (changed("{executor: inline}", "{record_seconds: .inf}"), "c.yaml:14: engine.record_seconds: expected a finite number"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), VALUES)
def test_wrong_values(tmp_path: Path, text: str, message: str) -> None:
    (line,) = mistakes(tmp_path, text)
    assert line.startswith(message)


def test_several_mistakes_are_reported_together_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = """\
name: a b
input: {source: s, format: wrac, pathz: [a]}
stages:
  - extrct
  - language: {min_score: 2, kep: [en]}
tokenizer: {vocab: 3}
engine: {workerz: 2}
"""
    lines = mistakes(tmp_path, text, "nme=3", "engine.memory=x", "pii.policy=x")
    assert [line.split(": ")[0] for line in lines] == [
        "c.yaml:1", "c.yaml:2", "c.yaml:2", "c.yaml:4", "c.yaml:5", "c.yaml:5", "c.yaml:6", "c.yaml:7",
        "--set engine.memory=x", "--set nme=3", "--set pii.policy=x",
    ]  # fmt: skip


def test_stages_stand_behind_what_they_need(tmp_path: Path) -> None:
    early = changed("  - url_filter\n", "  - quality.c4\n")
    (line,) = mistakes(tmp_path, early)
    assert line == (
        "c.yaml:4: quality.c4 needs `text`, which no stage before it writes; the input 'web' holds HTML: put `extract` before it"
    )
    text = early.replace("format: warc", "format: jsonl").replace("a.warc.gz", "a.jsonl")
    assert read(tmp_path, text).stages[0].name == "quality.c4"  # rows of JSONL have a text
    (line,) = mistakes(tmp_path, changed("  - url_filter\n", "  - url_filter: {only: {language: [en]}}\n"))
    assert line.startswith("c.yaml:4: url_filter: only: {language: ...} looks at `language`, which no stage before it")
    assert line.endswith("put `language` before it")
    (line,) = mistakes(tmp_path, changed("  - url_filter\n", "  - url_filter: {by_language: {de: {missing: drop}}}\n"))
    assert line.startswith("c.yaml:4: url_filter: by_language looks at `language`")
    (line,) = mistakes(tmp_path, f"name: test\n{INPUT}\nstages: [url_filter]\n")
    assert "add `extract` to the stages" in line


def test_words_of_yaml_1_1_are_words(tmp_path: Path) -> None:
    """`no` is the code of Norwegian; a date, an hour and a version are strings; numbers may have an exponent."""
    config = read(
        tmp_path, changed("{min_score: 0.5}", "{min_score: 5e-1, keep: [en, no]}").replace("test", "2024-01-01")
    )
    assert config.name == "2024-01-01"
    assert config.stages[2].config.model_dump()["keep"] == ("en", "no")
    assert [parse_value(v) for v in ("no", "12:30", "0x10", "010", "1_000", "1e3", "~", "true", "''")] == [
        "no", "12:30", 16, 10, 1000, 1000.0, None, True, "",
    ]  # fmt: skip


def test_environment_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRISTMILL_TEST_A", "here")
    monkeypatch.setenv("GRISTMILL_TEST_N", "3")
    monkeypatch.delenv("GRISTMILL_TEST_B", raising=False)
    text = changed("[a.warc.gz]", '["${GRISTMILL_TEST_A}/x", "${GRISTMILL_TEST_B:-there}/y"]')
    text = text.replace("{executor: inline}", "{workers: '${GRISTMILL_TEST_N}'}")
    config = read(tmp_path, text)
    assert config.input[0].paths == ("here/x", "there/y")
    assert config.engine.workers == 3
    lines = mistakes(tmp_path, changed("[a.warc.gz]", '["${GRISTMILL_TEST_B}/x", "$${GRISTMILL_TEST_B}"]') + "zz: 1\n")
    assert lines[0] == (
        "c.yaml:2: the environment variable GRISTMILL_TEST_B is not set; set it, or write ${GRISTMILL_TEST_B:-default}"
    )
    assert lines[1].startswith("c.yaml:15: unknown key 'zz'")
    (line,) = mistakes(tmp_path, GOOD, "extract.method=${GRISTMILL_TEST_B}")
    assert line.startswith("--set extract.method=${GRISTMILL_TEST_B}: the environment variable GRISTMILL_TEST_B")
    # a mistake in the file is gone where `--set` gives another value
    text = changed("[a.warc.gz]", '["${GRISTMILL_TEST_B}/x"]')
    assert read(tmp_path, text, "input.paths=[b]").input[0].paths == ("b",)


def knobs(config: RunConfig, name: str) -> dict[str, object]:
    return next(spec for spec in config.stages if spec.name == name).config.model_dump(exclude_unset=True)


def test_set_of_stage_knobs(tmp_path: Path) -> None:
    assert knobs(read(tmp_path, GOOD, "extract.method=resiliparse"), "extract") == {"method": "resiliparse"}
    config = read(tmp_path, GOOD, "quality.gopher.min_words=10", "quality.gopher_repetition.max_top_2_gram=0.5")
    assert knobs(config, "quality.gopher") == {"min_words": 10}
    assert knobs(config, "quality.gopher_repetition") == {"max_top_2_gram": 0.5}
    config = read(tmp_path, GOOD, "quality.gopher.by_language.de.min_words=3", "quality.gopher.only.language=[en, de]")
    assert knobs(config, "quality.gopher") == {
        "by_language": {"de": {"min_words": 3}},
        "only": {"language": ("en", "de")},
    }
    assert knobs(read(tmp_path, GOOD, "extract={method: trafilatura, fast: false}"), "extract") == {
        "method": "trafilatura",
        "fast": False,
    }
    assert [s.name for s in read(tmp_path, GOOD, "pii=null", "quality.gopher=null").stages][-2:] == [
        "quality.gopher_repetition",
        "dedup.fuzzy",
    ]
    assert knobs(read(tmp_path, GOOD, "dedup.fuzzy.survivor.0=first"), "dedup.fuzzy") == {"survivor": ("first",)}
    assert knobs(read(tmp_path, GOOD, "stages.1.extract.favor=recall"), "extract")["favor"] == "recall"
    assert [s.name for s in read(tmp_path, GOOD, "stages=[extract]").stages] == ["extract"]


def test_set_of_a_stage_that_is_used_twice(tmp_path: Path) -> None:
    twice = changed("  - pii\n", "  - pii: {as: first}\n  - pii: {as: second}\n")
    assert knobs(read(tmp_path, twice, "second.policy=mask"), "second") == {"as_": "second", "policy": "mask"}
    (line,) = mistakes(tmp_path, twice, "pii.policy=mask")
    assert line == "--set pii.policy=mask: the config uses the stage 'pii' 2 times; say first.policy or second.policy"
    own = changed("  - pii\n", "  - pii: {as: first}\n  - pii\n")  # the one that is called so is meant
    assert knobs(read(tmp_path, own, "pii.policy=mask"), "pii") == {"policy": "mask"}
    assert knobs(read(tmp_path, own, "pii.policy=mask"), "first") == {"as_": "first"}
    renamed = read(tmp_path, GOOD, "language.as=lang", "lang.min_score=0.1")
    assert knobs(renamed, "lang") == {"as_": "lang", "min_score": 0.1}


def test_set_of_sections(tmp_path: Path) -> None:
    assert read(tmp_path, GOOD, "pretrain=null").pretrain is None
    config = read(tmp_path, GOOD, "pretrain.steps=5", "name=other", "engine=null", "tokenizer.vocab_size=1000")
    assert config.pretrain is not None and config.pretrain.steps == 5
    assert config.name == "other" and config.engine.executor == "ray"
    assert config.tokenizer is not None and config.tokenizer.vocab_size == 1000
    as_list = changed(INPUT, "input: [{source: web, format: warc, paths: [a]}]")
    two = changed(INPUT, "input: [{source: a, format: warc, paths: [a]}, {source: b, format: warc, paths: [a]}]")
    for text in (GOOD, as_list):
        for key in ("input.paths", "input.0.paths"):
            assert read(tmp_path, text, f"{key}=['b*.warc']").input[0].paths == ("b*.warc",)
    assert read(tmp_path, two, "input.1.paths=[z]").input[1].paths == ("z",)
    (line,) = mistakes(tmp_path, two, "input.paths=[z]")
    assert line.endswith("there are 2 inputs; say which, as in input.0.paths")
    assert read(tmp_path, GOOD, "input.storage_options.anon=true").input[0].storage_options == {"anon": True}


SETS = [
    ("extract", "expected KEY=VALUE, as in --set extract.method=resiliparse"),
    ("=3", "expected KEY=VALUE"),
    ("extract.=3", "expected KEY=VALUE"),
    ("a..b=3", "expected KEY=VALUE"),
    ("extract.metod=x", "unknown key 'extract.metod'; did you mean 'method'?"),
    ("pii.policy=maskk", "pii.policy: expected one of replace, pseudonym, mask, drop, got 'maskk'; did you mean 'mask'?"),
    ("extract.method=", "extract.method: expected one of gristmill, trafilatura, resiliparse, justext, got nothing (null)"),
    ("language.keep=en", "language.keep: expected a list, as in [en], got 'en'"),
    ("input.1.paths=[b]", "there is one input, input.0"),
    ("nme=zzz", "no section or stage is called 'nme'; did you mean 'name'?"),
    ("quality=3", "no section or stage is called 'quality'; did you mean 'quality.c4'?"),
    ("normalize.mojibake=false", "the config does not use the stage 'normalize'; add it to `stages` first"),
    ("stages.99=extract", "there is no entry 99: stages has 7, counted from 0"),
    ("dedup.fuzzy.survivor.x=first", "dedup.fuzzy.survivor is a list; set it whole, or an entry of it by its number"),
    ("engine.executor.x=3", "engine.executor holds no keys; set it whole"),
    ("pretrain.preset=tny", "pretrain.preset: there is no 'tny'"),
    ("url_filter.schemes=[http", "'[http' is not a YAML value: expected ',' or ']'"),
    ("engine={workers: 1, workers: 2}", "the key 'workers' is given twice"),
]  # fmt: skip


@pytest.mark.parametrize(("override", "message"), SETS)
def test_wrong_overrides(tmp_path: Path, override: str, message: str) -> None:
    (line,) = mistakes(tmp_path, GOOD, override)
    assert line.startswith(f"--set {override}: {message}")


def test_sizes() -> None:
    assert [parse_bytes(v) for v in (7, "7", "64MB", "1.5 GiB", "2k", "3tb")] == [
        7, 7, 64_000_000, 3 << 29, 2_000, 3 * 10**12,
    ]  # fmt: skip


def test_credentials_are_hidden() -> None:
    hidden = redact({"key": "abc", "nested": [{"secret_token": "x"}], "anon": True})
    assert hidden == {"key": "***", "nested": [{"secret_token": "***"}], "anon": True}
    given = redact({"set": ["input.storage_options.key=abc", "pretrain.tokens=5", "input.storage_options={key: a}"]})
    assert given == {"set": ["input.storage_options.key=***", "pretrain.tokens=5", "input.storage_options=***"]}
