"""What a flight needs of a transport: two ends that can be started, killed, started again, and looked at."""

from pathlib import Path
from typing import Protocol

from bench.transport.link import Link

PORT = 7000


class Peer(Protocol):
    """One transfer of one payload by one transport.

    Attributes:
        name: in the table.
        payload_bytes: what is carried, as the user has it.
        is_ours: whether a failure is ours to look into.
    """

    name: str
    payload_bytes: int
    is_ours: bool

    def begin(self, link: Link, directory: Path) -> None:
        """Start both ends; the receiver listens before the sender sends. Files go into the directory."""
        ...

    def poll(self) -> int | None:
        """The sender's exit status, 0 if it believes that all is there; None while it is at work."""
        ...

    def resume(self) -> bool:
        """The sender has given up: start it again where it was; False if it cannot."""
        ...

    def kill_receiver(self) -> None:
        """SIGKILL the receiver and start it again at once."""
        ...

    def is_right(self) -> bool:
        """Whether every byte of the payload is there; asked at the end."""
        ...

    def figures(self) -> dict[str, float]:
        """More figures of a finished flight."""
        ...
