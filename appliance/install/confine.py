"""The confinement of a process: it gives up memory, time, files, the network, other programs and writing.

Resource limits everywhere; on Linux on x86-64 and arm64 also a system call filter (seccomp(2), mode 2, set by prctl(2),
which needs no privilege). Denied calls return EPERM, so that a library that tries something harmless, such as asking a
resolver, goes on without it. Neither the process nor its children can undo it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import resource
import signal
import struct
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
_SECCOMP_MODE_FILTER = 2
_ALLOW, _EPERM = 0x7FFF0000, 0x00050000 | 1  # SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO
_LD_ABS, _JEQ, _JGE, _JSET, _RET = 0x20, 0x15, 0x35, 0x45, 0x06  # of classic BPF, 32 bits wide
_NR, _ARCH, _ARGS = 0, 4, 16  # offsets in struct seccomp_data
_X32_BIT = 0x40000000
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

# Numbers of system calls (x86-64, arm64); None where an architecture has none.
_DENIED: dict[str, tuple[int | None, int]] = {
    "socket": (41, 198),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "sendto": (44, 206),
    "sendmsg": (46, 211),
    "sendmmsg": (307, 269),
    "execve": (59, 221),
    "execveat": (322, 281),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kill": (62, 129),
    "io_uring_setup": (425, 425),
    "openat2": (437, 437),
    "mkdirat": (258, 34),
    "mknodat": (259, 33),
    "unlinkat": (263, 35),
    "renameat": (264, 38),
    "renameat2": (316, 276),
    "linkat": (265, 37),
    "symlinkat": (266, 36),
    "fchmodat": (268, 53),
    "fchownat": (260, 54),
    "truncate": (76, 45),
    "unshare": (272, 97),
    "mount": (165, 40),
    "bpf": (321, 280),
}
_DENIED_X86 = (
    82,
    83,
    84,
    85,
    86,
    87,
    88,
    90,
    92,
    133,
)  # rename mkdir rmdir creat link unlink symlink chmod chown mknod
_OPENS: dict[str, tuple[tuple[int, int], ...]] = {  # number, and which argument has the flags
    "x86_64": ((257, 2), (2, 1)),
    "aarch64": ((56, 2),),
}
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def confine(*, memory_bytes: int, cpu_s: int, num_files: int) -> bool:
    """Limit this process; return False if the platform has no system call filter, so that only the limits hold."""
    for kind, limit in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_NOFILE, num_files),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        allowed = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (allowed, allowed))
    with contextlib.suppress(OSError):  # the first to go when memory is short
        Path("/proc/self/oom_score_adj").write_text("1000")
    if platform.system() != "Linux" or platform.machine() not in _AUDIT_ARCH:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    program = _program(platform.machine())
    code = ctypes.create_string_buffer(program)
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))  # struct sock_fprog
    return int(libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, header, 0, 0)) == 0


def _program(machine: str) -> bytes:
    """Return the filter: foreign architectures and listed calls are denied, files are opened for reading only."""
    column = list(_AUDIT_ARCH).index(machine)
    numbers = [n for pair in _DENIED.values() if (n := pair[column]) is not None]
    numbers += _DENIED_X86 if machine == "x86_64" else ()
    code = [(_LD_ABS, 0, 0, _ARCH), (_JEQ, 1, 0, _AUDIT_ARCH[machine]), (_RET, 0, 0, _EPERM), (_LD_ABS, 0, 0, _NR)]
    code += [(_JGE, 0, 1, _X32_BIT), (_RET, 0, 0, _EPERM)]
    for number in numbers:
        code += [(_JEQ, 0, 1, number), (_RET, 0, 0, _EPERM)]
    for number, argument in _OPENS[machine]:
        code += [(_JEQ, 0, 4, number), (_LD_ABS, 0, 0, _ARGS + 8 * argument), (_JSET, 0, 1, _WRITES)]
        code += [(_RET, 0, 0, _EPERM), (_RET, 0, 0, _ALLOW)]
    code.append((_RET, 0, 0, _ALLOW))
    return b"".join(struct.pack("HBBI", *instruction) for instruction in code)
