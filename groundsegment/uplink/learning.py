"""What reports teach of the cargo: which objects and blocks are there, and where the update stands. Pure.

A receiver that says less than before is believed: it lost something, and that is sent again. Only silence about a
block needs patience, for a block may be on its way from "open" to "complete".
"""

from collections import deque

from groundsegment.uplink.cargo import Cargo, ObjectSender
from groundsegment.uplink.events import (
    AllBundlesComplete,
    Event,
    ObjectComplete,
    ObjectReopened,
    ReceiverRestarted,
    ReportHeard,
    StateChanged,
)
from groundsegment.uplink.feedback import Feedback
from groundsegment.uplink.flight_log import BlockKey, FlightLog
from protocol.report import NO_HANDLE, SOLVED, Reason, Report, UpdateState

DECIDED = {UpdateState.CONFIRMED, UpdateState.REJECTED, UpdateState.CANCELLED}
_ALL_ARRIVED = DECIDED | {UpdateState.VERIFIED, UpdateState.TRIAL}
_ABSENT_S = 2.0  # between two reports a block may move from "open" to "complete": not gone at once
_ABSENT_SOLVED_S = 30.0  # a whole bundle is hashed and opened meanwhile


class Learning:
    """What is known from reports.

    Attributes:
        state: of the update on board, as last reported.
        reason: why it stands there.
        is_synced: whether a report of this contact and this receiver was heard.
    """

    def __init__(self, cargo: Cargo, log: FlightLog, feedback: Feedback, events: deque[Event]) -> None:
        self._cargo, self._log, self._feedback, self._events = cargo, log, feedback, events
        self.state, self.reason = UpdateState.NONE, Reason.NONE
        self.is_synced = self._said_complete = False

    def begin_contact(self) -> None:
        """What happened on board since the last report is not known."""
        self.is_synced = False

    def receive_report(self, report: Report, *, session: bytes, now: float) -> None:
        """Believe a fresh report."""
        echo = self._log.number_of((report.echo_handle, report.echo_block), report.echo_esi)
        if self._feedback.heard(self._log, report.frames_received, session=session, echo=echo, now=now):
            self._events.append(ReceiverRestarted(session=session))
            self.is_synced = False
        self._events.append(ReportHeard(report=report, session=session))
        self._learn_complete(report)
        self._learn_blocks(report, now, is_restart=not self.is_synced)
        self._learn_state(report)
        self.is_synced = True
        if not self._said_complete and all(sending.is_complete for sending in self._cargo.bundles):
            self._said_complete = True
            self._events.append(AllBundlesComplete())

    def _learn_complete(self, report: Report) -> None:
        if report.update == self._cargo.metadata.item.handle:
            self._complete(self._cargo.metadata)
            whole = report.state in _ALL_ARRIVED
            for sending in self._cargo.bundles:
                number = sending.item.bundle
                if whole or any(first <= number <= last for first, last in report.bundle_ranges if number is not None):
                    self._complete(sending)
        for handle in report.complete:
            if handle in self._cargo.objects:
                self._complete(self._cargo.objects[handle])

    def _complete(self, sending: ObjectSender) -> None:
        for block in sending.blocks:
            block.learn_solved()
        if not sending.is_complete:
            sending.is_complete = True
            self._events.append(ObjectComplete(handle=sending.item.handle, bundle=sending.item.bundle))

    def _learn_blocks(self, report: Report, now: float, *, is_restart: bool) -> None:
        listed = {(entry.handle, entry.block): entry.have for entry in report.open_blocks}
        said_complete = set(report.complete)
        for sending in self._cargo.objects.values():
            handle = sending.item.handle
            if handle in said_complete:
                continue
            for block in sending.blocks:
                have = listed.get(block.key)
                if have is None:
                    continue
                if have == SOLVED:
                    block.learn_solved()
                elif not self._is_known_complete(sending, report):
                    self._reopen(sending)
                    sample = block.sample(have, self._log.in_flight(block.key), self._log.num_expired)
                    if sample is not None and not is_restart:
                        self._feedback.exact_sample(sent=sample[0], arrived=sample[1])
                    block.learn(have, now)
        if not report.is_full:
            self._learn_absent(report, set(listed), now, is_restart=is_restart)

    def _is_known_complete(self, sending: ObjectSender, report: Report) -> bool:
        """Whether this very report says elsewhere that the object is complete."""
        if report.update != self._cargo.metadata.item.handle:
            return False
        number = sending.item.bundle
        if number is None or report.state in _ALL_ARRIVED:
            return True
        return any(first <= number <= last for first, last in report.bundle_ranges)

    def _learn_absent(self, report: Report, listed: set[BlockKey], now: float, *, is_restart: bool) -> None:
        """A report with room to spare that does not list a block: nothing of it is there."""
        said_complete = set(report.complete)
        for sending in self._cargo.objects.values():
            if sending.item.handle in said_complete or self._is_known_complete(sending, report):
                continue
            for block in sending.blocks:
                if block.key in listed or (block.have == 0 and not block.is_solved):
                    block.prior_flight = 0
                    continue
                if block.absent_since_s is None:
                    block.absent_since_s = now
                # Solved blocks may be on their way from "open" to "complete": a bundle is hashed and opened meanwhile.
                patience_s = _ABSENT_SOLVED_S if block.is_solved else 0.0 if is_restart else _ABSENT_S
                if now - block.absent_since_s >= patience_s:
                    self._reopen(sending)
                    block.learn(0, now)

    def _reopen(self, sending: ObjectSender) -> None:
        if sending.is_complete:
            sending.is_complete = self._said_complete = False
            self._events.append(ObjectReopened(handle=sending.item.handle, bundle=sending.item.bundle))

    def _learn_state(self, report: Report) -> None:
        if report.update != self._cargo.metadata.item.handle or report.update == NO_HANDLE:
            return
        if (report.state, report.reason) != (self.state, self.reason):
            self.state, self.reason = report.state, report.reason
            self._events.append(StateChanged(state=report.state, reason=report.reason))
