"""Parity-aware BPE (arXiv 2508.04796): each merge is the best one for the language that compresses worst so far.

There is one machine a language, with its own counts; a merge is made in all of them. How well a language compresses is its
bytes to a token on the counts, or, with a parallel development set, how few tokens its side of the set has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tokenizer_training.config import TokenizerError
from tokenizer_training.vocabulary.bpe import LONGEST_TOKEN, Progress, byte_ids, check_table, token_bytes, train_bpe
from tokenizer_training.vocabulary.config import TokenizerConfig
from tokenizer_training.vocabulary.merging import apply_merge, bring_top, find_slot, room_for
from tokenizer_training.vocabulary.pairs import DONE, NEED_HEAP, Merger, grow, new_merger
from tokenizer_training.vocabulary.pretokenize import pretokens, to_nfc
from tokenizer_training.vocabulary.special import SPECIAL_TOKENS


class Table(NamedTuple):
    """Pre-tokens and their counts; see `train_bpe`."""

    data: np.ndarray
    offsets: np.ndarray
    counts: np.ndarray

    def size(self) -> int:
        """Bytes of text."""
        return int(np.dot(np.diff(self.offsets), self.counts))


def joined(tables: Sequence[Table]) -> Table:
    """All tables one after the other."""
    shifts = np.cumsum([0, *(len(table.data) for table in tables)])
    offsets = [table.offsets[:-1] + shift for table, shift in zip(tables, shifts, strict=False)]
    return Table(
        np.concatenate([table.data for table in tables]),
        np.concatenate([*offsets, shifts[-1:]]),
        np.concatenate([table.counts for table in tables]),
    )


class _Side:
    """One table of one language: its machine, and how many tokens it has now."""

    def __init__(self, table: Table, special: int, wanted: int, longest: int, forbidden: list[int]) -> None:
        check_table(*table)
        widths = np.ones(special + 256, np.int32)
        # pairs that are rare here are kept: another language may choose them
        self.machine: Merger = new_merger(
            table.data, byte_ids(special), table.offsets, table.counts, widths, wanted, 1, longest, forbidden
        )
        self.bytes = self.tokens = table.size()

    def best(self, min_frequency: int) -> int | None:
        """The key of the pair to merge next, if one is frequent enough."""
        found = bring_top(self.machine)
        while found < 0:
            self.machine = grow(self.machine, NEED_HEAP)
            found = bring_top(self.machine)
        if found == 0 or self.machine.heap_count[0] < min_frequency:
            return None
        return int(self.machine.key[self.machine.heap_slot[0]])

    def merge(self, key: int) -> None:
        slot = find_slot(self.machine, key)
        status = room_for(self.machine, slot)
        while status != DONE:
            self.machine = grow(self.machine, status)
            status = room_for(self.machine, slot)
        self.tokens -= apply_merge(self.machine, slot, key)


def train_parity(
    tables: dict[str, Table],
    vocab_size: int,
    min_frequency: int = 2,
    max_token_length: int | None = None,
    special_tokens: Sequence[str] = SPECIAL_TOKENS,
    development: dict[str, Table] | None = None,
    share: float = 1.0,
    progress: Progress | None = None,
) -> np.ndarray:
    """Merges (int32[M, 2]) from a table for each language.

    The language is the one with the fewest bytes to a token in its table; with `development` (the same languages, parallel
    texts) the one with the most tokens there; of equal ones the first by name. It chooses its most frequent pair, of
    equal ones the smaller ids, if it has one of `min_frequency`; else it takes part no longer. The first 1 - `share` of the
    merges are those of `train_bpe` on all tables together.
    """
    special = len(special_tokens)
    wanted = vocab_size - special - 256
    if wanted <= 0 or not tables:
        return np.zeros((0, 2), np.int32)
    if development is not None and sorted(development) != sorted(tables):
        raise TokenizerError(
            f"the development set has {', '.join(sorted(development))}; expected the languages of the counts, "
            f"{', '.join(sorted(tables))}"
        )
    names = sorted(tables)
    plain = train_bpe(
        *joined([tables[name] for name in names]),
        special + 256 + int((1 - share) * wanted),
        min_frequency,
        max_token_length,
        special_tokens,
    )
    longest = LONGEST_TOKEN if max_token_length is None else max_token_length
    forbidden: list[int] = []
    while True:
        sides = {name: _Side(tables[name], special, wanted, longest, forbidden) for name in names}
        tests = sides
        if development is not None:
            tests = {name: _Side(development[name], special, wanted, longest, forbidden) for name in names}
        merges = _merge_by_turns(sides, tests, plain, wanted, min_frequency, development is not None, progress)
        tokens = token_bytes(merges, special_tokens)
        clash = next((at for at, token in enumerate(tokens[special:]) if token in tokens[:special]), None)
        if clash is None:
            return merges
        left, right = merges[clash - 256].tolist()
        forbidden.append((left << 32) | right)  # it would spell a special token: see `all_merges`


def _merge_by_turns(
    sides: dict[str, _Side],
    tests: dict[str, _Side],
    plain: np.ndarray,
    wanted: int,
    min_frequency: int,
    parallel: bool,
    progress: Progress | None,
) -> np.ndarray:
    machines = [*sides.values(), *(tests.values() if tests is not sides else ())]
    made: list[tuple[int, int]] = []

    def merge(key: int) -> None:
        for machine in machines:
            machine.merge(key)
        made.append((key >> 32, key & 0xFFFFFFFF))

    for left, right in plain.tolist():
        merge((left << 32) | right)
    active = [name for name in sides if tests[name].bytes]
    while len(made) < wanted and active:
        if parallel:
            worst = max(active, key=lambda name: tests[name].tokens)
        else:
            worst = min(active, key=lambda name: tests[name].bytes / tests[name].tokens)
        key = sides[worst].best(min_frequency)
        if key is None:
            active.remove(worst)
            continue
        merge(key)
        if progress is not None and len(made) % 1024 == 0:
            progress(len(made), wanted)
    return np.array(made, np.int32).reshape(-1, 2)


def read_development(folder: str, languages: Sequence[str], config: TokenizerConfig) -> dict[str, Table]:
    """A parallel development set, <language>.txt for each language, as tables; `TokenizerError` unless all have as many lines."""
    found, lines = {}, {}
    for name in languages:
        file = Path(folder) / f"{name}.txt"
        try:
            text = file.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise TokenizerError(
                f"parity.development: {file}: {error}; expected UTF-8 text of every language"
            ) from None
        text = to_nfc(text) if config.normalization == "nfc" else text
        lines[name] = text.count("\n") + (text[-1:] not in ("", "\n"))
        words = Counter(word.encode("utf-8") for word in pretokens(text, config.rules()))
        offsets = np.zeros(len(words) + 1, np.int64)
        np.cumsum([len(word) for word in words], out=offsets[1:])
        data = np.frombuffer(b"".join(words), np.uint8)
        found[name] = Table(data, offsets, np.array(list(words.values()), np.int64))
    if len(set(lines.values())) > 1:
        raise TokenizerError(f"parity.development: {folder}: the files have {lines} lines; parallel ones have as many")
    return found


def gini(values: Sequence[float]) -> float:
    """Gini coefficient: 0 where all are equal."""
    if not values or not sum(values):
        return 0.0
    array = np.asarray(values, np.float64)
    return float(np.abs(array[:, None] - array[None, :]).sum() / (2 * len(array) ** 2 * array.mean()))
