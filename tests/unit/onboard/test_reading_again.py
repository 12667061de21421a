"""A read that fails once says little of a medium: it is tried again before what lies there is given up."""

import errno
import os
from pathlib import Path

import pytest

from onboard.errors import BundleSpoiltError, StoreFailedError
from onboard.installer import received
from onboard.store.disk import RealDisk


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
