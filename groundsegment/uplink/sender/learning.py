"""What reports teach of one update: which objects and blocks are there, and where it stands. Pure.

A receiver that says less than before is believed: it lost something, and that is sent again. Only silence about a
block needs care. A report without room to spare says nothing by leaving something out; a block may be on its way from
"open" to "complete"; and whole bundles are listed with their update only, so that without it they are not missed.
"""

from collections import deque
from collections.abc import Mapping

from groundsegment.uplink.sender.block_sender import BlockSender
from groundsegment.uplink.sender.cargo import Cargo, ObjectSender
from groundsegment.uplink.sender.events import AllBundlesComplete, Event, ObjectComplete, ObjectReopened, StateChanged
from groundsegment.uplink.sender.feedback import Feedback
from groundsegment.uplink.sender.flight_log import BlockKey, FlightLog
from protocol.report import SOLVED, UPDATES_MAX, Reason, Report, UpdateState, UpdateStatus

DECIDED = {UpdateState.CONFIRMED, UpdateState.REJECTED, UpdateState.CANCELLED}
_ALL_ARRIVED = DECIDED | {UpdateState.VERIFIED, UpdateState.TRIAL}
_ABSENT_S = 2.0  # between two reports a block may move from "open" to "complete": not gone at once
_ABSENT_SOLVED_S = 30.0  # a whole bundle is hashed and opened meanwhile


class Learning:
    """What is known of one update from reports.

    Attributes:
        state: of the update on board, as last reported.
        reason: why it stands there.
        is_synced: whether a report of this contact and this receiver was heard.
    """

    def __init__(self, cargo: Cargo, log: FlightLog, feedback: Feedback, events: deque[Event]) -> None:
        self._cargo, self._log, self._feedback, self._events = cargo, log, feedback, events
        self._handle = cargo.handle
        self.state, self.reason = UpdateState.NONE, Reason.NONE
        self.is_synced = self._said_complete = False

    def forget_sync(self) -> None:
        """What happened on board since the last report is not known: a contact begins, the receiver restarted."""
        self.is_synced = False

    def receive_report(self, report: Report, listed: Mapping[BlockKey, int], now: float) -> None:
        """Believe a fresh report.

        Args:
            report: what it says.
            listed: its open blocks.
            now: seconds.
        """
        status = report.status_of(self._handle)
        complete = self._complete_in(report, status)
        for sending in complete.values():
            self._complete(sending)
        self._learn_blocks(listed, complete, now)
        if not report.is_full:
            self._learn_absent(report, listed, complete, now)
        if status is not None and (status.state, status.reason) != (self.state, self.reason):
            self.state, self.reason = status.state, status.reason
            self._events.append(StateChanged(state=status.state, reason=status.reason, update=self._handle))
        self.is_synced = True
        bundles = self._cargo.bundles
        if not self._said_complete and bundles and all(sending.is_complete for sending in bundles):
            self._said_complete = True
            self._events.append(AllBundlesComplete(update=self._handle))

    def _complete_in(self, report: Report, status: UpdateStatus | None) -> dict[bytes, ObjectSender]:
        """The objects that a report says are complete."""
        objects = self._cargo.objects
        found = {handle: objects[handle] for handle in report.complete if handle in objects}
        if status is None:
            return found
        if status.reason is not Reason.METADATA_LOST:
            found[self._handle] = self._cargo.metadata
        for first, last in ((0, len(objects)),) if status.state in _ALL_ARRIVED else status.bundle_ranges:
            for sending in self._cargo.numbered(first, last):
                found[sending.item.handle] = sending
        return found

    def _complete(self, sending: ObjectSender) -> None:
        for block in sending.blocks:
            block.learn_solved()
        if not sending.is_complete:
            sending.is_complete = True
            item = sending.item
            self._events.append(ObjectComplete(handle=item.handle, bundle=item.bundle, update=self._handle))

    def _learn_blocks(self, listed: Mapping[BlockKey, int], complete: Mapping[bytes, ObjectSender], now: float) -> None:
        if not self._feedback.is_sampling(self._log):
            for unsampled in self._cargo.blocks.values():
                unsampled.mark = None
        for key, have in listed.items():
            block = self._cargo.blocks.get(key)
            if block is None or key[0] in complete:
                continue
            if have == SOLVED:
                block.learn_solved()
                continue
            self._reopen(self._cargo.objects[key[0]])
            self._sample(block, have)
            block.learn(have, now)
            self._learn_prior(block, now)

    def _learn_prior(self, block: BlockSender, now: float) -> None:
        is_settled = self._feedback.is_prior_settled(self._log, now)
        block.learn_prior(self._feedback.loss, is_settled=is_settled)

    def _sample(self, block: BlockSender, have: int) -> None:
        if not self._feedback.is_sampling(self._log):
            return
        sample = block.sample(have, self._log.in_flight(block.key), self._log.num_expired)
        if sample is not None and self.is_synced:
            self._feedback.exact_sample(sent=sample[0], arrived=sample[1])

    def _learn_absent(
        self,
        report: Report,
        listed: Mapping[BlockKey, int],
        complete: Mapping[bytes, ObjectSender],
        now: float,
    ) -> None:
        """A report with room to spare that does not list a block: nothing of it is there."""
        status = report.status_of(self._handle)
        is_lost = status is not None and status.reason is Reason.METADATA_LOST  # and with it which bundles it has
        is_told_of = status is not None and not is_lost
        has_room = len(report.updates) < UPDATES_MAX
        for handle, sending in self._cargo.objects.items():
            if handle in complete:
                continue
            is_metadata = sending is self._cargo.metadata
            must_be_listed = is_told_of or (is_metadata and (has_room or is_lost))
            for block in sending.blocks:
                if block.key in listed or (block.have == 0 and not block.is_solved):
                    self._learn_prior(block, now)
                    continue
                if block.is_solved and not must_be_listed:
                    continue
                if block.absent_since_s is None:
                    block.absent_since_s = now
                patience_s = _ABSENT_SOLVED_S if block.is_solved else _ABSENT_S if self.is_synced else 0.0
                if now - block.absent_since_s >= patience_s or (is_lost and is_metadata):
                    self._reopen(sending)
                    block.learn(0, now)

    def _reopen(self, sending: ObjectSender) -> None:
        if sending.is_complete:
            sending.is_complete = self._said_complete = False
            item = sending.item
            self._events.append(ObjectReopened(handle=item.handle, bundle=item.bundle, update=self._handle))
