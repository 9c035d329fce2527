"""Formats whose payload is ours: Megatron-LM, nanoGPT, OLMo, datatrove; and llm.c's, which puts a header in front."""

from __future__ import annotations

import csv
import gzip
import io
import shutil
from pathlib import Path

import numpy as np

from tokenizer_training.config import TokenizerError
from tokenizer_training.dataset.formats.shards import Shard, Source

NANOGPT_SPLITS = {"train": "train", "validation": "val"}
# llm.c, dev/data/data_common.py: magic number and version of the file, by bytes of a token
LLMC = {2: (20240520, 1), 4: (20240801, 7)}
LLMC_HEADER = 256  # int32
LLMC_BYTES = 2**31 - 1  # its loader seeks with an int
COPIED = 1 << 24  # tokens


def to_megatron(source: Source, out: Path) -> None:
    """`.bin` and `.idx` as they are; Megatron-LM takes the path without suffix as --data-path."""
    for shard in source.shards():
        for suffix in (".bin", ".idx"):
            source.place(shard.file.with_suffix(suffix), out / shard.file.with_suffix(suffix).name)


def to_nanogpt(source: Source, out: Path) -> None:
    """`train.bin` and `val.bin` of uint16: one shard is linked, several are written one behind the other."""
    if source.itemsize != 2:
        raise TokenizerError(
            f"{source.path}: nanoGPT reads uint16 and a vocabulary of {source.facts['vocab_size']} needs 32 bits"
        )
    for split, name in NANOGPT_SPLITS.items():
        shards = source.shards(split)
        if len(shards) == 1:
            source.place(shards[0].file, out / f"{name}.bin")
        elif shards:
            with (out / f"{name}.bin").open("wb") as joined:
                for shard in shards:
                    with shard.file.open("rb") as file:
                        shutil.copyfileobj(file, joined, 1 << 24)


def to_olmo(source: Source, out: Path) -> None:
    """`part-....npy` (raw, whatever the name says) and `.csv.gz` of start, end, id, src, loc; `label_mask-....npy` of bool for conversations.

    OLMo-core reads uint16 or uint32; ids are below 2^31, so int32 is the same bytes. `loc` is the number in the shard.
    """
    for shard in source.shards():
        source.place(shard.file, out / f"{shard.file.stem}.npy")
        with (
            (out / f"{shard.file.stem}.csv.gz").open("wb") as raw,
            gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed,
            io.TextIOWrapper(packed, "utf-8", newline="") as text,
        ):
            writer = csv.writer(text)
            start = 0
            for number, (length, (identity, src)) in enumerate(
                zip(shard.lengths().tolist(), shard.texts(), strict=True)
            ):
                writer.writerow((start, start + length, identity, src, number))
                start += length
        if source.masked:
            shard.mask().astype(bool).tofile(out / f"{shard.file.stem}.label_mask.npy")


def to_datatrove(source: Source, out: Path) -> None:
    """`.ds`, `.ds.index` (uint64 ends of documents in tokens), `.ds.metadata`, and `.ds.loss` (a byte a token) for conversations."""
    for shard in source.shards():
        name = f"{shard.file.stem}.ds"
        source.place(shard.file, out / name)
        np.cumsum(shard.lengths()).astype("<u8").tofile(out / f"{name}.index")
        about = f"{source.facts['tokenizer_sha256']}|{source.itemsize}\n{shard.tokens}\n{_metric(shard.tokens)}"
        (out / f"{name}.metadata").write_text(about, encoding="utf-8")
        if source.masked:
            shard.mask().tofile(out / f"{name}.loss")


def _metric(tokens: int) -> str:
    """A number of tokens for people, as the third line of datatrove's metadata has it."""
    value, at = float(tokens), 0
    while value >= 1000 and at < 4:
        value, at = value / 1000, at + 1
    return f"{value:.3g} {('', 'k', 'M', 'G', 'T')[at]}T"


def to_llmc(source: Source, out: Path) -> None:
    """`tokens_train_NNNNNN.bin` and `tokens_val_NNNNNN.bin`: 256 int32 (magic, version, tokens), then the tokens, the end token before each document.

    Putting the end token before instead of behind moves it from the end of the file to its beginning. A shard of 2 GiB or more is
    cut between documents.
    """
    most = (LLMC_BYTES - 4 * LLMC_HEADER) // source.itemsize
    for split, name in NANOGPT_SPLITS.items():
        number = 0
        for shard in source.shards(split):
            for first, stop in _below(shard, most):
                _write_llmc(shard, first, stop, source.facts["eos_id"], out / f"tokens_{name}_{number:06d}.bin")
                number += 1


def _below(shard: Shard, most: int) -> list[tuple[int, int]]:
    """Stretches of whole documents of at most `most` tokens."""
    ends = np.cumsum(shard.lengths())
    found: list[tuple[int, int]] = []
    start = 0
    while start < shard.tokens:
        stop = int(ends[max(0, int(np.searchsorted(ends, start + most, "right")) - 1)])
        if stop <= start:
            raise TokenizerError(f"{shard.file}: a document of 2 GiB or more, which llm.c cannot seek in")
        found.append((start, stop))
        start = stop
    return found


def _write_llmc(shard: Shard, first: int, stop: int, eos: int, target: Path) -> None:
    tokens = shard.payload()
    wide = shard.dtype.itemsize == 4
    header = np.zeros(LLMC_HEADER, "<i4")
    header[:3] = *LLMC[shard.dtype.itemsize], stop - first
    with target.open("wb") as file:
        file.write(header.tobytes())
        file.write(np.array([eos], "<u4" if wide else "<u2").tobytes())
        for start in range(first, stop - 1, COPIED):
            file.write(tokens[start : min(stop - 1, start + COPIED)].tobytes())
