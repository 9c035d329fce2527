"""`generate`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.commands.arguments import positive
from training.commands.continuations import Given, Lines, Prompt, Texts
from training.knobs import TrainingError

if TYPE_CHECKING:  # they need torch
    from training.inference.load import Loaded
    from training.inference.sampling import Sampling

CHANCE = ("temperature", "top_k", "top_p", "min_p", "typical_p", "seed")  # what changes nothing where greedy
ROWS = 32  # continuations side by side
SHOWN = 5  # candidates of a step
PENALTIES = ("repetition_penalty", "frequency_penalty", "presence_penalty")


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("generate", help="continue prompts", description="docs/generation.md")
    parser.add_argument("--model", required=True, type=Path, metavar="DIR")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--prompt", metavar="TEXT")
    what.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help='a prompt a line; in .jsonl the key "prompt" of each, a text or messages',
    )
    parser.add_argument(
        "--chat", action="store_true", help="a prompt is what the user says; messages always are a chat"
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
    parser.add_argument("--beams", type=positive, metavar="N", help="beam search; the --samples best are printed")
    parser.add_argument("--length-penalty", type=float, metavar="X", help="with --beams: exponent of length, default 1")
    parser.add_argument("--early-stopping", choices=["true", "false", "never"], help="with --beams, default false")
    parser.add_argument("--draft", type=Path, metavar="DIR", help="a small model that proposes tokens")
    parser.add_argument("--draft-tokens", type=positive, metavar="N", help="with --draft: at a time, default 4")
    parser.add_argument("--quantize", choices=["int8", "int4"], help="weights of the layers in so many bits")
    parser.add_argument(
        "--quantize-text", type=Path, metavar="FILE", help="print what that costs in bits per byte of it"
    )
    parser.add_argument(
        "--show",
        nargs="?",
        const=True,
        metavar="FILE.html",
        help="print the candidates of each step; with a file also as a page with attention maps",
    )
    parser.add_argument(
        "--rows", type=positive, metavar="N", help=f"continuations side by side, at most; default {ROWS}"
    )
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--dtype", choices=["auto", "float32", "bfloat16"], default="float32")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Print each prompt with its continuations, as they grow."""
    _check(options)
    sampling = sampling_from(options)
    prompts: list[Given] = [options.prompt] if options.prompts is None else read_prompts(options.prompts)
    measured = None if options.quantize_text is None else read_text(options.quantize_text)
    from training.device import choose_device, choose_dtype
    from training.inference.load import load

    device = choose_device(options.device)
    dtype = choose_dtype(options.dtype, device)
    loaded = load(options.model, device, dtype, plain=bool(options.show or options.quantize))
    if options.quantize:
        _quantise(options, loaded, measured)
    if options.beams:
        return _beams(options, loaded, prompts, sampling)
    if options.draft:
        return _speculate(options, loaded, load(options.draft, device, dtype), prompts, sampling)
    return _stream(options, loaded, prompts, sampling)


def _check(options: argparse.Namespace) -> None:
    """Raise `TrainingError` for options that would change nothing."""
    for name, needs in (
        ("top_logprobs", "json"),
        ("length_penalty", "beams"),
        ("early_stopping", "beams"),
        ("draft_tokens", "draft"),
        ("quantize_text", "quantize"),
    ):
        if getattr(options, name) is not None and not getattr(options, needs):
            there, other = "--" + name.replace("_", "-"), "--" + needs
            raise TrainingError(f"{there} is for {other}: give that too")
    if options.beams:
        given = [name for name in (*CHANCE, *PENALTIES) if getattr(options, name) is not None]
        given += [name for name in ("greedy", "draft", "show", "stop", "top_logprobs") if getattr(options, name)]
        if given:
            raise TrainingError(f"--beams looks for the likeliest text; leave --{given[0].replace('_', '-')} out")
    if options.rows and (options.beams or options.draft):
        raise TrainingError("--beams and --draft write one continuation after the other: leave --rows out")
    if options.draft and (options.show or options.top_logprobs):
        raise TrainingError("--draft gives no candidates of each step: leave --show and --top-logprobs out")


def sampling_from(options: argparse.Namespace) -> Sampling:
    """The settings that the options give. Raises `TrainingError` for those that would change nothing."""
    chance = {name: getattr(options, name) for name in CHANCE if getattr(options, name) is not None}
    greedy = options.greedy or chance.get("temperature") == 0
    if (options.greedy and chance) or (greedy and set(chance) - {"temperature"}):
        names = ", ".join("--" + name.replace("_", "-") for name in chance)
        raise TrainingError(f"--greedy takes the likeliest token always; {names} would change nothing: leave one out")
    if greedy and options.samples > 1 and not options.beams:
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


def read_prompts(path: Path) -> list[Given]:
    """The prompts of a file, empty lines left out. Raises `TrainingError` that names a broken line."""
    lines = [(number, line) for number, line in enumerate(read_text(path).split("\n"), 1) if line.strip()]
    if not lines:
        raise TrainingError(f"{path} has no prompts: expected one a line")
    if path.suffix != ".jsonl":
        return [line for _, line in lines]
    from training.tuning.rows import messages_of

    prompts: list[Given] = []
    for number, line in lines:
        try:
            row = json.loads(line)
            prompt = row["prompt"]
        except (ValueError, KeyError, TypeError):
            raise TrainingError(f'{path}:{number}: expected a JSON object with "prompt"') from None
        prompts.append(prompt if isinstance(prompt, str) else messages_of(row, "prompt", "user", f"{path}:{number}"))
    return prompts


def read_text(path: Path) -> str:
    """A text file. Raises `TrainingError` that says what is wrong with it."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise TrainingError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise TrainingError(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from None


def _quantise(options: argparse.Namespace, loaded: Loaded, text: str | None) -> None:
    from training.inference.quantise import bits_per_byte, quantise, weight_bytes

    def measure() -> float:
        if not loaded.end:
            raise TrainingError("config.json names no eos_token_id, behind which the text would be read")
        return bits_per_byte(loaded.model, loaded.tokenizer, text or "", loaded.end[0])

    size, before = weight_bytes(loaded.model), None if text is None else measure()
    quantise(loaded.model, options.quantize)
    said = f"{options.quantize}: weights {size / 1e6:,.1f} -> {weight_bytes(loaded.model) / 1e6:,.1f} MB"
    if before is not None:
        after = measure()
        said += f"; {options.quantize_text}: {before:.4f} -> {after:.4f} bits per byte ({after - before:+.4f})"
    print(said, file=sys.stderr)


def _encode(options: argparse.Namespace, loaded: Loaded, given: Sequence[Given]) -> tuple[list[Prompt], list[int]]:
    """The prompts as tokens, and the ids that end a continuation. Raises the `TrainingError` of a bad one with its number."""
    from training.chat.format import chat_format
    from training.inference.engine import check_prompt
    from training.vocabulary import encode_text

    chats = options.chat or any(not isinstance(one, str) for one in given)
    form = chat_format(options.model) if chats else None
    prompts = []
    for number, one in enumerate(given, 1):
        try:
            if form is None or (isinstance(one, str) and not options.chat):
                found = Prompt(one, str(one), encode_text(loaded.tokenizer, str(one)))
            else:
                messages = [{"role": "user", "content": one}] if isinstance(one, str) else one
                ids = form.encode(messages, prompt=True).ids
                text = loaded.tokenizer.decode(ids, skip_special_tokens=False)
                found = Prompt(one, text, ids)
            check_prompt(found.ids, loaded.model.config.context_length, loaded.model.config.vocab_size)
        except TrainingError as error:
            where = f"{options.prompts}, prompt {number}: " if options.prompts else ""
            raise TrainingError(f"{where}{error}") from None
        prompts.append(found)
    return prompts, list(dict.fromkeys([*(form.end_ids if form else ()), *loaded.end]))


def _printer(options: argparse.Namespace, loaded: Loaded, prompts: list[Prompt]) -> Lines | Texts:
    return Lines(prompts, loaded.tokenizer) if options.json else Texts(prompts, options.samples)


def _stream(options: argparse.Namespace, loaded: Loaded, given: list[Given], sampling: Sampling) -> int:
    from training.inference.engine import Engine
    from training.inference.fused import fused

    prompts, end = _encode(options, loaded, given)
    engine = Engine(fused(loaded.model), end, loaded.tokenizer, max_rows=options.rows or ROWS, special=True)
    for prompt in prompts:
        engine.add(prompt.ids, sampling, options.samples, top=options.top_logprobs or 0)
    printer = _printer(options, loaded, prompts)
    first: list[int] = []
    while engine.busy:
        events = engine.step()
        printer.add(events)
        first += [event.token for event in events if (event.request, event.sample) == (0, 0)]
    if options.show:
        _show(options, loaded, prompts[0].ids, first, sampling)
    return 0


def _show(options: argparse.Namespace, loaded: Loaded, prompt: list[int], new: list[int], sampling: Sampling) -> None:
    """Explain the first continuation of the first prompt."""
    from training.inference.show import attention_maps, explain, lines, page

    steps = explain(loaded.model, loaded.tokenizer, prompt, new, sampling, SHOWN)
    print(*lines(steps), sep="\n", file=sys.stderr)
    if options.show is not True:
        whole = [*prompt, *new[:-1]]  # of the last token nothing was asked
        words = [loaded.tokenizer.decode([token], skip_special_tokens=False) for token in whole]
        Path(options.show).write_text(page(steps, words, attention_maps(loaded.model, whole)), encoding="utf-8")


def _beams(options: argparse.Namespace, loaded: Loaded, given: list[Given], sampling: Sampling) -> int:
    from training.inference.beam import beam_search
    from training.inference.stop import TextStream

    stopping: Any = {"true": True, "never": "never"}.get(options.early_stopping, False)
    prompts, end = _encode(options, loaded, given)
    for number, (asked, shown, ids) in enumerate(prompts):
        found = beam_search(
            loaded.model,
            ids,
            end,
            beams=options.beams,
            max_new_tokens=sampling.max_new_tokens,
            length_penalty=1.0 if options.length_penalty is None else options.length_penalty,
            early_stopping=stopping,
            count=options.samples,
        )
        for sample, beam in enumerate(found):
            stream = TextStream(loaded.tokenizer, ids, special=True)
            text = "".join(stream.add(token) for token in beam.tokens if token not in end) + stream.end()
            if options.json:
                line = {"prompt": asked, "sample": sample, "text": text, "score": beam.score, "tokens": beam.tokens}
                print(json.dumps(line, ensure_ascii=False), flush=True)
            else:
                print("-" * 20 + "\n" if number or sample else "", shown, text, sep="", flush=True)
    return 0


def _speculate(
    options: argparse.Namespace, loaded: Loaded, draft: Loaded, given: list[Given], sampling: Sampling
) -> int:
    from dataclasses import replace

    from training.inference.engine import Ending, Event
    from training.inference.speculative import Speculation

    both = Speculation(loaded.model, draft.model, options.draft_tokens or 4)
    prompts, end = _encode(options, loaded, given)
    printer = _printer(options, loaded, prompts)
    for request, (_, _, ids) in enumerate(prompts):
        for sample in range(options.samples):
            limit = min(sampling.max_new_tokens, both.context - len(ids))
            ending = Ending(end, limit, loaded.tokenizer, ids, sampling.stop, special=True)
            for token, logprob in both.complete(ids, replace(sampling, seed=sampling.seed + sample), end):
                text, finish = ending.add(token)
                printer.add([Event(request, sample, token, logprob, (), text, finish)])
                if finish:
                    break
    print(f"{both.accepted} of {both.proposed} proposed tokens accepted ({both.accepted_share:.0%})", file=sys.stderr)
    return 0
