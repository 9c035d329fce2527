"""`python -m benchmarks`: every benchmark, or the named ones."""

import sys

from benchmarks import cheap_first, curation, language, pii, url_filter

BENCHMARKS = {
    "cheap_first": cheap_first.main,
    "curation": curation.main,
    "language": language.main,
    "pii": pii.main,
    "url_filter": url_filter.main,
}

for name in sys.argv[1:] or BENCHMARKS:
    if name not in BENCHMARKS:
        sys.exit(f"no benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
    BENCHMARKS[name]()
