"""A tap on a station's cable: it passes datagrams both ways between station and modem, and notes every symbol."""

import select
import socket
import threading

from protocol.errors import ProtocolError
from protocol.frame import FrameCodec, FrameKind
from protocol.link_keys import Direction
from tests.fakes.contacts import decode_following


class Tap:
    """Use it in a `with`; `address` is where the station sends to.

    Args:
        modem: (host, port) of the emulator's socket for this station.
        link_key: of the satellite.

    Attributes:
        symbols: (handle, block, ESI) of each symbol that was sent, and how often.
        stations: the numbers that were in frames.
        num_frames: sent up, of all kinds.
        num_bytes: sent up.
        num_foreign: sent up that are no frames of this satellite.
    """

    def __init__(self, modem, link_key):
        self._modem, self._codec = modem, FrameCodec(Direction.UP, link_key)
        self._station = None
        self._ground, self._space = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        for opened in (self._ground, self._space):
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
            opened.bind(("127.0.0.1", 0))
            opened.setblocking(False)
        self.symbols = {}
        self.stations = set()
        self.num_frames = self.num_bytes = self.num_foreign = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def address(self):
        return f"127.0.0.1:{self._ground.getsockname()[1]}"

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join(5)
        self._ground.close()
        self._space.close()

    def _run(self):
        while not self._stop.is_set():
            readable, _, _ = select.select([self._ground, self._space], [], [], 0.05)
            for source in readable:
                self._pass_on(source)

    def _pass_on(self, source):
        for _ in range(256):
            try:
                data, sender = source.recvfrom(65535)
            except OSError:
                return
            if source is self._space:
                if self._station is not None:
                    self._ground.sendto(data, self._station)
                continue
            self._station = sender
            self._note(data)
            self._space.sendto(data, self._modem)

    def _note(self, data):
        self.num_frames += 1
        self.num_bytes += len(data)
        try:
            frame = decode_following(self._codec, data)
        except ProtocolError:
            self.num_foreign += 1
            return
        self.stations.add(frame.station)
        if frame.kind is not FrameKind.REPORT:
            symbol = (frame.handle, frame.block, frame.esi)
            self.symbols[symbol] = self.symbols.get(symbol, 0) + 1
