"""cfdp-py as a peer: class 2, deferred lost segments, two processes of `cfdp_end` over UDP.

The library brings the handlers, not a transport; `cfdp_end` is that. Limits are as generous as they go, so that only
the library's own state machine decides whether a transfer ends.
"""

import filecmp
import sys
from pathlib import Path

from bench.transport.link import Link
from bench.transport.peer import PORT

PDU_BEST = 1472  # what an unfragmented UDP datagram takes
ROOT = Path(__file__).resolve().parent.parent.parent


class Cfdp:
    """One transfer."""

    is_ours = False

    def __init__(self, payload: Path, rate_bps: float, pdu_bytes: int = PDU_BEST) -> None:
        self.name = "cfdp-py" if pdu_bytes == PDU_BEST else f"cfdp-py, PDUs of {pdu_bytes}"
        self.payload_bytes = payload.stat().st_size
        self._payload, self._rate_bps, self._pdu_bytes = payload, rate_bps, pdu_bytes

    def begin(self, link: Link, directory: Path) -> None:
        """Start the destination, then the source."""
        self._link, self._directory = link, directory
        self._start_receiver()
        command = [*_END, "source", "--file", str(self._payload), "--target", str(self._arrived)]
        command += ["--rate", str(self._rate_bps), "--pdu", str(self._pdu_bytes)]
        self._sender = link.start(link.ground, command, directory / "source.log")

    def poll(self) -> int | None:
        """The source's exit status."""
        return self._sender.poll()

    def resume(self) -> bool:
        """A transaction lives in the memory of its process: there is nothing to go on from."""
        return False

    def kill_receiver(self) -> None:
        """SIGKILL the destination and start it again."""
        self._receiver.kill()
        self._receiver.wait()
        self._start_receiver()

    def is_right(self) -> bool:
        """Compare the files."""
        return self._arrived.exists() and filecmp.cmp(self._arrived, self._payload, shallow=False)

    def figures(self) -> dict[str, float]:
        """Nothing more."""
        return {}

    @property
    def _arrived(self) -> Path:
        return self._directory / "arrived"

    def _start_receiver(self) -> None:
        self._receiver = self._link.start(
            self._link.space, [*_END, "destination", "--pdu", str(self._pdu_bytes)], self._directory / "destination.log"
        )
        self._link.wait_for_socket(self._link.space, PORT)


_END = [sys.executable, str(ROOT / "bench" / "transport" / "cfdp_end.py")]
