"""A read that fails once says little of a medium: it is tried again before what lies there is given up."""

import errno
import os
from pathlib import Path

import pytest

from onboard.errors import BundleSpoiltError, StoreFailedError
from onboard.installer import received
from onboard.installer.update_file import read_update
from onboard.scrub.ledger import Ledger, LedgerFile
from onboard.store.contact_file import read_contacts, write_contacts
from onboard.store.disk import RealDisk, replace_file
from onboard.store.facts import RecordedUpdate
from onboard.store.layout import StateLayout
from onboard.store.roots import keep_root, read_root_copies, root_paths
from protocol.limits import STATIONS_MAX
from protocol.message import MessageKind
from protocol.objects import object_handle
from protocol.report import UpdateState
from tests.fakes.updates import FakeGround
from tests.unit.onboard.test_messages import Life


class Failing:
    """A call that fails so many times, then does what it should."""

    def __init__(self, call, times):
        self._call, self._left = call, times

    def __call__(self, *arguments, **more):
        if self._left:
            self._left -= 1
            raise OSError(errno.EIO, "Input/output error")
        return self._call(*arguments, **more)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "bundle"
    path.write_bytes(b"weights")
    return path


def read_store(path):
    disk = RealDisk()
    handle = disk.open(path)
    try:
        return disk.read(handle, 100, 0)
    finally:
        disk.close(handle)


def read_bundle(path):
    with received.open_bundle(path, 0) as source:
        return received.read_piece(source, 0, 7, 0)


@pytest.mark.parametrize(("read", "error"), [(read_store, StoreFailedError), (read_bundle, BundleSpoiltError)])
def test_a_medium_is_asked_three_times(path, monkeypatch, read, error):
    inner = os.pread
    monkeypatch.setattr(os, "pread", Failing(inner, 2))
    assert read(path) == b"weights"
    monkeypatch.setattr(os, "pread", Failing(inner, 3))
    with pytest.raises(error):
        read(path)


def test_a_bundle_that_cannot_be_opened_is_tried_again_and_then_sent_again(path, monkeypatch):
    opening = Failing(Path.open, 2)
    monkeypatch.setattr(Path, "open", lambda self, mode: opening(self, mode))  # noqa: PLW0108 - it is bound
    assert read_bundle(path) == b"weights"
    path.unlink()
    with pytest.raises(BundleSpoiltError):
        read_bundle(path)


def kept_message(directory):
    Life(directory / "messages").box.say(MessageKind.EVENT, body={"text": "kept"})
    return lambda: len(Life(directory / "messages").received())


def kept_contacts(directory):
    write_contacts(directory / "contacts", ((2, 3),) * STATIONS_MAX, RealDisk())
    return lambda: read_contacts(directory / "contacts")[0]


def kept_ledger(directory):
    def load():
        file = LedgerFile(directory / "ledger", RealDisk())
        file.load()
        return file.ledger.num_scrubs

    LedgerFile(directory / "ledger", RealDisk()).store(Ledger(num_scrubs=7))
    return load


def kept_root(directory):
    layout, root = StateLayout(directory), FakeGround().root
    digest = keep_root(layout, root)
    for path in root_paths(layout, digest)[1:]:
        path.unlink()
    return lambda: read_root_copies(layout, digest) == root


def kept_update(directory):
    layout, update = StateLayout(directory), FakeGround().make_update({"a": b"a"})
    recorded = RecordedUpdate(
        handle=object_handle(update.metadata), version=1, sequence=1, release=bytes(32), state=UpdateState.RECEIVING
    )
    replace_file(directory / f"update-{recorded.handle.hex()}.skm", update.metadata)
    return lambda: read_update(layout, recorded, private_key=bytes(32), satellite="SAT-1").metadata == update.metadata


@pytest.mark.parametrize("keep", [kept_message, kept_contacts, kept_ledger, kept_root, kept_update])
def test_a_small_file_that_fails_to_be_read_twice_is_not_given_up(tmp_path, monkeypatch, keep):
    load = keep(tmp_path)
    expected = load()
    assert expected
    opening = Failing(Path.open, 2)
    monkeypatch.setattr(Path, "open", lambda self, *how: opening(self, *how))  # noqa: PLW0108 - it is bound
    assert load() == expected
