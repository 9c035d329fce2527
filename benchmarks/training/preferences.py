"""Which of two answers is better, on held-out pairs: the SFT model's likelihoods, a reward model's scores, DPO's rewards.

    python -m benchmarks.training.preferences PAIRS [--seeds 3] [--smoke]

PAIRS: JSONL (`.xz` too) with `instruction`, `chosen`, `rejected`, and perhaps `input`. A fifth of the instructions is held out of
everything. A tokenizer of 1,000 tokens and a base model (2 layers x 64) are made from the other rows; SFT learns the chosen answers;
reward model and DPO start from the SFT model. Prints a Markdown table: medians over the seeds, and lowest to highest.
"""

from __future__ import annotations

import argparse
import json
import lzma
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tokenizer_training.vocabulary.special import CHAT_TEMPLATE, END_OF_DOCUMENT, END_OF_TURN, ROLES
from training.chat.format import chat_format
from training.checkpoint import load_model, save_model
from training.config import resolve
from training.knobs import resolve_as
from training.model import Decoder, model_config
from training.preference.calibration import judge
from training.preference.config import DpoConfig, RewardConfig
from training.preference.dpo import answer_logprobs, dpo
from training.preference.pairs import encode_pairs, read_pairs
from training.preference.reward_model import reward
from training.tuning.rows import identity
from training.tuning.run import held_out
from training.tuning.sft import sft
from training.tuning.sft_config import SftConfig

HELD_OUT, CONTEXT = 0.2, 256
SHAPE = {"layers": 2, "width": 64, "heads": 4, "kv_heads": 4, "mlp_width": 192}
COMMON = {
    "device": "cpu",
    "dtype": "float32",
    "threads": 1,
    "log_every": 1000,
    "eval_every": 10_000,
    "save_every": 10_000,
}
BASE = {"steps": 100, "learning_rate": 4e-3, "batch_rows": 8, "validation": 0}
SFT = {"epochs": 2, "learning_rate": 2e-3, "batch_rows": 8, "validation": 0}
PAIRED = {"batch_rows": 16, "micro_batch_rows": 16, "validation": HELD_OUT, "eval_rows": 1000, "epochs": 3}
REWARD = {**PAIRED, "learning_rate": 1e-3}
DPO = {**PAIRED, "learning_rate": 3e-4, "beta": 0.1}


def asked(row: dict[str, Any]) -> list[dict[str, str]]:
    """The question of a row."""
    return [{"role": "user", "content": "\n\n".join(part for part in (row["instruction"], row.get("input")) if part)}]


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a file."""
    given = path.read_bytes()
    text = (lzma.decompress(given) if path.suffix == ".xz" else given).decode()
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """JSONL."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_tokenizer(folder: Path, texts: list[str]) -> int:
    """Byte-level BPE with the special tokens of a chat; its size."""
    special = [END_OF_DOCUMENT, *ROLES.values(), END_OF_TURN]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1000, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END_OF_DOCUMENT, "pad_token": END_OF_DOCUMENT}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    return tokenizer.get_vocab_size()


@torch.no_grad()
def by_likelihood(folder: Path, pairs: Path, by_token: bool) -> dict[str, Any]:
    """How right a language model is that prefers the likelier answer, by its sum or its mean over tokens."""
    model, _ = load_model(folder, torch.device("cpu"))
    _, held = encode_pairs(read_pairs(pairs), chat_format(folder), CONTEXT, HELD_OUT, lambda _: None)
    apart: list[float] = []
    for start in range(0, len(held), 16):
        part = held[start : start + 16]
        chosen, rejected = answer_logprobs(model, part, torch.device("cpu"))
        if by_token:
            chosen /= torch.tensor([one.chosen.length for one in part])
            rejected /= torch.tensor([one.rejected.length for one in part])
        apart += (chosen - rejected).tolist()
    return judge(apart)


def chain(seed: int, rows: list[dict[str, Any]], folder: Path, smoke: bool) -> dict[str, dict[str, Any]]:
    """Everything of one seed: what each judge says of the held-out pairs."""
    folder.mkdir(parents=True)
    apart = held_out([identity(asked(row)) for row in rows], HELD_OUT)
    train = [row for row, out in zip(rows, apart, strict=True) if not out]
    texts = [asked(row)[0]["content"] + "\n\n" + row[key] for row in train for key in ("chosen", "rejected")]
    size = write_tokenizer(folder / "init", texts)
    save_model(
        folder / "init", Decoder(model_config(resolve(SHAPE), size, CONTEXT)).initialise(seed), folder / "init", [0]
    )
    plain = write(folder / "plain.jsonl", [{"id": str(n), "text": text} for n, text in enumerate(texts)])
    chats = write(
        folder / "chats.jsonl",
        [{"messages": [*asked(row), {"role": "assistant", "content": row["chosen"]}]} for row in train],
    )
    pairs = write(
        folder / "pairs.jsonl",
        [{"prompt": asked(row), "chosen": row["chosen"], "rejected": row["rejected"]} for row in rows],
    )
    knobs = {**COMMON, "seed": seed}
    few = {"steps": 2} if smoke else {}

    def quiet(_: object) -> None:
        pass

    began = time.process_time()
    sft(resolve_as(SftConfig, {**knobs, **BASE, **few}, "base"), folder / "init", plain, folder / "base", log=quiet)
    sft(resolve_as(SftConfig, {**knobs, **SFT, **few}, "sft"), folder / "base", chats, folder / "sft", log=quiet)
    before = time.process_time() - began
    found = {
        "SFT model, likelier answer": by_likelihood(folder / "sft", pairs, False),
        "SFT model, likelier by token": by_likelihood(folder / "sft", pairs, True),
    }
    began = time.process_time()
    made = reward(
        resolve_as(RewardConfig, {**knobs, **REWARD, **few}, "reward"),
        folder / "sft",
        pairs,
        folder / "reward",
        log=quiet,
    )
    found["reward model"] = {**made["held_out"], "seconds": time.process_time() - began}
    began = time.process_time()
    made = dpo(resolve_as(DpoConfig, {**knobs, **DPO, **few}, "dpo"), folder / "sft", pairs, folder / "dpo", log=quiet)
    found["DPO, implicit reward"] = {
        "accuracy": made["figures"]["validation_accuracy"],
        "loss": made["figures"]["validation_loss"],
        "seconds": time.process_time() - began,
    }
    found["DPO model, likelier answer"] = by_likelihood(folder / "dpo", pairs, False)
    print(f"seed {seed}: base and SFT {before:.0f} CPU s, {found['reward model']['pairs']} pairs held out", flush=True)
    return found


def main() -> None:
    """Run the chains and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="two steps of everything: does it run")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = read(options.pairs)
    with tempfile.TemporaryDirectory() as scratch:
        chains = [chain(seed, rows, Path(scratch) / str(seed), options.smoke) for seed in range(options.seeds)]
    print(
        "| judge | accuracy on held-out pairs | lowest to highest | loss | calibration error | CPU s |\n|---|---|---|---|---|---|"
    )
    for name in chains[0]:
        values = [one[name] for one in chains]
        accuracy = [100 * one["accuracy"] for one in values]
        cells = [f"{statistics.median(accuracy):.1f} %", f"{min(accuracy):.1f} to {max(accuracy):.1f}"]
        for key, form in (("loss", "{:.3f}"), ("calibration_error", "{:.3f}"), ("seconds", "{:.0f}")):
            known = [one[key] for one in values if key in one and not (key != "seconds" and "likelier" in name)]
            cells.append(form.format(statistics.median(known)) if known else "")
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
