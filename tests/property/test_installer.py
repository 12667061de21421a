"""Several updates on board, in any order of events, against a simple model: exactly those end confirmed that should.

Metadata, bundles, cancels, failing canaries, serving that comes and goes, restarts, and a power cut at any point of any
of it. Whatever a cut swallows comes again, as it does in orbit.
"""

import asyncio
import contextlib
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onboard.errors import UnknownError
from onboard.store.record import PENDING_MAX
from protocol.canary import Canary, CanaryPrompt
from protocol.objects import ObjectKind, object_handle
from protocol.report import UpdateState
from tests.fakes.onboard import Board, Cutter, PowerCutError
from tests.fakes.serving import answer_of
from tests.fakes.updates import FakeGround

OLD = {"config.json": b'{"old": 1}'}
CONFIRMED, REJECTED, CANCELLED = UpdateState.CONFIRMED, UpdateState.REJECTED, UpdateState.CANCELLED


@dataclass
class Expected:
    """What one update is expected to come to."""

    update: object
    version: int
    is_good: bool
    state: UpdateState = UpdateState.NONE  # RECEIVING stands for all that is pending

    @property
    def is_pending(self):
        return self.state is UpdateState.RECEIVING


@dataclass
class Model:
    """The rules, without disk, tasks or crashes."""

    updates: list
    have: dict = field(default_factory=dict)  # bundles in place, by release
    accepted: int = 0
    barrier: int = 0
    floor: int = 0
    current: bytes = b""
    is_serving: bool = True
    refused: set = field(default_factory=set)

    @property
    def pending(self):
        return sorted((each for each in self.updates if each.is_pending), key=lambda each: -each.version)

    def accept(self, each):
        manifest = each.update.manifest
        if each.state is not UpdateState.NONE or each.version in self.refused:
            return
        is_overtaken = any(
            other.version > each.version
            and other.update.digest == each.update.digest
            and other.state is not UpdateState.NONE
            for other in self.updates
        )
        if each.version <= self.barrier or manifest.sequence < self.floor or is_overtaken:
            self.refused.add(each.version)
            return
        overtaken = [
            p
            for p in self.pending
            if p.version < each.version and (not manifest.beside or p.update.digest == each.update.digest)
        ]
        if len(self.pending) - len(overtaken) >= PENDING_MAX:
            return
        for old in overtaken:
            old.state = CANCELLED
        each.state = UpdateState.RECEIVING
        self.refused.clear()
        self.accepted = max(self.accepted, each.version)
        self.barrier = self.barrier if manifest.beside else each.version
        self._forget_built()

    def take_bundle(self, each, number):
        if any(p.update.digest == each.update.digest for p in self.pending):
            self.have.setdefault(each.update.digest, set()).add(number)

    def cancel(self, each):
        if each.is_pending:
            each.state = CANCELLED
            self._forget_built()

    def settle(self, on_board):
        """Let all that is complete be tried, newest first."""
        while self.is_serving:
            self._forbid()
            ready = [each for each in self.pending if self._is_complete(each, on_board)]
            if not ready:
                break
            each = ready[0]
            if each.is_good:
                each.state, self.current = CONFIRMED, each.update.digest
                self.floor = max(self.floor, each.update.manifest.floor)
                on_board.add(each.update.digest)
            else:
                each.state = REJECTED
            self._forget_built()
        self._forbid()

    def _is_complete(self, each, on_board):
        have = self.have.get(each.update.digest, set())
        return each.update.digest in on_board or len(have) == len(each.update.bundles)

    def _forbid(self):
        for each in self.pending:
            if each.update.manifest.sequence < self.floor:
                each.state = REJECTED
        self._forget_built()

    def _forget_built(self):
        made = {each.update.digest for each in self.pending}
        self.have = {digest: have for digest, have in self.have.items() if digest in made}


class Mission:
    """The installer and the model, side by side."""

    def __init__(self, directory, ground, model):
        self.board = Board(directory, ground, attempts_max=1000, keep_releases=6)
        self.board.provision(OLD)
        self.model = model
        model.current = self.board.record.current
        self.highest = 0

    async def run(self, events):
        """Lives one after the other, until all events have happened."""
        left = list(events)
        while True:
            self.board.crash_point = Cutter()
            try:
                async with self.board.life() as installer:
                    self.board.serving.is_up = self.model.is_serving
                    await self._settle(installer)
                    while left:
                        event, cut_after = left[0]
                        if cut_after is not None:
                            left[0] = (event, None)  # it comes again after the cut
                            self.board.crash_point.at = len(self.board.crash_point.names) + cut_after
                        if event == ("restart",):
                            left.pop(0)
                            break
                        await self._happen(installer, event)
                        await self._settle(installer)
                        self.board.crash_point.at = None
                        self._expect(event)
                        left.pop(0)
                        self.check(installer)
                    else:
                        return
            except PowerCutError:
                self.check_promises()

    async def _happen(self, installer, event):
        match event:
            case ("metadata", index):
                await self._offer(installer, self.model.updates[index].update.metadata, ObjectKind.METADATA)
            case ("bundle", index, number):
                bundles = self.model.updates[index].update.bundles
                await self._offer(installer, bundles[number % len(bundles)], ObjectKind.BUNDLE)
            case ("cancel", index):
                with contextlib.suppress(UnknownError):
                    await installer.cancel(self.model.updates[index].update.handle)
            case ("deliver", index):
                await self.board.deliver(self.model.updates[index].update)
            case ("serve", is_up):
                self.board.serving.is_up = is_up
                installer.wake()

    async def _offer(self, installer, data, kind):
        if not installer.is_complete(object_handle(data)):
            await self.board.hand_over(data, kind)

    def _expect(self, event):
        model = self.model
        match event:
            case ("metadata", index):
                model.accept(model.updates[index])
            case ("bundle", index, number):
                each = model.updates[index]
                model.take_bundle(each, number % len(each.update.bundles))
            case ("deliver", index):
                each = model.updates[index]
                model.accept(each)
                for number in range(len(each.update.bundles)):
                    model.take_bundle(each, number)
            case ("cancel", index):
                each = model.updates[index]
                if each.state is UpdateState.NONE and self.board.installer.refusal_of(each.update.handle):
                    model.refused.add(each.version)  # it waited for room
                model.cancel(each)
            case ("serve", is_up):
                model.is_serving = is_up
        model.settle({known.digest for known in self.board.record.releases} & self.confirmed | {self.old})

    @property
    def old(self):
        return self.board.record.releases[-1].digest

    @property
    def confirmed(self):
        return {each.update.digest for each in self.model.updates if each.state is CONFIRMED}

    async def _settle(self, installer):
        """Until nothing can be done but wait: for bundles, or for serving."""

        def is_at_rest():
            waits = (
                {UpdateState.RECEIVING} if self.board.serving.is_up else {UpdateState.RECEIVING, UpdateState.VERIFIED}
            )
            states = {update.state for update in installer._book.record.pending}
            complete = any(p.building.is_complete for p in installer._roster if p.state is UpdateState.RECEIVING)
            floor = installer._book.record.floor
            is_forbidden = any(update.sequence < floor for update in installer._book.record.pending)
            return states <= waits and not complete and not is_forbidden and not installer.is_busy

        await self.board.until(is_at_rest)

    def check(self, installer):
        """What must hold when nothing is going on."""
        record, model = self.board.record, self.model
        assert [update.handle for update in record.pending] == [each.update.handle for each in model.pending]
        for each in model.updates:
            receipt = self.board.messages.said.get(f"receipt-{each.update.handle.hex()}")
            if each.state in {CONFIRMED, REJECTED, CANCELLED}:
                assert receipt is not None, each.state
                assert receipt[2]["state"] == each.state.name.lower()
            else:
                assert receipt is None
        assert record.accepted == model.accepted
        assert record.floor == model.floor
        assert record.current == model.current == self.board.serving.release
        for each in model.pending:
            wanted = {n for n, data in enumerate(each.update.bundles) if installer.is_wanted(object_handle(data))}
            if self.board.serving.is_up:
                assert wanted == set(range(len(each.update.bundles))) - model.have.get(each.update.digest, set())
        made = {self.board.layout.release_part(each.update.digest).name for each in model.pending}
        assert {path.name for path in self.board.layout.releases.glob("*.part")} <= made
        self.check_promises()

    def check_promises(self):
        """What must hold at any moment, also right after a cut."""
        record = self.board.record
        assert record.accepted >= self.highest
        self.highest = record.accepted
        contents = {each.update.digest: each.update.files for each in self.model.updates}
        for path in self.board.layout.releases.iterdir():
            for digest, files in contents.items():
                if path == self.board.layout.release(digest):
                    assert {f.name: f.read_bytes() for f in path.iterdir() if not f.name.startswith(".")} == files
        assert record.current is not None
        assert self.board.layout.release(record.current).exists()


indices = st.integers(0, 4)
events = st.one_of(
    st.tuples(st.just("metadata"), indices),
    st.tuples(st.just("bundle"), indices, st.integers(0, 1)),
    st.tuples(st.just("bundle"), indices, st.integers(0, 1)),
    st.tuples(st.just("deliver"), indices),
    st.tuples(st.just("cancel"), indices),
    st.tuples(st.just("serve"), st.booleans()),
    st.just(("restart",)),
)
plans = st.lists(
    st.tuples(
        st.booleans(),  # beside
        st.sampled_from([True, True, True, False]),  # passes its canary
        st.sampled_from([0, 0, 0, 1]),  # raises the floor to its own sequence
        st.sampled_from([False, False, True]),  # is the one before, signed again
    ),
    min_size=5,
    max_size=5,
)


def make_updates(ground, plan):
    updates = []
    for version, (beside, passes, has_floor, is_again) in enumerate(plan, start=1):
        if is_again and updates:
            before = updates[-1]
            update = ground.sign_again(before.update, beside=beside, floor=has_floor * version)
            updates.append(Expected(update=update, version=version, is_good=before.is_good))
        else:
            files = {"config.json": b"{}", "model.bin": bytes([version]) * 64 + bytes(range(200))}
            expected = answer_of(files if passes else OLD, "Hello", 4)
            canary = Canary(prompts=(CanaryPrompt(text="Hello", expected=expected),), max_tokens=4)
            update = ground.make_update(
                files, canary=canary, beside=beside, floor=has_floor * version, segment_size=200, bundle_size=120
            )
            updates.append(Expected(update=update, version=version, is_good=passes))
    return updates


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plan=plans, events=st.lists(st.tuples(events, st.none() | st.integers(0, 12)), min_size=1, max_size=24))
def test_any_order_of_events_and_cuts_ends_as_the_rules_say(plan, events):
    ground = FakeGround()
    with tempfile.TemporaryDirectory() as directory:
        mission = Mission(Path(directory), ground, Model(make_updates(ground, plan)))
        asyncio.run(mission.run(events))
