"""The server under concurrent clients, beside `transformers serve` on the same checkpoint.

    python -m benchmarks.training.serving [--clients 32] [--requests 2] [--tokens 64] [--rounds 3] [--width 256] [--layers 6]
                                          [--threads 2] [--dtype float32] [--only NAME ...]

Each client sends streamed chat requests, one after the other; all start together. The checkpoint is random and says words of
one letter without end, so that every answer has all its tokens. Servers stay up for all rounds and are asked in turns. Prints a
Markdown table: medians over rounds, first-token times over all requests of all rounds, CPU time of the server's process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

WORDS = ("the", "old", "mill", "grinds", "corn", "by", "a", "river", "and", "turns", "its", "wheel", "in", "water")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--requests", type=int, default=2, help="of each client in a round")
    parser.add_argument("--tokens", type=int, default=64, help="of each answer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--only", nargs="*", default=None, help="names of contestants")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = write_model(Path(folder) / "bench", options.width, options.layers)
        ports = [free_port() for _ in range(3)]
        peer = [str(Path(sys.executable).parent / "transformers"), "serve", str(model), "--device", "cpu"]
        peer += ["--dtype", options.dtype]
        contestants = {
            "gristmill": [sys.executable, "-m", "training", "serve", str(model), "--dtype", options.dtype,
                          "--threads", str(options.threads), "--max-rows", str(options.clients)],
            "transformers serve": peer,
            "transformers serve --continuous-batching": [*peer, "--continuous-batching"],
        }  # fmt: skip
        chosen = {
            name: command for name, command in contestants.items() if options.only is None or name in options.only
        }
        environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads), "HF_HUB_OFFLINE": "1"}
        running: dict[str, tuple[subprocess.Popen[bytes], str, str]] = {}
        try:
            for (name, command), port in zip(chosen.items(), ports, strict=False):
                log = (Path(folder) / f"{port}.log").open("wb")
                process = subprocess.Popen([*command, "--port", str(port)], env=environment, stdout=log, stderr=log)
                running[name] = (process, f"http://127.0.0.1:{port}", "bench" if name == "gristmill" else str(model))
            found: dict[str, list[dict[str, Any]]] = {}
            for name, (process, address, _) in list(running.items()):
                if not wait_for(process, address):
                    print(
                        f"{name} did not start:", (Path(folder) / f"{address.rsplit(':', 1)[1]}.log").read_text()[-600:]
                    )
                    process.kill()
                    del running[name]
            for number in range(-1, options.rounds):  # the first warms up
                for name, (process, address, called) in running.items():
                    requests = 1 if number < 0 else options.requests
                    figures = asyncio.run(load(address, called, options.clients, requests, options.tokens, process))
                    print(
                        f"round {number + 1} of {options.rounds}, {name}: {figures['rate']:.2f}/s",
                        file=sys.stderr,
                        flush=True,
                    )
                    if number >= 0:
                        found.setdefault(name, []).append(figures)
        finally:
            for process, _, _ in running.values():
                process.kill()
        report(found, options)


def report(found: dict[str, list[dict[str, Any]]], options: argparse.Namespace) -> None:
    print(
        f"{options.clients} clients, {options.requests} requests each, {options.tokens} tokens an answer, {options.layers} layers "
        f"of width {options.width}, {options.dtype}, {options.threads} threads, {options.rounds} rounds\n"
    )
    print("| server | requests/s | tokens/s | first token, median s | 95 % s | CPU s of a round | failed |")
    print("|---|---|---|---|---|---|---|")
    for name, rounds in found.items():
        first = sorted(time for one in rounds for time in one["first"])
        each = lambda key, rounds=rounds: statistics.median(one[key] for one in rounds)  # noqa: E731
        failed = sum(one["failed"] for one in rounds)
        shown = (statistics.median(first), first[int(0.95 * (len(first) - 1))]) if first else (float("nan"),) * 2
        print(
            f"| {name} | {each('rate'):.2f} | {each('rate') * options.tokens:,.0f} | {shown[0]:.3f} | {shown[1]:.3f} "
            f"| {each('cpu'):.2f} | {failed} |"
        )


def write_model(folder: Path, width: int, layers: int) -> Path:
    """A random checkpoint with a byte-level tokenizer of 2,048 ids and a chat template."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    from training.chat.templates import TEMPLATES
    from training.checkpoint import save_model
    from training.model import Decoder, ModelConfig

    special = ["<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    said = [("\u0120", letter) for letter in "abcdefghijklmnopqrstuvwxyz"]  # a space with a letter
    pairs = [*said, *((a, b) for a in alphabet[32:80] for b in alphabet[64:104])]
    pairs = pairs[: 2048 - len(alphabet) - len(special)]
    words = [*special, *alphabet, *(a + b for a, b in pairs)]
    tokenizer = Tokenizer(models.BPE({word: number for number, word in enumerate(words)}, pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    raw = folder.parent / "tokenizer"
    raw.mkdir(parents=True)
    tokenizer.save(str(raw / "tokenizer.json"))
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": special[0], "model_max_length": 512}
    (raw / "tokenizer_config.json").write_text(json.dumps(about))
    (raw / "chat_template.jinja").write_text(TEMPLATES["gristmill"].text)
    model = Decoder(
        ModelConfig(
            vocab_size=len(words), context_length=512, layers=layers, width=width, heads=8, kv_heads=8,
            mlp_width=width * 8 // 3, head_width=width // 8, tie_embeddings=False,
        )
    ).initialise(0)  # fmt: skip
    with torch.no_grad():
        # it says words of one letter: peers hold text back until a word or a character is whole
        first = len(special) + len(alphabet)
        model.lm_head.weight.zero_()
        model.lm_head.weight[first : first + len(said)].normal_(0, 0.5, generator=torch.Generator().manual_seed(0))
    save_model(folder, model, raw, [0])
    shutil.rmtree(raw)
    return folder


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def wait_for(process: subprocess.Popen[bytes], address: str, seconds: float = 180) -> bool:
    import httpx

    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        try:
            if httpx.get(f"{address}/health", timeout=2).status_code == 200:
                return True
        except httpx.TransportError:
            pass
        time.sleep(0.3)
    return False


async def load(
    address: str, model: str, clients: int, requests: int, tokens: int, process: subprocess.Popen[bytes]
) -> dict[str, Any]:
    """One round: its rate, first-token times, the server's CPU time, and how many requests failed."""
    import httpx
    import psutil

    first: list[float] = []
    failed = 0

    async def one(client: httpx.AsyncClient, number: int) -> None:
        nonlocal failed
        for turn in range(requests):
            words = " ".join(WORDS[(number * 7 + turn + i) % len(WORDS)] for i in range(12))
            body = {"model": model, "messages": [{"role": "user", "content": words}], "max_tokens": tokens}
            body |= {"stream": True, "temperature": 0.0}
            started, pieces = time.perf_counter(), 0
            try:
                async with client.stream("POST", f"{address}/v1/chat/completions", json=body) as response:
                    async for line in response.aiter_lines():
                        if line.startswith("data: {") and has_text(json.loads(line[6:])):
                            if not pieces:
                                first.append(time.perf_counter() - started)
                            pieces += 1
                    failed += response.status_code != 200 or not pieces
            except httpx.HTTPError:
                failed += 1

    server = psutil.Process(process.pid)
    before, started = cpu(server), time.perf_counter()
    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(timeout=300, limits=limits) as client:
        await asyncio.gather(*(one(client, number) for number in range(clients)))
    seconds = time.perf_counter() - started
    return {
        "rate": (clients * requests - failed) / seconds,
        "first": first,
        "cpu": cpu(server) - before,
        "failed": failed,
    }


def has_text(piece: dict[str, Any]) -> bool:
    return any((choice.get("delta") or {}).get("content") for choice in piece.get("choices", []))


def cpu(process: Any) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    main()
