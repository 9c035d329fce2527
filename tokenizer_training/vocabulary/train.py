"""From documents, or from their counts, to a tokenizer's folder.

The steps are units of work of their own, for whoever wants to run them in parallel: `count_documents` for some of the files
(with the `counting` of each of `tables_of` the config), `train_from_parts`, which merges them and calls `train_from_counts`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from tokenizer_training.config import TokenizerError
from tokenizer_training.corpus.documents import FIELDS, Fields
from tokenizer_training.corpus.files import find_documents
from tokenizer_training.vocabulary.bpe import train_bpe
from tokenizer_training.vocabulary.config import TokenizerConfig
from tokenizer_training.vocabulary.counts import SETTINGS, SUMS, CountConfig, count_units, counted_as, counts_facts
from tokenizer_training.vocabulary.counts_merge import merge_counts
from tokenizer_training.vocabulary.counts_read import Weights, give_back_memory, read_counts, read_counts_by
from tokenizer_training.vocabulary.folder import bpe_tokenizer, save, sizes
from tokenizer_training.vocabulary.parity import Table, read_development, train_parity
from tokenizer_training.vocabulary.superword import train_superwords

COUNTS = "counts"  # folder of the tables, in the tokenizer's
WORDS, CHUNKS = "words.parquet", "chunks.parquet"

Progress = Callable[[int, int], None]  # documents and bytes of text read so far


def counting(config: TokenizerConfig, table: str) -> CountConfig:
    """How the corpus is counted for WORDS, or for CHUNKS where there is a second stage."""
    return CountConfig(
        pattern=config.pattern,
        digits=config.digits,
        regex=config.custom_pattern,
        normalization=config.normalization,
        words=config.superword.words if table == CHUNKS and config.superword is not None else None,
    )


def tables_of(config: TokenizerConfig) -> list[str]:
    """The counts tables that training needs, by file name."""
    return [WORDS] if config.superword is None else [WORDS, CHUNKS]


def count_fields(config: TokenizerConfig, fields: Fields = FIELDS) -> Fields:
    """What the columns of the documents are called, the config's domain field included."""
    return fields if config.domain_field is None else fields._replace(domain=config.domain_field)


def train_tokenizer(
    documents: Sequence[str | Path],
    config: TokenizerConfig,
    out_dir: str | Path,
    *,
    progress: Progress | None = None,
    fields: Fields = FIELDS,
) -> dict[str, Any]:
    """Train on the text of Parquet and JSONL files (or folders of them) and write the tokenizer's folder.

    The result depends on the set of documents only, not on their order or how they are cut into files. Each document
    counts once, whatever its `repeat`. The counts stay in the folder `counts`.

    Returns vocabulary wanted and reached, documents and bytes, and the SHA-256 of tokenizer.json. Raises `TokenizerError` if
    there is no text to train on, and as `train_from_counts` does.
    """
    if config.engine == "tokenizers":
        from tokenizer_training.vocabulary.library import train_by_library

        return train_by_library(documents, config, out_dir, progress=progress, fields=fields)
    files = find_documents(documents)
    out = Path(out_dir)
    out.parent.mkdir(parents=True, exist_ok=True)
    named = count_fields(config, fields)
    with TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
        units = [(file, None) for file in files]
        parts = {name: [Path(scratch) / name] for name in tables_of(config)}
        for name, (part,) in parts.items():
            count_units(units, counting(config, name), part, named, progress)
        return train_from_parts(parts, config, out, documents)


def train_from_parts(
    parts: dict[str, list[Path]], config: TokenizerConfig, out_dir: str | Path, documents: Sequence[str | Path]
) -> dict[str, Any]:
    """Merge the counts of parts of a corpus, {WORDS: tables, CHUNKS: tables}, into `counts` of the folder, and train."""
    if not sum(counts_facts(part)["bytes"] for part in parts[WORDS]):
        raise TokenizerError(f"{', '.join(map(str, documents))}: no text to train a tokenizer on")
    out = Path(out_dir)
    with TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
        for name, tables in parts.items():
            merged = Path(scratch) / COUNTS / name
            merged.parent.mkdir(exist_ok=True)
            if len(tables) == 1 and config.minimum_count == 1:
                shutil.copyfile(tables[0], merged)  # it is the caller's
            else:
                merge_counts(tables, merged, config.minimum_count)
        try:
            facts = train_from_counts(Path(scratch) / COUNTS, config, out)
        except TokenizerError as error:  # the caller knows the documents, not this copy of their counts
            named = str(error).replace(str(Path(scratch) / COUNTS / WORDS), ", ".join(map(str, documents)))
            raise TokenizerError(named) from None
        shutil.rmtree(out / COUNTS, ignore_errors=True)
        (Path(scratch) / COUNTS).replace(out / COUNTS)
        return facts


def train_from_counts(counts_path: str | Path, config: TokenizerConfig, out_dir: str | Path) -> dict[str, Any]:
    """Train from a counts table, or a folder with words.parquet and, for a second stage, chunks.parquet; write the folder.

    Returns facts as `train_tokenizer`. Raises `TokenizerError` for a table that was counted in another way than the config
    says, weights that name what it does not hold, a table without text, and parity with fewer than two languages.
    """
    if config.engine != "gristmill":
        raise TokenizerError(f"engine: {config.engine} trains on texts, not on counts; set engine: gristmill")
    path = Path(counts_path)
    tables = {name: path / name if path.is_dir() else path for name in tables_of(config)}
    if len(tables) == 2 and not all(table.is_file() and path.is_dir() for table in tables.values()):
        raise TokenizerError(
            f"{path}: superword needs a folder with {WORDS} and {CHUNKS}; train from documents, which makes both"
        )
    found = {name: _check_counted(table, counting(config, name), config) for name, table in tables.items()}
    facts = found[WORDS]
    merges = _merges(tables, config)
    known = {name: facts[name] for name in SUMS}
    known |= {"documents_used": facts["documents"], "bytes_used": facts["bytes"]}
    tokenizer = bpe_tokenizer(config, merges)
    return save(tokenizer, config, sizes(config, tokenizer) | known, Path(out_dir))


def _check_counted(table: Path, how: CountConfig, config: TokenizerConfig) -> dict[str, Any]:
    facts, wanted = counts_facts(table), counted_as(how)
    for name in SETTINGS:
        if facts[name] != wanted[name]:
            raise TokenizerError(
                f"{table} was counted with {name} {facts[name]!r}; pattern, digits and normalization of the config say "
                f"{wanted[name]!r}. Count again, or train with what it was counted with"
            )
    if facts["minimum_count"] > config.minimum_count > 1:
        raise TokenizerError(
            f"{table} was merged with minimum_count {facts['minimum_count']}, more than minimum_count: {config.minimum_count}"
        )
    return facts


def _merges(counts: dict[str, Path], config: TokenizerConfig) -> np.ndarray:
    words = counts[WORDS]
    special = config.leading_special()
    weights: Weights = {column: factors for column, factors in config.weights.items()}
    knobs = (config.min_frequency, config.max_token_length, special)
    if config.parity is not None:
        tables = {name or "unknown": Table(*c) for name, c in read_counts_by(words, "language", weights).items()}
        if len(tables) < 2:
            raise TokenizerError(f"{words}: parity needs at least two languages; the table holds {', '.join(tables)}")
        development = None
        if config.parity.development is not None:
            development = read_development(config.parity.development, sorted(tables), config)
        return train_parity(tables, config.vocab_size, *knobs, development, config.parity.share)
    table = read_counts(words, weights)
    give_back_memory()  # of counting and reading
    first = train_bpe(*table, config.first_stage(), *knobs)
    if config.superword is None:
        return first
    return train_superwords(*read_counts(counts[CHUNKS], weights), first, config.vocab_size, *knobs)
