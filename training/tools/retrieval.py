"""Retrieval over a curated corpus: passages ranked by BM25 (Robertson and Zaragoza 2009; the variant of Lucene, by bm25s).

An index is a folder: index.json, passages.arrow (memory-mapped), and what bm25s saves. Equal documents give equal files.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from training.knobs import TrainingError
from training.tools.calls import CallError
from training.tools.registry import Tool

FORMAT = 1
K1, B = 1.5, 0.75  # of bm25s, after Lucene's and Manning et al. 2008, section 11.4.3
SCHEMA = pa.schema([("id", pa.string()), ("passage", pa.int32()), ("text", pa.string())])
# words of letters and digits; scripts written without spaces character by character
_WORD = re.compile(
    r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W_\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+"
)


class Passage(NamedTuple):
    """A stretch of a document: its id, the stretch's number in it, the text, how well it fits the query."""

    id: str
    number: int
    text: str
    score: float


def words_of(text: str) -> list[str]:
    """The words that are compared: case folded."""
    return _WORD.findall(text.casefold())


def passages_of(text: str, size: int) -> Iterator[str]:
    """A text in stretches of at most `size` words as `words_of` counts them, cut between paragraphs where that is possible."""
    held: list[str] = []
    count = 0
    for paragraph in text.split("\n\n"):
        line = " ".join(paragraph.split())
        starts = [word.start() for word in _WORD.finditer(line)]
        if held and count + len(starts) > size:
            yield "\n\n".join(held)
            held, count = [], 0
        cuts = [0, *starts[size::size], len(line)]
        *full, rest = (line[start:end].rstrip() for start, end in pairwise(cuts))
        yield from full
        if rest:
            held.append(rest)
            count += len(starts) - size * len(full)
    if held:
        yield "\n\n".join(held)


def documents_in(path: Path) -> Iterator[tuple[str, str]]:
    """(id, text) of a Parquet file, or of the `part-*.parquet` of a folder such as a run's documents/."""
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files or not files[0].exists():
        raise TrainingError(f"{path}: no Parquet file there; expected a run's documents/ or a file with id and text")
    for file in files:
        try:
            opened = pq.ParquetFile(file)
        except (pa.ArrowInvalid, OSError) as error:
            raise TrainingError(f"{file} is no Parquet file: {' '.join(str(error).split())[:200]}") from None
        missing = {"id", "text"} - set(opened.schema_arrow.names)
        if missing:
            raise TrainingError(f"{file} has no column {' and no '.join(sorted(missing))}; expected a run's documents/")
        for batch in opened.iter_batches(1024, columns=["id", "text"]):
            for number, text in zip(batch.column("id").to_pylist(), batch.column("text").to_pylist(), strict=True):
                if text:
                    yield str(number), text


def build_index(documents: Iterable[tuple[str, str]], output: Path, words: int = 150) -> int:
    """Index the passages of (id, text) pairs into a folder, which replaces an older index; gives the number of passages.

    words: at most, in a passage. Raises `TrainingError` where there is no text, or `output` is something else than an index.
    """
    if words < 1:
        raise TrainingError(f"a passage needs at least 1 word, got {words}")
    if output.exists() and not (output / "index.json").exists() and (not output.is_dir() or any(output.iterdir())):
        raise TrainingError(f"{output} exists and is no index: give another folder")
    bm25s = _bm25s()
    made = output.with_name(output.name + ".tmp")
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    vocabulary: dict[str, int] = {}
    tokens: list[np.ndarray] = []
    read = 0
    with pa.OSFile(str(made / "passages.arrow"), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        rows: list[dict[str, Any]] = []
        for number, text in documents:
            read += 1
            for count, passage in enumerate(passages_of(text, words)):
                found = words_of(passage)
                if not found:
                    continue
                tokens.append(np.array([vocabulary.setdefault(word, len(vocabulary)) for word in found], np.int32))
                rows.append({"id": number, "passage": count, "text": passage})
            if len(rows) >= 4096:
                writer.write_batch(pa.RecordBatch.from_pylist(rows, SCHEMA))
                rows = []
        writer.write_batch(pa.RecordBatch.from_pylist(rows, SCHEMA))
    if not tokens:
        shutil.rmtree(made)
        raise TrainingError("no document has a word to index")
    engine = bm25s.BM25(k1=K1, b=B, method="lucene")
    engine.index((tokens, vocabulary), show_progress=False)
    engine.save(str(made), show_progress=False)
    about = {"format": FORMAT, "documents": read, "passages": len(tokens), "words": words}
    (made / "index.json").write_text(json.dumps(about) + "\n", encoding="utf-8")
    if output.exists():
        shutil.rmtree(output)
    made.rename(output)
    return len(tokens)


class Index:
    """An index to search in."""

    def __init__(self, engine: Any, passages: pa.Table) -> None:
        self._engine = engine
        self._passages = passages

    @classmethod
    def load(cls, folder: str | Path) -> Index:
        """Open a folder that `build_index` wrote. Raises `TrainingError` for another."""
        folder = Path(folder)
        try:
            about = json.loads((folder / "index.json").read_text(encoding="utf-8"))
            version = about["format"]
        except (OSError, ValueError, KeyError, TypeError):
            raise TrainingError(f"{folder} is no index: make one with python -m training index") from None
        if version > FORMAT:
            raise TrainingError(
                f"{folder} is an index of format {version}, this program knows {FORMAT}: use a newer gristmill"
            )
        try:
            passages = pa.ipc.open_file(pa.memory_map(str(folder / "passages.arrow"))).read_all()
            engine = _bm25s().BM25.load(str(folder), mmap=True)
        except (OSError, ValueError, pa.ArrowInvalid) as error:
            raise TrainingError(
                f"the index {folder} is broken ({' '.join(str(error).split())[:200]}): make it again"
            ) from None
        return cls(engine, passages)

    def search(self, query: str, count: int = 3) -> list[Passage]:
        """The best passages, best first; those that share no word with the query are left out. Ties go by place in the corpus."""
        known = [word for word in words_of(query[:10_000]) if word in self._engine.vocab_dict]
        if not known or count < 1:
            return []
        scores = self._engine.get_scores(known)
        count = min(count, len(scores))
        least = np.partition(scores, -count)[-count]
        at = np.flatnonzero((scores >= least) & (scores > 0))
        best = at[np.argsort(-scores[at], kind="stable")][:count]
        rows = self._passages.take(pa.array(best)).to_pylist()
        return [
            Passage(row["id"], row["passage"], row["text"], float(scores[n])) for row, n in zip(rows, best, strict=True)
        ]


def search_tool(index: Index, count: int = 3) -> Tool:
    """`search(query)`: the best passages, each with the id of its document."""

    def run(query: str) -> str:
        found = index.search(query, count)
        if not found:
            raise CallError("nothing found; try other words")
        return "\n\n".join(f"[{one.id}] {one.text}" for one in found)

    about = {"type": "string", "description": "words to look for"}
    return Tool("search", "Finds passages of the corpus.", {"query": about}, ("query",), run)


def _bm25s() -> Any:
    try:
        import bm25s
    except ModuleNotFoundError as error:
        raise TrainingError(f"retrieval needs {error.name}: pip install 'gristmill[tools]'") from None
    return bm25s
