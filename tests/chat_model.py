"""A tiny model with the chat tokens and template of ours, random: what it says is nonsense, but it says it."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tests.training_common import EOS, texts
from training.chat.format import chat_format
from training.chat.templates import TEMPLATES
from training.checkpoint import load_model, save_model
from training.loss import IGNORED
from training.model import Decoder, ModelConfig

ROLE_TOKENS = [EOS, "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|end|>"]


def write_chat_model(
    folder: Path,
    *,
    context: int = 256,
    seed: int = 0,
    chat: bool = True,
    layers: int = 2,
    width: int = 32,
    ends: bool = True,
) -> Path:
    """A model folder. Its embeddings are large, so that it has preferences, and greedy decoding is no matter of rounding. ends: it may stop."""
    raw = folder.parent / f"{folder.name}-tokenizer"
    raw.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts(60),
        trainers.BpeTrainer(vocab_size=400, special_tokens=ROLE_TOKENS, initial_alphabet=alphabet, show_progress=False),
    )
    tokenizer.save(str(raw / "tokenizer.json"))
    (raw / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "%s", "model_max_length": %d}' % (EOS, context)  # noqa: UP031
    )
    if chat:
        (raw / "chat_template.jinja").write_text(TEMPLATES["gristmill"].text)
    config = ModelConfig(
        vocab_size=tokenizer.get_vocab_size(),
        context_length=context,
        layers=layers,
        width=width,
        heads=4,
        kv_heads=2,
        mlp_width=2 * width,
        head_width=width // 4,
        tie_embeddings=False,
    )
    model = Decoder(config).initialise(seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        model.model.embed_tokens.weight.normal_(0, 1, generator=generator)
        model.lm_head.weight.normal_(0, 0.5, generator=generator)
        if not ends:
            model.lm_head.weight[: len(ROLE_TOKENS)] = 0
    save_model(folder, model, raw, 0)
    return folder


def teach(source: Path, folder: Path, pairs: list[tuple[str, str]], steps: int = 150) -> Path:
    """A copy of a chat model that has learnt the answers (user, assistant) by heart."""
    torch.manual_seed(0)
    form = chat_format(source)
    model, end = load_model(source, torch.device("cpu"))
    rows = [
        form.encode([{"role": "user", "content": asked}, {"role": "assistant", "content": said}])
        for asked, said in pairs
    ]
    size = max(len(row.ids) for row in rows)
    tokens = torch.tensor([row.ids + [0] * (size - len(row.ids)) for row in rows])
    wanted = torch.tensor([row.trained + [False] * (size - len(row.ids)) for row in rows])
    targets = torch.where(wanted, tokens, IGNORED)
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    model.train()
    for _ in range(steps):
        losses = model(tokens[:, :-1], targets[:, 1:])
        (losses.objective.sum() / wanted.sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
    save_model(folder, model, source, end[0])
    return folder
