"""`dedup.fuzzy`: of documents with nearly equal text, one is kept. MinHash-LSH finds pairs, their Jaccard similarity decides."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import model_validator

from stages.batch import Batch
from stages.dedup import columns
from stages.dedup.candidates import candidate_pairs
from stages.dedup.cluster import Components, Stars, in_survivor_order, order_keys
from stages.dedup.graph_parts import (
    BACKWARD,
    FORWARD,
    Rounds,
    answer,
    backward,
    edges_by_part,
    forward,
    others,
    part_of,
)
from stages.dedup.meeting import SET, Met, Similarity, invitations, invited, meet, pack_sets, send_sets
from stages.dedup.messages import (
    address_keys,
    indices,
    key_array,
    key_values,
    message_table,
    nulls,
    pack,
    places,
    same_as_previous,
    unpack,
    whole_keys,
)
from stages.dedup.minhash import Scheme, agreement, band_keys, best_bands, signatures
from stages.dedup.shingles import digests, shingles, similarities
from stages.dedup.survivor import CRITERIA, Survivor, TextDuplicateConfig, rank_names, ranks, scope_keys
from stages.stage import Addressed, GroupStage, Resources, knob, register

BUCKETS, INVITED, MEETING = range(3)  # rounds; the later ones are those of `Rounds`
FLUSH = 1 << 16  # rows of small messages in one table


class FuzzyConfig(TextDuplicateConfig):
    """Knobs of `dedup.fuzzy`."""

    ngram: int = knob(
        5,
        "words in a shingle; a shorter document is one shingle",
        "FineWeb (Penedo et al. 2024), on deduplication: 5-grams",
        ge=1,
        le=100,
    )
    words: Literal["runs", "letters"] = knob(
        "runs",
        r"runs: a word is a run of `\w`, and so a clause of Chinese or Thai is one word; letters: in scripts written without spaces each letter"
        " is a word, so that a changed letter changes five shingles and not five clauses",
    )
    bands: int = knob(
        14,
        "LSH bands; a pair of similarity s becomes a candidate with probability 1 - (1 - s^rows)^bands",
        "FineWeb: 14 by 8",
        ge=1,
        le=1000,
    )
    rows: int = knob(8, "MinHash values in a band", "FineWeb: 14 by 8", ge=1, le=100)
    permutations: int | None = knob(
        None,
        "MinHash values of a document; null: bands * rows. A number: bands and rows (leave both out) are then those with the least"
        " false candidates and false misses at `threshold` among that many",
        "datasketch's MinHashLSH, whose choice it is",
        ge=2,
        le=10_000,
    )
    seed: int = knob(1, "seed of datasketch's permutations", "datasketch's default", ge=0, le=2**32 - 1)
    scheme: Scheme = knob(
        "affine64",
        "datasketch's permutations: affine64 of 64-bit hashes; affine32 of 32-bit ones, too narrow from some hundred million shingles"
        " on; legacy, those of datasketch before 2.0, biased on large sets",
        "datasketch 2.0",
    )
    threshold: float = knob(
        0.8, "Jaccard similarity of the shingle sets from which two documents are duplicates", gt=0, le=1
    )
    verify: Literal["shingles", "signature"] = knob(
        "shingles",
        "how a candidate pair is measured. shingles: exactly; 8 bytes of disk a word. signature: by the share s of equal MinHash"
        " values, 8 bytes a permutation, with a standard error of sqrt(s * (1 - s) / permutations): 0.038 at 0.8 with 112",
    )
    linkage: Literal["star", "component"] = knob(
        "star",
        "star: in survivor order each document still there removes its duplicates, so that every removed document is a verified"
        " duplicate of the one kept for it; component: one document is kept of each connected component, however long the chain",
    )
    parts: int = knob(
        1,
        "how many parts the graph of verified pairs is clustered in, one after the other. Memory is 12 to 16 bytes for each document of the"
        " corpus, divided by it, and the result does not depend on it: more than 1 for billions of documents",
        ge=1,
        le=64,
    )
    survivor: Survivor = knob(("longest",), "which document is kept: " + CRITERIA)

    @model_validator(mode="after")
    def _bands_fit(self) -> FuzzyConfig:
        if self.permutations is not None:
            given = [name for name in ("bands", "rows") if name in self.model_fields_set]
            if given:
                raise ValueError(
                    f"permutations: it chooses bands and rows by `threshold`; leave out {' and '.join(given)}"
                )
            try:
                best_bands(self.threshold, self.permutations)
            except ValueError:
                raise ValueError(
                    f"permutations: {self.permutations} are too few for threshold {self.threshold}: one band would be best;"
                    " give more, or bands and rows"
                ) from None
        return self

    def banding(self) -> tuple[int, int, int]:
        """Bands, rows, and MinHash values of a document."""
        if self.permutations is None:
            return self.bands, self.rows, self.bands * self.rows
        return (*best_bands(self.threshold, self.permutations), self.permutations)


@register
class Fuzzy(GroupStage):
    r"""Near-duplicates by Jaccard similarity of sets of lower-case `\w+` word n-grams; documents without words are never compared.

    Candidates share a band of their MinHash signatures; each is verified. Rule `near_duplicate`, value = similarity to the kept document.

    0 buckets: documents that share a band are paired. 1 invited: each document's set waits for its partners' names.
    2 meeting: sets of both are compared; pairs at the threshold go on, in survivor order. 3 cluster (one partition, verified pairs only).
    4 survivor: learns its members and sends the verdicts, or with linkage `component` 5: it meets them for their similarity.
    With `parts` above 1, rounds before 3 find which pairs belong together, and each part clusters those of its own components.

    Cost: every document sends its set (8 bytes a shingle, or a signature) once, to itself in round 1; only those with candidates send it
    further. Memory of round 3: 12 bytes for each document that the corpus has (star) or 8 (component); the other rounds work in pieces.
    """

    name = "dedup.fuzzy"
    config_model = FuzzyConfig
    needs = ("id", "text", "source")
    version = 2
    libraries = ("datasketch", "numpy")
    resources = Resources(memory=768 << 20)
    config: FuzzyConfig

    def provides(self) -> dict[str, pa.DataType]:
        """`duplicate_of`, `dup_similarity`, `dup_cluster`, `dup_cluster_size`."""
        return columns.PROVIDES

    def figures(self) -> dict[str, float]:
        """Bands, rows and threshold, for the report's curve."""
        bands, rows, _ = self.config.banding()
        return {"bands": bands, "rows": rows, "threshold": self.config.threshold}

    def messages(self) -> tuple[dict[str, pa.DataType], ...]:
        """Payloads of the rounds, see the class."""
        names = rank_names(self.config.survivor)
        ranked: dict[str, pa.DataType] = {name: pa.int64() for name in names}
        facts: dict[str, pa.DataType] = {"weight": pa.int32(), **ranked}
        other: dict[str, pa.DataType] = {"other_shard": pa.int32(), "other_row": pa.int64(), "other_weight": pa.int32()}
        edge: dict[str, pa.DataType] = {**other, "similarity": pa.float64(), **facts}
        parts = self.config.parts
        rounds: tuple[dict[str, pa.DataType], ...] = (
            {"size": pa.int32(), "digest": pa.uint64(), **ranked, "band": pa.int16()},
            {"set": SET, "id": pa.string(), **facts},
            {"set": SET, **facts},
            *([FORWARD] * parts + [BACKWARD] * parts + [{**edge, "label": pa.int64()}] if parts > 1 else []),
            *[edge] * parts,
        )
        if self.config.linkage == "star":
            return (*rounds, {"id": pa.string(), "similarity": pa.float64(), "weight": pa.int32()})
        pair: dict[str, pa.DataType] = {"set": SET, "id": pa.string(), "keeps": pa.bool_(), "size": pa.int64()}
        return (*rounds, pair, pair)

    def partitions(self, round: int, wanted: int) -> int:
        """A part of the graph is in one process."""
        rounds = self._rounds
        together = MEETING < round < rounds.survivor and (rounds.parts == 1 or round != rounds.labelled)
        return 1 if together else wanted

    def emit(self, batch: Batch, shard: int, rows: np.ndarray) -> Iterable[Addressed]:
        """To each band's bucket its size, digest and survivor ranks; to the document's own key its set and id."""
        config = self.config
        sets = list(shingles(config.texts(batch), config.ngram, config.words == "letters"))
        kept = np.array([row for row, values in enumerate(sets) if len(values)], dtype=np.int64)
        if not len(kept):
            return
        sets = [sets[row] for row in kept.tolist()]
        senders = pack(np.full(len(kept), shard), np.asarray(rows)[kept])
        ranked = {name: pa.array(rank[kept]) for name, rank in ranks(batch, config.survivor).items()}
        bands, rows_, count = config.banding()
        signed = signatures(sets, count, config.seed, config.scheme)
        keys = band_keys(signed[:, : bands * rows_], bands, scope_keys(batch, config.scope)[kept])
        each_band = indices(np.repeat(np.arange(len(kept)), bands))
        sizes = pa.array([len(values) for values in sets], pa.int32())
        bucket = {"size": sizes, "digest": pa.array(digests(sets)), **ranked}
        repeated = {name: column.take(each_band) for name, column in bucket.items()}
        repeated["band"] = pa.array(np.tile(np.arange(bands, dtype=np.int16), len(kept)))
        yield Addressed(BUCKETS, message_table(keys.reshape(-1, 2), np.repeat(senders, bands), repeated))
        own = {
            "set": pack_sets(sets if config.verify == "shingles" else list(signed)),
            "id": batch.column("id").take(indices(kept)).cast(pa.string()),
            "weight": pa.array(columns.weights(batch)[kept]),
            **ranked,
        }
        yield Addressed(INVITED, message_table(address_keys(senders), senders, own))

    @property
    def _rounds(self) -> Rounds:
        return Rounds(self.config.parts)

    def reduce(self, round: int, messages: Iterator[pa.Table]) -> Iterable[Addressed]:
        """One partition of a round, see the class."""
        component, rounds = self.config.linkage == "component", self._rounds
        if round == BUCKETS:
            return self._pair(messages)
        if round == INVITED:
            return self._invite(messages)
        if round == MEETING:
            return self._verify(messages)
        if round == rounds.survivor:
            return self._meet_survivor(messages) if component else self._judge(messages)
        if round > rounds.survivor:
            return self._judge_met(messages)
        if round >= rounds.cluster(0):
            return self._cluster(messages)
        if round == rounds.labelled:
            return self._route(messages)
        if round >= rounds.backward(0):
            return self._tell_labels(messages)
        return self._go_forward(round, messages)

    def _pair(self, messages: Iterator[pa.Table]) -> Iterator[Addressed]:
        held: list[tuple[np.ndarray, np.ndarray]] = []
        pairs = 0
        for low, high in candidate_pairs(messages, rank_names(self.config.survivor), self.config.threshold):
            held.append((low, high))
            pairs += len(low)
            if pairs >= FLUSH:
                yield self._invitations(held, pairs)
                held, pairs = [], 0
        if held:
            yield self._invitations(held, pairs)

    def _invitations(self, held: list[tuple[np.ndarray, np.ndarray]], pairs: int) -> Addressed:
        low, high = (np.concatenate(ends) for ends in zip(*held, strict=True))
        nothing = {name: nulls(2 * pairs, kind) for name, kind in self.messages()[INVITED].items()}
        return Addressed(INVITED, invitations(low, high, nothing))

    def _invite(self, messages: Iterator[pa.Table]) -> Iterator[Addressed]:
        payload = self.messages()
        for found in invited(messages):
            hosted = found.hosted()
            own = {
                name: hosted.column(name) if name in ("id", "set", "weight") else nulls(hosted.num_rows, kind)
                for name, kind in payload[self._rounds.survivor].items()
            }
            senders = places(hosted)
            yield Addressed(self._rounds.survivor, message_table(address_keys(senders), senders, own))
            for table in send_sets(found, list(payload[MEETING])):
                yield Addressed(MEETING, table)

    def _similarity(self) -> Similarity:
        return similarities if self.config.verify == "shingles" else agreement

    def _verify(self, messages: Iterator[pa.Table]) -> Iterator[Addressed]:
        for met in meet(messages, self._similarity()):
            close = np.flatnonzero(met.similarity >= self.config.threshold)
            for start in range(0, len(close), FLUSH):
                piece = close[start : start + FLUSH]
                yield from self._edges(Met(met.table, met.low[piece], met.high[piece], met.similarity[piece]))

    def _edges(self, met: Met) -> Iterator[Addressed]:
        """Verified pairs, sent in the name of the better document, under a key that sorts by survivor order.

        With several parts they go to the better document instead, to wait for its label, and their ends to where the labels are found.
        """
        names = rank_names(self.config.survivor)
        ranked = [met.table.column(name).to_numpy() for name in names]
        swapped, undecided = np.zeros(len(met.low), dtype=bool), np.ones(len(met.low), dtype=bool)
        for rank in ranked:  # what no rank decides, the lower place does
            low, high = rank[met.low], rank[met.high]
            swapped |= undecided & (high < low)
            undecided &= high == low
        better, worse = np.where(swapped, met.high, met.low), np.where(swapped, met.low, met.high)
        place, weight = places(met.table), met.table.column("weight")
        shard, row = unpack(place[worse])
        ranked = [rank[better] for rank in ranked]
        payload = {
            "other_shard": pa.array(shard),
            "other_row": pa.array(row),
            "other_weight": weight.take(indices(worse)),
            "similarity": pa.array(met.similarity),
            "weight": weight.take(indices(better)),
            **{name: pa.array(rank) for name, rank in zip(names, ranked, strict=True)},
        }
        rounds, senders = self._rounds, place[better]
        if rounds.parts == 1:
            yield Addressed(rounds.cluster(0), message_table(order_keys(ranked, len(better)), senders, payload))
            return
        payload["label"] = pa.nulls(len(better), pa.int64())
        yield Addressed(rounds.labelled, message_table(address_keys(senders), senders, payload))
        for part, table in edges_by_part(senders, place[worse], rounds.parts):
            yield Addressed(rounds.forward(part), table)

    def _go_forward(self, round: int, messages: Iterator[pa.Table]) -> Iterator[Addressed]:
        rounds = self._rounds
        part = rounds.parts - 1 - (round - rounds.forward(rounds.parts - 1))
        for sent in forward(messages, part, rounds.parts):
            yield Addressed(rounds.backward(part) if sent.backward else rounds.forward(sent.part), sent.table)

    def _tell_labels(self, messages: Iterator[pa.Table]) -> Iterator[Addressed]:
        rounds = self._rounds
        for found in backward(messages):
            if found.asker >= 0:
                yield Addressed(rounds.backward(found.asker), answer(found))
                continue
            payload = {name: nulls(len(found.places), kind) for name, kind in self.messages()[rounds.labelled].items()}
            payload["label"] = pa.array(found.labels)
            yield Addressed(rounds.labelled, message_table(address_keys(found.places), found.places, payload))

    def _route(self, messages: Iterator[pa.Table]) -> Iterator[Addressed]:
        """Each verified pair to the part that clusters its component."""
        rounds, names = self._rounds, rank_names(self.config.survivor)
        for table in whole_keys(messages):
            labels = table.column("label")
            told = labels.is_valid().to_numpy()
            run = np.cumsum(~same_as_previous(key_values(table))) - 1
            of_run = np.full(int(run[-1]) + 1, -1, dtype=np.int64)
            of_run[run[told]] = labels.drop_null().to_numpy()
            edges = np.flatnonzero(~told)
            part = part_of(of_run[run[edges]], rounds.parts)
            for number in np.unique(part).tolist():
                rows = table.take(indices(edges[part == number])).drop_columns(["label"])
                ranked = [rows.column(name).to_numpy() for name in names]
                keys = key_array(order_keys(ranked, rows.num_rows))
                yield Addressed(rounds.cluster(number), rows.set_column(0, "key", keys))

    def _cluster(self, messages: Iterator[pa.Table]) -> Iterator[Addressed]:
        edges = in_survivor_order(messages, rank_names(self.config.survivor))
        return self._stars(edges) if self.config.linkage == "star" else self._components(edges)

    def _stars(self, edges: Iterator[pa.Table]) -> Iterator[Addressed]:
        stars = Stars()
        for table in edges:
            removed = stars.remove(places(table), others(table), table.column("similarity").to_numpy())
            payload = {
                "id": pa.nulls(len(removed.edges), pa.string()),
                "similarity": pa.array(removed.similarity),
                "weight": table.column("other_weight").take(indices(removed.edges)),
            }
            yield Addressed(self._rounds.survivor, message_table(address_keys(removed.kept), removed.places, payload))

    def _components(self, edges: Iterator[pa.Table]) -> Iterator[Addressed]:
        components = Components()
        for table in edges:
            weights = [table.column(name).to_numpy().astype(np.int64) for name in ("weight", "other_weight")]
            components.join(places(table), others(table), *weights)
        for members, kept, sizes in components.members():
            yield self._introduce(members, kept, sizes)

    def _introduce(self, members: np.ndarray, kept: np.ndarray, sizes: np.ndarray) -> Addressed:
        low, high = np.minimum(members, kept), np.maximum(members, kept)
        payload = {
            "set": nulls(2 * len(low), SET),
            "id": pa.nulls(2 * len(low), pa.string()),
            "keeps": pa.array(np.concatenate([low == kept, high == kept])),  # whether the invited one survives
            "size": pa.array(np.concatenate([sizes, sizes])),
        }
        return Addressed(self._rounds.survivor, invitations(low, high, payload))

    def _verdicts(self) -> columns.Verdicts:
        return columns.Verdicts("near_duplicate" if self.config.mode == "drop" else None, self.config.threshold)

    def _judge(self, messages: Iterator[pa.Table]) -> Iterator[Addressed]:
        verdicts = self._verdicts()
        for table in whole_keys(messages):
            starts = np.flatnonzero(~same_as_previous(key_values(table)))
            ends = np.append(starts[1:], table.num_rows)
            place, ids = places(table), table.column("id")
            weights = table.column("weight").to_numpy().astype(np.int64)
            similarity = table.column("similarity").to_numpy()
            own = table.column("similarity").is_null().to_numpy()
            sizes = np.add.reduceat(weights, starts)
            has_members = ends - starts > 1
            groups: Iterator[Any] = zip(starts[has_members], ends[has_members], sizes[has_members], strict=True)
            for start, end, size in groups:
                survivor = int(start + np.argmax(own[start:end]))
                members = np.delete(np.arange(start, end), survivor - start)
                kept_id = ids[survivor].as_py()
                yield from verdicts.keep(int(place[survivor]), kept_id, int(size))
                yield from verdicts.remove(place[members], similarity[members], kept_id, int(size))
        yield from verdicts.flush()

    def _meet_survivor(self, messages: Iterator[pa.Table]) -> Iterator[Addressed]:
        verdicts = self._verdicts()
        for found in invited(messages):
            keeps = np.array(found.table.column("keeps").take(indices(found.guests)).to_pylist(), dtype=bool)
            hosts, first = np.unique(found.hosts[keeps], return_index=True)
            guests = found.guests[keeps][first]
            survivor: Iterator[Any] = zip(
                places(found.table)[hosts].tolist(),
                found.table.column("id").take(indices(hosts)).to_pylist(),
                found.table.column("size").take(indices(guests)).to_pylist(),
                strict=True,
            )
            for place, kept_id, size in survivor:
                yield from verdicts.keep(place, kept_id, size)
            for table in send_sets(found, ["set", "id"], ["keeps", "size"]):
                yield Addressed(self._rounds.survivor + 1, table)
        yield from verdicts.flush()

    def _judge_met(self, messages: Iterator[pa.Table]) -> Iterator[Addressed]:
        verdicts = self._verdicts()
        for met in meet(messages, self._similarity()):
            place, ids = places(met.table), met.table.column("id")
            keeps = np.array(
                met.table.column("keeps").take(indices(met.high)).to_pylist(), dtype=bool
            )  # whether the sender does
            members, kept = place[np.where(keeps, met.low, met.high)], np.where(keeps, met.high, met.low)
            sizes = met.table.column("size").take(indices(met.high)).to_pylist()
            kept_ids = ids.take(indices(kept)).to_pylist()
            for pair, (kept_id, size) in enumerate(zip(kept_ids, sizes, strict=True)):
                yield from verdicts.remove(members[pair : pair + 1], met.similarity[pair : pair + 1], kept_id, size)
        yield from verdicts.flush()

    def columns(self, batch: Batch, verdicts: pa.Table) -> dict[str, pa.Array]:
        """The duplicate columns; a document without a verdict is alone, or as an earlier dedup stage left it."""
        return columns.fill(batch, verdicts)
