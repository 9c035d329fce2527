"""Loss and bits per byte on held-out rows: of all of them, and of each source and language.

Losses are added up as whole numbers of 2^-28 nats, so the sums of the parts are exactly the whole, and neither micro-batches nor
processes change a digit that the model's own arithmetic does not change. An exact sum holds 3e10 nats, some 10^9 tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from tokenizer_training.dataset.read import PackedSplit, TokenDataset
from training.config import PretrainConfig
from training.data import Batch, Rows, load_batch
from training.device import Place
from training.knobs import TrainingError
from training.loss import IGNORED
from training.metrics import bits_per_byte
from training.parallel import unwrap
from training.step import micro_batches

UNIT = 2.0**28  # of an exact sum of nats: a float32 loss above 1/32 is a multiple of it
UNKNOWN = "unknown"  # language of a document that documents/ lacks, or gives none


class Validation(NamedTuple):
    """Mean loss in nats a target, and bits per byte of text; None where there is nothing to measure.

    `by_source` and `by_language`: the same of each part, with its targets and bytes; languages only where they are known.
    """

    validation_loss: float | None
    bits_per_byte: float | None
    by_source: dict[str, dict[str, Any]]
    by_language: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Labels:
    """Source and language of each document of the first rows of a split.

    A cell is a pair of both: number `source * len(languages) + language`; `cells` holds, of each row, its documents' cells.
    `languages` is [""] where nothing says the languages.
    """

    sources: list[str]
    languages: list[str]
    cells: list[np.ndarray]


def label_rows(tokens: TokenDataset, split: PackedSplit, rows: int, documents_dir: Path | None, here: Place) -> Labels:
    """Labels of the first `rows` rows: sources from the token sidecar, languages from the column of documents/*.parquet.

    One process reads documents/ and tells the others. Raises `TrainingError`, in all, if the folder given has no such column.
    """
    try:
        pieces = [tokens.documents_in_row(split, row) for row in range(min(rows, len(split)))]
    except OSError as error:
        raise TrainingError(f"cannot read the token dataset: {error}") from None
    ids = {piece.id for row in pieces for piece in row}

    language_of = here.first(lambda: {} if documents_dir is None else column_of(documents_dir, ids, "language"))
    sources = sorted({piece.source for row in pieces for piece in row})
    number = {source: at for at, source in enumerate(sources)}
    if not language_of:
        return Labels(sources, [""], [np.array([number[p.source] for p in row], np.int64) for row in pieces])
    names = [[language_of.get(piece.id) or UNKNOWN for piece in row] for row in pieces]
    languages = sorted({name for row in names for name in row})
    place = {language: at for at, language in enumerate(languages)}
    cells = [
        np.array([number[p.source] * len(languages) + place[n] for p, n in zip(row, said, strict=True)], np.int64)
        for row, said in zip(pieces, names, strict=True)
    ]
    return Labels(sources, languages, cells)


def column_of(documents_dir: Path, ids: Iterable[str], column: str) -> dict[str, str]:
    """What a column of documents/*.parquet says of some documents; nulls are left out. Reads a row group at a time."""
    wanted = pa.array(sorted(set(ids)), pa.string())
    found: dict[str, str] = {}
    files = sorted(documents_dir.glob("*.parquet"))
    if not files:
        raise TrainingError(f"{documents_dir} has no *.parquet; give the folder of the documents that were encoded")
    known = False
    for file in files:
        try:
            parquet = pq.ParquetFile(file)
            if not {"id", column}.issubset(parquet.schema_arrow.names):
                continue
            known = True
            for group in range(parquet.num_row_groups):
                table: Any = parquet.read_row_group(group, columns=["id", column])
                mine = table.filter(pc.is_in(table.column("id").cast(pa.string()), value_set=wanted))
                pairs = zip(mine.column("id").to_pylist(), mine.column(column).to_pylist(), strict=True)
                found.update((str(key), str(value)) for key, value in pairs if value is not None)
        except (OSError, pa.ArrowException) as error:
            raise TrainingError(f"cannot read {file}: {error}") from None
    if not known:
        raise TrainingError(f"{documents_dir}: no file has the columns id and {column}")
    return found


@torch.no_grad()
def validate(
    network: nn.Module,
    split: Rows,
    lengths: np.ndarray,
    config: PretrainConfig,
    here: Place,
    labels: Labels | None = None,
) -> Validation:
    """Loss and bits per byte over the first `eval_rows` rows of a split, shared out among the processes.

    lengths: bytes of each token id. Loss is over all targets, bits per byte over those that stand for text. A target belongs
    to its own document. Raises `TrainingError`, in every process, if a loss is not finite.
    """
    per_id = torch.from_numpy(lengths).to(here.device)
    cells = len(labels.sources) * len(labels.languages) if labels else 1
    sums = torch.zeros(
        (cells + 1, 4), dtype=torch.int64, device=here.device
    )  # the last row: losses that are not finite
    rows = min(config.eval_rows, len(split))
    mine = list(range(here.rank, rows, here.world))
    for start in range(0, -(-rows // here.world), config.micro_batch_rows):
        chosen = mine[start : start + config.micro_batch_rows]
        batch = load_batch(split, chosen or [0], config.document_mask)
        if not chosen:  # every process takes as many forward passes: weights may be shared out among them
            batch.targets.fill_(IGNORED)
        part = next(micro_batches(batch, len(batch.rows), here.device))
        nll = unwrap(network)(part.tokens, part.targets, part.documents if config.document_mask else None).nll
        bad = ~torch.isfinite(nll)
        units = (torch.where(bad, 0.0, nll).double() * UNIT).round().long()
        has_target = part.targets != IGNORED
        size = torch.where(has_target, per_id[part.targets.clamp(min=0)], 0)
        values = torch.stack([units, has_target.long(), torch.where(size > 0, units, 0), size], dim=-1)
        sums[:-1].index_add_(0, _cells(batch, labels).to(here.device).flatten(), values.flatten(0, 1))
        sums[-1, 0] += bad.sum()
    found = here.sum(sums).cpu().numpy()
    if found[-1, 0]:
        raise TrainingError(
            f"{found[-1, 0]} losses of the validation rows are not finite: the model has diverged; lower learning_rate"
        )
    whole = _part(found[:-1].sum(axis=0))
    if labels is None:
        return Validation(whole["loss"], whole["bits_per_byte"], {}, {})
    grid = found[:-1].reshape(len(labels.sources), len(labels.languages), 4)
    return Validation(
        whole["loss"],
        whole["bits_per_byte"],
        _parts(labels.sources, grid.sum(axis=1)),
        _parts(labels.languages, grid.sum(axis=0)) if labels.languages != [""] else {},
    )


def _cells(batch: Batch, labels: Labels | None) -> Tensor:
    """The cell of the document that each target is of: int64 `[B, L]`, 0 where there is no target."""
    owner = torch.zeros_like(batch.documents)
    if labels is None:
        return owner
    owner[:, :-1] = batch.documents[:, 1:]
    for at, row in enumerate(batch.rows):
        owner[at] = torch.from_numpy(labels.cells[row])[owner[at].clamp(min=0)]
    return torch.where(batch.targets == IGNORED, 0, owner)


def _parts(names: list[str], sums: np.ndarray) -> dict[str, dict[str, Any]]:
    return {name: _part(row) for name, row in zip(names, sums, strict=True) if row[1]}


def _part(sums: np.ndarray) -> dict[str, Any]:
    """What the sums of a part say: units, targets, units of targets that stand for text, bytes of text."""
    units, targets, text_units, size = (int(value) for value in sums)
    return {
        "loss": units / UNIT / targets if targets else None,
        "bits_per_byte": bits_per_byte(text_units / UNIT, size) if size else None,
        "targets": targets,
        "bytes": size,
        "nats": units / UNIT,
        "text_nats": text_units / UNIT,
    }
