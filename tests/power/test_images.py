"""The disks whose power is cut: what the tests of crash safety stand on."""

import contextlib
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.power.images import FILE_SYSTEMS, Cut, Lab, cut_power, missing, quick_place

pytestmark = pytest.mark.power


@contextlib.contextmanager
def mount_namespace():
    """One more, with a copy of all mounts."""
    command = ["unshare", "--mount", "sh", "-c", "echo; cat"]  # it says a line once it has it, and ends with its input
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        yield


def cut_while_held(lab, image, holders):
    with lab.mounted(image) as directory:
        holders.enter_context(mount_namespace())
        cut_power(directory, Cut.LOST)


@pytest.mark.parametrize("kind", FILE_SYSTEMS, ids=lambda kind: kind.name)
def test_a_disk_that_another_mount_namespace_holds_on_to_is_not_mounted_again_as_it_was_cut(tmp_path, kind):
    if reason := missing(kind):
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="skyload-power-", dir=quick_place()) as images:
        lab = Lab(kind=kind, directory=Path(images), mount_point=tmp_path / "mount", held_s_max=0)
        image = lab.make(lambda directory: (directory / "file").write_bytes(b"durable"))
        with contextlib.ExitStack() as holders, pytest.raises(RuntimeError, match="another mount namespace"):
            cut_while_held(lab, image, holders)
        lab.held_s_max = 30
        lab._wait_until_free(image)
        with lab.mounted(image) as directory:
            assert (directory / "file").read_bytes() == b"durable"
