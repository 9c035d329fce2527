"""`dedup.index`: documents that an index of earlier runs holds already are dropped. No text of those runs is needed.

A document whose text has the hash of one in the index (whitespace normalised, 128 bits) is `in_index_exact`. Else it is compared
with the documents in the index that share an LSH band with it, by their MinHash signatures: at an estimated Jaccard similarity of
`threshold` it is `in_index`. The estimate has a standard error of 0.4 / sqrt(permutations) at similarity 0.8, 0.025 for the index's
default of 256: of documents that are truly 0.75 similar, about 3% of those compared come out at 0.8 or above, of those at 0.7 one
in four thousand.

What is in the index always wins: it stands for documents that earlier runs have kept. A run is compared with the runs that stand
before it in the index, and so never with itself: the same config may name one index to read and, in its section `index`, to write,
and running January again after February gives what it gave before.

Under one key a document is compared with 256 different signatures at most, so that a boilerplate page that is in the index a
million times costs no more than any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import BeforeValidator

from stages.batch import Batch
from stages.dedup.index_build import differing
from stages.dedup.index_format import INDEX, PART, Part, below, open_part, read_index
from stages.dedup.index_hash import IndexParameters, hash_documents
from stages.dedup.index_lookup import Matches, look_up
from stages.dedup.messages import nulls
from stages.dedup.minhash import permutations
from stages.stage import VERDICT, Addressed, GroupStage, Resources, StageConfig, StageError, knob, register

COLUMNS: dict[str, pa.DataType] = {
    "index_duplicate_of": pa.string(),
    "index_similarity": pa.float64(),
    "index_run": pa.string(),
}


def _paths(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Paths = Annotated[tuple[str, ...], BeforeValidator(_paths)]


class IndexDedupConfig(StageConfig):
    """Knobs of `dedup.index`."""

    path: Paths = knob(
        ...,
        "the index, or a list of them: directories or URLs, as the section `index` or `python -m pipeline index build` writes them",
        min_length=1,
    )
    threshold: float = knob(
        0.8, "Jaccard similarity, estimated from signatures, from which a document is in the index", gt=0, le=1
    )
    mode: Literal["drop", "tag"] = knob(
        "drop",
        "drop what is in the index, or only write `index_duplicate_of`, `index_similarity` and `index_run`",
    )
    runs: tuple[str, ...] | None = knob(
        None,
        "compare with these runs of the index alone; none: with all that stand before this run's own part, or all where it has none",
    )
    missing: Literal["error", "empty"] = knob(
        "error",
        "what an index that is not there means: a mistake, or that nothing was seen yet (the first of several runs)",
    )


class PinnedConfig(IndexDedupConfig):
    """The knobs, and which parts of the indexes they stand for: what the index held when the run began."""

    parts: tuple[str, ...]  # folders or URLs
    run: str | None = None


@register
class Index(GroupStage):
    """Drops documents that an index of earlier runs holds: equal texts, and texts nearly equal by their MinHash signatures.

    Looks every document up for itself: 1 + bands searches in each part of the index, through memory maps; no messages are sent.
    In drop mode no columns are written: the ledger has the matched document's id, the similarity, and its run in `detail`.
    """

    name = "dedup.index"
    config_model = IndexDedupConfig
    needs = ("id", "text", "source")
    libraries = ("datasketch", "numpy", "xxhash")
    resources = Resources(memory=512 << 20)
    config: IndexDedupConfig

    def provides(self) -> dict[str, pa.DataType]:
        """`index_duplicate_of`, `index_similarity`, `index_run` with mode `tag`."""
        return COLUMNS if self.config.mode == "tag" else {}

    def messages(self) -> tuple[dict[str, pa.DataType], ...]:
        """None: a document's verdict depends on nothing but the document and the index."""
        return ()

    @classmethod
    def pin(cls, config: Any, run: str | None) -> PinnedConfig:
        """The parts that the indexes hold now, without those of `run`. Raises `StageError`."""
        knobs = config.model_dump(by_alias=True, exclude_unset=True)
        parts = tuple(part for path in config.path for part in _parts(path, config, run))
        return PinnedConfig.model_validate({**knobs, "parts": parts, "run": run})

    def assets(self) -> dict[str, str]:
        """Each part's part.json, which has the hashes of its other files. Raises `StageError` if an index cannot be read."""
        if not isinstance(self.config, PinnedConfig):
            self.config = self.pin(self.config, None)
        return {f"part {number}": f"{part}/{PART}" for number, part in enumerate(self.config.parts)}

    def setup(self, assets: Mapping[str, Path]) -> None:
        """Opens the parts. Raises `StageError` for one that is damaged, gone, or not comparable with the others."""
        folders = [name.removesuffix(f"/{PART}") for name in self.assets().values()]
        self.parts = [open_part(folder, assets[f"part {n}"]) for n, folder in enumerate(folders)]
        self.parameters = IndexParameters()
        if self.parts:
            self.parameters = self.parts[0].facts.parameters
            permutations(self.parameters.permutations, self.parameters.seed)
        for folder, part in zip(folders, self.parts, strict=True):
            if part.facts.parameters != self.parameters:
                raise StageError(
                    f"dedup.index: {folder} was built with other parameters than {folders[0]}:"
                    f" {differing(self.parameters, part.facts.parameters)}; use the stage twice, each `as` a name"
                )

    def emit(self, batch: Batch, shard: int, rows: np.ndarray) -> Iterator[Addressed]:
        """The verdicts on a batch."""
        if not self.parts:
            return
        hashed = hash_documents(batch.texts(), batch.values("source"), self.parameters)
        matches = look_up(self.parts, hashed, self.parameters)
        hit = np.flatnonzero((matches.part >= 0) & (matches.exact | (matches.similarity >= self.config.threshold)))
        if len(hit):
            yield Addressed(None, self._verdicts(shard, np.asarray(rows)[hashed.kept[hit]], matches, hit))

    def reduce(self, round: int, messages: Iterator[pa.Table]) -> Iterable[Addressed]:
        """Never called: there are no rounds."""
        return ()

    def _verdicts(self, shard: int, rows: np.ndarray, matches: Matches, hit: np.ndarray) -> pa.Table:
        count, exact = len(hit), matches.exact[hit]
        ids, runs = self._names(matches.part[hit], matches.row[hit])
        similarity = pa.array(matches.similarity[hit])
        columns = {name: nulls(count, kind) for name, kind in VERDICT.items()}
        columns |= {"shard": pa.array(np.full(count, shard, np.int32)), "row": pa.array(rows, pa.int64())}
        if self.config.mode == "tag":
            tags = {"index_duplicate_of": ids, "index_similarity": similarity, "index_run": runs}
            return pa.table({**columns, **tags})
        estimated = pa.array(matches.similarity[hit], mask=exact)  # an equal text is compared with no threshold
        columns |= {
            "rule": pa.array(np.where(exact, "in_index_exact", "in_index").tolist(), pa.string()),
            "value": estimated,
            "threshold": pa.array(np.full(count, self.config.threshold), mask=exact),
            "kept_id": ids,
            "similarity": similarity,
            "detail": runs,
        }
        return pa.table(columns)

    def _names(self, parts: np.ndarray, rows: np.ndarray) -> tuple[pa.Array, pa.Array]:
        """Ids and runs of rows of parts."""
        ids: list[str | None] = [None] * len(rows)
        runs: list[str | None] = [None] * len(rows)
        for number in np.unique(parts).tolist():
            part: Part = self.parts[number]
            places = np.flatnonzero(parts == number).tolist()
            for place, found in zip(places, part.ids_of(rows[places].tolist()), strict=True):
                ids[place], runs[place] = found, part.run_of(int(rows[place]))
        return pa.array(ids, pa.string()), pa.array(runs, pa.string())


def _parts(path: str, config: IndexDedupConfig, run: str | None) -> Iterator[str]:
    """Folders of an index's parts that hold the runs asked for."""
    where = below(path, INDEX)
    try:
        facts = read_index(path)
    except FileNotFoundError:
        if config.missing == "empty":
            return
        raise StageError(
            f"dedup.index: {where}: there is no such index; check `path`, write one with the section `index` of an earlier run or"
            " `python -m pipeline index build`, or set missing: empty where this is the first run"
        ) from None
    except OSError as error:
        raise StageError(
            f"dedup.index: {where}: cannot be read ({error}); check the path and its permissions"
        ) from None
    unknown = [name for name in config.runs or () if name not in facts.runs]
    if unknown:
        held = ", ".join(facts.runs) or "none"
        raise StageError(f"dedup.index.runs: {where} holds no run {unknown[0]!r}; it holds {held}")
    for part in facts.parts:
        names = [one.run for one in part.runs]
        if config.runs is None and names == [run]:
            return  # what stands behind it came later, and was compared with it
        wanted = [name for name in names if name != run and (config.runs is None or name in config.runs)]
        if wanted and len(wanted) < len(names):
            left = next(name for name in names if name not in wanted)
            raise StageError(
                f"dedup.index: {where}: the run {left!r} was merged with others, so that it cannot be left out;"
                f" take it out with `python -m pipeline index remove {path} --run {left}`, or use the index from before the merge"
            )
        if wanted:
            yield below(path, "parts", part.folder)
