"""What comes by radio: frames, reports, symbols; and the names of files that came from somewhere."""

import zlib
from collections.abc import Callable
from pathlib import Path

from groundsegment.downlink import Downlink
from onboard.receiver.core import ReceiverCore
from onboard.receiver.intake import Intake
from onboard.receiver.orders import CoreOptions
from onboard.receiver.reporting import ReportOptions
from onboard.spool import SpooledFile
from onboard.store.shape import ObjectShape
from protocol.errors import DecodeError
from protocol.file_names import claimed_handle, has_our_suffix
from protocol.frame import Frame, FrameCodec, FrameKind
from protocol.link_keys import Direction
from protocol.objects import parse_prefix
from protocol.report import Report
from tests.fuzz import good
from tests.fuzz.behind import without_envelope_signatures
from tests.fuzz.target import Form, Target
from tests.vectors import make

_DECODE = (DecodeError,)
_CRC_UP = FrameCodec(Direction.UP, None)
_CRC_DOWN = FrameCodec(Direction.DOWN, None)


def _summed(data: bytes) -> bytes:
    return data + zlib.crc32(data).to_bytes(4, "big")


def _names(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    ObjectShape.parse(text)
    claimed_handle(text)
    has_our_suffix(text)
    if "\0" not in text:
        SpooledFile.parse(Path(text), 0)


def _downlink_frames() -> list[bytes]:
    message = good.signed_message()
    report = Frame(kind=FrameKind.REPORT, handle=b"sessn1", num_symbols=0, sequence=7, payload=make.VECTORS["report"]())
    size = len(message) + -len(message) % 8
    symbol = Frame(
        kind=FrameKind.PLAIN, handle=make.HANDLE, num_symbols=1, block=0, esi=0, payload=message.ljust(size, b"\0")
    )
    return [_CRC_DOWN.encode(frame)[:-4] for frame in (report, symbol)]


class _Listening:
    """A ground that hears one datagram after the other; another one takes over now and then."""

    def __init__(self) -> None:
        self._left = 0

    def __call__(self, data: bytes) -> None:
        """Hear one."""
        if not self._left:
            self._left = 1000
            self._downlink = Downlink(
                contact_key=None, satellite="SAT-1", identity_public=make.PUBLIC_KEY, session=b"ground"
            )
            self._downlink.set_contact(0, None)  # frames under a sum: what is behind is attacked
        self._left -= 1
        before = self._downlink.statistics()
        self._downlink.receive(_summed(data))
        while self._downlink.next_event() is not None:
            pass
        if self._downlink.statistics().frames_received == before.frames_received:
            raise DecodeError("refused")


class _Receiving:
    """A satellite that takes one datagram after the other; another one takes over now and then."""

    def __init__(self, codec: FrameCodec, trailer: Callable[[bytes], bytes]) -> None:
        self._left, self._codec, self._trailer = 0, codec, trailer

    def __call__(self, data: bytes) -> None:
        """Take one."""
        if not self._left:
            self._left, self._now = 1000, 0.0
            options = CoreOptions(report=ReportOptions(interval_s=0.1, bytes_per_s=1e9))
            self._core = ReceiverCore(session=b"sessn!", options=options, is_complete=lambda _: False)
            self._intake = Intake(self._codec)
        self._left -= 1
        self._now += 0.001
        batch = self._intake.sort([(self._trailer(data), "address")])
        for station, (echo, _, num) in batch.heard.items():
            self._core.station_heard(station, num, echo, self._now)
        for run in batch.runs:
            self._core.receive_symbols(run)
        while self._core.next_event() is not None:
            pass
        for frame in batch.reports:
            Report.decode(frame.payload)
        if batch.rejected:
            raise DecodeError("refused")


_UP_FRAMES = [
    _CRC_UP.encode(make.FRAME)[:-4],
    _CRC_UP.encode(make.SHORT_FRAME, is_short=True)[:-4],
    *(make.VECTORS[name]()[:-4] for name in ("frame up crc",)),
]

TARGETS: dict[str, Target] = {
    "frame": Target(
        parse=FrameCodec(Direction.UP, make.LINK_KEY).decode, refusals=_DECODE, seeds=good.FRAMES[:1], size_max=1600
    ),
    "frame-crc": Target(
        parse=lambda data: _CRC_UP.decode(_summed(data)), refusals=_DECODE, seeds=_UP_FRAMES[:1], size_max=1600
    ),
    "report": Target(
        parse=Report.decode, refusals=_DECODE, seeds=[make.VECTORS["report"](), Report().encode()], size_max=1500
    ),
    "downlink": Target(
        parse=without_envelope_signatures(_Listening()), refusals=_DECODE, seeds=_downlink_frames(), size_max=1600
    ),
    "receiver": Target(parse=_Receiving(_CRC_UP, _summed), refusals=_DECODE, seeds=_UP_FRAMES[:1], size_max=1600),
    "receiver-keyed": Target(
        parse=_Receiving(FrameCodec(Direction.UP, make.LINK_KEY), bytes),
        refusals=_DECODE,
        seeds=good.FRAMES[:1],
        size_max=1600,
    ),
    "prefix": Target(parse=parse_prefix, refusals=_DECODE, seeds=[good.signed_message()[:8]], size_max=16),
    "names": Target(parse=_names, refusals=(), seeds=good.NAMES, form=Form.TEXT, size_max=300),
}
