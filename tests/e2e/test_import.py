"""Updates that come as files: real processes, half of it by the link or no link at all."""

import json
import random
import shutil
import time
from pathlib import Path

import pytest

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


def until_state(satellite, state, timeout_s=20.0):
    deadline = time.monotonic() + timeout_s
    while satellite.status()["update"]["state"] != state.name.lower():
        assert time.monotonic() < deadline, satellite.status()["update"]
        time.sleep(0.05)


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
