"""Updates that come as files: real processes, half of it by the link or no link at all."""

import contextlib
import hashlib
import json
import random
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from groundsegment.console.main import app
from groundsegment.depot import records
from groundsegment.depot.depot import Depot
from groundsegment.depot.records import Bundle, FlightState, Update
from protocol.command import Operation
from protocol.file_names import bundle_file_name, metadata_file_name, object_file_name
from protocol.objects import ObjectKind, object_handle
from protocol.report import UpdateState
from tests.e2e.test_daemon import NEW, OLD, Satellite, is_confirmed


@pytest.fixture
def satellite(tmp_path):
    satellite = Satellite(tmp_path)
    yield satellite
    satellite.close()


def write_update(directory: Path, update) -> tuple[Path, list[Path]]:
    """The files that `skyload export` writes: metadata, bundles."""
    directory.mkdir(exist_ok=True)
    metadata = directory / metadata_file_name(update.manifest.sequence, update.handle)
    metadata.write_bytes(update.metadata)
    bundles = []
    for number, data in enumerate(update.bundles):
        name = bundle_file_name(update.manifest.sequence, update.handle, number, object_handle(data))
        bundles.append(directory / name)
        bundles[-1].write_bytes(data)
    return metadata, bundles


def imported(satellite, *paths, code=0):
    """What `skyloadd import` says of each file, by name."""
    done = satellite.skyloadd("import", *map(str, paths), "--json")
    assert done.returncode == code, done.stderr
    return {Path(entry["path"]).name: (entry["outcome"], entry["reason"]) for entry in json.loads(done.stdout)["files"]}


def until_state(satellite, state, timeout_s=60.0):
    deadline, said = time.monotonic() + timeout_s, None
    while said is None or said["state"] != state.name.lower():
        assert time.monotonic() < deadline, said
        with contextlib.suppress(OSError):  # a busy machine may let a status wait too long
            said = satellite.status()["update"]
        time.sleep(0.05)


@pytest.mark.slow
def test_an_update_carried_by_hand_is_confirmed_without_any_link(satellite, tmp_path):
    satellite.provision(OLD)
    update = satellite.ground.make_update(NEW, base=OLD)
    metadata, bundles = write_update(tmp_path / "stick", update)
    before = imported(satellite, *bundles[:2], *bundles[:1])  # the daemon is not there yet
    assert {outcome for outcome, _ in before.values()} == {"waiting"}
    satellite.start()
    satellite.wait_until_serving(OLD)
    found = imported(satellite, tmp_path / "stick")
    assert found[metadata.name] == ("used", "")
    assert {outcome for outcome, _ in found.values()} <= {"used", "already there"}
    until_state(satellite, UpdateState.CONFIRMED)
    assert satellite.models() == update.digest.hex()
    assert {outcome for outcome, _ in imported(satellite, tmp_path / "stick").values()} == {"already there"}
    assert [path.name for path in (satellite.config.parent / "state/import").iterdir()] == ["lock"]


class LossyUplink:
    """What every tenth frame of which is lost, whoever sends it."""

    def __init__(self, uplink, seed):
        self._uplink, self._send, self._rng = uplink, uplink._send, random.Random(seed)
        uplink._send = self.send

    def send(self, frame):
        if self._rng.random() >= 0.1:
            self._send(frame)


@pytest.mark.slow
@pytest.mark.parametrize("metadata_first", [True, False])
def test_half_by_file_and_half_by_a_link_that_loses_frames_is_confirmed(satellite, tmp_path, metadata_first):
    satellite.provision(OLD)
    satellite.start()
    satellite.wait_until_serving(OLD)
    big = {**NEW, "model.bin": random.Random(5).randbytes(300_000)}
    update = satellite.ground.make_update(big, base=OLD, bundle_size=24_000)
    metadata, bundles = write_update(tmp_path / "stick", update)
    assert len(bundles) > 8
    LossyUplink(satellite.uplink, seed=5)
    if metadata_first:
        satellite.uplink.send(update.metadata)
    # Half of the symbols of every bundle arrive, then every other bundle comes as a file.
    for data in update.bundles:
        for frame in list(satellite.uplink.frames(data))[: len(data) // 512]:
            satellite.uplink._send(frame)
    found = imported(satellite, *bundles[::2])
    assert {outcome for outcome, _ in found.values()} == {"used" if metadata_first else "kept"}
    by_file = {object_handle(data) for data in update.bundles[::2]}
    satellite.uplink.until(lambda uplink: by_file <= uplink.complete)  # so a real uplink sends no more of them
    assert not by_file & {entry.handle for entry in satellite.uplink.report.open_blocks}
    if not metadata_first:
        assert imported(satellite, metadata)[metadata.name] == ("used", "")
    satellite.uplink.send(update.metadata, *update.bundles[1::2])
    satellite.uplink.until(is_confirmed(update))
    assert satellite.skyloadd("verify", "all").returncode == 0
    assert satellite.models() == update.digest.hex()


@pytest.mark.slow
def test_imports_survive_kills_and_a_daemon_that_comes_later(satellite, tmp_path):
    satellite.provision(OLD)
    update = satellite.ground.make_update({**NEW, "model.bin": random.Random(6).randbytes(200_000)}, base=OLD)
    metadata, bundles = write_update(tmp_path / "stick", update)
    order = [*bundles, metadata]
    random.Random(6).shuffle(order)
    for number, path in enumerate(order):
        if number % 4 == 1:
            satellite.start()
        (outcome, _) = imported(satellite, path)[path.name]
        assert outcome in {"waiting", "kept", "used"}
        if number % 4 == 3:
            satellite.kill()
    if satellite.process.poll() is not None:
        satellite.start()
    satellite.wait_until_serving()
    until_state(satellite, UpdateState.CONFIRMED)
    assert satellite.skyloadd("verify", "all").returncode == 0
    assert satellite.status()["num_files_waiting"] == 0


@pytest.mark.slow
def test_a_stick_of_damaged_foreign_and_stale_files_changes_nothing(satellite, tmp_path):
    satellite.provision(OLD)
    satellite.start()
    satellite.wait_until_serving(OLD)
    stick, ground = tmp_path / "stick", satellite.ground
    update = ground.make_update(NEW, base=OLD)
    old = ground.make_update(NEW, base=OLD, version=1, sequence=1)
    foreign = ground.make_update(NEW, satellites=("SAT-2",))
    metadata, bundles = write_update(stick, update)
    assert imported(satellite, metadata)[metadata.name] == ("used", "")
    stale, _ = write_update(tmp_path / "old", old)
    for_other, _ = write_update(tmp_path / "other", foreign)
    unsigned = stick / "unsigned.skm"
    unsigned.write_bytes(update.metadata[:-1] + b"?")
    damaged = stick / "renamed.skb"
    damaged.write_bytes(update.bundles[0][:-1] + b"?")
    bundles[0].unlink()
    found = imported(satellite, stale, for_other, unsigned, damaged, code=10)
    assert found == {
        stale.name: ("refused", "REPLAYED"),
        for_other.name: ("refused", "WRONG_SATELLITE"),
        "unsigned.skm": ("refused", "MALFORMED"),
        "renamed.skb": ("refused", "damaged: not bundle 0 as it was signed"),
    }
    until_state(satellite, UpdateState.RECEIVING)
    write_update(stick, update)
    imported(satellite, *bundles)
    until_state(satellite, UpdateState.CONFIRMED)


@pytest.mark.slow
def test_a_command_that_comes_as_a_file_is_obeyed_once(satellite, tmp_path):
    satellite.provision(OLD)
    satellite.start()
    satellite.wait_until_serving(OLD)
    data = satellite.ground.command(Operation.CANCEL, {"update": b"123456"})
    path = tmp_path / object_file_name(ObjectKind.COMMAND, object_handle(data))
    path.write_bytes(data)
    assert imported(satellite, path)[path.name] == ("used", "")
    assert imported(satellite, path)[path.name] == ("already there", "")
    events = satellite.status()["events"]
    assert (events["command_accepted"], events.get("command_refused", 0)) == (1, 0)


def stage_in_depot(path, ground, update):
    """A depot as it is after `skyload stage`."""
    depot = Depot.create(path)
    utc = datetime(2026, 11, 22, tzinfo=UTC)
    depot.add_satellite(
        records.Satellite(
            name=ground.satellite,
            identity_public=ground.identity_public_key,
            release_public=ground.release_public_key,
            added_utc=utc,
        )
    )
    key = depot.link_key_path(ground.satellite)
    key.parent.mkdir(parents=True)
    key.write_text(ground.link_key.hex() + "\n")
    directory = depot.updates_path / update.handle.hex()
    directory.mkdir(parents=True)
    entry = Update(
        handle=update.handle,
        sequence=update.manifest.sequence,
        satellite=ground.satellite,
        release_name="tiny",
        release_digest=update.digest,
        base_digest=None,
        state=FlightState.STAGED,
        payload_bytes=sum(map(len, update.bundles)),
        directory=directory,
        created_utc=utc,
    )
    entry.metadata_path.write_bytes(update.metadata)
    bundles = []
    for number, data in enumerate(update.bundles):
        (directory / f"{number}.skb").write_bytes(data)
        sha256 = hashlib.sha256(data).digest()
        bundles.append(
            Bundle(
                update=update.handle,
                number=number,
                sha256=sha256,
                size_bytes=len(data),
                num_segments=1,
                path=directory / f"{number}.skb",
            )
        )
    depot.add_update(entry, bundles)
    return depot


def skyload(*words):
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.slow
def test_an_update_goes_up_and_its_receipt_comes_down_all_by_hand(satellite, tmp_path):
    satellite.provision(OLD)
    satellite.start()
    satellite.wait_until_serving(OLD)
    update = satellite.ground.make_update(NEW, base=OLD)
    up, down, home = tmp_path / "up", tmp_path / "down", tmp_path / "depot"
    with stage_in_depot(home, satellite.ground, update) as depot:
        skyload("export", "newest", up, "--for", "SAT-1", "--only", "0", "--depot", home, "--json")
        skyload("export", "newest", up, "--for", "SAT-1", "--only", "metadata", "--depot", home, "--json")
        assert set(imported(satellite, up).values()) == {("used", "")}

        def bring_down():
            done = satellite.skyloadd("export-messages", str(down), "--json")
            assert done.returncode == 0, done.stderr
            said = skyload("import", down, "--depot", home, "--json")
            assert said["num_refused"] == 0
            return {(Path(entry["path"]).suffix, entry["outcome"]) for entry in said["files"]}

        assert (".skr", "new") in bring_down()
        facts = skyload("export", "newest", up, "--for", "SAT-1", "--missing", "--depot", home, "--json")
        assert [file["number"] for file in facts["files"]] == list(range(1, len(update.bundles)))
        imported(satellite, up)
        until_state(satellite, UpdateState.CONFIRMED)
        deadline = time.monotonic() + 10
        while depot.update(update.handle).state is not FlightState.CONFIRMED:  # it is recorded before it is said
            assert time.monotonic() < deadline
            bring_down()
        assert depot.journal.last_report("SAT-1").report.state is UpdateState.CONFIRMED
        again = skyload("import", down, "--depot", home, "--json")
        assert {entry["outcome"] for entry in again["files"]} == {"already known"}
