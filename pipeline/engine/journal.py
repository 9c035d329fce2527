"""What is done: one manifest a unit, written last; what a fingerprint is made of; why a unit must run again."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline.engine.store import Store, sha256_file

FORMAT = 1


@dataclass(frozen=True)
class Output:
    """A file that a unit wrote: path below the run directory, size, SHA-256, rows."""

    path: str
    size: int
    sha256: str
    rows: int = 0


@dataclass(frozen=True)
class Manifest:
    """A unit's commit. `components` say what its fingerprint was made of, so that `status` can say what changed."""

    phase: str
    unit: str
    fingerprint: str
    components: dict[str, str]
    outputs: list[Output]
    counts: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def digest(self) -> str:
        """Hash of the outputs: what a later unit that reads them depends on."""
        return digest([[(o.path, o.sha256) for o in self.outputs], self.extra.get("poison") or None])


def digest(value: Any) -> str:
    """Stable hash of plain data."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@cache
def version_of(distribution: str) -> str:
    """Installed version of a library, or 'missing'."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "missing"


def _path(phase: str, unit: str) -> str:
    return f"journal/{phase}/{unit}.json"


def commit(store: Store, manifest: Manifest) -> None:
    """Write a unit's manifest: from here on the unit is done."""
    store.write(_path(manifest.phase, manifest.unit), json.dumps(asdict(manifest), indent=1).encode())


def read_manifest(store: Store, phase: str, unit: str) -> Manifest | None:
    """A unit's manifest, or None if it was never committed. A damaged or newer one counts as never committed."""
    try:
        data = json.loads(store.read(_path(phase, unit)))
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(data, dict) or data.get("format", 0) > FORMAT:
        return None
    try:
        return Manifest(**{**data, "outputs": [Output(**o) for o in data["outputs"]]})
    except (TypeError, KeyError):
        return None


PASSING = ("phases/", "scores/")  # what `clean` removes: needed only by units that are still to run


def lasting_present(store: Store, manifest: Manifest) -> bool:
    """Whether the unit's lasting files (documents, ledger, samples) are there in their full size."""
    return all(store.size(o.path) == o.size for o in manifest.outputs if not o.path.startswith(PASSING))


def passing_present(store: Store, manifest: Manifest) -> bool:
    """Whether the files that later units read are there in their full size."""
    return all(store.size(o.path) == o.size for o in manifest.outputs if o.path.startswith("phases/"))


def forget(store: Store, phase: str, unit: str) -> None:
    """Take back a unit's commit, before its outputs are replaced."""
    store.remove(_path(phase, unit))


def output(path: str, temporary: Path, rows: int) -> Output:
    """Facts about a file that is about to be put in place."""
    return Output(path, temporary.stat().st_size, sha256_file(temporary), rows)


def difference(old: dict[str, str], new: dict[str, str]) -> str:
    """The components in which two fingerprints differ, in words."""
    changed = [key for key in new if key in old and old[key] != new[key]]
    added = [key for key in new if key not in old]
    removed = [key for key in old if key not in new]
    parts = (
        [f"{key} changed" for key in changed]
        + [f"{key} added" for key in added]
        + [f"{key} removed" for key in removed]
    )
    return ", ".join(parts) or "nothing changed"
