"""GGUF: the vocabulary as the metadata that llama.cpp reads, in a file of its own without tensors."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

from tokenizer_training.config import TokenizerError
from tokenizer_training.dataset.layout import atomic
from tokenizer_training.encoding.bpe_file import BytePairs, read_byte_pairs
from tokenizer_training.vocabulary.byte_level import CHARACTER_OF_BYTE
from tokenizer_training.vocabulary.exports.source import read_settings, special_id, tokenizer_file
from tokenizer_training.vocabulary.patterns import (
    GPT2_STYLE,
    LLAMA3_STYLE,
    O200K_STYLE,
    QWEN35_STYLE,
    TEKKEN_STYLE,
    Rules,
)
from tokenizer_training.vocabulary.pretokenize import pretokens
from tokenizer_training.vocabulary.ranks import unreached

# llama.cpp knows expressions by name only (src/llama-vocab.cpp, November 2026), by style and digits in a group.
NAMES = {
    (GPT2_STYLE, 0): "gpt-2",
    (LLAMA3_STYLE, 3): "llama-bpe",
    (LLAMA3_STYLE, 1): "qwen2",
    (QWEN35_STYLE, 1): "qwen35",
}
# Under these names it splits letters outside ASCII without regard to case, and marks not with their letters.
APPROXIMATE = {(O200K_STYLE, 3): "gpt-4o", (TEKKEN_STYLE, 1): "tekken"}
TAKES_WHOLE_TOKENS = ("llama-bpe", "tekken")  # a pre-token that is a token is taken as it is, as with `ignore_merges`
LLAMA3_BY_MERGES = "smaug-bpe"  # llama-bpe's expression, but merges alone count

NORMAL, CONTROL, UNUSED = 1, 3, 5  # token types

# Roles that llama.cpp looks for, by the names in special.py
FIM_KEYS = {"<|fim_prefix|>": "fim_pre", "<|fim_middle|>": "fim_mid", "<|fim_suffix|>": "fim_suf"}
END_OF_TURN = "<|end|>"


def export_gguf(folder: Path, out: Path, accept_differences: bool = False) -> list[Path]:
    """Write the file `out` with `tokenizer.ggml.*` and the chat template, for llama.cpp or to be copied into a model's file.

    Raises `TokenizerError` with the reason where llama.cpp would give other ids; with `accept_differences` not for the patterns whose
    expression it only approximates.
    """
    file = tokenizer_file(folder)
    settings = read_settings(folder)
    model = read_byte_pairs(file)
    name = _pre_tokenizer(file, model, accept_differences)
    gguf = _library()
    if out.is_dir():
        raise TokenizerError(f"--output {out}: it is a folder; give a file, such as vocabulary.gguf")
    out.parent.mkdir(parents=True, exist_ok=True)
    tokens, types = _tokens(model)
    with atomic(out) as temporary:
        writer = gguf.GGUFWriter(temporary, "llama")
        writer.add_name(folder.resolve().name)
        writer.add_tokenizer_model("gpt2")  # byte-level BPE
        writer.add_tokenizer_pre(name)
        writer.add_token_list(tokens)
        writer.add_token_types(types)
        writer.add_token_merges([f"{tokens[left]} {tokens[right]}" for left, right, _ in model.merges])
        for key, add in (
            ("bos_token", writer.add_bos_token_id),
            ("eos_token", writer.add_eos_token_id),
            ("pad_token", writer.add_pad_token_id),
        ):
            if (number := special_id(settings, key, model.special, folder)) is not None:
                add(number)
        if END_OF_TURN in model.special:
            writer.add_eot_token_id(model.special[END_OF_TURN])
        for token, role in FIM_KEYS.items():
            if token in model.special:
                writer.add_uint32(f"tokenizer.ggml.{role}_token_id", model.special[token])
        writer.add_add_bos_token(False)
        writer.add_add_eos_token(False)
        if template := settings.get("chat_template"):
            writer.add_chat_template(re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", "", template))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.close()
    return [out]


def _pre_tokenizer(file: Path, model: BytePairs, accept_differences: bool) -> str:
    """The name under which llama.cpp gives the same ids."""

    def refuse(reason: str) -> TokenizerError:
        return TokenizerError(f"{file}: {reason}")

    if model.nfc:
        raise refuse("it brings texts to NFC, and llama.cpp normalises nothing")
    if model.rules is None:
        raise refuse("its expression is a custom one, and llama.cpp knows expressions by name only")
    key = (model.rules.style, model.rules.digits)
    if key in APPROXIMATE and not accept_differences:
        raise refuse(
            f"llama.cpp's expression {APPROXIMATE[key]} splits marks and the case of letters outside ASCII otherwise than "
            f"{model.rules.pattern}; --accept-differences writes it all the same"
        )
    name = NAMES.get(key) or APPROXIMATE.get(key)
    if name is None:
        raise refuse(f"llama.cpp has no name for {model.rules.pattern} with digits in groups of {model.rules.digits}")
    if len({(left, right) for left, right, _ in model.merges}) < len(model.merges):
        raise refuse(
            "a pair of tokens is listed twice among its merges; llama.cpp takes the first, tokenizers the last"
        )
    loose = unreached(model)
    whole = loose or [token.encode() for token in model.special if _is_pretoken(token, model.rules)]
    if model.ignore_merges and name not in TAKES_WHOLE_TOKENS and loose:
        raise refuse(f"it takes whole tokens whatever merging gives ({loose[0]!r}), and llama.cpp does not for {name}")
    if not model.ignore_merges and name in TAKES_WHOLE_TOKENS and whole:
        if name != "llama-bpe":
            raise refuse(f"llama.cpp takes whole tokens for {name}, but merging does not give {whole[0]!r}")
        return LLAMA3_BY_MERGES
    return name


def _is_pretoken(token: str, rules: Rules) -> bool:
    return len(pretokens(token, rules)) == 1


def _tokens(model: BytePairs) -> tuple[list[str], list[int]]:
    """Each id's spelling and type; ids that nobody has are unused."""
    spelled = {number: token for token, number in model.special.items()}
    spelled |= {number: "".join(CHARACTER_OF_BYTE[byte] for byte in token) for token, number in model.tokens.items()}
    controls = set(model.special.values())
    tokens, types = [], []
    for number in range(max(spelled) + 1):
        tokens.append(spelled.get(number, f"[PAD{number}]"))
        types.append(CONTROL if number in controls else NORMAL if number in spelled else UNUSED)
    return tokens, types


def _library() -> Any:
    try:
        import gguf
    except ImportError:
        raise TokenizerError("gguf is not installed: pip install 'gristmill[gguf]'") from None
    logging.getLogger("gguf").setLevel(logging.WARNING)
    return gguf
