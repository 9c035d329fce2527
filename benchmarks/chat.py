"""The stage `chat` on public instruction data: how often each finding fires, how many cut answers it sees, rows per CPU-second.

    python -m benchmarks.chat FOLDER [--show FINDING]

FOLDER holds JSON lines (.jsonl, .jsonl.xz) of rows in any shape of docs/chat.md; rows with `chosen` and `rejected` are pairs.
Recall of `truncated`: of each answer of 20 words or more a copy is cut behind a word chosen by lot, at least ten words in.
"""

from __future__ import annotations

import argparse
import json
import lzma
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.readers.conversation import BadRow, Conversation, conversation, guess_kind
from stages.chat.chat import CUES, check
from stages.chat.checks import is_truncated
from stages.chat.cues import read_cues


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file."""
    with lzma.open(path, "rt", encoding="utf-8") if path.suffix == ".xz" else path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def main() -> None:
    """Measure every file of the folder."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("folder", type=Path)
    parser.add_argument("--show", help="print the ends of the rows with this finding")
    options = parser.parse_args()
    cues = read_cues([CUES])
    lot = random.Random(1)
    for path in sorted([*options.folder.glob("*.jsonl"), *options.folder.glob("*.jsonl.xz")]):
        found: list[Conversation] = []
        refused = 0
        for row in rows(path):
            try:
                found.append(conversation(row, guess_kind(set(row)), {}, None))
            except BadRow:
                refused += 1
        started = time.process_time()
        judged = [
            check(c.kind, {"messages": c.messages, "chosen": c.chosen, "rejected": c.rejected}, c.answer, {}, cues)
            for c in found
        ]
        seconds = time.process_time() - started
        findings = Counter(name for one in judged for name in [*one.faults, *one.tags])
        fixes = Counter(name for one in judged for name in one.fixed)
        cut = seen = 0
        for one in judged:
            messages = one.lists["messages"] or []
            words = messages[-1]["content"].split(" ") if messages else []
            if len(words) >= 20:
                cut += 1
                seen += is_truncated(" ".join(words[: lot.randrange(10, len(words) - 1)]))
        speed = f"{len(found) / max(seconds, 1e-9):,.0f} rows/CPU-s"
        print(f"{path.name}: {len(found):,} rows, {refused:,} of no known shape, {speed}")
        print(f"  findings {dict(findings.most_common())}; fixed {dict(fixes.most_common())}")
        if cut:
            print(f"  answers cut by lot that are seen: {seen:,} of {cut:,} ({seen / cut:.2f})")
        for one in judged:
            if options.show in one.faults or options.show in one.tags:
                print(
                    "   ",
                    json.dumps([m["content"][-160:] for m in (one.lists["messages"] or [])[-2:]], ensure_ascii=False),
                )


if __name__ == "__main__":
    main()
