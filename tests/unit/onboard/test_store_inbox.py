"""The inbox on a real directory: torn tails, full disks, failing syncs, bounded memory."""

import random
import resource
from pathlib import Path

import pytest

from onboard.errors import StoreFailedError, StoreFullError
from onboard.store.inbox import BUFFERED_BYTES_MAX, FLUSH_BYTES, Inbox
from onboard.store.shape import ObjectShape
from onboard.store.symbol_log import read_symbols, record_size
from protocol.frame import FrameKind
from protocol.limits import SYMBOLS_MAX
from tests.fakes.faulty_disk import FaultyDisk
from tests.fakes.receiving import INBOX, disk_with_inbox
from tests.fakes.sim_disk import FailingSync

SHAPE = ObjectShape(handle=b"handl1", kind=FrameKind.RAPTORQ, num_symbols=100, symbol_size=64)
SYMBOLS = [random.Random(1).randbytes(64) for _ in range(100)]


@pytest.fixture
def disk():
    return FaultyDisk()


@pytest.fixture
def inbox(tmp_path, disk):
    made = Inbox(tmp_path / "inbox", disk)
    made.load()
    return made


def fill(inbox, first, stop, shape=SHAPE):
    for esi in range(first, stop):
        inbox.append(shape, 0, esi, SYMBOLS[esi])


def sync(inbox):
    batch = inbox.begin_sync()
    batch.run()
    inbox.finish_sync(batch)


def reload(inbox):
    (found,) = Inbox(inbox.root, FaultyDisk()).load()
    return found.symbols[0]


def log_of(inbox) -> Path:
    return inbox.directory(SHAPE) / "000.log"


def test_synced_symbols_are_found_again(inbox):
    fill(inbox, 0, 10)
    sync(inbox)
    fill(inbox, 50, 60)
    sync(inbox)

    found = reload(inbox)
    assert len(found) == 20
    assert all(esi in found for esi in [0, 9, 50, 59])


def test_the_log_holds_the_very_symbols(inbox, disk):
    fill(inbox, 0, 10)
    sync(inbox)

    assert list(read_symbols(disk, log_of(inbox), SHAPE, 0)) == list(enumerate(SYMBOLS[:10]))


def test_a_torn_tail_is_cut_off_and_writing_goes_on_after_it(inbox):
    fill(inbox, 0, 10)
    sync(inbox)
    with log_of(inbox).open("ab") as log:
        log.write(bytes(40))
    again = Inbox(inbox.root, FaultyDisk())
    again.load()
    assert log_of(inbox).stat().st_size == 11 * record_size(SHAPE)

    fill(again, 10, 20)
    sync(again)
    assert len(reload(again)) == 20


@pytest.mark.parametrize("at", [0, 1, 3, 4, 70, 68 * 4, 68 * 5, 68 * 5 + 3, 68 * 5 + 5], ids=str)
def test_damage_hides_no_group_but_its_own(inbox, at):
    for first in (0, 5, 10):
        fill(inbox, first, first + 5)
        sync(inbox)
    data = bytearray(log_of(inbox).read_bytes())
    group = 6 * record_size(SHAPE)
    assert len(data) == 3 * group
    data[group + at] ^= 0xFF
    log_of(inbox).write_bytes(data)

    found = reload(inbox)
    assert [esi for esi in range(15) if esi in found] == [0, 1, 2, 3, 4, 10, 11, 12, 13, 14]


@pytest.mark.parametrize("cut", range(0, 6 * 68 * 2 + 1, 23))
def test_a_log_cut_anywhere_keeps_its_whole_groups(inbox, cut):
    fill(inbox, 0, 5)
    sync(inbox)
    fill(inbox, 5, 10)
    sync(inbox)
    log_of(inbox).write_bytes(log_of(inbox).read_bytes()[:cut])

    assert len(reload(inbox)) == 5 * (cut // (6 * record_size(SHAPE)))


def test_groups_of_another_object_are_not_taken_for_ours(inbox, tmp_path):
    other = ObjectShape(handle=b"handl2", kind=FrameKind.RAPTORQ, num_symbols=100, symbol_size=64)
    fill(inbox, 0, 5)
    fill(inbox, 5, 10, shape=other)
    sync(inbox)
    log_of(inbox).write_bytes((inbox.directory(other) / "000.log").read_bytes())

    found = {entry.shape.handle: entry for entry in Inbox(inbox.root, FaultyDisk()).load()}
    assert len(found[SHAPE.handle].symbols[0]) == 0
    assert len(found[other.handle].symbols[0]) == 5


@pytest.mark.parametrize(
    "name", ["garbage", "00.1.1.8", "68616e646c652d31.1.0.64", "68616e646c652d31.9.10.64", "dropped-3"]
)
def test_what_is_no_object_is_deleted_at_start(inbox, name):
    (inbox.root / name).mkdir()
    (inbox.root / name / "000.log").write_bytes(b"?")
    (inbox.root / "stray").write_bytes(b"?")

    assert Inbox(inbox.root, FaultyDisk()).load() == []
    assert list(inbox.root.iterdir()) == []


def test_short_writes_go_on(inbox, disk):
    disk.write_max = 7
    fill(inbox, 0, 10)
    sync(inbox)

    assert len(reload(inbox)) == 10


def test_a_full_disk_leaves_no_torn_group_and_keeps_what_it_could_not_write(inbox, disk):
    fill(inbox, 0, 10)
    sync(inbox)
    disk.room_bytes = 3 * record_size(SHAPE) + 20
    fill(inbox, 10, 20)

    with pytest.raises(StoreFullError) as kept:  # its traceback must not hold on to the buffer
        inbox.begin_sync()
    assert log_of(inbox).stat().st_size == 11 * record_size(SHAPE)
    fill(inbox, 20, 21)

    disk.room_bytes = None
    sync(inbox)
    assert len(reload(inbox)) == 21
    del kept


@pytest.mark.parametrize("error", [StoreFailedError, StoreFullError])
def test_after_a_failed_sync_only_what_was_durable_before_counts(inbox, disk, error):
    fill(inbox, 0, 10)
    sync(inbox)
    fill(inbox, 10, 20)
    disk.sync_fails, disk.sync_error = True, error  # for want of space, too: what a sync has not written is gone
    batch = inbox.begin_sync()
    with pytest.raises(StoreFailedError):
        batch.run()
    fill(inbox, 20, 25)

    disk.sync_fails = False
    ((shape, block, left),) = inbox.recover()

    assert (shape, block, len(left)) == (SHAPE, 0, 10)
    fill(inbox, 30, 33)
    sync(inbox)
    assert len(reload(inbox)) == 13


def test_a_log_that_was_never_durable_is_gone_after_a_failed_sync(inbox, disk):
    fill(inbox, 0, 10)
    disk.sync_fails = True
    with pytest.raises(StoreFailedError):
        inbox.begin_sync().run()

    disk.sync_fails = False
    ((_, _, left),) = inbox.recover()

    assert len(left) == 0
    assert not log_of(inbox).exists()


@pytest.mark.parametrize("error", [StoreFailedError, StoreFullError])
def test_what_an_earlier_life_could_not_write_does_not_count_though_the_kernel_remembers_it(error):
    disk = disk_with_inbox(FailingSync)
    inbox = Inbox(INBOX, disk)
    inbox.load()
    fill(inbox, 0, 10)
    sync(inbox)
    fill(inbox, 10, 20)
    disk.error = error("sync: refused")
    with pytest.raises(StoreFailedError):
        inbox.begin_sync().run()

    (found,) = Inbox(INBOX, disk).load()  # it was killed and started again

    (after_a_cut,) = [Inbox(INBOX, image).load() for image in disk.images(random.Random(1), at_most=1)]
    assert len(found.symbols[0]) == len(after_a_cut[0].symbols[0]) == 10


def test_a_block_that_is_read_again_is_durable_with_its_names():
    disk = disk_with_inbox()
    inbox = Inbox(INBOX, disk)
    inbox.load()
    fill(inbox, 0, 10)

    assert len(inbox.reload_block(SHAPE, 0)) == 10
    for image in disk.images(random.Random(1)):
        assert [len(found.symbols[0]) for found in Inbox(INBOX, image).load()] == [10]


def test_memory_is_bounded_whatever_the_number_of_logs(inbox):
    big = ObjectShape(handle=b"handl3", kind=FrameKind.RAPTORQ, num_symbols=52_000, symbol_size=1280)
    symbol = bytes(1280)
    num_entries = BUFFERED_BYTES_MAX // 1287 + 10
    per_log = FLUSH_BYTES // 1287
    for number in range(num_entries):
        inbox.append(big, number // per_log, number % per_log, symbol)

    assert inbox._buffered <= BUFFERED_BYTES_MAX
    inbox.close()


def test_a_dropped_object_is_out_of_the_way_at_once(inbox):
    fill(inbox, 0, 10)
    sync(inbox)
    aside = inbox.drop(SHAPE)
    fill(inbox, 0, 3)
    sync(inbox)
    inbox.remove(aside)

    assert len(reload(inbox)) == 3
    assert [path.name for path in inbox.root.iterdir()] == [SHAPE.directory_name]


def test_a_shape_is_its_directorys_name():
    assert ObjectShape.parse(SHAPE.directory_name) == SHAPE


@pytest.fixture
def few_handles():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 400), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_sync_of_very_many_logs_needs_few_open_files(inbox, few_handles):
    shapes = [
        ObjectShape(handle=b"obj-%02d" % n, kind=FrameKind.RAPTORQ, num_symbols=SYMBOLS_MAX, symbol_size=8)
        for n in range(60)
    ]
    for shape in shapes:
        for block in range(shape.layout.num_blocks):
            inbox.append(shape, block, 0, b"8 bytes.")
    sync(inbox)

    found = Inbox(inbox.root, FaultyDisk()).load()
    assert [len(entry.symbols) for entry in found] == [9] * 60


def test_what_could_not_be_thrown_away_after_a_failure_is_thrown_away_by_the_next_try(inbox, disk):
    other = ObjectShape(handle=b"handl2", kind=FrameKind.RAPTORQ, num_symbols=100, symbol_size=64)
    for shape in (SHAPE, other):
        fill(inbox, 0, 10, shape)
    sync(inbox)
    for shape in (SHAPE, other):
        fill(inbox, 10, 20, shape)
        inbox.flush(shape, 0)

    disk.sync_fails = True
    with pytest.raises(StoreFailedError):
        inbox.recover()
    disk.sync_fails = False
    lost = inbox.recover()

    assert {shape.handle: len(symbols) for shape, _, symbols in lost} == {SHAPE.handle: 10, other.handle: 10}
    for shape in (SHAPE, other):  # writing goes on after what was durable
        fill(inbox, 30, 35, shape)
    sync(inbox)
    assert [len(found.symbols[0]) for found in Inbox(inbox.root, FaultyDisk()).load()] == [15, 15]


def test_a_log_that_cannot_be_read_to_its_end_keeps_what_comes_before(inbox, disk, monkeypatch):
    fill(inbox, 0, 10)
    sync(inbox)
    size = log_of(inbox).stat().st_size
    fill(inbox, 10, 20)
    sync(inbox)
    inbox.close()
    read = FaultyDisk.read

    def failing(self, handle, count, offset):
        if offset >= size:
            raise StoreFailedError("read: Input/output error")
        return read(self, handle, min(count, size - offset), offset)

    monkeypatch.setattr(FaultyDisk, "read", failing, raising=False)
    assert len(reload(inbox)) == 10


def test_recovering_goes_on_when_an_object_was_dropped_since_the_try_before(inbox, disk):
    fill(inbox, 0, 10)
    sync(inbox)
    fill(inbox, 10, 20)
    inbox.begin_sync()
    sync_directory = disk.sync_directory

    def refuse(path):
        raise StoreFailedError("sync: refused")

    disk.sync_directory = refuse
    with pytest.raises(StoreFailedError):
        inbox.recover()
    disk.sync_directory = sync_directory
    inbox.remove(inbox.drop(SHAPE))
    assert [len(symbols) for _, _, symbols in inbox.recover()] == [10]
