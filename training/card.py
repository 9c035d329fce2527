"""README.md of a model folder: a Hugging Face model card of data, config, metrics and lineage.

A pure function of training.json, dataset.json and documents/: two equal runs give equal cards but for what clocks and the machine
measured, which stands in a section of its own.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tokenizer_training.dataset.read import TokenDataset
from training.checkpoint import write_whole
from training.knobs import TrainingError

MOST = 30  # rows of a table
COLUMNS = ("language", "licence")  # of documents/, counted for the card
MACHINE = ("tokens_per_second", "mfu", "memory_bytes", "device", "dtype", "threads", "processes")


def write_card(
    folder: Path, summary: Mapping[str, Any], tokens: TokenDataset, counted: Mapping[str, Mapping[str, int]]
) -> None:
    """Write README.md from what training.json will hold. `counted`: what `count_columns` found."""
    text = card(folder.resolve().name, summary, tokens, counted)
    write_whole(folder / "README.md", lambda file: file.write_text(text, encoding="utf-8", errors="replace"))


def count_columns(documents_dir: Path | None) -> dict[str, Counter[str]]:
    """Documents by language and by licence, of those columns of text that documents/*.parquet has; reads a row group at a time."""
    found: dict[str, Counter[str]] = {}
    for file in sorted(documents_dir.glob("*.parquet")) if documents_dir is not None else ():
        try:
            parquet = pq.ParquetFile(file)
            there = [name for name in COLUMNS if name in parquet.schema_arrow.names and _is_text(parquet, name)]
            for group in range(parquet.num_row_groups if there else 0):
                table: Any = parquet.read_row_group(group, columns=there)
                for name in there:
                    for one in table.column(name).cast(pa.string()).value_counts().to_pylist():
                        found.setdefault(name, Counter())[one["values"] or "not stated"] += one["counts"]
        except (OSError, pa.ArrowException) as error:
            raise TrainingError(f"cannot read {file}: {error}") from None
    return found


def _is_text(parquet: pq.ParquetFile, name: str) -> bool:
    kind = parquet.schema_arrow.field(name).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def card(name: str, summary: Mapping[str, Any], tokens: TokenDataset, counted: Mapping[str, Mapping[str, int]]) -> str:
    """The text of the card. `counted`: documents by language and by licence, as far as documents/ says."""
    length = summary["sequence_length"]
    packed = tokens.facts["pack"][str(length)]
    lines = [
        *_front_matter(summary, counted),
        f"# {name}",
        "",
        f"A language model of {summary['parameters']:,} parameters, pretrained by Gristmill on {summary['tokens']:,} tokens.",
        "",
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'model = AutoModelForCausalLM.from_pretrained("FOLDER")  # this folder',
        'tokenizer = AutoTokenizer.from_pretrained("FOLDER")',
        "```",
        "",
        "## Data",
        "",
        *_table(
            ("split", "documents", "tokens", "bytes of text"),
            [(split, tokens.documents(split), tokens.tokens(split), _bytes(tokens, split)) for split in tokens.splits],
        ),
        *_mixture(packed["splits"].get("train", {})),
        *[line for column in COLUMNS if column in counted for line in _counts(column, counted[column])],
        *([] if "licence" in counted else ["The licences of the texts are not known here.", ""]),
        f"Rows of {length} tokens, packed by `{packed.get('strategy', 'unknown')}`:",
        "",
        *_table(
            ("split", "rows", "tokens kept", "padding", "dropped", "documents cut"),
            [
                (split, *(facts.get(key, "-") for key in ("rows", "tokens_kept", "tokens_padded", "tokens_dropped", "documents_cut")))
                for split, facts in packed["splits"].items()
            ],
        ),
        "## Held-out text",
        "",
        *_table(
            ("", "loss (nats per token)", "bits per byte", "targets", "bytes"),
            [
                ("all", summary["validation_loss"], summary["bits_per_byte"], "", ""),
                ("token unigrams", "", summary["unigram_bits_per_byte"], "", ""),
                *_parts("source", summary.get("by_source") or {}),
                *_parts("language", summary.get("by_language") or {}),
            ],
        ),
        *_samples(summary.get("samples") or []),
        "## Training",
        "",
        *_table(("knob", "value"), [(key, json.dumps(value)) for key, value in summary["config"].items()]),
        f"{summary['steps']:,} steps; {summary['flops_per_token']:,.0f} FLOPs a token, {summary['flops_per_token'] * summary['tokens']:.3g} in all.",
        *([f"Batches refused and skipped: {summary['skipped_batches']}."] if summary.get("skipped_batches") else []),
        "",
        "## Lineage",
        "",
        *_table(("what", "SHA-256"), _hashes(summary["lineage"])),
        "`python -m training trace FOLDER --step N` lists the documents of a batch, `--document ID` the steps that read one.",
        "",
        "## Measured on the machine",
        "",
        *_table(("what", "value"), [(key.replace("_", " "), summary.get(key)) for key in MACHINE]),
    ]  # fmt: skip
    return "\n".join(lines)


def _front_matter(summary: Mapping[str, Any], counted: Mapping[str, Mapping[str, int]]) -> list[str]:
    """What the Hub reads: library, task, languages by their number of documents (two- or three-letter codes), the metric."""
    languages = [code for code, _ in _ordered(counted.get("language", {})) if code.isalpha() and 2 <= len(code) <= 3]
    return [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags:",
        "- gristmill",
        *(["language:", *(f'- "{code}"' for code in languages[:MOST])] if languages else []),
        "---",
        "",
    ]


def _mixture(train: Mapping[str, Any]) -> list[str]:
    mixture = train.get("mixture")
    if not isinstance(mixture, Mapping):
        return []
    by = train.get("mixture_by", "source")
    rows = [
        (name, part.get("documents", "-"), part.get("tokens", "-"))
        for name, part in mixture.items()
        if isinstance(part, Mapping)
    ]
    rows.sort(key=lambda row: (-row[2] if isinstance(row[2], int) else 0, row[0]))
    return _table((by, "documents in train", "tokens in rows"), rows[:MOST])


def _counts(column: str, counts: Mapping[str, int]) -> list[str]:
    rows: list[tuple[Any, ...]] = list(_ordered(counts))[:MOST]
    left = sum(counts.values()) - sum(count for _, count in rows)
    return _table((column, "documents"), [*rows, *([("others", left)] if left else [])])


def _ordered(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _parts(kind: str, parts: Mapping[str, Mapping[str, Any]]) -> list[tuple[Any, ...]]:
    ordered = sorted(parts.items(), key=lambda item: (-item[1]["bytes"], item[0]))[:MOST]
    return [(f"{kind} {name}", p["loss"], p["bits_per_byte"], p["targets"], p["bytes"]) for name, p in ordered]


def _samples(samples: Sequence[Mapping[str, str]]) -> list[str]:
    lines = []
    for sample in samples:
        text = json.dumps(sample["prompt"] + sample["text"], ensure_ascii=False)  # one line, whatever the text holds
        fence = "`" * (max((len(run) for run in _backticks(text)), default=0) + 3)
        lines += [fence, text, fence, ""]
    return ["## Samples", "", *lines] if lines else []


def _backticks(text: str) -> list[str]:
    return "".join(c if c == "`" else " " for c in text).split()


def _hashes(lineage: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    named = (("run", "fingerprint"), ("token dataset", "tokens_checksum"), ("tokenizer.json", "tokenizer_sha256"))
    return [(name, lineage.get(key) or "not recorded") for name, key in named]


def _bytes(tokens: TokenDataset, split: str) -> Any:
    return tokens.bytes(split) if all("bytes" in shard for shard in tokens.splits[split]) else "-"


def _table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """A Markdown table and an empty line behind it; nothing without rows."""
    if not rows:
        return []
    shown = ["| " + " | ".join(_cell(value) for value in row) + " |" for row in rows]
    return ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads), *shown, ""]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    text = " ".join(str(value).split())  # a name may hold anything
    for character in "\\|<>[]`*_":
        text = text.replace(character, "\\" + character)
    return text
