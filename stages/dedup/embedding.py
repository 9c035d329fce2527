"""Texts as vectors, by a model in a local folder: token vectors (model2vec) or a transformer (sentence-transformers); vectors of a column."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from stages.batch import Batch
from stages.dedup.unit_vectors import LARGEST
from stages.padding import padded
from stages.stage import StageError

STATIC_TOKENS = 512  # what model2vec reads of a text
EXTRA = "install the extra: pip install 'gristmill[scorers]'"
_TYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "<i1",
    "U8": "<u1",
}


class Embedder(Protocol):
    """A model that has been loaded."""

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """One vector a text, (n, d); all zero where the model knows nothing of a text."""
        ...


def load(folder: Path, max_tokens: int | None, batch_tokens: int, device: str) -> Embedder:
    """The model in a folder. Raises `StageError` for a folder that holds none that can be used."""
    check(folder)
    try:
        static = _static_files(folder)
        if static is not None:
            return StaticModel(*static, max_tokens or STATIC_TOKENS)
        return Transformer(folder, max_tokens, batch_tokens, device)
    except StageError:
        raise
    except Exception as error:  # whatever a broken folder raises
        raise StageError(f"dedup.semantic: the model in {folder} cannot be loaded: {error}") from error


def check(folder: Path) -> None:
    """Raise `StageError` for a folder without a model, or where a package that it needs is missing; loads nothing."""
    if not any((folder / name).is_file() for name in ("config.json", "modules.json")):
        raise StageError(
            f"dedup.semantic: {folder} holds neither config.json nor modules.json; give `model` the folder of a model of model2vec or "
            "sentence-transformers (nothing is downloaded)"
        )
    if _static_files(folder) is None:
        for package in ("torch", "transformers"):
            if importlib.util.find_spec(package) is None:
                raise StageError(f"dedup.semantic: the model in {folder} needs the package {package}; {EXTRA}")


def _static_files(folder: Path) -> tuple[Path, Path, bool] | None:
    """Vectors, tokenizer, and whether it is model2vec's, which leaves unknown tokens out; None if it is a transformer."""
    kinds = [str(module.get("type", "")).rpartition(".")[2] for module in _modules(folder)]
    if "StaticEmbedding" in kinds:
        inner = folder / str(_modules(folder)[kinds.index("StaticEmbedding")].get("path", ""))
        return inner / "model.safetensors", inner / "tokenizer.json", False
    if _read(folder / "config.json").get("model_type") == "model2vec":
        return folder / "model.safetensors", folder / "tokenizer.json", True
    return None


def _modules(folder: Path) -> list[dict[str, Any]]:
    path = folder / "modules.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    return [module for module in found if isinstance(module, dict)] if isinstance(found, list) else []


def _read(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found if isinstance(found, dict) else {}


def tensors(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file: a length, a JSON header, the bytes. bfloat16 becomes float32."""
    found = {}
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            start, end = entry["data_offsets"]
            file.seek(8 + size + start)
            array = np.frombuffer(file.read(end - start), dtype=_TYPES[entry["dtype"]])
            if entry["dtype"] == "BF16":
                array = (array.astype("<u4") << 16).view("<f4")
            found[name] = array.reshape(entry["shape"])
    return found


class StaticModel:
    """The mean of a text's token vectors, each weighted if the model says so. A text's vector is made of its own tokens alone."""

    def __init__(self, vectors: Path, tokenizer: Path, skip_unknown: bool, max_tokens: int) -> None:
        from tokenizers import Tokenizer

        found = tensors(vectors)
        table = found.get("embeddings", found.get("embedding.weight"))
        if table is None or table.ndim != 2:
            raise StageError(
                f"dedup.semantic: {vectors} has no token vectors (`embeddings`, a matrix); it has {', '.join(sorted(found)) or 'nothing'}"
            )
        self._table, self._weights, self._rows = table, found.get("weights"), found.get("mapping")
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        known = len(table if self._rows is None else self._rows)
        if self._tokenizer.get_vocab_size() > known:
            raise StageError(
                f"dedup.semantic: {tokenizer} has {self._tokenizer.get_vocab_size()} tokens, {vectors} knows {known}; "
                "they belong to different models"
            )
        unknown = getattr(self._tokenizer.model, "unk_token", None) if skip_unknown else None
        self._unknown = self._tokenizer.token_to_id(unknown) if unknown else None
        self._max_tokens = max_tokens

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        out = np.zeros((len(texts), self._table.shape[1]))
        for row, encoding in enumerate(self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)):
            ids = np.array(encoding.ids, dtype=np.int64)
            ids = ids[ids != self._unknown][: self._max_tokens]
            if len(ids):
                vectors = self._table[ids if self._rows is None else self._rows[ids]].astype(np.float64)
                out[row] = (vectors if self._weights is None else vectors * self._weights[ids, None]).mean(axis=0)
        return out


class Transformer:
    """A transformer's last states, their mean or the first one.

    Texts of like length go through the model together, padded to one of a few lengths and always as many, so that the shape of
    the computation, and with it its rounding, depends on a text's own length and not on its neighbours.
    """

    def __init__(self, folder: Path, max_tokens: int | None, batch_tokens: int, device: str) -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer

        inner, self._first = _pooling(folder)
        settings = _read(inner / "sentence_bert_config.json")
        self._lower = bool(settings.get("do_lower_case"))
        self._tokenizer = AutoTokenizer.from_pretrained(str(inner), local_files_only=True, trust_remote_code=False)
        model, facts = AutoModel.from_pretrained(
            str(inner), local_files_only=True, trust_remote_code=False, dtype=torch.float32, output_loading_info=True
        )
        if missing := sorted(name for name in facts["missing_keys"] if "pooler" not in name):
            raise StageError(f"dedup.semantic: the model in {folder} lacks weights ({', '.join(missing[:3])})")
        if device == "cuda" and not torch.cuda.is_available():
            raise StageError("dedup.semantic: device: cuda, but PyTorch finds no GPU; set device: auto or cpu")
        positions = getattr(model.config, "max_position_embeddings", None) or 512
        if max_tokens is not None and max_tokens > positions:
            raise StageError(f"dedup.semantic: max_tokens: the model in {folder} reads at most {positions} tokens")
        self._max_tokens = max_tokens or min(int(settings.get("max_seq_length") or positions), positions)
        self._batch_tokens = batch_tokens
        self._device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        self._torch, self._model = torch, model.to(self._device).eval()

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        if not texts:
            return np.zeros((0, 1))
        given = [text.lower() for text in texts] if self._lower else list(texts)
        encoded: list[list[int]] = self._tokenizer(given, truncation=True, max_length=self._max_tokens)["input_ids"]
        out = np.zeros((len(texts), self._model.config.hidden_size))
        pad = self._tokenizer.pad_token_id or 0
        for rows, ids, mask in padded(encoded, self._max_tokens, self._batch_tokens, pad):
            out[rows] = self._vectors(ids, mask)[: len(rows)]
        return out

    def _vectors(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        torch = self._torch
        with torch.inference_mode():
            seen = torch.from_numpy(mask).to(self._device)
            states = self._model(
                input_ids=torch.from_numpy(ids).to(self._device), attention_mask=seen
            ).last_hidden_state
            if self._first:
                pooled = states[:, 0]
            else:
                pooled = (states * seen[:, :, None]).sum(dim=1) / seen.sum(dim=1, keepdim=True)
        return np.asarray(pooled.float().cpu().numpy(), dtype=np.float64)


def _pooling(folder: Path) -> tuple[Path, bool]:
    """Where the transformer is, and whether its first state stands for the text instead of the mean of all (which is the default)."""
    inner, first = folder, False
    for module in _modules(folder):
        kind, path = str(module.get("type", "")).rpartition(".")[2], folder / str(module.get("path", ""))
        if kind == "Transformer":
            inner = path
        elif kind == "Pooling":
            settings = _read(path / "config.json")
            modes = {
                name.removeprefix("pooling_mode_") for name, on in settings.items() if on is True and "mode_" in name
            }
            modes |= {str(settings["pooling_mode"])} if "pooling_mode" in settings else set()
            if modes - {"mean", "mean_tokens", "cls", "cls_token"} or len(modes) != 1:
                raise StageError(
                    f"dedup.semantic: {path / 'config.json'}: pooling {', '.join(sorted(modes)) or 'is not given'}; known are mean and cls"
                )
            first = modes <= {"cls", "cls_token"}
        elif kind != "Normalize":  # cosines do not see lengths
            raise StageError(
                f"dedup.semantic: {folder / 'modules.json'}: {kind!r} is not known; known are Transformer, Pooling, Normalize, StaticEmbedding"
            )
    return inner, first


def of_two_lengths(column: str, one: int, other: int) -> StageError:
    """The error of a column, or a model, with embeddings of two lengths."""
    return StageError(
        f"dedup.semantic: column {column!r} has embeddings of {one} and of {other} numbers; expected one model's, all of one length"
    )


def given_vectors(batch: Batch, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings (n, d) of a column of lists of numbers, and which rows have one. Raises `StageError` for another column."""
    if not batch.has(name):
        raise StageError(
            f"dedup.semantic: column: no column {name!r}; the documents have {', '.join(batch.table.column_names)}"
        )
    column = batch.column(name)
    kind: Any = column.type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not (pa.types.is_null(kind) or (is_list and _is_number(kind.value_type))):
        raise StageError(f"dedup.semantic: column {name!r} is {kind}; expected lists of numbers")
    found = [(row, value) for row, value in enumerate(column.to_pylist()) if value]
    vectors = [np.array(value, dtype=np.float64) for _, value in found]  # null becomes NaN
    lengths = sorted({len(vector) for vector in vectors})
    if len(lengths) > 1:
        raise of_two_lengths(name, lengths[0], lengths[1])
    if lengths and lengths[0] > LARGEST:
        raise StageError(
            f"dedup.semantic: column {name!r} has {lengths[0]} numbers a row; at most {LARGEST} can be compared"
        )
    kept = np.array([row for row, _ in found], dtype=np.int64)
    return np.stack(vectors) if vectors else np.empty((0, 1)), kept


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind))
