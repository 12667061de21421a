"""A satellite as a command sees it: a real commander and record, everything behind them faked.

onboard = FakeOnboard(directory, ground)
onboard.receive(ground.command(...))     # obeyed, or in `refusals`
onboard.fire(Operation.REVERT, {...})    # both steps of a dangerous one
onboard.boot()                           # a power cut
"""

import asyncio
from dataclasses import replace

from onboard.commands import ArmingOptions, Commander, Reply
from onboard.installer.changeover import Reverted
from onboard.installer.core import Fate
from onboard.store.record import KnownRelease, OnboardRecord, RecordStore
from protocol.objects import object_handle

DIGEST = bytes(range(32))


class FakeOnboard:
    """Installer, serving and messages of one satellite, as a command sees them."""

    def __init__(self, directory, ground):
        self.ground = ground
        self.path = directory / "trust.record"
        RecordStore(self.path).create(OnboardRecord())
        self.said, self.reverted, self.cancelled, self.asked = [], [], [], []
        self.activated, self.forgotten, self.now_s = [], [], 0.0
        self.problem = self.interrupted = None
        self.refusals, self.options = [], ArmingOptions(expires_s=600.0)
        self.boot()

    def boot(self):
        self.store = RecordStore(self.path)
        record = self.store.load()
        self.store.store(replace(record, boot_count=record.boot_count + 1))
        self.commander = Commander(
            satellite=self.ground.satellite,
            root=lambda: self.ground.root,
            store=self.store,
            installer=self,
            ask=self.ask,
            messages=self,
            telemetry=self,
            now=lambda: self.now_s,
            arming=self.options,
        )

    def emit(self, event, *, about=None, **arguments):
        if "refusal" in arguments:
            self.refusals.append(arguments["refusal"])

    def say(self, kind, *, re, body, is_kept=True):
        self.said.append((kind, re, dict(body)))

    async def revert(self, digest, *, why):
        if self.problem:
            raise self.problem
        self.reverted.append(digest)
        return Reverted(known=KnownRelease(digest=DIGEST, name="first", sequence=0), interrupted=self.interrupted)

    async def cancel(self, handle):
        self.cancelled.append(handle)

    def activate(self, handle):
        self.activated.append(handle)

    async def forget(self, digest):
        self.forgotten.append(digest)
        return "forgotten"

    async def ask(self, question):
        if self.problem:
            raise self.problem
        self.asked.append(question)
        return Reply(text="Hi", release=DIGEST, num_tokens=2, seconds=0.25)

    def receive(self, data) -> Fate:
        async def run():
            fate = self.commander.receive(object_handle(data), data)
            while self.commander._tasks:
                await asyncio.sleep(0)
            return fate

        return asyncio.run(run())

    def arm(self, operation, args, *, counter=None):
        """Arm a command; returns the counter and nonce that firing it takes."""
        self.receive(self.ground.arm(operation, args, counter=counter))
        *_, (_, _, body) = self.said
        assert body["ok"], body
        self.said.pop()
        return {"arm": body["armed"], "nonce": body["nonce"]}

    def fire(self, operation, args):
        """Arm and fire; returns the fire."""
        armed = self.arm(operation, args)
        data = self.ground.command(operation, args, **armed)
        self.receive(data)
        return data
