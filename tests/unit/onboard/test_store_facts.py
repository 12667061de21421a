"""The facts of the trust record: that they fit a slot, come back, and nothing else is taken for them."""

import contextlib
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onboard.store.facts import (
    ENDED_MAX,
    PENDING_MAX,
    RECORD_SIZE_MAX,
    REJECTED_MAX,
    RELEASES_MAX,
    KnownRelease,
    OnboardRecord,
    RecordedUpdate,
    RejectedUpdate,
)
from protocol.arming import ARMED_MAX, INTENT_SIZE, Armed
from protocol.command import NONCE_SIZE
from protocol.errors import DecodeError
from protocol.limits import NAME_LENGTH_MAX, STATIONS_MAX
from protocol.packing import pack_map, unpack_map
from protocol.report import FRESHNESS_SIZE, Reason, UpdateState


def largest_update(number):
    return RecordedUpdate(
        handle=bytes([number]) * 6,
        version=2**63 - 1 - number,
        sequence=2**63 - 1,
        release=bytes([number]) * 32,
        state=UpdateState.BLOCKED,
        reason=Reason.TOO_MANY_UPDATES,
        attempts=2**63 - 1,
        metadata=bytes([number]) * 32,
    )


LARGEST = OnboardRecord(
    accepted=2**63 - 1,
    closed=2**64 - 2,
    floor=2**63 - 1,
    boot_count=2**63 - 1,
    message_counter=2**63 - 1,
    command_highest=2**63 - 1,
    command_seen=2**64 - 1,
    current=b"c" * 32,
    previous=b"p" * 32,
    golden=b"g" * 32,
    releases=tuple(
        KnownRelease(digest=bytes([n]) * 32, name="n" * NAME_LENGTH_MAX, sequence=2**63 - 1)
        for n in range(RELEASES_MAX)
    ),
    pending=tuple(map(largest_update, range(PENDING_MAX))),
    ended=tuple(map(largest_update, range(ENDED_MAX))),
    rejected=tuple(RejectedUpdate(handle=bytes([n]) * 6, reason=Reason.UNTRUSTED) for n in range(REJECTED_MAX)),
    epoch=2**63 - 1,
    time_floor=2**63 - 1,
    root_version=2**63 - 1,
    root_digest=b"r" * 32,
    nonces=(b"n" * FRESHNESS_SIZE, b"o" * FRESHNESS_SIZE),
    num_mended=2**63 - 1,
    armed=tuple(
        Armed(counter=2**63 - 1 - n, intent=bytes([n]) * INTENT_SIZE, nonce=bytes([n]) * NONCE_SIZE, boot=2**63 - 1)
        for n in range(ARMED_MAX)
    ),
    stations=tuple(2**31 - 1 - n for n in range(STATIONS_MAX)),
)


FACTS_OF_THE_FIRST_BUILD = {
    *("v", "accepted", "closed", "floor", "boots", "message", "command", "seen", "current", "previous"),
    *("releases", "pending", "ended", "rejected"),
}


def test_the_largest_record_fits_a_slot_and_comes_back():
    data = LARGEST.encode()

    assert OnboardRecord.decode(data) == LARGEST
    assert len(data) <= RECORD_SIZE_MAX


@pytest.mark.parametrize("fact", [fact.name for fact in fields(OnboardRecord)])
def test_the_largest_record_has_every_fact_at_another_value_than_the_first(fact):
    assert getattr(LARGEST, fact) != getattr(OnboardRecord(), fact)


def test_a_record_that_an_older_build_wrote_gets_the_defaults():
    packed = unpack_map(OnboardRecord(accepted=7).encode(), unit="record", size_max=RECORD_SIZE_MAX)
    old = {name: value for name, value in packed.items() if name in FACTS_OF_THE_FIRST_BUILD}

    assert OnboardRecord.decode(pack_map(old)) == OnboardRecord(accepted=7)


def test_a_fact_that_this_build_does_not_know_is_an_error():
    packed = unpack_map(OnboardRecord().encode(), unit="record", size_max=RECORD_SIZE_MAX)

    with pytest.raises(DecodeError, match="revoked"):
        OnboardRecord.decode(pack_map({**packed, "revoked": 1}))


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
