"""Deduplication: speed, what is found and what is wrongly removed, growth, and the S-curve; beside peers on the same documents.

    python -m benchmarks.dedup.signatures    MinHash signatures a CPU-second
    python -m benchmarks.dedup.planted       passages with planted copies: speed, recall by true similarity, wrong removals
    python -m benchmarks.dedup.scale         time, memory and disk from 10,000 documents up
    python -m benchmarks.dedup.curve         recall of the bands against 1 - (1 - s^rows)^bands
    python -m benchmarks.dedup.gold          scores on a set with known pairs

Each prints a table, and with `--json FILE` writes what it measured. `--documents` takes JSONL (.xz, .gz), Parquet and WARC
files; without it the bundled sample serves. Peers run only where a Python that has them is named.
"""
