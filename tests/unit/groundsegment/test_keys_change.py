"""`skyload keys` as people use it: rotate, revoke, a root ceremony on a stick, sealed keys, a token."""

import json
import os
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from securesystemslib.signer import CryptoSigner
from typer.testing import CliRunner

from groundsegment.console import keys
from groundsegment.depot.depot import Depot
from groundsegment.depot.records import ROTATE, CommandState, FlightState, ReceivedReport, Update
from groundsegment.errors import KeyStoreError
from groundsegment.file_export import export_commands
from groundsegment.signer import key_file, rotation, signing
from groundsegment.signer.ceremony import _changes
from groundsegment.signer.key_file import read_key, write_key
from groundsegment.signer.key_store import KeyStore
from groundsegment.signer.passphrase import FILE_VARIABLE, WORDS_VARIABLE, Passphrase
from groundsegment.signer.publishing import queue_rotation
from groundsegment.signer.signing import create_trust, make_rotations, sign_update
from groundsegment.staging.checks import accepted_by
from groundsegment.stations.home import make_orders
from groundsegment.stations.orders import Orders
from protocol.errors import ProtocolError, RootSignatureError
from protocol.report import FRESHNESS_SIZE, Report, UpdateState, UpdateStatus
from protocol.roots import SIGNED_AT_FIELD, follow_roots, read_root
from protocol.trust import TrustState, accept_metadata
from tests.unit.groundsegment.test_signer import a_manifest

NOW = datetime(2026, 11, 22, 6, tzinfo=UTC)
ONLINE = ("timestamp", "snapshot", "targets")
SOFTHSM = [
    os.environ.get("PYKCS11LIB", ""),
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
]


@pytest.fixture(autouse=True)
def nobody_gives_a_passphrase(monkeypatch):
    monkeypatch.delenv(FILE_VARIABLE, raising=False)
    monkeypatch.delenv(WORDS_VARIABLE, raising=False)
    monkeypatch.setattr(key_file, "_COST", 2**10)  # a sixteenth of the work


@pytest.fixture
def skyload(tmp_path):
    def run(*words, code=0, depot=True):
        where = ["--depot", str(tmp_path / "depot")] if depot else []
        result = CliRunner().invoke(keys.app, [*words, *where, "--json"])
        assert result.exit_code == code, result.output
        return json.loads(result.stdout) if code == 0 else result.stderr

    return run


@pytest.fixture(scope="module")
def first_day(tmp_path_factory):
    """A depot and a kit, as they were made."""
    directory = tmp_path_factory.mktemp("first-day")
    words = ["init", "--satellite", "SAT-1", "--kit", str(directory / "kit"), "--depot", str(directory / "depot")]
    assert CliRunner().invoke(keys.app, words).exit_code == 0
    return directory


@pytest.fixture
def place(tmp_path, first_day):
    shutil.copytree(first_day, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def store(tmp_path):
    store = KeyStore(tmp_path / "keys")
    create_trust(store, utc=NOW)
    return store


def of(place) -> KeyStore:
    return KeyStore(place / "depot" / "keys")


def kit_state(place, **changes) -> TrustState:
    return TrustState(**{"root": (place / "kit" / "root.json").read_bytes(), "accepted": 0, **changes})


def trusts(store, state, number=1, **words):
    return accept_metadata(
        sign_update(store, a_manifest(number), utc=NOW, root_version=0, **words), state, satellite="SAT-1", utc=NOW
    ).state


def test_a_rotated_key_is_followed_from_the_kit_and_counters_go_on(place, skyload):
    told = skyload("rotate", "timestamp", "snapshot")
    assert (told["in_force"], told["root_version"], told["begins_epoch"]) == (True, 2, False)
    assert trusts(of(place), kit_state(place)).root_version == 2
    with pytest.raises(ProtocolError):
        trusts(of(place), kit_state(place, accepted=5))


@pytest.mark.parametrize("name", ["root-2", "command", "targets"])
def test_every_kind_of_key_can_be_replaced(place, skyload, name):
    before = {key["name"]: key["key_id"] for key in skyload("list")["keys"]}
    skyload("rotate", name)
    after = {key["name"]: key["key_id"] for key in skyload("list")["keys"]}
    assert {key for key in after if before[key] != after[key]} == {name}
    assert all(key["is_trusted"] for key in skyload("list")["keys"])
    assert trusts(of(place), kit_state(place)).root_version == 2


def test_a_revoked_online_key_begins_an_epoch_and_cures_a_fast_forward(place, skyload):
    with pytest.raises(ProtocolError):
        trusts(of(place), kit_state(place, accepted=2**31), 7)
    told = skyload("revoke", *ONLINE, "--floor", "3", "--yes")
    assert told["begins_epoch"]
    state = trusts(of(place), kit_state(place, accepted=2**31), 7)
    assert (state.epoch, state.accepted, state.floor) == (1, 7, 3)


def test_a_key_is_revoked_by_its_id_and_a_root_key_begins_no_epoch(place, skyload):
    ids = {key["name"]: key["key_id"] for key in skyload("list")["keys"]}
    told = skyload("revoke", ids["root-3"][:10])
    assert (told["changes"], told["begins_epoch"]) == (["root-3"], False)
    assert "keys list" in skyload("revoke", "ffffffff", code=5)


def test_missed_rotations_fly_beside_the_commands_until_they_are_reported(place, skyload):
    for name in ONLINE:
        skyload("rotate", name)
    with Depot.open(place / "depot") as depot:
        (queued,) = depot.journal.commands("SAT-1", CommandState.QUEUED)
        assert (queued.operation, len(queued.data) < 2200) == (ROTATE, True)
        state = accept_metadata(queued.data, kit_state(place), satellite="SAT-1", utc=NOW).state
        assert state.root_version == 4
        report = Report(root_version=4, nonce=b"n" * FRESHNESS_SIZE)
        depot.journal.record_report(
            ReceivedReport(satellite="SAT-1", session=b"s" * 6, sequence=1, received_utc=NOW, report=report)
        )
        assert queue_rotation(depot, of(place), "SAT-1", utc=NOW) == 0
        assert not depot.journal.commands("SAT-1", CommandState.QUEUED)
    assert skyload("send", "--all-roots")["queued"] == {"SAT-1": 1}
    assert skyload("list")["satellites"][0]["on_board"]["root_version"] == 4


def test_many_missed_rotations_come_in_as_many_objects_as_they_need(store, monkeypatch):
    monkeypatch.setattr(signing, "ROOTS_MAX", 2)
    for _ in range(3):
        rotation.prepare(store, ["timestamp"], is_leaked=False, floor=0, utc=NOW)
        rotation.sign_here(store)
        rotation.commit(store)
    state = TrustState(root=store.roots_after(0)[0], accepted=0)
    objects = make_rotations(store, 1)
    assert len(objects) == 2
    for data in objects:
        state = accept_metadata(data, state, satellite="SAT-1", utc=NOW).state
    assert state.root_version == 4


# -- the ceremony


def away(place, *names):
    """Root keys leave the depot."""
    (place / "vault").mkdir(exist_ok=True)
    for name in names:
        (place / "depot" / "keys" / f"{name}.pem").rename(place / "vault" / f"{name}.pem")


def test_a_root_ceremony_goes_from_the_depot_to_the_root_keys_and_back(place, skyload):
    away(place, "root-1", "root-2", "root-3")
    told = skyload("rotate", "timestamp")
    assert (told["in_force"], len(told["missing"])) == (False, 2)
    stick = str(place / "stick")
    assert skyload("root", "prepare", stick)["root_version"] == 2
    first = skyload("sign", "--offline", stick, "--key", str(place / "vault/root-1.pem"), "--yes", depot=False)
    assert len(first["missing"]) == 2
    assert skyload("root", "combine", stick)["in_force"] is False
    last = skyload("sign", "--offline", stick, "--key", str(place / "vault/root-3.pem"), "--yes", depot=False)
    assert last["missing"] == []
    assert any("timestamp: with key" in line for line in last["changes"])
    assert skyload("root", "combine", stick)["in_force"]
    assert trusts(of(place), kit_state(place)).root_version == 2
    assert skyload("root", "status")["next"] is None


def test_one_root_key_alone_puts_no_root_in_force(place, skyload):
    away(place, "root-1", "root-2")
    assert skyload("rotate", "timestamp")["in_force"] is False
    told = CliRunner().invoke(keys.app, ["root", "status", "--depot", str(place / "depot")]).stderr
    for words in ("skyload keys root prepare", "skyload keys root combine"):
        assert words in told
    store = of(place)
    with pytest.raises(KeyStoreError, match="would not follow"):
        rotation.commit(store)
    with pytest.raises(RootSignatureError):
        follow_roots([(store.next_path / "root.json").read_bytes()], store.root())
    assert read_root(store.root()).version == 1
    assert skyload("root", "drop")["dropped"] == 2
    assert not store.next_path.exists()


def test_whoever_signs_offline_is_shown_every_change_and_is_a_root_key(place, skyload):
    away(place, "root-1", "root-2")
    skyload("revoke", "targets", "--floor", "9", "--yes")
    stick, words = str(place / "stick"), ("--key", str(place / "vault/root-1.pem"))
    skyload("root", "prepare", stick)
    shown = CliRunner().invoke(keys.app, ["sign", "--offline", stick, *words], input="n\n")
    assert shown.exit_code == 3
    assert "targets: with key" in shown.output
    assert "a new epoch, 1: versions start again, with floor 9" in shown.output
    stranger = place / "stranger.pem"
    skyload("make", str(stranger), "--no-seal", depot=False)
    assert "of neither root" in skyload(
        "sign", "--offline", stick, "--key", str(stranger), "--yes", code=4, depot=False
    )


def test_whoever_signs_a_root_sees_when_it_says_it_was_made(store):
    """A date far ahead would let every update expire on board, until a new epoch."""
    current = read_root(store.root())
    metadata = rotation.prepare(store, ["timestamp"], is_leaked=False, floor=0, utc=NOW).metadata
    metadata.signed.unrecognized_fields[SIGNED_AT_FIELD] = int(datetime(2101, 1, 2, tzinfo=UTC).timestamp())
    assert any("made on 2101-01-02" in line for line in _changes(current, read_root(metadata.to_bytes())))


def test_another_root_than_the_prepared_one_is_not_taken(place, skyload):
    away(place, "root-1", "root-2")
    skyload("rotate", "targets")
    skyload("root", "prepare", str(place / "stick"))
    skyload("root", "drop")
    skyload("rotate", "targets")
    assert "not the root that was prepared" in skyload("root", "combine", str(place / "stick"), code=4)


def test_a_key_that_was_made_elsewhere_takes_a_place_without_its_private_half(place, skyload):
    skyload("make", str(place / "new.pem"), "--no-seal", depot=False)
    skyload("rotate", "root-1", "--public", str(place / "new.public"))
    (entry,) = [key for key in skyload("list")["keys"] if key["name"] == "root-1"]
    assert entry["where"] == "not here"
    assert entry["is_trusted"]
    stick = str(place / "stick")
    away(place, "root-2", "root-3")
    skyload("rotate", "snapshot")
    skyload("root", "prepare", stick)
    for key in ("new.pem", "vault/root-2.pem"):
        skyload("sign", "--offline", stick, "--key", str(place / key), "--yes", depot=False)
    assert skyload("root", "combine", stick)["root_version"] == 3


@pytest.mark.parametrize("step", ["root kept", "private moved", "public moved"])
def test_an_interrupted_commit_goes_on(place, skyload, monkeypatch, step):
    store = of(place)
    rotation.prepare(store, ["timestamp"], is_leaked=False, floor=0, utc=NOW)
    rotation.sign_here(store)
    cut = {
        "root kept": ("_move_in", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)),
        "private moved": ("sync_directory", None),
        "public moved": ("replace_durably", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt)),
    }[step]
    if step == "private moved":
        (store.next_path / "timestamp.pem").replace(store.path / "timestamp.pem")
    else:
        with monkeypatch.context() as patch:
            patch.setattr(rotation, *cut)
            with pytest.raises(KeyboardInterrupt):
                rotation.commit(store)
    assert rotation.commit(store).is_in_force is False
    assert rotation.commit(store).is_in_force
    assert trusts(of(place), kit_state(place)).root_version == 2


# -- sealed keys


def test_sealed_keys_open_with_their_passphrase_only_and_openssl_knows_the_format(tmp_path):
    (tmp_path / "words").write_text("correct horse\n")
    (tmp_path / "wrong").write_text("battery\n")
    passphrase = Passphrase(tmp_path / "words")
    key = CryptoSigner.generate_ed25519()._private_key
    write_key(tmp_path / "key.pem", key, passphrase)
    assert b"ENCRYPTED" in (tmp_path / "key.pem").read_bytes()
    assert read_key(tmp_path / "key.pem", passphrase).private_bytes_raw() == key.private_bytes_raw()
    with pytest.raises(KeyStoreError, match="does not open"):
        read_key(tmp_path / "key.pem", Passphrase(tmp_path / "wrong"))
    with pytest.raises(KeyStoreError, match="not a terminal"):
        read_key(tmp_path / "key.pem", Passphrase())
    if shutil.which("openssl"):
        words = ["openssl", "pkey", "-in", tmp_path / "key.pem", "-passin", "pass:correct horse", "-noout"]
        subprocess.run(words, check=True)
        listing = subprocess.run(["openssl", "asn1parse", "-in", tmp_path / "key.pem"], capture_output=True, text=True)
        assert "scrypt" in listing.stdout


def test_a_depot_with_sealed_keys_signs_with_the_passphrase_of_a_file_or_of_a_variable(tmp_path, skyload, monkeypatch):
    words = tmp_path / "words"
    words.write_text("correct horse\n")
    skyload("init", "--satellite", "SAT-1", "--kit", str(tmp_path / "kit"), "--passphrase-file", str(words))
    store = KeyStore(tmp_path / "depot" / "keys", Passphrase())
    assert all(store.is_sealed(key["name"]) for key in skyload("list")["keys"])  # and nobody was asked
    with pytest.raises(KeyStoreError, match="passphrase is needed"):
        sign_update(store, a_manifest(), utc=NOW)
    monkeypatch.setenv(WORDS_VARIABLE, "correct horse")
    assert sign_update(KeyStore(store.path, Passphrase()), a_manifest(), utc=NOW)


def test_keys_are_sealed_later_and_under_another_passphrase(place, skyload):
    for number, name in enumerate(("first", "second")):
        (place / name).write_text(f"words {number}\n")
    skyload("protect", "--new-passphrase-file", str(place / "first"))
    assert of(place).is_sealed("targets")
    assert "does not open" in skyload("protect", "--passphrase-file", str(place / "second"), code=4)
    assert "--new-passphrase-file" in skyload("protect", "--passphrase-file", str(place / "first"), code=4)
    skyload("protect", "--passphrase-file", str(place / "first"), "--new-passphrase-file", str(place / "second"))
    assert KeyStore(of(place).path, Passphrase(place / "second")).signer("targets")
    with pytest.raises(KeyStoreError):
        KeyStore(of(place).path, Passphrase(place / "first")).signer("targets")


def test_what_is_exported_holds_no_private_key(place, skyload):
    skyload("rotate", "timestamp")
    files = skyload("export", str(place / "out"))["files"]
    assert {"root.json", "roots/1.json", "roots/2.json", "root-1.public", "command.public"} <= set(files)
    assert not [path for path in (place / "out").rglob("*") if path.is_file() and b"PRIVATE" in path.read_bytes()]


# -- post-quantum


def test_a_hybrid_root_needs_both_kinds_of_keys(tmp_path):
    store = KeyStore(tmp_path / "keys")
    create_trust(store, utc=NOW, is_post_quantum=True)
    first = store.root()
    for name in ("root-pq-1", "root-pq-2"):
        (store.path / f"{name}.pem").rename(tmp_path / f"{name}.pem")
    rotation.prepare(store, ["targets"], is_leaked=True, floor=0, utc=NOW)
    next_ = rotation.sign_here(store)
    assert {words[-12:] for words in next_.missing} == {"root-pq keys"}
    with pytest.raises(KeyStoreError, match="would not follow"):
        rotation.commit(store)
    (tmp_path / "root-pq-2.pem").rename(store.path / "root-pq-2.pem")
    assert rotation.sign_here(store).missing == ()
    rotation.commit(store)
    data = sign_update(store, a_manifest(), utc=NOW, root_version=1)
    accepted = accept_metadata(data, TrustState(root=first, accepted=0), satellite="SAT-1", utc=NOW)
    assert accepted.state.epoch == 1
    assert len(first) < 32 * 1024
    assert len(sign_update(store, a_manifest(), utc=NOW)) < 900  # the roots only are larger


def test_a_depot_with_plain_roots_gets_hybrid_ones(place, skyload):
    skyload("rotate", "root-pq-1")
    skyload("rotate", "root-pq-2")
    skyload("rotate", "root-pq-2", "root-1")
    assert trusts(of(place), kit_state(place)).root_version == 4
    roles = {role["role"]: len(role["keys"]) for role in skyload("root", "status")["roles"]}
    assert roles["root-pq"] == 2


# -- tokens


def softhsm(directory, monkeypatch):
    """A token with a P-256 key of number 2, made for this test."""
    pytest.importorskip("pkcs11", reason="python-pkcs11 is not installed")
    module = next((path for path in SOFTHSM if path and Path(path).exists()), None)
    util = shutil.which("softhsm2-util")
    if module is None or util is None:
        pytest.skip("SoftHSM is not installed")
    tokens = directory / "tokens"
    tokens.mkdir()
    config = directory / "softhsm2.conf"
    config.write_text(f"directories.tokendir = {tokens}\nobjectstore.backend = file\nlog.level = ERROR\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(config))
    monkeypatch.setenv("PYKCS11LIB", module)
    monkeypatch.setenv("SKYLOAD_PIN", "1234")
    words = ["--init-token", "--free", "--label", "skyload", "--pin", "1234", "--so-pin", "123456", "--module", module]
    subprocess.run([util, *words], check=True, capture_output=True)
    import pkcs11
    from pkcs11.util.ec import encode_named_curve_parameters

    library = pkcs11.lib(module)
    library.reinitialize()
    with library.get_token(token_label="skyload").open(rw=True, user_pin="1234") as session:
        curve = {pkcs11.Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}
        parameters = session.create_domain_parameters(pkcs11.KeyType.EC, curve, local=True)
        parameters.generate_keypair(id=b"\x02", label="two", store=True)


def test_a_key_on_a_token_signs_updates_and_its_private_half_is_nowhere_else(place, skyload, monkeypatch):
    softhsm(place, monkeypatch)
    skyload("rotate", "targets", "--key-uri", "hsm:2?label=skyload")
    (entry,) = [key for key in skyload("list")["keys"] if key["name"] == "targets"]
    assert (entry["where"], entry["scheme"]) == ("hsm:2?label=skyload", "ecdsa-sha2-nistp256")
    assert not (of(place).path / "targets.pem").exists()
    assert trusts(of(place), kit_state(place)).accepted == 1
    monkeypatch.setenv("SKYLOAD_PIN", "9999")
    with pytest.raises(KeyStoreError, match="hsm:2"):
        sign_update(of(place), a_manifest(), utc=NOW)


def test_a_token_that_is_not_there_is_told(place, skyload, monkeypatch):
    monkeypatch.setenv("PYKCS11LIB", "/nonexistent.so")
    words = skyload("rotate", "targets", "--key-uri", "hsm:2?label=none", code=4)
    assert "hint:" in words
    assert not (of(place).next_path).exists()


def test_keys_that_a_satellite_could_not_use_are_refused_before_anything_is_made(place, skyload):
    skyload("make", str(place / "pq.pem"), "--post-quantum", "--no-seal", depot=False)
    assert "ml-dsa" in skyload("rotate", "targets", "--public", str(place / "pq.public"), code=4)
    (place / "p384.pem").write_bytes(
        ec.generate_private_key(ec.SECP384R1())
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    assert "P-256" in skyload("rotate", "command", "--key-uri", "hv:sky/1", "--public", str(place / "p384.pem"), code=4)
    assert not (of(place).next_path).exists()


# -- what was staged before


def put_update(depot, directory, number, *, state=FlightState.STAGED):
    update = Update(
        handle=bytes([number]) * 6,
        sequence=number,
        satellite="SAT-1",
        release_name="tiny",
        release_digest=bytes([number]) * 32,
        base_digest=None,
        state=state,
        payload_bytes=1,
        directory=directory / "depot" / "updates" / str(number),
        created_utc=NOW,
    )
    depot.add_update(update, ())
    return update


def report_of(depot, sequence=1, **fields):
    depot.journal.record_report(
        ReceivedReport(
            satellite="SAT-1", session=b"s" * 6, sequence=sequence, received_utc=NOW, report=Report(**fields)
        )
    )


def test_updates_that_the_new_root_shuts_out_end_in_the_depot(place, skyload):
    with Depot.open(place / "depot") as depot:
        waits, flies, done = (put_update(depot, place, number) for number in (1, 2, 3))
        depot.set_update_state(done.handle, FlightState.CONFIRMED)
        report_of(depot, updates=(UpdateStatus(handle=flies.handle, state=UpdateState.RECEIVING),))
    assert skyload("rotate", "root-1")["ended_updates"] == []
    assert skyload("rotate", "targets")["ended_updates"] == [waits.handle.hex()]
    assert skyload("revoke", "targets", "--yes")["ended_updates"] == [flies.handle.hex()]
    with Depot.open(place / "depot") as depot:
        states = {update.sequence: update.state for update in depot.updates()}
    assert states == {1: FlightState.CANCELLED, 2: FlightState.CANCELLED, 3: FlightState.CONFIRMED}


def test_a_version_that_nobody_here_signed_stops_staging_until_an_epoch_begins(place, skyload):
    with Depot.open(place / "depot") as depot:
        assert accepted_by(depot, "SAT-1") == 0
        report_of(depot, accepted=41)
        assert accepted_by(depot, "SAT-1") == 41
        depot.journal.record_report(
            ReceivedReport(
                satellite="SAT-1", session=b"s" * 6, sequence=2, received_utc=NOW, report=Report(accepted=2**31)
            )
        )
        with pytest.raises(KeyStoreError) as caught:
            accepted_by(depot, "SAT-1")
        assert "keys revoke" in caught.value.hint
    skyload("revoke", "timestamp", "--yes")
    with Depot.open(place / "depot") as depot:
        assert accepted_by(depot, "SAT-1") == 0


def test_new_roots_go_by_file_and_by_station_as_commands_do(place, skyload):
    skyload("rotate", "timestamp")
    with Depot.open(place / "depot") as depot:
        queued = depot.journal.commands("SAT-1", CommandState.QUEUED)
        orders = make_orders(depot, depot.add_station("SAT-1", "svalbard", added_utc=NOW), utc=NOW)
    ((name, is_new),) = export_commands(queued, place / "files")
    assert (name.startswith("metadata-"), is_new) == (True, True)
    assert (place / "files" / name).read_bytes() == queued[0].data
    received = Orders.open(orders.seal(bytes(32)), bytes(32))
    assert [(entry.operation, entry.data) for entry in received.commands] == [(ROTATE, queued[0].data)]
