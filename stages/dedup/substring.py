"""`dedup.substring`: runs of at least k words that stand more than once in the corpus, letter by letter, are cut.

Seven rounds; only what may be repeated goes beyond the second. A document's text is sent once, and twice again if some of it is repeated.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from stages.batch import Batch
from stages.dedup import passages
from stages.dedup.anchors import anchors, run_keys
from stages.dedup.hashing import hash_columns
from stages.dedup.messages import (
    address_keys,
    indices,
    key_values,
    message_table,
    pack,
    places,
    same_as_previous,
    unpack,
    whole_keys,
)
from stages.dedup.passages import NAMED, Met, Outcome, PassageConfig
from stages.dedup.runs import CUT, RUN, Words, common_runs, joined_cuts, read_words, verified
from stages.dedup.survivor import rank_names, ranks, scope_keys
from stages.stage import Addressed, GroupStage, Resources, knob, register
from stages.words import batch_words

ANCHORS, TEXTS, WINDOWS, RUNS, VERIFYING, JUDGING, NAMING = range(7)  # rounds
PIECE = 1 << 16  # rows of one table of messages
TEXT: pa.DataType = pa.large_string()
NOTICE = -1  # as `at`: others lose what stands in you, too


class SubstringConfig(PassageConfig):
    """Knobs of `dedup.substring`."""

    words: int = knob(
        50,
        "k: the fewest words of a run; in scripts without spaces each letter is a word",
        "Lee et al. 2022, section 4.1: 50 BPE tokens, about 40 words of English",
        ge=4,
        le=1000,
    )
    scope: Literal["source", "global"] = knob(
        "global", "look within each input source, or across all", "Lee et al. 2022: the data set"
    )


@register
class Substring(GroupStage):
    """Finds every run of k words that stands twice or more, equal in each character, and cuts all places but the first.

    Exact: no such run is missed (but for an accident of 128-bit hashes), and no text is cut that was not compared,
    byte by byte, with the copy that stays. Words are those of `stages.words`; a copy in the middle of a word is none.
    `little_left` drops what has too few words after the cuts; `drop` drops documents with too much (`repeated_text`, value = share).

    0 anchors: words that all equal runs share meet. 1 texts: runs with such an anchor are hashed. 2 windows: equal runs meet.
    3 runs: copies side by side become one. 4 verifying, by the document that keeps the text: bytes are compared, and what stands behind the
    last word goes as far as it is equal. 5 judging. 6 naming.
    """

    name = "dedup.substring"
    config_model = SubstringConfig
    needs: ClassVar[tuple[str, ...]] = ("id", "text", "source")
    libraries: ClassVar[tuple[str, ...]] = ("xxhash",)
    resources = Resources(memory=768 << 20)
    config: SubstringConfig

    def provides(self) -> dict[str, pa.DataType]:
        """The share of the document's characters that stand in copies; null: none."""
        return {"dup_substring_share": pa.float64()}

    def messages(self) -> tuple[dict[str, pa.DataType], ...]:
        """Payloads of the rounds, see the class."""
        ranked: dict[str, pa.DataType] = {name: pa.int64() for name in rank_names(self.config.survivor)}
        at: dict[str, pa.DataType] = {"at": pa.int64()}
        own: dict[str, pa.DataType] = {"text": TEXT, "id": pa.string()}
        kept: dict[str, pa.DataType] = {"kept_shard": pa.int32(), "kept_row": pa.int64()}
        return (
            at,
            {**own, "scope": pa.int64(), **ranked, **at},
            {**at, **ranked},
            {**own, **at, **kept, "kept_at": pa.int64()},
            {"text": TEXT, **RUN},
            {"id": pa.string(), "length": pa.int64(), "words": pa.int64(), **CUT, **kept},
            NAMED,
        )

    def emit(self, batch: Batch, shard: int, rows: np.ndarray) -> Iterable[Addressed]:
        """Each document's anchors to their keys, its text to itself."""
        k = self.config.words
        words = batch_words(batch)
        long = np.flatnonzero(words.counts >= k)
        if not len(long):
            return
        scope = scope_keys(batch, self.config.scope)
        found, keys = [], []
        for one in long.tolist():
            chosen, grams = anchors(words.key[words.rows[one] : words.rows[one + 1]], k)
            found.append(np.unique(chosen))
            keys.append(grams[found[-1]])
        every = pack(np.full(len(batch), shard), np.asarray(rows))
        counts = np.array([len(one) for one in found])
        row = np.repeat(long, counts)
        grams = np.concatenate(keys)
        scoped = hash_columns(grams[:, 0], grams[:, 1], scope[row])
        yield Addressed(ANCHORS, message_table(scoped, every[row], {"at": pa.array(np.concatenate(found))}))
        payload: dict[str, Any] = {
            "text": batch.column("text").take(indices(long)).cast(TEXT),
            "id": batch.column("id").take(indices(long)).cast(pa.string()),
            "scope": pa.array(scope[long].view(np.int64)),
        }
        for name, rank in ranks(batch, self.config.survivor).items():
            payload[name] = pa.array(rank[long])
        payload["at"] = pa.nulls(len(long), pa.int64())
        yield Addressed(TEXTS, message_table(address_keys(every[long]), every[long], payload))

    def reduce(self, round: int, messages: Iterator[pa.Table]) -> Iterable[Addressed]:
        """One partition of a round, see the class."""
        if round == ANCHORS:
            return self._alive(messages)
        if round == TEXTS:
            return self._windows(messages)
        if round == WINDOWS:
            return self._copies(messages)
        if round == RUNS:
            return self._runs(messages)
        if round == VERIFYING:
            return self._verify(messages)
        if round == JUDGING:
            return self._judge(messages)
        return passages.named(messages, "dup_substring_share")

    def columns(self, batch: Batch, verdicts: pa.Table) -> dict[str, pa.Array]:
        """The share; of a document without a verdict what an earlier use of the stage left."""
        return passages.filled(batch, verdicts, self.provides())

    def _table(self, round: int, keys: np.ndarray, senders: np.ndarray, payload: dict[str, Any]) -> Addressed:
        """Messages of a round; columns that are not given are null."""
        columns = {
            name: payload[name] if name in payload else pa.nulls(len(keys), kind)
            for name, kind in self.messages()[round].items()
        }
        return Addressed(round, message_table(keys, senders, columns))

    def _alive(self, messages: Iterator[pa.Table]) -> Iterator[Addressed]:
        """Tells documents which of their anchors stand elsewhere, too."""
        last = None
        for table in whole_keys(messages, limit=PIECE):
            keys = key_values(table)
            run = np.cumsum(~same_as_previous(keys)) - 1
            shared = np.bincount(run) > 1
            shared[0] |= last is not None and bool((last == keys[0]).all())
            last = keys[-1].copy()
            rows = np.flatnonzero(shared[run])
            if len(rows):
                place = places(table)[rows]
                yield self._table(TEXTS, address_keys(place), place, {"at": table.column("at").take(indices(rows))})

    def _windows(self, messages: Iterator[pa.Table]) -> Iterator[Addressed]:
        """Sends every run of k words whose anchor stands elsewhere to its key; and the texts of such documents to themselves."""
        k, names = self.config.words, rank_names(self.config.survivor)
        for table, starts, ends in _documents(messages):
            at, place = table.column("at"), places(table)
            own, where = at.is_null().to_numpy(), at.fill_null(0).to_numpy()
            scopes = table.column("scope")
            told = []
            held: list[tuple[np.ndarray, np.ndarray, int]] = []
            count = 0
            for start, end in zip(starts, ends, strict=True):
                if end - start == 1:
                    continue
                itself = start + int(np.argmax(own[start:end]))
                words = read_words(table.column("text")[itself].as_py())
                chosen, _ = anchors(words.key, k)
                alive = np.zeros(len(words.key), dtype=bool)
                alive[where[start:end][~own[start:end]]] = True
                first = np.flatnonzero(alive[chosen])
                keys = run_keys(words.data, words.begin, words.stop, k)[first]
                scope = np.full(len(first), scopes[itself].as_py(), np.int64).view(np.uint64)
                held.append((hash_columns(keys[:, 0], keys[:, 1], scope), first, itself))
                told.append(itself)
                count += len(first)
                if count >= PIECE:
                    yield self._runs_of_words(table, names, place, held)
                    held, count = [], 0
            if held:
                yield self._runs_of_words(table, names, place, held)
            if told:
                picked = table.take(indices(np.array(told)))
                here = place[told]
                own_columns = {"text": picked.column("text"), "id": picked.column("id")}
                yield self._table(RUNS, address_keys(here), here, own_columns)

    def _runs_of_words(
        self, table: pa.Table, names: list[str], place: np.ndarray, held: list[tuple[np.ndarray, np.ndarray, int]]
    ) -> Addressed:
        row = np.repeat([itself for _, _, itself in held], [len(first) for _, first, _ in held]).astype(np.int64)
        payload: dict[str, Any] = {name: table.column(name).take(indices(row)) for name in names}
        payload["at"] = pa.array(np.concatenate([first for _, first, _ in held]))
        return self._table(WINDOWS, np.concatenate([keys for keys, _, _ in held]), place[row], payload)

    def _copies(self, messages: Iterator[pa.Table]) -> Iterator[Addressed]:
        """Tells documents which of their runs of k words are copies, and of which; and the others that they keep one."""
        names = rank_names(self.config.survivor)
        for met in passages.meet(messages, names, 1, "first"):
            yield self._told(met)

    def _told(self, met: Met) -> Addressed:
        place, at = places(met.table), met.table.column("at").to_numpy()
        copies, kept = place[met.copies], place[met.kept]
        keepers = np.unique(kept)
        target = np.concatenate([copies, keepers])
        shard, row = unpack(np.concatenate([kept, keepers]))
        notices = np.full(len(keepers), NOTICE)
        payload = {
            "at": pa.array(np.concatenate([at[met.copies], notices])),
            "kept_shard": pa.array(shard),
            "kept_row": pa.array(row),
            "kept_at": pa.array(np.concatenate([at[met.kept], notices])),
        }
        return self._table(RUNS, address_keys(target), target, payload)

    def _runs(self, messages: Iterator[pa.Table]) -> Iterator[Addressed]:
        """Sends what may be cut of each document to the documents that keep it, and these their texts to themselves."""
        none = self.config.keep == "none"
        for table, starts, ends in _documents(messages):
            at, place = table.column("at"), places(table)
            own, where = at.is_null().to_numpy(), at.fill_null(NOTICE).to_numpy()
            kept_at = table.column("kept_at").fill_null(NOTICE).to_numpy()
            kept = pack(*(table.column(name).fill_null(0).to_numpy() for name in ("kept_shard", "kept_row")))
            told, lengths, counts, keepers = [], [], [], []
            for start, end in zip(starts, ends, strict=True):
                if end - start == 1:
                    continue
                itself = start + int(np.argmax(own[start:end]))
                rows = start + np.flatnonzero(where[start:end] >= 0)
                keeps = end - start > 1 + len(rows)
                if keeps:
                    keepers.append(itself)
                if not len(rows) and not none:
                    continue
                text = table.column("text")[itself].as_py()
                words = read_words(text)
                told.append(itself)
                lengths.append(len(text))
                counts.append(len(words.key))
                if len(rows):
                    sender = int(place[itself])
                    found = common_runs(
                        words, where[rows], kept[rows], kept_at[rows], self.config.words, sender, not none
                    )
                    target = found.pop("kept")
                    yield self._table(VERIFYING, address_keys(target), np.full(len(target), sender), found)
            if keepers:
                here, picked = place[keepers], table.take(indices(np.array(keepers)))
                nothing = {name: pa.nulls(len(here), kind) for name, kind in RUN.items()}
                texts = passages.to_itself(here, {"text": picked.column("text"), **nothing})
                yield Addressed(VERIFYING, texts)
                if not none:
                    yield Addressed(NAMING, passages.own_ids(here, picked.column("id")))
            if told:
                here = place[told]
                facts = {
                    "id": table.column("id").take(indices(np.array(told))),
                    "length": pa.array(lengths, pa.int64()),
                    "words": pa.array(counts, pa.int64()),
                }
                yield self._table(JUDGING, address_keys(here), here, facts)

    def _verify(self, messages: Iterator[pa.Table]) -> Iterator[Addressed]:
        """Compares what may be cut with the text that stays; what is equal is told to the document that loses it."""
        none = self.config.keep == "none"
        words: Words | None = None
        cut: set[tuple[int, int]] = set()  # of the keeper itself, with `keep: none`
        for table in messages:
            own, place = passages.is_own(table), places_or_zero(table)
            runs = table.drop_columns(["key", "text"]).to_pylist()
            targets, kept, rows = [], [], []
            for row, (itself, sender, run) in enumerate(zip(own.tolist(), place.tolist(), runs, strict=True)):
                if itself:
                    words, cut = read_words(table.column("text")[row].as_py()), set()
                    continue
                assert words is not None, "a document keeps a passage, but never sent its text"
                for number, one in enumerate(verified(words, run, none)):
                    if number:  # the keeper's own, which every copy would tell it again
                        if (one["first"], one["last"]) in cut:
                            continue
                        cut.add((one["first"], one["last"]))
                    targets.append(run["kept_place"] if number else sender)
                    kept.append(-1 if none else run["kept_place"])
                    rows.append(one)
            if rows:
                shard, row_of = unpack(np.maximum(np.array(kept, dtype=np.int64), 0))
                payload: dict[str, Any] = {n: pa.array([one[n] for one in rows], kind) for n, kind in CUT.items()}
                payload["kept_shard"] = pa.array(shard, mask=np.array(kept) < 0)
                payload["kept_row"] = pa.array(row_of, mask=np.array(kept) < 0)
                to = np.array(targets, dtype=np.int64)
                yield self._table(JUDGING, address_keys(to), to, payload)

    def _judge(self, messages: Iterator[pa.Table]) -> Iterator[Addressed]:
        for table, starts, ends in _documents(messages):
            place, lengths = places(table), table.column("length")
            own = lengths.is_valid().to_numpy()
            cuts = np.stack([table.column(name).fill_null(0).to_numpy() for name in CUT], axis=1)
            shard, row = (table.column(name).fill_null(0).to_numpy() for name in ("kept_shard", "kept_row"))
            kept = np.where(table.column("kept_row").is_null().to_numpy(), -1, pack(shard, row))
            counts = table.column("words").fill_null(0).to_numpy()

            def outcome(start: int, end: int) -> Outcome:
                itself = start + int(np.argmax(own[start:end]))  # noqa: B023 - used before the next table
                rows = start + np.flatnonzero(~own[start:end])  # noqa: B023
                length = int(lengths[itself].as_py())  # noqa: B023
                edits, gone, longest = joined_cuts(cuts[rows], length)  # noqa: B023
                return Outcome(
                    place=int(place[itself]),  # noqa: B023
                    share=sum(one["end"] - one["start"] for one in edits) / length,
                    words_left=int(counts[itself]) - gone,  # noqa: B023
                    edits=edits if self.config.mode == "trim" else [],
                    kept=passages.most_kept(kept[rows], cuts[rows, 1] - cuts[rows, 0]),  # noqa: B023
                    detail=f"longest run {longest} words",
                )

            found = (outcome(start, end) for start, end in zip(starts, ends, strict=True) if end - start > 1)
            yield from passages.judged(found, self.config, "dup_substring_share", "repeated_text", NAMING)


def places_or_zero(table: pa.Table) -> np.ndarray:
    """The places of the senders; 0 for what a document sent to itself, which has no shard."""
    shard = np.maximum(table.column("shard").to_numpy(), 0)
    return pack(shard, table.column("row").to_numpy())


def _documents(messages: Iterable[pa.Table]) -> Iterator[tuple[pa.Table, list[int], list[int]]]:
    """Tables of whole documents, and where the messages of each begin and end."""
    for table in whole_keys(messages):
        table = table.combine_chunks()
        starts = np.flatnonzero(~same_as_previous(key_values(table)))
        yield table, starts.tolist(), np.append(starts[1:], table.num_rows).tolist()
