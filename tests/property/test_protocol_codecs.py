"""Every codec of the protocol keeps three promises: decode undoes encode; any bytes decode or raise DecodeError;
any flipped bit is noticed, by the codec itself or by the tag, hash or signature that stands in front of it."""

import contextlib
import random
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import example, given
from hypothesis import strategies as st

from protocol.bundle import BundleHeader
from protocol.command import Command
from protocol.envelope import key_id
from protocol.errors import (
    ChecksumError,
    DecodeError,
    HashMismatchError,
    ProtocolError,
    SignatureError,
    UnknownObjectError,
)
from protocol.frame import SHORT_ESI_MAX, Frame, FrameCodec, FrameKind
from protocol.limits import ESI_MAX
from protocol.link_keys import Direction
from protocol.manifest import Manifest
from protocol.message import Message
from protocol.metadata import MetadataBundle
from protocol.objects import object_handle, parse_prefix, strip_padding
from protocol.report import OpenBlock, Report, UpdateState, UpdateStatus
from protocol.segment import SegmentCipher, SegmentCodec, SegmentRow, expand
from tests.fakes.contacts import contact_key
from tests.property import strategies

LINK_KEY = bytes(range(32))
SIGNER = Ed25519PrivateKey.from_private_bytes(bytes(32))
PUBLIC = SIGNER.public_key().public_bytes_raw()
KEYS = {key_id(PUBLIC): PUBLIC}
LINKS = [FrameCodec(Direction.UP, LINK_KEY), FrameCodec(Direction.DOWN, LINK_KEY), FrameCodec(Direction.UP, None)]


def flip(data: bytes, bit: int) -> bytes:
    bit %= len(data) * 8
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


# --- frames


@given(strategies.frames, st.sampled_from(LINKS))
def test_a_frame_decodes_to_what_was_encoded(frame, link):
    data = link.encode(frame)
    assert link.decode(data) == frame
    assert len(data) == len(frame.payload) + link.overhead


@given(st.binary(max_size=400), st.sampled_from(LINKS))
def test_any_bytes_are_a_frame_or_a_decode_error(data, link):
    with pytest.raises(DecodeError):
        link.decode(data)


@given(strategies.frames, st.sampled_from(LINKS), st.integers(0))
def test_a_flipped_bit_in_a_frame_is_noticed(frame, link, bit):
    with pytest.raises(DecodeError):
        link.decode(flip(link.encode(frame), bit))


@given(strategies.frames, st.integers(1, 40))
def test_a_frame_cut_short_or_with_a_tail_is_noticed(frame, count):
    for link in LINKS:
        data = link.encode(frame)
        for damaged in (data[:-count], data + bytes(count)):
            with pytest.raises(DecodeError):
                link.decode(damaged)


@given(strategies.frames)
def test_a_frame_of_the_other_direction_or_key_is_refused(frame):
    data = FrameCodec(Direction.UP, LINK_KEY).encode(frame)
    for other in (FrameCodec(Direction.DOWN, LINK_KEY), FrameCodec(Direction.UP, bytes(32))):
        with pytest.raises(ChecksumError):
            other.decode(data)


@given(strategies.frames, strategies.stations)
def test_a_station_speaks_for_itself_alone(frame, station):
    own = FrameCodec(Direction.UP, contact_key(LINK_KEY, station), station=station)
    satellite = FrameCodec(Direction.UP, LINK_KEY)
    assert satellite.decode(own.encode(frame)) == replace(frame, station=station)
    theirs = satellite.encode(frame)
    if frame.station == station:
        assert own.decode(theirs) == frame
    else:
        with pytest.raises(ChecksumError):
            own.decode(theirs)
        forged = bytearray(own.encode(frame))
        forged[0] = forged[0] & 0xF0 | frame.station  # a thief of one station's key passes for another
        with pytest.raises(ChecksumError):
            satellite.decode(bytes(forged))


@given(strategies.symbol_frames, st.sampled_from(LINKS))
def test_a_short_header_says_the_same_to_who_knows_the_object(frame, link):
    receiver = FrameCodec(link._direction, link._link_key)
    whole, short = link.encode(frame), link.encode(frame, is_short=True)
    with contextlib.suppress(UnknownObjectError):
        assert receiver.decode(short) == frame  # it had to be whole
        assert frame.esi > SHORT_ESI_MAX
    receiver.decode(whole)
    assert receiver.decode(short) == frame
    if frame.esi <= SHORT_ESI_MAX:
        assert len(short) == len(frame.payload) + link.short_overhead == len(whole) - 8


@given(
    strategies.symbol_frames,
    st.sampled_from(LINKS),
    st.lists(st.booleans(), max_size=9),
    st.sampled_from([0, 70, SHORT_ESI_MAX - 4, ESI_MAX - 8]),
)
def test_a_run_of_frames_is_the_frames_one_by_one(frame, link, shorts, first_esi):
    first = replace(frame, esi=first_esi)
    symbols = [bytes([n]) * len(frame.payload) for n in range(len(shorts))]
    one_by_one = [
        link.encode(replace(first, esi=first_esi + n, payload=symbol), is_short=shorts[n])
        for n, symbol in enumerate(symbols)
    ]
    assert link.encode_run(first, symbols, shorts) == one_by_one


@given(strategies.symbol_frames, strategies.symbol_frames, st.sampled_from(LINKS), st.integers(0))
def test_a_flipped_bit_in_a_short_frame_is_noticed(frame, other, link, bit):
    for known in (frame, other):
        link.remember(known.kind, known.handle, known.num_symbols)
    with pytest.raises(DecodeError):
        link.decode(flip(link.encode(frame, is_short=True), bit))


def test_objects_with_like_handles_are_told_apart_and_only_the_newest_are_known():
    receiver = FrameCodec(Direction.UP, LINK_KEY)
    frames = [
        Frame(kind=FrameKind.RAPTORQ, handle=bytes([n, 0, 0, 0, 0, 7]), num_symbols=9, esi=n, payload=bytes(8))
        for n in range(9)
    ]
    sender = FrameCodec(Direction.UP, LINK_KEY)
    for frame in frames:
        receiver.decode(sender.encode(frame))
    for frame in frames[1:]:
        assert receiver.decode(sender.encode(frame, is_short=True)) == frame
    with pytest.raises(UnknownObjectError):
        receiver.decode(sender.encode(frames[0], is_short=True))


def test_a_flood_of_odd_lengths_does_not_fill_the_memory():
    link = FrameCodec(Direction.UP, LINK_KEY)
    for size in range(8, 4000, 8):
        with pytest.raises(ChecksumError):
            link.decode(b"\x50" + bytes(size + 19))
    assert len(link._ciphers) <= 64


# --- reports


@given(strategies.reports)
def test_a_report_decodes_to_what_was_encoded(report):
    assert Report.decode(report.encode()) == report


@given(st.binary(max_size=200))
@example(bytes(39))
def test_any_bytes_are_a_report_or_a_decode_error(data):
    try:
        report = Report.decode(data)
    except DecodeError:
        return
    assert report.encode() == data


@given(
    st.builds(
        Report,
        frames_received=st.integers(0, 2**70),
        frames_rejected=st.integers(0, 2**70),
        accepted=st.integers(0, 2**70),
        boot_count=st.integers(0, 2**70),
        free_mib=st.integers(-1, 2**70),
        updates=st.lists(
            st.builds(
                UpdateStatus,
                handle=strategies.handles,
                state=st.just(UpdateState.RECEIVING),
                bundle_ranges=st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 2**20)), max_size=3).map(tuple),
            ),
            max_size=9,
        ).map(tuple),
        open_blocks=st.lists(
            st.builds(
                OpenBlock,
                handle=strategies.handles,
                block=strategies.block_numbers,
                have=st.integers(0, 2**30),
            ),
            max_size=3,
        ).map(tuple),
    )
)
def test_no_number_keeps_a_report_from_being_sent(report):
    assert len(report.encode()) <= 1280


@given(strategies.reports, st.integers(len(Report().encode()), 400))
def test_a_report_always_fits_its_frame(report, size_max):
    data = report.encode(size_max)
    assert len(data) <= size_max
    assert Report.decode(data).frames_received == report.frames_received


# --- manifest, metadata


@given(strategies.manifests())
def test_a_manifest_decodes_to_what_was_encoded(manifest):
    assert Manifest.decode(manifest.encode()) == manifest


@given(strategies.manifests(), st.integers(0), st.integers(0))
def test_a_damaged_manifest_is_another_manifest_or_a_decode_error(manifest, bit, other):
    # What notices the flip is the hash in the signed targets; the codec must only never fall over.
    with contextlib.suppress(DecodeError):
        Manifest.decode(flip(flip(manifest.encode(), bit), other))


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_as_manifest_and_as_metadata(data):
    for codec in (Manifest, MetadataBundle):
        with pytest.raises(DecodeError):
            codec.decode(data)


@given(strategies.metadata_bundles)
def test_metadata_decodes_to_what_was_encoded(bundle):
    assert MetadataBundle.decode(bundle.encode()) == bundle


@given(strategies.metadata_bundles, st.integers(0))
def test_a_flipped_bit_in_an_object_changes_its_handle_or_does_not_decode(bundle, bit):
    data = bundle.encode()
    handle = object_handle(data)
    with pytest.raises((DecodeError, HashMismatchError)):
        strip_padding(flip(data, bit) + bytes(24), handle)
    assert strip_padding(data + bytes(24), handle)[1] == data


@given(st.binary(max_size=64))
def test_any_bytes_are_an_object_prefix_or_a_decode_error(data):
    try:
        kind, size = parse_prefix(data)
    except DecodeError:
        return
    assert data[:4] == kind.value
    assert 8 <= size <= kind.size_max


# --- bundles, segments


@given(strategies.bundle_headers())
def test_a_bundle_head_decodes_to_what_was_encoded(header):
    try:
        data = header.encode()
    except AssertionError:
        assert header.total_bytes > 64 * 2**20
        return
    assert BundleHeader.decode(data + b"stored bytes") == header


@given(st.binary(max_size=300), strategies.bundle_headers(), st.integers(0))
def test_any_bytes_are_a_bundle_head_or_a_decode_error(data, header, bit):
    candidates = [data, b"SKB1" + data]
    if header.total_bytes <= 64 * 2**20:
        candidates.append(flip(header.encode(), bit))
    for candidate in candidates:
        with contextlib.suppress(DecodeError):
            BundleHeader.decode(candidate)


@given(strategies.segment_rows())
def test_a_segment_row_decodes_to_what_was_encoded(row):
    assert SegmentRow.decode(row.encode()) == row


@given(st.binary(min_size=32, max_size=32))
def test_any_bytes_are_a_segment_row_or_a_decode_error(data):
    try:
        row = SegmentRow.decode(data)
    except DecodeError:
        return
    assert row.encode() == data


@given(strategies.segment_rows(raw_size_max=500), st.integers(0), st.integers(0))
def test_a_flipped_bit_in_a_segment_or_its_row_is_noticed(row, bit, row_bit):
    if row.codec is SegmentCodec.COPY:
        return
    cipher = SegmentCipher(bytes(32), bytes(32))
    payload = random.Random(row.number).randbytes(row.stored_size - 16)
    stored = cipher.seal(row, payload)
    assert cipher.open(row, stored) == payload
    with pytest.raises(ChecksumError):
        cipher.open(row, flip(stored, bit))
    with pytest.raises(DecodeError):
        cipher.open(SegmentRow.decode(flip(row.encode(), row_bit)), stored)


@given(strategies.segment_rows(raw_size_max=500), st.binary(max_size=400), st.binary(max_size=500))
def test_any_payload_expands_to_the_signed_size_or_raises(row, payload, old):
    with contextlib.suppress(DecodeError):
        assert len(expand(row, payload, old)) == row.raw_size


# --- envelopes


@given(strategies.commands)
def test_a_command_opens_to_what_was_sealed(command):
    data = command.seal(public_key=PUBLIC, sign=SIGNER.sign)
    assert Command.open(data, public_keys=KEYS, satellite=command.satellite) == command


@given(strategies.messages)
def test_a_message_opens_to_what_was_sealed(message):
    assert Message.open(message.seal(public_key=PUBLIC, sign=SIGNER.sign), public_keys=KEYS) == message


@given(strategies.commands, st.integers(0))
def test_a_flipped_bit_in_a_command_is_noticed(command, bit):
    data = flip(command.seal(public_key=PUBLIC, sign=SIGNER.sign), bit)
    with pytest.raises((DecodeError, SignatureError)):
        Command.open(data, public_keys=KEYS, satellite=command.satellite)


@given(strategies.messages)
def test_a_message_never_passes_as_a_command(message):
    data = message.seal(public_key=PUBLIC, sign=SIGNER.sign)
    for candidate in (data, b"SKC1" + data[4:]):
        with pytest.raises(ProtocolError):
            Command.open(candidate, public_keys=KEYS, satellite=message.satellite)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_as_command_and_message(data):
    for candidate in (data, b"SKC1" + (len(data) + 4).to_bytes(4, "big") + data):
        with pytest.raises((DecodeError, SignatureError)):
            Command.open(candidate, public_keys=KEYS, satellite="SAT-1")
        with pytest.raises((DecodeError, SignatureError)):
            Message.open(candidate, public_keys=KEYS)
