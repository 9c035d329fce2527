"""The run directory, local or at any fsspec URL: whole files appear under their final names or not at all.

Locally a file is written beside its place, flushed to disk and renamed. On an object store it is uploaded as one
object (a single PUT, or a multipart upload completed at the end), which readers see whole or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import fsspec

LEASE = "lease.json"
TEMPORARY = ".tmp-"  # in the name of every unfinished local file


class LeaseLost(OSError):
    """Another run took over the directory while this one was thought dead."""


def is_url(path: str) -> bool:
    """Whether a path names another filesystem than the local one."""
    return "://" in path and not path.startswith("file://")


@dataclass(frozen=True)
class Store:
    """A run directory. Paths given to its methods are relative to `root` and use `/`."""

    root: str
    options: dict[str, Any] = field(default_factory=dict)
    token: str | None = None  # of the lease under which is written: after another run took it over, nothing is

    @property
    def local(self) -> Path | None:
        """The local folder, or None where the run lies on another filesystem."""
        return None if is_url(self.root) else Path(self.root.removeprefix("file://"))

    def _remote(self, path: str) -> tuple[fsspec.AbstractFileSystem, str]:
        fs, base = fsspec.core.url_to_fs(self.root, **self.options)
        return fs, f"{base.rstrip('/')}/{path}" if path else base

    def exists(self, path: str) -> bool:
        """Whether a file or folder is there."""
        if self.local is not None:
            return (self.local / path).exists()
        fs, full = self._remote(path)
        fs.invalidate_cache()
        return bool(fs.exists(full))

    def size(self, path: str) -> int | None:
        """Size in bytes, or None if there is no such file."""
        try:
            if self.local is not None:
                return (self.local / path).stat().st_size
            fs, full = self._remote(path)
            return int(fs.info(full, refresh=True)["size"]) if "s3" in str(fs.protocol) else int(fs.info(full)["size"])
        except FileNotFoundError:
            return None

    def read(self, path: str) -> bytes:
        """The whole file. Raises `FileNotFoundError`."""
        if self.local is not None:
            return (self.local / path).read_bytes()
        fs, full = self._remote(path)
        fs.invalidate_cache()
        content: bytes = fs.cat_file(full)
        return content

    def open(self, path: str) -> IO[bytes]:
        """A seekable binary file for reading."""
        if self.local is not None:
            return (self.local / path).open("rb")
        fs, full = self._remote(path)
        handle: IO[bytes] = fs.open(full, "rb")
        return handle

    def check_lease(self) -> None:
        """Raise `LeaseLost` if another run holds the directory by now, so that an orphan never overwrites its files."""
        if self.token is None:
            return
        try:
            held = json.loads(self.read(LEASE)).get("token")
        except (FileNotFoundError, ValueError):
            held = None
        if held != self.token:
            raise LeaseLost(f"{self.root}: this run's lease is gone; nothing more is written")

    def write(self, path: str, content: bytes) -> None:
        """Put a small file in place, atomically."""
        if path != LEASE:
            self.check_lease()
        if self.local is None:
            fs, full = self._remote(path)
            fs.pipe_file(full, content)
            return
        with self.writing(path) as temporary:
            temporary.write_bytes(content)

    @contextlib.contextmanager
    def writing(self, path: str) -> Iterator[Path]:
        """A local path to write to; on leaving without an exception it is flushed and put in place, else removed."""
        if self.local is not None:
            final = self.local / path
            final.parent.mkdir(parents=True, exist_ok=True)
            temporary = final.with_name(f"{TEMPORARY}{uuid.uuid4().hex[:12]}-{final.name}")
            try:
                yield temporary
                with temporary.open("rb+") as handle:
                    os.fsync(handle.fileno())
                if path != LEASE:
                    self.check_lease()
                temporary.replace(final)
                _sync_folder(final.parent)
            finally:
                temporary.unlink(missing_ok=True)
            return
        with tempfile.TemporaryDirectory(prefix="gristmill-") as folder:
            temporary = Path(folder) / Path(path).name
            yield temporary
            self.check_lease()
            fs, full = self._remote(path)
            fs.put_file(str(temporary), full)

    def files(self, folder: str) -> list[str]:
        """Paths of all finished files below a folder, sorted."""
        if self.local is not None:
            base = self.local / folder
            found = (p for p in base.rglob("*") if p.is_file() and not p.name.startswith(TEMPORARY))
            return sorted(p.relative_to(self.local).as_posix() for p in found)
        fs, full = self._remote(folder)
        fs.invalidate_cache()
        if not fs.exists(full):
            return []
        root = self._remote("")[1].rstrip("/") + "/"
        return sorted(p.removeprefix(root).removeprefix("/") for p in fs.find(full))

    def folders(self, folder: str) -> list[str]:
        """Names of the folders directly below a folder, sorted."""
        prefix = f"{folder}/" if folder else ""
        if self.local is not None:
            base = self.local / folder
            return sorted(p.name for p in base.iterdir() if p.is_dir()) if base.is_dir() else []
        return sorted(
            {path.removeprefix(prefix).split("/")[0] for path in self.files(folder) if "/" in path.removeprefix(prefix)}
        )

    def remove(self, path: str) -> None:
        """Remove a file or a whole folder; nothing happens if it is not there."""
        if self.local is not None:
            target = self.local / path
            if target.is_dir() and not target.is_symlink():
                shutil.rmtree(target, ignore_errors=True)
            else:
                target.unlink(missing_ok=True)
            return
        fs, full = self._remote(path)
        with contextlib.suppress(FileNotFoundError):
            fs.rm(full, recursive=True)
        fs.invalidate_cache()

    def sweep(self) -> None:
        """Remove unfinished local files that a killed run left behind (only the holder of the lease may)."""
        if self.local is not None:
            for leftover in self.local.rglob(f"{TEMPORARY}*"):
                if leftover.is_dir():
                    shutil.rmtree(leftover, ignore_errors=True)
                else:
                    leftover.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a local file."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
