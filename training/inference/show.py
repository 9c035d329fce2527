"""What sampling did, for who learns: the candidates of each step with their chances, and who looked at whom.

Read afterwards from one pass over the whole text, which gives the same logits as the cache did, up to rounding.
"""

from __future__ import annotations

import base64
import html
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from training.attention import visible
from training.inference.sampling import Sampling, penalised, settings_of, truncated
from training.model import Attention, Decoder
from training.rotary import rotate


@dataclass(frozen=True)
class Candidate:
    """A token that could have come."""

    token: int
    text: str
    model: float  # its probability as the model has it
    drawn: float  # as it was drawn: behind penalties, temperature and the rules that leave tokens out


@dataclass(frozen=True)
class Step:
    """A token that came, and the likeliest that could have, the one that came always among them."""

    token: int
    text: str
    candidates: list[Candidate]


@torch.no_grad()
def explain(
    model: Decoder, tokenizer: Tokenizer, prompt: Sequence[int], new: Sequence[int], sampling: Sampling, count: int
) -> list[Step]:
    """For each token of a completion the `count` likeliest candidates, likeliest first."""
    device = next(model.parameters()).device
    whole = torch.tensor([[*prompt, *new]], device=device)
    logits = model(whole)[0, len(prompt) - 1 : -1]
    settings = settings_of([sampling] * len(new), logits.shape[-1], device)
    seen = torch.zeros_like(logits, dtype=torch.bool)
    counts = torch.zeros_like(logits)
    for step in range(len(new)):
        seen[step, whole[0, : len(prompt) + step]] = True
        counts[step] = torch.bincount(whole[0, len(prompt) : len(prompt) + step], minlength=logits.shape[-1])
    scores = penalised(logits, settings, seen, counts)
    drawn = torch.zeros_like(logits)
    if sampling.greedy:
        drawn.scatter_(-1, scores.argmax(dim=-1, keepdim=True), 1.0)
    else:
        drawn = truncated(scores, settings).softmax(dim=-1)
    plain = logits.softmax(dim=-1)
    steps = []
    for step, token in enumerate(new):
        ids = plain[step].topk(min(count, plain.shape[-1])).indices.tolist()
        ids = ids if token in ids else [*ids[:-1], token]
        found = [
            Candidate(one, _spelled(tokenizer, one), float(plain[step, one]), float(drawn[step, one])) for one in ids
        ]
        steps.append(Step(token, _spelled(tokenizer, token), found))
    return steps


def lines(steps: Sequence[Step]) -> list[str]:
    """The steps for a terminal: the token that came, then `token model% > drawn%` of each candidate."""
    width = max((len(repr(step.text)) for step in steps), default=0)
    out = []
    for number, step in enumerate(steps, 1):
        parts = [f"{one.text!r} {one.model:.1%} > {one.drawn:.1%}" for one in step.candidates]
        out.append(f"{number:4d}  {step.text!r:{width}}  {'  '.join(parts)}")
    return out


@torch.no_grad()
def attention_maps(model: Decoder, tokens: Sequence[int]) -> Tensor:
    """How much each position looks at each: float32 `[layers, heads, L, L]`, rows add up to 1."""
    found: list[Tensor] = []

    def note(module: Any, inputs: tuple[Any, ...]) -> None:
        x, turn = inputs[0], inputs[1]
        split = (*x.shape[:2], -1, module.head_width)
        query = module.q_norm(module.q_proj(x).view(split)).transpose(1, 2)
        key = module.k_norm(module.k_proj(x).view(split)).transpose(1, 2)
        if turn is not None:
            query, key = rotate(query, *turn), rotate(key, *turn)
        key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        scores = (query.float() @ key.float().transpose(-1, -2)) / math.sqrt(module.head_width)
        at = torch.arange(x.shape[1], device=x.device)
        seen = visible(at[:, None], at, model.config.window)
        found.append(scores.masked_fill(~seen, -torch.inf).softmax(dim=-1)[0].cpu())

    handles = [one.register_forward_pre_hook(note) for one in model.modules() if isinstance(one, Attention)]
    try:
        model(torch.tensor([list(tokens)], device=next(model.parameters()).device))
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(found)


def page(steps: Sequence[Step], words: Sequence[str], maps: Tensor) -> str:
    """A page of its own, without scripts or anything from elsewhere: the steps, and a picture of each head.

    words: the text of each position of `maps`, prompt and completion.
    """
    rows = []
    for number, step in enumerate(steps, 1):
        bars = "".join(
            f'<span class="c{" came" if one.token == step.token else ""}"><code>{_shown(one.text)}</code>'
            f'<i style="width:{one.model * 100:.1f}px"></i><b style="width:{one.drawn * 100:.1f}px"></b>'
            f"{one.model:.1%} &rarr; {one.drawn:.1%}</span>"
            for one in step.candidates
        )
        rows.append(f"<tr><td>{number}</td><td><code>{_shown(step.text)}</code></td><td>{bars}</td></tr>")
    pictures = []
    for layer, heads in enumerate(maps):
        for head, weights in enumerate(heads):
            image = base64.b64encode(_png((1 - weights.sqrt()).mul(255).round().to(torch.uint8))).decode()
            pictures.append(
                f'<figure><img alt="layer {layer + 1}, head {head + 1}" src="data:image/png;base64,{image}">'
                f"<figcaption>layer {layer + 1}, head {head + 1}</figcaption></figure>"
            )
    positions = " ".join(f"<code>{at}:{_shown(word)}</code>" for at, word in enumerate(words))
    return _PAGE.format(rows="".join(rows), positions=positions, pictures="".join(pictures))


def _spelled(tokenizer: Tokenizer, token: int) -> str:
    return tokenizer.decode([token], skip_special_tokens=False)


def _shown(text: str) -> str:
    return html.escape(text).replace(" ", "&middot;").replace("\n", "\\n")


def _png(grey: Tensor) -> bytes:
    """An 8-bit grey picture uint8 `[height, width]` as PNG (RFC 2083): header, one compressed block, end."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width = grey.shape
    lines = b"".join(b"\0" + bytes(row) for row in grey.tolist())
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>What sampling did</title>
<style>
:root {{ color-scheme: light dark }}
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 72em; padding: 0 1em }}
td {{ vertical-align: top; padding: .2em .8em .2em 0; border-top: 1px solid #8884 }}
.c {{ display: inline-block; margin-right: 1.2em; white-space: nowrap; font-size: .9em }}
.came code {{ font-weight: bold; text-decoration: underline }}
.c i, .c b {{ display: block; height: 4px; background: #888 }}
.c b {{ background: #2a7ae2 }}
figure {{ display: inline-block; margin: .5em; text-align: center }}
img {{ width: 180px; height: 180px; image-rendering: pixelated; border: 1px solid #8886 }}
figcaption {{ font-size: .8em }}
</style>
<h1>What sampling did</h1>
<p>Each step with its likeliest tokens; the one that came is underlined. Grey: the model's probability. Blue: the one
that was drawn from, behind penalties, temperature and the rules that leave tokens out.</p>
<table>{rows}</table>
<h2>Who looks at whom</h2>
<p>A row is a position, a column one that it looks at; darker is more (the square root of the weight). Positions:
{positions}</p>
{pictures}
</html>
"""
