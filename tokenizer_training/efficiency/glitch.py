"""Tokens that a model hardly learned, by the norms of their embeddings (Land and Bartolo 2024, arXiv 2405.05417).

Read from safetensors with numpy alone. Tokens that no text can reach (special and reserved ones, and those never seen) were
moved by weight decay only; tokens whose embeddings are as short, or as near to the mean of those, are candidates.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tokenizer_training.config import TokenizerError
from tokenizer_training.efficiency.peers import Peer
from tokenizer_training.efficiency.reach import shown

INPUT_NAMES = ("model.embed_tokens.weight", "transformer.wte.weight", "wte.weight", "gpt_neox.embed_in.weight")
OUTPUT_NAMES = ("lm_head.weight", "embed_out.weight")
TYPES = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "BF16": "<u2"}
LISTED_SHARE = 0.02  # the paper verifies this share of the vocabulary
MOST_LISTED = 100


def read_tensor(folder: Path, names: tuple[str, ...]) -> tuple[str, np.ndarray] | None:
    """The first of some tensors that a folder's safetensors files have, as float32; None if none does."""
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with file.open("rb") as raw:
                size = int.from_bytes(raw.read(8), "little")
                header = json.loads(raw.read(min(size, file.stat().st_size)))
                for name in names:
                    if name in header:
                        kind, shape, (start, end) = (header[name][key] for key in ("dtype", "shape", "data_offsets"))
                        raw.seek(8 + size + start)
                        values = np.frombuffer(raw.read(end - start), TYPES[kind]).reshape(shape)
                        if kind == "BF16":  # the upper half of a float32
                            values = (values.astype(np.uint32) << 16).view(np.float32)
                        return name, values.astype(np.float32)
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise TokenizerError(f"{file}: not a readable safetensors file ({type(error).__name__}: {error})") from None
    return None


def indicators(embeddings: np.ndarray, unused: np.ndarray) -> dict[str, np.ndarray]:
    """float64[V] each: the norm; and, with known unused tokens, the distance and the cosine distance to their mean."""
    values = embeddings.astype(np.float64)
    norms = np.linalg.norm(values, axis=1)
    found = {"norm": norms}
    if len(unused):
        mean = values[unused].mean(0)
        found["distance"] = np.linalg.norm(values - mean, axis=1)
        scale = np.maximum(norms * np.linalg.norm(mean), 1e-30)
        found["cosine_distance"] = 1 - values @ mean / scale
    return found


def glitch_candidates(peer: Peer, model: Path, counts: np.ndarray) -> dict[str, Any]:
    """Candidates by norm and by distance from the unused, smallest first, from the input and the output embeddings.

    `counts` int64[V] as seen on the sample. The reference is `Peer.never_trained`. Raises `TokenizerError` without a fitting model.
    """
    if not model.is_dir():
        raise TokenizerError(f"{model}: no such folder; --model takes a folder with .safetensors files")
    made = {"input": read_tensor(model, INPUT_NAMES), "output": read_tensor(model, OUTPUT_NAMES)}
    if made["input"] is None and made["output"] is None:
        raise TokenizerError(
            f"{model}: no embeddings in .safetensors; looked for {', '.join(INPUT_NAMES + OUTPUT_NAMES)}"
        )
    report: dict[str, Any] = {}
    for side, found in made.items():
        if found is None:
            continue
        name, embeddings = found
        if embeddings.ndim != 2 or len(embeddings) < peer.vocab_size:
            raise TokenizerError(
                f"{model}: {name} has shape {list(embeddings.shape)}; expected a row for each of the {peer.vocab_size} tokens of {peer.name}"
            )
        values = embeddings[: peer.vocab_size]
        unused = np.array(peer.never_trained(), np.int64)
        measured = indicators(values, unused)
        ordinary = np.flatnonzero(peer.lengths > 0)
        listed = min(MOST_LISTED, max(1, int(LISTED_SHARE * len(ordinary))))
        report[side] = {
            "tensor": name,
            "unused_reference": len(unused),
            "median_norm": float(np.median(measured["norm"])),
        }
        for indicator, of_token in measured.items():
            order = ordinary[np.argsort(of_token[ordinary], kind="stable")][:listed]
            limit = float(of_token[unused].max()) if len(unused) else None
            report[side][indicator] = {
                "largest_of_unused": limit,
                "within_unused": None if limit is None else int((of_token[ordinary] <= limit).sum()),
                "candidates": [
                    {"id": i, "token": shown(peer.pieces[i]), "value": float(of_token[i]), "seen": int(counts[i])}
                    for i in order.tolist()
                ],
            }
    return report
