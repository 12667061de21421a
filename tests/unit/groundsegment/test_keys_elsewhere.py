"""Keys that are in no file of ours: on a PKCS #11 token, in an SSH agent. Every everyday role signs from there."""

import contextlib
import os
import shutil
import signal
import socket
import struct
import subprocess
import threading

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import Signer, SSlibKey

from groundsegment.errors import KeyStoreError
from groundsegment.signer.agent import AgentSigner
from groundsegment.signer.key_entry import KeyEntry, check_use, import_entry
from groundsegment.signer.key_store import KeyStore
from groundsegment.signer.passphrase import Passphrase
from groundsegment.signer.signing import sign_command
from protocol.command import Command, Operation
from protocol.errors import SignatureError
from protocol.roots import command_keys
from tests.unit.groundsegment import test_keys_change as change

first_day, nobody_gives_a_passphrase, place, skyload = (
    change.first_day,
    change.nobody_gives_a_passphrase,
    change.place,
    change.skyload,
)
EVERYDAY = ("targets", "snapshot", "timestamp", "command")


@contextlib.contextmanager
def ssh_agent(directory, monkeypatch):
    """An agent of this test's own with one key of each sort."""
    agent, add = shutil.which("ssh-agent"), shutil.which("ssh-add")
    if agent is None or add is None:
        pytest.skip("ssh-agent is not installed")
    path = str(directory / "agent")
    process = subprocess.Popen([agent, "-D", "-a", path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    monkeypatch.setenv("SSH_AUTH_SOCK", path)
    try:
        while not os.path.exists(path):  # noqa: PTH110 - a socket, made by another process
            assert process.poll() is None
        for name, key in (("ed", Ed25519PrivateKey.generate()), ("p256", ec.generate_private_key(ec.SECP256R1()))):
            text = key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
            )
            (directory / name).write_bytes(text)
            (directory / name).chmod(0o600)
            subprocess.run([add, "-q", directory / name], check=True, capture_output=True)
            (directory / name).unlink()  # the agent alone has it
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def fingerprints():
    """Of the agent's keys, by their kinds."""
    lines = subprocess.run(["ssh-add", "-l"], check=True, capture_output=True, text=True).stdout.splitlines()
    return {line.split()[-1].strip("()").lower(): line.split()[1] for line in lines}


def commands_are_obeyed(store, counter=1):
    data = sign_command(store, Command(satellite="SAT-1", counter=counter, operation=Operation.SCRUB))
    keys = command_keys(store.root())
    assert Command.open(data, public_keys=keys, satellite="SAT-1").counter == counter
    for at in (17, 50, len(data) - 1):
        with pytest.raises(SignatureError):
            Command.open(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], public_keys=keys, satellite="SAT-1")
    return data


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa"])
@pytest.mark.parametrize("name", EVERYDAY)
def test_every_everyday_key_may_be_in_an_agent(place, skyload, monkeypatch, name, kind):
    with ssh_agent(place, monkeypatch):
        fingerprint = fingerprints()[kind]
        skyload("rotate", name, "--key-uri", f"ssh-agent:{fingerprint}")
        (entry,) = [key for key in skyload("list")["keys"] if key["name"] == name]
        assert (entry["where"], entry["is_trusted"]) == (f"ssh-agent:{fingerprint}", True)
        assert entry["scheme"].startswith(kind)
        assert not (change.of(place).path / f"{name}.pem").exists()
        assert change.trusts(change.of(place), change.kit_state(place)).accepted == 1
        commands_are_obeyed(change.of(place))


@pytest.mark.parametrize("name", EVERYDAY)
def test_every_everyday_key_may_be_on_a_token(place, skyload, monkeypatch, name):
    change.softhsm(place, monkeypatch)
    skyload("rotate", name, "--key-uri", "hsm:2?label=skyload")
    assert not (change.of(place).path / f"{name}.pem").exists()
    assert change.trusts(change.of(place), change.kit_state(place)).accepted == 1
    commands_are_obeyed(change.of(place))


def test_a_depot_may_begin_with_keys_that_are_elsewhere(tmp_path, skyload, monkeypatch):
    change.softhsm(tmp_path, monkeypatch)
    with ssh_agent(tmp_path, monkeypatch):
        uris = {"command": "hsm:2?label=skyload", "targets": f"ssh-agent:{fingerprints()['ed25519']}"}
        words = [word for name, uri in uris.items() for word in ("--key-uri", f"{name}={uri}")]
        skyload("init", "--satellite", "SAT-1", "--kit", str(tmp_path / "kit"), *words)
        where = {key["name"]: key["where"] for key in skyload("list")["keys"]}
        assert {name: where[name] for name in uris} == uris
        assert where["snapshot"] == "here"
        assert change.trusts(change.of(tmp_path), change.kit_state(tmp_path)).accepted == 1
        commands_are_obeyed(change.of(tmp_path))


@pytest.mark.parametrize("words", ["command", "command=", "nobody=hsm:2"])
def test_what_names_no_key_is_told_before_anything_is_made(tmp_path, skyload, words):
    kit = str(tmp_path / "kit")
    assert "NAME=URI" in skyload("init", "--satellite", "SAT-1", "--kit", kit, "--key-uri", words, code=3)


def test_an_agent_that_is_not_there_or_has_no_such_key_is_told(place, skyload, monkeypatch):
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    assert "no SSH agent" in skyload("rotate", "targets", "--key-uri", "ssh-agent:x", code=4)
    monkeypatch.setenv("SSH_AUTH_SOCK", str(place / "nobody"))
    assert "does not answer" in skyload("rotate", "targets", "--key-uri", "ssh-agent:x", code=4)
    with ssh_agent(place, monkeypatch):
        assert "no keys of that name" in skyload("rotate", "targets", "--key-uri", "ssh-agent:x", code=4)
        assert "has 2 keys" in skyload("rotate", "targets", "--key-uri", "ssh-agent:", code=4)
        skyload("rotate", "targets", "--key-uri", f"ssh-agent:{fingerprints()['ed25519']}")
        subprocess.run(["ssh-add", "-D"], check=True, capture_output=True)
        with pytest.raises(KeyStoreError, match="no keys of that name"):
            change.trusts(change.of(place), change.kit_state(place))


def test_the_key_that_an_agent_has_must_be_the_one_that_was_asked_for(place, monkeypatch):
    with ssh_agent(place, monkeypatch):
        uris = [f"ssh-agent:{fingerprint}" for fingerprint in fingerprints().values()]
        first = import_entry(uris[0], Passphrase())
        with pytest.raises(KeyStoreError, match="another key"):
            Signer.from_priv_key_uri(uris[1], first.key)


@contextlib.contextmanager
def fake_agent(directory, monkeypatch, answer):
    """Something that answers one request with these bytes; with None it hangs up."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(directory / "agent"))
        server.listen()
        monkeypatch.setenv("SSH_AUTH_SOCK", str(directory / "agent"))

        def serve():
            connection, _ = server.accept()
            with connection:
                connection.recv(64)
                if answer is not None:
                    connection.sendall(struct.pack(">I", len(answer)) + answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        thread.join()


def ssh_strings(*parts):
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)


def test_a_comment_names_a_key_and_its_fingerprint_is_kept(tmp_path, monkeypatch):
    key = Ed25519PrivateKey.generate().public_key()
    blob = ssh_strings(b"ssh-ed25519", key.public_bytes_raw())
    fido = ssh_strings(b"sk-ssh-ed25519@openssh.com", bytes(32))
    answer = b"\x0c" + struct.pack(">I", 2) + ssh_strings(fido, b"ops", blob, b"ops")
    with fake_agent(tmp_path, monkeypatch, answer):
        entry = import_entry("ssh-agent:ops", Passphrase())
    assert entry.key == SSlibKey.from_crypto(key)
    assert entry.uri.startswith("ssh-agent:SHA256:")


@pytest.mark.parametrize(
    "answer",
    [b"", b"\5", b"\x0c", b"\x0c\0\0\0\1\xff\xff\xff\xff", b"\x0c\0\0\0\1\0\0\0\0\0\0\0\0", None],
    ids=["empty", "failure", "short", "too long a string", "a key without a kind", "hangs up"],
)
def test_what_is_no_agent_is_told(tmp_path, monkeypatch, answer):
    with fake_agent(tmp_path, monkeypatch, answer), pytest.raises(KeyStoreError):
        import_entry("ssh-agent:x", Passphrase())


def test_an_identity_that_cannot_be_read_hides_no_other_and_is_counted(tmp_path, monkeypatch):
    key = Ed25519PrivateKey.generate().public_key()
    blob = ssh_strings(b"ssh-ed25519", key.public_bytes_raw())
    point = ssh_strings(b"ecdsa-sha2-nistp256", b"nistp256", b"\4" + bytes(64))
    broken = [b"", b"\xff" * 4, ssh_strings(b"ssh-ed25519", b"abc"), blob + b"x", point]
    pairs = [part for one in [*broken, blob] for part in (one, b"ops")]
    answer = b"\x0c" + struct.pack(">I", len(broken) + 1) + ssh_strings(*pairs)
    with fake_agent(tmp_path, monkeypatch, answer):
        assert import_entry("ssh-agent:ops", Passphrase()).key == SSlibKey.from_crypto(key)
    (tmp_path / "agent").unlink()
    with fake_agent(tmp_path, monkeypatch, answer), pytest.raises(KeyStoreError, match="5 of its keys cannot be read"):
        import_entry("ssh-agent:x", Passphrase())


@pytest.mark.parametrize("kind", ["ssh-rsa", "ssh-ed25519", "rsa-sha2-512", ""])
def test_a_signature_of_another_kind_than_its_key_is_told(tmp_path, monkeypatch, kind):
    key = SSlibKey.from_crypto(ec.generate_private_key(ec.SECP256R1()).public_key())
    signer = AgentSigner(ssh_strings(b"ecdsa-sha2-nistp256", b"nistp256", b"\4" + bytes(64)), key)
    answer = b"\x0e" + ssh_strings(ssh_strings(kind.encode(), bytes(64)))
    with fake_agent(tmp_path, monkeypatch, answer), pytest.raises(KeyStoreError, match="signed as") as caught:
        signer.sign(b"words")
    assert "ssh-add" in caught.value.hint


def test_a_command_key_of_another_kind_is_refused():
    key = SSlibKey.from_crypto(ec.generate_private_key(ec.SECP384R1()).public_key())
    with pytest.raises(KeyStoreError, match="command"):
        check_use("command", KeyEntry(key=key, uri="hsm:2"))


def test_a_key_that_is_there_is_not_replaced_by_one_that_is_elsewhere(tmp_path):
    store = KeyStore(tmp_path)
    store.make("command")
    key = SSlibKey.from_crypto(Ed25519PrivateKey.generate().public_key())
    with pytest.raises(KeyStoreError, match="already"):
        store.use("command", KeyEntry(key=key, uri="hsm:2"))
