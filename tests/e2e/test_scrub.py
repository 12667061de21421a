"""The real daemon and flipped bits: found and undone by itself, by hand and by command; what is lost is asked for."""

import json
import time

import pytest

from onboard.scrub.guard import Guard
from onboard.store.disk import RealDisk
from onboard.store.layout import directory_name
from protocol.command import Operation
from protocol.damage import DamageReport
from protocol.message import MessageKind
from tests.e2e.test_daemon import Satellite, is_confirmed
from tests.fakes.updates import digest_of
from tests.unit.test_repair import repair_of

pytestmark = pytest.mark.slow
FILES = {"config.json": b'{"old": 1}', "model.bin": bytes(range(256)) * 2000}
DIGEST = digest_of(FILES)


@pytest.fixture
def satellite(tmp_path):
    satellite = Satellite(tmp_path)
    satellite.provision(FILES)
    yield satellite
    satellite.close()


def directory_of(satellite):
    (found,) = satellite.directory.rglob(f"releases/{directory_name(DIGEST)}")
    return found


def overwrite(satellite, offset, data):
    with (directory_of(satellite) / "model.bin").open("r+b") as file:
        file.seek(offset)
        file.write(data)


def scrub(satellite, *words):
    done = satellite.skyloadd("scrub", *words, "--json")
    return done.returncode, json.loads(done.stdout) if done.stdout else done.stderr


def ruin(satellite):
    guard = Guard.open(directory_of(satellite), DIGEST, RealDisk())
    for block in list(guard.map.group(0, 1))[1:3]:
        overwrite(satellite, guard.map.where(block).offset, bytes(4096))


def test_by_hand_without_a_daemon_and_with_one(satellite):
    assert scrub(satellite)[0] == 0  # it makes the guard
    overwrite(satellite, 5000, b"\0")
    code, (result,) = scrub(satellite)
    assert (code, result["flips_found"], result["is_whole"]) == (0, 2, True)  # 0x88
    assert directory_of(satellite).joinpath("model.bin").read_bytes() == FILES["model.bin"]
    ruin(satellite)
    code, (result,) = scrub(satellite)
    assert code == 10
    assert [lost["size"] for lost in result["lost"]] == [4096, 4096]
    satellite.start()
    satellite.wait_until_serving(FILES)
    assert scrub(satellite, DIGEST.hex()[:6])[0] == 10
    status = satellite.status()["scrub"]
    assert status["lost"] == [{"release": DIGEST.hex(), "num_bytes": 8192, "num_ranges": 2}]
    assert satellite.skyloadd("scrub", "abcdef").returncode == 6


def test_the_daemon_undoes_flips_by_itself_and_says_so(satellite):
    assert scrub(satellite)[0] == 0
    overwrite(satellite, 5000, b"\0")
    satellite.config.write_text(satellite.config.read_text() + "\n[scrub]\nperiod_s = 0.5\n")
    satellite.start()
    satellite.wait_until_serving(FILES)
    deadline = time.monotonic() + 20
    while satellite.status()["scrub"]["flips_repaired"] < 2:  # 0x88
        assert time.monotonic() < deadline, satellite.log()
        time.sleep(0.1)
    assert directory_of(satellite).joinpath("model.bin").read_bytes() == FILES["model.bin"]
    assert satellite.chat()
    assert "flips_repaired" in satellite.log()
    satellite.wait_until_serving(FILES)
    overwrite(satellite, 7000, b"\1")
    while satellite.status()["scrub"]["flips_repaired"] < 4:
        assert time.monotonic() < deadline, satellite.log()
        time.sleep(0.1)
    assert satellite.chat()


def test_by_command_and_what_is_lost_comes_down_as_a_request(satellite):
    assert scrub(satellite)[0] == 0
    ruin(satellite)
    overwrite(satellite, 300_000, b"\xff")
    satellite.start()
    satellite.wait_until_serving(FILES)
    satellite.uplink.send(satellite.ground.command(Operation.SCRUB, {"release": None, "now": True}))
    satellite.uplink.until(
        lambda uplink: {MessageKind.RESULT, MessageKind.DAMAGE} <= {message.kind for message in uplink.messages}
    )
    said = {message.kind: message.body for message in satellite.uplink.messages}
    assert said[MessageKind.RESULT]["ok"] is False
    assert "8192 bytes lost in 2 places" in said[MessageKind.RESULT]["text"]
    report = DamageReport.from_body(said[MessageKind.DAMAGE])
    assert (report.release, report.num_bytes) == (DIGEST, 8192)


def test_what_was_lost_flies_in_and_the_release_is_whole_again(satellite):
    assert scrub(satellite)[0] == 0
    ruin(satellite)
    satellite.start()
    satellite.wait_until_serving(FILES)
    assert scrub(satellite)[0] == 10
    uplink = satellite.uplink
    uplink.until(lambda uplink: any(message.kind is MessageKind.DAMAGE for message in uplink.messages))
    (said,) = (message.body for message in uplink.messages if message.kind is MessageKind.DAMAGE)
    update, _ = repair_of(satellite.ground, satellite.directory, DamageReport.from_body(said).lost, FILES)
    for data in (update.metadata, *update.bundles):
        uplink.send(data)
    uplink.until(is_confirmed(update))
    assert directory_of(satellite).joinpath("model.bin").read_bytes() == FILES["model.bin"]
    code, (result,) = scrub(satellite)
    assert (code, result["flips"], result["lost"]) == (0, [], [])
    uplink.until(lambda uplink: sum(message.kind is MessageKind.DAMAGE for message in uplink.messages) == 2)
    assert satellite.status()["scrub"]["lost"] == []
    deadline = time.monotonic() + 10
    while "event=release_reloaded" not in satellite.log():
        assert time.monotonic() < deadline, satellite.log()
        time.sleep(0.1)
    satellite.wait_until_serving(FILES)
    assert satellite.chat()
