"""What a model folder says of where it came from: trainer_state/run.json, written when a run starts, and training.json.

Paths are kept absolute and relative to the model folder, so that a run directory can be moved as a whole.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.checkpoint import FORMAT, write_json
from training.config import PretrainConfig, resolve
from training.data import Dataset
from training.knobs import TrainingError


def lineage(
    out_dir: Path, data: Dataset, tokenizer_dir: Path, documents_dir: Path | None, fingerprint: str
) -> dict[str, Any]:
    """The folders that a run reads, and what identifies it and their contents."""
    facts = data.tokens.facts
    folders = {"tokens": data.tokens.path, "tokenizer": tokenizer_dir, "documents": documents_dir}
    return {
        "fingerprint": fingerprint,
        "sequence_length": data.sequence_length,
        "tokenizer_sha256": facts["tokenizer_sha256"],
        "tokens_checksum": facts.get("checksum"),
        "folders": {name: folder and both(folder, out_dir) for name, folder in folders.items()},
    }


def both(folder: Path, out_dir: Path) -> dict[str, str]:
    """A folder's place: absolute, and as seen from `out_dir`."""
    absolute = folder.resolve()
    return {"absolute": str(absolute), "relative": os.path.relpath(absolute, out_dir.resolve())}


def write_run(out_dir: Path, config: PretrainConfig, about: dict[str, Any]) -> None:
    """Write trainer_state/run.json, from which `trace` works before training.json is there."""
    folder = out_dir / "trainer_state"
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "run.json", {"format": FORMAT, "lineage": about, "config": config.model_dump(mode="json")})


@dataclass(frozen=True)
class Run:
    """A model folder's config and lineage, with folders that exist; `summary` is training.json, if the run has finished."""

    folder: Path
    config: PretrainConfig
    lineage: dict[str, Any]
    tokens_dir: Path
    tokenizer_dir: Path
    documents_dir: Path | None
    summary: dict[str, Any] | None


def read_run(
    folder: Path, tokens_dir: Path | None = None, documents_dir: Path | None = None, need_tokens: bool = True
) -> Run:
    """Read a model folder; `tokens_dir` and `documents_dir` stand for folders that have moved.

    Raises `TrainingError` if the folder holds no run, one of a newer format, or its token dataset is gone.
    """
    summary = _read(folder / "training.json")
    about = _read(folder / "trainer_state" / "run.json") or summary
    if about is None:
        raise TrainingError(f"{folder} holds no run: neither trainer_state/run.json nor training.json is there")
    if about.get("format", 0) > FORMAT:
        raise TrainingError(f"{folder}: the run is of format {about['format']}, this program knows {FORMAT}")
    if "lineage" not in about:
        raise TrainingError(f"{folder} was trained by an older version, which kept no paths; train it again")
    found = about["lineage"]
    folders = found["folders"]
    tokens = tokens_dir or _existing(folders["tokens"], folder)
    if need_tokens and not (tokens / "dataset.json").exists():
        raise TrainingError(
            f"{folder} was trained on {tokens}, which is no token dataset now; give its place by --tokens"
        )
    documents = documents_dir
    if documents is not None and not any(documents.glob("*.parquet")):
        raise TrainingError(f"{documents} has no *.parquet; give the folder of the documents that were encoded")
    if documents is None and folders["documents"]:
        at = _existing(folders["documents"], folder)
        documents = at if at.is_dir() else None
    config = resolve(about["config"], str(folder))
    return Run(folder, config, found, tokens, _existing(folders["tokenizer"], folder), documents, summary)


def _existing(place: dict[str, str], folder: Path) -> Path:
    """Beside the model folder if it is there, else where it was: a copied run directory is read, not its original."""
    relative = Path(os.path.normpath(folder.resolve() / place["relative"]))
    return relative if relative.exists() else Path(place["absolute"])


def _read(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainingError(f"cannot read {path}: {error}") from None
    if not isinstance(values, dict):
        raise TrainingError(f"{path}: a JSON object was expected")
    return values
