"""Lives of a satellite on a disk whose power can be cut: each is a process of its own, which dies with the power.

A hook over the disk seam counts every step that changes the disk. A life is told before which step the power goes, if
ever; what it tells the ground comes out of it through a pipe, up to the moment at which it dies.
"""

import contextlib
import os
import pickle
import signal
import socket
import struct
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, BinaryIO

from onboard.store.disk import RealDisk
from tests.power.images import Cut, cut_power

Say = Callable[..., None]
Story = Callable[[Path, Say], None]
_CUT_CODE, _FAILED_CODE = 77, 78
_LENGTH = struct.Struct(">I")


@dataclass(frozen=True, slots=True)
class Life:
    """What came of one.

    Attributes:
        said: (what, value) in order, with the number of steps done before it.
        steps: what was done to the disk: (operation, path under the mount point).
        is_cut: whether the power went.
        error: what went wrong otherwise.
    """

    said: list[tuple[str, Any, int]]
    steps: list[tuple[str, str]]
    is_cut: bool
    error: str

    def heard(self, what: str) -> list[Any]:
        """The values of what was said of one thing."""
        return [value for said, value, _ in self.said if said == what]

    def steps_until(self, what: str) -> int:
        """How many steps were done before something was first said; all of them if it never was."""
        return next((num for said, _, num in self.said if said == what), len(self.steps))


class Hook:
    """Counts the steps on `RealDisk` that change the disk, and cuts before one of them, for the rest of a process."""

    def __init__(self, mount_point: Path, at: int | None, how: Cut) -> None:
        self.steps: list[tuple[str, str]] = []
        self._mount_point, self._at, self._how = mount_point, at, how
        self._names: dict[int, str] = {}

    def install(self) -> None:
        """Put it over the seam."""
        for name in ("write", "write_at", "allocate", "truncate", "sync"):
            self._wrap(name, lambda target, *rest, **more: True)
        for name in ("rename", "link", "symlink", "sync_directory"):
            self._wrap(name, lambda target, *rest, **more: True)
        for name in ("unlink", "remove_directory"):
            self._wrap(name, lambda target, *rest, **more: os.path.lexists(target))
        for name in ("make_directory", "open_log"):
            self._wrap(name, lambda target, *rest, **more: not os.path.lexists(target))
        self._wrap("open", lambda target, *rest, create=False: create and not os.path.lexists(target))

    def _wrap(self, name: str, is_change: Callable[..., bool]) -> None:
        inner = getattr(RealDisk, name)

        @wraps(inner)
        def method(disk: RealDisk, target: Path | int, *rest: Any, **more: Any) -> Any:
            if is_change(target, *rest, **more):
                self._step(name, target)
            return inner(disk, target, *rest, **more)

        setattr(RealDisk, name, method)

    def _step(self, name: str, target: Path | int) -> None:
        if len(self.steps) == self._at:
            cut_power(self._mount_point, self._how)
            os._exit(_CUT_CODE)
        path = str(Path(f"/proc/self/fd/{target}").readlink() if isinstance(target, int) else target)
        self.steps.append((name, path.removeprefix(str(self._mount_point))))


def live(
    mount_point: Path,
    story: Story,
    *,
    at: int | None = None,
    how: Cut = Cut.LOST,
    watch: Callable[[int], None] = lambda pid: None,
    seconds_max: float = 60.0,
) -> Life:
    """Run a story in a process of its own, until it ends, the power goes before step `at`, or it has taken too long.

    `watch` is called with the process's id before the story begins.
    """
    # Sockets, so that what is said goes by other system calls than those that a disk knows.
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        theirs.recv(1)
        _be_born(mount_point, story, at, how, theirs)
    theirs.close()
    killer = threading.Timer(seconds_max, os.kill, (pid, signal.SIGKILL))
    with ours:
        watch(pid)
        ours.send(b"!")
        killer.start()
        with ours.makefile("rb") as pipe:
            parcels = list(_parcels(_read_all(pipe)))
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    killer.cancel()
    said = [parcel[1:] for parcel in parcels if parcel[0] == "say"]
    steps = next((parcel[1] for parcel in parcels if parcel[0] == "steps"), [])
    error = next((parcel[1] for parcel in parcels if parcel[0] == "error"), "")
    if code not in {0, _CUT_CODE} and not error:
        error = f"it ended with {code}"
    return Life(said, steps, code == _CUT_CODE, error)


def _read_all(pipe: BinaryIO) -> bytes:
    data = b""
    with contextlib.suppress(ConnectionResetError):  # it was killed with something of ours unread
        while more := pipe.read(1 << 16):
            data += more
    return data


def _be_born(mount_point: Path, story: Story, at: int | None, how: Cut, ground: socket.socket) -> None:
    code = _FAILED_CODE
    began = time.monotonic()
    hook = Hook(mount_point, at, how)

    def send(*parcel: Any) -> None:
        data = pickle.dumps(parcel)
        ground.sendall(_LENGTH.pack(len(data)) + data)

    def say(what: str, value: Any = None) -> None:
        send("say", what, value, len(hook.steps))

    try:
        hook.install()
        story(mount_point, say)
        say("lived_s", time.monotonic() - began)
        send("steps", hook.steps)
        code = 0
    except BaseException:  # noqa: BLE001 - whatever it is, it is what we look for
        send("error", traceback.format_exc())
    finally:
        os._exit(code)


def _parcels(data: bytes) -> Any:
    at = 0
    while at + _LENGTH.size <= len(data):
        size = _LENGTH.unpack_from(data, at)[0]
        at += _LENGTH.size
        if at + size <= len(data):  # the last one may be cut short
            yield pickle.loads(data[at : at + size])
        at += size
