"""What trust costs on the link and on board: bytes of an update's metadata, and time to open and verify it.

The keys are made as `skyload keys init` makes them, the metadata as `skyload stage` does: sealed, with a nonce to echo.
Time is CPU time, the median of many; nothing is kept between two, as after a restart.
"""

import math
import secrets
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from bench.results import markdown_table
from groundsegment.signer.key_store import KeyStore
from groundsegment.signer.rotation import commit, prepare, sign_here
from groundsegment.signer.signing import create_trust, make_rotations, sign_update
from protocol.canary import Canary, CanaryPrompt
from protocol.manifest import BundleEntry, FileEntry, Manifest, release_digest
from protocol.metadata import MetadataBundle
from protocol.report import FRESHNESS_SIZE
from protocol.sealed_metadata import open_metadata, seal_metadata
from protocol.trust import TrustState, accept_metadata

SATELLITE = "SAT-1"
RUNS = 100
_NOW = datetime(2026, 11, 22, tzinfo=UTC)
_MISSED = 3
_SMALLEST = ("config.json", "model.safetensors")
_LANGUAGE_MODEL = (
    *("config.json", "generation_config.json", "merges.txt", "model.safetensors"),
    *("special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "vocab.json"),
)
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
    rows = [
        [cost.name, cost.size_bytes, "" if math.isnan(cost.verify_ms) else f"{cost.verify_ms:.2f}"] for cost in costs
    ]
    table = markdown_table(["object", "bytes", "open and verify, ms of CPU"], rows)
    return table, {"metadata_bytes": costs[0].size_bytes, "verify_ms": round(costs[0].verify_ms, 2)}


def _costs(directory: Path, runs: int, *, is_post_quantum: bool) -> list[Cost]:
    store, private = KeyStore(directory), X25519PrivateKey.generate()
    first = create_trust(store, utc=_NOW, is_post_quantum=is_post_quantum)
    key, public = private.private_bytes_raw(), private.public_key().public_bytes_raw()

    def update(root_version: int | None, manifest: bytes | None = None) -> bytes:
        manifest, nonce = manifest or _manifest(_SMALLEST), secrets.token_bytes(FRESHNESS_SIZE)
        data = sign_update(store, manifest, utc=_NOW, root_version=root_version, nonce=nonce)
        return seal_metadata(data, {SATELLITE: public}, key=secrets.token_bytes(32))

    kind = "hybrid" if is_post_quantum else "Ed25519"
    smallest = update(None)
    costs = [_cost(f"an update, {kind} roots", smallest, key, store.root(), runs)]
    if not is_post_quantum:
        bundle = MetadataBundle.decode(open_metadata(smallest, key, satellite=SATELLITE))
        roles = len(replace(bundle, manifest=b"").encode())
        costs.append(Cost(name="of it TUF's targets, snapshot and timestamp", size_bytes=roles, verify_ms=math.nan))
        whole = update(None, _manifest(_LANGUAGE_MODEL, Canary(prompts=tuple(map(_answered, _PROMPTS)))))
        costs.append(_cost("an update of eight files, with a canary", whole, key, store.root(), runs))
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


def _manifest(names: tuple[str, ...], canary: Canary | None = None) -> bytes:
    """Of a model in one bundle, as compressible as digests and keys are."""
    files = tuple(FileEntry(name=name, size_bytes=200_000_000, sha256=secrets.token_bytes(32)) for name in names)
    return Manifest(
        sequence=7,
        satellites=(SATELLITE,),
        release_name="model",
        release_digest=release_digest(files),
        files=files,
        base=None,
        bundles=(BundleEntry(size_bytes=20_480_000, sha256=secrets.token_bytes(32), num_segments=700),),
        keys={SATELLITE: secrets.token_bytes(80)},
        canary=canary or Canary(),
    ).encode()


def _answered(text: str) -> CanaryPrompt:
    return CanaryPrompt(text=text, expected=tuple(secrets.randbelow(50_000) for _ in range(16)))
