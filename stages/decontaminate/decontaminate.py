"""The `decontaminate` stage: documents that hold n-grams of evaluation items are dropped, trimmed or tagged.

Three rounds. 0, by n-gram: one found in too many documents is no evidence. 1, by document: what is left decides about
it. 2, by item, in one partition: the report, one row for each item of every benchmark.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import model_validator

from stages.batch import Batch
from stages.decontaminate.evidence import FINDINGS_COLUMNS, Evidence, cut_ranges, findings, merged
from stages.decontaminate.items import Benchmark, files_of, read_items
from stages.dedup.messages import key_array, key_values, same_as_previous, whole_keys
from stages.stage import (
    ADDRESSED,
    FINDINGS,
    VERDICT,
    Addressed,
    GroupStage,
    Resources,
    StageConfig,
    StageError,
    knob,
    register,
)

if TYPE_CHECKING:
    from stages.decontaminate.index import Index, Rules

SPANS = pa.list_(pa.int64())  # start, end, start of the cut, end of the cut; and so on for each place
MOST_NAMED = 20  # items named in a document's column
WIDTH = 4  # numbers of one place in SPANS


class DecontaminateConfig(StageConfig):
    """Knobs of `decontaminate`."""

    benchmarks: tuple[Benchmark, ...] = knob(..., "the evaluation sets, each a mapping")
    n: int = knob(
        13, "words of an n-gram; one n-gram in common is an overlap", "GPT-3 (Brown et al. 2020)", ge=3, le=64
    )
    gap: int = knob(
        0,
        "words that may be changed, added or left out inside an n-gram (its first and last word agree); 0: exactly equal",
        ge=0,
        le=4,
    )
    min_words: int = knob(
        8,
        "a field, or an item, of fewer than n words is looked for as a whole and exactly; of fewer than this, not at all",
        "GPT-3: n is the 5th percentile of an evaluation set's lengths, at least 8",
        ge=3,
    )
    common_items: int = knob(
        10, "an n-gram in more different texts of the items than this (a template, an instruction) is no evidence", ge=1
    )
    common_documents: int = knob(
        100,
        "an n-gram found in more documents than this (a proverb, a licence) is no evidence; the report counts them for "
        "each item, as a benchmark that was copied very often looks the same",
        "GPT-3 used 10",
        ge=1,
    )
    coverage: float = knob(
        0.0,
        "least share of an item's words that a document must hold of it (in n-grams) to count; 0: one n-gram is enough",
        ge=0,
        le=1,
    )
    mode: Literal["drop", "trim", "tag"] = knob(
        "drop", "drop the document; trim: take out what overlaps, with a margin; tag: only say so, in its columns"
    )
    margin: int = knob(
        200, "trim: characters that also go on both sides of an overlap, up to white space", "GPT-3", ge=0, le=100_000
    )
    trim_most: float = knob(
        0.5, "trim: a document of which more than this share would go is dropped instead", ge=0, le=1
    )

    @model_validator(mode="after")
    def _fits(self) -> DecontaminateConfig:
        if not self.benchmarks:
            raise ValueError("benchmarks: is empty; give at least one, with name, paths, fields")
        if empty := [benchmark.name for benchmark in self.benchmarks if not benchmark.fields]:
            raise ValueError(f"benchmarks: {empty[0]} has no `fields`; give at least one")
        if self.min_words > self.n:
            raise ValueError(f"min_words: expected at most n = {self.n}, got {self.min_words}")
        seed = -(-(self.n - self.gap) // (self.gap + 1))
        if seed < 3:
            raise ValueError(
                f"gap: {self.gap} changed words leave runs of {seed} equal words in n-grams of n = {self.n}, which are "
                f"everywhere; expected runs of 3 or more: n of at least {4 * self.gap + 3 - self.gap}, or a smaller gap"
            )
        names = [benchmark.name for benchmark in self.benchmarks]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"benchmarks: two are called {twice[0]!r}; put all paths of a benchmark under one name")
        return self


@register
class Decontaminate(GroupStage):
    """Finds n-grams of evaluation items, exactly or with some changed words, and drops, trims or tags the documents.

    Words are compared without case, accents and punctuation, n-grams word by word: a hash never decides. The report of
    all items is in findings/decontaminate/.
    """

    name = "decontaminate"
    config_model = DecontaminateConfig
    needs = ("id", "text")
    libraries: ClassVar[tuple[str, ...]] = ()
    resources = Resources(memory=512 << 20)
    config: DecontaminateConfig

    def __init__(self, config: DecontaminateConfig) -> None:
        super().__init__(config)
        self.index: Index

    def provides(self) -> dict[str, pa.DataType]:
        """The items that a document overlaps with (`benchmark/item`) and the largest share of one that it holds; null: none."""
        if self.config.mode == "drop":
            return {}
        return {"decontaminate_items": pa.list_(pa.string()), "decontaminate_coverage": pa.float64()}

    def assets(self) -> dict[str, str]:
        """Every file of every benchmark, as `<benchmark>/<number>`."""
        return {
            f"{benchmark.name}/{number:05d}": path
            for benchmark in self.config.benchmarks
            for number, path in enumerate(files_of(benchmark))
        }

    def setup(self, assets: Mapping[str, Path]) -> None:
        """Read the items and build the index, once a process. Raises `StageError` for unusable files."""
        from stages.decontaminate.index import Rules

        given = self.assets()
        config = self.config
        files = []
        for benchmark in config.benchmarks:
            mine = sorted(name for name in assets if name.rpartition("/")[0] == benchmark.name)
            files.append((benchmark, tuple((given.get(name, str(assets[name])), assets[name]) for name in mine)))
        rules = Rules(config.n, config.gap, config.min_words, config.common_items)
        stamps = tuple((stat.st_size, stat.st_mtime_ns) for path in assets.values() for stat in (path.stat(),))
        self.index = _index(tuple(files), rules, stamps)

    def messages(self) -> tuple[dict[str, pa.DataType], ...]:
        """By n-gram: its places; by document: its n-grams, and once its id and length; by item: the documents."""
        return (
            {"spans": SPANS},
            {"gram": pa.int64(), "spans": SPANS, "id": pa.string(), "length": pa.int64()},
            {
                "id": pa.string(),
                "coverage": pa.float64(),
                "covered": pa.list_(pa.int64()),
                "spans": pa.list_(pa.int64()),
            },
        )

    def findings(self) -> dict[str, pa.DataType]:
        """The report: a row for each item."""
        return FINDINGS_COLUMNS

    def partitions(self, round: int, wanted: int) -> int:
        """The report is made in one place: its messages are few."""
        return 1 if round == 2 else wanted

    def emit(self, batch: Batch, shard: int, rows: np.ndarray) -> Iterable[Addressed]:
        """The n-grams of each document that stand in an item."""
        from stages.decontaminate.match import hits

        grams, spans, owners, told = [], [], [], []
        for place, text in enumerate(batch.texts()):
            found = hits(self.index, text) if text else None
            if found is None or not len(found.gram):
                continue
            cuts = cut_ranges(text, found.start, found.end, self.config.margin if self.config.mode == "trim" else None)
            numbers = np.stack([found.start, found.end, *cuts], axis=1)
            order = np.argsort(found.gram, kind="stable")
            distinct, first = np.unique(found.gram[order], return_index=True)
            grams.append(distinct)
            spans += [part.ravel() for part in np.split(numbers[order], first[1:])]
            owners.append(np.full(len(distinct), place))
            told.append((place, len(text)))
        if not told:
            return
        owner = rows[np.concatenate(owners)]
        by_gram = np.stack([np.concatenate(grams), np.zeros(len(owner), np.int64)], axis=1)
        yield Addressed(0, _table(by_gram, shard, owner, {"spans": pa.array(spans, SPANS)}))
        places = np.array([place for place, _ in told])
        by_document = np.stack([np.full(len(places), shard), rows[places]], axis=1)
        payload = {
            "gram": pa.array(np.full(len(places), -1)),
            "spans": pa.nulls(len(places), SPANS),
            "id": batch.column("id").take(pa.array(places)).cast(pa.string()),
            "length": pa.array([length for _, length in told], pa.int64()),
        }
        yield Addressed(1, _table(by_document, shard, rows[places], payload))

    def reduce(self, round: int, messages: Iterator[pa.Table]) -> Iterable[Addressed]:
        """See the module."""
        if round == 0:
            yield from self._rare(messages)
        elif round == 1:
            yield from self._judge(messages)
        else:
            for table in findings(self.index, messages):
                yield Addressed(FINDINGS, table)

    def columns(self, batch: Batch, verdicts: pa.Table) -> dict[str, pa.Array]:
        """What this stage found, else what an earlier one did: it may stand twice, for two languages."""
        found = super().columns(batch, verdicts)
        for name in found:
            if batch.has(name):
                old, new = batch.column(name).cast(found[name].type), found[name]
                index = np.arange(len(batch)) + np.where(new.is_valid().to_numpy(zero_copy_only=False), len(batch), 0)
                found[name] = pa.chunked_array([*old.chunks, new]).take(pa.array(index)).combine_chunks()
        return found

    def _rare(self, messages: Iterator[pa.Table]) -> Iterator[Addressed]:
        """Round 0: n-grams go on to their documents unless too many have them; of those the items are told."""
        most = self.config.common_documents
        over = -1  # the n-gram that is known to be common, of which more rows may come
        for table in whole_keys(messages, most + 1):
            keys = key_values(table)
            gram = keys[:, 0].astype(np.int64)
            starts = np.flatnonzero(~same_as_previous(keys))
            counts = np.diff(np.append(starts, len(gram)))
            first = gram[starts]
            common = (counts > most) | (first == over)
            for number in first[common & (first != over)].tolist():
                items, begins = self.index.items_of(number)
                yield Addressed(2, _common(items, begins))
            if common[-1]:
                over = int(first[-1])
            keep = np.flatnonzero(~np.repeat(common, counts))
            if not len(keep):
                continue
            rare = table.take(pa.array(keep))
            shard, row = rare.column("shard").to_numpy(), rare.column("row").to_numpy()
            payload = {
                "gram": pa.array(gram[keep]),
                "spans": rare.column("spans"),
                "id": pa.nulls(len(keep), pa.string()),
                "length": pa.nulls(len(keep), pa.int64()),
            }
            yield Addressed(1, _table(np.stack([shard, row], axis=1), shard, row, payload))

    def _judge(self, messages: Iterator[pa.Table]) -> Iterator[Addressed]:
        """Round 1: verdicts, and messages to the items."""
        for table in whole_keys(messages):
            starts = np.flatnonzero(~same_as_previous(key_values(table))).tolist()
            verdicts, sent = [], []
            for start, end in zip(starts, [*starts[1:], table.num_rows], strict=True):
                rows = table.slice(start, end - start).to_pylist()
                told = next(row for row in rows if row["id"] is not None)
                places = {row["gram"]: np.array(row["spans"]).reshape(-1, WIDTH) for row in rows if row["gram"] >= 0}
                if not places:
                    continue
                evidence = Evidence(self.index, places, self.config.coverage)
                if evidence.items:
                    address = {"shard": told["shard"], "row": told["row"]}
                    verdicts.append({**address, **self._verdict(evidence, told["length"])})
                    sent += [{**address, "id": told["id"], **item} for item in evidence.messages()]
            if verdicts:
                schema = pa.schema([*VERDICT.items(), *self.provides().items()])
                yield Addressed(None, pa.Table.from_pylist(verdicts, schema=schema))
            if sent:
                yield Addressed(2, _to_items(sent))

    def _verdict(self, evidence: Evidence, length: int) -> dict[str, Any]:
        """What becomes of a document that holds some items."""
        config = self.config
        names = ["/".join(self.index.names[item]) for item in evidence.items]
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        drop = {"rule": "contaminated", "value": evidence.coverage, "threshold": config.coverage}
        if config.mode == "drop":
            return {**drop, "detail": f"{names[0]}{more}"}
        columns = {"decontaminate_items": names[:MOST_NAMED], "decontaminate_coverage": evidence.coverage}
        if config.mode == "tag":
            return columns
        cuts = merged(evidence.spans[:, 2:])
        gone = int((cuts[:, 1] - cuts[:, 0]).sum())
        if gone > config.trim_most * length:
            share = {"rule": "little_left", "value": gone / length, "threshold": config.trim_most}
            return {**columns, **share, "detail": f"{names[0]}{more}"}
        edits = [
            {"start": start, "end": end, "replacement": "\n\n" if start > 0 and end < length else ""}
            for start, end in cuts.tolist()
        ]
        return {**columns, "edits": edits}


@lru_cache(maxsize=2)
def _index(
    files: tuple[tuple[Benchmark, tuple[tuple[str, Path], ...]], ...], rules: Rules, stamps: tuple[tuple[int, int], ...]
) -> Index:
    """The index of some files, kept for the next unit of the process; `stamps` are their sizes and times."""
    from stages.decontaminate.index import build_index

    index = build_index(
        (
            (benchmark.name, item.name, item.texts)
            for benchmark, given in files
            for item in read_items(benchmark, given)
        ),
        rules,
    )
    if not len(index.entry_at):
        raise StageError(
            f"decontaminate: none of the {len(index.names):,} items has an n-gram to look for; give more fields, or a "
            f"smaller min_words (it is {rules.min_words})"
        )
    return index


def _table(
    keys: np.ndarray, shard: np.ndarray | int, row: np.ndarray, payload: Mapping[str, pa.Array | pa.ChunkedArray]
) -> pa.Table:
    """Messages under keys, an (n, 2) array of integers that are not negative."""
    shards = np.broadcast_to(np.asarray(shard, dtype=np.int32), len(row))
    address = (key_array(keys.astype(np.uint64)), pa.array(shards), pa.array(row, pa.int64()))
    return pa.table({**dict(zip(ADDRESSED, address, strict=True)), **payload})


def _item_keys(items: np.ndarray) -> np.ndarray:
    """Keys that sort as the items' numbers do: keys are compared as bytes, and written little-endian."""
    return np.stack([items.astype(np.uint64).byteswap(), np.zeros(len(items), np.uint64)], axis=1)


def _common(items: np.ndarray, begins: np.ndarray) -> pa.Table:
    """To items: one of your n-grams, at this word, is common in the documents."""
    rows = len(items)
    payload = {
        "id": pa.nulls(rows, pa.string()),
        "coverage": pa.nulls(rows, pa.float64()),
        "covered": pa.nulls(rows, pa.list_(pa.int64())),
        "spans": pa.nulls(rows, pa.list_(pa.int64())),
    }
    return _table(_item_keys(items), 0, begins, payload)


def _to_items(sent: list[dict[str, Any]]) -> pa.Table:
    """To items: this document holds some of you."""
    shard = np.array([one["shard"] for one in sent], dtype=np.int32)
    row = np.array([one["row"] for one in sent], dtype=np.int64)
    payload = {
        "id": pa.array([one["id"] for one in sent], pa.string()),
        "coverage": pa.array([one["coverage"] for one in sent], pa.float64()),
        "covered": pa.array([one["covered"] for one in sent], pa.list_(pa.int64())),
        "spans": pa.array([one["spans"] for one in sent], pa.list_(pa.int64())),
    }
    return _table(_item_keys(np.array([one["item"] for one in sent])), shard, row, payload)
