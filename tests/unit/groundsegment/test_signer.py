import secrets
import stat
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from tuf.api.metadata import Metadata

from groundsegment.errors import InputError, KeyStoreError
from groundsegment.signer.key_store import ALL_NAMES, ROOT_NAMES, KeyStore, write_new
from groundsegment.signer.kit import make_kit, read_kit
from groundsegment.signer.signing import create_trust, sign_command, sign_update
from protocol.command import Command, Operation
from protocol.errors import ExpiredError, RollbackError, SignatureError, WrongSatelliteError
from protocol.manifest import BundleEntry, FileEntry, Manifest, release_digest
from protocol.report import FRESHNESS_SIZE
from protocol.sealed_metadata import seal_metadata
from protocol.trust import TrustState, accept_update, command_keys

NOW = datetime(2026, 11, 22, 6, 0, 0, 123456, tzinfo=UTC)


@pytest.fixture
def store(tmp_path):
    store = KeyStore(tmp_path / "keys")
    create_trust(store, utc=NOW)
    return store


def a_manifest(sequence=1, satellites=("SAT-1",)):
    files = (FileEntry(name="config.json", size_bytes=3, sha256=b"x" * 32),)
    return Manifest(
        sequence=sequence,
        satellites=satellites,
        release_name="tiny",
        release_digest=release_digest(files),
        files=files,
        base=None,
        bundles=(BundleEntry(size_bytes=99, digest=b"b" * 16, num_segments=1),),
        keys=dict.fromkeys(satellites, b"k" * 80),
    ).encode()


def test_an_update_is_accepted_by_its_satellite_and_versions_rise(store):
    state = TrustState(root=store.root(), accepted=0)
    for sequence in (1, 2, 9):
        manifest = a_manifest(sequence, ("SAT-1", "SAT-2"))
        accepted = accept_update(sign_update(store, manifest, utc=NOW), state, satellite="SAT-2", utc=NOW)
        assert accepted.manifest == Manifest.decode(manifest)
        assert accepted.state.accepted == sequence
        state = accepted.state
    with pytest.raises(RollbackError):
        accept_update(sign_update(store, a_manifest(8), utc=NOW), state, satellite="SAT-1", utc=NOW)


def test_an_update_ends_after_a_year_and_is_for_nobody_else(store):
    data = sign_update(store, a_manifest(), utc=NOW)
    state = TrustState(root=store.root(), accepted=0)
    accept_update(data, state, satellite="SAT-1", utc=NOW + timedelta(days=364))
    with pytest.raises(ExpiredError):
        accept_update(data, state, satellite="SAT-1", utc=NOW + timedelta(days=366))
    with pytest.raises(WrongSatelliteError):
        accept_update(data, state, satellite="SAT-3", utc=NOW)


def test_the_metadata_of_an_update_is_small(store):
    manifest = Manifest.decode(a_manifest())
    noise = (BundleEntry(size_bytes=20_000_000, digest=secrets.token_bytes(16), num_segments=700),)
    manifest = replace(manifest, bundles=noise, keys={"SAT-1": secrets.token_bytes(80)})
    data = sign_update(store, manifest.encode(), utc=NOW, nonce=secrets.token_bytes(FRESHNESS_SIZE))
    assert len(data) < 600
    public = X25519PrivateKey.generate().public_key().public_bytes_raw()
    assert len(seal_metadata(data, public, satellite="SAT-1")) < 670  # what flies


def test_a_root_needs_two_of_three_keys_and_signs_no_update_itself(store):
    root = Metadata.from_bytes(store.root())
    assert root.signed.roles["root"].threshold == 2
    assert len(root.signatures) == 3
    root.verify_delegate("root", root)
    for name in ROOT_NAMES:
        (store.path / f"{name}.pem").unlink()
    assert sign_update(store, a_manifest(), utc=NOW)


def test_a_command_is_obeyed_by_its_satellite_only(store):
    command = Command(satellite="SAT-1", counter=4, operation=Operation.REVERT, args={"digest": None})
    data = sign_command(store, command)
    assert Command.open(data, public_keys=command_keys(store.root()), satellite="SAT-1") == command
    with pytest.raises(WrongSatelliteError):
        Command.open(data, public_keys=command_keys(store.root()), satellite="SAT-2")
    with pytest.raises(SignatureError):
        Command.open(data, public_keys={}, satellite="SAT-1")


@pytest.mark.parametrize("name", ["targets", "snapshot", "timestamp"])
def test_a_wrong_key_is_noticed_before_anything_leaves(store, tmp_path, name):
    other = KeyStore(tmp_path / "other")
    create_trust(other, utc=NOW)
    (other.path / f"{name}.pem").replace(store.path / f"{name}.pem")
    with pytest.raises(KeyStoreError, match="would refuse"):
        sign_update(store, a_manifest(), utc=NOW)


def test_a_wrong_command_key_is_noticed_before_anything_leaves(store):
    (store.path / "command.pem").unlink()
    store.make("command")
    with pytest.raises(KeyStoreError, match="would refuse"):
        sign_command(store, Command(satellite="SAT-1", counter=1, operation=Operation.CANCEL))


def test_private_keys_are_for_their_owner_only(store):
    for name in ALL_NAMES:
        assert stat.S_IMODE((store.path / f"{name}.pem").stat().st_mode) == 0o600
    path = store.path / "targets.pem"
    path.chmod(0o640)
    with pytest.raises(KeyStoreError, match="others may read") as caught:
        store.signer("targets")
    assert "chmod 600" in caught.value.hint


def test_missing_and_damaged_keys_are_told(store):
    (store.path / "targets.pem").unlink()
    with pytest.raises(KeyStoreError, match="missing"):
        sign_update(store, a_manifest(), utc=NOW)
    write_new(store.path / "targets.pem", b"nonsense", mode=0o600)
    with pytest.raises(KeyStoreError, match="PKCS8"):
        sign_update(store, a_manifest(), utc=NOW)
    store.root_path.unlink()
    with pytest.raises(KeyStoreError, match="no trust root"):
        store.root()


def test_a_trust_root_is_made_once_but_an_interrupted_one_goes_on(store, tmp_path):
    with pytest.raises(KeyStoreError, match="already"):
        create_trust(store, utc=NOW)
    half = KeyStore(tmp_path / "half")
    before = half.make("root-1").public_key
    create_trust(half, utc=NOW)
    assert half.signer("root-1").public_key == before


def test_a_file_is_never_overwritten(tmp_path):
    write_new(tmp_path / "file", b"old", mode=0o600)
    with pytest.raises(KeyStoreError, match="never overwritten"):
        write_new(tmp_path / "file", b"new", mode=0o600)
    assert (tmp_path / "file").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_kit_reads_back_and_is_never_overwritten(tmp_path):
    make_kit(tmp_path / "kit", satellite="SAT-1", root=b"root")
    kit = read_kit(tmp_path / "kit")
    assert (kit.satellite, kit.root, len(kit.link_key)) == ("SAT-1", b"root", 32)
    key = tmp_path / "kit" / "keys" / "link.key"
    assert key.read_text() == kit.link_key.hex() + "\n"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    with pytest.raises(InputError, match="never overwritten"):
        make_kit(tmp_path / "kit", satellite="SAT-1", root=b"root")
    key.write_text("zz\n")
    with pytest.raises(KeyStoreError, match="not a key file"):
        read_kit(tmp_path / "kit")
    with pytest.raises(InputError, match="not a kit"):
        read_kit(tmp_path)
