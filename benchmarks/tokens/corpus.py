"""A large corpus of what lies on a machine, for the benchmarks of counting and training, where no public one can be fetched.

    python -m benchmarks.tokens.corpus OUT.jsonl --from FOLDER [FOLDER ...] [--megabytes N] [--made SHARE] [--seed N]

Takes the text files under the folders (source code, manuals, pages; by their endings, in UTF-8, of at most 4 MB, each content
once) in the order of their digests, so that every prefix is a mixture. A share of `--made` are documents spliced from the
bundled sample (`benchmarks.dedup.corpora`): words of real pages, in any number. Writes {"text": ...} a line.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from benchmarks.dedup.corpora import SAMPLE, Scaled, documents

ENDINGS = {
    ".c", ".cc", ".cpp", ".css", ".cuh", ".go", ".h", ".hpp", ".htm", ".html", ".inc", ".java", ".js", ".json", ".md", ".mjs",
    ".pl", ".pm", ".po", ".py", ".pyi", ".rb", ".rs", ".rst", ".sh", ".tcc", ".tex", ".toml", ".ts", ".txt", ".xml", ".yaml",
    ".yml",
}  # fmt: skip
LARGEST = 4_000_000  # bytes of a file; larger ones are data


def files(folders: Sequence[Path]) -> list[Path]:
    """One path for each different content, in the order of the digests."""
    found: dict[bytes, Path] = {}
    for folder in folders:
        for place, _, names in os.walk(folder):
            for name in names:
                path = Path(place, name)
                if (
                    path.suffix in ENDINGS
                    and path.is_file()
                    and not path.is_symlink()
                    and 0 < path.stat().st_size <= LARGEST
                ):
                    found.setdefault(hashlib.blake2b(path.read_bytes(), digest_size=16).digest(), path)
    return [found[digest] for digest in sorted(found)]


def texts(paths: Iterable[Path]) -> Iterator[str]:
    """The texts of those files that are UTF-8."""
    for path in paths:
        try:
            yield path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


def mixture(real: Iterator[str], made: Iterator[str], share: float, size: int) -> Iterator[str]:
    """Documents of both in turns, so that `share` of the bytes so far are made, until there are `size` bytes or no more real ones."""
    written = {False: 0, True: 0}
    while sum(written.values()) < size:
        is_made = written[True] < share * sum(written.values())
        text = next(made if is_made else real, None)
        if text is None:
            return
        written[is_made] += len(text.encode())
        yield text


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--from", dest="folders", type=Path, nargs="+", required=True)
    parser.add_argument("--megabytes", type=int, default=2_000)
    parser.add_argument("--made", type=float, default=0.0, help="share of the bytes, 0 to 1")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    scaled = Scaled(documents(SAMPLE), given.seed) if given.made else None
    made = (scaled.row(number)["text"] for number in itertools.count()) if scaled else iter(())
    count = size = 0
    with given.out.open("w", encoding="utf-8") as out:
        for text in mixture(texts(files(given.folders)), made, given.made, given.megabytes * 10**6):
            out.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
            count, size = count + 1, size + len(text.encode())
    print(f"{count:,} documents, {size / 1e6:,.0f} MB")
    if size < given.megabytes * 10**6:
        sys.exit(f"the folders hold no more text; give more of them, or a larger --made than {given.made}")


if __name__ == "__main__":
    main()
