"""A tokenizer with roles and a chat template, a small model, and rows of pairs and prompts, for tests of fine-tuning."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tests.model_common import random_model, shape
from tokenizer_training.vocabulary.special import CHAT_TEMPLATE, END_OF_DOCUMENT, END_OF_TURN, ROLES
from training.checkpoint import save_model

SPECIALS = [END_OF_DOCUMENT, *ROLES.values(), END_OF_TURN]
QUESTIONS = [f"what is {a} and {b}" for a in range(10) for b in range(10)]
GOOD, BAD = "kind words: {}", "go away, {}"


def write_chat_tokenizer(folder: Path) -> Tokenizer:
    """Byte-level BPE of 300 or so ids, with the special tokens first, and the template beside it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*QUESTIONS, GOOD, BAD], trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END_OF_DOCUMENT, "pad_token": END_OF_DOCUMENT}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    return tokenizer


def write_model(folder: Path, family: str = "llama", context: int = 64, noise: bool = True, seed: int = 3) -> Path:
    """A model folder with that tokenizer; `noise`: weights far from the initial ones."""
    tokenizer = write_chat_tokenizer(folder)
    config = shape(family, tokenizer.get_vocab_size(), context, tie_embeddings=True)
    model = random_model(config, seed)
    if not noise:
        model.initialise(seed)
    save_model(folder, model, folder, 0)
    return folder


def pair_rows(count: int = 80, flipped: int = 0) -> list[dict]:
    """The kind answer is the better one; of the first `flipped` rows the other way round."""
    rows = []
    for number, question in enumerate(QUESTIONS[:count]):
        answers = GOOD.format(question[-7:]), BAD.format(question[-7:])
        chosen, rejected = answers[::-1] if number < flipped else answers
        rows.append({"id": f"p{number}", "source": "test", "prompt": question, "chosen": chosen, "rejected": rejected})
    return rows


def write_rows(path: Path, rows: list[dict]) -> Path:
    """JSONL."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def metrics(folder: Path) -> list[dict]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def bits(folder: Path) -> bytes:
    """The weights of a model folder."""
    return (folder / "model.safetensors").read_bytes()


def quiet(_: object) -> None:
    """Say nothing."""


torch.set_num_threads(1)
