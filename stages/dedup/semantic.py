"""`dedup.semantic`: of documents that mean nearly the same, one is kept. Embeddings, k-means, cosines within clusters (SemDeDup)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import AfterValidator, model_validator

from stages.batch import Batch
from stages.dedup import columns, embedding
from stages.dedup.hashing import hash_columns
from stages.dedup.messages import indices, key_values, message_table, nulls, pack, places, same_as_previous
from stages.dedup.survivor import CRITERIA, TextDuplicateConfig, check, rank_names, ranks, scope_keys
from stages.dedup.unit_vectors import Spool, fit_centroids, nearest, quantised, stars
from stages.stage import Addressed, GroupStage, Resources, StageError, knob, register

SAMPLE, FIT, ASSIGN, CLUSTER = range(4)  # rounds
SLOTS = 64  # keys of round ASSIGN, each of which gets the centroids
CENTROID_SHARD = -1  # sender of centroids: before any document of the same key
PER_CLUSTER, PER_CENTROID = (
    4096,
    39,
)  # documents of a cluster, and of the sample for each centroid, where `clusters` is null
BY_CENTROID = ("farthest", "nearest")  # survivor criteria that only this stage has
FLUSH = 1 << 15  # rows of messages in one table
_SLOT, _CLUSTER = np.uint64(0x8CB92BA72F3D8DD7), np.uint64(0xA24BAED4963EE407)  # keep keys of two kinds apart
_VECTOR: pa.DataType = pa.large_binary()  # little-endian int16


def _criteria(criteria: tuple[str, ...]) -> tuple[str, ...]:
    check(tuple(criterion for criterion in criteria if criterion not in BY_CENTROID))
    if set(BY_CENTROID) <= set(criteria) or any(criteria.count(name) > 1 for name in BY_CENTROID):
        raise ValueError("of `farthest` and `nearest` one can decide, once")
    if "first" in criteria[:-1]:
        raise ValueError("`first` leaves no ties, so nothing can stand after it")
    return criteria


class SemanticConfig(TextDuplicateConfig):
    """Knobs of `dedup.semantic`. One of `model` and `column` is needed; a transformer needs the extra `scorers` (PyTorch, transformers)."""

    model: str | None = knob(
        None, "folder of a model of model2vec or sentence-transformers that embeds each text; nothing is downloaded"
    )
    column: str | None = knob(
        None,
        "column of embeddings that are already there (lists of numbers, all of one length); a row without one, or of zeros, is never compared",
    )
    threshold: float = knob(
        0.99,
        "cosine of two embeddings from which two documents are duplicates. What it means depends on the model: look at some pairs first",
        "NeMo Curator's semantic deduplication: eps 0.01",
        gt=0,
        le=1,
    )
    clusters: int | None = knob(
        None,
        "k-means clusters; only documents of the same cluster are compared. null: one for each 4096 documents, at most one for each 39 of the"
        " sample",
        "39 of the sample for each centroid: the least that FAISS asks for",
        ge=1,
        le=100_000,
    )
    sample: int = knob(
        65_536,
        "documents that the centroids are fitted to, those with the smallest hashes of their ids",
        ge=1,
        le=1 << 20,
    )
    iterations: int = knob(20, "most rounds of k-means", ge=1, le=1000)
    seed: int = knob(1, "seed of the hash that draws the sample, and with it the first centroids", ge=0, le=2**32 - 1)
    survivor: Annotated[tuple[str, ...], AfterValidator(_criteria)] = knob(
        ("longest",),
        "which document is kept: "
        + CRITERIA
        + "; here also farthest (from the centroid of its cluster; SemDeDup, Abbas et al. 2023) and"
        " nearest",
    )
    max_tokens: int | None = knob(
        None,
        "how much of each text the model reads, from its beginning; null: as much as the model says, 512 with token vectors",
        ge=8,
    )
    max_characters: int = knob(
        10_000, "how much of each text is given to the tokenizer, which would read all of it only to cut it", ge=8
    )
    batch_tokens: int = knob(
        2048,
        "tokens, padding included, that go through a transformer together: enough for a CPU, a GPU wants 32768 or more. Changes embeddings by "
        "rounding errors only",
        ge=64,
    )
    device: Literal["auto", "cpu", "cuda"] = knob(
        "auto", "where a transformer runs; auto: on a GPU if PyTorch finds one"
    )

    @model_validator(mode="after")
    def _one_origin(self) -> SemanticConfig:
        if (self.model is None) == (self.column is None):
            raise ValueError("give `model` (a folder) or `column` (embeddings that are already there), one of the two")
        if self.column is not None:
            for name in ("compare", "max_tokens", "max_characters", "batch_tokens", "device"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name}: is for `model`; the embeddings of `column` are already made")
        return self


@register
class Semantic(GroupStage):
    """Duplicates by meaning: cosine of embeddings, within k-means clusters of them; documents without text, or without a vector, are never compared.

    Rule `semantic_duplicate`, value = cosine with the kept document. Given the centroids nothing is approximate: of each cluster (and source,
    see `scope`) all pairs are compared, and every removed document is a duplicate of the one kept for it (greedy stars in survivor order).
    Pairs that k-means puts in different clusters are not found.

    0 sample: each partition sends on its documents with the smallest hashes. 1 fit (one partition): k-means; the centroids go to all of 64
    slots. 2 assign: each slot's documents to the cluster of their nearest centroid. 3 cluster: pairs, survivors, verdicts.

    Cost: two bytes for each number of an embedding, three times through the exchange. Memory: the sample; a cluster's vectors are in a file
    when they are many, its ids and ranks (about 100 bytes a document) in memory.
    """

    name = "dedup.semantic"
    config_model = SemanticConfig
    needs = ("id", "text", "source")
    libraries = ("numpy", "xxhash", "tokenizers", "torch", "transformers")
    resources = Resources(memory=1 << 30)
    config: SemanticConfig

    def __init__(self, config: SemanticConfig) -> None:
        super().__init__(config)
        self._folder: Path | None = None
        self._embedder: embedding.Embedder | None = None

    def provides(self) -> dict[str, pa.DataType]:
        """`duplicate_of`, `dup_similarity`, `dup_cluster`, `dup_cluster_size`."""
        return columns.PROVIDES

    def assets(self) -> dict[str, str]:
        return {} if self.config.model is None else {"model": self.config.model}

    def setup(self, assets: Mapping[str, Path]) -> None:
        """Looks at the model's folder. The model itself is loaded with the first text: the later rounds need none."""
        if self.config.model is not None:
            self._folder = assets["model"]
            embedding.check(self._folder)

    def messages(self) -> tuple[dict[str, pa.DataType], ...]:
        """Payloads of the rounds, see the class."""
        vector = {"embedding": _VECTOR}
        facts: dict[str, pa.DataType] = {"id": pa.string(), "weight": pa.int32()}
        facts |= {name: pa.int64() for name in rank_names(self.config.survivor)}
        return (
            vector,
            {**vector, "documents": pa.int64()},
            {**vector, "scope": pa.uint64(), **facts},
            {**vector, **facts},
        )

    def partitions(self, round: int, wanted: int) -> int:
        """Fitting sees the whole sample; there are no more partitions of documents to assign than slots."""
        return 1 if round == FIT else min(wanted, SLOTS) if round == ASSIGN else wanted

    def emit(self, batch: Batch, shard: int, rows: np.ndarray) -> Iterable[Addressed]:
        """Each document's embedding to the sample and, with its facts, to its slot."""
        vectors, kept = self._embedded(batch)
        if not len(kept):
            return
        from xxhash import xxh3_128_digest

        senders = pack(np.full(len(kept), shard), np.asarray(rows)[kept])
        ids = batch.column("id").take(indices(kept)).cast(pa.string()).combine_chunks()
        start = self.config.seed.to_bytes(8, "little")
        digests = [xxh3_128_digest(start + (name or "").encode("utf-8", "surrogatepass")) for name in ids.to_pylist()]
        drawn = np.frombuffer(b"".join(digests), dtype="<u8").reshape(-1, 2)
        packed = _packed(vectors)
        yield Addressed(SAMPLE, message_table(drawn, senders, {"embedding": packed}))
        payload: dict[str, Any] = {
            "embedding": packed,
            "scope": pa.array(scope_keys(batch, self.config.scope)[kept], pa.uint64()),
            "id": ids,
            "weight": pa.array(columns.weights(batch)[kept]),
        }
        for name, criterion in self._ranked():
            rank = (
                np.zeros(len(batch), dtype=np.int64)
                if criterion in BY_CENTROID
                else ranks(batch, (criterion,))["rank_0"]
            )
            payload[name] = pa.array(rank[kept], pa.int64())
        yield Addressed(ASSIGN, message_table(_keys(_SLOT, drawn[:, 0] % np.uint64(SLOTS)), senders, payload))

    def _ranked(self) -> list[tuple[str, str]]:
        """The message columns of ranks with their criteria."""
        criteria = [criterion for criterion in self.config.survivor if criterion != "first"]
        return list(zip(rank_names(self.config.survivor), criteria, strict=True))

    def _embedded(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """Embeddings, (n, d) int16, of the rows that have one, and which rows these are."""
        if self.config.column is not None:
            vectors, kept = embedding.given_vectors(batch, self.config.column)
        else:
            texts = self.config.texts(batch)
            kept = np.array([row for row, text in enumerate(texts) if text and not text.isspace()], dtype=np.int64)
            if not len(kept):
                return np.empty((0, 0), dtype=np.int16), kept
            if self._embedder is None:
                assert self._folder is not None, "the engine calls setup first"
                config = self.config
                self._embedder = embedding.load(self._folder, config.max_tokens, config.batch_tokens, config.device)
            limit = self.config.max_characters
            read = [texts[row][:limit].encode("utf-8", "replace").decode("utf-8") for row in kept.tolist()]
            vectors = self._embedder(read)
        whole, usable = quantised(vectors)
        return whole[usable], kept[usable]

    def reduce(self, round: int, messages: Iterator[pa.Table]) -> Iterable[Addressed]:
        """One partition of a round, see the class."""
        return (self._draw, self._fit, self._assign, self._compare)[round](messages)

    def _draw(self, messages: Iterator[pa.Table]) -> Iterator[Addressed]:
        documents = 0
        for table in messages:
            drawn = table.slice(0, max(0, self.config.sample - documents))
            documents += table.num_rows
            if drawn.num_rows:
                yield Addressed(FIT, drawn.append_column("documents", nulls(drawn.num_rows, pa.int64())))
        if documents:  # under the lowest of keys, so that the counts come first
            count = {"embedding": nulls(1, _VECTOR), "documents": pa.array([documents], pa.int64())}
            yield Addressed(FIT, message_table(np.zeros((1, 2), dtype=np.uint64), np.zeros(1, dtype=np.int64), count))

    def _fit(self, messages: Iterator[pa.Table]) -> Iterator[Addressed]:
        documents, parts, rows = 0, [], 0
        for table in messages:
            documents += sum(table.column("documents").drop_null().to_pylist())
            drawn = table.filter(table.column("embedding").is_valid()).slice(0, self.config.sample - rows)
            if drawn.num_rows:
                parts.append(self._vectors(drawn).copy())
                rows += drawn.num_rows
                if parts[-1].shape[1] != parts[0].shape[1]:
                    raise self._lengths(parts[0].shape[1], parts[-1].shape[1])
        if not parts:
            return
        sample = np.concatenate(parts)
        wanted = self.config.clusters or min(-(-documents // PER_CLUSTER), max(1, rows // PER_CENTROID))
        centroids = fit_centroids(sample, wanted, self.config.iterations)
        packed, number = _packed(centroids), np.arange(len(centroids), dtype=np.int64)
        nothing = {name: nulls(len(centroids), kind) for name, kind in self.messages()[ASSIGN].items()}
        sender = pa.array(np.full(len(centroids), CENTROID_SHARD, dtype=np.int32))
        for slot in range(SLOTS):
            keys = _keys(_SLOT, np.full(len(centroids), slot, dtype=np.uint64))
            table = message_table(keys, number, {**nothing, "embedding": packed})
            yield Addressed(ASSIGN, table.set_column(1, "shard", sender))

    def _assign(self, messages: Iterator[pa.Table]) -> Iterator[Addressed]:
        parts: list[np.ndarray] = []
        centroids: np.ndarray | None = None
        for table in messages:
            from_centroids = table.column("shard").to_numpy() == CENTROID_SHARD
            if centroids is None:  # those of the first slot; the other slots' are the same
                end = int(np.argmin(from_centroids)) if not from_centroids.all() else table.num_rows
                parts += [self._vectors(table.slice(0, end))] if end else []
                if end == table.num_rows:
                    continue
                centroids = np.concatenate(parts)
            documents = table.filter(pa.array(~from_centroids))
            if documents.num_rows:
                yield from self._to_clusters(documents, centroids)

    def _to_clusters(self, documents: pa.Table, centroids: np.ndarray) -> Iterator[Addressed]:
        vectors = self._vectors(documents)
        if vectors.shape[1] != centroids.shape[1]:
            raise self._lengths(centroids.shape[1], vectors.shape[1])
        labels, cosine = nearest(vectors, centroids)
        payload = {name: documents.column(name) for name in self.messages()[CLUSTER]}
        for name, criterion in self._ranked():
            if criterion in BY_CENTROID:
                rank = np.rint(cosine * 2.0**52).astype(np.int64)
                payload[name] = pa.array(rank if criterion == "farthest" else -rank)
        keys = _keys(_CLUSTER, labels.astype(np.uint64), documents.column("scope").to_numpy())
        yield Addressed(CLUSTER, message_table(keys, places(documents), payload))

    def _compare(self, messages: Iterator[pa.Table]) -> Iterator[Addressed]:
        verdicts = columns.Verdicts("semantic_duplicate" if self.config.mode == "drop" else None, self.config.threshold)
        cluster: _Cluster | None = None
        for table in messages:
            if not table.num_rows:
                continue
            keys, vectors = key_values(table), self._vectors(table)
            starts = np.flatnonzero(~same_as_previous(keys)).tolist()
            for start, end in zip(starts, [*starts[1:], table.num_rows], strict=True):
                if cluster is None or not (cluster.key == keys[start]).all():
                    if cluster is not None:
                        yield from cluster.judge(self.config.threshold, verdicts)
                    cluster = _Cluster(keys[start].copy(), rank_names(self.config.survivor), vectors.shape[1])
                cluster.add(table.slice(start, end - start), vectors[start:end])
        if cluster is not None:
            yield from cluster.judge(self.config.threshold, verdicts)
        yield from verdicts.flush()

    def _vectors(self, table: pa.Table) -> np.ndarray:
        """The embeddings of a table's rows, (n, d) int16. Raises `StageError` if they differ in length."""
        array = table.column("embedding").combine_chunks()
        array = array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
        buffers: list[Any] = array.buffers()
        bounds = np.frombuffer(buffers[1], dtype=np.int64, count=len(array) + 1, offset=8 * array.offset)
        lengths = np.diff(bounds) // 2
        if (lengths != lengths[0]).any():
            raise self._lengths(int(lengths[0]), int(lengths[lengths != lengths[0]][0]))
        found = np.frombuffer(buffers[2], dtype="<i2", count=int(lengths.sum()), offset=int(bounds[0]))
        return found.reshape(len(array), -1)

    def _lengths(self, one: int, other: int) -> StageError:
        return embedding.of_two_lengths(self.config.column or "model", one, other)

    def columns(self, batch: Batch, verdicts: pa.Table) -> dict[str, pa.Array]:
        """The duplicate columns; a document without a verdict is alone, or as an earlier dedup stage left it."""
        return columns.fill(batch, verdicts)


def _keys(kind: np.uint64, *numbers: np.ndarray) -> np.ndarray:
    return hash_columns(np.full(len(numbers[0]), kind), *numbers)


def _packed(vectors: np.ndarray) -> pa.Array:
    """Vectors (n, d) int16 as binary values."""
    data = np.ascontiguousarray(vectors, dtype="<i2")
    offsets = np.arange(len(data) + 1, dtype=np.int64) * (2 * data.shape[1])
    return pa.Array.from_buffers(
        _VECTOR, len(data), [None, pa.py_buffer(offsets.tobytes()), pa.py_buffer(data.tobytes())]
    )


class _Cluster:
    """The documents of one cluster of one scope."""

    def __init__(self, key: np.ndarray, ranked: list[str], numbers: int) -> None:
        self.key = key
        self._ranked = ranked
        self._spool = Spool(numbers)
        self._places: list[np.ndarray] = []
        self._facts: list[pa.Table] = []

    def add(self, table: pa.Table, vectors: np.ndarray) -> None:
        """More documents, with their vectors."""
        self._spool.add(vectors)
        self._places.append(places(table))
        facts = table.select(["id", "weight", *self._ranked])
        self._facts.append(facts.take(indices(np.arange(len(vectors)))))  # a copy: a slice would hold the vectors

    def judge(self, threshold: float, verdicts: columns.Verdicts) -> Iterator[Addressed]:
        """Verdicts on every document that is a duplicate or has some."""
        place, facts = np.concatenate(self._places), pa.concat_tables(self._facts)
        if len(place) < 2:
            return
        order = np.lexsort((place, *(facts.column(name).to_numpy() for name in reversed(self._ranked))))
        keeper, cosine = stars(self._spool.vectors(), order, threshold)
        members = np.flatnonzero(keeper != np.arange(len(keeper)))
        members = members[np.argsort(keeper[members], kind="stable")]
        if not len(members):
            return
        survivors, first = np.unique(keeper[members], return_index=True)
        weight = facts.column("weight").to_numpy().astype(np.int64)
        ids = facts.column("id").take(indices(survivors)).to_pylist()
        for survivor, kept_id, group in zip(survivors.tolist(), ids, np.split(members, first[1:]), strict=True):
            size = int(weight[survivor] + weight[group].sum())
            yield from verdicts.keep(int(place[survivor]), kept_id, size)
            yield from verdicts.remove(place[group], cosine[group], kept_id, size)
