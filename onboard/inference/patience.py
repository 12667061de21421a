"""HTTP connections that get no further are closed: uvicorn waits for ever for the rest of a request's head.

h11, not httptools: it bounds the head (16 KiB here), and the endpoint's speed is the engine's anyway.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_BYTES_MAX = 16 << 10


class PatientProtocol(H11Protocol):
    """One connection. It has `head_timeout_s` from its begin, and from the first byte of each later one, for a head."""

    head_timeout_s = 10.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        """See asyncio.Protocol."""
        super().connection_made(transport)
        self._deadline: asyncio.TimerHandle | None = None
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        before: Any = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._stop_waiting()
        elif self.cycle is None or self.cycle.response_complete:
            self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait_for_head(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.head_timeout_s, self._give_up)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        self.transport.close()


def patient_protocol(head_timeout_s: float) -> type[PatientProtocol]:
    """Return the protocol with a patience of its own."""
    return type("PatientProtocol", (PatientProtocol,), {"head_timeout_s": head_timeout_s})
