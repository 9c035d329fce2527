"""A tokenizer with the special tokens of every chat template, and conversations, for the tests of chat and fine-tuning."""

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from tests.training_common import texts
from tokenizer_training.vocabulary.special import CHAT_TEMPLATE

OURS = ["<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|end|>"]
OTHERS = ["<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
TOOLS = ["<tool_call>", "</tool_call>"]


def write_chat_tokenizer(folder: Path, special=(*OURS, *OTHERS, *TOOLS), template=CHAT_TEMPLATE, size=420) -> Path:
    """A byte-level BPE whose special tokens have the first ids."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(), trainer)
    return write_folder(folder, tokenizer, template)


def write_folder(folder: Path, tokenizer: Tokenizer, template: str | None, eos: str = "<|endoftext|>") -> Path:
    """tokenizer.json and tokenizer_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": eos, "eos_token": eos}
    if template is not None:
        settings["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def sentencepiece_like(folder: Path) -> Path:
    """A BPE of characters with a space put before the first word alone, and a special token that takes whitespace along."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    special = ["<unk>", "<s>", "</s>"]
    tokenizer.train_from_iterator(
        texts(), trainers.BpeTrainer(vocab_size=600, special_tokens=special, show_progress=False)
    )
    tokenizer.add_special_tokens([AddedToken("<|end|>", rstrip=True, normalized=False, special=True)])
    return write_folder(folder, tokenizer, None, "</s>")


USER, ASSISTANT = {"role": "user", "content": "the miller"}, {"role": "assistant", "content": "grinds the corn. 🥖"}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": None, "wörd": "é"}}}
SCHEMAS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}]
CONVERSATIONS = {
    "plain": [USER, ASSISTANT],
    "system": [{"role": "system", "content": "be kind"}, USER, ASSISTANT],
    "turns": [
        USER,
        ASSISTANT,
        {"role": "user", "content": " das Korn\n\n"},
        {"role": "assistant", "content": "\n mahlt "},
    ],
    "empty answer": [USER, {"role": "assistant", "content": ""}],
    "tool": [
        {"role": "user", "content": "2+2"},
        {"role": "assistant", "content": "let me see", "tool_calls": [CALL]},
        {"role": "tool", "content": "4"},
        {"role": "assistant", "content": "It is 4."},
    ],
    "calls alone": [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [{"name": "add", "arguments": '{"a": 1}'}, CALL]},
        {"role": "tool", "content": "4"},
        ASSISTANT,
    ],
}
