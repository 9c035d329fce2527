"""The walls: namespaces, a root of its own, no capabilities, limits. Linux alone, through ctypes; no root needed.

Kernel: user_namespaces(7), mount_namespaces(7), pivot_root(2), capabilities(7).
"""

from __future__ import annotations

import ctypes
import functools
import os
import resource
import sysconfig
from pathlib import Path
from typing import Any

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWUSER = 0x00020000, 0x04000000, 0x08000000, 0x10000000
CLONE_NEWPID, CLONE_NEWNET = 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = (
    1,
    2,
    4,
    8,
    32,
    4096,
    16384,
    1 << 18,
)
MNT_DETACH = 2
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP = 1, 4, 24
SIGKILL = 9
NOBODY = 65534  # who a run is, inside

DEVICES = ("null", "urandom", "zero")


@functools.cache
def libc() -> Any:
    """The C library of this process."""
    return ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> None:
    """Raise `OSError` that says what failed if a call of the C library did."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def enter_namespaces() -> bool:
    """Give this process namespaces of its own: users, mounts, network, IPC, host name. Raises `OSError`.

    Returns whether a run can become a user whose number of threads the kernel limits (it never limits those of root). Root
    outside maps itself and `NOBODY`, by a helper that stays outside, as only someone there may map two; anyone else is
    `NOBODY` inside.
    """
    flags = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS
    uid, gid, pid = os.geteuid(), os.getegid(), os.getpid()
    if uid == 0:
        read, write = os.pipe()
        helper = os.fork()
        if helper == 0:
            os.close(write)
            os.read(read, 1)
            os._exit(0 if _map_two(pid) else 1)
        os.close(read)
        try:
            check(libc().unshare(flags), "unshare (a user namespace)")
        finally:
            os.close(write)
            _, status = os.waitpid(helper, 0)
        if status == 0:
            return True
    else:
        check(libc().unshare(flags), "unshare (a user namespace)")
    inside = 0 if uid == 0 else NOBODY
    _put(Path("/proc/self/setgroups"), "deny")
    _put(Path("/proc/self/uid_map"), f"{inside} {uid} 1\n")
    _put(Path("/proc/self/gid_map"), f"{inside} {gid} 1\n")
    return uid != 0


def _map_two(pid: int) -> bool:
    try:
        for name in ("uid_map", "gid_map"):
            _put(Path(f"/proc/{pid}/{name}"), f"0 0 1\n{NOBODY} {NOBODY} 1\n")
    except OSError:
        return False
    return True


def _put(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    encoded = [None if text is None else os.fsencode(text) for text in (source, target, kind, options)]
    check(
        libc().mount(encoded[0], encoded[1], encoded[2], ctypes.c_ulong(flags), encoded[3]),
        f"mount {kind or 'bind'} on {target}",
    )


def new_root(machine: str) -> None:
    """Make a small read-only file system the root: Python's standard library, three devices, /tmp. Raises `OSError`.

    What is bound keeps its path. No /proc, no /sys, no packages.
    """
    library = sysconfig.get_paths()["stdlib"]
    sources = {library: os.open(library, os.O_PATH | os.O_CLOEXEC)}  # found before something is mounted over them
    sources |= {f"/dev/{name}": os.open(f"/dev/{name}", os.O_PATH | os.O_CLOEXEC) for name in DEVICES}
    _mount(None, "/", None, MS_REC | MS_PRIVATE)
    base = "/tmp"
    # the descriptors' links are read in a /proc that stays where it was
    _mount("tmpfs", base, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,nr_inodes=4096,mode=755")
    for path, descriptor in sources.items():
        target = Path(base + path)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path == library:
            target.mkdir()
        else:
            target.touch()
        _mount(f"/proc/self/fd/{descriptor}", str(target), None, MS_BIND | MS_REC)
        _read_only(str(target), device=path != library)
        os.close(descriptor)
    hidden = Path(base + library, "site-packages")
    if hidden.is_dir():
        _mount("tmpfs", str(hidden), "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV, "size=4k")
    Path(base, "tmp").mkdir()
    os.chdir(base)
    check(libc().syscall(PIVOT_ROOT[machine], b".", b"."), "pivot_root")
    check(libc().umount2(b".", MNT_DETACH), "umount of the old root")
    os.chdir("/")
    _read_only("/")
    name = b"sandbox"
    check(libc().sethostname(name, len(name)), "sethostname")


def _read_only(path: str, device: bool = False) -> None:
    """Remount a bound tree read-only, keeping what its source was locked to: the kernel refuses to take that away."""
    locked = os.statvfs(path).f_flag & (MS_NOSUID | MS_NODEV | MS_NOEXEC)  # the same bits as ST_*
    flags = MS_RDONLY | MS_NOSUID | locked | (0 if device else MS_NODEV)
    _mount(None, path, None, MS_REMOUNT | MS_BIND | flags)


def private_room(disk: int) -> None:
    """For one run: processes and mounts of its own, and an empty /tmp of `disk` bytes. The next child is the first process."""
    check(libc().unshare(CLONE_NEWPID | CLONE_NEWNS), "unshare (processes and mounts)")
    options = f"size={disk},nr_inodes=1024,mode=700,uid={os.getuid()},gid={os.getgid()}"
    _mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, options)


def give_room_to_nobody() -> None:
    """Hand /tmp to `NOBODY`."""
    os.chown("/tmp", NOBODY, NOBODY)


def become_nobody() -> None:
    """Stop being root inside."""
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def drop_capabilities() -> None:
    """No capability is left, nor can one come back."""
    for capability in range(64):
        if libc().prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0:
            break  # behind the last one that the kernel knows, or not ours to drop: capset below decides
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    check(libc().capset(header, (ctypes.c_uint32 * 6)()), "capset")


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends."""
    check(libc().prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0), "prctl(PR_SET_PDEATHSIG)")


def hide_from_peers() -> None:
    """No core dump, no ptrace by others."""
    check(libc().prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), "prctl(PR_SET_DUMPABLE)")


def set_limits(limits: dict[str, Any], bound_processes: bool) -> None:
    """The kernel's limits of one run; keys as in `sandbox.Limits`."""
    values = {
        "RLIMIT_CPU": max(1, int(limits["cpu"] + 0.999)),
        "RLIMIT_AS": limits["memory"],
        "RLIMIT_FSIZE": limits["disk"],
        "RLIMIT_NOFILE": limits["files"],
        "RLIMIT_CORE": 0,
        "RLIMIT_MEMLOCK": 0,
        "RLIMIT_MSGQUEUE": 0,
        "RLIMIT_SIGPENDING": 64,
    }
    if bound_processes:
        values["RLIMIT_NPROC"] = limits["threads"] + 2  # launcher and supervisor may be the same user
    for name, value in values.items():
        number = getattr(resource, name, None)
        if number is not None:
            ceiling = resource.getrlimit(number)[1]
            value = value if ceiling == resource.RLIM_INFINITY else min(value, ceiling)
            resource.setrlimit(number, (value, value))
