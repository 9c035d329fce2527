"""One way to pre-tokenise or count, in a process of its own: `counting_peers.py SYSTEM KIND CORPUS PATTERN`.

KIND is `split` (the pre-tokens of every text) or `count` (how often each occurs). Prints CPU-seconds, bytes, number of
pre-tokens (for count: of distinct ones), without reading the corpus.
"""

import json
import sys
import time
from collections import Counter
from pathlib import Path


def split_with(system, pattern):
    """A function from a text to its pre-tokens."""
    if system == "regex":
        import regex

        return regex.compile(pattern).findall
    if system == "tiktoken":  # its Rust loop cannot be called without merging: an encoding of the 256 bytes alone
        import tiktoken

        encoding = tiktoken.Encoding(
            "bytes", pat_str=pattern, mergeable_ranks={bytes([i]): i for i in range(256)}, special_tokens={}
        )
        return encoding.encode_ordinary
    from tokenizers import Regex, pre_tokenizers

    return pre_tokenizers.Split(Regex(pattern), "isolated").pre_tokenize_str


def main():
    system, kind, corpus, pattern = sys.argv[1:]
    split = split_with(system, pattern)
    counter, size, found, seconds = Counter(), 0, 0, 0.0
    with Path(corpus).open(encoding="utf-8") as lines:
        for line in lines:
            text = json.loads(line)["text"].encode("utf-8", "replace").decode()
            size += len(text.encode())
            begun = time.process_time()
            pieces = split(text)
            if kind == "count":
                counter.update([piece for piece, _ in pieces] if system == "tokenizers" else pieces)
            seconds += time.process_time() - begun
            found += len(pieces)
    print(json.dumps([seconds, size, len(counter) if kind == "count" else found]))


if __name__ == "__main__":
    main()
