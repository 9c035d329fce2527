"""From paths, globs and URLs to files."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import fsspec
import pytest

from pipeline.files import InputError, InputFile, list_files, open_input, read_paths_file
from pipeline.readers import ReadOptions, open_segment, split


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b/x.html", "b/a.html", "a/c/x.htm.gz", "a/y.txt", "a/.hidden.html", ".git/x.html", "top.html"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"<p>")
    return tmp_path / "in"


def keys(files: list[InputFile]) -> list[str]:
    return [file.key for file in files]


def test_keys_are_below_the_glob_free_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert keys(list_files("s", "html", [f"{folder}/*/*.html"])) == ["b/a.html", "b/x.html"]
    assert keys(list_files("s", "html", [f"{folder}/b/*"])) == ["a.html", "x.html"]
    assert keys(list_files("s", "html", [f"{folder}/**/*.htm*"])) == [
        "a/c/x.htm.gz",
        "b/a.html",
        "b/x.html",
        "top.html",
    ]
    assert keys(list_files("s", "html", [f"{folder}/b/x.html", f"file://{folder}/top.html"])) == ["top.html", "x.html"]
    monkeypatch.chdir(folder)
    (file,) = list_files("s", "warc", ["b/x*"])
    assert file == InputFile(
        "s", "x.html", str(folder / "b/x.html"), "warc", 3, str((folder / "b/x.html").stat().st_mtime_ns)
    )
    (folder / "a[1].html").write_bytes(b"")
    assert keys(list_files("s", "html", ["a[1].html"])) == ["a[1].html"]


def test_directories(folder: Path) -> None:
    assert keys(list_files("s", "html", [str(folder)])) == ["a/c/x.htm.gz", "b/a.html", "b/x.html", "top.html"]
    assert keys(list_files("s", "text", [str(folder)])) == ["a/y.txt"]
    with pytest.raises(InputError, match=r"in: is a directory.*\*\*/\*\.jsonl"):
        list_files("s", "jsonl", [str(folder)])
    with pytest.raises(InputError, match=r"b: this directory holds no \.txt"):
        list_files("s", "text", [f"{folder}/b"])
    with pytest.raises(InputError, match="matches only directories"):
        list_files("s", "html", [f"{folder}/[ab]"])


def test_mistakes(folder: Path) -> None:
    with pytest.raises(InputError, match=r"\*\.warc\.gz: matches no file"):
        list_files("s", "warc", [f"{folder}/*.warc.gz"])
    with pytest.raises(InputError, match=r"nope\.html: no such file"):
        list_files("s", "html", [f"{folder}/nope.html"])
    with pytest.raises(InputError, match=r"two files of input 's' have the key 'x\.html'"):
        (folder / "x.html").write_bytes(b"")
        list_files("s", "html", [f"{folder}/x.html", f"{folder}/b/x.html"])
    with pytest.raises(InputError, match="named twice"):
        list_files("s", "html", [f"{folder}/x.html", f"{folder}/*.html"])
    with pytest.raises(InputError, match="no paths"):
        list_files("s", "html", [])
    with pytest.raises(InputError, match="'pdf' is not known"):
        list_files("s", "pdf", [str(folder)])
    with pytest.raises(InputError, match="nosuchscheme"):
        list_files("s", "html", ["nosuchscheme://a/b"])
    with pytest.raises(InputError, match="chained"):
        list_files("s", "html", ["zip://*.html::/a.zip"])
    os.symlink("/nowhere/at/all", folder / "broken.html")
    with pytest.raises(InputError, match=r"broken.html \(of .*\): no such file"):
        list_files("s", "html", [f"{folder}/brok*"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(folder: Path) -> None:
    (folder / "top.html").chmod(0)
    with pytest.raises(InputError, match="permission"):
        list_files("s", "html", [f"{folder}/top.html"])


def test_file_names_that_are_not_utf8(tmp_path: Path) -> None:
    with open(os.fsencode(tmp_path) + b"/a\xff.html", "wb") as file:
        file.write(b"<p>")
    (found,) = list_files("s", "html", [str(tmp_path)])
    assert found.key == "a\\xff.html"
    assert [row.html for row in open_segment(split(found, 100, ReadOptions())[0])] == [b"<p>"]


def test_any_file_system(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    for name in ("crawl/1/a.html", "crawl/2/b.html", "crawl/2/c.txt"):
        memory.pipe(f"/{name}", b"<p>" + name.encode())
    try:
        files = list_files("s", "html", ["memory://crawl/*/*.html"])
        assert (
            keys(files) == ["1/a.html", "2/b.html"] and files[0].url == "memory:///crawl/1/a.html" and files[0].version
        )
        rows = [row for file in files for segment in split(file, 5, ReadOptions()) for row in open_segment(segment)]
        assert [row.html for row in rows] == [b"<p>crawl/1/a.html", b"<p>crawl/2/b.html"]
        assert keys(list_files("s", "html", ["memory://crawl"])) == ["1/a.html", "2/b.html"]
        assert keys(list_files("s", "text", ["memory://crawl/2/c.txt", "memory://crawl/1/a.html"])) == [
            "a.html",
            "c.txt",
        ]
        with open_input(files[0].url) as file:
            file.seek(3)
            assert file.read() == b"crawl/1/a.html"
        for pattern, message in (
            ("memory://crawl/*.html", "matches no file"),
            ("memory://none.html", "no such file"),
            ("memory://crawl/1", "is a directory"),
        ):
            with pytest.raises(InputError, match=message):
                list_files("s", "warc", [pattern])
    finally:
        memory.rm("/crawl", recursive=True)


def test_s3(monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3
    from moto import server as moto

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
        client.create_bucket(Bucket="crawl", ACL="public-read")
        line = b'{"text": "a line"}\n'
        etag = client.put_object(Bucket="crawl", Key="x/1/a.jsonl", Body=line * 1000, ACL="public-read")["ETag"]
        for options in ({"endpoint_url": endpoint}, {"endpoint_url": endpoint, "anon": True}):
            (file,) = list_files("s", "jsonl", ["s3://crawl/x/*/*.jsonl"], options)
            assert (file.key, file.url, file.size) == ("1/a.jsonl", "s3://crawl/x/1/a.jsonl", len(line) * 1000)
            assert file.version == etag.strip('"')
            segments = split(file, 5000, ReadOptions(storage_options=options))
            assert [row.offset for segment in segments for row in open_segment(segment)] == list(range(1000))
            assert len(segments) == 4
        for url, message in (
            ("s3://crawl/none.jsonl", "no such file"),
            ("s3://crawl/*.gz", "matches no file"),
            ("s3://nobucket/*.gz", "matches no file|no such file|cannot be read"),
        ):
            with pytest.raises(InputError, match=message):
                list_files("s", "jsonl", [url], {"endpoint_url": endpoint})
    finally:
        server.stop()


def test_paths_file(tmp_path: Path) -> None:
    path = tmp_path / "list"
    text = b"\xef\xbb\xbf# the crawl\n\n  a/b.warc.gz \r\ns3://bucket/*.gz\n"
    for data in (text, gzip.compress(text)):
        path.write_bytes(data)
        assert read_paths_file(str(path)) == ["a/b.warc.gz", "s3://bucket/*.gz"]
    for data, message in (
        (b"# nothing\n", "names no path"),
        (b"\xff\xff", "not UTF-8"),
        (b"\x1f\x8b", "cannot be read"),
    ):
        path.write_bytes(data)
        with pytest.raises(InputError, match=message):
            read_paths_file(str(path))
    with pytest.raises(InputError, match="cannot be read"):
        read_paths_file(str(tmp_path / "none"))
