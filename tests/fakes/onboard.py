"""A satellite without a link: the real installer on a real directory, with a faked ground and faked serving.

    board = Board(tmp_path, ground)
    board.provision(OLD)                    # before launch
    with board.power_on() as life: ...      # or: asyncio.run(board.fly(update))

A life ends in peace, or at a crash point: then everything in memory is gone, and only the directory stays.
"""

import asyncio
import contextlib
import itertools
from pathlib import Path

from onboard.config import InstallConfig
from onboard.installer.core import Fate
from onboard.installer.freshness import Nonces
from onboard.installer.release import copy_release
from onboard.installer.shell import Installer
from onboard.installer.surroundings import Surroundings
from onboard.store.disk import RealDisk
from onboard.store.layout import StateLayout, make_state_directories
from onboard.store.record import KnownRelease, OnboardRecord, RecordStore
from onboard.store.roots import forget_roots, keep_root, read_root_copies
from onboard.telemetry import Telemetry
from protocol.objects import ObjectKind, object_handle
from protocol.report import UpdateState
from tests.fakes.serving import FakeServing
from tests.fakes.updates import FakeGround, FakeUpdate, write_files

PATIENCE_S = 45.0  # for a thing that happens, on a machine that is busy


class PowerCutError(BaseException):
    """The daemon is gone, in the middle of whatever it did."""


class Cutter:
    """A crash point that cuts at the n-th point it comes to, or never. After the cut nothing goes on."""

    def __init__(self, at=None):
        self.at, self.names, self.is_cut = at, [], False

    def __call__(self, name):
        self.check()
        self.names.append(name)
        if self.at is not None and (self.at == name or self.at == len(self.names) - 1):
            self.is_cut = True
            raise PowerCutError(name)

    def check(self):
        if self.is_cut:
            raise PowerCutError("it is dark")


class CutRecordStore(RecordStore):
    """A trust record that nobody writes once the power is gone."""

    def __init__(self, path, cutter):
        super().__init__(path)
        self._cutter = cutter

    def store(self, record):
        self._cutter.check()
        super().store(record)


class FakeMessages:
    """Keeps what was said; survives lives like the files it stands for."""

    def __init__(self, check=lambda: None):
        self.said, self._check = {}, check

    def say_once(self, key, kind, *, re, body):
        self._check()
        self.said.setdefault(key, (kind, re, dict(body)))


class Board:
    def __init__(self, directory: Path, ground: FakeGround, **options):
        directory.mkdir(exist_ok=True)
        self.directory, self.ground = directory, ground
        self.layout = StateLayout(directory / "state")
        make_state_directories(self.layout, RealDisk())
        self.options = InstallConfig(**{"probation_s": 0.0, **options})
        self.messages = FakeMessages(lambda: self.crash_point.check())  # noqa: PLW0108 - each life has another
        self.serving = FakeServing()
        self.crash_point = Cutter()
        self.offers = 0
        self.retry_s = 0.01
        self.utc = None
        self.must_be_fresh = False
        self.nonces = itertools.count(1)
        self.begin()

    def begin(self):
        """The first day."""
        digest = keep_root(self.layout, self.ground.root)
        version = self.ground.root_version
        RecordStore(self.layout.record).create(OnboardRecord(root_version=version, root_digest=digest))

    def open_store(self):
        """The record, loaded."""
        store = CutRecordStore(self.layout.record, self.crash_point)
        store.load()
        return store

    def messages_of(self, store):
        """Where messages go in this life."""
        return self.messages

    @property
    def record(self) -> OnboardRecord:
        store = RecordStore(self.layout.record)
        return store.load()

    def provision(self, files: dict[str, bytes], name="first"):
        """What `skyloadd provision` does."""
        source = write_files(self.directory / f"source-{name}", files)
        release = copy_release(source, self.layout.releases)
        store = RecordStore(self.layout.record)
        record = store.load().with_release(KnownRelease(digest=release.digest, name=name, sequence=0))
        from dataclasses import replace

        store.store(replace(record, current=release.digest))
        return release.digest

    def boot(self) -> Installer:
        """A new life: only the directory is left of the old one; serving starts with what the record says."""
        if self.crash_point.is_cut:
            self.crash_point = Cutter(self.crash_point.at)
        store = self.open_store()
        record = store.record
        root = read_root_copies(self.layout, record.root_digest)  # as `onboard.state.open_root` does
        if root is not None:
            forget_roots(self.layout, but=record.root_digest)
        old, self.serving = self.serving, FakeServing()
        for name in ("fails_to_load", "answers_wrongly", "dies_on_probation"):
            setattr(self.serving, name, getattr(old, name))
        self.telemetry = Telemetry(lambda: 0.0)
        self.installer = Installer(
            Surroundings(
                layout=self.layout,
                store=store,
                root=root or self.ground.root,
                is_root_lost=root is None,
                nonces=Nonces(store, lambda size: next(self.nonces).to_bytes(size, "big")),
                must_be_fresh=self.must_be_fresh,
                satellite=self.ground.satellite,
                release_private_key=self.ground.release_private_key,
                options=self.options,
                serving=self.serving,
                messages=self.messages_of(store),
                telemetry=self.telemetry,
                utc=lambda: self.utc,
                offer_again=self._offer_again,
                crash_point=self.crash_point,
                retry_s=self.retry_s,
            )
        )
        self.serving.on_failure = lambda digest, reason, failures: self.installer.worker_failed(
            digest, reason, failures=failures
        )
        if record.current is not None:
            self.serving.loaded[record.current] = {
                path.name: path.read_bytes()
                for path in self.layout.release(record.current).iterdir()
                if not path.name.startswith(".")
            }
            self.serving.release = record.current
        return self.installer

    def _offer_again(self):
        self.offers += 1

    @contextlib.asynccontextmanager
    async def life(self):
        """Boot, run, and stop in peace; a PowerCutError comes out as it is."""
        installer = self.boot()
        await installer.start()
        self.running = running = asyncio.create_task(installer.run())
        try:
            yield installer
        finally:
            if not running.done():
                running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running

    async def hand_over(self, data: bytes, kind: ObjectKind) -> Fate:
        """Give the installer an object as the receiver does."""
        import hashlib

        path = self.directory / f"object-{object_handle(data).hex()}"
        path.write_bytes(data)
        try:
            return await self.installer.object_ready(object_handle(data), kind, path, hashlib.sha256(data).digest())
        finally:
            path.unlink()

    async def deliver(self, update: FakeUpdate) -> None:
        """Hand over whatever of an update is still wanted, metadata first."""
        for data, kind in [
            (update.metadata, ObjectKind.METADATA),
            *((bundle, ObjectKind.BUNDLE) for bundle in update.bundles),
        ]:
            if not self.installer.is_complete(object_handle(data)):
                await self.hand_over(data, kind)

    async def fly(self, update: FakeUpdate, timeout_s: float = PATIENCE_S) -> UpdateState:
        """One life in which an update arrives and comes to its end; returns its state."""
        async with self.life() as installer:
            await self.deliver(update)
            return await self.until_ended(installer, timeout_s)

    async def until_ended(self, installer, timeout_s: float = PATIENCE_S) -> UpdateState:
        """Wait until no update is pending and nothing is going on; returns the state of the newest."""
        await self.until(lambda: not (installer.is_busy or installer._book.record.pending), timeout_s)
        return installer.status().first.state

    async def until(self, condition, timeout_s: float = PATIENCE_S) -> None:
        async with asyncio.timeout(timeout_s):
            while not condition():
                await asyncio.sleep(0.001)
                if self.running.done():
                    self.running.result()  # the power went
