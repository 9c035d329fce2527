"""The URL filter with a list of millions of domains: time to load, memory, addresses per CPU-second.

Three programs on the same list, the same words and the same addresses, interleaved: the stage; datatrove's `URLFilter`
(where a Python that has it is given); and the least that Python needs, a set of strings and tldextract, without words.
Everything is generated from a seed.

    python -m benchmarks.url_filter [--entries N] [--ut1 FOLDER] [--peer-python PATH] [--rounds N]
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
WORDS = ROOT / "stages" / "assets" / "url_filter"
ADDRESSES = 60_000
LISTED = 0.02  # share of the addresses whose domain is on the list

COMMON = """
import json, os, sys, time
from pathlib import Path
domains, urls, words = map(Path, sys.argv[1:4])
def pss():
    # bytes that the process would free by ending
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
def lines(path):
    return [line.strip() for line in path.read_text().splitlines() if line.strip() and line[0] != "#"]
def report(load, judge):
    before, started = pss(), time.process_time()
    load()
    loaded, memory = time.process_time() - started, pss() - before
    asked = lines(urls)
    judge(asked[:1000])
    started = time.process_time()
    dropped = judge(asked)
    print(json.dumps({"load": loaded, "memory": memory, "speed": len(asked) / (time.process_time() - started), "dropped": dropped}))
"""

OURS = """
import pyarrow as pa
from stages.batch import Batch
from stages.url_filter import UrlFilter, UrlFilterConfig
stage = UrlFilter(UrlFilterConfig(block_domains=str(domains), columns=sys.argv[4:] == ["columns"]))
def judge(asked):
    table = pa.table({"url": asked})
    batches = (Batch(table.slice(row, 64)) for row in range(0, len(asked), 64))
    return sum(rule is not None for batch in batches for rule in stage.decide(stage.measure(batch)).rule)
report(lambda: stage.setup({name: Path(path) for name, path in stage.assets().items()}), judge)
"""

DATATROVE = """
from datatrove.data import Document
from datatrove.pipeline.filters.url_filter import URLFilter
from tldextract import TLDExtract
def ascii(name):  # other scripts become empty words in its normal form, and match everything
    return [word for word in lines(words / name) if word.isascii()]
def load():
    global filter
    with domains.open() as file:
        filter = URLFilter(extra_domains=file, banned_words=ascii("hard_words.txt"), soft_banned_words=ascii("soft_words.txt"),
                           banned_subwords=ascii("substrings.txt"), use_integrated_lists=False)
    filter.tldextractor = TLDExtract(suffix_list_urls=())  # the list that it ships, nothing fetched
    filter.tldextractor("probe.example.com")
def judge(asked):
    return sum(filter.filter(Document(text="", id="", metadata={"url": url})) is not True for url in asked)
report(load, judge)
"""

FLOOR = """
from tldextract import TLDExtract
def load():
    global listed, extract
    with domains.open() as file:
        listed = {line.strip() for line in file}
    extract = TLDExtract(suffix_list_urls=(), cache_dir=None)
    extract("probe.example.com")
def judge(asked):
    found = map(extract, asked)
    return sum(one.top_domain_under_public_suffix in listed or one.fqdn in listed for one in found)
report(load, judge)
"""


def words(chance: random.Random, count: int) -> list[str]:
    """Made-up words of two to nine letters."""
    return ["".join(chance.choices("abcdefghijklmnoprstuvwz", k=chance.randint(2, 9))) for _ in range(count)]


def make_list(path: Path, entries: int, chance: random.Random) -> list[str]:
    """A list like UT1's: registrable domains, some hosts, a few addresses of IP. Returns a sample of it."""
    names = words(chance, 30_000)
    endings = ["com"] * 10 + ["net", "org", "ru", "de", "info", "co.uk", "com.br", "xn--p1ai"]
    sample = []
    with path.open("w") as file:
        for number in range(entries):
            host = f"{chance.choice(names)}{chance.choice(['', '-'])}{chance.choice(names)}{number % 997}.{chance.choice(endings)}"
            if number % 8 == 0:
                host = f"{chance.choice(names)}.{host}"
            if number % 500 == 0:
                host = ".".join(str(chance.randrange(256)) for _ in range(4))
            file.write(host + "\n")
            if number % max(1, entries // 5000) == 1:
                sample.append(host)
    return sample


def make_urls(path: Path, listed: list[str], chance: random.Random) -> None:
    """Addresses in the order of an archive: hosts mixed, half of them seen before."""
    names = words(chance, 20_000)
    hosts = [f"{chance.choice(['www.', '', 'blog.'])}{chance.choice(names)}{chance.choice(names)}.{chance.choice(['com', 'de', 'co.jp', 'org'])}"
             for _ in range(ADDRESSES // 2)]  # fmt: skip
    with path.open("w") as file:
        for _ in range(ADDRESSES):
            host = chance.choice(listed) if chance.random() < LISTED else chance.choice(hosts)
            folders = "/".join(chance.choice(names) for _ in range(chance.randint(0, 4)))
            query = chance.choice(["", "", "", "?id=17&utm_source=feed", "?page=2"])
            file.write(f"{chance.choice(['http', 'https'])}://{host}/{folders}{query}\n")


def measure(python: str, program: str, *arguments: str) -> dict[str, float]:
    """What one program says of itself."""
    command = [python, "-c", COMMON + program, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


def main(arguments: list[str] | None = None) -> None:
    """Print load time, memory and speed of each program; medians of the rounds."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.url_filter")
    parser.add_argument("--entries", type=int, default=5_000_000)
    parser.add_argument(
        "--ut1", help="a folder in the form of UT1's, used instead of the generated list by our stage alone"
    )
    parser.add_argument("--peer-python", help="a Python that has datatrove, pyahocorasick and fasteners")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments if arguments is not None else [])
    chance = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        domains, urls = Path(folder) / "domains.txt", Path(folder) / "urls.txt"
        make_urls(urls, make_list(domains, options.entries, chance), chance)
        here = [str(domains), str(urls), str(WORDS)]
        programs: dict[str, tuple[str, str, list[str]]] = {
            "url_filter": (sys.executable, OURS, here),
            "url_filter, columns": (sys.executable, OURS, [*here, "columns"]),
            "set + tldextract, no words": (sys.executable, FLOOR, here),
        }
        if options.peer_python:
            programs["datatrove URLFilter"] = (options.peer_python, DATATROVE, here)
        if options.ut1:
            programs[f"url_filter, {Path(options.ut1).name}"] = (sys.executable, OURS, [options.ut1, *here[1:]])
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in programs}
        for _ in range(options.rounds):
            for name, (python, program, given) in programs.items():
                rounds[name].append(measure(python, program, *given))
        print(f"{options.entries:,} domains, {ADDRESSES:,} addresses, medians of {options.rounds} interleaved rounds")
        for name, found in rounds.items():
            load, memory, speed = (statistics.median(one[key] for one in found) for key in ("load", "memory", "speed"))
            print(
                f"  {name}: load {load:.1f} CPU-s, {memory / 1e6:.0f} MB, {speed:,.0f} addresses/CPU-s, {found[0]['dropped']:,} dropped"
            )


if __name__ == "__main__":
    main(sys.argv[1:])
