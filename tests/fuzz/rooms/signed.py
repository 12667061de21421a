"""What is signed: metadata and its roles, roots, commands, messages; with signatures in force, and behind them."""

import contextlib
import hashlib
import json
from datetime import UTC, datetime
from typing import Any

import msgpack
import zstandard
from tuf.api.metadata import Snapshot, Targets, Timestamp

from onboard.commands import parse_question
from onboard.errors import OnboardError
from protocol import metadata
from protocol.arming import Armed, ArmedClock, check_fire, intent_digest, read_arm
from protocol.command import Command, Operation
from protocol.damage import DamageReport
from protocol.errors import DecodeError, ProtocolError
from protocol.manifest import Manifest
from protocol.message import Message, MessageKind
from protocol.metadata import MetadataBundle
from protocol.metadata_packing import Known, expires_s_of, pack_text, unpack_text
from protocol.objects import PREFIX_SIZE, ObjectKind, object_prefix
from protocol.receipt import SignedReceipt, open_receipt
from protocol.roots import command_keys, follow_roots, parse_metadata, read_root, second_root_role
from protocol.sealed_metadata import open_metadata
from protocol.trust import TrustState, accept_metadata
from tests.fakes.updates import FakeGround
from tests.fuzz import good
from tests.fuzz.behind import enveloped, without_envelope_signatures, without_role_signatures
from tests.fuzz.target import Form, Target
from tests.vectors import make

_PROTOCOL = (ProtocolError,)
_NOW = datetime(2030, 1, 1, tzinfo=UTC)
_GROUND = FakeGround()
_UPDATE = _GROUND.make_update({"config.json": b"{}", "model.bin": bytes(9000)})
_BUNDLE = MetadataBundle.decode(_UPDATE.metadata)
_NEXT_ROOT = FakeGround(root_version=2).root
_STATE = TrustState(root=_GROUND.root, root_version=1, accepted=0)
_ARMED = Armed(
    counter=make.FIRE.arm,
    intent=intent_digest(make.FIRE.satellite, make.FIRE.operation, make.FIRE.args),
    nonce=make.FIRE.nonce,
    boot=1,
)
_CLOCK = ArmedClock(boot=1, age_s=1.0, expires_s=60.0)
_COMPRESSOR = zstandard.ZstdCompressor(level=1, dict_data=metadata._DICTIONARY)


@without_envelope_signatures
def _command(data: bytes) -> None:
    command = Command.open(enveloped(ObjectKind.COMMAND, data), public_keys=make.KEYS, satellite="SAT-1")
    if command.operation is Operation.ASK:
        parse_question(command.args)
    if command.operation is Operation.ARM:
        read_arm(command.args)
    if command.arm:
        check_fire(command, (_ARMED,), clock=_CLOCK, may_be_blind=False)


@without_envelope_signatures
def _message(data: bytes) -> None:
    message = Message.open(enveloped(ObjectKind.MESSAGE, data), public_keys=make.KEYS)
    if message.kind is MessageKind.DAMAGE:
        DamageReport.from_body(message.body)
    if message.kind is MessageKind.RECEIPT:
        SignedReceipt.of_message(message)


def _sealed_metadata(data: bytes) -> None:
    """Behind the magic of a seal."""
    whole = object_prefix(ObjectKind.METADATA, PREFIX_SIZE + 4 + len(data)) + b"SKE1" + data
    open_metadata(whole, good.SEAL_KEY, satellite="SAT-1")


def _unpacked_metadata(data: bytes) -> None:
    """Behind prefix and compression."""
    body = _COMPRESSOR.compress(data)
    MetadataBundle.decode(object_prefix(ObjectKind.METADATA, PREFIX_SIZE + len(body)) + body)


def _accept(data: bytes) -> None:
    """The roles of an update as one JSON object. Each names the one below it by length and hash: kept right."""
    try:
        roles = json.loads(data)
        below, packed = _BUNDLE.manifest, {"roots": [], "number": 1, "expires": 0, "manifest": _BUNDLE.manifest}
        for name, path, seed in _CHAIN:
            text = _text_of(roles[name], path, seed, below)
            packed[name] = pack_text(text, Known(named=below, number=1))
            below = text
        body = _COMPRESSOR.compress(msgpack.packb(packed))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise DecodeError("not a case: it cannot be written") from None
    whole = object_prefix(ObjectKind.METADATA, PREFIX_SIZE + len(body)) + body
    accept_metadata(whole, _STATE, satellite="SAT-1", utc=_NOW)


def _text_of(role: Any, path: tuple[str, str], below_before: bytes, below: bytes) -> bytes:
    with contextlib.suppress(KeyError, TypeError):
        named = role["signed"][path[0]][path[1]]
        if named["length"] == len(below_before):
            named["length"] = len(below)
    before, now = (hashlib.sha256(each).hexdigest() for each in (below_before, below))
    return json.dumps(role, separators=(",", ":")).replace(before, now).encode()


_KNOWN = Known(named=_BUNDLE.snapshot, number=1, expires_s=expires_s_of(_BUNDLE.timestamp))
_PARTS = ("timestamp", "snapshot", "targets", "manifest", "roots")
_CHAIN = (  # from the lowest up: what it is, where it names the one below it, and that one as it was
    ("targets", ("targets", "updates/1.manifest"), _BUNDLE.manifest),
    ("snapshot", ("meta", "targets.json"), _BUNDLE.targets),
    ("timestamp", ("meta", "snapshot.json"), _BUNDLE.snapshot),
)


def _roles(data: bytes) -> None:
    """One role's bytes, whichever they are."""
    refused = 0
    for kind in (Timestamp, Snapshot, Targets):
        try:
            parse_metadata(kind, data)
        except DecodeError:
            refused += 1
    if refused == 3:
        raise DecodeError("refused")


def _root(data: bytes) -> None:
    root = read_root(data)
    second_root_role(root.root)
    command_keys(data)


def _signed_trust(data: bytes) -> None:
    accept_metadata(data, _STATE, satellite="SAT-1", utc=_NOW)


_SEALED_COMMAND = make.FIRE.seal(public_key=make.PUBLIC_KEY, sign=make.SIGNER.sign)
_SEALED_RECEIPT = make.RECEIPT.seal(public_key=make.PUBLIC_KEY, sign=make.SIGNER.sign)
_ROLES = {name: json.loads(getattr(_BUNDLE, name)) for name in _PARTS[:3]}

TARGETS: dict[str, Target] = {
    "metadata": Target(parse=MetadataBundle.decode, refusals=(DecodeError,), seeds=[make.METADATA.encode()]),
    "metadata-unpacked": Target(
        parse=_unpacked_metadata,
        refusals=(DecodeError,),
        seeds=[
            msgpack.packb(
                {
                    "roots": [pack_text(_NEXT_ROOT)],
                    "number": 1,
                    "expires": 1_800_000_000,
                    "manifest": b"manifest",
                    **dict.fromkeys(_PARTS[:3], b"{\x00\x01\x00\x02\x00\x03\x00\x04}"),
                }
            ),
            msgpack.packb({"roots": [pack_text(_NEXT_ROOT)], "label": "spare"}),
        ],
        form=Form.MSGPACK,
    ),
    "metadata-text": Target(
        parse=lambda data: unpack_text(data, _KNOWN, size_max=1 << 16),
        refusals=(DecodeError,),
        seeds=[pack_text(_BUNDLE.timestamp, _KNOWN), pack_text(_NEXT_ROOT)],
    ),
    "metadata-sealed": Target(parse=_sealed_metadata, refusals=_PROTOCOL, seeds=good.SEALS, size_max=1 << 14),
    "trust": Target(parse=_signed_trust, refusals=_PROTOCOL, seeds=[_UPDATE.metadata], size_max=1 << 14),
    "trust-behind": Target(
        parse=without_role_signatures(_accept),
        refusals=_PROTOCOL,
        seeds=[json.dumps(_ROLES).encode()],
        form=Form.JSON,
        size_max=1 << 14,
    ),
    "roles": Target(
        parse=_roles,
        refusals=(DecodeError,),
        seeds=[_BUNDLE.timestamp, _BUNDLE.snapshot, _BUNDLE.targets],
        form=Form.JSON,
        size_max=1 << 14,
    ),
    "root": Target(parse=_root, refusals=_PROTOCOL, seeds=good.ROOTS, form=Form.JSON, size_max=1 << 14),
    "roots-chain": Target(
        parse=without_role_signatures(lambda data: follow_roots([data], _GROUND.root)),
        refusals=_PROTOCOL,
        seeds=[_NEXT_ROOT],
        form=Form.JSON,
        size_max=1 << 14,
    ),
    "manifest": Target(
        parse=Manifest.decode,
        refusals=(DecodeError,),
        seeds=[make.VECTORS["manifest"](), make.VECTORS["manifest judged"]()],
        form=Form.MSGPACK,
    ),
    "command": Target(parse=_command, refusals=(ProtocolError, OnboardError), seeds=good.COMMANDS, form=Form.MSGPACK),
    "command-signed": Target(
        parse=lambda data: Command.open(data, public_keys=make.KEYS, satellite="SAT-1"),
        refusals=_PROTOCOL,
        seeds=[_SEALED_COMMAND],
    ),
    "message": Target(parse=_message, refusals=_PROTOCOL, seeds=good.MESSAGES, form=Form.MSGPACK),
    "receipt-signed": Target(
        parse=lambda data: open_receipt(data, public_key=make.PUBLIC_KEY, satellite="SAT-1"),
        refusals=_PROTOCOL,
        seeds=[_SEALED_RECEIPT],
    ),
}
