"""Any tokenizer from local files behind one small interface: ours, tokenizer.json, tiktoken ranks, tekken, sentencepiece."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tokenizer_training.config import TokenizerError
from tokenizer_training.corpus.pieces import cut
from tokenizer_training.dataset.layout import sha256_of
from tokenizer_training.efficiency.peer_files import KNOWN_NAMES, Ranks, read_js, read_ranks, read_tekken
from tokenizer_training.encoding.bpe_file import token_bytes
from tokenizer_training.encoding.encoder import Encoder, clean
from tokenizer_training.vocabulary.special import END_OF_DOCUMENT

BATCH_CHARACTERS = (
    2_000_000  # handed to a library at once: its answer takes some 100 bytes a token until it is an array
)

# What a tokenizer must give back to be called lossless: each stands for a loss that tokenizers are known for.
LOSS_PROBES = {
    "a leading space": " a",
    "runs of spaces": "a   b",
    "a space at the end": "a ",
    "tabs and line ends": "a\t\r\nb\n",
    "decomposed letters": "e\u0301",
    "compatibility letters": "\ufb01 \uff21 \u00a0",
    "case": "Aa",
    "rare characters": "\U0001f9ff \u16a0 \U00010348",
    "control characters": "\x01\x7f",
}


class Peer(ABC):
    """A tokenizer to measure.

    `pieces[i]` are the bytes of token i (empty for special tokens), `byte_exact` whether the bytes of a text's tokens are always
    its own; special tokens are never read out of text. Subclasses say how it is done.
    """

    def __init__(
        self, name: str, kind: str, path: Path, pieces: list[bytes], specials: dict[str, int], byte_exact: bool
    ) -> None:
        self.name, self.kind, self.path = name, kind, path
        self.pieces, self.byte_exact = pieces, byte_exact
        self.special_ids = specials
        self.continuing: set[int] = set()  # tokens of WordPiece that only stand within a word
        self.specials = set(specials.values())
        self.sha256 = sha256_of(path)
        self.vocab_size = len(pieces)
        self.lengths = np.array([len(piece) for piece in pieces], np.int64)  # bytes of each token

    @abstractmethod
    def encode_batch(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """All tokens (int32), and int64[n + 1] where each text's begin."""

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids."""

    @abstractmethod
    def pattern(self) -> str:
        """How text is cut before merging, for the report."""

    def normalization(self) -> str:
        """What is done to text before it is cut, for the report."""
        return "none"

    def merges(self) -> np.ndarray | None:
        """int64[M, 3] of ids in the order of merges: left, right, made; None if it does not nest (see nesting.py)."""
        return None

    def encode(self, text: str) -> list[int]:
        """The ids of one text."""
        ids: list[int] = self.encode_batch([text])[0].tolist()
        return ids

    def never_trained(self) -> list[int]:
        """Special tokens that no training text holds: those called reserved or unused, else all."""
        named = [i for name, i in self.special_ids.items() if "reserved" in name or "unused" in name]
        return sorted(named or self.specials)

    def prefix_space(self) -> bool:
        """Whether a text gets a space in front that it did not have."""
        return b"".join(self.pieces[i] for i in self.encode("a")).startswith(b" ")

    def losses(self) -> list[str]:
        """What of `LOSS_PROBES` does not come back."""
        return [name for name, text in LOSS_PROBES.items() if self.decode(self.encode(text)) != text]


class OwnPeer(Peer):
    """A folder of this project's: encoded as our datasets are."""

    def __init__(self, name: str, folder: Path) -> None:
        self.encoder = Encoder(folder)
        self.tokenizer = self.encoder.tokenizer
        self.content: dict[str, Any] = json.loads(self.tokenizer.to_str())
        pieces, byte_exact = _pieces(self.content, self.encoder.vocab_size)
        exact = byte_exact and self.content["normalizer"] is None
        super().__init__(name, "folder", folder / "tokenizer.json", pieces, self.encoder.special_ids, exact)
        self.continuing = _continuing(self.content)

    def encode_batch(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """All tokens, and where each text's begin."""
        tokens, offsets = self.encoder.encode_column(pa.array(map(clean, texts), pa.large_string()))
        return tokens.astype(np.int32), offsets

    def decode(self, ids: Sequence[int]) -> str:
        return self.encoder.decode(ids)

    def pattern(self) -> str:
        return self.encoder.pattern()

    def normalization(self) -> str:
        return _normalization(self.content["normalizer"])

    def merges(self) -> np.ndarray | None:
        return _merges(self.content)


class LibraryPeer(Peer):
    """A tokenizer that another library runs: texts are cut as corpus/pieces.py says, and given to it many at a time."""

    @abstractmethod
    def _encode(self, texts: list[str]) -> list[Any]:
        """The ids of each text."""

    def encode_batch(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """All tokens (int32), and int64[n + 1] where each text's begin."""
        found: list[np.ndarray] = []
        counts: list[int] = []
        waiting: list[str] = []
        size = 0
        for text in texts:
            parts = cut(clean(text))
            counts.append(len(parts))
            waiting.extend(parts)
            size += len(text)
            if size >= BATCH_CHARACTERS:
                found.extend(np.asarray(ids, np.int32) for ids in self._encode(waiting))
                waiting, size = [], 0
        found.extend(np.asarray(ids, np.int32) for ids in self._encode(waiting))
        ends = np.cumsum([0] + [len(ids) for ids in found])
        offsets = ends[np.cumsum([0, *counts])].astype(np.int64)
        return (np.concatenate(found) if found else np.zeros(0, np.int32)), offsets


class TokenizersPeer(LibraryPeer):
    """A tokenizer.json of anyone's, through `tokenizers`."""

    def __init__(self, name: str, path: Path) -> None:
        from tokenizers import Tokenizer

        try:
            self.tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception
            raise TokenizerError(f"{path}: not a usable tokenizer.json ({error})") from None
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.tokenizer.encode_special_tokens = True
        self.content = json.loads(self.tokenizer.to_str())
        size = 1 + max(self.tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        pieces, byte_exact = _pieces(self.content, size)
        specials = {token["content"]: token["id"] for token in self.content["added_tokens"] if token["special"]}
        exact = byte_exact and self.content["normalizer"] is None
        super().__init__(name, "tokenizers", path, pieces, specials, exact)
        self.continuing = _continuing(self.content)

    def _encode(self, texts: list[str]) -> list[Any]:
        return [made.ids for made in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode([int(i) for i in ids], skip_special_tokens=False)
        return text

    def pattern(self) -> str:
        return json.dumps(self.content["pre_tokenizer"], ensure_ascii=False)

    def normalization(self) -> str:
        return _normalization(self.content["normalizer"])

    def merges(self) -> np.ndarray | None:
        return _merges(self.content)


class RanksPeer(LibraryPeer):
    """Ranks of byte strings, through tiktoken."""

    def __init__(self, name: str | None, kind: str, path: Path, ranks: Ranks) -> None:
        try:
            import tiktoken
        except ImportError:
            raise TokenizerError(f"{path}: reading ranks needs tiktoken: pip install 'gristmill[peers]'") from None
        size = 1 + max([*ranks.ranks.values(), *ranks.specials.values()])
        pieces = [b""] * size
        for piece, rank in ranks.ranks.items():
            pieces[rank] = piece
        try:
            self.encoding = tiktoken.Encoding(
                ranks.name, pat_str=ranks.pattern, mergeable_ranks=ranks.ranks, special_tokens={}
            )
        except Exception as error:
            raise TokenizerError(f"{path}: tiktoken does not take its pattern or ranks ({error})") from None
        self._pattern = ranks.pattern
        super().__init__(name or ranks.name, kind, path, pieces, ranks.specials, True)

    def _encode(self, texts: list[str]) -> list[Any]:
        try:
            return [self.encoding.encode_ordinary(text) for text in texts]
        except BaseException as error:  # a Rust panic is a BaseException
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            raise TokenizerError(f"{self.path}: tiktoken failed on a text ({error})") from None

    def decode(self, ids: Sequence[int]) -> str:
        return b"".join(self.pieces[int(i)] for i in ids).decode("utf-8", "replace")

    def pattern(self) -> str:
        return self._pattern


class SentencePiecePeer(LibraryPeer):
    """A `.model` of sentencepiece, through its own library."""

    def __init__(self, name: str, path: Path) -> None:
        try:
            import sentencepiece
        except ImportError:
            raise TokenizerError(f"{path}: a sentencepiece model needs: pip install 'gristmill[peers]'") from None
        try:
            self.model = sentencepiece.SentencePieceProcessor(model_file=str(path))
        except Exception as error:
            raise TokenizerError(f"{path}: not a sentencepiece model ({error})") from None
        pieces: list[bytes] = []
        specials: dict[str, int] = {}
        for number in range(self.model.get_piece_size()):
            text = self.model.id_to_piece(number)
            if self.model.is_control(number) or self.model.is_unknown(number):
                specials[text] = number
                pieces.append(b"")
            elif self.model.is_byte(number):
                pieces.append(bytes([int(text[3:5], 16)]))
            else:
                pieces.append(text.replace("\u2581", " ").encode("utf-8"))
        super().__init__(name, "sentencepiece", path, pieces, specials, False)

    def _encode(self, texts: list[str]) -> list[Any]:
        found: list[Any] = self.model.encode(texts)
        return found

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self.model.decode([int(i) for i in ids])
        return text

    def pattern(self) -> str:
        return "sentencepiece"

    def normalization(self) -> str:
        return "as the model file says"


def open_peer(given: str, pattern: str | None = None) -> Peer:
    """A tokenizer from `PATH` or `NAME=PATH`; what it is follows from the file.

    `pattern` (for ranks that are not known): one of peer_files.KNOWN_NAMES or a regular expression. Raises `TokenizerError`.
    """
    name, separator, rest = given.partition("=")
    path = Path(rest if separator and not Path(given).exists() else given)
    label = name if separator and not Path(given).exists() else None
    pattern = KNOWN_NAMES.get(pattern, pattern) if pattern else None
    if path.is_dir():
        file = path / "tokenizer.json"
        if not file.is_file():
            raise TokenizerError(f"{path}: no tokenizer.json in this folder; name the vocabulary's file")
        label = label or path.resolve().name
        peer = TokenizersPeer(label, file)
        return OwnPeer(label, path) if END_OF_DOCUMENT in peer.special_ids else peer
    if not path.is_file():
        raise TokenizerError(f"{path}: no such file or folder; expected a tokenizer's folder or vocabulary")
    if path.suffix == ".tiktoken":
        return RanksPeer(label, "tiktoken", path, read_ranks(path, pattern))
    if path.suffix in (".js", ".cjs", ".mjs"):
        return RanksPeer(label, "js-tiktoken", path, read_js(path))
    if path.suffix == ".json":
        if _looks_like_tekken(path):
            return RanksPeer(label, "tekken", path, read_tekken(path))
        return TokenizersPeer(label or _json_name(path), path)
    if ".model" in path.name:  # Mistral's end in .model.v1 and the like
        return SentencePiecePeer(label or path.name.partition(".model")[0], path)
    raise TokenizerError(
        f"{path}: unknown kind of vocabulary; expected a folder, tokenizer.json, tekken.json, .tiktoken, .model or js-tiktoken's .js"
    )


def distinct_names(peers: Sequence[Peer]) -> None:
    """Number peers that would have the same name in a report."""
    seen: dict[str, int] = {}
    for peer in peers:
        seen[peer.name] = seen.get(peer.name, 0) + 1
        if seen[peer.name] > 1:
            peer.name = f"{peer.name} ({seen[peer.name]})"


def _looks_like_tekken(path: Path) -> bool:
    with path.open("rb") as file:
        return b'"default_vocab_size"' in file.read(4096)


def _json_name(path: Path) -> str:
    return path.resolve().parent.name if path.name == "tokenizer.json" else path.stem


def _types(part: Any) -> list[str]:
    """The types in a component of tokenizer.json, sequences opened."""
    if part is None:
        return []
    inner = part.get("decoders") or part.get("pretokenizers") or part.get("normalizers")
    return [name for one in inner for name in _types(one)] if inner is not None else [part["type"]]


def _normalization(part: Any) -> str:
    return " ".join(_types(part)) or "none"


def _pieces(content: dict[str, Any], size: int) -> tuple[list[bytes], bool]:
    """Bytes by token, and whether they are exactly those of a text (byte-level, without normalisation)."""
    vocabulary = content["model"]["vocab"]
    entries = vocabulary.items() if isinstance(vocabulary, dict) else ((t, i) for i, (t, _) in enumerate(vocabulary))
    byte_level = "ByteLevel" in _types(content["decoder"])
    pieces = [b""] * size
    prefix = _prefix(content)
    for spelled, number in entries:
        token = spelled.removeprefix(prefix)
        if byte_level and (raw := token_bytes(token)) is not None:
            pieces[number] = raw
        elif not byte_level and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            pieces[number] = bytes([int(token[3:5], 16)])
        else:
            pieces[number] = token.replace("\u2581", " ").encode("utf-8") if not byte_level else token.encode("utf-8")
    for token in content["added_tokens"]:
        pieces[token["id"]] = b"" if token["special"] else token["content"].encode("utf-8")
    return pieces, byte_level


def _prefix(content: dict[str, Any]) -> str:
    return str(content["model"]["continuing_subword_prefix"]) if content["model"]["type"] == "WordPiece" else ""


def _continuing(content: dict[str, Any]) -> set[int]:
    prefix = _prefix(content)
    return (
        {number for token, number in content["model"]["vocab"].items() if token.startswith(prefix)} if prefix else set()
    )


def _merges(content: dict[str, Any]) -> np.ndarray | None:
    model = content["model"]
    if model["type"] != "BPE" or model.get("ignore_merges"):
        return None
    vocabulary = model["vocab"]
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
    try:
        ids = [(vocabulary[a], vocabulary[b], vocabulary[a + b]) for a, b in pairs]
    except KeyError:  # merges that continue words with a prefix, or of tokens that are not there
        return None
    found = np.array(ids, np.int64).reshape(-1, 3)
    return found if len(np.unique(found[:, 2])) == len(found) else None
