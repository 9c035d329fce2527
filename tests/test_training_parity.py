"""A hundred steps beside a plain loop over transformers' model: same data, seed and initial weights, the same losses."""

import json

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

from tests.training_common import SMALL, make
from training.checkpoint import save_model
from training.config import resolve
from training.data import load_batch, open_dataset, step_rows
from training.loss import IGNORED
from training.model import Decoder, document_positions
from training.pretrain import _shape, pretrain

STEPS = 100


def plain_loop(folder, data, config) -> list[float]:
    """The losses of nothing but transformers' forward pass and torch's AdamW."""
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
    decay = set(model.get_parameter(name) for name, p in model.named_parameters() if p.dim() >= 2)
    groups = [
        {"params": [p for p in model.parameters() if p in decay], "weight_decay": config.weight_decay},
        {"params": [p for p in model.parameters() if p not in decay], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2))
    warmup = round(config.warmup_ratio * STEPS)
    losses = []
    for step in range(STEPS):
        batch = load_batch(data.train, step_rows(step, len(data.train), 4, config.seed, True), True)
        # with its cache on, transformers takes restarting positions for one document
        logits = model(batch.tokens, position_ids=document_positions(batch.documents), use_cache=False).logits
        loss = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORED)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
        done = step + 1
        cosine = 0.5 * (1 + torch.tensor(torch.pi * (done - warmup) / (STEPS - warmup)).cos().item())
        share = done / warmup if done <= warmup else config.min_lr_ratio + (1 - config.min_lr_ratio) * cosine
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * share
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("knobs", [{}, {"kv_heads": 4, "tie_embeddings": False}], ids=["llama", "llama, untied"])
def test_a_hundred_steps_are_those_of_transformers(tmp_path, knobs):
    folders = make(tmp_path / "data")
    config = resolve({**SMALL, "threads": 1, "steps": STEPS, "eval_every": STEPS, "save_every": STEPS, **knobs})
    data = open_dataset(folders[0], None)
    save_model(tmp_path / "start", Decoder(_shape(config, data)).initialise(config.seed), folders[1], 0)
    pretrain(config, *folders, tmp_path / "model", log=lambda _: None)
    lines = [json.loads(line) for line in (tmp_path / "model" / "metrics.jsonl").read_text().splitlines()]
    ours = [line["loss"] for line in lines if "loss" in line]
    theirs = plain_loop(tmp_path / "start", data, config)
    assert len(ours) == STEPS and ours[-1] < ours[0] - 2
    assert max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) < 1e-4
