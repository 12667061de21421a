"""What a satellite believes: each row of the tables is an attack or an odd day, with its own verdict."""

import dataclasses
import hashlib
from datetime import UTC, datetime

import pytest
from tuf.api.metadata import Metadata, MetaFile

from protocol.envelope import key_id
from protocol.errors import (
    DecodeError,
    ExpiredError,
    MixedError,
    ProtocolError,
    RollbackError,
    SignatureError,
    VerificationError,
    WrongSatelliteError,
)
from protocol.metadata import MetadataBundle
from protocol.roots import COMMAND_FIELD, read_root
from protocol.trust import VERSION_MAX, TrustState, accept_metadata, accept_update, command_keys, follow_metadata
from tests.fakes.rotation import rotation, successor
from tests.fakes.updates import SERIALIZER, FakeGround

FILES = {"config.json": b"{}", "model.safetensors": b"weights" * 100}
NOW = datetime(2026, 11, 22, tzinfo=UTC)
GROUND = FakeGround()
FIRST = GROUND.make_update(FILES)
SECOND = GROUND.make_update({**FILES, "config.json": b"{ }"})
FRESH = TrustState(root=GROUND.root, accepted=0)


def parts(metadata: bytes) -> MetadataBundle:
    return MetadataBundle.decode(metadata)


def accept(metadata, state=FRESH, *, satellite="SAT-1", utc=None):
    return accept_update(metadata, state, satellite=satellite, utc=utc)


def test_a_good_update_is_trusted_and_moves_the_counter():
    trusted = accept(FIRST.metadata)
    assert trusted.manifest == FIRST.manifest
    assert trusted.state == TrustState(root=GROUND.root, root_version=1, accepted=1)
    assert accept(SECOND.metadata, trusted.state).state.accepted == 2


def test_an_older_or_equal_update_is_a_rollback():
    state = TrustState(root=GROUND.root, accepted=2)
    for metadata in (FIRST.metadata, SECOND.metadata):
        with pytest.raises(RollbackError):
            accept(metadata, state)


def test_an_update_for_another_satellite_is_refused():
    with pytest.raises(WrongSatelliteError):
        accept(FIRST.metadata, satellite="SAT-2")


def test_keys_of_somebody_else_are_refused():
    stranger = FakeGround(seed=b"somebody else")
    with pytest.raises(SignatureError):
        accept(stranger.make_update(FILES).metadata)


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_each_role_needs_its_own_key(role):
    swapped = FakeGround()
    swapped.signers[role] = FakeGround(seed=b"thief").signers[role]
    with pytest.raises((SignatureError, VerificationError)):
        accept(swapped.make_update(FILES).metadata)


@pytest.mark.parametrize("part", ["timestamp", "snapshot", "targets", "manifest"])
def test_parts_of_two_updates_do_not_mix(part):
    mixed = dataclasses.replace(parts(SECOND.metadata), **{part: getattr(parts(FIRST.metadata), part)})
    with pytest.raises(VerificationError):
        accept(mixed.encode())


@pytest.mark.parametrize("part", ["timestamp", "snapshot", "targets", "manifest"])
def test_a_changed_byte_in_any_part_is_refused(part):
    good = parts(FIRST.metadata)
    data = getattr(good, part)
    for at in range(0, len(data), 7):
        changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        with pytest.raises(ProtocolError):
            accept(dataclasses.replace(good, **{part: changed}).encode())


@pytest.mark.parametrize("junk", [b"", b"{}", b"null", b"[" * 5000, b'{"signed": {}, "signatures": []}', b"\xff\xfe"])
@pytest.mark.parametrize("part", ["timestamp", "snapshot", "targets"])
def test_junk_in_any_part_is_an_error_of_ours(part, junk):
    with pytest.raises(ProtocolError):
        accept(dataclasses.replace(parts(FIRST.metadata), **{part: junk}).encode())


def test_expiry_counts_only_with_a_trusted_clock():
    old = FakeGround(expires=datetime(2020, 1, 1, tzinfo=UTC))
    metadata, state = old.make_update(FILES).metadata, TrustState(root=old.root, accepted=0)
    assert accept(metadata, state).state.accepted == 1
    with pytest.raises(ExpiredError):
        accept(metadata, state, utc=NOW)
    assert accept(FIRST.metadata, utc=NOW).state.accepted == 1


def rotated_root(old: FakeGround, new: FakeGround) -> bytes:
    metadata = new.root_metadata()
    metadata.sign(old.signers["root"], append=True)
    return metadata.to_bytes(SERIALIZER)


def test_missed_root_rotations_travel_in_one_piece():
    second, third = FakeGround(seed=b"second", root_version=2), FakeGround(seed=b"third", root_version=3)
    roots = (GROUND.root, rotated_root(GROUND, second), rotated_root(second, third))
    update = third.make_update(FILES)
    metadata = third.sign_manifest(update.manifest, 7, roots=roots)
    trusted = accept(metadata)
    assert trusted.state == TrustState(root=roots[2], root_version=3, accepted=7, commands_are_void=True)
    assert command_keys(roots[2]) != command_keys(GROUND.root)


def test_a_root_that_its_predecessor_did_not_sign_is_refused():
    second = FakeGround(seed=b"second", root_version=2)
    update = second.make_update(FILES)
    with pytest.raises(SignatureError):
        accept(second.sign_manifest(update.manifest, 2, roots=(second.root,)))


def test_a_skipped_root_version_is_refused():
    third = FakeGround(seed=b"third", root_version=3)
    update = third.make_update(FILES)
    with pytest.raises(RollbackError):
        accept(third.sign_manifest(update.manifest, 2, roots=(rotated_root(GROUND, third),)))


def test_the_command_keys_are_those_the_root_names():
    keys = command_keys(GROUND.root)
    assert [key_id(raw) for raw in keys.values()] == list(keys)
    assert len(keys) == 1


def test_a_root_without_a_command_role_lets_nobody_command():
    metadata = GROUND.root_metadata()
    metadata.signed.unrecognized_fields.clear()
    assert not command_keys(metadata.to_bytes(SERIALIZER))


def test_a_command_key_that_is_no_key_of_the_root_is_an_error():
    metadata = GROUND.root_metadata()
    metadata.signed.unrecognized_fields["x-skyload-command"]["keyids"] = ["ff" * 32]
    with pytest.raises(DecodeError):
        command_keys(metadata.to_bytes(SERIALIZER))


def test_a_version_that_no_other_could_follow_is_refused():
    top = FakeGround().make_update(FILES, version=VERSION_MAX, sequence=1)
    assert accept(top.metadata).state.accepted == VERSION_MAX
    beyond = FakeGround().make_update(FILES, version=VERSION_MAX + 1, sequence=1)
    with pytest.raises(VerificationError):
        accept(beyond.metadata)


def test_a_manifest_that_is_signed_under_another_sequences_name_is_refused(monkeypatch):
    monkeypatch.setattr("tests.fakes.updates.target_path", lambda _: "updates/77.manifest")
    with pytest.raises(VerificationError, match="is signed as updates/77"):
        accept(GROUND.sign_manifest(FIRST.manifest, 1))


@pytest.mark.parametrize("missing", ["length", "hashes"])
@pytest.mark.parametrize("role", ["snapshot", "targets"])
def test_a_role_that_is_named_by_less_than_version_length_and_hash_is_refused(monkeypatch, role, missing):
    whole, number = MetaFile.from_data, iter(["targets", "snapshot"])

    def part(*words):
        meta = whole(*words)
        if next(number) == role:
            setattr(meta, missing, None)
        return meta

    monkeypatch.setattr(MetaFile, "from_data", part)
    with pytest.raises(MixedError, match=f"{role}: not named with"):
        accept(GROUND.sign_manifest(FIRST.manifest, 1))


# -- roots


def chain() -> tuple[bytes, bytes]:
    """The second root, with other keys, and the third: the second once more, so that its commands stay good."""
    new, second = successor(GROUND)
    metadata = Metadata.from_bytes(second)
    metadata.signed.version = 3
    metadata.signatures.clear()
    metadata.sign(new.signers["root"])
    return second, metadata.to_bytes(SERIALIZER)


def test_after_a_loss_no_counter_of_commands_starts_again():
    """Nobody knows whose commands the lost root let in: what was recorded of them would be obeyed once more."""
    second, third = chain()
    lost = TrustState(root=GROUND.root, root_version=2, accepted=5, lost_root=hashlib.sha256(second).digest())
    assert follow_metadata(rotation(second, third), lost).root_version == 3
    assert not follow_metadata(rotation(second, third), lost).commands_are_void
    known = TrustState(root=GROUND.root, root_version=1, accepted=5)
    assert follow_metadata(rotation(second, third), known).commands_are_void


def test_a_chain_that_ends_before_the_root_that_was_lost_changes_nothing():
    second, third = chain()
    lost = TrustState(root=GROUND.root, root_version=3, accepted=5, lost_root=hashlib.sha256(third).digest())
    assert follow_metadata(rotation(second), lost) == lost
    assert follow_metadata(rotation(second, third), lost).root == third


def test_a_root_whose_command_role_is_not_one_is_not_followed():
    """All command keys would be gone, and nobody told."""
    new = FakeGround(seed=b"next", root_version=2)
    metadata = new.root_metadata()
    metadata.signed.unrecognized_fields[COMMAND_FIELD] = {"keyids": ["nobody's"], "threshold": 1}
    metadata.signatures.clear()
    for ground in (GROUND, new):
        metadata.sign(ground.signers["root"], append=True)
    data = rotation(metadata.to_bytes(SERIALIZER))
    with pytest.raises(DecodeError, match="command key"):
        accept_metadata(data, FRESH, satellite="SAT-1", utc=None)
    assert follow_metadata(data, FRESH) == FRESH


@pytest.mark.parametrize(("field", "value"), [("keyids", [5]), ("threshold", True)])
def test_a_root_whose_roles_are_no_numbers_of_ids_is_refused(field, value):
    metadata = GROUND.root_metadata()
    setattr(metadata.signed.roles["targets"], field, value)
    with pytest.raises(DecodeError, match="a role is not"):
        read_root(metadata.to_bytes(SERIALIZER))
