"""UFTP as a peer: its server and client daemon, unicast, paced, with a restart file for what is interrupted."""

import filecmp
import subprocess
from pathlib import Path

from bench.transport.link import GROUND_ADDRESS, SPACE_ADDRESS, Link

BLOCK_BEST = 1444  # the largest whose packets (1,496 bytes) fit this link; 1445 to 1448 would too, but it wants 4 x n
BLOCK_DEFAULT = 1300
BUFFER_BYTES = 32 << 20


class Uftp:
    """One transfer."""

    is_ours = False

    def __init__(self, payload: Path, rate_bps: float, block_bytes: int = BLOCK_BEST) -> None:
        self.name = "UFTP" if block_bytes == BLOCK_BEST else f"UFTP, blocks of {block_bytes}"
        self.payload_bytes = payload.stat().st_size
        self._payload, self._rate_bps, self._block_bytes = payload, rate_bps, block_bytes
        self._num_attempts = 0

    def begin(self, link: Link, directory: Path) -> None:
        """Start the client daemon, then the server."""
        self._link, self._directory = link, directory
        for name in ("out", "temporary"):
            (directory / name).mkdir()
        self._start_receiver()
        self._start_sender("-H", SPACE_ADDRESS, "-f", str(self._payload))

    def poll(self) -> int | None:
        """The server's exit status: 0 too if a client dropped out later, so look at what it wrote."""
        status = self._sender.poll()
        return 1 if status == 0 and self._restart_file() is not None else status

    def resume(self) -> bool:
        """Go on from the restart file, or from the start if it never came to one."""
        restart = self._restart_file()
        if restart is None:
            self._start_sender("-H", SPACE_ADDRESS, "-f", str(self._payload))
            return True
        used = restart.rename(restart.with_name(f"restart-{self._num_attempts}"))
        self._start_sender("-F", str(used), "-f")
        return True

    def kill_receiver(self) -> None:
        """SIGKILL the client daemon and start it again."""
        self._receiver.kill()
        self._receiver.wait()
        self._start_receiver()

    def is_right(self) -> bool:
        """Compare the files."""
        arrived = self._directory / "out" / self._payload.name
        return arrived.exists() and filecmp.cmp(arrived, self._payload, shallow=False)

    def figures(self) -> dict[str, float]:
        """How many times its server was started."""
        return {"attempts": self._num_attempts}

    def _start_receiver(self) -> None:
        command = ["uftpd", "-d", "-I", SPACE_ADDRESS, "-B", str(BUFFER_BYTES)]
        command += ["-D", str(self._directory / "out"), "-T", str(self._directory / "temporary")]
        self._receiver = self._link.start(self._link.space, command, self._directory / "uftpd.log")
        self._link.wait_for_socket(self._link.space, 1044)

    def _start_sender(self, *arguments: str) -> None:
        self._num_attempts += 1
        command = ["uftp", "-R", str(int(self._rate_bps / 1000)), "-b", str(self._block_bytes), "-B", str(BUFFER_BYTES)]
        command += ["-I", GROUND_ADDRESS, "-M", SPACE_ADDRESS, *arguments]
        self._sender: subprocess.Popen[bytes] = self._link.start(
            self._link.ground, command, self._directory / "uftp.log"
        )

    def _restart_file(self) -> Path | None:
        return next(iter(self._directory.glob("_group_*_restart")), None)
