"""Reinforcement learning on verifiable rewards: accuracy on held-out sums after SFT, and after GRPO and PPO from there.

    python -m benchmarks.training.arithmetic [--seeds 3] [--jobs 2] [--output FOLDER] [--smoke]

Sums of two numbers from 0 to 99, digit by digit; 4 % of the 10,000 are held out of everything. SFT teaches a model of random weights
(2 layers x 64) to answer them as a chat; its first checkpoint with 45 % right is taken, so that there is room. Then GRPO and PPO
start from that with the verifier `integer` as the only reward. Prints a Markdown table of the accuracy of the likeliest answer and of
drawn ones, and writes plots (SVG) of held-out accuracy, reward, KL and length to the folder.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tokenizer_training.vocabulary.special import CHAT_TEMPLATE, END_OF_DOCUMENT, END_OF_TURN, ROLES
from training.architectures import read_tensors
from training.chat.format import chat_format
from training.checkpoint import checkpoints, load_model, save_model
from training.config import resolve
from training.inference.batch import generate_batch
from training.inference.sampling import Sampling
from training.knobs import resolve_as
from training.model import Decoder, model_config
from training.reinforcement.best_of_n import best_of_n
from training.reinforcement.config import GrpoConfig, PpoConfig
from training.reinforcement.grpo import grpo
from training.reinforcement.ppo import ppo
from training.reinforcement.rollouts import completion_text
from training.report.charts import Line, lines
from training.tuning.rows import identity
from training.tuning.run import held_out
from training.tuning.sft import sft
from training.tuning.sft_config import SftConfig

HELD_OUT, DRAWS = 0.04, 8
SHAPE = {"layers": 2, "width": 64, "heads": 4, "kv_heads": 4, "mlp_width": 192}
COMMON = {"device": "cpu", "dtype": "float32", "threads": 1, "log_every": 1000, "beta2": 0.99}
SFT = {
    "steps": 1000,
    "learning_rate": 3e-3,
    "schedule": "constant",
    "batch_rows": 48,
    "micro_batch_rows": 48,
    "validation": 0,
    "save_every": 10,
    "keep_every": 10,
}
ENOUGH = 0.45  # accuracy of the checkpoint that is taken
# Many answers a step and a small learning rate: with a quarter of them, at 7e-4, accuracy fell first (docs/reinforcement.md)
RL = {"learning_rate": 3e-4, "minibatches": 4, "micro_batch_rows": 256, "generation_rows": 256, "max_new_tokens": 6,
      "validation": HELD_OUT, "eval_every": 10, "eval_rows": 1000, "eval_samples": 0, "steps": 300}  # fmt: skip
GRPO: dict[str, Any] = {"batch_rows": 1024, "group": 4}
PPO: dict[str, Any] = {"batch_rows": 512, "passes": 1, "kl": 0.0, "gae_decay": 1.0, "value_learning_rate": 1e-3}


def talk(a: int, b: int) -> list[dict[str, str]]:
    """The question."""
    return [{"role": "user", "content": f"{a}+{b}"}]


def write_tokenizer(folder: Path) -> None:
    """Digits and signs, a token each, and the special tokens of a chat."""
    special = [END_OF_DOCUMENT, *ROLES.values(), END_OF_TURN]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=len(special) + 12, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(["0123456789+="], trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END_OF_DOCUMENT, "pad_token": END_OF_DOCUMENT}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """JSONL."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def accuracy(folder: Path, sums: list[tuple[int, int]], seed: int = 0, draws: int = DRAWS) -> dict[str, float]:
    """Shares of the sums that the likeliest answer, a drawn one, and the best of some drawn ones have right."""
    model, _ = load_model(folder, torch.device("cpu"))
    form = chat_format(folder)
    prompts = [form.encode(talk(*one), prompt=True).ids for one in sums]

    def right(sampling: Sampling, times: int) -> list[float]:
        asked = [prompt for prompt in prompts for _ in range(times)]
        said = generate_batch(model, asked, sampling, form.end_ids, max_rows=256)
        answers = [str(sum(one)) for one in sums for _ in range(times)]
        return [float(completion_text(form, a.tokens) == b) for a, b in zip(said, answers, strict=True)]

    greedy = right(Sampling(temperature=0, max_new_tokens=6), 1)
    if not draws:
        return {"likeliest": statistics.mean(greedy)}
    drawn = right(Sampling(max_new_tokens=6, seed=seed), draws)
    groups = [drawn[at : at + draws] for at in range(0, len(drawn), draws)]
    return {
        "likeliest": statistics.mean(greedy),
        "drawn": statistics.mean(drawn),
        f"best of {draws}": statistics.mean(best_of_n(group, draws) for group in groups),
    }


class Data(NamedTuple):
    """Where the rows are, and the sums that are held out."""

    chats: Path
    prompts: Path
    held: list[tuple[int, int]]


def write_data(folder: Path) -> Data:
    """The sums as chats, and as prompts with answers; those held out are in the last alone."""
    sums = [(a, b) for a in range(100) for b in range(100)]
    apart = held_out([identity(talk(*one)) for one in sums], HELD_OUT)  # as grpo and ppo hold prompts out
    held = [one for one, out in zip(sums, apart, strict=True) if out]
    train = [one for one, out in zip(sums, apart, strict=True) if not out]
    answers = [[*talk(a, b), {"role": "assistant", "content": str(a + b)}] for a, b in train]
    chats = write_rows(
        folder / "chats.jsonl", [{"id": str(n), "messages": messages} for n, messages in enumerate(answers)]
    )
    rows = [
        {"id": f"{a}+{b}", "prompt": talk(a, b), "answer": str(a + b), "verifier": "integer"}
        for a, b in (*train, *held)
    ]
    return Data(chats, write_rows(folder / "prompts.jsonl", rows), held)


def values(seed: int, smoke: bool, *given: dict[str, Any]) -> dict[str, Any]:
    """Knobs, the later over the earlier."""
    merged: dict[str, Any] = {**COMMON, "seed": seed}
    for one in given:
        merged |= one
    return merged | ({"steps": 3} if smoke else {})


def write_checkpoint(state: Path, init: Path, out: Path) -> None:
    """The model of a checkpoint as a folder of its own."""
    model, end = load_model(init, torch.device("cpu"))
    tensors = read_tensors(state / "model.safetensors")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[name])
    save_model(out, model, init, end)


def chain(seed: int, folder: Path, data: Data, smoke: bool) -> dict[str, Any]:
    """SFT, GRPO, PPO of one seed; accuracies, CPU seconds and the lines of metrics.jsonl."""
    init = folder / "init"
    write_tokenizer(init)
    size = Tokenizer.from_file(str(init / "tokenizer.json")).get_vocab_size()
    save_model(init, Decoder(model_config(resolve(SHAPE), size, 32)).initialise(seed), init, [0])
    knobs = partial(values, seed, smoke)
    found: dict[str, Any] = {}

    def note(name: str, folder: Path, began: float) -> None:
        took = time.process_time() - began
        lines_of = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        found[name] = {"seconds": took, "metrics": lines_of, **accuracy(folder, data.held, seed)}
        print(
            f"seed {seed}: {name} {found[name]['likeliest']:.3f}, drawn {found[name]['drawn']:.3f}, {took:.0f} CPU s",
            flush=True,
        )

    began = time.process_time()
    sft(resolve_as(SftConfig, knobs(SFT), "sft"), init, data.chats, folder / "sft", log=quiet)
    after = folder / "begun"
    for state in checkpoints(folder / "sft" / "trainer_state"):
        write_checkpoint(state, init, after)
        if accuracy(after, data.held, draws=0)["likeliest"] >= ENOUGH:
            break
    (after / "metrics.jsonl").write_bytes((folder / "sft" / "metrics.jsonl").read_bytes())
    note("sft", after, began)
    found["sft"]["steps"] = int(state.name.removeprefix("step-"))
    for name, train_it in (
        ("grpo", partial(grpo, resolve_as(GrpoConfig, knobs(RL, GRPO), "grpo"))),
        ("ppo", partial(ppo, resolve_as(PpoConfig, knobs(RL, PPO), "ppo"))),
    ):
        began = time.process_time()
        train_it(after, data.prompts, folder / name, log=quiet)
        note(name, folder / name, began)
    return found


def quiet(_: object) -> None:
    """Say nothing."""


STYLE = (
    "<style>.chart{font:12px sans-serif;background:#fff}.grid{stroke:#ddd}.axis{stroke:#333}.line{fill:none;"
    "stroke-width:1.6}.a{stroke:#1f5fa8}.b{stroke:#c0392b}.tick,.value{fill:#333}.limit{stroke:#888;stroke-dasharray:4}"
    ".limit-name{fill:#666}</style>"
)


def plot(chains: list[dict[str, Any]], folder: Path) -> None:
    """One SVG for each figure: GRPO and PPO, medians over the chains."""
    start = statistics.median(one["sft"]["likeliest"] for one in chains)
    for figure, level in (
        ("validation_reward", ("SFT", start)), ("reward", None), ("kl", None), ("length", None), ("entropy", None),
    ):  # fmt: skip
        series = []
        for name, style in (("grpo", "a"), ("ppo", "b")):
            points: dict[int, list[float]] = {}
            for one in chains:
                for line in one[name]["metrics"]:
                    if figure in line:
                        points.setdefault(line["step"], []).append(line[figure])
            steps = sorted(points)
            series.append(Line(name.upper(), style, steps, [statistics.median(points[step]) for step in steps]))
        title = "held-out accuracy" if figure == "validation_reward" else figure
        drawn = str(lines(series, title, "step", level))
        drawn = drawn.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1).replace(">", f">{STYLE}", 1)
        (folder / f"{title.replace(' ', '-')}.svg").write_text(drawn, encoding="utf-8")


def table(chains: list[dict[str, Any]]) -> str:
    """Markdown: medians over the chains, and the range of the likeliest answer's accuracy."""
    names = ("likeliest", "drawn", f"best of {DRAWS}")
    rows = [
        "| model | likeliest answer | lowest to highest | a drawn answer | best of 8 drawn | CPU s |",
        "|---|---|---|---|---|---|",
    ]
    for stage in ("sft", "grpo", "ppo"):
        columns = {name: [one[stage][name] for one in chains] for name in names}
        middle = {name: statistics.median(values) for name, values in columns.items()}
        spread = f"{100 * min(columns['likeliest']):.1f} to {100 * max(columns['likeliest']):.1f}"
        seconds = statistics.median(one[stage]["seconds"] for one in chains)
        rows.append(
            f"| {stage.upper()} | {100 * middle['likeliest']:.1f} % | {spread} | {100 * middle['drawn']:.1f} % "
            f"| {100 * middle[names[2]]:.1f} % | {seconds:.0f} |"
        )
    return "\n".join(rows)


def main() -> None:
    """Run the chains and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="seeds at a time, a thread each")
    parser.add_argument("--output", type=Path, help="folder for the plots; by default none are kept")
    parser.add_argument("--smoke", action="store_true", help="three steps of everything: does it run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        data = write_data(Path(scratch))
        with ProcessPoolExecutor(options.jobs, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
            made = [
                pool.submit(chain, seed, Path(scratch) / str(seed), data, options.smoke)
                for seed in range(options.seeds)
            ]
            chains = [one.result() for one in made]
        folder = options.output or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        plot(chains, folder)
    print(table(chains))


if __name__ == "__main__":
    main()
