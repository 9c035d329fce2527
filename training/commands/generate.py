"""`generate`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.commands.arguments import positive
from training.knobs import TrainingError

if TYPE_CHECKING:  # they need torch
    from training.inference.engine import Event
    from training.inference.load import Loaded
    from training.inference.sampling import Sampling

CHANCE = ("temperature", "top_k", "top_p", "min_p", "typical_p", "seed")  # what changes nothing where greedy
PENALTIES = ("repetition_penalty", "frequency_penalty", "presence_penalty")


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("generate", help="continue prompts", description="docs/generation.md")
    parser.add_argument("--model", required=True, type=Path, metavar="DIR")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--prompt", metavar="TEXT")
    what.add_argument(
        "--prompts", type=Path, metavar="FILE", help='a prompt a line; in .jsonl the key "prompt" of each'
    )
    parser.add_argument("--max-new-tokens", type=positive, default=128, metavar="N")
    parser.add_argument("--samples", type=positive, default=1, metavar="N", help="how many continuations of each")
    parser.add_argument(
        "--greedy", action="store_true", help="always the likeliest token; excludes what only changes chances"
    )
    parser.add_argument("--temperature", type=float, metavar="T", help="default 0.8; 0 is --greedy")
    parser.add_argument("--top-k", type=int, metavar="K", help="only the K likeliest tokens")
    parser.add_argument("--top-p", type=float, metavar="P", help="only the likeliest tokens of P together")
    parser.add_argument("--min-p", type=float, metavar="P", help="only tokens of P times the likeliest or more")
    parser.add_argument("--typical-p", type=float, metavar="P", help="only tokens of about the expected surprise")
    parser.add_argument("--repetition-penalty", type=float, metavar="F", help="of tokens in prompt or continuation")
    parser.add_argument("--frequency-penalty", type=float, metavar="A", help="for each time in the continuation")
    parser.add_argument("--presence-penalty", type=float, metavar="A", help="once for a token in the continuation")
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before it; may be repeated")
    parser.add_argument("--seed", type=int, metavar="S", help="default 0; sample i of a prompt draws with S + i")
    parser.add_argument("--json", action="store_true", help="a JSON line per continuation, with tokens and logprobs")
    parser.add_argument("--top-logprobs", type=positive, metavar="K", help="with --json: the K likeliest of each step")
    parser.add_argument("--rows", type=positive, default=32, metavar="N", help="continuations side by side, at most")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--dtype", choices=["auto", "float32", "bfloat16"], default="float32")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Print each prompt with its continuations, as they grow."""
    sampling = sampling_from(options)
    if options.top_logprobs and not options.json:
        raise TrainingError("--top-logprobs are printed with --json: give that too")
    prompts = [options.prompt] if options.prompts is None else read_prompts(options.prompts)
    from training.device import choose_device, choose_dtype
    from training.inference.load import load

    device = choose_device(options.device)
    loaded = load(options.model, device, choose_dtype(options.dtype, device))
    return _stream(options, loaded, prompts, sampling)


def sampling_from(options: argparse.Namespace) -> Sampling:
    """The settings that the options give. Raises `TrainingError` for those that would change nothing."""
    chance = {name: getattr(options, name) for name in CHANCE if getattr(options, name) is not None}
    greedy = options.greedy or chance.get("temperature") == 0
    if (options.greedy and chance) or (greedy and set(chance) - {"temperature"}):
        names = ", ".join("--" + name.replace("_", "-") for name in chance)
        raise TrainingError(f"--greedy takes the likeliest token always; {names} would change nothing: leave one out")
    if greedy and options.samples > 1:
        raise TrainingError("--greedy gives the same text each time: leave --samples out")
    from training.inference.sampling import Sampling

    others = {name: getattr(options, name) for name in PENALTIES if getattr(options, name) is not None}
    if greedy:
        chance = {"temperature": 0.0}
    return Sampling(
        **{
            "temperature": 0.8,
            **chance,
            **others,
            "max_new_tokens": options.max_new_tokens,
            "stop": tuple(options.stop),
        }
    )


def read_prompts(path: Path) -> list[str]:
    """The prompts of a file, empty lines left out. Raises `TrainingError` that names a broken line."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise TrainingError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise TrainingError(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from None
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise TrainingError(f"{path} has no prompts: expected one a line")
    if path.suffix != ".jsonl":
        return [line for _, line in lines]
    prompts = []
    for number, line in lines:
        try:
            prompts.append(json.loads(line)["prompt"])
        except (ValueError, KeyError, TypeError):
            raise TrainingError(f'{path}:{number}: expected a JSON object with "prompt"') from None
        if not isinstance(prompts[-1], str):
            raise TrainingError(f"{path}:{number}: prompt must be a text")
    return prompts


def _stream(options: argparse.Namespace, loaded: Loaded, prompts: list[str], sampling: Sampling) -> int:
    from training.inference.engine import Engine
    from training.vocabulary import encode_text

    engine = Engine(loaded.model, loaded.end, loaded.tokenizer, max_rows=options.rows, special=True)
    encoded = [encode_text(loaded.tokenizer, prompt) for prompt in prompts]
    for number, ids in enumerate(encoded):
        try:
            engine.add(ids, sampling, options.samples, top=options.top_logprobs or 0)
        except TrainingError as error:
            where = f"{options.prompts}, prompt {number + 1}: " if options.prompts else ""
            raise TrainingError(f"{where}{error}") from None
    show = _Lines(prompts, loaded.tokenizer) if options.json else _Texts(prompts, options.samples)
    while engine.busy:
        show.add(engine.step())
    return 0


class _Texts:
    """Texts on the terminal: one grows visibly, those behind it wait until it is whole."""

    def __init__(self, prompts: list[str], samples: int) -> None:
        self.prompts, self.samples = prompts, samples
        self.waiting: dict[tuple[int, int], str] = {}
        self.ended: set[tuple[int, int]] = set()
        self.now = (0, 0)
        print(prompts[0], end="", flush=True)

    def add(self, events: Iterable[Event]) -> None:
        for event in events:
            key = (event.request, event.sample)
            self.waiting[key] = self.waiting.get(key, "") + event.text
            if event.finish:
                self.ended.add(key)
        while self.now in self.waiting:
            print(self.waiting.pop(self.now), end="", flush=True)
            if self.now not in self.ended:
                return
            print()
            request, sample = self.now
            self.now = (request, sample + 1) if sample + 1 < self.samples else (request + 1, 0)
            if self.now[0] == len(self.prompts):
                return
            print("-" * 20)
            print(self.prompts[self.now[0]], end="", flush=True)


class _Lines:
    """A JSON object per continuation, when it is whole."""

    def __init__(self, prompts: list[str], tokenizer: Any) -> None:
        self.prompts, self.tokenizer = prompts, tokenizer
        self.events: dict[tuple[int, int], list[Event]] = {}

    def add(self, events: Iterable[Event]) -> None:
        for event in events:
            mine = self.events.setdefault((event.request, event.sample), [])
            mine.append(event)
            if event.finish:
                sys.stdout.write(json.dumps(self._line(mine), ensure_ascii=False) + "\n")
                sys.stdout.flush()
                del self.events[event.request, event.sample]

    def _line(self, events: list[Event]) -> dict[str, Any]:
        last = events[-1]
        line = {
            "prompt": self.prompts[last.request],
            "sample": last.sample,
            "text": "".join(event.text for event in events),
            "finish": last.finish,
            "tokens": [event.token for event in events],
            "logprobs": [round(event.logprob, 6) for event in events],
        }
        if last.top:
            line["top_logprobs"] = [
                [{"token": token, "text": self._token(token), "logprob": round(score, 6)} for token, score in event.top]
                for event in events
            ]
        return line

    def _token(self, token: int) -> str:
        return self.tokenizer.decode([token], skip_special_tokens=False)
