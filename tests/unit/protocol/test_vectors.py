"""The bytes on the wire are those of the golden vectors, and the layouts are those that the docstrings draw."""

import json
import struct
import zlib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from protocol.bundle import BundleHeader
from protocol.command import Command
from protocol.frame import FrameCodec
from protocol.link_keys import Direction
from protocol.manifest import Manifest
from protocol.message import Message
from protocol.metadata import MetadataBundle
from protocol.objects import ObjectKind, object_prefix
from protocol.report import Report
from protocol.sealed_metadata import open_metadata
from protocol.segment import SegmentCipher, SegmentRow
from tests.vectors import make

GOLDEN = {
    name: bytes.fromhex(value)
    for name, value in json.loads((Path(make.__file__).parent / "protocol.json").read_text()).items()
}


@pytest.mark.parametrize("name", make.VECTORS)
def test_the_wire_format_has_not_changed(name):
    assert make.VECTORS[name]() == GOLDEN[name]


def test_golden_bytes_decode_to_what_they_were_made_from():
    assert FrameCodec(Direction.UP, make.LINK_KEY).decode(GOLDEN["frame up"]) == make.FRAME
    assert FrameCodec(Direction.UP, None).decode(GOLDEN["frame up crc"]) == make.FRAME
    assert Report.decode(GOLDEN["report"]) == make.REPORT
    assert Manifest.decode(GOLDEN["manifest"]) == make.MANIFEST
    assert SegmentRow.decode(GOLDEN["segment row"]) == make.ROW
    assert BundleHeader.decode(GOLDEN["bundle head"]) == make.BUNDLE
    assert MetadataBundle.decode(make.METADATA.encode()) == make.METADATA
    assert Command.open(GOLDEN["command"], public_keys=make.KEYS, satellite="SAT-1") == make.COMMAND
    assert Command.open(GOLDEN["command fired"], public_keys=make.KEYS, satellite="SAT-1") == make.FIRE
    assert Message.open(GOLDEN["message"], public_keys=make.KEYS) == make.MESSAGE
    assert Message.open(GOLDEN["receipt"], public_keys=make.KEYS) == make.RECEIPT
    cipher = SegmentCipher(make.RELEASE_KEY, make.MANIFEST.release_digest)
    assert cipher.open(make.ROW, GOLDEN["segment sealed"]) == bytes(100)


@pytest.mark.parametrize(("name", "key_size"), [("x25519", 32), ("hybrid", 96)])
def test_what_was_sealed_before_opens(name, key_size):
    """A seal is never the same twice, so these were made once."""
    sealed = json.loads((Path(make.__file__).parent / "sealed.json").read_text())
    opened = open_metadata(bytes.fromhex(sealed[name]), bytes(range(key_size)), satellite="SAT-1")
    assert opened == object_prefix(ObjectKind.METADATA, len(opened)) + b"what is in a seal"


def test_a_frame_is_laid_out_as_documented():
    position = (1000 - 1).to_bytes(2, "big") + (3 << 20 | 70000).to_bytes(3, "big")
    header = bytes([0b01_01_0010]) + position + make.HANDLE
    body = header + bytes(range(64))
    assert GOLDEN["frame up crc"] == body + struct.pack(">I", zlib.crc32(body))
    station_key = _hkdf(make.LINK_KEY, b"skyload station v1 2")
    assert GOLDEN["station key 2"] == station_key
    for contact, frame in ((130, "frame up in contact 130"), (0, "frame up")):
        batch_key = _hkdf(station_key, b"skyload contacts v1 %d" % (contact // 64))
        contact_key = _hkdf(batch_key, b"skyload contact v1 %d" % contact)
        key = _hkdf(contact_key, b"skyload frame v1 up 1 64")
        assert GOLDEN[frame] == body + AESGCM(key).encrypt(header, b"", body)[:8]
        if contact:
            assert GOLDEN["batch key 2 of station 2"] == batch_key
            assert GOLDEN["contact key 130 of station 2"] == contact_key
            assert GOLDEN["frame key up raptorq 64"] == key
    header = bytes([0b01_01_0010]) + (1000 - 1).to_bytes(2, "big") + (3 << 20 | 7000).to_bytes(3, "big") + make.HANDLE
    tag = AESGCM(key).encrypt(header, b"", header + bytes(range(64)))[:8]
    assert GOLDEN["frame up short"] == bytes([0b01_00_0010, 0x63, 7000 >> 8, 7000 & 0xFF]) + bytes(range(64)) + tag


def _hkdf(secret, info):
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=info).derive(secret)


def test_a_report_is_laid_out_as_documented():
    expected = (
        make.HANDLE
        + (3 << 20 | 70000).to_bytes(3, "big")
        + struct.pack(">II", 123456, 7)
        + b"\xaa" * 6
        + struct.pack(">IHH", 12, 3, 1)
        + struct.pack(">I8s", 4, b"\x5a" * 8)
        + struct.pack(">III", 17, 4, 20480)
        + struct.pack(">BBBB", 0, 2, 1, 1)
        + make.HANDLE[::-1]
        + struct.pack(">BBH", 1, 0, 2)
        + struct.pack(">HHHH", 0, 4, 9, 9)
        + b"\xcc" * 6
        + struct.pack(">BBH", 7, 5, 0)
        + b"\xbb" * 6
        + make.HANDLE
        + b"\x02"
        + b"\x30\x01\xf4"
        + b"\x2f\xff\xff"
    )
    assert GOLDEN["report"] == expected


def test_a_segment_is_laid_out_as_documented():
    row = struct.pack(">IBBHQIIH", 7, 1, 0, 1, 4096, 1000, 116, 0xFFFF) + bytes(6)
    assert GOLDEN["segment row"] == row
    sealed = AESGCM(make.RELEASE_KEY).encrypt((7).to_bytes(12, "big"), bytes(100), make.MANIFEST.release_digest + row)
    assert GOLDEN["segment sealed"] == sealed


def test_a_bundle_head_is_laid_out_as_documented():
    delta = struct.pack(">IBBHQIIH", 8, 3, 0, 1, 5096, 1000, 216, 1) + (2**33).to_bytes(6, "big")
    total = 8 + 40 + 64 + 116 + 216
    head = b"SKB1" + struct.pack(">I", total) + make.MANIFEST.release_digest + struct.pack(">II", 2, 2)
    assert GOLDEN["bundle head"] == head + GOLDEN["segment row"] + delta


def test_an_envelope_is_laid_out_as_documented():
    data = GOLDEN["command"]
    assert data[:8] == b"SKC1" + len(data).to_bytes(4, "big")
    assert data[8:16] in make.KEYS
    make.SIGNER.public_key().verify(data[16:80], b"skyload v1 SKC1\0" + data[80:])


def test_a_release_digest_is_what_sha256sum_gives():
    listing = f"{'11' * 32}  config.json\n{'22' * 32}  model.safetensors\n".encode()
    digest = hashes.Hash(hashes.SHA256())
    digest.update(listing)
    assert GOLDEN["release digest"] == digest.finalize()
