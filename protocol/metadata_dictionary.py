"""What zstd knows of a metadata object before it begins: all of a usual update, with zeros for what nobody can know.

It is laid out as an update is packed (`metadata`, `metadata_packing`), so what is usual is one long match from one gap
to the next, at the same distance each time. Changing a byte of it changes the format.
"""

import hashlib
from functools import partial
from typing import Any

from protocol.metadata_packing import Known, pack_text
from protocol.packing import pack_map

_KEY_ID, _SIGNATURE, _NONCE = "00" * 32, "00" * 64, "00" * 12
_DIGEST = bytes(32)
_WRAPPED_KEY = bytes(80)
_EXPIRES_S = 1_800_000_000
_ANSWER = bytes(36)  # 16 tokens
_SATELLITE = "SAT-1"
_PROMPTS = (
    "Write one sentence about the sea.",
    "Name three colours.",
    "Count from one to ten.",
    "What is the capital of France?",
)
_RARE_FILES = (
    *("added_tokens.json", "adapter_config.json", "adapter_model.safetensors", "chat_template.jinja", "model.gguf"),
    *("model-00001-of-00002.safetensors", "model.safetensors.index.json", "skyload_adapter.json", "tokenizer.model"),
)
_FILES = (
    *("config.json", "generation_config.json", "merges.txt", "model.safetensors"),
    *("special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "vocab.json"),
)
_SIZE = 2**16  # packed in five bytes, as the size of most files is


def _role(name: str, fields: str) -> bytes:
    signatures = f'{{"signatures":[{{"keyid":"{_KEY_ID}","sig":"{_SIGNATURE}"}}]'
    return f'{signatures},"signed":{{"_type":"{name}","expires":"2027-01-15T08:00:00Z",{fields}}}}}'.encode()


def _hashes(named: bytes) -> str:
    return f'{{"hashes":{{"sha256":"{hashlib.sha256(named).hexdigest()}"}},"length":{len(named)}'


def _usual() -> dict[str, Any]:
    manifest = pack_map(_manifest())
    specification = '"spec_version":"1.0.31"'
    targets = _role("targets", f'{specification},"targets":{{"updates/1.manifest":{_hashes(manifest)}}}}},"version":1')
    snapshot = _role(
        "snapshot", f'"meta":{{"targets.json":{_hashes(targets)},"version":1}}}},{specification},"version":1'
    )
    timestamp = _role(
        "timestamp",
        f'"meta":{{"snapshot.json":{_hashes(snapshot)},"version":1}}}},{specification},"version":1,'
        f'"x-skyload-nonce":"{_NONCE}"',
    )
    known = partial(Known, number=1, expires_s=_EXPIRES_S)
    return {
        "roots": [],
        "number": 1,
        "expires": _EXPIRES_S,
        "manifest": manifest,
        "targets": pack_text(targets, known(named=manifest)),
        "snapshot": pack_text(snapshot, known(named=targets)),
        "timestamp": pack_text(timestamp, known(named=snapshot)),
    }


def _manifest() -> dict[str, Any]:
    return {
        "v": 1,
        "sequence": 1,
        "satellites": [_SATELLITE],
        "release": {"name": "model", "digest": _DIGEST, "files": [[name, _SIZE] for name in _FILES]},
        "base": None,
        "bundles": [[20_480_000, bytes(16), 700]],
        "keys": {_SATELLITE: _WRAPPED_KEY},
        "floor": 0,
        "beside": False,
        "engine": {"format": "huggingface", "memory_bytes": 0},
        "canary": {
            "max_tokens": 16,
            "timeout_s": 600,
            "agreement_permille": 1000,
            "prompts": [[text, _ANSWER] for text in _PROMPTS],
        },
    }


_RARE = {
    "files": [[name, _SIZE] for name in _RARE_FILES],
    "hold": True,
    "engine": {"format": "gguf"},
    "adapter": {"how": "beside", "rule": 1, "files": [], "digest": None},
    "adapter ": {"how": "merge", "rule": 1, "files": [["adapter_config.json", 0]], "digest": _DIGEST},
    "quality": {"text": _DIGEST, "tokens": 1000, "perplexity": 10_000, "reference": [10_000, 10_000]},
}
DICTIONARY = pack_map(_RARE) + pack_map(_usual())
