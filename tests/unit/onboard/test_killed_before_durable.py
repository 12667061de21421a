"""A process may be killed between a change and its sync: the next life makes durable what it finds, then relies on it.

Until the power goes the kernel remembers what was done, so it cannot be told from what is durable.
"""

import pytest

from onboard.config import load_config
from onboard.errors import StoreFailedError
from onboard.installer.housekeeping import point_current
from onboard.installer.release import copy_release
from onboard.state import locked_state, open_record
from onboard.store.disk import RealDisk
from onboard.store.layout import StateLayout, make_state_directories
from onboard.store.record import copy_paths
from onboard.store.roots import keep_root
from tests.fakes.updates import FakeGround, write_files
from tests.unit.onboard.test_messages import Life

FILES = {"config.json": b"{}", "model.bin": bytes(range(256))}


class Killed(BaseException):
    """Of the process."""


@pytest.fixture
def synced(monkeypatch):
    """The directories that were synced; a test may say at which the process is killed."""
    inner = RealDisk.sync_directory

    class Synced(list):
        killed_at = None

    found = Synced()

    def sync_directory(disk, path):
        if path == found.killed_at:
            raise Killed
        inner(disk, path)
        found.append(path)

    monkeypatch.setattr(RealDisk, "sync_directory", sync_directory)
    return found


def killed(synced, path, call):
    synced.killed_at = path
    with pytest.raises(Killed):
        call()
    synced.killed_at = None
    synced.clear()


def test_the_name_of_a_provisioned_release(tmp_path, synced):
    source, releases = write_files(tmp_path / "model", FILES), tmp_path / "releases"
    releases.mkdir()
    killed(synced, releases, lambda: copy_release(source, releases))
    copy_release(source, releases)
    assert releases in synced


def test_the_link_to_what_serves(tmp_path, synced):
    layout = StateLayout(tmp_path / "state")
    make_state_directories(layout, RealDisk())
    killed(synced, layout.state_dir, lambda: point_current(layout, bytes(32)))
    assert layout.current.is_symlink()
    point_current(layout, bytes(32))
    assert layout.state_dir in synced


def test_the_directory_of_messages(tmp_path, synced):
    killed(synced, tmp_path, lambda: Life(tmp_path / "messages"))
    assert (tmp_path / "messages").is_dir()
    Life(tmp_path / "messages")
    assert tmp_path in synced


def test_directories_above_the_state(tmp_path, synced):
    FakeGround().write_kit(tmp_path, command=["engine"])
    path = tmp_path / "satellite.toml"
    text = path.read_text()
    assert text.count('"state"') == 1
    path.write_text(text.replace('"state"', '"deep/er/state"'))
    with locked_state(load_config(path)):
        assert {tmp_path, tmp_path / "deep", tmp_path / "deep/er", tmp_path / "deep/er/state"} <= set(synced)


def test_a_root_without_a_record_is_a_lost_record_and_not_the_first_day(tmp_path):
    layout = StateLayout(tmp_path / "state")
    make_state_directories(layout, RealDisk())
    open_record(layout)
    keep_root(layout, FakeGround().root)
    for path in copy_paths(layout.record):
        path.unlink()
    with pytest.raises(StoreFailedError, match="it is gone"):
        open_record(layout)
    assert not any(path.exists() for path in copy_paths(layout.record))
