"""A small tokenizer and token dataset for the trainer's tests, written by hand after the layout's description."""

import hashlib
import json
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

EOS = "<|endoftext|>"
SPECIAL = [EOS, "<|user|>", "<|assistant|>"]


def texts(count: int = 120, seed: int = 0) -> list[str]:
    """Documents with some structure to learn, several scripts, and characters that tokens cut in half."""
    draw = random.Random(seed)
    subjects = ["the miller", "a river", "the old mill", "der Müller", "мельник", "粉屋", "la meunière", "🌾 grain"]
    verbs = ["grinds", "carries", "turns", "mahlt", "мелет", "挽く", "porte", "keeps"]
    objects = [
        "the corn.",
        "water\nto the wheel.",
        "stones;",
        "das Korn.",
        "зерно.",
        "麦を。",
        "la farine…",
        "flour 🥖",
    ]
    sentence = lambda: f"{draw.choice(subjects)} {draw.choice(verbs)} {draw.choice(objects)}"  # noqa: E731
    return [" ".join(sentence() for _ in range(draw.randint(1, 12))) for _ in range(count)]


def write_tokenizer(folder: Path, corpus: list[str], vocab_size: int = 400) -> Tokenizer:
    """A byte-level BPE in the layout of the run directory."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(corpus, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": EOS, "model_max_length": 64}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    return tokenizer


def write_dataset(folder: Path, tokenizer: Tokenizer, splits: dict[str, list[str]], tokenizer_dir: Path, length: int):
    """Token files, sidecars, pack indexes and dataset.json. Rows are cut from the payload; every third is left short."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.encode_special_tokens = True
    eos = tokenizer.token_to_id(EOS)
    facts: dict = {
        "format": 1,
        "dtype": "uint16",
        "vocab_size": tokenizer.get_vocab_size(),
        "eos_id": eos,
        "special_ids": {token: tokenizer.token_to_id(token) for token in SPECIAL},
        "tokenizer_sha256": hashlib.sha256((tokenizer_dir / "tokenizer.json").read_bytes()).hexdigest(),
        "splits": {},
        "pack": {str(length): {"splits": {}}},
    }
    for split, documents in splits.items():
        encoded = [tokenizer.encode(text).ids for text in documents]
        payload = np.array([token for ids in encoded for token in [*ids, eos]], dtype="<u2")
        facts["splits"][split] = []
        rows, at = [], 0
        while at < len(payload):
            size = min(length - (length // 4 if len(rows) % 3 == 2 else 0), len(payload) - at)
            rows.append((len(rows), at, size, 0))
            at += size
        facts["pack"][str(length)]["splits"][split] = {"rows": len(rows)}
        if not documents:
            continue
        name = f"{split}-00000"
        payload.tofile(folder / f"{name}.bin")
        lengths = [len(ids) for ids in encoded]
        offsets = np.concatenate([[0], np.cumsum(np.array(lengths) + 1)[:-1]])
        sidecar = {
            "id": [f"{split}{n:04d}" for n in range(len(documents))],
            "token_offset": pa.array(offsets, pa.int64()),
            "token_length": pa.array(lengths, pa.int64()),
            "source": ["test"] * len(documents),
            "repeat": pa.array([1] * len(documents), pa.int32()),
        }
        pq.write_table(pa.table(sidecar), folder / f"{name}.parquet")
        columns = list(zip(*rows, strict=True))
        kinds = {"row": pa.int64(), "token_offset": pa.int64(), "token_length": pa.int64(), "shard": pa.int32()}
        index = {key: pa.array(values, kind) for (key, kind), values in zip(kinds.items(), columns, strict=True)}
        pq.write_table(pa.table(index), folder / f"{split}.pack-{length}.parquet")
        facts["splits"][split] = [
            {
                "file": f"{name}.bin",
                "tokens": len(payload),
                "documents": len(documents),
                "bytes": sum(len(text.encode()) for text in documents),
                "sha256": hashlib.sha256(payload.tobytes()).hexdigest(),
            }
        ]
    (folder / "dataset.json").write_text(json.dumps(facts))


def make(folder: Path, length: int = 64, documents: int = 120, validation: int = 12) -> tuple[Path, Path]:
    """(token dataset, tokenizer folder) made of `texts`."""
    corpus = texts(documents)
    tokenizer = write_tokenizer(folder / "tokenizer", corpus)
    held_out = texts(validation, seed=1) if validation else []
    splits = {"train": corpus, "validation": held_out}
    write_dataset(folder / "tokens", tokenizer, splits, folder / "tokenizer", length)
    return folder / "tokens", folder / "tokenizer"


SMALL = {
    "layers": 2,
    "width": 32,
    "heads": 4,
    "kv_heads": 2,
    "mlp_width": 64,
    "steps": 8,
    "batch_rows": 4,
    "micro_batch_rows": 4,
    "eval_every": 4,
    "eval_rows": 8,
    "save_every": 2,
    "dtype": "float32",
    "device": "cpu",
}
