"""Model files and lists: found and hashed before the first record is read, copied once to each node."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path

import fsspec

from pipeline.config import StageSpec
from pipeline.engine.store import TEMPORARY, is_url, sha256_file
from pipeline.yamlfile import ConfigError
from stages.stage import ASSETS, Stage, StageError


def variants(spec: StageSpec) -> list[Stage]:
    """The stage with its own knobs, then with those of each `by_language` entry."""
    stages = [spec.stage_class(spec.config)]
    for values in spec.config.by_language.values():
        own = spec.config.model_dump(by_alias=True, exclude_unset=True)
        stages.append(spec.stage_class(type(spec.config).model_validate({**own, **values, "by_language": {}})))
    return stages


def pinned(specs: Iterable[StageSpec], run: str | None) -> tuple[StageSpec, ...]:
    """The stages with what `Stage.pin` makes of their configs. Raises `ConfigError`."""
    try:
        return tuple(replace(spec, config=spec.stage_class.pin(spec.config, run)) for spec in specs)
    except StageError as error:
        raise ConfigError(str(error)) from None


def hash_assets(specs: Iterable[StageSpec]) -> dict[str, str]:
    """SHA-256 of every asset that the stages name: path -> hex digest. Raises `ConfigError` for a missing one."""
    digests: dict[str, str] = {}
    for spec in specs:
        for stage in variants(spec):
            for name, path in stage.assets().items():
                if path not in digests:
                    digests[path] = _hash(spec.name, name, path)
    return digests


def _hash(stage: str, name: str, path: str) -> str:
    try:
        if not is_url(path):
            target = Path(path).expanduser()
            if target.is_dir():
                return _hash_folder(target)
            return sha256_file(target)
        with fsspec.open(path, "rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except FileNotFoundError:
        raise ConfigError(f"{stage}: the file for `{name}` is not there: {path}; give its path in the config") from None
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"{stage}: the file for `{name}` cannot be read: {path}: {error}") from None


def _hash_folder(folder: Path) -> str:
    whole = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        whole.update(f"{path.relative_to(folder).as_posix()}\n{sha256_file(path)}\n".encode())
    return whole.hexdigest()


@cache
def local_copy(path: str, sha256: str) -> Path:
    """A readable local path for an asset with this hash.

    What ships with the project, and folders, are read in place. Other files are copied once a node, into a folder
    named by their hash, so that a slow shared disk or an object store is asked once and a changed file is noticed.
    """
    target = Path(path).expanduser() if not is_url(path) else None
    if target is not None and (target.is_relative_to(ASSETS) or target.is_dir()):
        return target
    folder = Path(tempfile.gettempdir()) / f"gristmill-assets-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    copy = folder / f"{sha256}-{Path(path).name}"
    if copy.exists() and sha256_file(copy) == sha256:
        return copy
    temporary = folder / f"{TEMPORARY}{os.getpid()}-{copy.name}"
    try:
        with (
            contextlib.closing(fsspec.open(path, "rb").open() if target is None else target.open("rb")) as source,
            temporary.open("wb") as sink,
        ):
            while block := source.read(1 << 20):
                sink.write(block)
        if sha256_file(temporary) != sha256:
            raise OSError(f"{path} changed since the run began; start the run again")
        temporary.replace(copy)
    finally:
        temporary.unlink(missing_ok=True)
    return copy
