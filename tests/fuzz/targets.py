"""All parsers under attack, by name. What checks a sum or a signature first is attacked behind it: sealed afresh."""

import atexit
import shutil
import tempfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import yaml

from groundsegment.emulator.profile import parse_profile, profile_names, profile_text
from groundsegment.errors import GroundError
from groundsegment.models.gguf_file import read_gguf
from groundsegment.models.safetensors_file import read_header
from groundsegment.planner.contact_plan import parse_contact_plan
from groundsegment.stations import letters, logbook, orders
from groundsegment.stations.letters import LetterKind
from onboard.commands import parse_question
from onboard.config import parse_config
from onboard.errors import OnboardError
from onboard.inference.engine import Prompt, RequestError, SeamError, decode_line, sampling_from
from onboard.inference.openai_api import ApiError, ApiLimits, parse_ask
from onboard.scrub.guard import GuardHead
from onboard.scrub.ledger import Ledger
from onboard.store.facts import OnboardRecord
from onboard.store.shape import ObjectShape
from protocol.adapters import base_note, header
from protocol.adapters.config import LoraConfig
from protocol.adapters.errors import AdapterError
from protocol.arming import read_arm
from protocol.bundle import BundleHeader
from protocol.codec.rebuild import rebuild
from protocol.command import Command, Operation
from protocol.damage import DamageReport
from protocol.envelope import key_id
from protocol.errors import DecodeError, ProtocolError
from protocol.file_names import claimed_handle
from protocol.frame import FrameCodec
from protocol.link_keys import Direction
from protocol.manifest import Manifest
from protocol.message import Message, MessageKind
from protocol.metadata import MetadataBundle
from protocol.objects import PREFIX_SIZE, ObjectKind, object_prefix
from protocol.receipt import SignedReceipt
from protocol.report import Report
from protocol.roots import read_root
from protocol.sealed_metadata import open_metadata
from protocol.segment import SegmentRow
from tests.fuzz import good
from tests.fuzz.target import Form, Target
from tests.vectors import make, make_codec

_CODEC = tuple(make_codec.read((Path(make_codec.__file__).parent / "codec.json").read_text()).values())
_HOME = Path(tempfile.mkdtemp(prefix="skyload-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)


def _sealed(kind: ObjectKind, statement: bytes) -> bytes:
    """A statement in an envelope with a good signature: what only a key's holder can send, and a fool may."""
    signature = make.SIGNER.sign(b"skyload v1 " + kind.value + b"\0" + statement)
    size = PREFIX_SIZE + 72 + len(statement)
    return object_prefix(kind, size) + key_id(make.PUBLIC_KEY) + signature + statement


def _command(data: bytes) -> None:
    command = Command.open(_sealed(ObjectKind.COMMAND, data), public_keys=make.KEYS, satellite="SAT-1")
    if command.operation is Operation.ASK:
        parse_question(command.args)
    if command.operation is Operation.ARM:
        read_arm(command.args)


def _message(data: bytes) -> None:
    message = Message.open(_sealed(ObjectKind.MESSAGE, data), public_keys=make.KEYS)
    if message.kind is MessageKind.DAMAGE:
        DamageReport.from_body(message.body)
    if message.kind is MessageKind.RECEIPT:
        SignedReceipt.of_message(message)


def _sealed_metadata(data: bytes) -> None:
    """Behind the magic of a seal, and with a key of ours in it where the input has one."""
    whole = object_prefix(ObjectKind.METADATA, PREFIX_SIZE + 4 + len(data)) + b"SKE1" + data
    open_metadata(whole, good.SEAL_KEY, satellite="SAT-1")


def _letter(kind: LetterKind, read: Callable[[bytes, bytes], object]) -> Callable[[bytes], None]:
    def parse(data: bytes) -> None:
        mac = letters._mac(kind, make.STATION_KEY, data)
        read(f"{letters._MAGIC} {kind} {mac}\n".encode() + data, make.STATION_KEY)

    return parse


def _summed_frame(data: bytes) -> None:
    FrameCodec(Direction.UP, None).decode(data + zlib.crc32(data).to_bytes(4, "big"))


def _codec(data: bytes) -> None:
    """The first byte chooses the segment whose base it is decoded against."""
    golden = _CODEC[data[0] % len(_CODEC)] if data else _CODEC[0]

    def read_base(file: int, offset: int, size: int) -> bytes:
        found = golden.base[offset : offset + size]
        if file or len(found) != size:
            raise DecodeError("the base has no such bytes")
        return found

    rebuild(data[1:], sum(len(run) for _, run in golden.runs), read_base)


class _Bytes:
    """A source of an adapter's bytes, as the installer's files are."""

    def __init__(self, data: bytes) -> None:
        self._data, self.size_bytes = data, len(data)

    def read(self, offset: int, size: int) -> bytes:
        """Some of them."""
        return self._data[offset : offset + size]


def _in_file(read: Callable[[Path], object]) -> Callable[[bytes], None]:
    def parse(data: bytes) -> None:
        path = _HOME / "input"
        path.write_bytes(data)
        read(path)

    return parse


def _seam(data: bytes) -> None:
    message = decode_line(data)
    Prompt.from_json(message)
    sampling_from(message)


def _plan(data: bytes) -> None:
    try:
        content = yaml.safe_load(data.decode())
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError):
        return
    plan = parse_contact_plan(content, name="plan", source="plan.yaml", now_s=0.0)
    for _, contact in zip(range(3), plan.from_time(0.0), strict=False):
        str(contact)


def _names(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    ObjectShape.parse(text)
    claimed_handle(text)


def _vector(name: str) -> bytes:
    return make.VECTORS[name]()


_DECODE = (DecodeError,)
TARGETS: dict[str, Target] = {
    "frame": Target(
        parse=FrameCodec(Direction.UP, make.LINK_KEY).decode, refusals=_DECODE, seeds=good.FRAMES, size_max=1600
    ),
    "frame-crc": Target(parse=_summed_frame, refusals=_DECODE, seeds=[_vector("frame up crc")[:-4]], size_max=1600),
    "report": Target(parse=Report.decode, refusals=_DECODE, seeds=[_vector("report")], size_max=1500),
    "metadata": Target(parse=MetadataBundle.decode, refusals=_DECODE, seeds=[make.METADATA.encode()]),
    "metadata-sealed": Target(
        parse=_sealed_metadata, refusals=(ProtocolError,), seeds=good.SEALS, form=Form.MSGPACK, size_max=1 << 14
    ),
    "root": Target(parse=read_root, refusals=(ProtocolError,), seeds=good.ROOTS, form=Form.JSON, size_max=1 << 14),
    "manifest": Target(
        parse=Manifest.decode,
        refusals=_DECODE,
        seeds=[_vector("manifest"), _vector("manifest judged")],
        form=Form.MSGPACK,
    ),
    "command": Target(parse=_command, refusals=(ProtocolError, OnboardError), seeds=good.COMMANDS, form=Form.MSGPACK),
    "message": Target(parse=_message, refusals=(ProtocolError,), seeds=good.MESSAGES, form=Form.MSGPACK),
    "bundle": Target(parse=BundleHeader.decode, refusals=_DECODE, seeds=[_vector("bundle head")]),
    "segment-row": Target(parse=SegmentRow.decode, refusals=_DECODE, seeds=[_vector("segment row")], size_max=64),
    "codec": Target(
        parse=_codec,
        refusals=_DECODE,
        seeds=[bytes([number]) + each.payload for number, each in enumerate(_CODEC)],
        size_max=1 << 16,
    ),
    "adapter-config": Target(
        parse=LoraConfig.decode, refusals=(AdapterError,), seeds=good.ADAPTER_CONFIGS, form=Form.JSON
    ),
    "adapter-header": Target(
        parse=lambda data: header.read_tensors(_Bytes(data), "adapter"),
        refusals=(AdapterError,),
        seeds=good.SAFETENSORS,
    ),
    "base-note": Target(parse=base_note.decode, refusals=(AdapterError,), seeds=[base_note.encode(b"\x11" * 32)]),
    "record": Target(parse=OnboardRecord.decode, refusals=_DECODE, seeds=good.RECORDS, form=Form.MSGPACK),
    "guard": Target(parse=GuardHead.decode, refusals=_DECODE, seeds=good.GUARDS, form=Form.MSGPACK),
    "ledger": Target(parse=Ledger.decode, refusals=_DECODE, seeds=[Ledger().encode()], form=Form.MSGPACK),
    "names": Target(parse=_names, refusals=(), seeds=good.NAMES, form=Form.TEXT, size_max=300),
    "config": Target(
        parse=lambda data: parse_config(data.decode("utf-8", "replace"), path=Path("config.toml")),
        refusals=(OnboardError,),
        seeds=good.CONFIGS,
        form=Form.TEXT,
    ),
    "chat": Target(
        parse=partial(parse_ask, is_chat=True, limits=ApiLimits()),
        refusals=(ApiError,),
        seeds=good.CHATS,
        form=Form.JSON,
    ),
    "completion": Target(
        parse=partial(parse_ask, is_chat=False, limits=ApiLimits()),
        refusals=(ApiError,),
        seeds=good.COMPLETIONS,
        form=Form.JSON,
    ),
    "seam": Target(parse=_seam, refusals=(SeamError, RequestError), seeds=good.SEAM_LINES, form=Form.JSON),
    "safetensors": Target(parse=_in_file(read_header), refusals=(GroundError,), seeds=good.SAFETENSORS),
    "gguf": Target(parse=_in_file(read_gguf), refusals=(GroundError,), seeds=good.GGUFS),
    "contact-plan": Target(parse=_plan, refusals=(GroundError,), seeds=good.CONTACT_PLANS, form=Form.TEXT),
    "link-profile": Target(
        parse=lambda data: parse_profile(data.decode("utf-8", "replace"), name="link", source="link.yaml"),
        refusals=(GroundError,),
        seeds=[profile_text(name).encode() for name in profile_names()],
        form=Form.TEXT,
    ),
    "orders": Target(
        parse=_letter(LetterKind.ORDERS, orders.Orders.open),
        refusals=(GroundError,),
        seeds=good.ORDERS_LETTERS,
        form=Form.JSON,
    ),
    "logbook": Target(
        parse=_letter(LetterKind.LOGBOOK, logbook.Logbook.open),
        refusals=(GroundError,),
        seeds=good.LOGBOOKS,
        form=Form.JSON,
    ),
}

# What is attacked together under guidance: the first byte of an input chooses among a room's parsers.
ROOMS: dict[str, tuple[str, ...]] = {
    "link": ("frame", "frame-crc", "report", "names"),
    "signed": ("metadata", "metadata-sealed", "root", "manifest", "command", "message"),
    "bundles": ("bundle", "segment-row", "codec"),
    "models": ("adapter-config", "adapter-header", "base-note", "safetensors", "gguf"),
    "memory": ("record", "guard", "ledger", "config"),
    "people": ("chat", "completion", "seam", "contact-plan", "link-profile", "orders", "logbook"),
}
