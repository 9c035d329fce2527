"""Conversations as tokens: the role's token, the content, the end token of each turn; what the assistant writes is trained.

This is the chat template of `vocabulary/special.py`, turn by turn, so that ids and mask are those of
`apply_chat_template(..., return_assistant_tokens_mask=True)`. Contents never yield a special token, so the mask follows from the
tokens: from behind `<|assistant|>` to the `<|end|>` after it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages.jit import kernel
from tokenizer_training.config import TokenizerError
from tokenizer_training.corpus.documents import Fields, named_columns
from tokenizer_training.corpus.files import is_parquet, open_parquet, parquet_tables
from tokenizer_training.encoding.encoder import Encoder
from tokenizer_training.vocabulary.special import END_OF_TURN, ROLES

MESSAGES = "messages"


def holds_conversations(path: Path, fields: Fields) -> bool:
    """Whether a file is Parquet with `messages` and without the column of texts."""
    names = open_parquet(path, []).schema_arrow.names if is_parquet(path) else []
    return MESSAGES in names and fields.text not in names


def conversation_tables(path: Path, fields: Fields) -> Iterator[pa.Table]:
    """Batches of a file of conversations: `messages` as it is, and the columns that documents have without the text."""
    wanted = {"id": fields.id, "source": fields.source}
    wanted |= {name: name for name in ("dup_cluster", "repeat", "mix_group")}
    row = 0
    for table in parquet_tables(path, [MESSAGES], [MESSAGES, *wanted.values()]):
        made = named_columns(table, wanted, fields, path, row)
        yield pa.table({**made, MESSAGES: table.column(MESSAGES)})
        row += table.num_rows


@kernel
def _join(turns, roles, tokens, offsets, end, out, ends):  # type: ignore[no-untyped-def]
    """Turns `turns[i]` to `turns[i + 1]` of conversation i: role, content and end token of each; `ends`: where each conversation ends."""
    size = 0
    for conversation in range(len(turns) - 1):
        for turn in range(turns[conversation], turns[conversation + 1]):
            out[size] = roles[turn]
            size += 1
            for at in range(offsets[turn], offsets[turn + 1]):
                out[size] = tokens[at]
                size += 1
            out[size] = end
            size += 1
        ends[conversation] = size


@kernel
def trained(tokens, assistant, end, mask):  # type: ignore[no-untyped-def]
    """Whether each token is one that an assistant writes, the end of its turn included; `mask`: uint8, 0 or 1."""
    writing = False
    for at in range(len(tokens)):
        mask[at] = writing
        if tokens[at] == assistant:
            writing = True
        elif tokens[at] == end:
            writing = False


def chat_ids(special_ids: dict[str, int], where: Any) -> tuple[dict[str, int], int]:
    """The ids of the roles, and that of the end of a turn."""
    missing = [token for token in (*ROLES.values(), END_OF_TURN) if token not in special_ids]
    if missing:
        raise TokenizerError(f"{where}: no special token {', '.join(missing)}, which conversations need")
    return {role: special_ids[token] for role, token in ROLES.items()}, special_ids[END_OF_TURN]


def joined_turns(
    table: pa.Table, encoder: Encoder, path: Path
) -> tuple[pa.Table, np.ndarray, np.ndarray, np.ndarray, int]:
    """(rows kept, without `messages`; UTF-8 bytes of their contents; tokens; offsets; rows left out).

    Left out is a conversation without a turn of the assistant: it has no token to train on.
    """
    ids, end = chat_ids(encoder.special_ids, encoder.path)
    messages: Any = table.column(MESSAGES).combine_chunks()
    kind = messages.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)) or not pa.types.is_struct(kind.value_type):
        raise TokenizerError(f"{path}: column {MESSAGES} is {kind}; expected lists of role and content")
    names = {field.name for field in kind.value_type}
    if not {"role", "content"} <= names:
        raise TokenizerError(f"{path}: column {MESSAGES} has the fields {sorted(names)}; expected role and content")
    counts = pc.list_value_length(messages).fill_null(0).to_numpy().astype(np.int64)
    turns = messages.flatten()
    roles: Any = pc.struct_field(turns, "role").cast(pa.large_string()).fill_null("").dictionary_encode()
    known = roles.dictionary.to_pylist()
    codes = roles.indices.to_numpy()
    for number, role in enumerate(known):
        if role not in ids:
            at = int(np.searchsorted(np.cumsum(counts), int(np.flatnonzero(codes == number)[0]), "right"))
            raise TokenizerError(
                f"{path}: the conversation {table.column('id')[at].as_py()!r} has the role {role!r}; expected {', '.join(ROLES)}"
            )
    written = np.array([role == "assistant" for role in known], bool)[codes]
    of = np.repeat(np.arange(len(counts)), counts)
    keep = np.bincount(of[written], minlength=len(counts)) > 0
    kept_turns = keep[of]
    contents = pc.struct_field(turns, "content").cast(pa.large_string()).fill_null("").filter(pa.array(kept_turns))
    tokens, offsets = encoder.encode_column(contents)
    bounds = np.concatenate([[0], np.cumsum(counts[keep])])
    role_ids = np.array([ids[role] for role in known], np.int64)[codes[kept_turns]]
    joined = np.empty(len(tokens) + 2 * len(role_ids), encoder.dtype)
    ends = np.empty(int(keep.sum()), np.int64)
    _join(bounds, role_ids, tokens, offsets, end, joined, ends)
    length = np.concatenate([[0], np.cumsum(pc.binary_length(contents).to_numpy().astype(np.int64))])
    rows = table.drop_columns([MESSAGES]).filter(pa.array(keep))
    return rows, length[bounds[1:]] - length[bounds[:-1]], joined, np.concatenate([[0], ends]), int((~keep).sum())
