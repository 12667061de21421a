"""Good input for every parser: what the mutator starts from."""

import json
import struct
from dataclasses import replace
from pathlib import Path

import msgpack

from groundsegment.signer.kit import config_text
from onboard.scrub.damage import Flip
from onboard.scrub.guard import GuardHead
from onboard.scrub.ledger import Entry, Ledger
from onboard.store.facts import KnownRelease, OnboardRecord, RecordedUpdate
from onboard.store.shape import ObjectShape
from protocol.arming import Armed, arm_args
from protocol.command import Operation
from protocol.damage import LostRange
from protocol.frame import FrameCodec, FrameKind
from protocol.link_keys import Direction
from protocol.message import MessageKind
from protocol.objects import PREFIX_SIZE
from protocol.report import Reason, UpdateState
from tests.fakes.updates import FakeGround
from tests.unit.groundsegment.test_station_letters import KEY, LOGBOOK, ORDERS
from tests.vectors import make

_CODEC = FrameCodec(Direction.UP, make.LINK_KEY)
FRAMES = [_CODEC.encode(make.FRAME), _CODEC.encode(make.SHORT_FRAME, is_short=True)]
ROOTS = [FakeGround().root]

MANIFESTS = [make.MANIFEST.encode(), make.JUDGED.encode()]
_SAID = {"v": 1, "satellite": "SAT-1", "counter": 5}
_QUESTION = {"messages": [{"role": "user", "content": "Where?"}], "max_tokens": 8, "temperature_milli": 0, "seed": 1}
_TOLD = {"digest": b"\x11" * 32, "update": make.HANDLE, "station": 3, "generation": 2, "now": True}
COMMANDS = [
    msgpack.packb({**_SAID, "op": operation.value, "args": _QUESTION if operation is Operation.ASK else _TOLD})
    for operation in Operation
    if operation is not Operation.ARM
]


def signed_message() -> bytes:
    """A message object, with its signature."""
    return make.MESSAGE.seal(public_key=make.PUBLIC_KEY, sign=make.SIGNER.sign)


_DAMAGE = {"release": b"\x11" * 32, "lost": [[0, 4096, 4096], [1, 0, 8]], "is_all": True}
MESSAGES = [
    msgpack.packb({**_SAID, "kind": kind.value, "re": make.HANDLE, "body": _DAMAGE})
    for kind in MessageKind
    if kind is not MessageKind.RECEIPT
]
MESSAGES.append(make.RECEIPT.seal(public_key=make.PUBLIC_KEY, sign=make.SIGNER.sign)[PREFIX_SIZE + 72 :])
COMMANDS += [
    command.seal(public_key=make.PUBLIC_KEY, sign=make.SIGNER.sign)[PREFIX_SIZE + 72 :]
    for command in (
        make.FIRE,
        replace(make.COMMAND, operation=Operation.ARM, args=arm_args("SAT-1", Operation.REVERT, make.FIRE.args)),
    )
]
SEAL_KEY = bytes(range(32))
SEALS = [
    bytes.fromhex(json.loads((Path(make.__file__).parent / "sealed.json").read_text())["x25519"])[PREFIX_SIZE + 4 :]
]
_UPDATE = RecordedUpdate(
    handle=make.HANDLE, version=5, sequence=7, release=b"\x22" * 32, state=UpdateState.RECEIVING, reason=Reason.NONE
)
RECORDS = [
    OnboardRecord().encode(),
    OnboardRecord(
        accepted=5,
        armed=(Armed(counter=8, intent=b"\x33" * 32, nonce=bytes(16), boot=1),),
        current=b"\x11" * 32,
        golden=b"\x11" * 32,
        releases=(KnownRelease(digest=b"\x11" * 32, name="tiny", sequence=6),),
        pending=(_UPDATE,),
        ended=(replace(_UPDATE, handle=bytes(6)),),
        root_digest=b"\x44" * 32,
        nonces=(bytes(12),),
    )
    .with_rejected(b"\x01" * 6, Reason.NONE)
    .encode(),
]
_FLIP = Flip(file="model.safetensors", offset=4096, num_bits=2, bits=(32769, 32770), is_repaired=True)
LEDGERS = [
    Ledger().encode(),
    Ledger(
        num_found=3,
        entries=(Entry(release=bytes(8), flip=_FLIP, boot=2, uptime_s=9),),
        lost=((b"\x11" * 32, (LostRange(file=0, offset=4096, size=4096),)),),
        release=b"\x11" * 32,
        cell=7,
    ).encode(),
]
GUARDS = [GuardHead(digest=make.MANIFEST.release_digest, files=make.FILES, num_listed=len(make.FILES)).encode()]
SHAPE = ObjectShape(handle=make.HANDLE, kind=FrameKind.RAPTORQ, num_symbols=1000, symbol_size=64)
NAMES = [
    SHAPE.directory_name.encode(),
    b"u0007-010203040506-b0003-0a0b0c0d0e0f.skb",
    b"message-010203040506.ska",
]
CONFIGS = [config_text("SAT-1").encode()]
CHATS = [
    json.dumps(
        {
            "model": "m", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 5, "temperature": 0.5,
            "top_p": 1, "seed": 7, "stop": ["."], "stream": True, "stream_options": {"include_usage": True}, "n": 1,
        }
    ).encode()
]  # fmt: skip
COMPLETIONS = [b'{"prompt": "hello", "max_tokens": 5, "stop": "."}', b'{"prompt": ["hello"], "echo": false}']
SEAM_LINES = [
    b'{"type": "generate", "id": "r1", "messages": [{"role": "user", "content": "x"}], "max_tokens": 3, "stop": ["a"]}',
    b'{"type": "generate", "id": "r1", "tokens": [1, 2], "max_tokens": 3, "seed": 4, "top_p": 0.5, "is_plain": true}',
]
ADAPTER_CONFIGS = [
    json.dumps({"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"], "bias": "none"}).encode()
]


_ENTRIES = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]},
    "b": {"dtype": "I8", "shape": [3], "data_offsets": [8, 11]},
    "c": {"dtype": "F32", "shape": [], "data_offsets": [11, 15]},
}
SAFETENSORS_TEXT = json.dumps(_ENTRIES, separators=(",", ":")).encode()
SAFETENSORS = [struct.pack("<Q", len(SAFETENSORS_TEXT)) + SAFETENSORS_TEXT + bytes(15)]
_QUANTIZATION = {
    "quant_method": "compressed-tensors",
    "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}}},
}
MODEL_FILES = {
    "config.json": json.dumps(
        {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4, "torch_dtype": "bfloat16",
            "quantization_config": _QUANTIZATION,
        }
    ).encode(),
    "model.safetensors": SAFETENSORS[0],
    "model.safetensors.index.json": json.dumps(
        {"metadata": {"total_size": 15}, "weight_map": dict.fromkeys("abc", "model.safetensors")}
    ).encode(),
    "tokenizer.json": b"{}",
}  # fmt: skip


def _gguf() -> bytes:
    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    keys = [
        text("general.architecture") + struct.pack("<I", 8) + text("llama"),
        text("general.alignment") + struct.pack("<II", 4, 32),
        text("tokens") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("b"),
    ]
    tensor = text("w") + struct.pack("<IQQIQ", 2, 32, 1, 8, 0)
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, len(keys)) + b"".join(keys) + tensor
    return head + bytes(-len(head) % 32) + bytes(64)


GGUFS = [_gguf()]
CONTACT_PLANS = [
    b"epoch: 2030-01-01T00:00:00Z\nrate: 1Mbit/s\nloss: 5%\nguard_s: 1\nstations:\n  oslo: {rate: 2Mbit/s}\n"
    b"contacts:\n- {start_s: 0, end_s: 480, station: oslo}\n- {start_s: 5400, end_s: 5900, rate: 1Mbit/s, loss: 0.1}\n"
    b"- {start: 2030-01-01T03:00:00Z, end: 2030-01-01T03:08:00Z, station: oslo}\n"
]
ORDERS_LETTERS = [ORDERS.seal(KEY).split(b"\n", 1)[1], replace(ORDERS, contacts=None).seal(KEY).split(b"\n", 1)[1]]
LOGBOOKS = [LOGBOOK.seal(KEY).split(b"\n", 1)[1]]
