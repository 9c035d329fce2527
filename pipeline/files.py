"""Input files: from the paths, globs and URLs of a config to a sorted list of files, and the opening of one."""

from __future__ import annotations

import glob
import gzip
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypeVar, cast

FORMATS = ("warc", "wet", "jsonl", "parquet", "html", "text")

# What a directory walk takes; each also with .gz behind it.
WALKED = {"html": (".html", ".htm", ".xhtml", ".xht"), "text": (".txt", ".text", ".md")}

BLOCK = 8 << 20  # bytes that one request to an object store asks for

T = TypeVar("T")


class InputError(ValueError):
    """A path, pattern or option of `input` that cannot be used; the message says what to do."""


@dataclass(frozen=True)
class InputFile:
    """One input file. `key` is its path below the pattern's glob-free folder; (source, key) is unique in a run.

    `size` is in bytes; `version` is the modification time in ns (local) or ETag / last-modified (object stores).
    """

    source: str
    key: str
    url: str
    format: str
    size: int
    version: str


@dataclass(frozen=True)
class _Found:
    key: str
    url: str
    size: int
    version: str


def list_files(
    source: str, format: str, paths: Iterable[str], storage_options: Mapping[str, Any] | None = None
) -> list[InputFile]:
    """The files that `paths` name: local paths and globs (`**` too), and fsspec URLs; sorted by (source, key).

    A directory is walked for html and text (by suffix, hidden files left out) and an error for other formats.
    Raises `InputError` for a pattern without a match, a missing or unreadable file, and two files with one key.
    """
    if format not in FORMATS:
        raise InputError(f"input format {format!r} is not known; expected one of {', '.join(FORMATS)}")
    options = dict(storage_options or {})
    patterns = [str(path) for path in paths]
    if not patterns:
        raise InputError(f"input {source!r} names no paths; give at least one path, glob or URL")
    remote = [pattern for pattern in patterns if _is_remote(pattern)]
    by_pattern: dict[str, list[_Found]] = {}
    if remote:
        # One request a path at least: in parallel, for lists of thousands of object-store files.
        with ThreadPoolExecutor(max_workers=16) as pool:
            by_pattern.update(
                zip(remote, pool.map(lambda one: _find_remote(one, format, options), remote), strict=True)
            )
    files: dict[str, InputFile] = {}
    for pattern in patterns:
        for found in by_pattern[pattern] if _is_remote(pattern) else _find_local(pattern, format):
            other = files.get(found.key)
            if other is not None and other.url == found.url:
                raise InputError(f"{found.url} is named twice in input {source!r}; name each file once")
            if other is not None:
                raise InputError(
                    f"two files of input {source!r} have the key {found.key!r}: {other.url} and {found.url}; give them "
                    "different sources, or one pattern whose glob-free folder holds both"
                )
            files[found.key] = InputFile(source, found.key, found.url, format, found.size, found.version)
    return sorted(files.values(), key=lambda file: (file.source, file.key))


def read_paths_file(path: str, storage_options: Mapping[str, Any] | None = None) -> list[str]:
    """The paths and URLs of a list, one a line; blank lines and lines that start with # are left out. May be gzipped."""
    try:
        with open_input(path, storage_options) as file:
            data = file.read()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        lines = data.decode("utf-8-sig").splitlines()
    except (OSError, EOFError) as error:
        raise InputError(f"paths_file {path}: cannot be read ({_reason(error)}); check the path") from error
    except UnicodeDecodeError as error:
        raise InputError(f"paths_file {path}: not UTF-8 text; expected one path or URL a line") from error
    paths = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not paths:
        raise InputError(f"paths_file {path}: names no path; expected one path or URL a line")
    return paths


def open_input(url: str, storage_options: Mapping[str, Any] | None = None) -> BinaryIO:
    """A seekable binary file object. Raises OSError, or what the file system raises."""
    if not _is_remote(url):
        return Path(_local(url)).open("rb")
    import fsspec

    fs, path = fsspec.core.url_to_fs(url, **dict(storage_options or {}))
    return cast(BinaryIO, fs.open(path, "rb", block_size=BLOCK, cache_type="readahead"))


def _is_remote(path: str) -> bool:
    return "://" in path and not path.startswith(("file://", "local://"))


def _local(path: str) -> str:
    for scheme in ("file://", "local://"):
        path = path.removeprefix(scheme)
    return os.path.expanduser(path)  # noqa: PTH111 - Path would normalise what a glob must see


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or f"{type(error).__name__}: {str(error)[:200]}"


# Local files


def _find_local(pattern: str, format: str) -> list[_Found]:
    path = _local(pattern)
    if Path(path).exists() or not glob.has_magic(path):  # a file may be called "a[1].html"
        if Path(path).is_dir():
            return _walk_local(pattern, path, format)
        return [_local_file(pattern, path, PurePosixPath(Path(path).name).as_posix())]
    base = _glob_free_folder(path)
    matches = sorted(glob.glob(path, recursive=True))  # noqa: PTH207 - Path.glob refuses absolute patterns
    found = [
        _local_file(pattern, match, Path(os.path.relpath(match, base)).as_posix())
        for match in matches
        if not Path(match).is_dir()
    ]
    if not found:
        why = "matches only directories; end it with a file pattern such as /*" if matches else "matches no file"
        raise InputError(f"{pattern}: {why}; relative paths start at {Path.cwd()}; check the path and the spelling")
    return found


def _walk_local(pattern: str, path: str, format: str) -> list[_Found]:
    if format not in WALKED:
        raise InputError(
            f"{pattern}: is a directory; name its files with a glob, such as {path.rstrip('/')}/**/*.{format}*"
        )
    found = []
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if _is_walked(name, format):
                file = Path(folder) / name
                found.append(_local_file(pattern, str(file), Path(os.path.relpath(file, path)).as_posix()))
    if not found:
        raise InputError(
            f"{pattern}: this directory holds no {' '.join(WALKED[format])} file; name its files with a glob"
        )
    return found


def _is_walked(name: str, format: str) -> bool:
    return not name.startswith(".") and name.lower().removesuffix(".gz").endswith(WALKED[format])


def _local_file(pattern: str, path: str, key: str) -> _Found:
    named = path if pattern == path else f"{path} (of {pattern})"
    try:
        with Path(path).open("rb") as file:  # the only sure test that it can be read
            status = os.fstat(file.fileno())
    except FileNotFoundError as error:
        raise InputError(f"{named}: no such file; relative paths start at {Path.cwd()}") from error
    except PermissionError as error:
        raise InputError(
            f"{named}: not readable (permission denied); change its permissions or leave it out"
        ) from error
    except OSError as error:
        raise InputError(f"{named}: not readable ({_reason(error)})") from error
    return _Found(_unicode(key), str(Path(path).absolute()), status.st_size, str(status.st_mtime_ns))


def _unicode(key: str) -> str:
    """A key that Arrow can hold: the odd bytes of a file name that is not UTF-8 become \\xNN."""
    return os.fsencode(key).decode("utf-8", "backslashreplace")


def _glob_free_folder(path: str) -> str:
    parts = path.split("/")
    magic = next(place for place, part in enumerate(parts) if glob.has_magic(part))
    return "/".join(parts[:magic]) or ("/" if path.startswith("/") else ".")


# Any other file system


def _find_remote(pattern: str, format: str, options: dict[str, Any]) -> list[_Found]:
    if "::" in pattern:
        raise InputError(f"{pattern}: chained URLs are not supported; name the files themselves")
    fs, path = _ask(pattern, lambda: _url_to_fs(pattern, options))
    # A "?" in a web address is a query, not a glob.
    has_magic = "*" in path if pattern.startswith(("http://", "https://")) else glob.has_magic(path)
    if not has_magic:
        info = _ask(pattern, lambda: fs.info(path))
        if info["type"] == "directory":
            if format not in WALKED:
                raise InputError(
                    f"{pattern}: is a directory; name its files with a glob, such as {pattern.rstrip('/')}/**/*.{format}*"
                )
            base, infos = path, _ask(pattern, lambda: fs.find(path, detail=True))
            infos = {name: info for name, info in infos.items() if _is_walked(name.rsplit("/", 1)[-1], format)}
        else:
            base, infos = path.rpartition("/")[0], {path: info}
    else:
        base, infos = _glob_free_folder(path), _ask(pattern, lambda: fs.glob(path, detail=True))
    found = []
    for name, info in sorted(infos.items()):
        if info["type"] == "directory":
            continue
        if info.get("size") is None:
            raise InputError(f"{pattern}: the server does not tell the file's size; download it first")
        key = _unicode(name.removeprefix(base).lstrip("/"))
        found.append(_Found(key, fs.unstrip_protocol(name), int(info["size"]), _version(info)))
    if not found:
        raise InputError(f"{pattern}: matches no file; check the pattern, and that these credentials may list it")
    return found


def _url_to_fs(pattern: str, options: dict[str, Any]) -> tuple[Any, str]:
    import fsspec

    fs, path = fsspec.core.url_to_fs(pattern, **options)
    return fs, path


def _ask(pattern: str, question: Callable[[], T]) -> T:
    """The answer of a file system; its many kinds of failure as one kind of error."""
    try:
        return question()
    except ImportError as error:
        raise InputError(f"{pattern}: {error}; for s3:// install the extra: pip install 'gristmill[s3]'") from error
    except FileNotFoundError as error:
        raise InputError(f"{pattern}: no such file; check the URL") from error
    except PermissionError as error:
        raise InputError(
            f"{pattern}: access denied; give credentials, or storage_options: {{anon: true}} for a public bucket, or "
            "{requester_pays: true} where the reader pays"
        ) from error
    except Exception as error:  # every file system has its own kinds
        hint = (
            "; for a public bucket set storage_options: {anon: true}"
            if "redential" in f"{type(error).__name__} {error}"
            else ""
        )
        raise InputError(f"{pattern}: cannot be read ({_reason(error)}){hint}") from error


def _version(info: Mapping[str, Any]) -> str:
    for name in ("ETag", "etag", "checksum", "md5", "LastModified", "last_modified", "mtime", "updated", "created"):
        if info.get(name):
            value = info[name]
            return value.isoformat() if hasattr(value, "isoformat") else str(value).strip('"')
    return ""
