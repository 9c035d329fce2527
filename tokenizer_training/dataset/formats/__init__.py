"""A token dataset in the formats of other trainers: links to the same payload and another index beside it where that is enough.

What a format cannot say is refused with the reason, before anything is written.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tokenizer_training.config import TokenizerError
from tokenizer_training.dataset.formats import chunks, payload
from tokenizer_training.dataset.formats.shards import LINKS, Source, open_source

FORMATS: dict[str, Callable[[Source, Path], None]] = {
    "megatron": payload.to_megatron,
    "nanogpt": payload.to_nanogpt,
    "olmo": payload.to_olmo,
    "datatrove": payload.to_datatrove,
    "llmc": payload.to_llmc,
    "mds": chunks.to_mds,
    "litdata": chunks.to_litdata,
}
MASKED = ("olmo", "datatrove", "mds")  # can carry the loss mask of conversations


def convert(dataset_dir: str | Path, to: str, output: str | Path, link: str = "hard") -> list[Path]:
    """Write a token dataset in another format into `output`, which must be empty or not there; returns its files, sorted.

    `link`: how files that stay the same come there: `hard`, `symbolic` or `copy`.
    """
    if to not in FORMATS:
        raise TokenizerError(f"--to {to}: expected one of {', '.join(FORMATS)}")
    if link not in LINKS:
        raise TokenizerError(f"--link {link}: expected one of {', '.join(LINKS)}")
    source, out = open_source(dataset_dir, link), Path(output)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise TokenizerError(f"{out}: expected an empty folder, or none")
    if source.masked and to not in MASKED:
        raise TokenizerError(
            f"{dataset_dir}: {to} has no place for the loss mask of conversations; {', '.join(MASKED)} have"
        )
    out.mkdir(parents=True, exist_ok=True)
    FORMATS[to](source, out)
    return sorted(path for path in out.rglob("*") if path.is_file())
