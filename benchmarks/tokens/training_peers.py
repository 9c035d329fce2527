"""Trainers of others, each run as `PYTHON training_peers.py NAME FOLDER VOCABULARY OUT` in a process of its own.

FOLDER holds corpus.jsonl (one {"text": ...} a line), corpus.txt (the same texts one after the other) and cuts.jsonl (lines
[number of a line of corpus.jsonl, pieces of its text]). OUT gets the merges as hexadecimal pairs of bytes, one a line,
where the trainer tells them.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def texts(folder: Path) -> Iterator[str]:
    with (folder / "corpus.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)["text"]


def cut_texts(folder: Path) -> Iterator[str]:
    """The texts, those with endless runs in their pieces."""
    with (folder / "cuts.jsonl").open(encoding="utf-8") as lines:
        cuts = dict(map(json.loads, lines))
    for number, text in enumerate(texts(folder)):
        yield from cuts.get(number, [text])


def bytes_of_characters() -> dict[str, int]:
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(others)}


def spelled(pairs: list[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    table = bytes_of_characters()
    return [(bytes(table[c] for c in left), bytes(table[c] for c in right)) for left, right in pairs]


def run_tokenizers(folder: Path, vocabulary: int, gpt2: bool = False) -> list[tuple[bytes, bytes]]:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=gpt2)
    split = pre_tokenizers.Split(Regex(LLAMA3), behavior="isolated")
    tokenizer.pre_tokenizer = byte_level if gpt2 else pre_tokenizers.Sequence([split, byte_level])
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    if gpt2:
        tokenizer.train([str(folder / "corpus.txt")], trainer)
    else:
        tokenizer.train_from_iterator(cut_texts(folder), trainer)
    return spelled([tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]])


def run_tokenizers_by_line(folder: Path, vocabulary: int) -> list[tuple[bytes, bytes]]:
    return run_tokenizers(folder, vocabulary, gpt2=True)


def run_gigabpe_by_line(folder: Path, vocabulary: int) -> list[tuple[bytes, bytes]]:
    import gigabpe

    _, merges = gigabpe.train_bpe(
        [str(folder / "corpus.txt")], vocabulary, min_frequency=2, pretokenizer="bytelevel", special_tokens=[]
    )
    return spelled([tuple(pair) for pair in merges])


def run_rustbpe(folder: Path, vocabulary: int) -> None:
    import rustbpe

    rustbpe.Tokenizer().train_from_iterator(texts(folder), vocabulary, pattern=LLAMA3)


def run_bpeasy(folder: Path, vocabulary: int) -> None:
    import bpeasy

    bpeasy.train_bpe(texts(folder), LLAMA3, 1_000_000, vocabulary)


def run_ffbpe(folder: Path, vocabulary: int) -> None:
    import ffbpe

    ffbpe.train_bpe(texts(folder), vocab_size=vocabulary)


def run_sentencepiece(folder: Path, vocabulary: int) -> None:
    import sentencepiece

    with tempfile.TemporaryDirectory() as scratch:
        sentencepiece.SentencePieceTrainer.train(
            input=str(folder / "corpus.txt"),
            model_prefix=f"{scratch}/m",
            vocab_size=vocabulary,
            model_type="bpe",
            byte_fallback=True,
            character_coverage=0.9995,
            normalization_rule_name="identity",
            num_threads=os.cpu_count(),
            minloglevel=2,
        )


# One word that holds the pair (a, b) 2,200 times, a million times over; and "cd" three times.
WORD, TIMES = "ab" * 2200, 1_000_000


def overflow_tokenizers() -> str:
    from tokenizers import Tokenizer, models, trainers

    tokenizer = Tokenizer(models.BPE())  # every text is one word
    words = (text for text in [*([WORD] * TIMES), "cd", "cd", "cd"])
    tokenizer.train_from_iterator(words, trainers.BpeTrainer(show_progress=False, vocab_size=5))
    return str([tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]])


def overflow_rustbpe() -> str:
    import rustbpe

    tokenizer = rustbpe.Tokenizer()
    words = (text for text in [*([WORD] * TIMES), "cd", "cd", "cd"])
    tokenizer.train_from_iterator(words, 257)
    return str([bytes(token) for token, rank in tokenizer.get_mergeable_ranks() if rank >= 256])


RUNS = {
    "tokenizers": run_tokenizers,
    "rustbpe": run_rustbpe,
    "bpeasy": run_bpeasy,
    "ffbpe": run_ffbpe,
    "sentencepiece": run_sentencepiece,
    "tokenizers-by-line": run_tokenizers_by_line,
    "gigabpe-by-line": run_gigabpe_by_line,
}
OVERFLOWS = {"tokenizers": overflow_tokenizers, "rustbpe": overflow_rustbpe}


if __name__ == "__main__":
    if sys.argv[1] == "--overflow":
        print(OVERFLOWS[sys.argv[2]]())
    else:
        name, folder, vocabulary, out = sys.argv[1:]
        merges = RUNS[name](Path(folder), int(vocabulary))
        if merges is not None:
            Path(out).write_text("".join(f"{a.hex()} {b.hex()}\n" for a, b in merges), "ascii")
