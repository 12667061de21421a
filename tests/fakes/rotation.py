"""A ground whose keys are replaced: the next root, signed by the old keys and the new ones."""

from dataclasses import replace

from protocol.metadata import MetadataBundle
from protocol.roots import EPOCH_FIELD
from tests.fakes.updates import SERIALIZER, FakeGround


def successor(ground: FakeGround, seed: bytes = b"next keys", *, epoch: int | None = None, floor: int = 0):
    """Return a ground with other signing keys and the same satellite, and the root that leads to it."""
    new = replace(ground, seed=seed, root_version=ground.root_version + 1)
    for name in ("link_key", "release_private_key", "identity_private_key"):
        setattr(new, name, getattr(ground, name))
    metadata = new.root_metadata()
    if epoch is not None:
        metadata.signed.unrecognized_fields[EPOCH_FIELD] = {"number": epoch, "floor": floor}
    metadata.signatures.clear()
    for each in (ground, new):
        metadata.sign(each.signers["root"], append=True)
    return new, metadata.to_bytes(SERIALIZER)


def rotation(*roots: bytes, label: str = "") -> bytes:
    """The metadata object that brings roots and nothing else."""
    return MetadataBundle(roots=roots, label=label).encode()
