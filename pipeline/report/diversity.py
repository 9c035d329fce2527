"""Vocabulary, topics and domains before and after each stage, from the ledger and the sketches of the stage `diversity`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.report import scan
from pipeline.report.corpus import domain
from training.report import human

BUDGET = 64 << 20  # bytes of sketches that are read; of more, some parts are
GENERIC = 0.05  # share of documents above which a word names no topic
DOMAINS_HELD = 500_000
TOPICS_SHOWN = 15
QUARTERS = 4  # of the documents, in an order by lot, for the growth of the vocabulary

Step = tuple[str, int]  # a stage's name, and how many stages a document must have passed to come out of it


@dataclass
class Ended:
    """What is known of the documents that one stage ended, or (the last) that were kept."""

    documents: int = 0
    tokens: np.ndarray = field(default_factory=lambda: np.zeros(QUARTERS, dtype=np.int64))
    words: list[list[np.ndarray]] = field(default_factory=lambda: [[] for _ in range(QUARTERS)])
    counts: list[list[np.ndarray]] = field(default_factory=lambda: [[] for _ in range(QUARTERS)])
    topics: Counter[tuple[str, ...]] = field(default_factory=Counter)
    domains: Counter[str] = field(default_factory=Counter)


def diversity(run: Path, stages: Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The report's section; None if the run has no sketches. `stages` and `config` are run.json's."""
    own = _own_stage(config)
    names = [str(stage["stage"]) for stage in stages]
    if own is None or own[0] not in names or not scan.parts(run / "scores" / own[0]):
        return None
    name, sample = own
    first = names.index(name)
    groups = scan.row_groups(run / "scores" / name, ["diversity_words", "diversity_counts", "diversity_topics"])
    chosen = scan.spread(groups, BUDGET)
    parts = list(dict.fromkeys(group.path for group in chosen))
    ended = {place: Ended() for place in range(first, len(names) + 1)}
    for path in parts:
        _take_part(path, run / "ledger" / path.name, names, first, ended)
    if not any(one.documents for one in ended.values()):
        return None
    generic = _generic(ended.values())
    rows = []
    for place, after in enumerate([f"into {name}", *names[first + 1 :]], first):
        alive = [ended[k] for k in range(place + 1, len(names) + 1)] if place > first else list(ended.values())
        rows.append(_row(after, alive, sample, generic))
    rows = [
        row
        for i, row in enumerate(rows)
        if i == 0 or row["documents"] != rows[i - 1]["documents"] or i == len(rows) - 1
    ]
    return {
        "rows": rows,
        "topics": _shift(list(ended.values()), [ended[len(names)]], generic),
        "sampled": None
        if len(parts) == len({g.path for g in groups})
        else {"read": len(parts), "of": len({g.path for g in groups})},
    }


def _own_stage(config: Mapping[str, Any]) -> tuple[str, int] | None:
    """Name and `sample` of the run's first diversity stage."""
    for entry in config.get("stages") or []:
        for kind, knobs in entry.items() if isinstance(entry, Mapping) else ():
            if kind == "diversity":
                return str((knobs or {}).get("as") or kind), int((knobs or {}).get("sample") or 64)
    return None


def _take_part(path: Path, ledger: Path, names: Sequence[str], first: int, ended: dict[int, Ended]) -> None:
    """Add the documents of one shard to where they ended."""
    if not ledger.exists():
        return
    kept = len(names)
    places = {name: place for place, name in enumerate(names)}
    fate: dict[str, tuple[int, str]] = {}
    for batch in _batches(ledger, ["id", "stage", "url"]):
        ids, stages, urls = (batch.column(name).to_pylist() for name in ("id", "stage", "url"))
        for id_, stage, url in zip(ids, stages, urls, strict=True):
            place = kept if stage is None else places.get(stage, 0)
            if place >= first:
                fate[id_] = (place, "/".join((url or "").split("/", 3)[:3]))
    hosts: dict[str, str] = {}
    columns = ["id", "diversity_tokens", "diversity_words", "diversity_counts", "diversity_topics"]
    for batch in _batches(path, columns):
        ids = batch.column("id").to_pylist()
        where = [fate.get(id_) for id_ in ids]
        quarter = np.array([int(id_[:2], 16) % QUARTERS if id_ else 0 for id_ in ids])
        tokens = np.asarray(batch.column("diversity_tokens").fill_null(0))
        topics = batch.column("diversity_topics").to_pylist()
        for row, found in enumerate(where):
            if found is None:
                continue
            one = ended[found[0]]
            one.documents += 1
            one.tokens[quarter[row]] += tokens[row]
            one.topics[tuple(topics[row] or ())] += 1
            if found[1] not in hosts:
                hosts[found[1]] = domain(found[1]) if found[1] else "(none)"
            if len(one.domains) < DOMAINS_HELD or hosts[found[1]] in one.domains:
                one.domains[hosts[found[1]]] += 1
        _take_words(batch, where, quarter, ended)


def _take_words(
    batch: pa.RecordBatch, where: Sequence[tuple[int, str] | None], quarter: np.ndarray, ended: dict[int, Ended]
) -> None:
    """The followed words of a batch, summed up by where their documents ended."""
    lists: Any = batch.column("diversity_words")
    counts: Any = batch.column("diversity_counts")
    row = np.asarray(pc.list_parent_indices(lists))
    words, numbers = np.asarray(lists.flatten()), np.asarray(counts.flatten()).astype(np.int64)
    place = np.array([-1 if found is None else found[0] for found in where])[row]
    for end in np.unique(place[place >= 0]).tolist():
        for part in range(QUARTERS):
            here = (place == end) & (quarter[row] == part)
            if here.any():
                ended[end].words[part].append(words[here])
                ended[end].counts[part].append(numbers[here])
                if len(ended[end].words[part]) > 64:
                    ended[end].words[part], ended[end].counts[part] = _summed(
                        ended[end].words[part], ended[end].counts[part]
                    )


def _summed(words: list[np.ndarray], counts: list[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Equal words put together."""
    if not words:
        return [], []
    known, inverse = np.unique(np.concatenate(words), return_inverse=True)
    return [known], [np.bincount(inverse, np.concatenate(counts), len(known)).astype(np.int64)]


def _batches(path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    with scan.open_part(path) as part:
        yield from part.iter_batches(batch_size=4096, columns=columns, use_threads=False)


def entropy(counts: np.ndarray) -> float:
    """Shannon entropy of counts, in bits."""
    shares = counts[counts > 0] / max(counts.sum(), 1)
    return float(-(shares * np.log2(shares)).sum()) if len(shares) else 0.0


def gini(counts: np.ndarray) -> float:
    """Gini coefficient of counts: 0 where all are equal, near 1 where one has all."""
    ordered = np.sort(counts[counts > 0]).astype(np.float64)
    n = len(ordered)
    return float((2 * np.arange(1, n + 1) - n - 1) @ ordered / (n * ordered.sum())) if n else 0.0


def _row(name: str, alive: Sequence[Ended], sample: int, generic: set[str]) -> dict[str, Any]:
    """The measures of the documents that are still there after a stage."""
    seen = [_summed([w for one in alive for part in one.words[: q + 1] for w in part],
                    [c for one in alive for part in one.counts[: q + 1] for c in part]) for q in (1, QUARTERS - 1)]  # fmt: skip
    tokens = [sum(int(one.tokens[: q + 1].sum()) for one in alive) for q in (1, QUARTERS - 1)]
    half, whole = (len(words[0]) if words else 0 for words, _ in seen)
    growth = None
    if half and whole and tokens[1] > tokens[0] > 0:
        growth = float(np.log(whole / half) / np.log(tokens[1] / tokens[0]))
    domains = _merged(one.domains for one in alive)
    domains.pop("(none)", None)
    topics = _topics(alive, generic)
    counts = np.array(list(domains.values()), dtype=np.int64)
    named = np.array([n for topic, n in topics.items() if topic], dtype=np.int64)
    return {
        "stage": human.shown(name, 80),
        "documents": sum(one.documents for one in alive),
        "tokens": tokens[1],
        "vocabulary": whole * sample,
        "growth": growth,
        "word_entropy": entropy(seen[1][1][0]) if seen[1][1] else 0.0,
        "topics": 2 ** entropy(named) if len(named) else 0.0,
        "domains": len(domains),
        "effective_domains": 2 ** entropy(counts) if len(counts) else 0.0,
        "gini": gini(counts) if len(counts) else None,
    }


def _merged(counters: Any) -> Counter[str]:
    total: Counter[str] = Counter()
    for counter in counters:
        total.update(counter)
    return total


def _generic(ended: Any) -> set[str]:
    """Words that are frequent in so many documents that they tell none of them apart."""
    documents: Counter[str] = Counter()
    total = 0
    for one in ended:
        for topics, number in one.topics.items():
            total += number
            for word in topics:
                documents[word] += number
    return {word for word, number in documents.items() if number > max(GENERIC * total, 2)}


def _topics(alive: Sequence[Ended], generic: set[str]) -> Counter[str]:
    """Documents by topic: the first of a document's frequent words that is not generic, else the first; "" where it has none."""
    found: Counter[str] = Counter()
    for one in alive:
        for topics, number in one.topics.items():
            found[next((word for word in topics if word not in generic), topics[0] if topics else "")] += number
    return found


def _shift(before: Sequence[Ended], after: Sequence[Ended], generic: set[str]) -> list[dict[str, Any]]:
    """The largest topics with their shares before and after all stages."""
    old, new = _topics(before, generic), _topics(after, generic)
    old_total, new_total = max(old.total(), 1), max(new.total(), 1)
    order = sorted((t for t in old if t), key=lambda t: (-max(old[t] / old_total, new[t] / new_total), t))[
        :TOPICS_SHOWN
    ]
    return [
        {"topic": human.shown(t, 40), "before": old[t] / old_total, "after": new[t] / new_total, "documents": new[t]}
        for t in order
    ]
