"""One live run a directory: a second one is refused, a dead one's lease is taken over.

Locally a lease names host, boot id, pid and the start time of that process, so that the lease of a dead holder is taken over
at once. A lease from another host (shared filesystem, object store) is dead when it was not renewed for `STALE` seconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from pipeline.engine.store import LEASE, Store

RENEW = 15.0  # seconds between renewals
STALE = 120.0  # seconds without a renewal after which a foreign holder counts as dead


class LeaseHeld(Exception):
    """Another live run works in the same directory."""


def _identity() -> dict[str, Any]:
    boot = Path("/proc/sys/kernel/random/boot_id")
    return {
        "host": socket.gethostname(),
        "boot": boot.read_text().strip() if boot.exists() else str(psutil.boot_time()),
        "pid": os.getpid(),
        "started": psutil.Process().create_time(),
    }


def _alive(lease: dict[str, Any], me: dict[str, Any]) -> bool:
    if lease.get("host") == me["host"]:
        if lease.get("boot") != me["boot"]:
            return False
        try:
            process = psutil.Process(int(lease["pid"]))
            return (
                abs(process.create_time() - float(lease["started"])) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
            )
        except (psutil.NoSuchProcess, KeyError, ValueError, TypeError):
            return False
    renewed = lease.get("renewed")
    return isinstance(renewed, int | float) and time.time() - renewed < STALE


def holder(store: Store) -> dict[str, Any] | None:
    """The live run in this directory, if there is one."""
    found = _read(store)
    return found if found is not None and _alive(found, _identity()) else None


def _read(store: Store) -> dict[str, Any] | None:
    """The lease that lies in the directory, or None; a damaged one is none."""
    try:
        found = json.loads(store.read(LEASE))
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None


@contextlib.contextmanager
def lease(store: Store) -> Iterator[Store]:
    """Hold the directory's lease; gives the store to write with. Raises `LeaseHeld` naming the live holder."""
    mine = {**_identity(), "token": uuid.uuid4().hex}
    with _local_lock(store):
        other = holder(store)
        if other is not None:
            raise LeaseHeld(
                f"{store.root}: another run works here (process {other.get('pid')} on {other.get('host')}); "
                "wait for it, stop it, or choose another --output"
            )
        store.write(LEASE, json.dumps({**mine, "renewed": time.time()}).encode())
    done = threading.Event()

    def is_mine() -> bool:
        return (_read(store) or {}).get("token") == mine["token"]

    def renew() -> None:
        while not done.wait(RENEW):
            with contextlib.suppress(OSError):
                if is_mine():  # a run that was thought dead must not take the directory back
                    store.write(LEASE, json.dumps({**mine, "renewed": time.time()}).encode())

    renewer = threading.Thread(target=renew, daemon=True)
    renewer.start()
    try:
        yield replace(store, token=mine["token"])
    finally:
        done.set()
        renewer.join()
        with contextlib.suppress(OSError):
            if is_mine():
                store.remove(LEASE)


@contextlib.contextmanager
def _local_lock(store: Store) -> Iterator[None]:
    """Serialise two local starts in the same instant; object stores have no such lock."""
    if store.local is None:
        yield
        return
    import fcntl

    store.local.mkdir(parents=True, exist_ok=True)
    with (store.local / ".lease-lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
