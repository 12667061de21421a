"""`skyloadd import` before the daemon: which files are taken, which are refused and why, and what hostile ones do."""

import hashlib
import json
import os
import random
import socket
from pathlib import Path

import pytest

from onboard import console
from onboard.errors import BusyError, OnboardError
from onboard.file_import import Fortune
from onboard.import_command import FileImporter, ImportResult, _list_files
from onboard.spool import Spool
from onboard.store.disk import RealDisk
from onboard.store.layout import StateLayout
from protocol.file_names import bundle_file_name, metadata_file_name, object_file_name, report_file_name
from protocol.limits import MIB, OBJECT_SIZE_MAX
from protocol.objects import ObjectKind, object_handle, object_prefix
from tests.fakes.faulty_disk import FaultyDisk
from tests.fakes.receiving import make_object
from tests.fakes.updates import FakeGround

RNG = random.Random(1)
BUNDLE = make_object(RNG, 3000)
METADATA = make_object(RNG, 900, ObjectKind.METADATA)
NAME = bundle_file_name(7, bytes(6), 3, object_handle(BUNDLE))


def nobody(request):
    raise BusyError("no daemon answers")


class Place:
    """A spool, and a daemon that may be there."""

    def __init__(self, path, disk=None, bytes_max=MIB):
        self.stick = path / "stick"
        self.stick.mkdir()
        self.imports = path / "import"
        self.spool = Spool(self.imports, disk or RealDisk(), bytes_max=bytes_max)
        self.spool.prepare()
        self.ask = nobody

    def write(self, name, data):
        (self.stick / name).write_bytes(data)
        return self.stick / name

    def run(self, *paths) -> dict[str, ImportResult]:
        results = FileImporter(self.spool, self.ask).run(_list_files(paths or [self.stick]))
        return {result.path.name: result for result in results}

    def outcomes(self, *paths):
        return {name: result.fortune for name, result in self.run(*paths).items()}

    def spooled(self):
        return [file.path.read_bytes() for file in self.spool.files()]


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def test_without_a_daemon_files_wait_metadata_first(place):
    place.write("a.skb", BUNDLE)
    place.write("b.skm", METADATA)
    assert place.outcomes() == {"b.skm": Fortune.WAITING, "a.skb": Fortune.WAITING}
    assert list(place.run()) == ["b.skm", "a.skb"]
    assert place.spooled() == [METADATA, BUNDLE]


def test_one_object_is_kept_once_whatever_its_files_are_called(place):
    place.write(NAME, BUNDLE)
    place.write("copy of it", BUNDLE)
    assert set(place.outcomes().values()) == {Fortune.WAITING}
    place.run()
    assert place.spooled() == [BUNDLE]


def damaged(data):
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        (NAME, damaged(BUNDLE), "its name says"),
        (NAME, BUNDLE[:-1], "2999 bytes, it says 3000"),
        (NAME, BUNDLE + b"x", "3001 bytes, it says 3000"),
        (NAME, b"", "not one of"),
        (NAME, BUNDLE[:7], "not one of"),
        (NAME, b"x" + BUNDLE[1:], "not one of"),
        (metadata_file_name(7, object_handle(METADATA)), BUNDLE, "its name says"),
        ("x.skb", ObjectKind.BUNDLE.value + (OBJECT_SIZE_MAX + 1).to_bytes(4, "big"), "not one of"),
        ("x.skc", ObjectKind.COMMAND.value + (1 << 20).to_bytes(4, "big"), "not one of"),
        ("x.skm", make_object(RNG, 100, ObjectKind.MESSAGE), "to the ground"),
    ],
)
def test_a_damaged_file_is_refused_and_nothing_of_it_stays(place, name, data, said):
    path = place.write(name, data)
    for paths in ([], [path]):
        result = place.run(*paths)[name]
        assert (result.fortune, said in result.reason) == (Fortune.REFUSED, True), result
    assert place.spooled() == []


@pytest.mark.parametrize("is_named", [False, True], ids=["directory", "each named"])
def test_a_stick_that_carries_both_ways_gives_what_is_for_us_and_says_what_is_not(place, is_named):
    """As `export-messages` leaves it: on its second trip it holds what went down, too; a shell's * names each file."""
    up = [place.write("a.skb", BUNDLE), place.write("b.skm", METADATA)]
    down = [place.write(object_file_name(ObjectKind.MESSAGE, bytes(6)), make_object(RNG, 100, ObjectKind.MESSAGE))]
    down.append(place.write(report_file_name(bytes(6), 3), b"a sealed frame"))
    results = place.run(*(up + down if is_named else []))
    assert {name: result.fortune for name, result in results.items()} == {
        **{path.name: Fortune.WAITING for path in up},
        **{path.name: Fortune.PASSED_OVER for path in down},
    }
    assert {results[path.name].reason for path in down} == {"for the ground: `skyload import` takes it there"}
    assert all(result.is_in for result in results.values())
    assert place.spooled() == [METADATA, BUNDLE]


def test_a_hostile_file_under_a_name_for_the_ground_is_not_even_opened(place):
    os.mkfifo(place.stick / "message-000000000000.ska")
    assert place.outcomes() == {"message-000000000000.ska": Fortune.PASSED_OVER}


def test_a_right_name_is_not_needed(place):
    place.write("renamed", BUNDLE)
    assert place.outcomes() == {"renamed": Fortune.WAITING}


def test_other_files_of_a_directory_are_passed_over_but_refused_when_named(place):
    path = place.write("holiday.jpg", b"\xff\xd8")
    (place.stick / "more").mkdir()
    assert place.outcomes() == {}
    assert place.outcomes(path) == {"holiday.jpg": Fortune.REFUSED}


@pytest.mark.parametrize("what", ["link", "dangling", "fifo", "device", "socket", "secret"])
def test_only_regular_files_are_opened(place, what):
    path = place.stick / "x.skb"
    match what:
        case "link":
            path.symlink_to(place.write("target", BUNDLE))
        case "dangling":
            path.symlink_to("nowhere")
        case "fifo":
            os.mkfifo(path)
        case "device":
            path = Path("/dev/zero")
        case "socket":
            with socket.socket(socket.AF_UNIX) as bound:
                bound.bind(str(path))
        case "secret":
            if os.geteuid() == 0:
                pytest.skip("root may read everything")
            place.write("x.skb", BUNDLE).chmod(0)
    result = place.run(path)[path.name]
    assert (result.fortune, "regular" in result.reason or "read" in result.reason) == (Fortune.REFUSED, True)
    assert place.spooled() == []


def test_a_file_that_changes_while_it_is_read_is_refused(place):
    path = place.write("x.skb", BUNDLE)

    def change(request):
        path.write_bytes(damaged(BUNDLE))
        raise BusyError("no daemon answers")

    place.ask = change
    assert place.run()["x.skb"].reason == "it changed while it was read"
    path.write_bytes(BUNDLE)
    place.ask = lambda request: path.write_bytes(BUNDLE[:5]) and nobody(request)
    assert place.run()["x.skb"].reason == "it changed while it was read"
    assert place.spooled() == []
    assert not list(place.imports.glob("*.new"))


def test_what_does_not_fit_the_quota_is_refused_and_the_rest_goes_on(tmp_path):
    place = Place(tmp_path, bytes_max=7000)
    objects = [make_object(RNG, 3000) for _ in range(3)]
    for number, data in enumerate(objects):
        place.write(f"{number}.skb", data)
    results = place.run()
    assert [result.fortune for result in results.values()] == [Fortune.WAITING, Fortune.WAITING, Fortune.REFUSED]
    assert "no room" in results["2.skb"].reason
    assert place.spooled() == objects[:2]


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path):
    disk = FaultyDisk()
    place = Place(tmp_path, disk)
    place.write("x.skb", BUNDLE)
    disk.room_bytes = 17 * MIB + 100
    assert place.outcomes() == {"x.skb": Fortune.WAITING}
    place.write("x.skb", make_object(RNG, 900_000))
    disk.room_bytes, disk.free_bytes = 500_000, lambda path: 1 << 40  # it fills while we write
    result = place.run()["x.skb"]
    assert (result.fortune, "no room" in result.reason) == (Fortune.REFUSED, True)
    assert not list(place.imports.glob("*.new"))


def test_what_a_daemon_has_already_is_not_copied(place):
    place.write("x.skb", BUNDLE)
    asked = []

    def answer(request):
        asked.append(request)
        return {"outcome": "already there", "reason": ""}

    place.ask = answer
    assert place.outcomes() == {"x.skb": Fortune.COMPLETE}
    assert asked == [{"op": "import", "sha256": hashlib.sha256(BUNDLE).hexdigest()}]
    assert place.spooled() == []


def test_a_daemon_is_asked_again_once_the_file_is_safe(place):
    place.write("x.skm", METADATA)

    def answer(request):
        return {"outcome": "refused", "reason": "UNTRUSTED"} if place.spooled() else {"outcome": None}

    place.ask = answer
    result = place.run()["x.skm"]
    assert (result.fortune, result.reason, result.is_in) == (Fortune.REFUSED, "UNTRUSTED", False)
    assert str(result).split() == ["refused", "x.skm", "(UNTRUSTED)"]


@pytest.mark.parametrize("reply", [OnboardError("no such request"), {}, {"outcome": "?"}])
def test_whatever_an_older_daemon_says_the_file_is_safe(place, reply):
    def answer(request):
        if isinstance(reply, Exception):
            raise reply
        return reply

    place.ask = answer
    place.write("x.skb", BUNDLE)
    assert place.outcomes() == {"x.skb": Fortune.WAITING}
    assert place.spooled() == [BUNDLE]


def test_a_hostile_name_moves_no_cursor(place):
    place.write("\x1b[2J\n.skb", BUNDLE)
    (result,) = place.run().values()
    assert str(result).isprintable()


def test_the_spool_leaves_foreign_files_alone_and_half_ones_not(place):
    (place.imports / "notes.txt").write_text("mine")
    (place.imports / "00000001.new").write_bytes(b"half")
    place.spool.prepare()
    assert [path.name for path in place.imports.iterdir()] == ["notes.txt"]
    assert place.spool.files() == []


# -- the command


@pytest.fixture
def kit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    FakeGround().write_kit(tmp_path)
    (tmp_path / "stick").mkdir()
    (tmp_path / "stick" / NAME).write_bytes(BUNDLE)
    return tmp_path


def test_the_command_says_what_became_of_each_file_and_its_code_whether_all_went_in(kit, capsys):
    assert console.run(["import", "stick"]) == 0
    assert capsys.readouterr().out == f"waiting        {NAME}  (the daemon takes it when it runs)\n"
    (kit / "stick/x.skb").write_bytes(b"junk")
    assert console.run(["import", "stick", "--json"]) == 10
    out, err = capsys.readouterr()
    said = json.loads(out)
    assert [entry["outcome"] for entry in said["files"]] == ["refused", "waiting"]
    assert said["files"][1]["handle"] == object_handle(BUNDLE).hex()
    assert (said["num_refused"], "hint: 1 of 2 files" in err) == (1, True)
    assert console.run(["import", f"stick/{NAME}"]) == 0


def test_two_imports_at_once_are_refused(kit, capsys):
    import fcntl

    assert console.run(["import", "stick"]) == 0
    with (StateLayout(kit / "state").imports / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert console.run(["import", "stick"]) == 7
    assert "another import runs" in capsys.readouterr().err


def test_names_say_what_they_carry():
    assert object_file_name(ObjectKind.COMMAND, bytes(6)) == "command-000000000000.skc"
    assert object_prefix(ObjectKind.BUNDLE, 3000) == BUNDLE[:8]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_files_that_the_daemon_could_not_read_are_not_left(kit, capsys):
    assert console.run(["import", "stick"]) == 0
    os.chown(kit / "state", 12345, 12345)
    assert console.run(["import", "stick"]) == 3
    assert "belongs to user 12345" in capsys.readouterr().err
