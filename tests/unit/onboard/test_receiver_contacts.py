"""The real receiver through contacts: keys both ways, recordings, restarts, trouble with the file."""

import asyncio
import contextlib
import zlib

import pytest

from onboard.receiver import station_contacts
from onboard.receiver.intake import Intake
from onboard.store.contact_file import NOTHING_HEARD, read_contacts, write_contacts
from onboard.store.disk import RealDisk
from onboard.store.layout import StateLayout
from protocol.frame import FrameCodec
from protocol.link_keys import Direction
from tests.fakes.contacts import contact_key
from tests.fakes.receiving import KEY
from tests.unit.onboard.test_receiver_shell import PATIENCE_S, Ground, flies, source_of, station


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(station_contacts, "_PAUSE_S", 0.01)


def codecs():
    return FrameCodec(Direction.UP, KEY), FrameCodec(Direction.DOWN, KEY)


def ground_in(receiver, contact):
    """A ground station that knows the key of one contact alone."""
    key = contact_key(KEY, 0, contact)
    return Ground(receiver.address, *(FrameCodec(way, key, station=0) for way in (Direction.UP, Direction.DOWN)))


async def heard(link, ground):
    """Wait until a ground gets a report under its own key."""
    async with asyncio.timeout(PATIENCE_S):
        while not ground.reports:
            ground.listen()
            await asyncio.sleep(0.002)
    ground.close()


@flies
async def test_reports_go_under_the_contact_that_was_heard_last(tmp_path):
    source = source_of()
    async with station(tmp_path, codecs=codecs()) as link:
        for contact in (1, 2, 5):
            ground = ground_in(link.receiver, contact)
            await ground.send(source.frames()[0])
            await heard(link, ground)


@flies
async def test_recorded_frames_played_in_a_later_contact_are_counted_as_checksum(tmp_path):
    source = source_of()
    async with station(tmp_path, codecs=codecs()) as link:
        old, new = ground_in(link.receiver, 1), ground_in(link.receiver, 2)
        await old.send(source.frames()[0])
        await link.until(lambda: link.receiver.statistics().frames_received == 1)
        await new.send(source.frames()[0])
        await heard(link, new)
        before = link.receiver.statistics()
        await old.send(*[source.frames()[0]] * 3)
        await link.until(lambda: sum(link.receiver.statistics().frames_rejected.values()) == 3)

        after = link.receiver.statistics()
        assert (after.frames_received, after.frames_rejected) == (before.frames_received, {"checksum": 3})
        old.close()


@flies
async def test_a_restart_goes_on_with_the_contact_and_an_older_one_stays_void(tmp_path):
    source = source_of()
    async with station(tmp_path, codecs=codecs()) as link:
        ground = ground_in(link.receiver, 7)
        await ground.send(source.frames()[0])
        await heard(link, ground)
    async with station(tmp_path, codecs=codecs()) as link:
        old, new = ground_in(link.receiver, 6), ground_in(link.receiver, 7)
        await old.send(source.frames()[0])
        await link.until(lambda: link.receiver.statistics().frames_rejected.get("checksum") == 1)
        await new.send(source.frames()[0])
        await heard(link, new)
        old.close()


@flies
async def test_a_contact_is_written_down_while_it_lasts(tmp_path):
    path = StateLayout(tmp_path / "state").contacts
    async with station(tmp_path, codecs=codecs()) as link:
        ground = ground_in(link.receiver, 3)
        await ground.send(source_of().frames()[0])
        await link.until(lambda: path.exists() and read_contacts(path)[0] == (0, 3))
        ground.close()


class BusyThread:
    """A keeper whose thread is busy with something else when it is first asked."""

    def __init__(self):
        self.is_asked, self.goes_on = asyncio.Event(), asyncio.Event()

    async def in_thread(self, work, *arguments):
        if not self.is_asked.is_set():
            self.is_asked.set()
            await self.goes_on.wait()
        work(*arguments)


@flies
async def test_a_stop_while_the_thread_for_the_disk_is_busy_loses_no_contact(tmp_path):
    layout = StateLayout(tmp_path)
    up, down = codecs()
    keeper = BusyThread()
    contacts = station_contacts.StationContacts(layout, up, down, Intake(up), keeper, RealDisk())
    up.set_contact(0, 7)
    contacts.heard({0: 7})
    running = asyncio.create_task(contacts.run())
    await keeper.is_asked.wait()
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    await contacts.close()
    assert read_contacts(layout.contacts)[0] == (0, 7)


@flies
async def test_trouble_with_the_file_is_nobody_elses(tmp_path):
    path = StateLayout(tmp_path / "state").contacts
    (path.parent / "contacts.new").mkdir(parents=True)  # so that nobody can write it
    source = source_of()
    async with station(tmp_path, codecs=codecs()) as link:
        for contact in (1, 2):
            ground = ground_in(link.receiver, contact)
            await ground.send(*source.frames())
            await heard(link, ground)
        await link.until(lambda: link.sink.consumed)


@flies
async def test_a_withdrawn_generation_leaves_its_contacts_behind_across_restarts(tmp_path):
    async with station(tmp_path, codecs=codecs()) as link:
        ground = ground_in(link.receiver, 9)
        await ground.send(source_of().frames()[0])
        await heard(link, ground)
    up, down = codecs()
    for codec in (up, down):
        codec.set_generation(0, 1)
    async with station(tmp_path, codecs=(up, down)):
        assert up.contact(0) == down.contact(0) == 0


HEARD = tuple((number, 1000 * number) for number in range(16))


def test_the_file_keeps_what_was_written(tmp_path):
    path = tmp_path / "contacts"
    write_contacts(path, HEARD, RealDisk())

    assert read_contacts(path) == HEARD
    data = path.read_bytes()
    assert data[:16] == bytes([0] * 8) + b"\0\0\0\1" + (1000).to_bytes(4, "big")
    assert data[128:] == zlib.crc32(data[:128]).to_bytes(4, "big")


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data + b"!", lambda data: b"", None])
def test_a_damaged_file_says_nothing(tmp_path, damage):
    path = tmp_path / "contacts"
    write_contacts(path, HEARD, RealDisk())
    if damage is None:
        for at in range(0, 132, 5):
            data = bytearray(path.read_bytes())
            data[at] ^= 4
            path.with_name("damaged").write_bytes(data)
            assert read_contacts(path.with_name("damaged")) == NOTHING_HEARD
        return
    path.write_bytes(damage(path.read_bytes()))

    assert read_contacts(path) == NOTHING_HEARD
    assert read_contacts(tmp_path / "nothing") == NOTHING_HEARD
