"""The trust record: what it holds, what it refuses, and that it needs no space."""

import contextlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onboard.errors import StoreCorruptError, StoreFailedError
from onboard.store.record import (
    COUNTER_STEP,
    ENDED_MAX,
    PENDING_MAX,
    REJECTED_MAX,
    RELEASES_MAX,
    SLOT_SIZE,
    KnownRelease,
    MessageCounters,
    OnboardRecord,
    RecordedUpdate,
    RecordStore,
    RejectedUpdate,
)
from protocol.errors import DecodeError
from protocol.limits import NAME_LENGTH_MAX
from protocol.report import Reason, UpdateState
from tests.fakes.faulty_disk import FaultyDisk


def largest_update(number):
    return RecordedUpdate(
        handle=bytes([number]) * 6,
        version=2**63 - 1 - number,
        sequence=2**63 - 1,
        release=bytes([number]) * 32,
        state=UpdateState.BLOCKED,
        reason=Reason.TOO_MANY_UPDATES,
        attempts=2**63 - 1,
    )


LARGEST = OnboardRecord(
    accepted=2**63 - 1,
    closed=2**64 - 1,
    floor=2**63 - 1,
    boot_count=2**63 - 1,
    message_counter=2**63 - 1,
    command_highest=2**63 - 1,
    command_seen=2**64 - 1,
    current=b"c" * 32,
    previous=b"p" * 32,
    releases=tuple(
        KnownRelease(digest=bytes([n]) * 32, name="n" * NAME_LENGTH_MAX, sequence=2**63 - 1)
        for n in range(RELEASES_MAX)
    ),
    pending=tuple(map(largest_update, range(PENDING_MAX))),
    ended=tuple(map(largest_update, range(ENDED_MAX))),
    rejected=tuple(RejectedUpdate(handle=bytes([n]) * 6, reason=Reason.UNTRUSTED) for n in range(REJECTED_MAX)),
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "trust.record"


def made(path, record=OnboardRecord(), disk=None):  # noqa: B008 - frozen
    store = RecordStore(path, disk)
    store.create(record)
    return store


def test_the_largest_record_fits_a_slot_and_comes_back(path):
    made(path).store(LARGEST)

    assert RecordStore(path).load() == LARGEST
    assert path.stat().st_size == 2 * SLOT_SIZE


def test_no_file_is_no_record(path):
    assert RecordStore(path).load() is None


def test_every_store_is_what_is_loaded_next(path):
    store = made(path)
    for accepted in range(1, 8):
        store.store(replace(store.record, accepted=accepted))
        assert RecordStore(path).load().accepted == accepted


def test_a_loaded_record_goes_on_where_it_was(path):
    for accepted in range(1, 8):
        store = RecordStore(path)
        record = store.load() or OnboardRecord()
        if accepted == 1:
            store.create(record)
        store.store(replace(record, accepted=accepted))

    assert RecordStore(path).load().accepted == 7


@pytest.mark.parametrize("content", [b"", b"SKR1", bytes(8192), b"x" * 8192])
def test_a_file_without_a_valid_slot_is_an_error_not_a_fresh_start(path, content):
    path.write_bytes(content)

    with pytest.raises(StoreCorruptError) as caught:
        RecordStore(path).load()
    assert caught.value.hint


def test_a_damaged_newer_slot_leaves_the_older_record(path):
    store = made(path)
    store.store(OnboardRecord(accepted=1))
    store.store(OnboardRecord(accepted=2))
    data = bytearray(path.read_bytes())
    newer = max((0, SLOT_SIZE), key=lambda at: data[at + 4 : at + 12])
    data[newer + 30] ^= 1
    path.write_bytes(data)

    again = RecordStore(path)
    assert again.load().accepted == 1
    again.store(OnboardRecord(accepted=3))
    assert RecordStore(path).load().accepted == 3


def test_it_is_stored_on_a_full_disk(path):
    class Full(FaultyDisk):
        def write(self, handle, data):
            raise AssertionError("it must not grow")

    store = RecordStore(path, Full())
    made(path)
    store.load()
    store.store(LARGEST)

    assert RecordStore(path).load() == LARGEST


def test_after_a_failed_sync_it_is_not_used_before_it_was_loaded_again(path):
    disk = FaultyDisk()
    store = made(path, disk=disk)
    disk.sync_fails = True
    with pytest.raises(StoreFailedError):
        store.store(OnboardRecord(accepted=1))
    disk.sync_fails = False
    with pytest.raises(StoreFailedError):
        store.store(OnboardRecord(accepted=2))

    assert store.load().accepted in {0, 1}
    store.store(OnboardRecord(accepted=2))
    assert RecordStore(path).load().accepted == 2


def test_message_counters_are_never_handed_out_twice_even_if_the_power_goes(path):
    made(path)
    used = []
    for num_messages in (1, COUNTER_STEP, 3, 0, 2 * COUNTER_STEP + 1):
        store = RecordStore(path)
        store.load()
        counters = MessageCounters(store)
        used += [counters.take() for _ in range(num_messages)]

    assert used == sorted(set(used))
    assert used[0] == 1


def test_message_counters_do_not_cost_a_write_each(path):
    store = made(path)
    counters = MessageCounters(store)
    before = [counters.take() and path.read_bytes() for _ in range(COUNTER_STEP)]

    assert len(set(before)) == 1


def test_releases_and_rejections_are_remembered_newest_first():
    record = OnboardRecord()
    for number in range(REJECTED_MAX + 3):
        record = record.with_rejected(bytes([number]) * 8, Reason.CANARY_FAILED)
    old, new = (KnownRelease(digest=bytes([n]) * 32, name="r", sequence=n) for n in (1, 2))
    record = record.with_release(old).with_release(new).with_release(replace(old, name="again"))

    assert len(record.rejected) == REJECTED_MAX
    assert record.is_rejected(bytes([REJECTED_MAX + 2]) * 8)
    assert not record.is_rejected(bytes(6))
    assert [known.name for known in record.releases] == ["again", "r"]
    assert record.without_release(old.digest).releases == (new,)
    assert record.release(new.digest) is new


def test_pending_updates_are_newest_first_and_the_ended_ones_are_forgotten_by_age():
    record = OnboardRecord()
    for number in (1, 0, 2):
        record = record.with_pending(largest_update(number))
    assert [update.version for update in record.pending] == sorted((u.version for u in record.pending), reverse=True)
    record = record.with_pending(replace(largest_update(1), attempts=2))
    assert record.update(bytes([1]) * 6).attempts == 2
    for number in range(ENDED_MAX + 2):
        record = record.with_ended(largest_update(number))
    assert record.pending == ()
    assert [update.handle[0] for update in record.ended] == [5, 4, 3, 2]
    assert record.update(bytes(6)) is None


@given(st.binary(max_size=300))
def test_any_bytes_decode_or_raise_decode_error(data):
    with contextlib.suppress(DecodeError):
        OnboardRecord.decode(data)


@given(at=st.integers(0), change=st.integers(1, 255))
def test_a_changed_byte_decodes_to_a_record_or_raises_decode_error(at, change):
    data = bytearray(LARGEST.encode())
    data[at % len(data)] ^= change
    with contextlib.suppress(DecodeError):
        OnboardRecord.decode(bytes(data))
