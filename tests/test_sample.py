"""What data/sample/README.md claims, read back from the WARC files themselves."""

import collections
import gzip
import io
import json
import re
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from warcio.archiveiterator import ArchiveIterator
from warcio.exceptions import ArchiveLoadFailed

SAMPLE = Path(__file__).parent.parent / "data" / "sample"
README = (SAMPLE / "README.md").read_text(encoding="utf-8")


@cache
def manifest() -> list[dict[str, Any]]:
    with gzip.open(SAMPLE / "manifest.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


@cache
def files() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(SAMPLE.glob("*.warc.gz"))}


@cache
def bodies() -> list[bytes | None]:
    """The payload bytes of every page of the manifest, by its offset; None where the record cannot be read."""
    out: list[bytes | None] = []
    for row in manifest():
        member = files()[row["file"]][row["offset"] : row["offset"] + row["length"]]
        try:
            record = next(ArchiveIterator(io.BytesIO(member)))
            assert record.rec_headers.get_header("WARC-Target-URI") == row["url"]
            out.append(record.raw_stream.read())
        except (ArchiveLoadFailed, EOFError, OSError, zlib.error, StopIteration):
            out.append(None)
    return out


def count_in_readme(kind: str) -> int:
    row = re.search(rf"^\| {kind} \| ([\d,]+) \|", README, re.M)
    assert row, kind
    return int(row.group(1).replace(",", ""))


def test_size_and_page_count() -> None:
    assert 3 <= len(files()) <= 4
    assert sum(path.stat().st_size for path in SAMPLE.rglob("*") if path.is_file()) <= 8_000_000
    assert len(manifest()) >= 1500
    assert f"| {len(manifest()):,}, listed" in README


def test_kinds_are_those_of_the_readme() -> None:
    kinds = collections.Counter(row["kind"] for row in manifest())
    named = {kind: count_in_readme(kind) for kind in re.findall(r"^\| (\w+) \| [\d,]+ \|", README, re.M)}
    assert {kind: kinds[kind] for kind in named} == named
    rest = re.search(r"^\| (\w+(?:, \w+)+) \| (\d+) \|", README, re.M)
    assert rest and set(rest.group(1).split(", ")) == set(kinds) - set(named)
    assert int(rest.group(2)) == sum(kinds.values()) - sum(named.values())


def test_languages_and_scripts() -> None:
    languages = collections.Counter(row["language"] for row in manifest() if row["language"])
    assert f"| {len(languages)} in 7 scripts" in README
    assert sum(count >= 20 for count in languages.values()) >= 12
    letters = {
        "ru": "[а-я]",
        "el": "[α-ω]",
        "ar": "[ا-ي]",
        "ja": "[ぁ-ん]",
        "ko": "[가-힣]",
        "zh": "[一-鿿]",
        "de": "[a-z]",
    }
    for language, letter in letters.items():
        pages = [b.decode() for row, b in zip(manifest(), bodies(), strict=True)
                 if b and row["language"] == language and row["kind"] in ("page", "boilerplate") and row["charset"] == "utf-8"]  # fmt: skip
        assert pages and all(re.search(letter, page, re.I) for page in pages), language


def test_charsets_are_what_the_manifest_says() -> None:
    charsets: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for row, body in zip(manifest(), bodies(), strict=True):
        if row["kind"] != "charset":
            continue
        assert body is not None
        charsets[row["charset"]][row["declared"]] += 1
        html = body.decode(row["charset"])
        meta = re.search(r"charset=([\w-]+)", html[:3000])
        header = re.search(r"charset=([\w-]+)", row["content_type"])
        named = {m.group(1) for m in (meta, header) if m}
        if row["declared"] == "missing":
            assert not named
        else:
            assert named and (named == {row["charset"]}) == (row["declared"] == "right"), row["url"]
    assert f"| {len({row['charset'] for row in manifest()})}: UTF-8" in README
    for charset in ("iso-8859-1", "windows-1251", "koi8-r", "shift_jis", "euc-kr", "gb18030"):
        assert all(charsets[charset][declared] for declared in ("right", "missing", "wrong")), charset


def test_duplicates() -> None:
    by_kind = collections.defaultdict(list)
    for row, body in zip(manifest(), bodies(), strict=True):
        by_kind[row["kind"]].append((row, body))
    pages = {body for _, body in by_kind["page"]}
    assert all(body in pages for _, body in by_kind["exact_duplicate"])
    names = {row["url"].rsplit("/", 1)[1] + row["language"]: body for row, body in by_kind["page"]}

    def shingles(body: bytes) -> set[tuple[str, ...]]:
        words = re.findall(r"\w+", body.decode().lower())
        return {tuple(words[i : i + 5]) for i in range(len(words))}

    near = 0
    for row, body in by_kind["near_duplicate"]:
        twin = names.get(row["url"].rsplit("/", 1)[1] + row["language"])
        if twin is not None and body is not None:
            a, b = shingles(body), shingles(twin)
            near += 0.6 < len(a & b) / len(a | b) < 1
    assert near >= 0.8 * len(by_kind["near_duplicate"])
    releases = collections.Counter(row["url"].split("/docs/")[1] for row, _ in by_kind["release"])
    assert sum(count == 3 for count in releases.values()) >= 20


def test_planted_things_are_there() -> None:
    for row, body in zip(manifest(), bodies(), strict=True):
        if row["kind"] == "pii":
            assert body is not None and re.search(rb"@(\w+\.)*example\.(com|org|net)", body), row["url"]
        if row["kind"] == "blocked_url":
            assert re.search(r"porn|xxx|casino|poker|adult|sex|bet|nude|escort|viagra|hentai|warez", row["url"])
    statuses = {row["status"] for row in manifest() if row["kind"] == "http_status"}
    assert statuses == {301, 302, 403, 404, 410, 500}
    assert max(row["bytes"] for row in manifest()) > 200_000
    assert sum(row["bytes"] < 300 for row in manifest()) >= 5


def test_damage_is_where_the_manifest_says() -> None:
    unreadable = [row["damage"] for row, body in zip(manifest(), bodies(), strict=True) if body is None]
    cut_short = []
    for row, body in zip(manifest(), bodies(), strict=True):
        if row["damage"] in ("corrupt_member", "truncated_member"):
            member = files()[row["file"]][row["offset"] : row["offset"] + row["length"]]
            with pytest.raises((EOFError, OSError, zlib.error)):
                gzip.decompress(member)
            cut_short.append(row["damage"])
        else:
            assert body is not None or row["damage"], row["url"]
    assert sorted(cut_short) == ["corrupt_member", "truncated_member"]
    assert set(unreadable) <= {row["damage"] for row in manifest() if row["damage"]}
    last = manifest()[-1]
    assert last["damage"] == "truncated_member"
    assert last["offset"] + last["length"] == len(files()[last["file"]])


def test_other_record_types_in_whole_files() -> None:
    types: collections.Counter[str] = collections.Counter()
    for name, data in files().items():
        if "damaged" not in name:
            types.update(record.rec_type for record in ArchiveIterator(io.BytesIO(data)))
    listed = sum("damaged" not in row["file"] for row in manifest())
    assert types["response"] + types["resource"] + types["conversion"] == listed
    assert all(types[kind] > 0 for kind in ("warcinfo", "request", "metadata", "revisit", "resource", "conversion"))


def test_every_package_is_attributed() -> None:
    attribution = (SAMPLE / "ATTRIBUTION.md").read_text(encoding="utf-8")
    packages = {
        line.split("\t")[0]: line.split("\t") for line in (SAMPLE / "packages.tsv").read_text().splitlines()[1:]
    }
    used = {row["package"] for row in manifest()} - {"own"}
    assert used == set(packages)
    for name, (_, version, host, languages, licence, holders) in packages.items():
        assert {row["language"] for row in manifest() if row["package"] == name} == set(languages.split(" ")), name
        assert f"| {name} | {version} | {host} | {licence} | {holders} |" in attribution
