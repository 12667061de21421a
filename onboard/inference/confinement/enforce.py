"""The program between supervisor and engine: puts every lock into force that it can, tries them, becomes the engine.

    python -m onboard.inference.confinement.enforce POLICY REPORT -- ENGINE ARGUMENT...

Each lock stands alone: where one cannot be had, the others hold, and the report (a JSON file) says what is missing and
why. Under `Mode.REQUIRED` anything missing, and in any mode but off a secret that can still be read from inside, is
told; required, the engine does not start. Nothing here is undone: the process is confined for good.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import pwd
import resource
import signal
import struct
import sys
from collections.abc import Callable
from pathlib import Path

from onboard.inference.confinement import landlock, seccomp
from onboard.inference.confinement.policy import Confinement, Lock, Mode

EXIT_REFUSED = 125
EXIT_NOT_RUN = 126
_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 24, 38
_CAPABILITY_VERSION = 0x20080522
_LIBC = ctypes.CDLL(None, use_errno=True)
_PROBE = ".confinement-probe"


def main(arguments: list[str]) -> int:
    """Confine this process and become the engine; returns only when that cannot be."""
    policy, engine = Confinement.from_json(arguments[0]), arguments[3:]
    with Path(arguments[1]).open("w") as report:  # opened while that is still allowed
        in_force, missing = confine(policy)
        leaks = find_leaks(policy)
        json.dump({"in_force": in_force, "missing": missing, "leaks": leaks}, report)
    if policy.mode is Mode.REQUIRED and (missing or leaks):
        told = [*(f"no {lock}: {why}" for lock, why in missing.items()), *leaks]
        print(f"the engine would not be confined: {'; '.join(told)}", file=sys.stderr)  # noqa: T201 - the worker's log
        return EXIT_REFUSED
    try:
        os.execvp(engine[0], engine)  # noqa: S606 - it is what we are for
    except OSError as error:
        print(f"cannot run {engine[0]} when confined: {error.strerror}", file=sys.stderr)  # noqa: T201
        return EXIT_NOT_RUN


def confine(policy: Confinement) -> tuple[dict[str, str], dict[str, str]]:
    """Put the locks on; returns those in force, and those that are missing with the reason."""
    parent = os.getppid()
    account = _account(policy.user)
    # The rights to files are named while we may still see them; another user comes before capabilities are dropped.
    locks: list[tuple[Lock, Callable[[], str]]] = [
        (Lock.LIMITS, lambda: _limit(policy)),
        (Lock.NO_NEW_PRIVILEGES, _renounce_privileges),
        (Lock.LANDLOCK, lambda: _restrict_files(policy)),
        (Lock.USER, lambda: _become(policy.user, account)),
        (Lock.CAPABILITIES, _drop_capabilities),
        (Lock.SECCOMP, lambda: _restrict_calls(policy)),
    ]
    in_force: dict[str, str] = {}
    missing: dict[str, str] = {}
    for lock, put_on in locks:
        if lock is Lock.USER and not policy.user:
            continue
        try:
            in_force[lock] = put_on()
        except (OSError, ValueError, KeyError) as error:
            missing[lock] = str(getattr(error, "strerror", None) or error)
    _die_with(parent)
    return in_force, missing


def find_leaks(policy: Confinement) -> list[str]:
    """Try from inside what must not work; returns what did."""
    leaks = [f"{path} can be read" for path in policy.secret if _works(path, os.O_RDONLY)]
    for path in policy.guarded:
        name = f"{path}/{_PROBE}-{os.getpid()}"
        is_directory = os.path.isdir(path)  # noqa: PTH112 - pathlib's raises where we may not look
        if is_directory and _works(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL):
            Path(name).unlink()
            leaks.append(f"files can be made in {path}")
        elif not is_directory and _works(path, os.O_WRONLY):
            leaks.append(f"{path} can be written")
    return leaks


def _works(path: str, flags: int) -> bool:
    try:
        os.close(os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError as error:
        # Whatever else is wrong with it, it was not the locks that kept us out.
        return error.errno not in (errno.EACCES, errno.EPERM, errno.ENOENT, errno.EROFS)
    return True


def _limit(policy: Confinement) -> str:
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_DATA: policy.memory_bytes_max or resource.RLIM_INFINITY,
        resource.RLIMIT_FSIZE: policy.file_bytes_max,
        resource.RLIMIT_NOFILE: policy.open_files_max,
        resource.RLIMIT_NPROC: _num_tasks_of_user() + policy.tasks_max,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    for limit, wanted in limits.items():
        highest = resource.getrlimit(limit)[1]
        value = min((each for each in (wanted, highest) if each != resource.RLIM_INFINITY), default=highest)
        resource.setrlimit(limit, (value, value))
    return f"{policy.memory_bytes_max >> 20} MiB"


def _num_tasks_of_user() -> int:
    """Processes and threads of our user: the kernel holds RLIMIT_NPROC against all of them (root's own is exempt)."""
    uid, count = os.getuid(), 0
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if process.stat().st_uid == uid:
                count += len(list((process / "task").iterdir()))
    return count


def _account(user: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(user) if user else None
    except KeyError:
        return None


def _become(user: str, account: pwd.struct_passwd | None) -> str:
    if account is None:
        raise OSError(f"no such user: {user}")
    _forget_bounding_set()
    os.setgroups([])
    os.setresgid(account.pw_gid, account.pw_gid, account.pw_gid)
    os.setresuid(account.pw_uid, account.pw_uid, account.pw_uid)
    return user


def _forget_bounding_set() -> None:
    number = 0
    while not _LIBC.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0):
        number += 1
    # EINVAL: past the last one. EPERM: not root, who has none to pass on.


def _drop_capabilities() -> str:
    _forget_bounding_set()
    header = struct.pack("=Ii", _CAPABILITY_VERSION, 0)
    if _LIBC.capset(header, bytes(24)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return "all"


def _renounce_privileges() -> str:
    if _LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return "set"


def _restrict_files(policy: Confinement) -> str:
    version = landlock.restrict(
        readable=policy.readable,
        writable=policy.writable,
        devices=policy.devices,
        allows_network=policy.allows_network,
    )
    return f"ABI {version}"


def _restrict_calls(policy: Confinement) -> str:
    shares_memory = bool(set(policy.devices) - {os.devnull})
    seccomp.restrict(allows_network=policy.allows_network, shares_memory=shares_memory)
    return "network allowed" if policy.allows_network else "no network"


def _die_with(parent: int) -> None:
    """The kernel forgets the wish when the user changes; and the parent may have died before it was said again."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
