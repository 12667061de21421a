"""What trust costs on the link and on board: bytes of an update's metadata, and time to open and verify it.

The keys are made as `skyload keys init` makes them, the metadata as `skyload stage` does: sealed, with a nonce to echo.
Time is CPU time, the median of many; nothing is kept between two, as after a restart.
"""

import math
import secrets
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from bench.results import markdown_table
from groundsegment.signer.key_store import KeyStore
from groundsegment.signer.rotation import commit, prepare, sign_here
from groundsegment.signer.signing import create_trust, make_rotations, sign_update
from protocol.canary import Canary, CanaryPrompt
from protocol.manifest import BundleEntry, Manifest, SizedFile
from protocol.metadata import MetadataBundle
from protocol.report import FRESHNESS_SIZE
from protocol.sealed_metadata import open_metadata, seal_metadata
from protocol.trust import TrustState, accept_metadata

SATELLITE = "SAT-1"
RUNS = 100
_NOW = datetime(2026, 11, 22, 9, 41, 27, tzinfo=UTC)
_MISSED = 3
_SMALLEST = {"config.json": 726, "model.safetensors": 20_000_000}
# Their files: SmolLM2 in int8, as `make demo` flies it, Qwen3 in int4.
_SMOLLM2 = {
    "config.json": 861,
    "generation_config.json": 132,
    "merges.txt": 466_391,
    "model.safetensors": 161_512_448,
    "special_tokens_map.json": 655,
    "tokenizer.json": 2_104_556,
    "tokenizer_config.json": 3_764,
    "vocab.json": 800_662,
}
_QWEN3 = {
    "config.json": 726,
    "generation_config.json": 239,
    "merges.txt": 1_671_853,
    "model.safetensors": 347_812_944,
    "special_tokens_map.json": 613,
    "tokenizer.json": 11_422_654,
    "tokenizer_config.json": 9_732,
    "vocab.json": 2_776_833,
}
# What flies: the row's name, files, words that the model knows, whether it builds on a release, bundles.
_TYPICAL = (
    ("SmolLM2-135M whole: 8 files, a canary, 7 bundles", _SMOLLM2, 49_152, False, 7),
    ("Qwen3-0.6B, what has changed: 8 files, a canary, 3 bundles", _QWEN3, 151_936, True, 3),
)
_LARGE = ("Qwen3-0.6B whole: 8 files, a canary, 17 bundles", _QWEN3, 151_936, False, 17)
_BUNDLE_BYTES, _BUNDLE_SEGMENTS = 20_480_000, 700  # of a bundle that is full, and some less
# As `skyload stage` asks by default, with an answer of 16 tokens to each.
_PROMPTS = (
    *("What is the capital of France?", "Count from one to ten."),
    *("Name three colours.", "Write one sentence about the sea."),
)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one object."""

    name: str
    size_bytes: int
    verify_ms: float


def measure(every: int) -> tuple[str, dict[str, float]]:
    """Return a table and the figures; `every` leaves runs out."""
    runs = max(RUNS // every, 10)
    with tempfile.TemporaryDirectory(prefix="skyload-bench-") as directory:
        costs = [
            *_costs(Path(directory) / "plain", runs, is_post_quantum=False),
            *_costs(Path(directory) / "hybrid", runs, is_post_quantum=True),
        ]
    typical = [cost for cost in costs if cost.name in {name for name, *_ in _TYPICAL}]
    rows = [
        [cost.name, cost.size_bytes, "" if math.isnan(cost.verify_ms) else f"{cost.verify_ms:.2f}"] for cost in costs
    ]
    table = markdown_table(["object", "bytes", "open and verify, ms of CPU"], rows)
    return table, {
        "metadata_bytes": max(cost.size_bytes for cost in typical),
        "verify_ms": round(max(cost.verify_ms for cost in typical), 2),
    }


def _costs(directory: Path, runs: int, *, is_post_quantum: bool) -> list[Cost]:
    store, private = KeyStore(directory), X25519PrivateKey.generate()
    first = create_trust(store, utc=_NOW, is_post_quantum=is_post_quantum)
    key, public = private.private_bytes_raw(), private.public_key().public_bytes_raw()

    def update(root_version: int | None, manifest: bytes | None = None) -> bytes:
        manifest, nonce = manifest or _manifest(_SMALLEST), secrets.token_bytes(FRESHNESS_SIZE)
        data = sign_update(store, manifest, utc=_NOW, root_version=root_version, nonce=nonce)
        return seal_metadata(data, public, satellite=SATELLITE)

    kind = "hybrid" if is_post_quantum else "Ed25519"
    smallest = update(None)
    costs = [_cost(f"an update, {kind} roots", smallest, key, store.root(), runs)]
    if not is_post_quantum:
        bundle = MetadataBundle.decode(open_metadata(smallest, key, satellite=SATELLITE))
        roles = len(replace(bundle, manifest=b"").encode())
        costs.append(Cost(name="of it TUF's targets, snapshot and timestamp", size_bytes=roles, verify_ms=math.nan))
        for name, sizes, num_words, has_base, num_bundles in (*_TYPICAL, _LARGE):
            canary = Canary(prompts=tuple(_answered(text, num_words) for text in _PROMPTS))
            base = secrets.token_bytes(32) if has_base else None
            manifest = _manifest(sizes, canary, base=base, num_bundles=num_bundles)
            costs.append(_cost(name, update(None, manifest), key, store.root(), runs))
    for _ in range(_MISSED):
        prepare(store, ["timestamp", "snapshot", "targets"], is_leaked=False, floor=0, utc=_NOW)
        sign_here(store)
        commit(store)
    costs.append(_cost(f"an update, {_MISSED} missed {kind} roots", update(1), key, first, runs))
    (rotation,) = make_rotations(store, 1)
    costs.append(_cost(f"a rotation, {_MISSED} missed {kind} roots", rotation, key, first, runs))
    return costs


def _cost(name: str, data: bytes, key: bytes, root: bytes, runs: int) -> Cost:
    state = TrustState(root=root, accepted=0)

    def accept() -> None:
        accept_metadata(open_metadata(data, key, satellite=SATELLITE), state, satellite=SATELLITE, utc=_NOW)

    return Cost(name=name, size_bytes=len(data), verify_ms=statistics.median(_ms(accept) for _ in range(runs)))


def _ms(work: Callable[[], None]) -> float:
    begun_s = time.process_time()
    work()
    return 1000 * (time.process_time() - begun_s)


def _manifest(
    sizes: Mapping[str, int], canary: Canary | None = None, *, base: bytes | None = None, num_bundles: int = 1
) -> bytes:
    """Of a model, as compressible as digests and keys are."""
    files = tuple(SizedFile(name=name, size_bytes=size) for name, size in sizes.items())
    return Manifest(
        sequence=7,
        satellites=(SATELLITE,),
        release_name="model",
        release_digest=secrets.token_bytes(32),
        files=files,
        base=base,
        bundles=tuple(_bundle() for _ in range(num_bundles)),
        keys={SATELLITE: secrets.token_bytes(80)},
        canary=canary or Canary(),
    ).encode()


def _bundle() -> BundleEntry:
    return BundleEntry(
        size_bytes=_BUNDLE_BYTES - secrets.randbelow(_BUNDLE_BYTES // 10),
        digest=secrets.token_bytes(16),
        num_segments=_BUNDLE_SEGMENTS - secrets.randbelow(_BUNDLE_SEGMENTS // 10),
    )


def _answered(text: str, num_words: int) -> CanaryPrompt:
    """With tokens as they come out of a hat: what a model says takes less, for its numbers are low ones."""
    return CanaryPrompt(text=text, expected=tuple(secrets.randbelow(num_words) for _ in range(16)))
