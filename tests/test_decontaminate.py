"""Decontamination: planted overlaps are found, disjoint text is not touched, and the report names both."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from stages.decontaminate import Decontaminate, DecontaminateConfig
from stages.stage import StageError
from tests.group_runner import run_group

WORDS = [a + b + c for a in "bdfgklmnprst" for b in ("a", "e", "o", "ai") for c in ("lin", "mer", "tok", "ras", "vud")]

RIVER = "A ferry leaves the north bank every nine minutes and carries at most fourteen goats, two carts and one tired shepherd."
BAKER = "Which tool did the baker of Ummendorf borrow from the clockmaker on the third evening of the long frost?"
SHORT = "How many teeth has the left wheel of the old mill?"  # eleven words
ITEMS = [
    {"question": RIVER, "choices": {"text": ["one", "three"]}, "answer": 3, "id": "river"},
    {"question": BAKER, "choices": {"text": ["a rasp", "a file of brass"]}, "answer": None, "id": "baker"},
    {"question": SHORT, "choices": {"text": []}, "answer": "12", "id": "mill"},
    {"question": "Why?", "choices": {"text": ["yes", "no"]}, "answer": "yes", "id": "why"},
]


def prose(count: int, seed: int) -> str:
    """Made-up words that no item has."""
    chance = random.Random(seed)
    return " ".join(chance.choice(WORDS) for _ in range(count))


def write_items(folder: Path, items: list[dict] | None = None) -> Path:
    path = folder / "items.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in (ITEMS if items is None else items)))
    return path


def stage(path: Path | list[dict], fields=("question", "choices.text", "answer"), **knobs) -> Decontaminate:
    config = DecontaminateConfig(
        benchmarks=[{"name": "toy", "paths": str(path), "fields": fields, "id": "id"}], **knobs
    )
    made = Decontaminate(config)
    made.setup({name: Path(file) for name, file in made.assets().items()})
    return made


def run(made: Decontaminate, texts: list[str | None], findings: list[pa.Table] | None = None, **how) -> list[dict]:
    cut = how.pop("cut", 3)
    ids = [f"d{row}" for row in range(len(texts))]
    table = pa.table({"id": ids, "text": pa.array(texts, pa.string())})
    shards = [table.slice(0, cut), table.slice(cut)]
    return [row for part in run_group(made, shards, findings=findings, **how) for row in part.to_pylist()]


def report(tables: list[pa.Table]) -> dict[str, dict]:
    return {row["item"]: row for row in pa.concat_tables(tables).to_pylist()}


def contaminated(rows: list[dict]) -> list[int]:
    return [place for place, row in enumerate(rows) if row["rule"] is not None]


def test_exact_overlaps_are_found_whatever_the_case_and_punctuation(tmp_path: Path) -> None:
    made = stage(write_items(tmp_path))
    loud = RIVER.upper().replace(" ", " ** ").replace(",", "\n")
    accents = BAKER.replace("e", "é").replace("borrow", "bor\u00adrow").replace("frost", "ｆｒｏｓｔ")
    texts = [prose(50, 0), f"{prose(20, 1)} {RIVER} {prose(20, 2)}", loud, accents, prose(300, 3), None, ""]
    tables: list[pa.Table] = []
    rows = run(made, texts, tables)
    assert contaminated(rows) == [1, 2, 3]
    assert {row["rule"] for row in rows} == {None, "contaminated"}
    items = report(tables)
    assert {name: item["state"] for name, item in items.items()} == {
        "river": "contaminated",
        "baker": "contaminated",
        "mill": "clean",
        "why": "too_short",
    }
    assert items["river"]["documents"] == 2 and [found["id"] for found in items["river"]["found"]] == ["d1", "d2"]
    (span,) = items["river"]["found"][0]["spans"]
    assert texts[1][span["start"] : span["end"]] == RIVER.rstrip(".")
    words = len(RIVER.split()) + 3  # and the choices and the answer
    assert items["river"]["coverage"] == pytest.approx(len(RIVER.split()) / words) == rows[1]["value"]


def test_thirteen_words_in_a_row_are_an_overlap_and_twelve_are_not(tmp_path: Path) -> None:
    made = stage(write_items(tmp_path))
    words = RIVER.split()
    texts = [" ".join([prose(9, 4), *words[k : k + size], prose(9, 5)]) for k in (0, 3, 7) for size in (12, 13)]
    assert contaminated(run(made, texts)) == [1, 3, 5]


def test_fields_join_to_ngrams_and_short_fields_match_whole(tmp_path: Path) -> None:
    made = stage(write_items(tmp_path))
    across = " ".join([*BAKER.split()[-10:], "a rasp a file"])  # the end of the question and the choices
    eleven = f"{prose(5, 6)} {SHORT} {prose(5, 7)}"
    ten = f"{prose(5, 6)} {' '.join(SHORT.split()[:10])} {prose(5, 7)}"
    answer = f"{prose(5, 8)} yes 12 why no 3 {prose(5, 9)}"
    assert contaminated(run(made, [across, eleven, ten, answer])) == [0, 1]
    longer = stage(write_items(tmp_path), min_words=12)
    assert contaminated(run(longer, [across, eleven, ten, answer])) == [0]


def test_a_gap_bridges_changed_added_and_missing_words(tmp_path: Path) -> None:
    path = write_items(tmp_path)
    words = RIVER.split()
    changed = " ".join([*words[:9], "twelve", *words[10:]])
    added = " ".join([*words[:9], "up", *words[9:]])
    missing = " ".join([*words[:9], *words[10:]])
    two = " ".join([*words[:4], "south", *words[5:10], "hauls", *words[11:16], "hens", *words[17:]])
    two_added = " ".join([*words[:9], "or", "so", *words[9:]])
    texts = [changed, added, missing, two, two_added, RIVER, prose(100, 10)]
    assert contaminated(run(stage(path), texts)) == [5], "twenty words, changed in the middle: no thirteen in a row"
    assert contaminated(run(stage(path, gap=1), texts)) == [0, 1, 2, 5]
    assert contaminated(run(stage(path, gap=2), texts)) == [0, 1, 2, 3, 4, 5]


def brute(text: str, items: list[str], n: int, gap: int) -> set[tuple[int, int]]:
    """(item, first word) of n-grams within `gap` changes of a stretch of the text that begins and ends with their ends."""
    words = text.split()
    found = set()
    for number, item in enumerate(items):
        own = item.split()
        for at in range(len(own) - n + 1):
            gram = own[at : at + n]
            for start in (i for i, word in enumerate(words) if word == gram[0]):
                for size in range(n - gap, n + gap + 1):
                    other = words[start : start + size]
                    if len(other) == size and other[-1] == gram[-1] and distance(gram, other) <= gap:
                        found.add((number, at))
    return found


def distance(a: list[str], b: list[str]) -> int:
    """Levenshtein's, of which the first and the last word are equal and stay so."""
    before = list(range(len(b) + 1))
    for row, x in enumerate(a, 1):
        now = [row]
        for column, y in enumerate(b, 1):
            now.append(min(before[column - 1] + (x != y), before[column] + 1, now[-1] + 1))
        before = now
    return before[-1]


@pytest.mark.parametrize(("n", "gap"), [(6, 0), (7, 1), (11, 2)])
def test_against_every_window_tried_one_by_one(n: int, gap: int) -> None:
    """Few different words, so that runs meet by chance everywhere, at the ends of items and documents too."""
    from stages.decontaminate.index import Rules, build_index
    from stages.decontaminate.match import hits

    chance = random.Random(n)
    vocabulary = ["ab", "cd", "ef"]
    items = [" ".join(chance.choices(vocabulary, k=chance.randint(1, 3 * n))) for _ in range(6)]
    index = build_index([("b", str(i), [item]) for i, item in enumerate(items)], Rules(n, gap, n, 10**9))
    some = 0
    for _ in range(25):
        start = chance.choice(items).split()
        text = " ".join([*chance.choices(vocabulary, k=2), *start, *chance.choices([*vocabulary, "zz"], k=3 * n)])
        found = hits(index, text)
        got = set()
        for gram in found.gram.tolist():
            got |= set(zip(*(part.tolist() for part in index.items_of(gram)), strict=True))
        expected = brute(text, items, n, gap)
        assert got == expected
        some += len(expected)
        for gram, a, b in zip(*(part.tolist() for part in found), strict=True):
            at = int(index.gram_at[index.gram_first[gram]])
            own = " ".join(items).split()[at : at + n]
            assert distance(own, text[a:b].split()) <= gap
    assert some > 50


def test_a_hash_never_decides(tmp_path: Path) -> None:
    """Words and n-grams that share a slot of the tables, or the whole hash, are still told apart."""
    from stages.decontaminate import match
    from stages.decontaminate.fold import words

    found = words("alpha beta alpha gamma")
    slots = np.full(8, -1, np.int32)
    numbers, first = np.empty(4, np.int32), np.empty(4, np.int64)
    letters = np.array([ord(c) for c in "alphabetaalphagamma"], np.int32)
    starts = np.array([0, 5, 9, 14, 19])
    same_key = np.zeros(4, np.uint64)
    count = match.place_words(letters, starts, same_key, slots, numbers, first)
    assert count == 3 and numbers.tolist() == [0, 1, 0, 2]
    assert len(set(found.key.tolist())) == 3


def test_common_ngrams_are_no_evidence(tmp_path: Path) -> None:
    template = "Read the text below with care and then choose the one answer that fits it best"
    items = [{"question": f"{template} {prose(20, 100 + i)}", "id": str(i)} for i in range(12)]
    path = write_items(tmp_path, items)
    tables: list[pa.Table] = []
    rows = run(stage(path, ["question"]), [template, items[3]["question"]], tables)
    assert contaminated(rows) == [1], "in more than common_items texts"
    assert report(tables)["3"]["common_in_items"] == len(template.split()) - 12
    assert contaminated(run(stage(path, ["question"], common_items=12), [template])) == [0]

    context = f"{prose(40, 50)}"
    shared = write_items(tmp_path, [{"question": f"{q}?", "context": context, "id": str(q)} for q in range(30)])
    assert contaminated(run(stage(shared, ["context", "question"]), [context])) == [0], "one text, in thirty items"

    proverb = RIVER
    texts = [f"{prose(10, i)} {proverb}" for i in range(8)] + [BAKER]
    tables = []
    made = stage(write_items(tmp_path), common_documents=7)
    for how in ({}, {"partitions": 1, "chunk": 1}, {"batch": 2, "chunk": 3, "cut": 6}):
        tables = []
        assert contaminated(run(made, texts, tables, **how)) == [8], "in more than common_documents documents"
        item = report(tables)["river"]
        assert item["state"] == "clean" and item["common_in_documents"] == len(proverb.split()) - 12
    assert len(contaminated(run(stage(write_items(tmp_path), common_documents=8), texts))) == 9
    again = [f"{proverb} " * 20, BAKER]  # often in one document is not in many
    assert contaminated(run(made, again)) == [0, 1]


def test_coverage(tmp_path: Path) -> None:
    made = stage(write_items(tmp_path), coverage=0.9)
    half = " ".join(RIVER.split()[:14])
    rows = run(made, [half, f"{RIVER} one three 3"])
    assert contaminated(rows) == [1]
    assert rows[1]["value"] == 1.0 and rows[1]["threshold"] == 0.9


def test_trim_takes_out_the_overlap_and_its_margin(tmp_path: Path) -> None:
    from pipeline.engine.mapping import apply_edits
    from stages.stage import Edit

    before, after = prose(60, 11), prose(60, 12)
    text = f"{before} {RIVER} {after}"
    made = stage(write_items(tmp_path), mode="trim", margin=10)
    kept = run_verdicts(made, [text, f"{RIVER} x", f"{prose(80, 13)} {BAKER}", before])
    edited = apply_edits(text, [Edit(**edit) for edit in kept[0]["edits"]])
    left, right = edited.split("\n\n")
    assert before.startswith(left) and after.endswith(right.strip())
    assert len(before) - len(left) in range(10, 30) and len(after) - len(right) in range(0, 30)
    assert "goats" not in edited and left + right != before + after
    assert kept[1]["rule"] == "little_left" and kept[1]["value"] > 0.9
    assert kept[2]["edits"][-1]["replacement"] == "" and 3 not in kept
    assert kept[0]["decontaminate_items"] == ["toy/river"]
    exact = stage(write_items(tmp_path), mode="trim", margin=0)
    (edit,) = run_verdicts(exact, [text])[0]["edits"]
    assert text[edit["start"] : edit["end"]].strip() == RIVER


def run_verdicts(made: Decontaminate, texts: list[str]) -> dict[int, dict]:
    """The verdicts on one shard, by row."""
    from stages.batch import Batch
    from stages.stage import ADDRESSED

    inbox: list[list[pa.Table]] = [[], [], []]
    verdicts = []
    table = pa.table({"id": [f"d{row}" for row in range(len(texts))], "text": texts})
    sent = list(made.emit(Batch(table), 0, np.arange(len(texts))))
    for number in range(2):
        for target, rows in sent:
            inbox[target].append(rows)
        schema = pa.schema({**ADDRESSED, **made.messages()[number]})
        whole = pa.concat_tables(inbox[number] or [schema.empty_table()]).combine_chunks()
        order = np.lexsort((whole.column("row").to_numpy(), np.array(whole.column("key").to_pylist(), dtype="S16")))
        sent = list(made.reduce(number, iter([whole.take(pa.array(order))])))
        verdicts += [row for target, rows in sent if target is None for row in rows.to_pylist()]
        sent = [(target, rows) for target, rows in sent if target is not None]
    return {row["row"]: row for row in verdicts}


def test_tag_says_so_and_keeps(tmp_path: Path) -> None:
    rows = run(stage(write_items(tmp_path), mode="tag"), [RIVER, prose(30, 14), f"{BAKER} {RIVER} one three 3"])
    assert contaminated(rows) == []
    assert rows[0]["decontaminate_items"] == ["toy/river"] and rows[1]["decontaminate_items"] is None
    assert rows[2]["decontaminate_items"] == ["toy/river", "toy/baker"] and rows[2]["decontaminate_coverage"] == 1.0


def test_a_second_stage_keeps_what_the_first_found(tmp_path: Path) -> None:
    texts = [RIVER, BAKER, prose(20, 16)]
    table = pa.table({"id": ["a", "b", "c"], "text": texts})
    (first,) = run_group(stage(write_items(tmp_path, ITEMS[:1]), mode="tag"), [table])
    table = first.select(["id", "text", "decontaminate_items", "decontaminate_coverage"])
    (second,) = run_group(stage(write_items(tmp_path, ITEMS[1:]), mode="tag"), [table])
    assert second.column("decontaminate_items").to_pylist() == [["toy/river"], ["toy/baker"], None]
    assert second.column("decontaminate_coverage").null_count == 1


def test_scripts_without_spaces(tmp_path: Path) -> None:
    question = "古い水車の左の車輪には歯がいくつあるか、粉屋に聞いてください"
    path = write_items(tmp_path, [{"question": question, "id": "ja"}])
    made = stage(path, ["question"])
    assert contaminated(
        run(made, [f"昨日は雨だった。{question}。そして夜になった", "昨日は雨だったので、水車は回らなかった"])
    ) == [0]


def test_formats_and_nested_fields(tmp_path: Path) -> None:
    rows = [{"turns": [{"role": "user", "content": RIVER}, {"role": "tool", "content": BAKER}], "key": "a.b"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "one.parquet")
    with gzip.open(tmp_path / "two.jsonl.gz", "wt") as file:
        file.write(json.dumps({"turns": [{"content": SHORT}], "key": "c"}) + "\n\n")
    benchmark = {"name": "chat", "paths": [str(tmp_path / "*.parquet"), str(tmp_path / "two.jsonl.gz")]}
    config = {"benchmarks": [{**benchmark, "fields": ["turns.content"], "id": "key"}]}
    made = Decontaminate(DecontaminateConfig(**config))
    made.setup({name: Path(file) for name, file in made.assets().items()})
    assert made.index.names == [("chat", "a.b"), ("chat", "c")]
    assert contaminated(run(made, [RIVER, BAKER, SHORT, prose(20, 15)])) == [0, 1, 2]
    first = Decontaminate(DecontaminateConfig(benchmarks=[{**benchmark, "fields": ["turns.0.content"]}]))
    first.setup({name: Path(file) for name, file in first.assets().items()})
    assert contaminated(run(first, [RIVER, BAKER, SHORT])) == [0, 2]


def test_mistakes_are_named(tmp_path: Path) -> None:
    path = write_items(tmp_path)
    with pytest.raises(StageError, match=r"toy: no item of .*items.jsonl has text at 'passage'.*choices, id, question"):
        stage(path, ["question", "passage"])
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"question": "x"}\n[1]\n')
    with pytest.raises(StageError, match=r"broken.jsonl, line 2: expected one JSON object a line"):
        stage(broken, ["question"])
    (tmp_path / "no.parquet").write_text("x")
    with pytest.raises(StageError, match=r"no.parquet is not readable"):
        stage(tmp_path / "no.parquet", ["question"])
    with pytest.raises(StageError, match=r"none of the 4 items has an n-gram.*min_words"):
        stage(path, ["id"])
    (tmp_path / "items.txt").write_text("x")
    with pytest.raises(StageError, match=r"expected one of .jsonl"):
        stage(tmp_path / "items.txt", ["question"])
    good = {"benchmarks": [{"name": "a", "paths": "x", "fields": ["q"]}]}
    with pytest.raises(ValidationError, match="runs of 2 equal words"):
        DecontaminateConfig(**good, n=8, gap=2)
    with pytest.raises(ValidationError, match="at most n = 5"):
        DecontaminateConfig(**good, n=5)
    with pytest.raises(ValidationError, match="two are called 'a'"):
        DecontaminateConfig(benchmarks=good["benchmarks"] * 2)


def test_odd_texts_do_no_harm(tmp_path: Path) -> None:
    made = stage(write_items(tmp_path), gap=1)
    from stages.decontaminate.match import hits

    for text in ["\0" * 1000, "\ud800" + RIVER, "a" * 1_000_000, "ﷺ" * 50, "\U0010ffff", "the " * 300_000, "𝔄 ½ ǆ İ ŉ"]:
        assert len(hits(made.index, text).gram) == (9 if "goats" in text else 0)
    odd = [{"question": ["ﷺ \0 ½" * 20, {"a": [RIVER]}], "id": "x"}, {"question": 7, "id": True}, {"id": 3}]
    other = stage(write_items(tmp_path, odd), ["question"])
    assert contaminated(run(other, [RIVER, "ﷺ \0 ½" * 20, "x"])) == [0, 1]


def test_a_whole_run_and_apply(tmp_path: Path) -> None:
    """Documents, ledger and report of a run, whatever the shards; and the same verdicts from `apply`."""
    from tests.support import tree, write_config
    from tests.toy_stages import run_toy, toy_pipeline, write_rows

    def read(folder: Path) -> pa.Table:
        return pa.concat_tables([pq.read_table(part) for part in sorted(folder.glob("*.parquet"))])

    texts = [prose(120, 1000 + row) for row in range(60)]
    texts[7] = f"{prose(90, 1)} {RIVER} {prose(90, 2)}"
    texts[41] = f"{prose(60, 3)} {RIVER} {prose(70, 4)}"
    write_rows(tmp_path / "in.jsonl", texts)
    benchmark = {"name": "toy", "paths": str(write_items(tmp_path)), "fields": ["question", "answer"], "id": "id"}
    path = write_config(
        tmp_path / "config.yaml",
        name="clean",
        input=[{"source": "s", "format": "jsonl", "paths": [str(tmp_path / "in.jsonl")]}],
        stages=[{"decontaminate": {"benchmarks": [benchmark], "margin": 20}}],
        engine={"shard_bytes": "4kB"},
    )
    out = tmp_path / "out"
    assert run_toy(path, out, debug=True)[0] == 0
    ledger = pq.read_table(out / "ledger").to_pylist()
    dropped = [row for row in ledger if row["fate"] == "dropped"]
    assert [(row["rule"], row["detail"]) for row in dropped] == [("contaminated", "toy/river")] * 2
    found = pq.read_table(out / "findings/decontaminate").to_pylist()
    assert [(row["item"], row["state"], row["documents"]) for row in found] == [
        ("river", "contaminated", 2),
        ("baker", "clean", 0),
        ("mill", "clean", 0),
        ("why", "too_short", 0),
    ]
    assert [one["id"] for one in found[0]["found"]] == [row["id"] for row in dropped]
    assert run_toy(path, tmp_path / "whole", "engine.shard_bytes=1MB", "engine.partitions=5", debug=True)[0] == 0
    assert pq.read_table(tmp_path / "whole/findings/decontaminate").to_pylist() == found
    before = tree(out, "findings")
    (out / "findings/decontaminate/round2-00000.parquet").unlink()
    assert run_toy(path, out, "decontaminate.mode=trim", debug=True)[0] == 0
    rows = {row["id"]: row for row in read(out / "documents").to_pylist()}
    trimmed = [rows[row["id"]] for row in dropped]
    assert all(row["decontaminate_items"] == ["toy/river"] and "goats" not in row["text"] for row in trimmed)
    assert tree(out, "findings") == before, "the report is the same, and is made again where it is gone"
    assert run_toy(path, out, "decontaminate=null", debug=True)[0] == 0
    assert not tree(out, "findings")

    options = ["--set", f"benchmarks=[{json.dumps(benchmark)}]", "--set", "mode=tag"]
    done = toy_pipeline("apply", "decontaminate", tmp_path / "in.jsonl", tmp_path / "applied.jsonl", *options)
    assert done.returncode == 0, done.stderr
    applied = [json.loads(line) for line in (tmp_path / "applied.jsonl").open()]
    assert [place for place, row in enumerate(applied) if row["decontaminate_items"]] == [7, 41]
    assert {row["verdict"] for row in applied} == {"keep"}
