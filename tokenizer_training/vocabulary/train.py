"""From documents, or from their counts, to a tokenizer's folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tokenizer_training.config import TokenizerError
from tokenizer_training.corpus.documents import read_documents
from tokenizer_training.corpus.files import find_documents
from tokenizer_training.encoding.encoder import clean
from tokenizer_training.vocabulary.bpe import train_bpe
from tokenizer_training.vocabulary.config import TokenizerConfig
from tokenizer_training.vocabulary.folder import bpe_tokenizer, save, sizes
from tokenizer_training.vocabulary.pretokenize import pretokens, to_nfc

Progress = Callable[[int, int], None]  # documents and bytes of text read so far


def train_tokenizer(
    documents: Sequence[str | Path],
    config: TokenizerConfig,
    out_dir: str | Path,
    *,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train on the `text` of Parquet files (or folders of them) and write the tokenizer's folder.

    The result depends on the set of documents only, not on their order or how they are cut into files. Each document
    counts once, whatever its `repeat`.

    Returns vocabulary wanted and reached, documents and bytes seen and used, and the SHA-256 of tokenizer.json.
    Raises `TokenizerError` if there is no text to train on.
    """
    if config.engine == "tokenizers":
        from tokenizer_training.vocabulary.library import train_by_library

        return train_by_library(documents, config, out_dir, progress=progress)
    seen = {"documents": 0, "documents_used": 0, "bytes_used": 0, "bytes": 0}
    words: Counter[str] = Counter()
    rules = config.rules()
    for path in find_documents(documents):
        for batch in read_documents(path):
            for text in batch.texts:
                text = clean(text)
                words.update(pretokens(to_nfc(text) if config.normalization == "nfc" else text, rules))
                seen["bytes"] += len(text.encode("utf-8"))
            seen["documents"] += len(batch.ids)
            if progress is not None:
                progress(seen["documents"], seen["bytes"])
    if seen["bytes"] == 0:
        raise TokenizerError(f"{', '.join(map(str, documents))}: no text to train a tokenizer on")
    seen["documents_used"], seen["bytes_used"] = seen["documents"], seen["bytes"]
    spelled = [word.encode("utf-8") for word in words]
    offsets = np.zeros(len(spelled) + 1, np.int64)
    np.cumsum([len(word) for word in spelled], out=offsets[1:])
    merges = train_bpe(
        np.frombuffer(b"".join(spelled), np.uint8),
        offsets,
        np.array(list(words.values()), np.int64),
        config.vocab_size,
        config.min_frequency,
        config.max_token_length,
        config.leading_special(),
    )
    tokenizer = bpe_tokenizer(config, merges)
    return save(tokenizer, config, sizes(config, tokenizer) | seen, Path(out_dir))
