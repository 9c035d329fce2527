"""transformers: the folder as AutoTokenizer loads it."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizer_training.config import TokenizerError
from tokenizer_training.dataset.layout import atomic, write_json
from tokenizer_training.vocabulary.exports.source import read_settings, special_id, tokenizer_file

NAMES = ("bos_token", "eos_token", "pad_token", "unk_token")


def export_transformers(folder: Path, out: Path) -> list[Path]:
    """Write tokenizer.json, tokenizer_config.json and special_tokens_map.json to the folder `out`.

    tokenizer.json is the same, byte for byte, so every kind of tokenizer can be exported. Raises `TokenizerError` if the two files
    of the folder contradict each other.
    """
    file = tokenizer_file(folder)
    settings = read_settings(folder)
    added = json.loads(file.read_text(encoding="utf-8")).get("added_tokens", [])
    special = {token["content"]: token["id"] for token in added if token["special"]}
    named = {name: settings[name] for name in NAMES if special_id(settings, name, special, folder) is not None}
    extra = settings.get("additional_special_tokens", [])
    if unknown := [token for token in extra if token not in special]:
        raise TokenizerError(
            f"{folder / 'tokenizer_config.json'}: {unknown[0]!r} is no special token of tokenizer.json"
        )
    if out.resolve() == folder.resolve():
        raise TokenizerError(f"--output {out}: it is the tokenizer's own folder; give another")
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "tokenizer_config.json", settings)
    write_json(out / "special_tokens_map.json", {**named, "additional_special_tokens": extra})
    with atomic(out / "tokenizer.json") as temporary:
        temporary.write_bytes(file.read_bytes())
    return [out / name for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")]
