"""What is interrupted: one scenario a row, each a story that goes on from wherever it finds the disk.

A story is a whole life: start and recover, say "recovered", do what is left to do, say "ended". It runs in a process
of its own (`lives`), with the real store, inbox, installer, messages and record on the disk; only the link, the clock
and the engine are fakes. What it says stands for what the ground has heard: it may never be taken back.

To add a scenario: write `prepare` (what is on board before), `run` (the story) and `look` (what must hold after any
cut, before anything is mended), and give it a row in `scenarios`. The sweep does the rest.
"""

import asyncio
import hashlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from onboard.config import load_config
from onboard.installer.core import Fate
from onboard.installer.housekeeping import point_current
from onboard.installer.release import ReleaseDirectory
from onboard.messages import MessageBox
from onboard.receiver.events import Verdict
from onboard.spool import Spool
from onboard.state import open_record, provision
from onboard.store.disk import RealDisk
from onboard.store.inbox import OBJECT_NAME
from onboard.store.layout import StateLayout, make_state_directories
from onboard.store.record import MessageCounters, RecordStore, copy_paths
from onboard.store.roots import forget_roots, mend_root, read_root_copies
from onboard.telemetry import Telemetry
from protocol.objects import ObjectKind, object_handle
from protocol.report import SOLVED, UpdateState
from tests.crash.test_install_cut import canary_of
from tests.fakes.onboard import Board
from tests.fakes.receiving import Claims, DryReceiver, Source
from tests.fakes.scrubbing import RepairScenario
from tests.fakes.updates import FakeGround, digest_of, write_files

OLD = {"config.json": b'{"old": 1}', "model.bin": bytes(range(256)) * 32}
NEW = {"config.json": b'{"new": 2}', "model.bin": random.Random(2).randbytes(6000) + bytes(range(256)) * 4}
THIRD = {"config.json": b'{"third": 3}', "model.bin": bytes(4096) + bytes(range(256)) * 16}
RELEASES = {digest_of(files): files for files in (OLD, NEW, THIRD)}
_VERDICTS = dict(zip(Fate, (Verdict.CONSUMED, Verdict.KEPT, Verdict.REFUSED, Verdict.SPOILT), strict=True))
_FRAMES_A_SECOND = 4  # symbols between two syncs


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One row.

    Attributes:
        name: for people.
        prepare: makes what is on board before, on an empty disk.
        run: the story.
        look: yields what does not hold, after a cut and before anything is mended, given the mount point and what was
            said.
    """

    name: str
    prepare: Callable[[Path], None]
    run: Callable[[Path, Callable[..., None]], None]
    look: Callable


class PowerBoard(Board):
    """A satellite with its real record, messages and inbox on a disk, in one of its lives."""

    def __init__(self, mount_point, **options):
        self.born_at = time.monotonic()
        self.is_first_day = not (mount_point / "state").exists()
        super().__init__(mount_point, FakeGround(), **{"keep_releases": 1, **options})

    def begin(self):
        if self.is_first_day:
            super().begin()

    def open_store(self):
        store = open_record(self.layout)
        root = read_root_copies(self.layout, store.record.root_digest)  # as `state.open_root` does
        forget_roots(self.layout, but=store.record.root_digest)
        mend_root(self.layout, root)
        return store

    def provision(self, files, name="first"):
        digest = super().provision(files, name)
        point_current(self.layout, digest)
        return digest

    def messages_of(self, store):
        identity = Ed25519PrivateKey.from_private_bytes(self.ground.identity_private_key)
        self.messages = MessageBox(
            self.layout.state_dir / "messages",
            satellite=self.ground.satellite,
            public_key=identity.public_key().public_bytes_raw(),
            sign=identity.sign,
            take_counter=MessageCounters(store).take,
            telemetry=Telemetry(lambda: 0.0),
            now=lambda: 0.0,
        )
        self.messages.load()
        return self.messages


class _Consumed:
    """What the satellite needs no more, as a remembering sink has it."""

    def __init__(self, installer):
        self._installer = installer

    def __contains__(self, handle):
        return self._installer.is_complete(handle)


class _Sink:
    def __init__(self, installer):
        self.is_complete, self.consumed = installer.is_complete, _Consumed(installer)


class Reception(DryReceiver):
    """The receiver of a board: what it completes goes to the installer."""

    def __init__(self, board, say):
        self._board, self._say, self.claims, self._num_asked = board, say, Claims(), board.offers
        self.sink = _Sink(board.installer)
        super().__init__(RealDisk(), self.sink, root=board.layout.inbox)

    def found(self, update):
        """How many symbols of each block are there, and which objects are still needed."""
        symbols = {}
        for entry in self.restored:
            blocks = {block: len(held) for block, held in entry.symbols.items()}
            whole = range(entry.shape.layout.num_blocks) if entry.is_whole else entry.solved
            symbols[entry.shape.handle] = {**blocks, **dict.fromkeys(whole, SOLVED), "whole": entry.is_whole}
        handles = [object_handle(data) for data in (update.metadata, *update.bundles)]
        is_over = any(ended.handle == update.handle for ended in self._board.record.ended)
        return symbols, [] if is_over else [each for each in handles if not self.sink.is_complete(each)]

    async def take(self, data):
        """Receive an object, symbol by symbol, with a sync and a report every second."""
        source = Source(data, symbol_size=512)
        for number, frame in enumerate(source.all_frames(), start=1):
            self.receive(frame)
            if number % _FRAMES_A_SECOND == 0:
                self._sync_and_report()
        await self.settle()

    async def settle(self):
        while self._jobs or self._offers or self._is_asked_again():
            if self._jobs:
                self._do(self._jobs.pop(0))
            elif self._offers:
                await self._hand_over(self._offers.pop(0))
            self._dispatch()
        self._sync_and_report()

    async def until_ended(self, timeout_s):
        """As the board's, and hands over what the installer wants to be offered again meanwhile."""
        waiting = asyncio.create_task(self._board.until_ended(self._board.installer, timeout_s))
        while not waiting.done():
            await asyncio.sleep(0.001)
            if self._board.offers > self._num_asked:
                await self.settle()
        return waiting.result()

    def _is_asked_again(self):
        """Whether the installer wants to be offered what it kept, as the daemon tells the receiver."""
        is_asked, self._num_asked = self._board.offers > self._num_asked, self._board.offers
        if is_asked:
            self.core.offer_again()
        return is_asked

    def _sync_and_report(self):
        self.sync()
        report = self.report()
        if report is not None:
            self.claims.note(report)
            self._say("claims", (self.claims.counts.copy(), self.claims.complete.copy()))
        status = self._board.installer.status()
        self._say("accepted", status.accepted)
        self._say("root", status.root_version)

    async def _hand_over(self, shape):
        path = self.inbox.directory(shape) / OBJECT_NAME
        whole = self._whole[shape.handle]
        fate = await self._board.installer.object_ready(
            shape.handle, whole.kind, path, hashlib.sha256(path.read_bytes()).digest()
        )
        self.core.object_judged(shape, _VERDICTS[fate], whole.kind)


@cache
def the_update():
    """The same in every life: whoever prepares a disk makes it, before lives begin."""
    return FakeGround().make_update(NEW, base=OLD, canary=canary_of(NEW), segment_size=1500, bundle_size=3000)


def installed(mount_point):
    """The satellite before launch: the old release serves."""
    the_update()
    PowerBoard(mount_point).provision(OLD)


def fly(mount_point, say):
    """An update is received, installed, tried, confirmed; the release before it is deleted."""
    board = PowerBoard(mount_point)
    asyncio.run(fly_update(board, the_update(), say))


async def fly_update(board, update, say, *, word="confirmed"):
    """Receive an update to its end; `word` is what is said then."""
    async with board.life() as installer:
        _say_up(board, say)
        reception = Reception(board, say)
        say("found", reception.found(update))
        await reception.settle()
        say("recovered")
        for data in (update.metadata, *update.bundles):
            if not installer.is_complete(object_handle(data)):
                await reception.take(data)
        state = await reception.until_ended(4)
        assert state is UpdateState.CONFIRMED, state
        say(word, update.digest)
        await reception.settle()
        say("ended")


def _say_up(board, say):
    record = board.installer._book.record
    say("up_s", time.monotonic() - board.born_at)
    assert board.serving.loaded[record.current] == RELEASES[record.current], "what serves is not whole"


def look_at_state(mount_point, said):
    """What must hold of any satellite that has served, whatever was interrupted."""
    return look_at_serving(mount_point, said)


def look_at_serving(mount_point, said, *, but=()):
    """The same, but that some releases may be damaged."""
    layout = StateLayout(mount_point / "state")
    record = RecordStore(layout.record).load()
    if record is None:
        yield "the record is gone"
        return
    if record.accepted < max(said.get("accepted", [0])):
        yield f"accepted went back to {record.accepted}"
    yield from look_at_releases(layout, record, but=but)
    for digest in said.get("confirmed", [])[-1:]:
        if record.current != digest:
            yield "what was confirmed does not serve"


def look_at_releases(layout, record, *, but=()):
    """What serves, what the link names and what the record knows is whole, and nothing half has a release's name."""
    names = {layout.release(known.digest).name: known.digest for known in record.releases if known.digest not in but}
    if record.current is None or record.release(record.current) is None:
        yield "nothing serves"
    elif layout.current.resolve().name not in {layout.release(digest).name for digest in RELEASES}:
        yield "the link leads nowhere"
    elif not layout.current.resolve().is_dir():
        yield "the link leads to what is gone"
    for name, digest in names.items():
        damage = _damage(layout.releases / name, digest)
        if damage:
            yield f"release {name}: {damage}"


def _damage(directory, digest):
    try:
        return ReleaseDirectory.open(directory, digest).find_damage()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what we look for
        return str(error)


def look_at_flight(mount_point, said):
    yield from look_at_state(mount_point, said)
    layout = StateLayout(mount_point / "state")
    for path in layout.releases.iterdir():  # sealed but not confirmed yet, perhaps
        digest = next((digest for digest in RELEASES if layout.release(digest) == path), None)
        record = RecordStore(layout.record).load()
        is_made = digest is not None and any(update.release == digest for update in record.pending)
        if is_made and _damage(path, digest):
            yield f"half of {path.name} has its final name"


# -- revert


def confirmed(mount_point):
    """The new release was confirmed; the old one is still there."""
    board = PowerBoard(mount_point, keep_releases=2)
    board.provision(OLD)
    asyncio.run(_deliver(board))


async def _deliver(board):
    update = the_update()
    assert await board.fly(update) is UpdateState.CONFIRMED


def revert(mount_point, say):
    """The ground wants the old release back."""
    asyncio.run(_revert(PowerBoard(mount_point, keep_releases=2), say))


async def _revert(board, say):
    async with board.life() as installer:
        _say_up(board, say)
        say("recovered")
        if board.record.current != digest_of(OLD):
            await installer.revert(digest_of(OLD))
        say("confirmed", digest_of(OLD))
        await board.until(lambda: not installer.is_busy)
        say("ended")


# -- provision


def empty_kit(mount_point):
    ground = FakeGround()
    ground.write_kit(mount_point, command=["engine"])
    write_files(mount_point / "model", OLD)


def provision_twice(mount_point, say):
    """A release is copied in before launch, then another one."""
    config = load_config(mount_point / "satellite.toml")
    provision(config, mount_point / "model", name="first")
    say("recovered")
    say("confirmed", digest_of(OLD))
    second = write_files(mount_point / "second", THIRD)
    provision(config, second, name="second")
    say("confirmed", digest_of(THIRD))
    say("ended")


def look_at_provisioning(mount_point, said):
    layout = StateLayout(mount_point / "state")
    record = RecordStore(layout.record).load() if layout.state_dir.exists() else None
    if record is None or record.current is None:
        if said.get("confirmed"):
            yield "what was provisioned is gone"
        return
    yield from look_at_releases(layout, record)
    for digest in said.get("confirmed", [])[-1:]:
        if record.release(digest) is None:
            yield "what was provisioned is gone"


# -- the trust record


def damaged_record(mount_point):
    """One copy is lost, one has a flipped bit in its newest slot."""
    installed(mount_point)
    first, second, _ = copy_paths(StateLayout(mount_point / "state").record)
    first.unlink()
    data = bytearray(second.read_bytes())
    data[40] ^= 1
    data[8192 + 40] ^= 1
    second.write_bytes(data)


def mend_record(mount_point, say):
    """Its copies are mended, then facts are written one after the other."""
    store = open_record(StateLayout(mount_point / "state"))
    say("recovered")
    for number in range(store.record.accepted + 1, 6):
        store.store(replace(store.record, accepted=number))
        say("accepted", number)
    say("ended")


# -- files


def files_on_board(mount_point):
    installed(mount_point)
    make_state_directories(StateLayout(mount_point / "state"), RealDisk())


def import_files(mount_point, say):
    """The same update, brought as files."""
    board = PowerBoard(mount_point)
    asyncio.run(_import(board, the_update(), say))


async def _import(board, update, say):
    async with board.life() as installer:
        _say_up(board, say)
        reception = Reception(board, say)
        spool = Spool(board.layout.imports, RealDisk(), bytes_max=1 << 20)
        spool.prepare()
        await _take_spooled(spool, reception)
        say("recovered")
        for data, kind in [(update.metadata, ObjectKind.METADATA), *((b, ObjectKind.BUNDLE) for b in update.bundles)]:
            if not installer.is_complete(object_handle(data)):
                chunks = (data[at : at + 1000] for at in range(0, len(data), 1000))
                spool.put(kind, hashlib.sha256(data).digest(), len(data), chunks)
                await _take_spooled(spool, reception)
        assert await reception.until_ended(4) is UpdateState.CONFIRMED
        say("confirmed", update.digest)
        await reception.settle()
        say("ended")


async def _take_spooled(spool, reception):
    for file in spool.files():
        reception.take_file(file.path, file.handle, file.size_bytes)
        await reception.settle()
        spool.remove(file)


# -- keys


@cache
def the_rotating_update():
    """An update whose metadata brings two roots, one of them missed before."""
    ground = FakeGround()
    update = ground.make_update(NEW, base=OLD, canary=canary_of(NEW), segment_size=4096, bundle_size=16384)
    roots = tuple(replace(ground, root_version=version).root for version in (2, 3))
    return replace(update, metadata=ground.sign_manifest(update.manifest, 1, roots=roots))


def rotating(mount_point):
    the_rotating_update()
    PowerBoard(mount_point).provision(OLD)


def rotate(mount_point, say):
    """Roots are followed, with the update that brings them."""
    asyncio.run(fly_update(PowerBoard(mount_point), the_rotating_update(), say))


def look_at_root(mount_point, said):
    yield from look_at_flight(mount_point, said)
    layout = StateLayout(mount_point / "state")
    record = RecordStore(layout.record).load()
    if record.root_version < max(said.get("root", [1])):
        yield f"the root went back to {record.root_version}"
    if read_root_copies(layout, record.root_digest) is None:
        yield "the root that the record names is not there"


# -- scrub


_REPAIRS = {}  # by where: what is right is known to whoever made it


def damaged_release(mount_point):
    """Flipped bits in a file, in the parity, and in a guard."""
    _REPAIRS[mount_point] = RepairScenario(mount_point / "release")


def scrub(mount_point, say):
    """What is damaged is found and repaired."""
    assert _REPAIRS[mount_point].run().is_whole
    say("recovered")
    say("repaired")
    say("ended")


def look_at_repair(mount_point, said):
    def read(name):
        path = mount_point / "release" / name
        return path.read_bytes() if path.exists() else None

    return _REPAIRS[mount_point].find_broken(read, is_done=bool(said.get("repaired")))
