"""The index of evaluation items: their words as numbers, and the n-grams that count as evidence.

Words are numbered exactly (by their letters, not by a hash), and n-grams are numbered exactly from those (by doubling:
a window of 2k words is a pair of windows of k), so that no number ever stands for two things. Hashes only find places
to look at; what is found there is compared word by word. An index takes some 40 bytes for each word of the items.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np

from stages.decontaminate.fold import Ints, Keys, Small, folded, words
from stages.decontaminate.match import SEED, WHOLE, place_entries, place_words

_FULL = 0.5  # of the slots of a hash table


@dataclass(frozen=True)
class Rules:
    """What counts as evidence: the knobs that the index depends on."""

    n: int
    gap: int
    min_words: int
    common_items: int

    @property
    def seed(self) -> int:
        """Length of the exact run of words that every match of an n-gram with at most `gap` changes must hold.

        `gap` changes leave at least n - gap words in at most gap + 1 runs.
        """
        return -(-(self.n - self.gap) // (self.gap + 1))


@dataclass(frozen=True)
class Index:
    """Words and n-grams of all items. Positions count words of all items, end to end."""

    rules: Rules
    names: list[tuple[str, str]]  # (benchmark, item) of each item
    item_start: Ints  # first position of each item, and the end
    stream: Small  # the number of the word at each position
    item_of: Small  # the item at each position
    # vocabulary: word v is letters[word_start[v]:word_start[v + 1]]
    letters: Small
    word_start: Ints
    word_key: Keys
    word_slots: Small  # hash table of word numbers, -1 where empty
    # evidence: gram g has gram_size[g] words; it stands at the positions gram_at[gram_first[g]:gram_first[g + 1]]
    gram_size: Small
    gram_at: Small
    gram_first: Small
    window: Small  # the gram of n words that begins at a position, -1 for none
    # what is looked for: entry e is the entry_size[e] words from entry_at[e], a whole gram (entry_gram[e]) or, with a gap,
    # a seed of some, which stands at the positions posting[posting_first[e]:posting_first[e + 1]]
    entry_at: Small
    entry_size: Small
    entry_kind: Small
    entry_gram: Small
    posting: Small
    posting_first: Small
    entry_slots: Small
    sizes: Small  # the lengths of entries, with their kinds in `size_kinds`
    size_kinds: Small
    common: Ints  # for each item, its n-grams that are no evidence since they stand in too many items

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(value.nbytes for f in fields(self) if isinstance(value := getattr(self, f.name), np.ndarray))

    def items_of(self, gram: int) -> tuple[Ints, Ints]:
        """The items that hold a gram, and the word of each at which it begins."""
        at = self.gram_at[self.gram_first[gram] : self.gram_first[gram + 1]]
        items = self.item_of[at].astype(np.int64)
        return items, at.astype(np.int64) - self.item_start[items]


def build_index(items: Iterable[tuple[str, str, list[str]]], rules: Rules) -> Index:
    """An index of (benchmark, item, texts)."""
    names: list[tuple[str, str]] = []
    letters: list[Small] = []
    sizes: list[Ints] = []
    keys: list[Keys] = []
    field_words: list[int] = []
    field_item: list[int] = []
    for benchmark, name, texts in items:
        for text in texts:
            found = words(text)
            out, offsets = folded(found)
            letters.append(out)
            sizes.append(np.diff(offsets))
            keys.append(found.key)
            field_words.append(len(found.start))
            field_item.append(len(names))
        names.append((benchmark, name))
    all_letters = np.concatenate([np.zeros(0, np.int32), *letters])
    starts = np.concatenate([[0], np.cumsum(np.concatenate([np.zeros(0, np.int64), *sizes]))]).astype(np.int64)
    all_keys = np.concatenate([np.zeros(0, np.uint64), *keys])
    stream, own_letters, word_start, word_key, word_slots = _vocabulary(all_letters, starts, all_keys)

    per_item = np.bincount(np.array(field_item, np.int64), np.array(field_words), len(names)).astype(np.int64)
    item_start = np.concatenate([[0], np.cumsum(per_item)]).astype(np.int64)
    item_of = np.repeat(np.arange(len(names), dtype=np.int32), per_item)
    field_start = np.concatenate([[0], np.cumsum(field_words)]).astype(np.int64)
    grams = _Grams(stream, item_start, item_of, field_start, rules)
    entries = _entries(stream, grams, rules)
    return Index(
        rules,
        names,
        item_start,
        stream,
        item_of,
        own_letters,
        word_start,
        word_key,
        word_slots,
        grams.size,
        grams.at,
        grams.first,
        grams.window,
        *entries,
        grams.common,
    )


def _slots(entries: int) -> int:
    """Slots of a hash table: a power of two."""
    return 1 << max(4, int(entries / _FULL).bit_length())


def _vocabulary(letters: Small, starts: Ints, keys: Keys) -> tuple[Small, Small, Ints, Keys, Small]:
    """The number of each word, and the vocabulary: letters, starts, hashes and hash table of the distinct words."""
    slots = np.full(_slots(len(keys)), -1, np.int32)
    stream, first = np.empty(len(keys), np.int32), np.empty(len(keys), np.int64)
    count = place_words(letters, starts, keys, slots, stream, first)
    first = first[:count]
    lengths = starts[first + 1] - starts[first] if count else np.zeros(0, np.int64)
    own = np.concatenate([np.zeros(0, np.int32), *(letters[starts[w] : starts[w + 1]] for w in first.tolist())])
    word_start = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    slots = np.full(_slots(count), -1, np.int32)  # for the distinct words alone
    place_words(own, word_start, keys[first], slots, np.empty(count, np.int32), np.empty(count, np.int64))
    return stream, own, word_start, keys[first], slots


class _Grams:
    """Which windows of words are evidence, numbered."""

    def __init__(self, stream: Small, item_start: Ints, item_of: Small, field_start: Ints, rules: Rules) -> None:
        n, least = rules.n, rules.min_words
        self._ranks: dict[int, Ints] = {1: stream.astype(np.int64)}
        item_words, field_words = np.diff(item_start), np.diff(field_start)
        places = np.arange(len(stream), dtype=np.int64)
        ends = item_start[item_of.astype(np.int64) + 1] if len(stream) else places
        wholes = [places[ends - places >= n]]
        whole_sizes = [np.full(len(wholes[0]), n, np.int64)]
        short: dict[
            tuple[int, int], None
        ] = {}  # (place, size), each once: a short field, or all of an item that is short
        for starts, counts in ((field_start, field_words), (item_start, item_words)):
            for row in np.flatnonzero((counts >= least) & (counts < n)).tolist():
                short[int(starts[row]), int(counts[row])] = None
        wholes.append(np.array([place for place, _ in short], np.int64))
        whole_sizes.append(np.array([size for _, size in short], np.int64))
        at, size = np.concatenate(wholes), np.concatenate(whole_sizes)

        gram = np.empty(len(at), np.int64)
        known = 0
        for length in np.unique(size).tolist():
            mine = np.flatnonzero(size == length)
            _, numbers = np.unique(self.ranked(at[mine], length), return_inverse=True)
            gram[mine] = numbers + known
            known += int(numbers.max()) + 1
        # in how many different texts each stands: a field that is the same in many items counts once
        texts: dict[bytes, int] = {}
        text_of_field = np.array(
            [
                texts.setdefault(stream[a:b].tobytes(), len(texts))
                for a, b in zip(field_start[:-1].tolist(), field_start[1:].tolist(), strict=True)
            ],
            np.int64,
        )
        field_of = np.searchsorted(field_start, at, "right") - 1
        pairs = np.unique(gram * max(1, len(texts)) + text_of_field[field_of]) if len(at) else gram
        holders = np.bincount(pairs // max(1, len(texts)), minlength=known)
        keep = holders[gram] <= rules.common_items
        lost = item_of[at[~keep]]
        self.common: Ints = np.bincount(lost, minlength=len(item_words)).astype(np.int64)

        at, size, gram = at[keep], size[keep], gram[keep]
        _, gram = np.unique(gram, return_inverse=True)
        order = np.lexsort((at, gram))
        self.at: Small = at[order].astype(np.int32)
        count = int(gram.max()) + 1 if len(gram) else 0
        self.first: Small = np.searchsorted(gram[order], np.arange(count + 1)).astype(np.int32)
        self.size: Small = size[order][self.first[:-1]].astype(np.int32) if count else np.zeros(0, np.int32)
        self.window: Small = np.full(len(stream), -1, np.int32)
        full = size == n
        self.window[at[full]] = gram[full]

    def ranked(self, at: Ints, length: int) -> Ints:
        """Numbers of the windows of `length` words at these places: equal exactly where the words are."""
        half = 1 << (length.bit_length() - 1)
        power = 1
        while power < half:
            ranks = self._ranks[power]
            if 2 * power not in self._ranks:
                later = np.full(len(ranks), -1, np.int64)
                later[: max(0, len(ranks) - power)] = ranks[power:]
                _, doubled = np.unique(ranks * (len(ranks) + 1) + later + 1, return_inverse=True)
                self._ranks[2 * power] = doubled.astype(np.int64)
            power *= 2
        ranks = self._ranks[half]
        pairs = ranks[at] * (len(ranks) + 1) + ranks[at + length - half]
        _, numbers = np.unique(pairs, return_inverse=True)
        return numbers.astype(np.int64)


def _entries(
    stream: Small, grams: _Grams, rules: Rules
) -> tuple[Small, Small, Small, Small, Small, Small, Small, Small, Small]:
    """What is looked for in documents: whole grams; with a gap seeds of the n-grams, and short items whole."""
    seed, n = rules.seed, rules.n
    if rules.gap == 0:
        at, whole = grams.at[grams.first[:-1]], np.arange(len(grams.size), dtype=np.int32)
        none = np.zeros(0, np.int32)
        return _placed(stream, at, grams.size, np.full(len(at), WHOLE, np.int32), whole, none, none)
    inside = np.zeros(len(stream) + 1, np.int64)  # how many windows that are evidence hold the seed at a place
    begins = np.flatnonzero(grams.window >= 0)
    np.add.at(inside, begins, 1)
    np.subtract.at(inside, begins + n - seed + 1, 1)
    places = np.flatnonzero(np.cumsum(inside[:-1]) > 0).astype(np.int64)
    numbers = grams.ranked(places, seed) if len(places) else places
    order = np.argsort(numbers, kind="stable")
    posting = places[order]
    count = int(numbers.max()) + 1 if len(numbers) else 0
    first = np.searchsorted(numbers[order], np.arange(count + 1)).astype(np.int64)
    short = np.flatnonzero(grams.size < n)
    at = np.concatenate([posting[first[:-1]], grams.at[grams.first[short]]])
    size = np.concatenate([np.full(count, seed), grams.size[short]]).astype(np.int32)
    kind = np.concatenate([np.full(count, SEED), np.full(len(short), WHOLE)]).astype(np.int32)
    gram = np.concatenate([np.full(count, -1), short]).astype(np.int32)
    posting_first = np.concatenate([first, np.full(len(short), first[-1])]).astype(np.int32)
    return _placed(stream, at.astype(np.int32), size, kind, gram, posting.astype(np.int32), posting_first)


def _placed(
    stream: Small, at: Small, size: Small, kind: Small, gram: Small, posting: Small, first: Small
) -> tuple[Small, Small, Small, Small, Small, Small, Small, Small, Small]:
    """Entries with their hash table and the lengths that they have."""
    slots = np.full(_slots(len(at)), -1, np.int32)
    place_entries(stream, at, size, kind, slots)
    looked = np.unique(np.stack([size, kind]), axis=1)
    return at, size, kind, gram, posting, first, slots, looked[0].astype(np.int32), looked[1].astype(np.int32)
