"""What can go wrong while serving, by the kind that a caller branches on.

unknown_release   no worker has this release
load_failed       the engine refuses the release, or died loading it
not_ready         the release is loaded but its worker is not able to answer now
serving           refused, because it would stop the release that serves
invalid           the request itself is wrong
too_long          the prompt does not fit
busy              the queue is full; come back
unavailable       no model serves and none came in time
timeout           it took longer than allowed
worker_lost       the worker died during the answer, and the answer could not be taken up again
internal          the engine failed on this request
control           the serving process cannot be reached or broke its protocol
"""

from __future__ import annotations


class ServingError(Exception):
    """Serving could not do what was asked.

    Attributes:
        kind: one of the words in the module docstring.
    """

    def __init__(self, message: str, *, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


class WorkerLostError(ServingError):
    """The engine worker died or was stopped while it had this request."""

    def __init__(self, message: str) -> None:
        super().__init__(message, kind="worker_lost")
