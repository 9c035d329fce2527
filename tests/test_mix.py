"""Mixing: what is asked is solved or refused, what comes out is what was asked, and no shard or worker changes it."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from stages.batch import Batch
from stages.mix import Caps, CapsConfig, Mix, MixConfig
from stages.mix.amounts import amounts
from stages.stage import StageError
from tests.group_runner import run_group
from tests.support import tree, write_config
from tests.toy_stages import run_toy, write_rows


def given(sizes: dict[str, float], phase: int = 0, **knobs) -> dict[str, float]:
    names = sorted(sizes)
    found = amounts(names, np.array([sizes[name] for name in names], float), MixConfig(**knobs))
    return dict(zip(names, found[phase].given.round(6).tolist(), strict=True))


SIZES = {"books": 100.0, "web": 1000.0, "wiki": 50.0}


def test_nothing_asked_is_everything_once() -> None:
    assert given(SIZES) == SIZES
    assert given({}) == {}


def test_a_budget_shrinks_all_alike_and_epochs_repeat() -> None:
    assert given(SIZES, budget=575) == {name: size / 2 for name, size in SIZES.items()}
    assert given(SIZES, budget=2300) == {name: size * 2 for name, size in SIZES.items()}
    assert given(SIZES, groups={"wiki": {"epochs": 2.5}}) == {**SIZES, "wiki": 125.0}
    assert given(SIZES, groups={"web": {"weight": 0}}) == {**SIZES, "web": 0.0}


def test_shares_bytes_and_weights() -> None:
    assert given(SIZES, budget="1000", groups={"wiki": {"share": 0.1}, "books": {"bytes": 40}}) == {
        "books": 40.0,
        "web": 860.0,
        "wiki": 100.0,
    }
    assert given(SIZES, groups={"wiki": {"share": 0.1}}) == {**SIZES, "wiki": round(1100 / 9, 6)}
    one = given({"a": 100.0, "b": 100.0}, budget=90, groups={"a": {"weight": 2}})
    assert one == {"a": 60.0, "b": 30.0}
    both = given({"web/de": 300.0, "web/en": 100.0, "x": 10.0}, budget=100, groups={"web/*": {"share": 0.5}})
    assert both == {"web/de": 37.5, "web/en": 12.5, "x": 40.0}, "x gives all that four epochs give"
    assert given({"a": 30.0, "b": 70.0}, groups={"a": {"share": 0.5}, "b": {"share": 0.5}}) == {"a": 50.0, "b": 50.0}


@pytest.mark.parametrize("temperature", [1.0, 2.0, 3.3])
def test_temperature(temperature: float) -> None:
    sizes = {"a": 4.0e6, "b": 1.0e6, "c": 2.0e6}
    found = given(sizes, budget=3_000_000, temperature=temperature)
    total = sum(size ** (1 / temperature) for size in sizes.values())
    for name, size in sizes.items():
        assert found[name] == pytest.approx(3e6 * size ** (1 / temperature) / total)


def test_what_a_group_lacks_is_spread_or_refused() -> None:
    asked = {"budget": 1000, "groups": {"wiki": {"share": 0.5}}}
    assert given(SIZES, **asked) == {"wiki": 200.0, "books": round(800 / 11, 6), "web": round(8000 / 11, 6)}
    with pytest.raises(
        StageError, match=r"'wiki': 500 asked, 200 there at most \(50 in one epoch\).*shortfall: spread"
    ):
        given(SIZES, **asked, shortfall="refuse")
    assert given(SIZES, **asked, shortfall="refuse", max_epochs=10)["wiki"] == 500
    more = given(SIZES, budget=10**6)
    assert more == {name: 4 * size for name, size in SIZES.items()}, "there is no more than four epochs of everything"
    with pytest.raises(StageError, match="3 of 3 groups have too few bytes"):
        given(SIZES, budget=10**6, shortfall="refuse")
    even = given({"a": 1000.0, "b": 10.0, "c": 1000.0}, budget=900, temperature=1000.0)
    assert even["b"] == 40.0 and even["a"] == pytest.approx(430.0), "a full group's part goes to the others"
    own = {"budget": 1000, "groups": {"wiki": {"share": 0.5, "max_epochs": 8}}}
    assert given(SIZES, **own)["wiki"] == 400.0


def test_impossible_mixes_are_refused_in_words() -> None:
    with pytest.raises(StageError, match="ask for 600 bytes, the budget is 500; ask for less"):
        given(SIZES, budget=500, groups={"web": {"bytes": 600}})
    with pytest.raises(StageError, match="no group fits 'wikki'; the groups are books, web, wiki"):
        given(SIZES, groups={"wikki": {"share": 0.1}})
    for wrong, message in (
        ({"groups": {"a": {"share": 0.6}, "b": {"share": 0.6}}}, "sum to 1.2, expected at most 1"),
        ({"groups": {"a": {"share": 0.6, "epochs": 1}}}, "a group has one of share, bytes, epochs and weight"),
        ({"by": ["quality"]}, "`by` names quality"),
        ({"by": ["source", "source"]}, "source stands there twice"),
        ({"phases": [{"name": "a", "share": 0.5}]}, "the shares sum to 0.5, expected 1"),
        ({"phases": [{"name": "a", "share": 0.5}] * 2}, "two are called 'a'"),
        ({"domains": {}}, "give bytes or documents"),
        ({"rehydrate": {0: 1}}, "cluster sizes from 1"),
        ({"budget": "12 parsecs"}, "size"),
    ):
        with pytest.raises(ValidationError, match=message):
            MixConfig(**wrong)


def test_phases_share_the_budget_and_what_is_there() -> None:
    phases = [{"name": "main", "share": 0.75}, {"name": "last", "share": 0.25, "groups": {"wiki": {"share": 0.6}}}]
    config = {"budget": 800, "phases": phases, "max_epochs": 2}
    assert sum(given(SIZES, 0, **config).values()) == pytest.approx(600)
    last = given(SIZES, 1, **config)
    assert sum(last.values()) == pytest.approx(200)
    assert last["wiki"] == pytest.approx(2 * 50 - 600 * 50 / 1150), "of two epochs the first phase took some"


def documents(count: int, **columns) -> pa.Table:
    chance = np.random.default_rng(5)
    texts = ["x" * int(n) for n in chance.integers(50, 150, count)]
    return pa.table({"id": [f"{i:08x}" for i in range(count)], "text": texts, **columns})


def mixed(table: pa.Table, pieces: int = 3, **knobs) -> tuple[pa.Table, Mix, pa.Table]:
    """The table with the provided columns and `rule`, summarised in pieces; the stage and its summary."""
    stage = Mix(MixConfig(**knobs))
    stage.setup({})
    cuts = np.linspace(0, table.num_rows, pieces + 1).astype(int).tolist()
    parts = [Batch(table.slice(a, b - a)) for a, b in itertools.pairwise(cuts)]
    summary = stage.merge(iter([stage.merge(iter([stage.summarise(part)])) for part in parts]))
    out = []
    for part in parts:
        decision, columns = stage.decide(part, summary)
        out.append(part.with_columns({**columns, "rule": pa.array(decision.rule, pa.string())}).table)
    return pa.concat_tables(out), stage, summary


def test_epochs_are_whole_copies_that_a_hash_chooses() -> None:
    table = documents(4000, source=["a"] * 2000 + ["b"] * 2000)
    out, _, _ = mixed(table, groups={"a": {"epochs": 2.3}, "b": {"epochs": 0.4}})
    rows = out.to_pylist()
    repeats = np.array([row["repeat"] if row["rule"] is None else 0 for row in rows])
    assert set(repeats[:2000].tolist()) == {2, 3} and set(repeats[2000:].tolist()) == {0, 1}
    for part, epochs in ((repeats[:2000], 2.3), (repeats[2000:], 0.4)):
        spread = math.sqrt((epochs % 1) * (1 - epochs % 1) / 2000)
        assert abs(part.mean() - epochs) < 5 * spread
    again, _, _ = mixed(table, pieces=11, groups={"a": {"epochs": 2.3}, "b": {"epochs": 0.4}})
    assert again.equals(out)
    other, _, _ = mixed(table, groups={"a": {"epochs": 2.3}, "b": {"epochs": 0.4}}, seed=1)
    assert not other.equals(out)
    more, _, _ = mixed(table, groups={"a": {"epochs": 2.3}, "b": {"epochs": 0.6}})
    kept = {row["id"] for row in rows if row["rule"] is None}
    assert kept < {row["id"] for row in more.to_pylist() if row["rule"] is None}, "who asks for more loses none"


def test_whole_epochs_are_exact() -> None:
    out, _, _ = mixed(documents(500, source=["a"] * 500), budget=None, temperature=3.3)
    assert set(out.column("repeat").to_pylist()) == {1} and out.column("rule").null_count == 500


def test_phases_take_different_documents_first() -> None:
    phases = [{"name": "main", "share": 0.8}, {"name": "last", "share": 0.2}]
    out, _, _ = mixed(documents(2000, source=["a"] * 2000), phases=phases)
    rows = out.to_pylist()
    assert {(row["mix_phases"]["main"], row["mix_phases"]["last"]) for row in rows} == {(1, 0), (0, 1)}
    assert all(row["repeat"] == sum(row["mix_phases"].values()) for row in rows)
    assert abs(sum(row["mix_phases"]["last"] for row in rows) / 2000 - 0.2) < 0.05


def test_languages_domains_and_quality_are_groups() -> None:
    count = 900
    table = documents(
        count,
        source=["web"] * count,
        language=pa.array(["de", "en", None] * (count // 3), pa.string()),
        url=pa.array(["https://www.a.co.uk/x", "http://b.a.co.uk", "", None, "http://[::1", "http://10.0.0.1/"] * 150),
        score=pa.array([float(i) if i % 9 else None for i in range(count)], pa.float64()),
    )
    out, _, _ = mixed(table, by=["language"], groups={"en": {"weight": 0}})
    assert {row["mix_group"] for row in out.to_pylist() if row["rule"]} == {"en"}
    out, _, _ = mixed(table, by=["source", "domain"], groups={"web/10.*": {"epochs": 3}})
    assert set(out.column("mix_group").to_pylist()) == {"web/a.co.uk", "web/(none)", "web/10.0.0.1"}
    out, stage, summary = mixed(
        table, by=["quality", "language"], quality={"column": "score", "buckets": 4}, groups={"q4/*": {"epochs": 2}}
    )
    groups = np.array([name.split("/")[0] for name in out.column("mix_group").to_pylist()])
    real = table.column("score").to_numpy()
    assert (groups[np.isnan(real)] == "(none)").all()
    edges = np.nanquantile(real, [0.25, 0.5, 0.75])
    expected = np.searchsorted(edges, real, "right") + 1
    clear = ~np.isnan(real) & (np.abs(real[:, None] - edges).min(axis=1) > 3)
    assert (groups[clear] == np.char.add("q", expected.astype(str))[clear]).all()
    plan = stage.plan(summary)
    assert plan["q4/de"]["epochs"] == 2.0 and plan["q1/de"]["epochs"] == 1.0
    with pytest.raises(StageError, match=r"mix.quality.column: 'url' holds string"):
        mixed(table, by=["quality"], quality={"column": "url"})


def test_the_table_of_many_groups_is_short() -> None:
    table = documents(1500, source=[f"s{i % 700:03d}" for i in range(1500)])
    out, stage, summary = mixed(table, groups={"s00*": {"epochs": 2}})
    plan = stage.plan(summary)
    assert len(plan) == 501 and sum(row["available_documents"] for row in plan.values()) == 1500
    decision, _ = stage.decide(Batch(table), summary)
    assert set(decision.tally) <= set(plan)
    copies = sum(row["got_copies"] for row in decision.tally.values())
    assert copies == sum(out.column("repeat").to_pylist()) == 1500 + sum(i % 700 < 10 for i in range(1500))


def test_rehydration_repeats_by_the_size_of_the_cluster() -> None:
    sizes = [1, 2, 3, 9, 10, 1000, None] * 100
    table = documents(700, source=["a"] * 700, dup_cluster_size=pa.array(sizes, pa.int32()))
    out, _, _ = mixed(table, rehydrate={2: 2, 4: 3, 10: 5}, max_epochs=10)
    expected = {1: 1, 2: 2, 3: 2, 9: 3, 10: 5, 1000: 5, None: 1}
    assert out.column("repeat").to_pylist() == [expected[size] for size in sizes]
    half, _, _ = mixed(table, rehydrate={2: 2, 4: 3, 10: 0}, max_epochs=10)
    dropped = {row["dup_cluster_size"] for row in half.to_pylist() if row["rule"]}
    assert dropped == {10, 1000}


def test_caps_of_domains() -> None:
    urls = [f"https://{host}/{i}" for i in range(60) for host in ("big.example", "www.big.example", "small.org")]
    table = documents(180, url=pa.array([*urls[:-1], None]))
    shards = [table.slice(0, 50), table.slice(50, 90), table.slice(140)]
    rows = [r for part in run_group(_caps(documents=70), shards) for r in part.to_pylist()]
    big = [row for row in rows if row["url"] and "big" in row["url"]]
    over = [row for row in rows if row["mix_over"] is not None]
    assert (
        len(big) == 120 and len(over) == 50 and {(row["mix_over"], row["mix_cap"]) for row in over} == {(120.0, 70.0)}
    )
    assert {row["id"] for row in over} <= {row["id"] for row in big}
    one = [r for part in run_group(_caps(documents=70), [table], partitions=1) for r in part.to_pylist()]
    assert [row["mix_over"] for row in one] == [row["mix_over"] for row in rows]
    for cap in (1, 500, 3000):
        rows = [r for part in run_group(_caps(bytes=cap), shards) for r in part.to_pylist()]
        for name in ("big", "small"):
            inside = sum(len(r["text"]) for r in rows if r["mix_over"] is None and r["url"] and name in r["url"])
            assert cap - 150 < inside <= cap or (cap == 1 and inside == 0)
        assert rows[-1]["mix_over"] is None, "without an address there is no domain"


def _caps(**knobs) -> Caps:
    stage = Caps(CapsConfig(**knobs))
    stage.setup({})
    return stage


def config(folder: Path, **mix) -> Path:
    chance = np.random.default_rng(3)
    entries = []
    for source, count in (("web", 240), ("wiki", 60)):
        texts = ["abc " * int(n) for n in chance.integers(5, 60, count)]
        urls = [f"https://{'spam' if i % 3 else 'site'}{i % 5}.com/{i}" for i in range(count)]
        write_rows(folder / f"{source}.jsonl", texts, url=urls)
        entries.append({"source": source, "format": "jsonl", "paths": [str(folder / f"{source}.jsonl")]})
    return write_config(folder / "c.yaml", name="mixed", input=entries, mix=mix, engine={"shard_bytes": "4kB"})


MIX = {"groups": {"wiki": {"epochs": 2.5}, "web": {"bytes": "10kB"}}, "domains": {"documents": 30}}
PROMISED = ("documents", "ledger", "samples")


def test_a_whole_run(tmp_path: Path) -> None:
    """The section as a user writes it: ledger, columns, table; whatever the shards; and what a changed weight runs again."""
    path, out = config(tmp_path, **MIX), tmp_path / "out"
    code, said = run_toy(path, out, debug=True)
    assert code == 0
    ledger = pq.read_table(out / "ledger").to_pylist()
    dropped = [row for row in ledger if row["fate"] == "dropped"]
    assert {(row["stage"], row["rule"]) for row in dropped} == {("mix", "budget")}
    assert all(row["value"] > row["threshold"] for row in dropped)
    capped = [row for row in dropped if row["detail"] == "domain cap"]
    assert capped and all(row["threshold"] == 30 for row in capped)
    kept = pa.concat_tables([pq.read_table(p) for p in sorted((out / "documents").glob("*.parquet"))])
    assert not {"mix_over", "mix_cap"} & set(kept.column_names)
    rows = kept.to_pylist()
    assert len(rows) + len(dropped) == len(ledger) == 300
    facts = json.loads((out / "run.json").read_text())
    (table,) = [stage["table"] for stage in facts["stages"] if "table" in stage]
    assert [row["name"] for row in table] == ["web", "wiki"]
    for row in table:
        mine = [r for r in rows if r["source"] == row["name"]]
        assert row["got_documents"] == len(mine)
        assert row["got_bytes"] == sum(r["repeat"] * len(r["text"]) for r in mine)
        assert row["got_bytes"] == pytest.approx(row["planned_bytes"], rel=0.2)
        assert row["got_copies"] == sum(r["repeat"] for r in mine)
    assert {row["repeat"] for row in rows if row["source"] == "wiki"} == {2, 3}
    assert "planned bytes" in said and facts["config"]["mix"]["groups"]["wiki"]["epochs"] == 2.5
    assert facts["config"]["stages"] == []

    assert run_toy(path, tmp_path / "whole", "engine.shard_bytes=1MB", "engine.partitions=3", debug=True)[0] == 0
    whole = pa.concat_tables([pq.read_table(p) for p in sorted((tmp_path / "whole/documents").glob("*.parquet"))])
    assert whole.to_pylist() == rows

    before = tree(out, "journal/00-read", "journal/01-mix.caps")
    summaries = {p.name: p.stat().st_mtime_ns for p in (out / "journal/03-mix").glob("shard-*")}
    assert run_toy(path, out, "mix.groups.web.bytes=5kB", debug=True)[0] == 0
    assert tree(out, "journal/00-read", "journal/01-mix.caps") == before
    assert {p.name: p.stat().st_mtime_ns for p in (out / "journal/03-mix").glob("shard-*")} == summaries
    assert run_toy(path, tmp_path / "fresh", "mix.groups.web.bytes=5kB", debug=True)[0] == 0
    assert tree(out, *PROMISED) == tree(tmp_path / "fresh", *PROMISED)
    assert run_toy(path, out, "mix=null", debug=True)[0] == 0
    assert len(pq.read_table(out / "ledger").filter(pa.compute.field("fate") == "kept")) == 300


def test_a_refused_mix_ends_the_run_with_its_reason(tmp_path: Path) -> None:
    path = config(tmp_path, budget="1MB", shortfall="refuse", groups={"wiki": {"share": 0.9}})
    code, said = run_toy(path, tmp_path / "out")
    assert code == 1 and "'wiki': 900,000 asked" in said and "Ask for less" in said
    code, said = run_toy(path, tmp_path / "out", "mix.shortfall=spread", debug=True)
    assert code == 0


def test_phases_reach_the_packed_rows_and_the_trainer(tmp_path: Path) -> None:
    from tokenizer_training.dataset.read import PackedSplit, TokenDataset
    from tokenizer_training.dataset.verify import verify
    from training.data import step_rows

    phases = [{"name": "main", "share": 0.7}, {"name": "last", "share": 0.3, "groups": {"wiki": {"share": 0.9}}}]
    path = config(tmp_path, phases=phases)
    for number, strategy in enumerate(("best_fit", "concat")):
        sections = [
            "tokenizer={vocab_size: 330}",
            f"pack={{sequence_length: 32, shard_tokens: 900, strategy: {strategy}}}",
        ]
        out = tmp_path / f"out{number}"
        assert run_toy(path, out, *sections, debug=True)[0] == 0
        assert verify(out / "tokens") == []
        facts = json.loads((out / "tokens/dataset.json").read_text())
        mix = json.loads((out / "run.json").read_text())["stages"][-1]["table"]
        assert {row["name"] for row in mix} == {"main: web", "main: wiki", "last: web", "last: wiki"}
        total = sum(shard["tokens"] for shards in facts["splits"].values() for shard in shards)
        assert 0 <= sum(row["got_tokens"] for row in mix) - total < 0.2 * total, "but for copies of held-out documents"
        assert facts["format"] == 2 and facts["phases"] == ["main", "last"]
        dataset = TokenDataset(out / "tokens")
        packed = PackedSplit(out / "tokens", "train", 32)
        assert len(facts["splits"]["train"]) > 3, "shards cut phases, too"
        kept = pa.concat_tables([pq.read_table(p) for p in sorted((out / "documents").glob("*.parquet"))]).to_pylist()
        wanted = {row["id"]: row for row in kept}
        (main, last) = packed.phases
        assert main[0] == "main" and main[1] + last[1] == len(packed)
        seen: dict[str, dict[str, int]] = {"main": {}, "last": {}}
        for row in range(len(packed)):
            for piece in dataset.documents_in_row(packed, row):
                if piece.ends:
                    copies = seen["main" if row < main[1] else "last"]
                    copies[piece.id] = copies.get(piece.id, 0) + 1
        held_out = {
            i
            for n in range(len(facts["splits"]["validation"]))
            for i in dataset.sidecar("validation", n).ids.to_pylist()
        }
        for name, found in seen.items():
            expected = {i: row["mix_phases"][name] for i, row in wanted.items() if row["mix_phases"][name]}
            assert found == {i: n for i, n in expected.items() if i not in held_out}
        index = pq.read_table(out / "tokens" / facts["pack"]["32"]["splits"]["train"]["file"])
        assert (np.diff(index.column("phase").to_numpy()) >= 0).all()

        rows = len(packed)
        order = [
            r
            for step in range(rows // 4)
            for r in step_rows(step, rows, 4, 7, True, phases=[n for _, n in packed.phases])
        ]
        assert sorted(order[: main[1]]) == list(range(main[1])), "the first phase is over before the second begins"
        assert order != sorted(order)
