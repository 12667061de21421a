"""The daemon's side of imports: what waits in the spool is taken, kept, tried again, or refused; nothing twice."""

import asyncio
import hashlib
import random

import pytest

from onboard import file_import
from onboard.file_import import FileImport, Fortune, find_bundle_fault
from onboard.receiver.events import FileVerdict
from onboard.spool import Spool
from onboard.store.disk import RealDisk
from protocol.bundle import HEADER_SIZE
from protocol.limits import MIB
from protocol.objects import ObjectKind, object_handle
from tests.fakes.receiving import make_object
from tests.fakes.updates import FakeGround

RNG = random.Random(2)
BUNDLE, OTHER = make_object(RNG, 3000), make_object(RNG, 2000)
METADATA = make_object(RNG, 900, ObjectKind.METADATA)


class FakeReceiver:
    """Answers what it is told to, remembers what it was given."""

    def __init__(self, verdict=FileVerdict.USED):
        self.verdict, self.given, self.complete = verdict, [], set()
        self.faults = {}
        self.gate = None

    async def take_file(self, path, handle, size):
        data = path.read_bytes()
        assert len(data) == size
        self.given.append(data)
        if self.gate is not None:
            await self.gate.wait()
        if self.verdict in {FileVerdict.USED, FileVerdict.COMPLETE}:
            self.complete.add(handle)
        return self.verdict

    def find_fault(self, handle, path):
        return self.faults.get(handle, "")


class Place:
    def __init__(self, path, verdict=FileVerdict.USED):
        self.spool = Spool(path / "import", RealDisk(), bytes_max=MIB)
        self.spool.prepare()
        self.receiver = FakeReceiver(verdict)
        self.boot()

    def boot(self):
        self.imports = FileImport(
            self.spool,
            take=self.receiver.take_file,
            is_complete=self.receiver.complete.__contains__,
            find_fault=self.receiver.find_fault,
        )

    def put(self, data, kind=ObjectKind.BUNDLE):
        return self.spool.put(kind, hashlib.sha256(data).digest(), len(data), [data])

    async def take(self, data):
        return await self.imports.take(hashlib.sha256(data).digest())

    async def until(self, condition):
        running = asyncio.create_task(self.imports.run())
        async with asyncio.timeout(45):
            while not condition():
                await asyncio.sleep(0.002)
            await self.take(b"of nobody")  # one at a time: what is under way is done, and remembered, before that
        running.cancel()


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def flies(test):
    def run(tmp_path):
        asyncio.run(test(Place(tmp_path)))

    run.__name__ = test.__name__
    return run


@flies
async def test_at_start_all_that_waits_is_taken_metadata_first(place):
    for data, kind in ((BUNDLE, ObjectKind.BUNDLE), (OTHER, ObjectKind.BUNDLE), (METADATA, ObjectKind.METADATA)):
        place.put(data, kind)
    await place.until(lambda: not place.spool.files())
    assert place.receiver.given == [METADATA, BUNDLE, OTHER]


@flies
async def test_what_is_asked_for_is_taken_at_once_and_is_there_the_second_time(place):
    place.put(BUNDLE)
    assert (await place.take(BUNDLE)).fortune is Fortune.USED
    assert (await place.take(BUNDLE)).fortune is Fortune.COMPLETE
    assert await place.take(OTHER) is None
    assert place.spool.files() == []


@flies
async def test_what_the_loop_was_quicker_with_is_told_once(place):
    place.put(BUNDLE)
    await place.until(lambda: not place.spool.files())
    fortunes = [(await place.take(BUNDLE)).fortune for _ in range(2)]
    assert fortunes == [Fortune.USED, Fortune.COMPLETE]


@pytest.mark.parametrize(
    ("verdict", "fortune", "stays"),
    [
        (FileVerdict.KEPT, Fortune.KEPT, True),
        (FileVerdict.NO_ROOM, Fortune.WAITING, True),
        (FileVerdict.NOT_STORED, Fortune.WAITING, True),
        (FileVerdict.REFUSED, Fortune.REFUSED, False),
        (FileVerdict.DAMAGED, Fortune.REFUSED, False),
    ],
)
def test_each_verdict_says_whether_the_file_stays(place, verdict, fortune, stays):
    async def run():
        place.receiver.verdict = verdict
        place.put(BUNDLE)
        outcome = await place.take(BUNDLE)
        assert outcome.fortune is fortune
        assert outcome.reason
        assert bool(place.spool.files()) is stays
        if stays:  # until it is of use
            place.receiver.verdict = FileVerdict.USED
            place.imports.wake()
            await place.until(lambda: not place.spool.files())

    asyncio.run(run())


@flies
async def test_what_the_installer_refused_is_refused_with_its_reason_once_it_was_looked_into(place):
    file = place.put(METADATA, ObjectKind.METADATA)
    take = place.receiver.take_file

    async def judge(path, handle, size):
        place.receiver.faults[handle] = "UNTRUSTED"
        return await take(path, handle, size)

    place.receiver.take_file = judge
    place.boot()
    outcome = await place.take(METADATA)
    assert (outcome.fortune, outcome.reason) == (Fortune.REFUSED, "UNTRUSTED")
    assert (await place.take(METADATA)).reason == "UNTRUSTED", "and again, without the file"
    assert not file.path.exists()


@flies
async def test_a_bundle_that_is_not_as_signed_never_reaches_the_receiver(place):
    place.put(BUNDLE)
    place.receiver.faults[object_handle(BUNDLE)] = "damaged"
    assert (await place.take(BUNDLE)).fortune is Fortune.REFUSED
    assert place.receiver.given == []


@flies
async def test_what_rots_in_the_spool_is_refused(place):
    file = place.put(BUNDLE)
    file.path.write_bytes(BUNDLE[:-1] + b"?")
    outcome = await place.take(BUNDLE)
    assert (outcome.fortune, place.receiver.given, place.spool.files()) == (Fortune.REFUSED, [], [])


@flies
async def test_a_verdict_that_takes_its_time_is_waited_for_elsewhere(place):
    place.receiver.gate = asyncio.Event()
    place.put(BUNDLE)
    with pytest.MonkeyPatch.context() as impatient:
        impatient.setattr(file_import, "_PATIENCE_S", 0.01)
        assert (await place.take(BUNDLE)).fortune is Fortune.WAITING
        assert (await place.take(BUNDLE)).fortune is Fortune.WAITING
    place.receiver.gate.set()
    assert (await place.take(BUNDLE)).fortune is Fortune.USED
    assert place.receiver.given == [BUNDLE], "handed over once"


@flies
async def test_a_receiver_that_fails_costs_neither_the_daemon_nor_the_file(place):
    async def fail(path, handle, size):
        raise KeyError(handle)

    place.receiver.take_file = fail
    place.boot()
    place.put(BUNDLE)
    assert (await place.take(BUNDLE)).fortune is Fortune.WAITING
    await place.until(lambda: place.imports.num_waiting == 1)
    assert len(place.spool.files()) == 1


def test_a_bundle_of_a_known_release_must_be_the_signed_one(place):
    update = FakeGround().make_update({"model.bin": RNG.randbytes(40_000)})
    first, second = update.bundles[:2]
    forged = first[:-1] + bytes([first[-1] ^ 1])
    beyond = first[: HEADER_SIZE - 8] + b"\xff" * 8 + first[HEADER_SIZE:]

    def signed(release, number):
        entries = update.manifest.bundles
        return entries[number].digest if release == update.digest and number < len(entries) else None

    faults = [find_bundle_fault(place.put(data).path, signed) for data in (first, second, forged, BUNDLE, beyond)]
    assert faults == ["", "", "damaged: not bundle 0 as it was signed", "", ""]
    assert find_bundle_fault(place.put(METADATA, ObjectKind.METADATA).path, signed) == ""
