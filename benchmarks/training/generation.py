"""Generated tokens per second with a key/value cache: ours and transformers' `generate` on one checkpoint, taking turns.

    python -m benchmarks.training.generation [--rounds 5] [--threads 1] [--batches 1 32] [--dtypes float32 bfloat16]

A Llama of random weights (6 layers x 384, 6 heads, vocabulary 8,192 by default) is saved once and loaded by both in the same
dtype. Prompts of `--prompt` tokens, `--new` new ones, no end token, in one process, turn by turn; greedy (both must say the same
in float32, or the difference is printed) and sampled with top-p 0.9. "ragged": prompts of a quarter of the length to all of it,
which transformers pads on the left. Prints a Markdown table: medians of tokens per second of CPU time (on CUDA: of the clock),
and the median of the turns' ratios with their range.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--modes", nargs="+", default=["greedy", "top-p", "ragged"])
    parser.add_argument("--device", default="cpu")
    sizes = {"layers": 6, "width": 384, "heads": 6, "kv_heads": 6, "vocabulary": 8192, "prompt": 64, "new": 64}
    for key, value in sizes.items():
        parser.add_argument(f"--{key.replace('_', '-')}", type=int, default=value)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    print(
        "| rows | dtype | prompts | ours, tokens/s | transformers | ratio (least to most) |\n|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        for dtype in given.dtypes:
            contest = Contest(given, dtype, Path(folder) / dtype)
            for rows in given.batches:
                for mode in given.modes:
                    if mode != "ragged" or rows > 1:
                        print(f"| {rows} | {dtype} | {mode} | {' | '.join(contest.turns(rows, mode))} |", flush=True)


class Contest:
    """Both sides, loaded from one folder."""

    def __init__(self, given: argparse.Namespace, dtype: str, folder: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        from training.checkpoint import save_model
        from training.config import resolve
        from training.inference.load import load_decoder
        from training.model import Decoder, model_config

        torch.set_num_threads(given.threads)
        shape = resolve(
            {"layers": given.layers, "width": given.width, "heads": given.heads, "kv_heads": given.kv_heads}
            | {"mlp_width": given.width * 8 // 3 // 64 * 64}
        )
        model = Decoder(model_config(shape, given.vocabulary, given.prompt + given.new)).initialise(0)
        with torch.no_grad():  # or every prediction is about the same
            model.lm_head.weight.mul_(20)
        save_model(folder, model, folder, eos_id=0)
        self.given, self.device, self.exact = given, torch.device(given.device), dtype == "float32"
        kind = getattr(torch, dtype)
        self.ours = load_decoder(folder, self.device, kind)[0]
        self.theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=kind).to(self.device).eval()
        self.theirs.generation_config.eos_token_id = None

    def prompts(self, rows: int, ragged: bool) -> list[list[int]]:
        import torch

        generator = torch.Generator().manual_seed(rows)
        whole = torch.randint(1, self.given.vocabulary, (rows, self.given.prompt), generator=generator).tolist()
        quarter = self.given.prompt // 4
        lengths = [quarter + (self.given.prompt - quarter) * row // max(1, rows - 1) for row in range(rows)]
        return [prompt[: lengths[row]] if ragged else prompt for row, prompt in enumerate(whole)]

    def turns(self, rows: int, mode: str) -> list[str]:
        prompts = self.prompts(rows, mode == "ragged")
        sides: list[Callable[[], Any]] = [
            lambda: self.our_tokens(prompts, mode == "top-p"),
            lambda: self.their_tokens(prompts, mode == "top-p"),
        ]
        first, second = (side() for side in sides)  # warm
        if self.exact and mode != "top-p" and first != second:
            differ = sum(one != other for one, other in zip(first, second, strict=True))
            print(f"{differ} of {rows} greedy rows differ")
        rates: list[list[float]] = [[], []]
        for turn in range(self.given.rounds):
            for side in (0, 1) if turn % 2 else (1, 0):
                start = self.now()
                sides[side]()
                rates[side].append(rows * self.given.new / (self.now() - start))
        ratios = [one / other for one, other in zip(*rates, strict=True)]
        return [
            *(f"{statistics.median(rate):,.0f}" for rate in rates),
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
        ]

    def now(self) -> float:
        if self.device.type == "cpu":
            return time.process_time()
        import torch

        torch.cuda.synchronize()
        return time.perf_counter()

    def our_tokens(self, prompts: list[list[int]], sampled: bool) -> list[list[int]]:
        from training.inference.batch import generate_batch
        from training.inference.sampling import Sampling

        sampling = Sampling(
            temperature=1.0 if sampled else 0.0, top_p=0.9 if sampled else None, max_new_tokens=self.given.new
        )
        return [one.tokens for one in generate_batch(self.ours, prompts, sampling, [])]

    def their_tokens(self, prompts: list[list[int]], sampled: bool) -> list[list[int]]:
        import torch

        longest = max(map(len, prompts))
        tokens = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts], device=self.device)
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=self.device)
        settings: dict[str, Any] = {"do_sample": True, "top_p": 0.9, "top_k": 0} if sampled else {"do_sample": False}
        with torch.no_grad():
            out = self.theirs.generate(
                tokens, attention_mask=mask, max_new_tokens=self.given.new, pad_token_id=0, use_cache=True, **settings
            )
        return out[:, longest:].tolist()


if __name__ == "__main__":
    main()
