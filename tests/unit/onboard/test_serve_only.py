"""A medium that takes no writes: what is there serves and says so, and nothing is taken, written or acknowledged."""

import asyncio
import contextlib
import errno
import os
import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from onboard import console, daemon, read_only, serve_only
from onboard.config import load_config
from onboard.control_socket import ask_here
from onboard.errors import BusyError, OnboardError, StoreFailedError
from onboard.installer.housekeeping import point_current
from onboard.read_only import ReadOnlyDisk, find_run_directory, is_read_only, make_run_directory
from onboard.receiver.beacon import Beacon
from onboard.receiver.reporting import ReportOptions
from onboard.receiver.status import ReportStatus
from onboard.serve_only import ServeOnly, run_serve_only
from onboard.state import locked_state, open_record, read_record
from onboard.store.layout import StateLayout
from onboard.store.record import KnownRelease, RecordedUpdate, RecordStore
from protocol.frame import Frame, FrameCodec, FrameKind
from protocol.link_keys import Direction
from protocol.report import NO_HANDLE, Reason, Report, UpdateState
from tests.fakes.receiving import Source, make_object
from tests.fakes.updates import FakeGround

KEY = bytes(range(32))
SOURCE = Source(make_object(random.Random(1), 6000))
OLD, NEW, GOLDEN = (bytes([number]) * 32 for number in (1, 2, 3))


@pytest.fixture
def frozen(tmp_path, monkeypatch):
    """A kit whose state directory refuses every write, as ext4 after an error does since Linux 6.13."""
    config = load_config(FakeGround().write_kit(tmp_path / "kit", link="127.0.0.1:0", endpoint="127.0.0.1:0"))
    with locked_state(config) as layout:
        store = open_record(layout)
        record = store.record
        for digest, name in ((OLD, "old"), (NEW, "new"), (GOLDEN, "golden")):
            record = record.with_release(KnownRelease(digest=digest, name=name, sequence=0))
            layout.release(digest).mkdir()
        point_current(layout, NEW)
        waits = RecordedUpdate(
            handle=b"update", version=7, sequence=7, release=bytes(32), state=UpdateState.RECEIVING, metadata=bytes(32)
        )
        store.store(
            replace(record, current=NEW, previous=OLD, golden=GOLDEN, accepted=7, boot_count=5, pending=(waits,))
        )
    freeze(layout, monkeypatch)
    monkeypatch.setattr(read_only, "RUN_PLACES", (tmp_path / "nowhere", tmp_path))
    return SimpleNamespace(config=config, layout=layout)


def freeze(layout, monkeypatch):
    real_open, real_utime, real_sync = os.open, os.utime, os.fdatasync

    def is_there(path):
        return not isinstance(path, int) and str(path).startswith(str(layout.state_dir))

    def refuse(path):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    def guarded_open(path, flags, *rest, **options):
        if is_there(path) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            refuse(path)
        return real_open(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", guarded_open)
    monkeypatch.setattr(os, "utime", lambda path, *rest: refuse(path) if is_there(path) else real_utime(path, *rest))

    def guarded_sync(handle):
        return refuse(handle) if is_there(Path(f"/proc/self/fd/{handle}").readlink()) else real_sync(handle)

    monkeypatch.setattr(os, "fdatasync", guarded_sync)


def life_of(frozen):
    layout, record = read_record(frozen.config)
    return ServeOnly(frozen.config, layout, record, make_run_directory(layout), now=lambda: 0.0)


# The medium


def test_a_medium_is_read_only_by_its_flags_or_because_it_refuses_and_not_because_it_is_not_ours(tmp_path, monkeypatch):
    assert not is_read_only(tmp_path)
    assert not is_read_only(tmp_path / "not there")
    refusal = [errno.EROFS]

    def refuse(path):
        raise OSError(refusal[0], "refused")

    monkeypatch.setattr(os, "utime", refuse)
    assert is_read_only(tmp_path)
    refusal[0] = errno.EACCES
    assert not is_read_only(tmp_path)
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_flag=os.ST_RDONLY))
    assert is_read_only(tmp_path)


def test_the_record_is_read_where_nothing_may_be_opened_for_writing_and_no_sync_comes_through(frozen):
    with pytest.raises(StoreFailedError, match="Read-only"), locked_state(frozen.config):
        pass
    assert RecordStore(frozen.layout.record, ReadOnlyDisk()).load().accepted == 7
    assert read_record(frozen.config)[1].current == NEW


def test_sockets_lie_elsewhere_in_a_directory_that_nobody_else_made(tmp_path, monkeypatch):
    layout, places = StateLayout(tmp_path / "state"), [tmp_path / "first", tmp_path / "second", tmp_path / "third"]
    monkeypatch.setattr(read_only, "RUN_PLACES", places)
    assert find_run_directory(layout) is None
    for place in places:
        place.mkdir()
    name = make_run_directory(layout).name
    (places[0] / name).chmod(0o777)  # others may write there
    (places[1] / name).symlink_to(tmp_path)
    assert make_run_directory(layout) == find_run_directory(layout) == places[2] / name
    (places[2] / name).chmod(0o777)
    with pytest.raises(StoreFailedError, match="read-only"):
        make_run_directory(layout)


# The start


def test_run_serves_only_where_the_daemon_could_not_start_and_else_does_not(frozen, monkeypatch, tmp_path):
    begun = []
    monkeypatch.setattr(serve_only, "run_serve_only", lambda config: begun.append("serve only"))
    monkeypatch.setattr(daemon, "run_daemon", lambda config: begun.append("daemon"))
    monkeypatch.setattr(daemon, "log_to_stderr", lambda **options: None)
    assert console.run(["run", "--config", str(frozen.config.satellite.state_dir.parent / "satellite.toml")]) == 0
    other = FakeGround().write_kit(tmp_path / "other")
    assert console.run(["run", "--config", str(other)]) == 0
    assert begun == ["serve only", "daemon"]


def test_two_daemons_do_not_serve_from_one_medium(frozen):
    with serve_only._locked(frozen.layout), pytest.raises(BusyError):
        run_serve_only(frozen.config)


# What serves


def test_what_serves_is_the_current_release_then_the_one_before_then_the_golden_one(frozen):
    life = life_of(frozen)
    served = []
    for failures in range(1, 10):  # as whoever brings it up counts
        served.append(life.wanted().name)
        life.hear_of_failure(life.wanted().digest, "does not load", failures)
    assert served == ["new"] * 3 + ["old"] * 3 + ["golden"] * 3
    assert life.wanted().name == "golden"  # for ever: there is nothing else


def test_a_release_that_cannot_be_reached_any_more_is_left_out(frozen):
    frozen.layout.release(NEW).rmdir()
    assert life_of(frozen).wanted().name == "old"


# What is told


def test_reports_say_that_updates_stand_still_for_the_disk_and_others_would(frozen):
    status = life_of(frozen).report_status()
    assert [(each.handle, each.state, each.reason) for each in status.updates] == [
        (b"update", UpdateState.BLOCKED, Reason.DISK_FAILED),
        (NO_HANDLE, UpdateState.BLOCKED, Reason.DISK_FAILED),
    ]
    assert (status.accepted, status.boot_count, status.free_mib) == (7, 5, 0)


def test_status_and_the_event_say_it_and_nothing_is_written_for_it_and_all_else_is_refused(frozen):
    before = everything_in(frozen.layout.state_dir)

    async def run():
        life = life_of(frozen)
        life.serving = SimpleNamespace(
            run=asyncio.Event().wait, release=NEW, endpoint="", trouble="", status=life.serving.status
        )
        running = asyncio.create_task(life.run())
        status = (await answer_of(frozen.layout, {"op": "status"}))["status"]
        for name in ("revert", "import", "report", "scrub"):
            with pytest.raises(OnboardError, match="takes nothing"):
                await answer_of(frozen.layout, {"op": name})
        life.stop.set()
        await running
        return status

    status = asyncio.run(run())
    assert status["read_only"]
    assert status["events"]["medium_read_only"] == 1
    assert status["serving"]["name"] == "new"
    assert everything_in(frozen.layout.state_dir) == before


async def answer_of(layout, request):
    async with asyncio.timeout(45):
        while True:
            with contextlib.suppress(BusyError):  # until it listens
                return await asyncio.to_thread(ask_here, layout, request)


def everything_in(directory):
    return {path: (path.lstat(), path.read_bytes() if path.is_file() else b"") for path in directory.rglob("*")}


def beacon(status=None, **options):
    up, down = FrameCodec(Direction.UP, KEY), FrameCodec(Direction.DOWN, KEY)
    given = ReportOptions(interval_s=0.1, bytes_per_s=1e9, **options)
    return Beacon(("127.0.0.1", 0), up, down, lambda: status or ReportStatus(), b"sessn!", given)


def sent_by(station, *, sequence=None, esi=0):
    codec = FrameCodec(Direction.UP, KEY)
    if sequence is not None:
        frame = Frame(
            kind=FrameKind.REPORT, handle=b"ground", sequence=sequence, payload=Report().encode(), station=station
        )
        return codec.encode(frame)
    [frame] = SOURCE.frames(0, esi, 1, station)
    return codec.encode(frame)


def test_a_whole_object_is_heard_counted_and_acknowledged_in_no_way():
    told = beacon()
    frames = [FrameCodec(Direction.UP, KEY).encode(frame) for frame in SOURCE.frames(0, 0, SOURCE.num_symbols, 3)]
    told.hear([(frame, "there") for frame in frames] + [(b"noise" * 10, "elsewhere")], 0.0)
    [(frame, address)] = told.reports(1.0)
    report = Report.decode(frame.payload)
    assert (frame.station, address) == (3, "there")
    assert (report.frames_received, report.frames_rejected) == (len(frames), 1)
    assert (report.echo_handle, report.complete, report.open_blocks) == (NO_HANDLE, (), ())
    assert report.is_full  # so nobody takes what it does not list for lost


def test_reports_number_upwards_and_stop_when_nobody_is_heard_and_none_go_out_of_a_silent_satellite():
    told, silent = beacon(), beacon(is_silent=True)
    assert told.reports(0.0) == []
    for each in (told, silent):
        each.hear([(sent_by(1), "there")], 0.0)
    numbers = [frame.sequence for now in (1.0, 10.0, 20.0) for frame, _ in told.reports(now)]
    assert numbers == [0, 1, 2]
    assert told.reports(10_000.0) == []
    assert silent.reports(1.0) == []


def test_who_repeats_a_frame_draws_no_reports_to_himself():
    told = beacon()
    told.hear([(sent_by(1, sequence=1), "station")], 0.0)
    told.hear([(sent_by(1), "thief"), (sent_by(1, sequence=1), "thief")], 0.1)
    assert [address for _, address in told.reports(1.0)] == ["station"]
    told.hear([(sent_by(1, sequence=2), "moved")], 1.1)
    assert [address for _, address in told.reports(2.0)] == ["moved"]
