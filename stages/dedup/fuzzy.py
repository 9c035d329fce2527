"""`dedup.fuzzy`: of documents with nearly equal text, one is kept. MinHash-LSH finds pairs, exact Jaccard decides."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from stages.batch import Batch
from stages.dedup import columns
from stages.dedup.candidates import candidate_pairs
from stages.dedup.cluster import components, star, survivors
from stages.dedup.meeting import SHINGLES, invitations, invited, meet, pack_shingles, send_shingles
from stages.dedup.messages import (
    address_keys,
    indices,
    key_values,
    message_table,
    nulls,
    pack,
    places,
    same_as_previous,
    unpack,
    whole_keys,
)
from stages.dedup.minhash import band_keys, permutations, signatures
from stages.dedup.shingles import shingles
from stages.dedup.survivor import CRITERIA, Survivor, TextDuplicateConfig, rank_names, ranks
from stages.stage import Addressed, GroupStage, Resources, knob, register

BUCKETS, INVITED, MEETING, CLUSTER, SURVIVOR, MEETING_AGAIN = range(6)  # rounds; the last with linkage `component` only
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
    bands: int = knob(
        14,
        "LSH bands; a pair of similarity s becomes a candidate with probability 1 - (1 - s^rows)^bands",
        "FineWeb: 14 by 8",
        ge=1,
        le=1000,
    )
    rows: int = knob(8, "MinHash values in a band", "FineWeb: 14 by 8", ge=1, le=100)
    seed: int = knob(1, "seed of datasketch's permutations", "datasketch's default", ge=0, le=2**32 - 1)
    threshold: float = knob(
        0.8,
        "Jaccard similarity of the shingle sets, verified exactly, from which two documents are duplicates",
        gt=0,
        le=1,
    )
    linkage: Literal["star", "component"] = knob(
        "star",
        "star: in survivor order each document still there removes its duplicates, so that every removed document is a verified"
        " duplicate of the one kept for it; component: one document is kept of each connected component, however long the chain",
    )
    survivor: Survivor = knob(("longest",), "which document is kept: " + CRITERIA)


@register
class Fuzzy(GroupStage):
    r"""Near-duplicates by Jaccard similarity over sets of lower-case `\w+` word n-grams; documents without words are never compared.

    Candidates share a band of their MinHash signatures; each is verified. Rule `near_duplicate`, value = similarity to the kept document.

    0 buckets: documents that share a band are paired. 1 invited: each document's shingles wait for its partners' names.
    2 meeting: shingles of both are compared; pairs at the threshold go on. 3 cluster (one partition, sees verified pairs only).
    4 survivor: learns its members and sends the verdicts, or with linkage `component` 5: it meets them for their similarity.

    Cost: every document sends its shingles (8 bytes each) once, to itself in round 1; only those with candidates send them further.
    Memory of round 3: about 100 bytes for each verified pair; the other rounds work in pieces.
    """

    name = "dedup.fuzzy"
    config_model = FuzzyConfig
    needs = ("id", "text", "source")
    libraries = ("datasketch", "numpy")
    resources = Resources(memory=768 << 20)
    config: FuzzyConfig

    def provides(self) -> dict[str, pa.DataType]:
        """`duplicate_of`, `dup_similarity`, `dup_cluster`, `dup_cluster_size`."""
        return columns.PROVIDES

    def setup(self, assets: Mapping[str, Path]) -> None:
        """Makes the permutations, so that a missing datasketch is noticed at once."""
        permutations(self.config.bands * self.config.rows, self.config.seed)

    def messages(self) -> tuple[dict[str, pa.DataType], ...]:
        """Payloads of the rounds, see the class."""
        names = rank_names(self.config.survivor)
        ranked: dict[str, pa.DataType] = {name: pa.int64() for name in names}
        facts: dict[str, pa.DataType] = {"weight": pa.int32(), **ranked}
        other: dict[str, pa.DataType] = {"other_shard": pa.int32(), "other_row": pa.int64(), "other_weight": pa.int32()}
        rounds: tuple[dict[str, pa.DataType], ...] = (
            {"size": pa.int32(), **ranked},
            {"shingles": SHINGLES, "id": pa.string(), **facts},
            {"shingles": SHINGLES, **facts},
            {**other, "similarity": pa.float64(), **facts},
        )
        if self.config.linkage == "star":
            return (*rounds, {"id": pa.string(), "similarity": pa.float64(), "size": pa.int64()})
        pair: dict[str, pa.DataType] = {
            "shingles": SHINGLES,
            "id": pa.string(),
            "keeps": pa.bool_(),
            "size": pa.int64(),
        }
        return (*rounds, pair, pair)

    def partitions(self, round: int, wanted: int) -> int:
        """Clustering sees all verified pairs at once."""
        return 1 if round == CLUSTER else wanted

    def emit(self, batch: Batch, shard: int, rows: np.ndarray) -> Iterable[Addressed]:
        """To each band's bucket its size and survivor ranks; to the document's own key its shingles and id."""
        config = self.config
        sets = list(shingles(config.texts(batch), config.ngram))
        kept = np.array([row for row, values in enumerate(sets) if len(values)], dtype=np.int64)
        if not len(kept):
            return
        sets = [sets[row] for row in kept.tolist()]
        senders = pack(np.full(len(kept), shard), np.asarray(rows)[kept])
        ranked = {name: pa.array(rank[kept]) for name, rank in ranks(batch, config.survivor).items()}
        keys = band_keys(
            signatures(sets, config.bands * config.rows, config.seed), config.bands, self._scopes(batch)[kept]
        )
        each_band = indices(np.repeat(np.arange(len(kept)), config.bands))
        bucket = {"size": pa.array([len(values) for values in sets], pa.int32()), **ranked}
        repeated = {name: column.take(each_band) for name, column in bucket.items()}
        yield Addressed(BUCKETS, message_table(keys.reshape(-1, 2), np.repeat(senders, config.bands), repeated))
        own = {
            "shingles": pack_shingles(sets),
            "id": batch.column("id").take(indices(kept)).cast(pa.string()),
            "weight": pa.array(columns.weights(batch)[kept]),
            **ranked,
        }
        yield Addressed(INVITED, message_table(address_keys(senders), senders, own))

    def _scopes(self, batch: Batch) -> np.ndarray:
        if self.config.scope == "global":
            return np.zeros(len(batch), dtype=np.uint64)
        from xxhash import xxh3_64_intdigest

        sources = [source or "" for source in batch.values("source")]
        digests = {source: xxh3_64_intdigest(source.encode("utf-8", "surrogatepass")) for source in set(sources)}
        return np.array([digests[source] for source in sources], dtype=np.uint64)

    def reduce(self, round: int, messages: Iterator[pa.Table]) -> Iterable[Addressed]:
        """One partition of a round, see the class."""
        component = self.config.linkage == "component"
        if round == BUCKETS:
            return self._pair(messages)
        if round == INVITED:
            return self._invite(messages)
        if round == MEETING:
            return self._verify(messages)
        if round == CLUSTER:
            return self._cluster(messages)
        if round == SURVIVOR:
            return self._meet_survivor(messages) if component else self._judge(messages)
        return self._judge_met(messages)

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
                name: hosted.column(name) if name in ("id", "shingles") else nulls(hosted.num_rows, kind)
                for name, kind in payload[SURVIVOR].items()
            }
            senders = places(hosted)
            yield Addressed(SURVIVOR, message_table(address_keys(senders), senders, own))
            for table in send_shingles(found, list(payload[MEETING])):
                yield Addressed(MEETING, table)

    def _verify(self, messages: Iterator[pa.Table]) -> Iterator[Addressed]:
        edges: list[tuple[tuple[int, ...], int, int, int, int, float]] = []
        for low, high, similarity in meet(messages, ["weight", *rank_names(self.config.survivor)]):
            if similarity < self.config.threshold:
                continue
            (weight, *ranks_), (other_weight, *other_ranks) = low.columns, high.columns
            better = (tuple(ranks_), low.place, weight)
            worse = (tuple(other_ranks), high.place, other_weight)
            if worse < better:
                better, worse = worse, better
            edges.append((*better, *worse[1:], similarity))
            if len(edges) == FLUSH:
                yield self._edges(edges)
                edges = []
        if edges:
            yield self._edges(edges)

    def _edges(self, edges: list[tuple[tuple[int, ...], int, int, int, int, float]]) -> Addressed:
        better_ranks, better, weight, worse, other_weight, similarity = zip(*edges, strict=True)
        shard, row = unpack(np.array(worse, dtype=np.int64))
        payload = {
            "other_shard": pa.array(shard),
            "other_row": pa.array(row),
            "other_weight": pa.array(other_weight, pa.int32()),
            "similarity": pa.array(similarity, pa.float64()),
            "weight": pa.array(weight, pa.int32()),
        }
        for name, values in zip(rank_names(self.config.survivor), zip(*better_ranks, strict=True), strict=True):
            payload[name] = pa.array(values, pa.int64())
        keys = np.zeros((len(edges), 2), dtype=np.uint64)
        return Addressed(CLUSTER, message_table(keys, np.array(better, dtype=np.int64), payload))

    def _cluster(self, messages: Iterator[pa.Table]) -> Iterator[Addressed]:
        names = ["similarity", "weight", "other_weight", *rank_names(self.config.survivor)]

        parts: list[list[np.ndarray]] = [[] for _ in range(2 + len(names))]
        for table in messages:
            other = pack(table.column("other_shard").to_numpy(), table.column("other_row").to_numpy())
            arrays = [places(table), other, *(table.column(name).to_numpy().copy() for name in names)]
            for part, array in zip(parts, arrays, strict=True):
                part.append(array)
        if not parts[0]:
            return
        better, worse, similarity, weight, other_weight, *ranked = (_join(part) for part in parts)
        order = np.lexsort((worse, better, *reversed(ranked)))
        del ranked
        nodes = np.unique(np.concatenate([better, worse]))
        a, b = np.searchsorted(nodes, better[order]), np.searchsorted(nodes, worse[order])
        weights = np.empty(len(nodes), dtype=np.int64)
        weights[a], weights[b] = weight[order], other_weight[order]
        if self.config.linkage == "star":
            kept, edge = star(a, b, len(nodes))
            similarity = similarity[order[edge]]
        else:
            kept = survivors(a, components(a, b, len(nodes)))
            similarity = np.zeros(0)
        sizes = np.zeros(len(nodes), dtype=np.int64)
        np.add.at(sizes, kept, weights)
        members = np.flatnonzero(kept != np.arange(len(nodes)))
        for start in range(0, len(members), FLUSH):
            piece = members[start : start + FLUSH]
            keeper = kept[piece]
            if self.config.linkage == "star":
                yield self._tell(nodes[piece], nodes[keeper], similarity[piece], sizes[keeper])
            else:
                yield self._introduce(nodes[piece], nodes[keeper], sizes[keeper])

    def _tell(self, members: np.ndarray, kept: np.ndarray, similarity: np.ndarray, sizes: np.ndarray) -> Addressed:
        payload = {
            "id": pa.nulls(len(members), pa.string()),
            "similarity": pa.array(similarity),
            "size": pa.array(sizes),
        }
        return Addressed(SURVIVOR, message_table(address_keys(kept), members, payload))

    def _introduce(self, members: np.ndarray, kept: np.ndarray, sizes: np.ndarray) -> Addressed:
        low, high = np.minimum(members, kept), np.maximum(members, kept)
        payload = {
            "shingles": nulls(2 * len(low), SHINGLES),
            "id": pa.nulls(2 * len(low), pa.string()),
            "keeps": pa.array(np.concatenate([low == kept, high == kept])),  # whether the invited one survives
            "size": pa.array(np.concatenate([sizes, sizes])),
        }
        return Addressed(SURVIVOR, invitations(low, high, payload))

    def _verdicts(self) -> columns.Verdicts:
        return columns.Verdicts("near_duplicate" if self.config.mode == "drop" else None, self.config.threshold)

    def _judge(self, messages: Iterator[pa.Table]) -> Iterator[Addressed]:
        verdicts = self._verdicts()
        for table in whole_keys(messages):
            starts = np.flatnonzero(~same_as_previous(key_values(table)))
            ends = np.append(starts[1:], table.num_rows)
            place, ids, sizes = places(table), table.column("id"), table.column("size")
            similarity = table.column("similarity").to_numpy()
            own = table.column("similarity").is_null().to_numpy()
            has_members = ends - starts > 1
            for start, end in zip(starts[has_members].tolist(), ends[has_members].tolist(), strict=True):
                survivor = start + int(np.argmax(own[start:end]))
                members = np.delete(np.arange(start, end), survivor - start)
                kept_id, size = ids[survivor].as_py(), sizes[int(members[0])].as_py()
                yield from verdicts.keep(int(place[survivor]), kept_id, size)
                yield from verdicts.remove(place[members], similarity[members], kept_id, size)
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
            for table in send_shingles(found, ["shingles", "id"], ["keeps", "size"]):
                yield Addressed(MEETING_AGAIN, table)
        yield from verdicts.flush()

    def _judge_met(self, messages: Iterator[pa.Table]) -> Iterator[Addressed]:
        verdicts = self._verdicts()
        for low, high, similarity in meet(messages, ["id", "keeps", "size"]):
            sender_id, sender_keeps, size = high.columns
            member, kept_id = (low.place, sender_id) if sender_keeps else (high.place, low.columns[0])
            yield from verdicts.remove(np.array([member]), np.array([similarity]), kept_id, size)
        yield from verdicts.flush()

    def columns(self, batch: Batch, verdicts: pa.Table) -> dict[str, pa.Array]:
        """The duplicate columns; a document without a verdict is alone, or as an earlier dedup stage left it."""
        return columns.fill(batch, verdicts)


def _join(arrays: list[np.ndarray]) -> np.ndarray:
    """The arrays as one; the list is emptied, so that they need not all live beside it."""
    joined = np.concatenate(arrays)
    arrays.clear()
    return joined
