"""A depot with one satellite and updates whose bundles are random bytes: for tests that fly, not install."""

import hashlib
import random
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from groundsegment.depot.depot import Depot
from groundsegment.depot.records import Bundle, FlightState, Satellite, Update
from protocol.objects import ObjectKind, object_handle, object_prefix

LINK_KEY = bytes(range(32))
IDENTITY = Ed25519PrivateKey.from_private_bytes(b"\x11" * 32)
NOW = datetime(2026, 11, 22, 6, 0, tzinfo=UTC)


@dataclass(frozen=True)
class Staged:
    """An update in a depot, and its bytes."""

    update: Update
    metadata: bytes
    bundles: tuple[bytes, ...]

    @property
    def bundle_handles(self):
        return [object_handle(data) for data in self.bundles]


def make_depot(path, name="SAT-1"):
    """A depot with one satellite."""
    depot = Depot.create(path)
    public = IDENTITY.public_key().public_bytes_raw()
    depot.add_satellite(Satellite(name=name, identity_public=public, release_public=b"r" * 32, added_utc=NOW))
    key_path = depot.link_key_path(name)
    key_path.parent.mkdir(parents=True, exist_ok=True)
    key_path.write_text(LINK_KEY.hex() + "\n")
    return depot


def stage_bytes(depot, sizes, *, seed=1, salt=b"", sequence=None, name="SAT-1", **changes):
    """Register an update whose bundles have these sizes, changed as told; with salt, other metadata over them."""
    rng = random.Random(seed)
    sequence = depot.allocate_sequence() if sequence is None else sequence
    metadata = object_prefix(ObjectKind.METADATA, 908) + (salt + rng.randbytes(900))[:900]
    bundles = tuple(object_prefix(ObjectKind.BUNDLE, size) + rng.randbytes(size - 8) for size in sizes)
    handle = object_handle(metadata)
    directory = depot.updates_path / handle.hex()
    directory.mkdir(parents=True)
    entry = Update(
        handle=handle, sequence=sequence, satellite=name, release_name=f"release-{sequence}",
        release_digest=changes.pop("release_digest", hashlib.sha256(metadata).digest()), base_digest=None,
        state=FlightState.STAGED, payload_bytes=sum(sizes), directory=directory, created_utc=NOW, **changes,
    )  # fmt: skip
    entry.metadata_path.write_bytes(metadata)
    rows = []
    for number, data in enumerate(bundles):
        path = directory / f"bundle-{number:05d}.skb"
        path.write_bytes(data)
        digest = hashlib.sha256(data).digest()
        rows.append(
            Bundle(update=handle, number=number, sha256=digest, size_bytes=len(data), num_segments=1, path=path)
        )
    depot.add_update(entry, rows)
    return Staged(update=entry, metadata=metadata, bundles=bundles)
