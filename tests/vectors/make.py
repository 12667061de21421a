"""The values behind the golden vectors. `python -m tests.vectors.make` prints the file anew; see the README first."""

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import replace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocol.arming import intent_digest
from protocol.bundle import BundleHeader
from protocol.canary import Canary, CanaryPrompt
from protocol.command import Command, Operation
from protocol.envelope import key_id
from protocol.fec import BlockEncoder
from protocol.frame import Frame, FrameCodec, FrameKind
from protocol.link_keys import Direction, derive_batch_key, derive_contact_key, derive_frame_key, derive_station_key
from protocol.manifest import BundleEntry, FileEntry, Manifest, release_digest, sized
from protocol.message import Message, MessageKind
from protocol.metadata import MetadataBundle
from protocol.metadata_dictionary import DICTIONARY
from protocol.metadata_packing import Known, pack_text
from protocol.quality import Quality, QualityReference
from protocol.report import SOLVED, OpenBlock, Reason, Report, UpdateState, UpdateStatus
from protocol.segment import SegmentCipher, SegmentCodec, SegmentRow

LINK_KEY = bytes(range(32))
STATION_KEY = derive_station_key(LINK_KEY, 2)
CONTACT_KEY = derive_contact_key(STATION_KEY, 130)
RELEASE_KEY = bytes(range(32, 64))
SIGNER = Ed25519PrivateKey.from_private_bytes(bytes(range(64, 96)))
PUBLIC_KEY = SIGNER.public_key().public_bytes_raw()
KEYS = {key_id(PUBLIC_KEY): PUBLIC_KEY}
HANDLE = bytes.fromhex("010203040506")

FRAME = Frame(
    kind=FrameKind.RAPTORQ, handle=HANDLE, num_symbols=1000, block=3, esi=70000, station=2, payload=bytes(range(64))
)
SHORT_FRAME = replace(FRAME, esi=7000)
REPORT = Report(
    echo_handle=HANDLE,
    echo_block=3,
    echo_esi=70000,
    frames_received=123456,
    frames_rejected=7,
    serving=b"\xaa" * 6,
    accepted=12,
    root_version=3,
    epoch=1,
    nonce=b"\0\0\0\4" + b"\x5a" * 8,
    commands=17,
    boot_count=4,
    free_mib=20480,
    updates=(
        UpdateStatus(handle=HANDLE[::-1], state=UpdateState.RECEIVING, bundle_ranges=((0, 4), (9, 9))),
        UpdateStatus(handle=b"\xcc" * 6, state=UpdateState.BLOCKED, reason=Reason.DISK_FULL),
    ),
    complete=(b"\xbb" * 6,),
    open_blocks=(OpenBlock(handle=HANDLE, block=3, have=500), OpenBlock(handle=HANDLE, block=2, have=SOLVED)),
)
FILES = (
    FileEntry(name="config.json", size_bytes=100, sha256=b"\x11" * 32),
    FileEntry(name="model.safetensors", size_bytes=5000, sha256=b"\x22" * 32),
)
MANIFEST = Manifest(
    sequence=5,
    satellites=("SAT-1",),
    release_name="tiny",
    release_digest=release_digest(FILES),
    files=sized(FILES),
    base=b"\x33" * 32,
    bundles=(BundleEntry(size_bytes=4000, digest=b"\x44" * 16, num_segments=3),),
    keys={"SAT-1": b"\x55" * 80},
    floor=2,
    beside=True,
    memory_bytes=1 << 30,
    canary=Canary(prompts=(CanaryPrompt(text="Hello", expected=(1, 2, 300)),)),
)
JUDGED = replace(
    MANIFEST,
    quality=Quality(
        text_sha256=b"\x66" * 32,
        num_tokens=4096,
        perplexity_milli=14_967,
        reference=QualityReference(perplexity_milli=14_931, divergence_micro=5_500),
    ),
)
ROW = SegmentRow(number=7, codec=SegmentCodec.ZSTD, file=1, offset=4096, raw_size=1000, stored_size=116)
DELTA_ROW = SegmentRow(
    number=8,
    codec=SegmentCodec.DELTA_ZSTD,
    file=1,
    offset=5096,
    raw_size=1000,
    stored_size=216,
    base_file=1,
    base_offset=2**33,
)
BUNDLE = BundleHeader(release_digest=MANIFEST.release_digest, number=2, rows=(ROW, DELTA_ROW))
NAMING = b'{"expires":"2027-01-15T08:00:00Z","meta":{"x.json":{"hashes":{"sha256":"%b"},"length":5,"version":7}}}' % (
    hashlib.sha256(b"named").hexdigest().encode()
)
METADATA = MetadataBundle(timestamp=b"timestamp", snapshot=b"snapshot", targets=b"targets", manifest=b"manifest")
COMMAND = Command(satellite="SAT-1", counter=9, operation=Operation.REVERT, args={"digest": None})
FIRE = replace(COMMAND, arm=8, nonce=bytes(range(16)))
RECEIPT = Message(
    satellite="SAT-1",
    counter=4,
    kind=MessageKind.RECEIPT,
    re=HANDLE,
    body={
        "state": "confirmed",
        "reason": "none",
        "release": bytes(range(32)),
        "sequence": 7,
        "canary": {"agreeing": 8, "expected": 8, "permille": 1000, "swap_ms": 0.5},
        "text": "",
        "serving": bytes(range(32)),
        "boot": 3,
        "uptime_s": 120,
        "utc": None,
    },
)
MESSAGE = Message(
    satellite="SAT-1", counter=3, kind=MessageKind.RESULT, re=HANDLE, body={"ok": True, "text": "reverted"}
)
BLOCK = bytes(i * 7 % 256 for i in range(10 * 16))

VECTORS: dict[str, Callable[[], bytes]] = {
    "station key 2": lambda: derive_station_key(LINK_KEY, 2),
    "station key 2 generation 3": lambda: derive_station_key(LINK_KEY, 2, 3),
    "batch key 2 of station 2": lambda: derive_batch_key(STATION_KEY, 2),
    "contact key 130 of station 2": lambda: derive_contact_key(STATION_KEY, 130),
    "frame key up raptorq 64": lambda: derive_frame_key(CONTACT_KEY, Direction.UP, FrameKind.RAPTORQ, 64),
    "frame up in contact 130": lambda: FrameCodec(Direction.UP, CONTACT_KEY, station=2).encode(FRAME),
    "frame up": lambda: FrameCodec(Direction.UP, LINK_KEY).encode(FRAME),
    "frame up short": lambda: FrameCodec(Direction.UP, LINK_KEY).encode(SHORT_FRAME, is_short=True),
    "frame up crc": lambda: FrameCodec(Direction.UP, None).encode(FRAME),
    "report": REPORT.encode,
    "metadata dictionary": lambda: hashlib.sha256(DICTIONARY).digest(),
    "metadata text": lambda: pack_text(b'{"keyid":"%b","zero":"\0"}' % PUBLIC_KEY.hex().encode()),
    "metadata text that names": lambda: pack_text(NAMING, Known(named=b"named", number=7, expires_s=1_800_000_000)),
    "manifest": MANIFEST.encode,
    "manifest judged": JUDGED.encode,
    "release digest": lambda: MANIFEST.release_digest,
    "segment row": ROW.encode,
    "segment sealed": lambda: SegmentCipher(RELEASE_KEY, MANIFEST.release_digest).seal(ROW, bytes(100)),
    "bundle head": BUNDLE.encode,
    "command": lambda: COMMAND.seal(public_key=PUBLIC_KEY, sign=SIGNER.sign),
    "command fired": lambda: FIRE.seal(public_key=PUBLIC_KEY, sign=SIGNER.sign),
    "intent": lambda: intent_digest(FIRE.satellite, FIRE.operation, FIRE.args),
    "message": lambda: MESSAGE.seal(public_key=PUBLIC_KEY, sign=SIGNER.sign),
    "receipt": lambda: RECEIPT.seal(public_key=PUBLIC_KEY, sign=SIGNER.sign),
    "raptorq symbols 0 9 10 100": lambda: b"".join(
        BlockEncoder(FrameKind.RAPTORQ, BLOCK, 16).symbols(esi, 1)[0] for esi in (0, 9, 10, 100)
    ),
}


def main() -> None:
    """Print the vectors as JSON."""
    json.dump({name: make().hex() for name, make in VECTORS.items()}, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
