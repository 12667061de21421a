"""seccomp: system calls that an engine never needs are refused, and with them any network (Linux 3.17).

A filter of classic BPF, as the kernel documents it (userspace-api/seccomp_filter): the architecture is checked, the
calls on the list fail with EPERM, and so do those whose arguments reach past the engine: sockets of any family but
Unix, limits, priorities, schedulers and processors of other processes (the daemon has the same user), namespaces,
memory that no limit counts. All others pass: an engine is a large program, and a list of what it may do would break
with its next version.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from dataclasses import dataclass

_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _AND, _RETURN = 0x20, 0x15, 0x35, 0x54, 0x06
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_EPERM, _ENOSYS = 0x00050000 | 1, 0x00050000 | 38
_NR, _ARCH, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data; arguments are 64 bits, little-endian here
_X32 = 0x40000000  # x86's third ABI would reach the same calls by other numbers
_ALL_BITS = 0xFFFFFFFF
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2


@dataclass(frozen=True, slots=True)
class Check:
    """What an argument has to be, after a mask; the lower 32 bits of it, which is all that these calls look at."""

    argument: int
    value: int
    mask: int = _ALL_BITS
    is_refused: bool = False  # that value is, and no other; else it alone passes


@dataclass(frozen=True, slots=True)
class Rule:
    """What becomes of a call: refused, unless it has checks and its arguments pass all of them."""

    checks: tuple[Check, ...] = ()
    verdict: int = _EPERM


_UNIX_ONLY = (Check(0, 1),)
_OURSELVES = (Check(0, 0),)  # a process: 0 is the caller
_SHARED_MEMORY = ("memfd_create", "memfd_secret", "shmget", "shmat", "semget", "msgget", "mq_open", "mmap")
_CHECKS: dict[str, tuple[Check, ...]] = {
    "socket": _UNIX_ONLY,
    "socketpair": _UNIX_ONLY,
    "prlimit64": _OURSELVES,
    "sched_setparam": _OURSELVES,
    "sched_setscheduler": _OURSELVES,
    "sched_setattr": _OURSELVES,
    "sched_setaffinity": _OURSELVES,
    "migrate_pages": _OURSELVES,
    "move_pages": _OURSELVES,
    "setpriority": (Check(0, 0), Check(1, 0)),  # PRIO_PROCESS: a group or a user has others in it
    "ioprio_set": (Check(0, 1), Check(1, 0)),  # IOPRIO_WHO_PROCESS
    "clone": (Check(0, 0, mask=0x7E020000),),  # CLONE_NEW*
    "mmap": (Check(3, 0x21, mask=0x21, is_refused=True),),  # MAP_SHARED | MAP_ANONYMOUS: RLIMIT_DATA counts it not
    "fcntl": (Check(1, 8, is_refused=True), Check(1, 15, is_refused=True)),  # F_SETOWN, F_SETOWN_EX: SIGIO to others
    "ioctl": (Check(1, 0x5412, is_refused=True),),  # TIOCSTI: types into a terminal
}
_UNKNOWN = ("clone3",)  # its flags are out of a filter's reach; libraries fall back to clone where it is not there


@dataclass(frozen=True, slots=True)
class _Machine:
    arch: int
    numbers: dict[str, int]  # of all calls that are refused, always or by their arguments


_MACHINES = {
    "x86_64": _Machine(
        0xC000003E,
        {
            "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "mount": 165, "umount2": 166,
            "pivot_root": 155, "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount":
            432, "mount_setattr": 442, "unshare": 272, "setns": 308, "chroot": 161, "add_key": 248,
            "request_key": 249, "keyctl": 250, "init_module": 175, "finit_module": 313, "delete_module": 176,
            "kexec_load": 246, "kexec_file_load": 320, "reboot": 169, "swapon": 167, "swapoff": 168, "bpf": 321,
            "perf_event_open": 298, "userfaultfd": 323, "open_by_handle_at": 304, "name_to_handle_at": 303,
            "settimeofday": 164, "clock_settime": 227, "adjtimex": 159, "clock_adjtime": 305, "io_uring_setup":
            425, "io_uring_enter": 426, "io_uring_register": 427, "acct": 163, "sethostname": 170,
            "setdomainname": 171, "inotify_init": 253, "inotify_init1": 294, "inotify_add_watch": 254,
            "fanotify_init": 300, "fanotify_mark": 301, "pidfd_getfd": 438, "process_madvise": 440, "kcmp": 312,
            "quotactl": 179, "syslog": 103, "memfd_create": 319, "memfd_secret": 447, "shmget": 29, "shmat": 30,
            "semget": 64, "msgget": 68, "mq_open": 240, "socket": 41, "socketpair": 53, "prlimit64": 302,
            "sched_setparam": 142, "sched_setscheduler": 144, "sched_setattr": 314, "sched_setaffinity": 203,
            "migrate_pages": 256, "move_pages": 279, "setpriority": 141, "ioprio_set": 251, "clone": 56, "mmap":
            9, "fcntl": 72, "ioctl": 16, "clone3": 435,
        },
    ),
    "aarch64": _Machine(
        0xC00000B7,
        {
            "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "mount": 40, "umount2": 39,
            "pivot_root": 41, "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount":
            432, "mount_setattr": 442, "unshare": 97, "setns": 268, "chroot": 51, "add_key": 217, "request_key":
            218, "keyctl": 219, "init_module": 105, "finit_module": 273, "delete_module": 106, "kexec_load":
            104, "kexec_file_load": 294, "reboot": 142, "swapon": 224, "swapoff": 225, "bpf": 280,
            "perf_event_open": 241, "userfaultfd": 282, "open_by_handle_at": 265, "name_to_handle_at": 264,
            "settimeofday": 170, "clock_settime": 112, "adjtimex": 171, "clock_adjtime": 266, "io_uring_setup":
            425, "io_uring_enter": 426, "io_uring_register": 427, "acct": 89, "sethostname": 161,
            "setdomainname": 162, "inotify_init1": 26, "inotify_add_watch": 27, "fanotify_init": 262,
            "fanotify_mark": 263, "pidfd_getfd": 438, "process_madvise": 440, "kcmp": 272, "quotactl": 60,
            "syslog": 116, "memfd_create": 279, "memfd_secret": 447, "shmget": 194, "shmat": 196, "semget": 190,
            "msgget": 186, "mq_open": 180, "socket": 198, "socketpair": 199, "prlimit64": 261, "sched_setparam":
            118, "sched_setscheduler": 119, "sched_setattr": 274, "sched_setaffinity": 122, "migrate_pages":
            238, "move_pages": 239, "setpriority": 140, "ioprio_set": 30, "clone": 220, "mmap": 222, "fcntl":
            25, "ioctl": 29, "clone3": 435,
        },
    ),
}  # fmt: skip
_LIBC = ctypes.CDLL(None, use_errno=True)


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_char_p)]


def restrict(*, allows_network: bool, shares_memory: bool = False) -> None:
    """Put the filter on this process and all that it becomes.

    The caller must have set no_new_privs.

    Args:
        allows_network: sockets of all families pass.
        shares_memory: memory that is shared passes, though no limit counts it: drivers of devices have some.

    Raises:
        OSError: an architecture that the filter does not know, or a kernel without seccomp.
    """
    machine = _MACHINES.get(platform.machine())
    if machine is None:
        raise OSError(f"no filter for {platform.machine()}")
    passes = {*(("socket", "socketpair") if allows_network else ()), *(_SHARED_MEMORY if shares_memory else ())}
    rules = {number: _rule(name) for name, number in machine.numbers.items() if name not in passes}
    code = filter_code(machine.arch, rules)
    program = _Program(len(code) // 8, code)
    if _LIBC.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, f"seccomp: {os.strerror(number)}")


def _rule(name: str) -> Rule:
    return Rule(checks=_CHECKS.get(name, ()), verdict=_ENOSYS if name in _UNKNOWN else _EPERM)


def filter_code(arch: int, rules: dict[int, Rule]) -> bytes:
    """Return the filter's instructions, 8 bytes each.

    Args:
        arch: as AUDIT_ARCH_*.
        rules: by the calls' numbers; calls without one pass.
    """
    code = [
        (_LOAD, 0, 0, _ARCH),
        (_JUMP_EQUAL, 1, 0, arch),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NR),
        (_JUMP_AT_LEAST, 0, 1, _X32),
        (_RETURN, 0, 0, _EPERM),
    ]
    for number, rule in rules.items():
        block = _block(rule)
        code += [(_JUMP_EQUAL, 0, len(block), number), *block]
    code.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def _block(rule: Rule) -> list[tuple[int, int, int, int]]:
    """What becomes of a call; every way through it ends in a return."""
    block: list[tuple[int, int, int, int]] = []
    for check in rule.checks:
        # The arguments' lower halves come first. On a match one instruction is skipped, or none.
        block += [
            (_LOAD, 0, 0, _ARGUMENTS + 8 * check.argument),
            (_AND, 0, 0, check.mask),
            (_JUMP_EQUAL, *((0, 1) if check.is_refused else (1, 0)), check.value),
            (_RETURN, 0, 0, rule.verdict),
        ]
    return [*block, (_RETURN, 0, 0, _ALLOW if rule.checks else rule.verdict)]
