"""Documents for the benchmarks, the same ones for the same files and seed.

    python -m benchmarks.dedup.corpora planted OUT [--documents FILE ...] [--passages N] [--copies N] [--seed N]
    python -m benchmarks.dedup.corpora scaled OUT [--documents FILE ...] [--count N] [--seed N]

Both write JSONL rows of `id`, `text` and `copy_of` (the id of the document that a copy was made from, else null).
"""

from __future__ import annotations

import argparse
import gzip
import json
import lzma
import re
import sys
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, TypedDict

import numpy as np
import pyarrow.parquet as pq

ROOT = Path(__file__).parents[2]
SAMPLE = [ROOT / f"data/sample/crawl-0000{number}.warc.gz" for number in range(3)]
TOKEN = re.compile(r"\S+\s*")  # a word and the white space after it: edits leave the layout as it is
PASSAGE = 1_300  # characters, about a quarter of a page of prose
COPIES_IN_TEN = 3  # of a scaled corpus
AS_IT_STANDS = 20  # every twentieth of its other documents is a real passage, the rest is spliced from many


class Row(TypedDict):
    """One document of a made corpus."""

    id: str
    text: str
    copy_of: str | None


def documents(paths: Sequence[Path]) -> list[str]:
    """The texts of the files, in order; of WARC files and archives (.tar.xz) the whole visible text of each HTML page."""
    return [text for path in paths for text in _texts(path) if text.strip()]


def _texts(path: Path) -> Iterator[str]:
    if ".warc" in path.suffixes:
        yield from map(visible_text, _records(path))
    elif ".tar" in path.suffixes:
        yield from map(visible_text, _members(path))
    elif path.suffix == ".parquet":
        yield from (text for text in pq.read_table(path, columns=["text"])["text"].to_pylist() if text)
    else:
        with _open(path) as lines:
            yield from (json.loads(line).get("text") or "" for line in lines)


def _open(path: Path) -> IO[str]:
    if path.suffix == ".xz":
        return lzma.open(path, "rt", encoding="utf-8")
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")
    return path.open(encoding="utf-8")


def _records(path: Path) -> Iterator[bytes]:
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    with path.open("rb") as file:
        for record in ArchiveIterator(file, record_types=WarcRecordType.response, parse_http=True):
            yield record.reader.read()


def _members(path: Path) -> Iterator[bytes]:
    with tarfile.open(path) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.name.endswith((".html", ".htm")) else None
            if file is not None:
                yield file.read()


def visible_text(page: bytes) -> str:
    """All text of an HTML page, menus included."""
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding

    return extract_plain_text(bytes_to_str(page, detect_encoding(page) or "utf-8"), main_content=False)


def passages(texts: Iterable[str], size: int = PASSAGE) -> list[str]:
    """The documents cut at line ends into passages of at least `size` characters, no two with the same text.

    What is left at a document's end is a passage if it has a fifth of that; passages have twenty words at least.
    """
    found: dict[str, None] = {}
    for text in texts:
        piece = ""
        for line in text.splitlines(keepends=True):
            piece += line
            while len(piece) >= 2 * size:  # one very long line
                cut = piece.rfind(" ", size, 2 * size)
                cut = cut if cut > 0 else size
                found.setdefault(piece[:cut].strip())
                piece = piece[cut:]
            if len(piece) >= size:
                found.setdefault(piece.strip())
                piece = ""
        if len(piece) >= size // 5:
            found.setdefault(piece.strip())
    return [passage for passage in found if len(TOKEN.findall(passage)) >= 20]


def edited(text: str, rate: float, words: Sequence[str], rng: np.random.Generator) -> str:
    """The text with each word dropped or replaced by one of `words`, either half of the time, with the given probability."""
    tokens = TOKEN.findall(text)
    touched = rng.random(len(tokens)) < rate
    dropped = rng.random(len(tokens)) < 0.5
    picks = rng.integers(len(words), size=len(tokens))
    kept: list[str] = []
    for token, touch, drop, pick in zip(tokens, touched.tolist(), dropped.tolist(), picks.tolist(), strict=True):
        if not touch:
            kept.append(token)
        elif not drop:
            kept.append(words[pick] + token[len(token.rstrip()) :])
    return "".join(kept)


def vocabulary(texts: Sequence[str]) -> list[str]:
    """Words that replace others: those of every hundredth text, as often as they stand there."""
    return [token.strip() for text in texts[::100] for token in TOKEN.findall(text)]


def planted(texts: Sequence[str], passage_count: int, copies: int, seed: int = 1) -> list[Row]:
    """`passage_count` documents, shuffled: passages of the texts, `copies` of them edited copies of others at rates from 0 to 0.2."""
    pool = passages(texts)
    rng = np.random.default_rng(seed)
    originals = passage_count - copies
    if len(pool) < originals:
        sys.exit(f"the documents give {len(pool)} passages, and {originals} are asked for; give more or ask for fewer")
    chosen = [pool[place] for place in np.sort(rng.choice(len(pool), originals, replace=False)).tolist()]
    words = vocabulary(chosen)
    rows: list[tuple[str, int | None]] = [(passage, None) for passage in chosen]
    for source in rng.integers(originals, size=copies).tolist():
        rows.append((edited(chosen[source], rng.uniform(0, 0.2), words, rng), source))
    order = rng.permutation(len(rows))
    name = {old: f"d{new:07d}" for new, old in enumerate(order.tolist())}
    made: list[Row] = []
    for old in order.tolist():
        text, source_row = rows[old]
        made.append({"id": name[old], "text": text, "copy_of": None if source_row is None else name[source_row]})
    return made


class Scaled:
    """Documents by number: each is a function of the seed and its number alone, so that a corpus of any size begins as a smaller one.

    Three in ten are copies of an earlier document, edited at rates from 0 to 0.2. Of the others one in twenty is a passage as it
    stands, and the rest are spliced from spans of 8 to 40 words of many passages: real words in numbers that no real pool here has.
    """

    def __init__(self, texts: Sequence[str], seed: int = 1) -> None:
        self.seed = seed
        self.pool = passages(texts)
        self.words = vocabulary(self.pool)
        tokens = [TOKEN.findall(passage + "\n") for passage in self.pool]
        self.sizes = [len(passage) for passage in tokens]
        self.tokens = [token for passage in tokens for token in passage]
        self.order = np.random.default_rng(seed).permutation(len(self.pool)).tolist()

    def row(self, number: int) -> Row:
        """The document of that number."""
        rng = np.random.default_rng((self.seed, number))
        place = number % 10
        if place >= 10 - COPIES_IN_TEN:
            source = int(rng.integers(number // 10 + 1)) * 10 + int(rng.integers(10 - COPIES_IN_TEN))
            text = edited(self.row(source)["text"], rng.uniform(0, 0.2), self.words, rng)
            return {"id": f"d{number:07d}", "text": text, "copy_of": f"d{source:07d}"}
        original = number // 10 * (10 - COPIES_IN_TEN) + place
        real = original // AS_IT_STANDS
        if original % AS_IT_STANDS == 0 and real < len(self.pool):
            return {"id": f"d{number:07d}", "text": self.pool[self.order[real]], "copy_of": None}
        length = self.sizes[int(rng.integers(len(self.sizes)))]
        spans = rng.integers(8, 41, size=length // 8 + 1).tolist()
        starts = rng.integers(len(self.tokens) - 40, size=len(spans)).tolist()
        pieces: list[str] = []
        for start, span in zip(starts, spans, strict=True):
            pieces += self.tokens[start : start + min(span, length - len(pieces))]
            if len(pieces) >= length:
                break
        return {"id": f"d{number:07d}", "text": "".join(pieces), "copy_of": None}


def write(rows: Iterable[Row], path: Path) -> int:
    """Writes JSONL; how many rows."""
    count = 0
    with path.open("w", encoding="utf-8") as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count


def read(path: Path) -> list[Row]:
    """The rows of such a file."""
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def main(arguments: Sequence[str]) -> None:
    """Writes a corpus."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["planted", "scaled"])
    parser.add_argument("out", type=Path)
    parser.add_argument("--documents", type=Path, nargs="+", default=SAMPLE)
    parser.add_argument("--passages", type=int, default=50_000, help="documents of a planted corpus, copies included")
    parser.add_argument("--copies", type=int, default=15_000)
    parser.add_argument("--count", type=int, default=100_000, help="documents of a scaled corpus")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    texts = documents(given.documents)
    if given.kind == "planted":
        count = write(planted(texts, given.passages, given.copies, given.seed), given.out)
    else:
        scaled = Scaled(texts, given.seed)
        count = write((scaled.row(number) for number in range(given.count)), given.out)
    print(f"{count} documents, {given.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(sys.argv[1:])
