"""seccomp: system calls that an engine never needs are refused, and with them any network (Linux 3.17).

A filter of classic BPF, as the kernel documents it (userspace-api/seccomp_filter): the architecture is checked, the
calls on the list fail with EPERM, and so do sockets of any family but Unix, and limits set for another process: a CPU
limit on the daemon, which has the same user, would kill it. All others pass: an engine is a large program, and a list
of what it may do would break with its next version.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from dataclasses import dataclass

_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_EPERM = 0x00050000 | 1
_NR, _ARCH, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data; arguments are 64 bits, little-endian here
_X32 = 0x40000000  # x86's third ABI would reach the same calls by other numbers
_AF_UNIX = 1
_OURSELVES = 0
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2


@dataclass(frozen=True, slots=True)
class _Machine:
    arch: int
    socket: tuple[int, ...]
    forbidden: tuple[int, ...]
    own: tuple[int, ...]  # those that may be called for ourselves only: their first argument, a process, is 0


# socket, socketpair | ptrace, process_vm_*, mount family, namespaces, keys, modules, kexec, reboot, swap, bpf, perf,
# userfaultfd, open by handle, clocks, io_uring (it opens sockets past this filter) | prlimit64.
_MACHINES = {
    "x86_64": _Machine(
        0xC000003E,
        (41, 53),
        (101, 310, 311, 165, 166, 155, 428, 429, 430, 431, 432, 442, 272, 308, 161, 248, 249, 250, 175, 313, 176, 246,
         320, 169, 167, 168, 321, 298, 323, 304, 303, 164, 227, 159, 305, 425, 426, 427, 163, 170, 171),
        (302,),
    ),
    "aarch64": _Machine(
        0xC00000B7,
        (198, 199),
        (117, 270, 271, 40, 39, 41, 428, 429, 430, 431, 432, 442, 97, 268, 51, 217, 218, 219, 105, 273, 106, 104,
         294, 142, 224, 225, 280, 241, 282, 265, 264, 170, 112, 171, 266, 425, 426, 427, 89, 161, 162),
        (261,),
    ),
}  # fmt: skip
_LIBC = ctypes.CDLL(None, use_errno=True)


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_char_p)]


def restrict(*, allows_network: bool) -> None:
    """Put the filter on this process and all that it becomes.

    The caller must have set no_new_privs.

    Raises:
        OSError: an architecture that the filter does not know, or a kernel without seccomp.
    """
    machine = _MACHINES.get(platform.machine())
    if machine is None:
        raise OSError(f"no filter for {platform.machine()}")
    code = filter_code(machine.arch, () if allows_network else machine.socket, machine.forbidden, machine.own)
    program = _Program(len(code) // 8, code)
    if _LIBC.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, f"seccomp: {os.strerror(number)}")


def filter_code(arch: int, sockets: tuple[int, ...], forbidden: tuple[int, ...], own: tuple[int, ...] = ()) -> bytes:
    """Return the filter's instructions, 8 bytes each."""
    tests = [*((number, 1) for number in sockets), *((number, 4) for number in forbidden), *((each, 5) for each in own)]
    body = [
        (_LOAD, 0, 0, _ARCH),
        (_JUMP_EQUAL, 1, 0, arch),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NR),
        (_JUMP_AT_LEAST, len(tests) + 4, 0, _X32),
    ]
    for index, (number, target) in enumerate(tests):
        left = len(tests) - index - 1
        # To "is it a Unix socket?" just behind the tests, to the refusal behind that, or to "is it for ourselves?".
        body.append((_JUMP_EQUAL, left + target, 0, number))
    body += [
        (_RETURN, 0, 0, _ALLOW),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_JUMP_EQUAL, 0, 1, _AF_UNIX),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _EPERM),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_JUMP_EQUAL, 0, 1, _OURSELVES),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _EPERM),
    ]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in body)
