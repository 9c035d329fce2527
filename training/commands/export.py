"""`export`."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from training.knobs import TrainingError


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("export", help="write a model in another program's format")
    parser.add_argument("model", type=Path, metavar="MODEL", help="model folder")
    parser.add_argument("--format", required=True, choices=["gguf"])
    parser.add_argument("--output", required=True, type=Path, metavar="FILE")
    parser.add_argument(
        "--dtype", choices=["f32", "f16", "bf16", "q8_0"], default="f16", help="of matrices; default f16"
    )
    parser.add_argument(
        "--vocabulary", type=Path, metavar="FILE", help="GGUF file with the vocabulary; by default made of MODEL's"
    )
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Write the file, and say how large it is."""
    from training.exports.gguf import export_gguf

    with tempfile.TemporaryDirectory() as folder:
        vocabulary = options.vocabulary or _vocabulary(options.model, Path(folder) / "vocabulary.gguf")
        made = export_gguf(options.model, options.output, vocabulary, options.dtype)
    for note in made["notes"]:
        print(f"note: {note}", file=sys.stderr)
    print(f"{options.output}: {made['tensors']} tensors, {made['bytes']:,} bytes")
    return 0


def _vocabulary(model: Path, out: Path) -> Path:
    """The vocabulary by the tokenizer's own command, which knows what llama.cpp splits alike.

    A process and a file between them: this package imports nothing of the tokenizers' training but the dataset reader.
    """
    command = [
        sys.executable,
        "-m",
        "tokenizer_training",
        "export",
        str(model),
        "--format",
        "gguf",
        "--output",
        str(out),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().removeprefix("error: ") or f"exit code {done.returncode}"
        raise TrainingError(f"no vocabulary for llama.cpp from {model}: {said}; or give --vocabulary FILE")
    return out
