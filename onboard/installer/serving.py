"""What the installer asks of whatever serves: five verbs, and one error that says whose fault it was.

The daemon fills this seam with its serving process; the tests with a fake. The installer does not know processes,
sockets or HTTP.
"""

from collections.abc import Sequence
from enum import Enum, auto
from pathlib import Path
from typing import Protocol


class Fault(Enum):
    """Whose fault it was that serving could not do what was asked."""

    RELEASE = auto()  # the release: it does not load, or does not answer
    SERVING = auto()  # serving itself: gone, busy, no reply; the release may be good


class ServingProblem(Exception):  # noqa: N818 - not an error of ours
    """Serving could not do what was asked.

    Attributes:
        fault: whose fault it was.
    """

    def __init__(self, message: str, *, fault: Fault) -> None:
        super().__init__(message)
        self.fault = fault


class Serving(Protocol):
    """Loads releases beside each other and sends requests to one of them. Methods raise ServingProblem."""

    @property
    def is_up(self) -> bool:
        """Whether there is anybody to ask."""
        ...

    @property
    def release(self) -> bytes | None:
        """Digest of the release that requests go to."""
        ...

    async def load(self, digest: bytes, *, directory: Path, name: str, timeout_s: float) -> None:
        """Load a release beside what serves; nothing if it is loaded."""
        ...

    async def probe(
        self, digest: bytes, prompts: Sequence[str], *, max_tokens: int, timeout_s: float
    ) -> list[tuple[int, ...]]:
        """Answer prompts, each one user message, greedily with a loaded release; returns the tokens."""
        ...

    async def flip(self, digest: bytes) -> float:
        """Send new requests to a loaded release; returns the milliseconds that took."""
        ...

    async def drain(self, digest: bytes, *, timeout_s: float) -> None:
        """Let a release that no longer serves finish its answers, then stop it."""
        ...

    async def unload(self, digest: bytes) -> None:
        """Stop a release that does not serve."""
        ...
