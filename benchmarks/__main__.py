"""`python -m benchmarks`: every benchmark, or the named ones."""

import sys

from benchmarks import (
    cheap_first,
    classifier,
    curation,
    decontamination,
    dedup_index,
    language,
    passages,
    perplexity,
    pii,
    semantic,
    toxicity,
    url_filter,
    warc_to_text,
)
from benchmarks.dedup import curve, gold, planted, scale, signatures

BENCHMARKS = {
    "cheap_first": cheap_first.main,
    "classifier": classifier.main,
    "curation": curation.main,
    "decontamination": decontamination.main,
    "dedup_index": dedup_index.main,
    "dedup.curve": curve.main,
    "dedup.gold": gold.main,
    "dedup.planted": planted.main,
    "dedup.scale": scale.main,
    "dedup.signatures": signatures.main,
    "language": language.main,
    "passages": passages.main,
    "perplexity": perplexity.main,
    "pii": pii.main,
    "semantic": semantic.main,
    "toxicity": toxicity.main,
    "url_filter": url_filter.main,
    "warc_to_text": warc_to_text.main,
}

for name in sys.argv[1:] or BENCHMARKS:
    if name not in BENCHMARKS:
        sys.exit(f"no benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
    BENCHMARKS[name]()
