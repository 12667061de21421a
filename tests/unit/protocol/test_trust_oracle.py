"""Our acceptor beside python-tuf's own client core: where both have a say they must say the same.

`TrustedMetadataSet` is fed what our metadata object holds, one role after the other, as `ngclient.Updater` would feed
it. It knows no satellites, floors, epochs, nonces, late updates or hybrid roots, and reads a clock of its own: those
are left out, and its reference time is set to ours.

It is laxer in one thing only: it lets timestamp, snapshot and targets carry different versions. We do not.
"""

import dataclasses
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Snapshot, TargetFile, Targets, Timestamp
from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet
from tuf.ngclient.config import EnvelopeType

from protocol.errors import ProtocolError
from protocol.metadata import MetadataBundle
from protocol.trust import TrustState, accept_metadata, target_path
from tests.fakes.updates import SERIALIZER, FakeGround

GROUND, THIEF = FakeGround(), FakeGround(seed=b"thief")
MANIFEST = GROUND.make_update({"config.json": b"{}"}).manifest
DATA = MANIFEST.encode()
EARLY, NOW, LATE = (datetime(year, 1, 1, tzinfo=UTC) for year in (2020, 2026, 2090))
ROLES = ("timestamp", "snapshot", "targets")
NEXT = {seed: FakeGround(seed=seed, root_version=2) for seed in (b"second", b"other")}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Offer:
    """An update, with whatever may be wrong with it."""

    version: int = 2
    signer: dict[str, FakeGround]
    expires: dict[str, datetime]
    wrong_hash: str = ""
    named_version: int = 2
    flipped: tuple[str, int] | None = None
    root: str = "none"
    accepted: int = 1

    def bundle(self) -> MetadataBundle:
        target = TargetFile.from_data(target_path(MANIFEST.sequence), DATA, ["sha256"])
        targets = self._signed("targets", Targets(targets={target.path: target}))
        named = self._named("targets", targets, self.version)
        snapshot = self._signed("snapshot", Snapshot(meta={"targets.json": named}))
        timestamp = self._signed(
            "timestamp", Timestamp(snapshot_meta=self._named("snapshot", snapshot, self.named_version))
        )
        parts = {"timestamp": timestamp, "snapshot": snapshot, "targets": targets}
        if self.flipped:
            role, at = self.flipped
            data = bytearray(parts[role])
            data[at % len(data)] ^= 1
            parts[role] = bytes(data)
        return MetadataBundle(roots=self._roots(), manifest=DATA, **parts)

    def _signed(self, role, part):
        part.version, part.expires = self.version, self.expires[role]
        metadata = Metadata(part)
        metadata.sign(self.signer[role].signers[role])
        return metadata.to_bytes(SERIALIZER)

    def _named(self, role, data, version):
        meta = MetaFile.from_data(version, data, ["sha256"])
        if self.wrong_hash == role:
            meta.hashes = {"sha256": "0" * 64}
        return meta

    def _roots(self):
        if self.root == "none":
            return ()
        metadata = NEXT[b"second"].root_metadata()
        metadata.signatures.clear()
        signers = {"good": (GROUND, NEXT[b"second"]), "unsigned by old": (NEXT[b"second"],), "by old": (GROUND,)}
        if self.root == "skips":
            metadata.signed.version = 3
        for ground in signers.get(self.root, signers["good"]):
            metadata.sign(ground.signers["root"], append=True)
        return (metadata.to_bytes(SERIALIZER),)


def ours(bundle: MetadataBundle, accepted: int) -> bool:
    state = TrustState(root=GROUND.root, accepted=accepted)
    try:
        accept_metadata(bundle.encode(), state, satellite="SAT-1", utc=NOW)
    except ProtocolError:
        return False
    return True


def theirs(bundle: MetadataBundle, accepted: int) -> bool:
    known = TrustedMetadataSet(GROUND.root, EnvelopeType.METADATA)
    known.reference_time = NOW
    try:
        for root in bundle.roots:
            known.update_root(root)
        known.update_timestamp(bundle.timestamp)
        if known.timestamp.version <= accepted:  # TUF 5.4.3: the caller's, which keeps the old one on disk
            return False
        known.update_snapshot(bundle.snapshot)
        known.update_targets(bundle.targets)
        known.targets.targets[target_path(MANIFEST.sequence)].verify_length_and_hashes(bundle.manifest)
    except (RepositoryError, KeyError):
        return False
    return True


def offers():
    signers = st.sampled_from([GROUND, GROUND, GROUND, NEXT[b"second"], THIEF])
    dates = st.sampled_from([LATE, LATE, LATE, EARLY])
    return st.builds(
        Offer,
        signer=st.fixed_dictionaries(dict.fromkeys(ROLES, signers)),
        expires=st.fixed_dictionaries(dict.fromkeys(ROLES, dates)),
        wrong_hash=st.sampled_from(["", "", "", "snapshot", "targets"]),
        named_version=st.sampled_from([2, 2, 2, 1, 3]),
        flipped=st.none() | st.none() | st.tuples(st.sampled_from(ROLES), st.integers(0, 600)),
        root=st.sampled_from(["none", "none", "good", "good", "unsigned by old", "by old", "skips"]),
        accepted=st.sampled_from([1, 1, 1, 2]),
    )


@settings(max_examples=25, deadline=None)
@given(offers())
def test_both_accept_the_same(offer):
    bundle = offer.bundle()
    assert ours(bundle, offer.accepted) == theirs(bundle, offer.accepted)


def good(**changes) -> Offer:
    ground = NEXT[b"second"] if changes.get("root") == "good" else GROUND
    everyone = dict.fromkeys(ROLES, ground)
    offer = Offer(signer=everyone, expires=dict.fromkeys(ROLES, LATE))
    return dataclasses.replace(offer, **changes)


@pytest.mark.parametrize("root", ["none", "good"])
def test_both_accept_what_is_good(root):
    bundle = good(root=root).bundle()
    assert ours(bundle, 1)
    assert theirs(bundle, 1)


FAULTS = {
    **{f"{role} by a thief": {"signer": {**dict.fromkeys(ROLES, GROUND), role: THIEF}} for role in ROLES},
    **{f"{role} expired": {"expires": {**dict.fromkeys(ROLES, LATE), role: EARLY}} for role in ROLES},
    **{f"{role} with another hash": {"wrong_hash": role} for role in ("snapshot", "targets")},
    **{f"{role} flipped": {"flipped": (role, 300)} for role in ROLES},
    "another version": {"named_version": 1},
    "replayed": {"accepted": 2},
    **{f"root {fault}": {"root": fault} for fault in ("unsigned by old", "by old", "skips")},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_both_refuse_a_single_fault(fault):
    offer = good(**FAULTS[fault])
    bundle = offer.bundle()
    assert not theirs(bundle, offer.accepted)
    assert not ours(bundle, offer.accepted)
