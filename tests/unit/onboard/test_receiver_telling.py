"""A report is one frame however much is open: the urgent first, the rest in turn, and all of it gets told."""

import random

from onboard.receiver.core import CoreOptions, ReceiverCore
from onboard.receiver.events import ReportStatus
from onboard.receiver.reporting import ReportOptions
from protocol.frame import Frame, FrameKind
from protocol.limits import REPORT_SIZE_MAX
from protocol.report import Reason, Report, UpdateState, UpdateStatus
from tests.fakes.receiving import Source, make_object

NUM_SYMBOLS = 16 * 2000  # T = 8: four blocks of 8,000


def core_with_objects(num, station=0):
    core = ReceiverCore(
        session=b"sessn!",
        options=CoreOptions(
            open_objects_max=4096, inbox_bytes_max=1 << 50, report=ReportOptions(interval_s=0.1, bytes_per_s=1e9)
        ),
        is_complete=lambda _: False,
        is_wanted=lambda _: True,
    )
    handles = [b"obj" + number.to_bytes(3, "big") for number in range(num)]
    for handle in handles:
        for block in range(4):
            core.receive_symbol(frame_of(handle, block, 0, station), 0.0)
    core.begin_sync()
    core.symbols_stored()
    return core, handles


def frame_of(handle, block, esi, station=0):
    return Frame(
        kind=FrameKind.RAPTORQ,
        handle=handle,
        num_symbols=NUM_SYMBOLS,
        payload=bytes(8),
        block=block,
        esi=esi,
        station=station,
    )


def next_reports(core, num, status=None, start_s=1.0):
    reports = []
    for number in range(num):
        for frame in core.frames_to_send(status or ReportStatus(), start_s + number * 10):
            assert len(frame.payload) <= REPORT_SIZE_MAX
            reports.append(Report.decode(frame.payload))
    return reports


def test_with_hundreds_of_open_objects_every_block_is_told_within_a_few_reports():
    core, handles = core_with_objects(300)
    reports = next_reports(core, 10)
    told = {(entry.handle, entry.block) for report in reports for entry in report.open_blocks}

    assert all(report.is_full for report in reports)
    assert told == {(handle, block) for handle in handles for block in range(4)}


def test_what_the_station_sends_now_is_in_every_report_to_it():
    core, handles = core_with_objects(300)
    for esi in range(1, 10):
        core.receive_symbol(frame_of(handles[17], 2, esi, station=0), 0.5)
        core.receive_symbol(frame_of(handles[200], 1, esi, station=5), 0.5)
    core.begin_sync()
    core.symbols_stored()
    frames = [frame for at in range(1, 30) for frame in core.frames_to_send(ReportStatus(), at * 10.0)]
    told = [
        (frame.station, {(entry.handle, entry.block): entry.have for entry in Report.decode(frame.payload).open_blocks})
        for frame in frames
    ]

    assert {station for station, _ in told} == {0, 5}
    assert all(blocks[handles[17], 2] == 10 for station, blocks in told if station == 0)
    assert all(blocks[handles[200], 1] == 10 for station, blocks in told if station == 5)


def test_all_updates_are_told_beside_blocks_and_complete_objects():
    core, _ = core_with_objects(300)
    updates = tuple(
        UpdateStatus(
            handle=bytes([number] * 6),
            state=UpdateState.RECEIVING,
            reason=Reason.NONE,
            bundle_ranges=tuple((2 * i, 2 * i) for i in range(10)),
        )
        for number in range(1, 5)
    )
    (report,) = next_reports(core, 1, ReportStatus(updates=updates))

    assert report.updates == updates
    assert len(report.open_blocks) > 200


def test_complete_objects_beyond_a_reports_room_are_told_in_turn():
    sources = [Source(make_object(random.Random(number), 30)) for number in range(128)]
    core = ReceiverCore(
        session=b"sessn!",
        options=CoreOptions(open_objects_max=4096, inbox_bytes_max=1 << 50, report=ReportOptions(bytes_per_s=1e9)),
        is_complete=lambda handle: handle in {source.handle for source in sources},
        is_wanted=lambda _: True,
    )
    for source in sources:
        core.receive_symbol(source.frames()[0], 0.0)
    for number in range(300):
        for block in range(4):
            core.receive_symbol(frame_of(b"obj" + number.to_bytes(3, "big"), block, 0), 0.0)
    core.begin_sync()
    core.symbols_stored()
    reports = next_reports(core, 12)
    told = {handle for report in reports for handle in report.complete}

    assert len(reports[0].complete) < len(sources)
    assert told == {source.handle for source in sources}
    assert all(sources[-1].handle in report.complete for report in reports), "the newest is in each"
