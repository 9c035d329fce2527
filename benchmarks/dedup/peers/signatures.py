"""CPU seconds of a library's MinHash signatures, in a Python that has it.

    PYTHON signatures.py LIBRARY INPUT.jsonl BANDS ROWS

Every library signs sets of 5-grams of words of the same texts. Prints JSON: `documents`, `end to end` (text to signature) and, where the
library takes them, `prepared` (from hashes of the 5-grams to signature; made beforehand).
"""

import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

WORD = re.compile(r"\w+")


def grams(text: str) -> set[str]:
    words = WORD.findall(text.lower())
    return {" ".join(words[place : place + 5]) for place in range(max(1, len(words) - 4))} if words else set()


def seconds(work: Callable, inputs: list) -> float:
    for one in inputs[:20]:
        work(one)
    started = time.process_time()
    for one in inputs:
        work(one)
    return time.process_time() - started


def datatrove(texts: list[str], bands: int, rows: int) -> dict[str, float]:
    from datatrove.pipeline.dedup import MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.utils.hashing import HashConfig

    config = MinhashConfig(5, bands, rows, hash_config=HashConfig(precision=64))
    step = MinhashDedupSignature("/tmp", config)
    step.get_signature(step.get_shingles("Warm up. Then go on with it, as long as there are five words."))
    whole = prepared = 0.0
    for text in texts:
        begun = time.process_time()
        shingles = step.get_shingles(text)
        made = time.process_time()
        if shingles.size:
            step.get_signature(shingles)
        ended = time.process_time()
        whole += ended - begun
        prepared += ended - made
    return {"end to end": whole, "prepared": prepared}


def datasketch(texts: list[str], bands: int, rows: int) -> dict[str, float]:
    from datasketch import MinHash
    from xxhash import xxh3_64_intdigest

    empty = MinHash(num_perm=bands * rows, seed=1, scheme="affine64", hashfunc=xxh3_64_intdigest)
    given = MinHash(num_perm=bands * rows, seed=1, scheme="affine64", hashfunc=int, permutations=empty.permutations)

    def whole(text: str) -> None:
        one = empty.copy()
        one.update_batch([gram.encode("utf-8", "surrogatepass") for gram in grams(text)])

    def prepared(hashes: list[int]) -> None:
        given.copy().update_batch(hashes)

    hashed = [[xxh3_64_intdigest(gram.encode("utf-8", "surrogatepass")) for gram in grams(text)] for text in texts]
    return {"end to end": seconds(whole, texts), "prepared": seconds(prepared, hashed)}


def rensa(texts: list[str], bands: int, rows: int) -> dict[str, float]:
    from rensa import RMinHash
    from xxhash import xxh3_64_intdigest

    hashed = [[xxh3_64_intdigest(gram.encode("utf-8", "surrogatepass")) for gram in grams(text)] for text in texts]

    def batches(values: list) -> list[list]:
        return [values[start : start + 256] for start in range(0, len(values), 256)]

    def whole(part: list[str]) -> None:
        RMinHash.digest_matrix_from_token_sets([list(grams(text)) for text in part], bands * rows, 1)

    def prepared(part: list[list[int]]) -> None:
        RMinHash.digest_matrix_from_token_hash_sets(part, bands * rows, 1)

    return {"end to end": seconds(whole, batches(texts)), "prepared": seconds(prepared, batches(hashed))}


def text_dedup(texts: list[str], bands: int, rows: int) -> dict[str, float]:
    from text_dedup.config.algorithms import MinHashAlgorithmConfig

    algorithm = MinHashAlgorithmConfig(
        algorithm_name="minhash",
        text_column="text",
        bands=bands,
        rows=rows,
        num_perm=bands * rows,
        ngram_size=5,
        threshold=0.8,
    )
    embed = algorithm.get_embed_func()

    def whole(text: str) -> None:
        embed([text], [0])

    return {"end to end": seconds(whole, texts)}


LIBRARIES = {"datatrove": datatrove, "datasketch": datasketch, "rensa": rensa, "text-dedup": text_dedup}


if __name__ == "__main__":
    with Path(sys.argv[2]).open(encoding="utf-8") as lines:
        documents = [json.loads(line)["text"] for line in lines]
    found = LIBRARIES[sys.argv[1]](documents, int(sys.argv[3]), int(sys.argv[4]))
    print()
    print(json.dumps({"documents": len(documents), **found}))
