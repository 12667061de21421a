"""Several ground stations at once: each is told of its own frames, all share one budget."""

import random

import pytest

from onboard.receiver.core import CoreOptions, ReceiverCore
from onboard.receiver.events import ReportStatus
from onboard.receiver.reporting import BEACON_DURATION_S, ReportOptions
from protocol.frame import Frame
from protocol.report import NO_HANDLE, Report
from tests.fakes.receiving import DryReceiver, RememberingSink, Source, disk_with_inbox, make_object

SOURCE = Source(make_object(random.Random(1), 6000))
OTHER = Source(make_object(random.Random(2), 6000))


def core_with(**options):
    options = {"interval_s": 0.1, "bytes_per_s": 1e9} | options
    return ReceiverCore(
        session=b"sessn!", options=CoreOptions(report=ReportOptions(**options)), is_complete=lambda _: False
    )


def hear(core, station, now, source=SOURCE, esi=0):
    symbol = bytes(source.symbol_size)
    frame = Frame(
        kind=source.kind,
        handle=source.handle,
        num_symbols=source.num_symbols,
        payload=symbol,
        esi=esi % source.num_symbols,
        station=station,
    )
    core.receive_symbol(frame, now)


def sent(core, now):
    return [(frame.station, Report.decode(frame.payload)) for frame in core.frames_to_send(ReportStatus(), now)]


def test_each_station_learns_its_own_echo_and_counts_and_all_learn_what_is_there():
    receiver = DryReceiver(disk_with_inbox(), RememberingSink())
    receiver.receive_all([*SOURCE.frames(0, 0, 3, 1), *OTHER.frames(0, 7, 2, 4), *SOURCE.frames(0, 3, 1, 1)])
    receiver.sync()
    reports = receiver.reports()

    assert {
        station: (report.echo_handle, report.echo_esi, report.frames_received) for station, report in reports.items()
    } == {1: (SOURCE.handle, 3, 4), 4: (OTHER.handle, 8, 2)}
    for report in reports.values():
        assert {(entry.handle, entry.have) for entry in report.open_blocks} == {(SOURCE.handle, 4), (OTHER.handle, 2)}


def test_a_station_that_comes_while_a_sync_runs_has_no_echo_of_it():
    receiver = DryReceiver(disk_with_inbox(), RememberingSink())
    receiver.receive_all(SOURCE.frames(0, 0, 2, 1))
    receiver.begin_sync()
    receiver.receive_all(SOURCE.frames(0, 2, 2, 2))
    receiver.finish_sync()
    reports = receiver.reports()

    assert (reports[1].echo_handle, reports[1].echo_esi) == (SOURCE.handle, 1)
    assert reports[2].echo_handle == NO_HANDLE


def test_a_station_that_is_not_heard_any_more_is_not_told_while_another_is():
    core = core_with()
    hear(core, 1, 0.0)
    hear(core, 2, BEACON_DURATION_S - 1, esi=1)
    stations = set()
    for tenth in range(100):
        stations |= {station for station, _ in sent(core, BEACON_DURATION_S + 1 + tenth / 10)}

    assert stations == {2}


def test_stations_share_the_budget_and_none_starves():
    core, told = core_with(bytes_per_s=600), {1: 0, 2: 0, 3: 0}
    num_bytes = 0
    for hundredth in range(3000):
        now = hundredth / 100
        for station in told:
            hear(core, station, now, esi=hundredth)
        for frame in core.frames_to_send(ReportStatus(), now):
            told[frame.station] += 1
            num_bytes += len(frame.payload) + 20

    assert 15_000 < num_bytes < 18_700
    assert max(told.values()) - min(told.values()) <= 1


def test_messages_take_what_reports_leave_of_the_budget():
    core, num_reports, num_bytes = core_with(bytes_per_s=3000), 0, 0
    for thousandth in range(20_000):
        now = thousandth / 1000
        if thousandth % 10 == 0:
            hear(core, 1, now, esi=thousandth)
        num_reports += len(core.frames_to_send(ReportStatus(), now))
        if core.message_due(now) <= now:
            core.message_sent(1000, now)
            num_bytes += 1000

    assert num_reports >= 40, "a report waits for one message at most"
    assert 40_000 < num_bytes < 60_000


def test_messages_go_to_the_station_heard_last():
    core = core_with()
    assert core.message_station(0.0) is None
    hear(core, 3, 0.0)
    assert core.message_station(1.0) == 3
    hear(core, 5, 60.0, esi=1)
    assert core.message_station(60.0) == 5
    hear(core, 3, 200.0, esi=2)
    assert core.message_station(200.0) == 3


def test_an_unauthentic_frame_is_counted_for_no_station():
    core = core_with()
    hear(core, 1, 0.0)
    core.reject_frame("checksum", 3)
    statistics = core.statistics()

    assert (statistics.frames_received_of, statistics.frames_rejected) == ({1: 1}, {"checksum": 3})
    assert [report.frames_rejected for _, report in sent(core, 1.0)] == [3]


@pytest.mark.parametrize("gap_s", [90 * 60, 7 * 86400, 10 * 365 * 86400], ids=["90 minutes", "a week", "ten years"])
def test_a_gap_aborts_nothing(gap_s):
    receiver = DryReceiver(disk_with_inbox(), RememberingSink())
    frames = SOURCE.frames()
    receiver.receive_all(frames[:60])
    receiver.sync()
    receiver.reports()

    receiver.now += gap_s
    receiver.receive_all(frames[60:61])
    receiver.sync()
    (report,) = receiver.reports().values()
    assert [entry.have for entry in report.open_blocks] == [61]
    receiver.receive_all(frames[61:])
    receiver.work()

    assert receiver.sink.consumed == {SOURCE.handle: SOURCE.data}
