"""The crudest uplink there is: sends objects as frames over UDP until the satellite reports them complete.

Uses the protocol package only. No pacing to speak of, no plan: for tests of the satellite, not of the ground.
"""

import contextlib
import socket
import time

from protocol.blocks import block_layout, symbols_needed
from protocol.envelope import key_id
from protocol.errors import ProtocolError
from protocol.exchange import Inbox
from protocol.fec import BlockEncoder, best_kind
from protocol.frame import Frame, FrameCodec, FrameKind
from protocol.link_keys import Direction
from protocol.message import Message
from protocol.objects import object_handle
from protocol.report import Report


class CrudeUplink:
    """One ground station.

    Args:
        address: of the satellite.
        link_key: of the link.
        identity: public key that the satellite's messages are signed with.
    """

    def __init__(self, address, link_key, identity):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.address = address
        self.up, self.down = FrameCodec(Direction.UP, link_key), FrameCodec(Direction.DOWN, link_key)
        self.identity = identity
        self.inbox = Inbox()
        self.messages = []
        self.report = None
        self.complete = set()
        self.session = object_handle(time.time_ns().to_bytes(8, "big"))
        self.num_reports = 0

    def close(self):
        self.socket.close()

    def frames(self, data, first=0, symbol_size=256):
        """Frames of an object: all source symbols and a few more from `first` on."""
        num_symbols = symbols_needed(len(data), symbol_size)
        layout = block_layout(num_symbols, symbol_size)
        padded = data.ljust(layout.padded_size, b"\0")
        for block in range(layout.num_blocks):
            at, size = layout.offset_of(block), layout.size_of(block)
            encoder = BlockEncoder(best_kind(), padded[at : at + size], symbol_size)
            count = layout.symbols_of(block) + 2
            for i, symbol in enumerate(encoder.symbols(first, count)):
                yield Frame(
                    kind=best_kind(),
                    handle=object_handle(data),
                    num_symbols=num_symbols,
                    block=block,
                    esi=first + i,
                    payload=symbol,
                )

    def send(self, *objects, timeout_s=45.0, unless=lambda: False):
        """Send objects until each is reported complete, or it is no use any more."""
        wanted = {object_handle(data): data for data in objects}
        deadline, first = time.monotonic() + timeout_s, 0
        while wanted.keys() - self.complete and not unless():
            assert time.monotonic() < deadline, f"not complete: {[h.hex() for h in wanted.keys() - self.complete]}"
            for handle, data in wanted.items():
                if handle not in self.complete:
                    for frame in self.frames(data, first):
                        self._send(frame)
                        self.listen(0.0)
            first += 1000
            self.listen(0.3)

    def until(self, is_right, timeout_s=45.0):
        """Poke and listen until a report or the messages are as wished."""
        deadline = time.monotonic() + timeout_s
        while not is_right(self):
            assert time.monotonic() < deadline, f"last report: {self.report}, messages: {self.messages}"
            self.poke()
            self.listen(0.2)

    def poke(self):
        """Send a report of our own: acknowledges messages, and wakes the satellite's reports."""
        self.num_reports += 1
        payload = Report(complete=self.inbox.complete()).encode()
        number = self.num_reports
        self._send(
            Frame(
                kind=FrameKind.REPORT,
                handle=self.session,
                sequence=number,
                payload=payload,
            )
        )

    def listen(self, seconds):
        """Take in what comes down."""
        deadline = time.monotonic() + seconds
        while True:
            self.socket.settimeout(max(deadline - time.monotonic(), 0.0001))
            try:
                data = self.socket.recv(65536)
            except (TimeoutError, BlockingIOError):
                return
            except ConnectionError:
                continue
            with contextlib.suppress(ProtocolError):
                self._take(self.down.decode(data))

    def _take(self, frame):
        if frame.kind is FrameKind.REPORT:
            self.report = Report.decode(frame.payload)
            self.complete.update(self.report.complete)
            return
        data = self.inbox.receive(frame)
        if data is not None:
            keys = {key_id(self.identity): self.identity}
            self.messages.append(Message.open(data, public_keys=keys))

    def _send(self, frame):
        with contextlib.suppress(ConnectionError):
            self.socket.sendto(self.up.encode(frame), self.address)
