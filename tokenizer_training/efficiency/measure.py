"""How well tokenizers fit a corpus, in numbers: the content of report.json.

Definitions and caveats: definitions.py. All are diagnostics of the tokenizer, not predictions of a model's quality.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from tokenizer_training.corpus.documents import FIELDS, Fields
from tokenizer_training.dataset.layout import sha256_of
from tokenizer_training.efficiency import metrics
from tokenizer_training.efficiency.counted import counted_totals, counts_files, misfit
from tokenizer_training.efficiency.glitch import glitch_candidates
from tokenizer_training.efficiency.nesting import cost_curve, size_curve
from tokenizer_training.efficiency.parallel import Parallel, measure_parallel, shipped
from tokenizer_training.efficiency.peers import Peer, open_peer
from tokenizer_training.efficiency.probes import measure_probes, measure_strips
from tokenizer_training.efficiency.reach import partial_tokens, vocabulary_health
from tokenizer_training.efficiency.sample import Sample, read_sample
from tokenizer_training.efficiency.words import SEGMENTER

FORMAT = 2  # of report.json
DEAD_BELOW = 5  # a token seen less often than this belongs to the dead tail
BATCH_BYTES = 4_000_000
RANKS_SHOWN = 200  # points of the rank-frequency curve
TIMED_BYTES = 2_000_000

# Shapes of models for the cost of a vocabulary: width, layers and context of GPT-2 small, GPT-2 XL and Llama-2 7B;
# parameters without embeddings are 12 · layers · width².
SHAPES = ((768, 12, 1024), (1600, 48, 1024), (4096, 32, 4096))


def shape(width: int, layers: int, context: int, parameters: int | None = None) -> dict[str, Any]:
    """A model's shape for `nesting.cost_curve`."""
    return {"parameters": parameters or 12 * layers * width**2, "width": width, "layers": layers, "context": context}


def evaluate(
    tokenizer_dir: str | Path,
    documents: Sequence[str | Path],
    *,
    max_bytes: int = 20_000_000,
    fields: Fields = FIELDS,
    parallel: Parallel | None = None,
    counts_table: str | Path | None = None,
    model: str | Path | None = None,
    shapes: Sequence[dict[str, Any]] = (),
    dead_below: int = DEAD_BELOW,
    timed: bool = False,
) -> dict[str, Any]:
    """Measure a tokenizer on documents (Parquet or JSONL files or folders): the content of report.json.

    A corpus larger than `max_bytes` is sampled by document id, so that the result depends neither on the order nor on
    the files. Exact totals come from a table of counted pre-tokens, given, or in `counts` in the tokenizer's folder if it was counted with
    the tokenizer's pattern. Only `timed` facts
    differ from run to run. Raises `TokenizerError` if there is no text.
    """
    started = time.perf_counter()
    peer = open_peer(str(tokenizer_dir))
    peer.encode("a")
    loaded = time.perf_counter() - started
    sample = read_sample(documents, max_bytes, fields)
    facts = measure(
        peer,
        sample,
        shapes=shapes,
        dead_below=dead_below,
        timed=loaded if timed else None,
        model=Path(model) if model else None,
    )
    if parallel is not None:
        facts["parallel_user"] = measure_parallel(peer, parallel)
    if counts_table:
        facts["counted"] = counted_totals(peer, Path(counts_table))
    else:
        found = counts_files(Path(tokenizer_dir) / "counts")
        if found and all(misfit(peer, file) is None for file in found):
            facts["counted"] = counted_totals(peer, Path(tokenizer_dir) / "counts")
    return facts


def measure(
    peer: Peer,
    sample: Sample,
    *,
    shapes: Sequence[dict[str, Any]] = (),
    dead_below: int = DEAD_BELOW,
    timed: float | None = None,
    model: Path | None = None,
) -> dict[str, Any]:
    """All facts of one tokenizer on a sample; `timed`: seconds that loading took, to report speeds as well."""
    if timed is not None:
        peer.encode_batch([text[:10_000] for text in sample.texts[:20]])  # what is compiled or filled on first use
    counts, tokens, by_group, lossless, seconds = _encode(peer, sample)
    if timed is not None:
        timing: dict[str, Any] = _speed(peer, sample, seconds, timed)
    cuts = np.diff(peer.encode_batch(sample.words.to_pylist())[1])
    partial = partial_tokens(peer.pieces)
    total = _row(sample, np.ones(len(sample.texts), np.bool_), tokens, _words_of(sample, None, 0), cuts)
    total |= _distribution(counts, total["bytes"], partial, peer.vocab_size)
    groups: dict[str, dict[str, Any]] = {}
    for dimension, names in sample.names.items():
        rows = {}
        for code, name in enumerate(names):
            mask = sample.codes[dimension] == code
            row = _row(sample, mask, tokens, _words_of(sample, dimension, code), cuts)
            if dimension in by_group:
                row |= _distribution(by_group[dimension][code], row["bytes"], partial, peer.vocab_size)
            rows[name] = row
        groups[f"by_{dimension}"] = dict(sorted(rows.items(), key=lambda item: (-item[1]["bytes"], item[0])))
    merges = peer.merges()
    curve = [] if merges is None else size_curve(counts, merges, total["bytes"])
    chosen = list(shapes) or [shape(*one) for one in SHAPES]
    facts: dict[str, Any] = {
        "format": FORMAT,
        "name": peer.name,
        "kind": peer.kind,
        "tokenizer_sha256": peer.sha256,
        "vocab_size": peer.vocab_size,
        "pattern": peer.pattern(),
        "segmenter": SEGMENTER,
        "settings": {
            "normalization": peer.normalization(),
            "prefix_space": peer.prefix_space(),
            "losses": peer.losses(),
        },
        "corpus_bytes": sample.corpus_bytes,
        "sample_bytes": sample.total_bytes,
        "sample_sha256": sample.sha256,
        "lossless_share": int(lossless.sum()) / len(sample.texts),
        "total": total,
        "vocabulary": vocabulary_use(counts, total["bytes"], len(peer.specials), dead_below),
        "health": vocabulary_health(peer, counts, dead_below),
        **{name: rows for name, rows in groups.items()},
        "parallel": measure_parallel(peer, shipped()),
        "probes": measure_probes(peer),
        "strips": measure_strips(peer),
        "size_curve": curve,
        "costs": [cost_curve(curve, one) for one in chosen] if curve else [],
        "context": [
            {"context": context, "pages": metrics.context_pages(context, total["bytes_per_token"])}
            for context in sorted({one["context"] for one in chosen} | {8192, 131072})
        ],
        "rank_frequency": rank_frequency(counts),
        "manifest": [
            {
                "what": f"tokenizer {peer.name}",
                "file": peer.path.name,
                "bytes": peer.path.stat().st_size,
                "sha256": peer.sha256,
            },
            *(
                {"what": "documents", "file": file.name, "bytes": file.stat().st_size, "sha256": sha256_of(file)}
                for file in sample.files
            ),
            {"what": "parallel text", "file": "udhr.json", "bytes": None, "sha256": shipped().sha256},
        ],
    }
    if model is not None:
        facts["glitch"] = glitch_candidates(peer, model, counts)
    if timed is not None:
        facts["speed"] = timing
    return facts


def _encode(peer: Peer, sample: Sample) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray], np.ndarray, float]:
    """Encode the sample in batches.

    Returns how often each token stands in it (int64[V]), tokens of each document, counts by group (int64[groups, V] for
    each dimension but domains), which documents come back exactly, and the seconds that encoding took.
    """
    counts = np.zeros(peer.vocab_size, np.int64)
    by_group = {
        name: np.zeros((len(names), peer.vocab_size), np.int64)
        for name, names in sample.names.items()
        if name != "domain" and len(names) * peer.vocab_size <= 50_000_000
    }
    tokens = np.zeros(len(sample.texts), np.int64)
    lossless = np.zeros(len(sample.texts), np.bool_)
    seconds = 0.0
    flat = np.frombuffer(b"".join(peer.pieces), np.uint8)
    first_byte = np.concatenate([[0], np.cumsum(peer.lengths)])
    bounds = np.searchsorted(np.cumsum(sample.bytes), np.arange(BATCH_BYTES, sample.total_bytes, BATCH_BYTES)) + 1
    edges = np.unique(np.concatenate([[0], bounds, [len(sample.texts)]])).tolist()
    for start, end in pairwise(edges):
        texts = sample.texts[start:end]
        began = time.perf_counter()
        ids, offsets = peer.encode_batch(texts)
        seconds += time.perf_counter() - began
        tokens[start:end] = np.diff(offsets)
        counts += np.bincount(ids, minlength=peer.vocab_size)
        for name, table in by_group.items():
            codes = sample.codes[name][start:end]
            here = np.repeat(codes, np.diff(offsets))
            for code in np.unique(codes).tolist():
                table[code] += np.bincount(ids[here == code], minlength=peer.vocab_size)
        if peer.byte_exact:
            lossless[start:end] = _same_bytes(ids, offsets, flat, first_byte, texts, sample.bytes[start:end])
        else:
            lossless[start:end] = [
                peer.decode(ids[a:b].tolist()) == text
                for a, b, text in zip(offsets[:-1], offsets[1:], texts, strict=True)
            ]
    return counts, tokens, by_group, lossless, seconds


def _same_bytes(
    ids: np.ndarray, offsets: np.ndarray, flat: np.ndarray, first: np.ndarray, texts: list[str], sizes: np.ndarray
) -> np.ndarray:
    """bool[texts]: whether the bytes of a text's tokens, one after the other, are its own."""
    lengths = (first[1:] - first[:-1])[ids]
    ends = np.concatenate([[0], np.cumsum(lengths)])
    made = ends[offsets[1:]] - ends[offsets[:-1]]
    gathered = flat[np.arange(ends[-1]) + np.repeat(first[ids] - ends[:-1], lengths)]
    if (made == sizes).all():
        wrong = np.flatnonzero(gathered != np.frombuffer("".join(texts).encode("utf-8"), np.uint8))
        same = np.ones(len(texts), np.bool_)
        same[np.searchsorted(np.cumsum(sizes), wrong, side="right")] = False
        return same
    places = ends[offsets]
    return np.array(
        [
            gathered[a:b].tobytes() == text.encode("utf-8")
            for a, b, text in zip(places[:-1], places[1:], texts, strict=True)
        ]
    )


def _speed(peer: Peer, sample: Sample, seconds: float, loaded: float) -> dict[str, Any]:
    """MB/s of encoding the whole sample and of decoding its beginning, and seconds of loading."""
    ids = []
    size = 0
    for text in sample.texts:
        ids.append(peer.encode_batch([text])[0].tolist())
        size += len(text.encode("utf-8"))
        if size >= TIMED_BYTES:
            break
    began = time.perf_counter()
    for one in ids:
        peer.decode(one)
    return {
        "encode_mb_per_second": metrics.ratio(sample.total_bytes / 1e6, seconds),
        "decode_mb_per_second": metrics.ratio(size / 1e6, time.perf_counter() - began),
        "load_seconds": loaded,
    }


def _words_of(sample: Sample, dimension: str | None, code: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of words and how often each stands in the documents of one group (an index may come more than once)."""
    if dimension is None:
        return sample.word, sample.word_count
    column = list(sample.names).index(dimension)
    mine = (sample.cells[:, column] == code)[sample.word_cell]
    return sample.word[mine], sample.word_count[mine]


def _row(
    sample: Sample, mask: np.ndarray, tokens: np.ndarray, words: tuple[np.ndarray, np.ndarray], cuts: np.ndarray
) -> dict[str, Any]:
    """One line of a table; ratios are null where there is nothing to divide by."""
    size, characters, made = (int(column[mask].sum()) for column in (sample.bytes, sample.characters, tokens))
    cut, counts = cuts[words[0]], words[1]
    return {
        "documents": int(mask.sum()),
        "bytes": size,
        "characters": characters,
        "tokens": made,
        "words": int(counts.sum()),
        "bytes_per_token": metrics.ratio(size, made),
        "characters_per_token": metrics.ratio(characters, made),
        "tokens_per_1000_characters": metrics.ratio(1000 * made, characters),
        "fertility": metrics.fertility(cut, counts),
        "continued_word_share": metrics.continued_word_share(cut, counts),
        "single_token_retention_rate": metrics.single_token_retention_rate(cut, counts),
    }


def _distribution(counts: np.ndarray, size: int, partial: np.ndarray, vocabulary: int) -> dict[str, Any]:
    return {
        "unigram_bits_per_byte": metrics.unigram_bits_per_byte(counts, size),
        "renyi_efficiency": metrics.renyi_efficiency(counts, vocabulary),
        "byte_fallback_rate": metrics.byte_fallback_rate(counts, partial),
        "tokens_used": int((counts > 0).sum()),
    }


def vocabulary_use(counts: np.ndarray, text_bytes: int, special: int, dead_below: int = DEAD_BELOW) -> dict[str, Any]:
    """How the tokens share the work, from how often each was seen (int64[vocabulary]).

    Special tokens, which text never uses, are left out of the shares.
    """
    ordinary = len(counts) - special
    seen = int((counts > 0).sum())
    return {
        "tokens_without_specials": ordinary,
        "used": seen,
        "used_share": metrics.used_share(counts, ordinary),
        "dead_below": dead_below,
        "dead_tail_share": metrics.dead_tail_share(counts, ordinary, dead_below),
        "renyi_alpha": metrics.RENYI_ALPHA,
        "renyi_efficiency": metrics.renyi_efficiency(counts, len(counts)),
        "renyi_efficiency_observed": metrics.renyi_efficiency(counts, seen),
        "unigram_bits_per_token": metrics.entropy(counts),
        "unigram_bits_per_byte": metrics.unigram_bits_per_byte(counts, text_bytes),
    }


def rank_frequency(counts: np.ndarray, points: int = RANKS_SHOWN) -> list[list[int]]:
    """[rank, count] of the tokens seen, most frequent first, at ranks evenly spaced in their logarithm."""
    ordered = np.sort(counts[counts > 0])[::-1]
    if not len(ordered):
        return []
    ranks = np.unique(np.geomspace(1, len(ordered), points).round().astype(np.int64))
    return [[int(rank), int(ordered[rank - 1])] for rank in ranks]


def write_report(facts: dict[str, Any], out_dir: str | Path) -> None:
    """Write report.json, report.parquet and report.html for what `evaluate` returned."""
    from tokenizer_training.efficiency.report import write

    write([facts], out_dir)
