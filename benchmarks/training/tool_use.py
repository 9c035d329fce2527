"""A small model that answers sums by itself, and one that calls a calculator: accuracy on questions it never saw.

    python -m benchmarks.training.tool_use [--digits 2] [--steps 800] [--rows 3000] [--ways calculator,alone] [--grpo 0]

Both are the same model from the same start, fine-tuned for as many steps on the same questions, on one thread. `--grpo N`: the
one with the calculator learns N more steps from rewards. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tokenizer_training.vocabulary.special import CHAT_TEMPLATE
from training.chat.format import chat_format
from training.checkpoint import load_model, save_model
from training.inference.sampling import Sampling
from training.model import Decoder, ModelConfig
from training.reinforcement.config import GrpoConfig
from training.reinforcement.grpo import grpo
from training.tools.arithmetic import arithmetic_conversations
from training.tools.loop import tool_rollouts
from training.tools.registry import Toolbox, calculator_tool
from training.tuning.sft import sft
from training.tuning.sft_config import SftConfig
from training.verify import verifier

SPECIAL = [
    "<|endoftext|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|tool|>",
    "<|end|>",
    "<tool_call>",
    "</tool_call>",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--digits", type=int, default=2)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--ways", default="calculator,alone")
    parser.add_argument("--grpo", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = arithmetic_conversations(options.rows + 200, seed=1, digits=options.digits, terms=2)
    held_out = {_expression(row) for row in rows[-200:]}
    train = [row for row in rows[:-200] if _expression(row) not in held_out]
    box = Toolbox([calculator_tool()])
    print("| answers | examples | steps | loss at the end | right, of 200 unseen | called the tool | CPU seconds |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        start(root, train)
        for way in options.ways.split(","):
            data = root / f"{way}.jsonl"
            shown = [row if way == "calculator" else {**row, "messages": row["messages"][::3]} for row in train]
            data.write_text("\n".join(map(json.dumps, shown)) + "\n", encoding="utf-8")
            config = SftConfig(
                steps=options.steps, learning_rate=3e-3, batch_rows=4, micro_batch_rows=4, eval_every=options.steps,
                save_every=options.steps, device="cpu", dtype="float32", threads=1, validation=0.02, beta2=0.99,
            )  # fmt: skip
            began = time.process_time()
            sft(config, root / "base", data, root / way, log=lambda line: None)
            used = time.process_time() - began
            lines = [json.loads(line) for line in (root / way / "metrics.jsonl").read_text().splitlines()]
            loss = [line["loss"] for line in lines if "loss" in line][-1]
            right, called = accuracy(root / way, rows[-200:], box)
            print(
                f"| {way} | {len(train):,} | {options.steps} | {loss:.3f} | {right} | {called} | {used:.0f} |",
                flush=True,
            )
            if options.grpo and way == "calculator":
                began = time.process_time()
                rewarded(root, train, options.grpo)
                used = time.process_time() - began
                right, called = accuracy(root / "grpo", rows[-200:], box)
                print(
                    f"| then GRPO | {len(train):,} | {options.grpo} | | {right} | {called} | {used:.0f} |", flush=True
                )


def rewarded(root: Path, rows: list[dict[str, Any]], steps: int) -> None:
    """GRPO with the calculator, from the fine-tuned model, on the questions of its training."""
    prompts = [
        {"prompt": row["messages"][:1], "answer": row["messages"][2]["content"], "verifier": "number"} for row in rows
    ]
    (root / "prompts.jsonl").write_text("\n".join(map(json.dumps, prompts)) + "\n", encoding="utf-8")
    config = GrpoConfig(
        steps=steps, learning_rate=3e-4, batch_rows=64, micro_batch_rows=16, group=8, max_new_tokens=80, eval_every=steps,
        save_every=steps, eval_rows=8, eval_samples=0, device="cpu", dtype="float32", threads=1, tools=("calculator",), tool_calls=1, list_tools=False,
        verifier_options={"number": {"marker": "####"}},
    )  # fmt: skip
    grpo(config, root / "calculator", root / "prompts.jsonl", root / "grpo", log=lambda line: None)


def start(root: Path, rows: list[dict[str, Any]]) -> None:
    """A tokenizer of bytes and frequent pieces, digits apart, and a model with random weights."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((json.dumps(row["messages"]) for row in rows[:500]), trainer)
    (root / "tokenizer").mkdir()
    tokenizer.save(str(root / "tokenizer" / "tokenizer.json"))
    about = {"eos_token": SPECIAL[0], "chat_template": CHAT_TEMPLATE}
    (root / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(about))
    config = ModelConfig(tokenizer.get_vocab_size(), 256, 2, 64, 4, 2, 128, 16)
    save_model(root / "base", Decoder(config).initialise(0), root / "tokenizer", 0)


def accuracy(folder: Path, rows: list[dict[str, Any]], box: Toolbox) -> tuple[int, int]:
    """(right answers, rows in which the tool was called), greedy."""
    model, _ = load_model(folder, torch.device("cpu"))
    form = chat_format(folder)
    prompts = [form.encode(row["messages"][:1], prompt=True).ids for row in rows]
    found = tool_rollouts(model, prompts, Sampling(temperature=0, max_new_tokens=120), form, box)
    check = verifier("number", marker="####")
    texts = [form.tokenizer.decode(one.answer, skip_special_tokens=True) for one in found]
    right = sum(check(text, row["messages"][2]["content"]).score for text, row in zip(texts, rows, strict=True))
    return int(right), sum(bool(one.used) for one in found)


def _expression(row: dict[str, Any]) -> str:
    return str(row["messages"][1]["tool_calls"][0]["function"]["arguments"]["expression"])


if __name__ == "__main__":
    main()
