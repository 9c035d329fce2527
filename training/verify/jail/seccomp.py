"""A seccomp filter: the system calls that a run may make; any other fails with EPERM.

No process can be started (`clone` makes threads alone, `clone3` says that it is not there, `execve` is not on the list), so
the limits of memory and CPU time of a process are those of the run. No socket but a pair of one's own; no mount, namespace,
ptrace, bpf, io_uring, key, shared memory or memory file.

Layout of the filter: Documentation/userspace-api/seccomp_filter.rst and include/uapi/linux/filter.h of Linux. Numbers:
arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h (aarch64).
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct

# name: (number on x86_64, number on aarch64); None where the architecture has no such call
ALLOWED: dict[str, tuple[int | None, int | None]] = {
    # files, within what is mounted
    "read": (0, 63), "write": (1, 64), "pread64": (17, 67), "pwrite64": (18, 68), "readv": (19, 65), "writev": (20, 66),
    "lseek": (8, 62), "close": (3, 57), "close_range": (436, 436), "dup": (32, 23), "dup2": (33, None), "dup3": (292, 24),
    "fcntl": (72, 25), "flock": (73, 32), "fsync": (74, 82), "fdatasync": (75, 83), "ftruncate": (77, 46), "truncate": (76, 45),
    "fallocate": (285, 47), "open": (2, None), "openat": (257, 56), "access": (21, None), "faccessat": (269, 48),
    "faccessat2": (439, 439), "stat": (4, None), "lstat": (6, None), "fstat": (5, 80), "newfstatat": (262, 79),
    "statx": (332, 291), "statfs": (137, 43), "fstatfs": (138, 44), "readlink": (89, None), "readlinkat": (267, 78),
    "getdents": (78, None), "getdents64": (217, 61), "getcwd": (79, 17), "chdir": (80, 49), "fchdir": (81, 50),
    "mkdir": (83, None), "mkdirat": (258, 34), "rmdir": (84, None), "unlink": (87, None), "unlinkat": (263, 35),
    "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276), "link": (86, None), "linkat": (265, 37),
    "symlink": (88, None), "symlinkat": (266, 36), "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53),
    "umask": (95, 166), "utimensat": (280, 88), "fadvise64": (221, 223), "copy_file_range": (326, 285), "sendfile": (40, 71),
    # memory
    "mmap": (9, 222), "munmap": (11, 215), "mremap": (25, 216), "mprotect": (10, 226), "madvise": (28, 233), "brk": (12, 214),
    "mincore": (27, 232), "membarrier": (324, 283),
    # signals to oneself
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "rt_sigpending": (127, 136),
    "rt_sigsuspend": (130, 133), "rt_sigtimedwait": (128, 137), "sigaltstack": (131, 132), "restart_syscall": (219, 128),
    "tgkill": (234, 131), "alarm": (37, None), "getitimer": (36, 102), "setitimer": (38, 103), "pause": (34, None),
    # threads
    "futex": (202, 98), "set_robust_list": (273, 99), "get_robust_list": (274, 100), "set_tid_address": (218, 96),
    "rseq": (334, 293), "exit": (60, 93), "exit_group": (231, 94), "sched_yield": (24, 124), "sched_getaffinity": (204, 123),
    "getcpu": (309, 168),
    # who and when
    "getpid": (39, 172), "gettid": (186, 178), "getppid": (110, 173), "getpgrp": (111, None), "getpgid": (121, 155),
    "getsid": (124, 156), "getuid": (102, 174), "geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177),
    "getresuid": (118, 148), "getresgid": (120, 150), "getgroups": (115, 158), "getrlimit": (97, 163), "getrusage": (98, 165),
    "times": (100, 153), "sysinfo": (99, 179), "uname": (63, 160), "getrandom": (318, 278), "clock_gettime": (228, 113),
    "clock_getres": (229, 114), "clock_nanosleep": (230, 115), "nanosleep": (35, 101), "gettimeofday": (96, 169),
    "time": (201, None),
    # waiting, pipes, a pair of sockets (asyncio wakes itself with one); no sendmsg, so no descriptor is passed on
    "pipe": (22, None), "pipe2": (293, 59), "poll": (7, None), "ppoll": (271, 73), "select": (23, None), "pselect6": (270, 72),
    "epoll_create": (213, None), "epoll_create1": (291, 20), "epoll_ctl": (233, 21), "epoll_wait": (232, None),
    "epoll_pwait": (281, 22), "eventfd2": (290, 19), "socketpair": (53, 199), "recvfrom": (45, 207), "sendto": (44, 206),
    "shutdown": (48, 210), "getsockname": (51, 204), "getpeername": (52, 205), "getsockopt": (55, 209),
    "wait4": (61, 260), "waitid": (247, 95),
}  # fmt: skip
CLONE, CLONE3, IOCTL = (56, 220), (435, 435), (16, 29)
CLONE_THREAD = 0x00010000
IOCTLS = (0x5401, 0x541B, 0x5421, 0x5450, 0x5451)  # TCGETS (isatty), FIONREAD, FIONBIO, FIONCLEX, FIOCLEX

AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
LOAD, JUMP_EQUAL, JUMP_AT_LEAST, JUMP_BITS, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
RET_ALLOW, RET_ERRNO, RET_KILL = 0x7FFF0000, 0x00050000, 0x80000000
X32 = 0x40000000  # the third table of numbers that x86_64 has
NUMBER, ARCH, FIRST, SECOND = 0, 4, 16, 24  # offsets in struct seccomp_data; arguments are 64 bits, little-endian

PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, FILTER_MODE = 22, 38, 2


def program(machine: str, threads: bool) -> bytes:
    """The filter for `platform.machine()` as an array of struct sock_filter. Raises `OSError` for a machine without a table.

    threads: whether `clone` may make threads.
    """
    if machine not in AUDIT_ARCH:
        raise OSError(
            errno.ENOSYS, f"no table of system calls for {machine}: the sandbox knows {', '.join(AUDIT_ARCH)}"
        )
    column = list(AUDIT_ARCH).index(machine)
    out: list[bytes] = []

    def put(code: int, value: int, when_true: int = 0, when_false: int = 0) -> None:
        out.append(struct.pack("=HBBI", code, when_true, when_false, value))

    put(LOAD, ARCH)
    put(JUMP_EQUAL, AUDIT_ARCH[machine], 1, 0)
    put(RETURN, RET_KILL)  # another architecture's numbers
    put(LOAD, NUMBER)
    if machine == "x86_64":
        put(JUMP_AT_LEAST, X32, 0, 1)
        put(RETURN, RET_ERRNO | errno.EPERM)
    put(JUMP_EQUAL, CLONE3[column], 0, 1)
    put(RETURN, RET_ERRNO | errno.ENOSYS)  # its flags lie behind a pointer; the C library then takes clone
    put(JUMP_EQUAL, CLONE[column], 0, 4)
    put(LOAD, FIRST)
    put(JUMP_BITS, CLONE_THREAD, 0, 1)
    put(RETURN, RET_ALLOW if threads else RET_ERRNO | errno.EAGAIN)
    put(RETURN, RET_ERRNO | errno.EPERM)
    put(JUMP_EQUAL, IOCTL[column], 0, 2 + 2 * len(IOCTLS))
    put(LOAD, SECOND)
    for request in IOCTLS:
        put(JUMP_EQUAL, request, 0, 1)
        put(RETURN, RET_ALLOW)
    put(RETURN, RET_ERRNO | errno.EPERM)
    for numbers in ALLOWED.values():
        number = numbers[column]
        if number is not None:
            put(JUMP_EQUAL, number, 0, 1)
            put(RETURN, RET_ALLOW)
    put(RETURN, RET_ERRNO | errno.EPERM)
    return b"".join(out)


def install(filter_program: bytes) -> None:
    """Put this process under a filter for good, without new privileges. Raises `OSError` where the kernel refuses."""

    class Fprog(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_NO_NEW_PRIVS)")
    described = Fprog(len(filter_program) // 8, filter_program)
    if libc.prctl(PR_SET_SECCOMP, FILTER_MODE, ctypes.byref(described), 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_SECCOMP)")


def machine() -> str:
    """The architecture by the kernel's name."""
    return platform.machine()
