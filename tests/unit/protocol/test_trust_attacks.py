"""The attacks on what a satellite trusts, one row each, each refused with a verdict of its own.

A row's forgery is made by somebody with what the row says he has; the verdict is the reason that goes down. Whoever
takes a check out of `protocol.trust` or `protocol.roots` sees its row fail.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from tuf.api.metadata import Metadata, MetaFile, Snapshot, TargetFile, Targets, Timestamp

from onboard.installer.acceptance import reason_of_refusal
from protocol.errors import DecodeError, ProtocolError
from protocol.metadata import MetadataBundle
from protocol.report import Reason
from protocol.roots import COMMAND_FIELD, EPOCH_FIELD, POST_QUANTUM_FIELD, SIGNED_AT_FIELD, command_keys
from protocol.trust import TrustedRotation, TrustedUpdate, TrustState, accept_metadata, target_path
from tests.fakes.updates import SERIALIZER, FakeGround

NOW = datetime(2026, 11, 22, tzinfo=UTC)
FILES = {"config.json": b"{}", "model.safetensors": b"weights" * 100}
GROUND = FakeGround()
FIRST = GROUND.make_update(FILES)
SECOND = GROUND.make_update({**FILES, "config.json": b"{ }"})
FLOORED = GROUND.make_update(FILES, version=9, sequence=4)
THIEF = FakeGround(seed=b"thief")
FRESH = TrustState(root=GROUND.root, root_version=1, accepted=0)
AFTER_FIRST = dataclasses.replace(FRESH, accepted=1)
NONCE = b"\0\0\0\7recently"


def parts(metadata: bytes) -> MetadataBundle:
    return MetadataBundle.decode(metadata)


def signed(role, signed_part, *grounds):
    metadata = Metadata(signed_part)
    for ground in grounds:
        metadata.sign(ground.signers[role], append=True)
    return metadata.to_bytes(SERIALIZER)


def forged(version, *, manifest=FIRST.manifest, stolen=(), expires=None, nonce=b"", **changes) -> bytes:
    """An update that somebody signs who has the keys of the stolen roles, and only his own for the others."""
    expires, data = expires or GROUND.expires, manifest.encode()
    whose = {role: GROUND if role in stolen else THIEF for role in ("targets", "snapshot", "timestamp")}
    target = TargetFile.from_data(target_path(manifest.sequence), data, ["sha256"])
    targets = changes.get("targets") or signed(
        "targets", Targets(version=version, expires=expires, targets={target.path: target}), whose["targets"]
    )
    named = {"targets.json": MetaFile.from_data(version, targets, ["sha256"])}
    snapshot = changes.get("snapshot") or signed(
        "snapshot", Snapshot(version=version, expires=expires, meta=named), whose["snapshot"]
    )
    named_version = changes.get("named_version", version)
    timestamp = Timestamp(
        version=version, expires=expires, snapshot_meta=MetaFile.from_data(named_version, snapshot, ["sha256"])
    )
    if nonce:
        timestamp.unrecognized_fields["x-skyload-nonce"] = nonce.hex()
    return MetadataBundle(
        roots=changes.get("roots", ()),
        timestamp=signed("timestamp", timestamp, whose["timestamp"]),
        snapshot=snapshot,
        targets=targets,
        manifest=changes.get("data", data),
    ).encode()


ALL = ("targets", "snapshot", "timestamp")
TWIN = forged(
    2, stolen=ALL
)  # the ground's own, signed twice under one number: a depot restored from a backup does that


def new_root(old: FakeGround, new: FakeGround, *, signers=None, **fields) -> bytes:
    """A root with another's keys, signed as told: by both, unless told otherwise."""
    metadata = new.root_metadata()
    metadata.signed.unrecognized_fields.update(fields)
    metadata.signatures.clear()
    for ground in signers if signers is not None else (old, new):
        metadata.sign(ground.signers["root"], append=True)
    return metadata.to_bytes(SERIALIZER)


def mixed(**changes) -> bytes:
    return dataclasses.replace(parts(SECOND.metadata), **changes).encode()


def _three() -> tuple[bytes, list[FakeGround]]:
    holders = [FakeGround(seed=b"root %d" % number) for number in range(3)]
    metadata = GROUND.root_metadata()
    metadata.signed.revoke_key(GROUND.signers["root"].public_key.keyid, "root")
    for holder in holders:
        metadata.signed.add_key(holder.signers["root"].public_key, "root")
    metadata.signed.roles["root"].threshold = 2
    metadata.signatures.clear()
    for holder in holders:
        metadata.sign(holder.signers["root"], append=True)
    return metadata.to_bytes(SERIALIZER), holders


THREE_KEYS, HOLDERS = _three()


def two_of_three(*, by: int) -> bytes:
    """The root with three keys again, as version 2, signed by so many of them."""
    metadata = Metadata.from_bytes(THREE_KEYS)
    metadata.signed.version = 2
    metadata.signatures.clear()
    for holder in HOLDERS[:by]:
        metadata.sign(holder.signers["root"], append=True)
    return metadata.to_bytes(SERIALIZER)


def hybrid() -> bytes:
    """The first root, with a second root role whose key nobody here has."""
    metadata = GROUND.root_metadata()
    key = THIEF.signers["root"].public_key
    metadata.signed.keys[key.keyid] = key
    metadata.signed.unrecognized_fields[POST_QUANTUM_FIELD] = {"keyids": [key.keyid], "threshold": 1}
    return metadata.to_bytes(SERIALIZER)


@dataclass(frozen=True, kw_only=True)
class Attack:
    verdict: Reason
    make: Callable[[], bytes]
    state: TrustState = AFTER_FIRST
    satellite: str = "SAT-1"
    utc: datetime | None = None
    must_be_fresh: bool = False


OLD_TARGETS, OLD_SNAPSHOT = parts(FIRST.metadata).targets, parts(FIRST.metadata).snapshot
EXPIRED = datetime(2026, 11, 21, tzinfo=UTC)
NEXT = FakeGround(seed=b"next", root_version=2)

ATTACKS = {
    # an update that was accepted comes again, or one that a newer update shut out
    "replay": Attack(verdict=Reason.REPLAYED, make=lambda: FIRST.metadata),
    "replay of an older one": Attack(
        verdict=Reason.REPLAYED, make=lambda: FIRST.metadata, state=dataclasses.replace(FRESH, accepted=2)
    ),
    # what is signed is older than what may be installed
    "downgrade below the floor": Attack(
        verdict=Reason.ROLLBACK,
        make=lambda: FLOORED.metadata,
        state=dataclasses.replace(AFTER_FIRST, floor=5),
    ),
    "downgrade of the root": Attack(
        verdict=Reason.ROLLBACK, make=lambda: SECOND.metadata, state=dataclasses.replace(AFTER_FIRST, root_version=2)
    ),
    "downgrade of the epoch": Attack(
        verdict=Reason.ROLLBACK,
        make=lambda: MetadataBundle(roots=(new_root(GROUND, NEXT),)).encode(),
        state=dataclasses.replace(FRESH, root=new_root(GROUND, GROUND, **{EPOCH_FIELD: {"number": 3, "floor": 0}})),
    ),
    "a root that skips one": Attack(
        verdict=Reason.ROLLBACK,
        make=lambda: MetadataBundle(roots=(new_root(GROUND, FakeGround(seed=b"n", root_version=3)),)).encode(),
    ),
    # good parts of different updates
    "mix-and-match of the manifest": Attack(
        verdict=Reason.MIXED, make=lambda: mixed(manifest=parts(FIRST.metadata).manifest)
    ),
    "mix-and-match of the targets": Attack(verdict=Reason.MIXED, make=lambda: mixed(targets=OLD_TARGETS)),
    "mix-and-match of the snapshot": Attack(verdict=Reason.MIXED, make=lambda: mixed(snapshot=OLD_SNAPSHOT)),
    "mix-and-match of two updates of one version, by the timestamp": Attack(
        verdict=Reason.MIXED,
        make=lambda: dataclasses.replace(parts(TWIN), timestamp=parts(SECOND.metadata).timestamp).encode(),
    ),
    "mix-and-match of two updates of one version, by the targets": Attack(
        verdict=Reason.MIXED, make=lambda: mixed(targets=parts(TWIN).targets, manifest=parts(TWIN).manifest)
    ),
    "a snapshot that is named by another version": Attack(
        verdict=Reason.MIXED, make=lambda: forged(2, stolen=ALL, named_version=1)
    ),
    # the satellite is kept at an old statement
    "freeze, seen by a trusted clock": Attack(
        verdict=Reason.EXPIRED, make=lambda: forged(2, stolen=ALL, expires=EXPIRED), utc=NOW
    ),
    "freeze, seen by the time floor without a clock": Attack(
        verdict=Reason.EXPIRED,
        make=lambda: forged(2, stolen=ALL, expires=EXPIRED),
        state=dataclasses.replace(AFTER_FIRST, time_floor=int(NOW.timestamp())),
    ),
    "freeze, with the clock set back": Attack(
        verdict=Reason.EXPIRED,
        make=lambda: forged(2, stolen=ALL, expires=EXPIRED),
        state=dataclasses.replace(AFTER_FIRST, time_floor=int(NOW.timestamp())),
        utc=datetime(1970, 1, 2, tzinfo=UTC),
    ),
    "freeze, seen by a missing nonce": Attack(
        verdict=Reason.NOT_FRESH, make=lambda: SECOND.metadata, must_be_fresh=True
    ),
    "freeze, seen by an old nonce": Attack(
        verdict=Reason.NOT_FRESH, make=lambda: forged(2, stolen=ALL, nonce=b"a year ago.."), must_be_fresh=True
    ),
    "wrong satellite": Attack(verdict=Reason.WRONG_SATELLITE, make=lambda: SECOND.metadata, satellite="SAT-2"),
    # one online key: whatever it signs, the two others do not fit, or what they signed before is not new
    "one stolen online key, timestamp, an old update": Attack(
        verdict=Reason.MIXED,
        make=lambda: forged(2**31, stolen=("timestamp",), snapshot=OLD_SNAPSHOT, targets=OLD_TARGETS),
    ),
    "one stolen online key, timestamp, an old update by its own number": Attack(
        verdict=Reason.MIXED,
        make=lambda: forged(2**31, stolen=("timestamp",), snapshot=OLD_SNAPSHOT, targets=OLD_TARGETS, named_version=1),
    ),
    "one stolen online key, timestamp": Attack(verdict=Reason.UNSIGNED, make=lambda: forged(2, stolen=("timestamp",))),
    "one stolen online key, snapshot": Attack(verdict=Reason.UNSIGNED, make=lambda: forged(2, stolen=("snapshot",))),
    "one stolen online key, targets": Attack(verdict=Reason.UNSIGNED, make=lambda: forged(2, stolen=("targets",))),
    "two stolen online keys, timestamp and snapshot, old targets": Attack(
        verdict=Reason.MIXED, make=lambda: forged(7, stolen=("timestamp", "snapshot"), targets=OLD_TARGETS)
    ),
    "two stolen online keys": Attack(verdict=Reason.UNSIGNED, make=lambda: forged(7, stolen=("timestamp", "snapshot"))),
    "a command key that signs an update": Attack(
        verdict=Reason.UNSIGNED,
        make=lambda: MetadataBundle(
            **{
                **{name: getattr(parts(SECOND.metadata), name) for name in ("snapshot", "targets", "manifest")},
                "timestamp": signed("command", Metadata.from_bytes(parts(SECOND.metadata).timestamp).signed, GROUND),
            }
        ).encode(),
    ),
    # one root key of two that are needed
    "one stolen root key": Attack(
        verdict=Reason.ROOT_UNSIGNED,
        make=lambda: MetadataBundle(roots=(two_of_three(by=1),)).encode(),
        state=dataclasses.replace(FRESH, root=THREE_KEYS),
    ),
    "a root that the old one did not sign": Attack(
        verdict=Reason.ROOT_UNSIGNED,
        make=lambda: MetadataBundle(roots=(new_root(GROUND, NEXT, signers=(NEXT,)),)).encode(),
    ),
    "a root that its own keys did not sign": Attack(
        verdict=Reason.ROOT_UNSIGNED,
        make=lambda: MetadataBundle(roots=(new_root(GROUND, NEXT, signers=(GROUND,)),)).encode(),
    ),
    "all Ed25519 root keys of a hybrid root": Attack(
        verdict=Reason.ROOT_UNSIGNED,
        make=lambda: MetadataBundle(roots=(new_root(GROUND, NEXT),)).encode(),
        state=dataclasses.replace(FRESH, root=hybrid()),
    ),
    "a revoked online key": Attack(
        verdict=Reason.UNSIGNED,
        make=lambda: SECOND.metadata,
        state=dataclasses.replace(AFTER_FIRST, root=new_root(GROUND, NEXT), root_version=2),
    ),
    "a revoked root key": Attack(
        verdict=Reason.ROOT_UNSIGNED,
        make=lambda: MetadataBundle(roots=(new_root(GROUND, FakeGround(seed=b"third", root_version=3)),)).encode(),
        state=dataclasses.replace(AFTER_FIRST, root=new_root(GROUND, NEXT), root_version=2),
    ),
    # not metadata at all
    "malformed object": Attack(verdict=Reason.MALFORMED, make=lambda: b"SKM1" + bytes(60)),
    "malformed role": Attack(verdict=Reason.MALFORMED, make=lambda: mixed(timestamp=b'{"signed": []}')),
    "malformed root": Attack(verdict=Reason.MALFORMED, make=lambda: MetadataBundle(roots=(b"{}",)).encode()),
    "a role in the place of another": Attack(
        verdict=Reason.MALFORMED, make=lambda: mixed(timestamp=parts(SECOND.metadata).snapshot)
    ),
}


def judge(attack: Attack) -> TrustedUpdate | TrustedRotation:
    return accept_metadata(
        attack.make(),
        attack.state,
        satellite=attack.satellite,
        utc=attack.utc,
        nonces=(NONCE,),
        must_be_fresh=attack.must_be_fresh,
    )


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused_with_its_own_verdict(name):
    with pytest.raises(ProtocolError) as caught:
        judge(ATTACKS[name])
    assert reason_of_refusal(caught.value) is ATTACKS[name].verdict


# What the rows forge is refused for the reason they give and no other: without the fault, the same is accepted.
GOOD = {
    "the next update": Attack(verdict=Reason.NONE, make=lambda: SECOND.metadata),
    "an update above the floor": Attack(
        verdict=Reason.NONE, make=lambda: FLOORED.metadata, state=dataclasses.replace(AFTER_FIRST, floor=4)
    ),
    "all keys": Attack(verdict=Reason.NONE, make=lambda: forged(2, stolen=ALL)),
    "an echoed nonce": Attack(verdict=Reason.NONE, make=lambda: forged(2, stolen=ALL, nonce=NONCE), must_be_fresh=True),
    "a late clock": Attack(
        verdict=Reason.NONE, make=lambda: forged(2, stolen=ALL, expires=EXPIRED), utc=datetime(2026, 1, 1, tzinfo=UTC)
    ),
    "no clock": Attack(verdict=Reason.NONE, make=lambda: forged(2, stolen=ALL, expires=EXPIRED)),
    "two root keys": Attack(
        verdict=Reason.NONE,
        make=lambda: MetadataBundle(roots=(two_of_three(by=2),)).encode(),
        state=dataclasses.replace(FRESH, root=THREE_KEYS),
    ),
    "a new root": Attack(verdict=Reason.NONE, make=lambda: MetadataBundle(roots=(new_root(GROUND, NEXT),)).encode()),
}


@pytest.mark.parametrize("name", GOOD)
def test_the_same_without_its_fault_is_accepted(name):
    trusted = judge(GOOD[name])
    if isinstance(trusted, TrustedUpdate):
        assert trusted.is_fresh == GOOD[name].must_be_fresh


def test_every_refusal_has_a_verdict_of_its_own():
    def kinds(kind):
        return {kind}.union(*map(kinds, kind.__subclasses__()))

    verdicts = {attack.verdict for attack in ATTACKS.values()}
    assert len(verdicts) == 9
    assert all(reason_of_refusal(kind.__new__(kind)) is not Reason.NONE for kind in kinds(ProtocolError))


@pytest.mark.parametrize(
    "fields",
    [
        {EPOCH_FIELD: 1},
        {EPOCH_FIELD: {"floor": 1}},
        {EPOCH_FIELD: {"number": -1}},
        {EPOCH_FIELD: {"number": 2**16}},
        {EPOCH_FIELD: {"number": True}},
        {SIGNED_AT_FIELD: "now"},
        {SIGNED_AT_FIELD: 2**60},
        {POST_QUANTUM_FIELD: []},
        {POST_QUANTUM_FIELD: {"keyids": ["a", "a"], "threshold": 1}},
        {POST_QUANTUM_FIELD: {"keyids": [], "threshold": 0}},
    ],
)
def test_fields_of_ours_that_make_no_sense_are_malformed_even_if_all_root_keys_signed_them(fields):
    data = MetadataBundle(roots=(new_root(GROUND, NEXT, **fields),)).encode()
    with pytest.raises(DecodeError):
        accept_metadata(data, FRESH, satellite="SAT-1", utc=None)


@pytest.mark.parametrize("role", [{"keyids": 1}, {"keyids": [1]}, {"keyids": ["unknown"]}])
def test_a_command_role_that_makes_no_sense_is_malformed(role):
    with pytest.raises(DecodeError):
        command_keys(new_root(GROUND, NEXT, **{COMMAND_FIELD: role}))


# -- fast-forward


def test_a_stolen_set_of_keys_that_signs_the_highest_version_is_cured_by_a_new_epoch():
    thief = accept_metadata(forged(2**32 - 1, stolen=ALL), FRESH, satellite="SAT-1", utc=None)
    with pytest.raises(ProtocolError):
        accept_metadata(SECOND.metadata, thief.state, satellite="SAT-1", utc=None)

    root = new_root(GROUND, NEXT, **{EPOCH_FIELD: {"number": 1, "floor": 2}})
    third = NEXT.make_update(FILES, version=3)
    trusted = accept_metadata(
        NEXT.sign_manifest(third.manifest, 3, roots=(root,)), thief.state, satellite="SAT-1", utc=None
    )
    assert (trusted.state.epoch, trusted.state.accepted, trusted.state.floor) == (1, 3, 2)
    with pytest.raises(ProtocolError):  # within the epoch it never goes back
        accept_metadata(NEXT.sign_manifest(third.manifest, 3), trusted.state, satellite="SAT-1", utc=None)


def test_a_new_root_without_a_new_epoch_keeps_the_counters():
    state = dataclasses.replace(FRESH, accepted=7, floor=3)
    rotated = accept_metadata(
        MetadataBundle(roots=(new_root(GROUND, NEXT),)).encode(), state, satellite="SAT-1", utc=None
    )
    assert (rotated.state.accepted, rotated.state.floor, rotated.state.root_version) == (7, 3, 2)
    with pytest.raises(ProtocolError):
        accept_metadata(NEXT.make_update(FILES, version=7).metadata, rotated.state, satellite="SAT-1", utc=None)


def test_the_time_floor_only_rises_within_an_epoch_and_only_root_keys_raise_it():
    def follow(state, number, seconds, epoch=0):
        new = FakeGround(root_version=number)
        fields = {SIGNED_AT_FIELD: seconds, EPOCH_FIELD: {"number": epoch, "floor": 0}}
        data = MetadataBundle(roots=(new_root(GROUND, new, **fields),)).encode()
        return accept_metadata(data, state, satellite="SAT-1", utc=None).state

    state = follow(FRESH, 2, 1000)
    assert state.time_floor == 1000
    assert follow(state, 3, 500).time_floor == 1000
    assert follow(state, 3, 500, epoch=1).time_floor == 500
    update = accept_metadata(SECOND.metadata, state, satellite="SAT-1", utc=NOW)
    assert update.state.time_floor == 1000


def test_thirty_two_missed_roots_come_in_one_object_and_are_followed_in_order():
    roots = [new_root(GROUND, FakeGround(root_version=number)) for number in range(2, 34)]
    data = MetadataBundle(roots=tuple(roots)).encode()
    trusted = accept_metadata(data, FRESH, satellite="SAT-1", utc=None)
    assert trusted.state.root_version == 33
    again = accept_metadata(data, trusted.state, satellite="SAT-1", utc=None)
    assert again.state == trusted.state
    with pytest.raises(ProtocolError):
        accept_metadata(MetadataBundle(roots=(*roots[:9], *roots[10:])).encode(), FRESH, satellite="SAT-1", utc=None)


def test_a_lost_root_is_believed_again_only_when_the_chain_leads_to_the_newest_one():
    second = new_root(GROUND, NEXT)
    lost = dataclasses.replace(FRESH, root_version=2, accepted=1)
    for data in (SECOND.metadata, MetadataBundle(roots=(GROUND.root,)).encode()):
        with pytest.raises(ProtocolError):
            accept_metadata(data, lost, satellite="SAT-1", utc=None)
    found = accept_metadata(MetadataBundle(roots=(second,)).encode(), lost, satellite="SAT-1", utc=None)
    assert found.state == dataclasses.replace(lost, root=second)
