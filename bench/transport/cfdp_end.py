# ruff: noqa: D102 - the methods are those of the library's interfaces
"""One end of a CFDP transfer as a process: cfdp-py's handlers on a UDP socket.

    python bench/transport/cfdp_end.py destination
    python bench/transport/cfdp_end.py source --file FILE --target PATH --rate BITS_PER_S

The source ends with 0 when the destination has said "finished, data complete", with 1 when it gave up or was refused.
Link weather (a PDU that does not fit the state) is counted, never an error.
"""

import argparse
import collections
import contextlib
import select
import socket
import sys
import time
from datetime import timedelta
from pathlib import Path

from cfdppy.defs import CfdpState
from cfdppy.handler.dest import DestHandler
from cfdppy.handler.source import SourceHandler
from cfdppy.mib import (
    CheckTimerProvider,
    DefaultFaultHandlerBase,
    IndicationConfig,
    LocalEntityConfig,
    RemoteEntityConfig,
    RemoteEntityConfigTable,
)
from cfdppy.request import PutRequest
from cfdppy.user import CfdpUserBase
from spacepackets.cfdp import ChecksumType, ConditionCode, TransmissionMode
from spacepackets.cfdp.pdu import DeliveryCode, PduFactory
from spacepackets.countdown import Countdown
from spacepackets.seqcount import SeqCountProvider
from spacepackets.util import ByteFieldU16

GROUND, SPACE = ByteFieldU16(1), ByteFieldU16(2)  # as wide as in the library's own example
ADDRESSES = {GROUND.value: ("10.77.0.1", 7000), SPACE.value: ("10.77.0.2", 7000)}
TIMER_S = 1.0  # of acknowledgements and of lists of what is missing
LIMIT = 10_000
BUFFER_BYTES = 32 << 20  # as much as our own daemon asks for: a busy machine must not look like a lossy link
_SO_RCVBUFFORCE = 33  # beyond the system's limit, for root
BURST_S = 0.05


class Faults(DefaultFaultHandlerBase):
    """Says what went wrong, on stderr."""

    def _say(self, what, cond, progress):
        print(f"{what}: {cond.name} at {progress}", file=sys.stderr, flush=True)

    def notice_of_suspension_cb(self, transaction_id, cond, progress):
        self._say("suspended", cond, progress)

    def notice_of_cancellation_cb(self, transaction_id, cond, progress):
        self._say("cancelled", cond, progress)

    def abandoned_cb(self, transaction_id, cond, progress):
        self._say("abandoned", cond, progress)

    def ignore_cb(self, transaction_id, cond, progress):
        self._say("ignored", cond, progress)


class User(CfdpUserBase):
    """Notes how the transaction ended."""

    finished = None

    def transaction_finished_indication(self, params):
        self.finished = params.finished_params
        print(f"finished: {self.finished}", file=sys.stderr, flush=True)

    def transaction_indication(self, params): ...
    def eof_sent_indication(self, transaction_id): ...
    def metadata_recv_indication(self, params): ...
    def file_segment_recv_indication(self, params): ...
    def report_indication(self, transaction_id, status_report): ...
    def suspended_indication(self, transaction_id, cond_code): ...
    def resumed_indication(self, transaction_id, progress): ...
    def fault_indication(self, transaction_id, cond_code, progress): ...
    def abandoned_indication(self, transaction_id, cond_code, progress): ...
    def eof_recv_indication(self, transaction_id): ...


class Timers(CheckTimerProvider):
    """Only class 1 asks for it."""

    def provide_check_timer(self, local_entity_id, remote_entity_id, entity_type):
        return Countdown(timedelta(seconds=TIMER_S))


class Wire:
    """A UDP socket between the two entities, paced if a rate is given."""

    def __init__(self, here, there, rate_bps=None):
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        for option in (_SO_RCVBUFFORCE, socket.SO_SNDBUF):
            self._socket.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
        self._socket.bind(ADDRESSES[here.value])
        self._socket.setblocking(False)
        self._to, self._rate = ADDRESSES[there.value], rate_bps and rate_bps / 8
        self._tokens, self._filled_s = 0.0, time.monotonic()

    def receive(self):
        """The next PDU; None if there is none now."""
        try:
            return PduFactory.from_raw(self._socket.recv(65535))
        except BlockingIOError:
            return None
        except OSError:  # an ICMP error of an earlier send: nobody listens there now
            return None

    def send(self, pdu):
        """Send when the rate allows."""
        data = bytes(pdu.pack())
        while self._rate:
            now = time.monotonic()
            self._tokens = min(self._tokens + (now - self._filled_s) * self._rate, self._rate * BURST_S)
            self._filled_s = now
            if self._tokens >= 0:
                break
            time.sleep(-self._tokens / self._rate)
        self._tokens -= len(data) + 28
        with contextlib.suppress(OSError):  # nobody listens there now: weather
            self._socket.sendto(data, self._to)

    def wait(self, seconds):
        """Wait until something arrives."""
        select.select([self._socket], [], [], seconds)


def drain(handler, wire):
    """Send what the handler wants sent; returns how much that was."""
    count = 0
    while (holder := handler.get_next_packet()) is not None:
        wire.send(holder.pdu)
        count += 1
    return count


def step(handler, wire, pdu, ignored):
    """One turn of a state machine."""
    try:
        handler.state_machine(pdu)
    except Exception as error:  # noqa: BLE001 - what does not fit its state
        ignored[type(error).__name__] += 1
        if ignored[type(error).__name__] <= 3:
            print(f"{type(error).__name__}: {error}"[:300], file=sys.stderr, flush=True)
    return drain(handler, wire)


def parts(here, there, pdu_bytes):
    """What both handlers are made of."""
    local = LocalEntityConfig(here, IndicationConfig(file_segment_recvd_indication_required=False), Faults())
    remote = RemoteEntityConfig(
        entity_id=there,
        max_file_segment_len=None,
        max_packet_len=pdu_bytes,
        closure_requested=True,
        crc_on_transmission=False,
        default_transmission_mode=TransmissionMode.ACKNOWLEDGED,
        crc_type=ChecksumType.CRC_32,
        positive_ack_timer_interval_seconds=TIMER_S,
        positive_ack_timer_expiration_limit=LIMIT,
        check_limit=LIMIT,
        immediate_nak_mode=False,
        nak_timer_interval_seconds=TIMER_S,
        nak_timer_expiration_limit=LIMIT,
    )
    return local, RemoteEntityConfigTable([remote])


def run_source(file, target, rate_bps, pdu_bytes):
    local, remotes = parts(GROUND, SPACE, pdu_bytes)
    user, wire, ignored = User(), Wire(GROUND, SPACE, rate_bps), collections.Counter()
    handler = SourceHandler(local, user, remotes, Timers(), SeqCountProvider(16))
    handler.put_request(PutRequest(SPACE, file, target, TransmissionMode.ACKNOWLEDGED, True))
    while handler.state is not CfdpState.IDLE:
        pdu = wire.receive()
        if not step(handler, wire, pdu, ignored) and pdu is None:
            wire.wait(0.01)
    finished = user.finished
    is_complete = finished is not None and finished.delivery_code is DeliveryCode.DATA_COMPLETE
    return 0 if is_complete and finished.condition_code is ConditionCode.NO_ERROR else 1


def run_destination(pdu_bytes):
    # One transaction per process: all handlers of 0.7.0 in one process share a list of what is missing.
    local, remotes = parts(SPACE, GROUND, pdu_bytes)
    user, wire, ignored = User(), Wire(SPACE, GROUND), collections.Counter()
    handler = DestHandler(local, user, remotes, Timers())
    while True:
        pdu = wire.receive()
        if not step(handler, wire, pdu, ignored) and pdu is None:
            wire.wait(0.01)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("end", choices=["source", "destination"])
    parser.add_argument("--file", type=Path)
    parser.add_argument("--target", type=Path)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--pdu", type=int, default=1472)
    arguments = parser.parse_args()
    if arguments.end == "source":
        return run_source(arguments.file, arguments.target, arguments.rate, arguments.pdu)
    return run_destination(arguments.pdu)


if __name__ == "__main__":
    sys.exit(main())
