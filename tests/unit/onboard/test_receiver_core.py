"""The receiver's decisions, without a socket: shapes, quotas, verdicts, reports."""

import random
from itertools import pairwise

import pytest

from onboard.config import INBOX_BYTES_MIN
from onboard.receiver.core import FOREIGN_MAX, CoreOptions, ReceiverCore
from onboard.receiver.events import ReportStatus, Verdict
from onboard.receiver.reporting import BEACON_DURATION_S, BEACON_INTERVAL_S, ReportOptions
from protocol.frame import HEADER_SIZE, TAG_SIZE, Frame, FrameKind
from protocol.limits import MIB, OBJECT_SIZE_MAX
from protocol.objects import ObjectKind
from protocol.report import SOLVED, OpenBlock, Reason, Report, UpdateState, UpdateStatus
from tests.fakes.receiving import DryReceiver, RememberingSink, Source, disk_with_inbox, make_object

FAST = ReportOptions(interval_s=0.1, bytes_per_s=1e9)


def receiver_with(sink=None, **options):
    return DryReceiver(disk_with_inbox(), sink or RememberingSink(), CoreOptions(report=FAST, **options))


def source_of(size=1000, seed=1, **how):
    return Source(make_object(random.Random(seed), size, how.pop("object_kind", ObjectKind.BUNDLE)), **how)


def feed(receiver, source):
    for frame in source.all_frames():
        receiver.receive(frame)
    receiver.work()


def have(report, source, block=0):
    return {(entry.handle, entry.block): entry.have for entry in report.open_blocks}.get((source.handle, block))


@pytest.mark.parametrize("kind", [FrameKind.RAPTORQ, FrameKind.PLAIN])
def test_an_object_is_solved_consumed_and_reported_complete(kind):
    source, receiver = source_of(kind=kind), receiver_with()

    feed(receiver, source)

    assert receiver.sink.consumed == {source.handle: source.data}
    assert receiver.report().complete == (source.handle,)
    assert receiver.inbox.root.name not in receiver.disk.list_directory(receiver.inbox.root)
    assert receiver.disk.list_directory(receiver.inbox.root) == []


def test_an_object_of_many_blocks_is_solved():
    source, receiver = source_of(70_000, symbol_size=8), receiver_with()
    assert source.layout.num_blocks == 2

    for block in (1, 0):
        for frame in source.frames(block, first=100, count=source.layout.symbols_of(block) + 2):
            receiver.receive(frame)
    receiver.work()

    assert receiver.sink.consumed == {source.handle: source.data}
    assert receiver.core.statistics().blocks_solved == 2


def test_symbols_count_only_after_the_sync_that_began_after_them():
    source, receiver = source_of(), receiver_with()
    first, second, third = source.frames()[:3]

    receiver.receive(first)
    receiver.begin_sync()
    receiver.receive(second)
    assert have(receiver.report(), source) is None
    receiver.finish_sync()
    receiver.receive(third)
    report = receiver.report()

    assert have(report, source) == 1
    assert (report.echo_handle, report.echo_esi) == (source.handle, first.esi)


def test_with_nothing_left_to_sync_the_echo_is_the_last_frame():
    source, receiver = source_of(), receiver_with()
    first, second = source.frames()[:2]
    receiver.receive(second)
    receiver.receive(first)
    receiver.sync()

    receiver.receive(second)  # a duplicate needs no sync
    report = receiver.report()

    assert (report.echo_esi, report.frames_received, have(report, source)) == (second.esi, 3, 2)
    assert receiver.core.statistics().symbols_duplicate == 1


def test_a_block_reported_solved_survives_a_cut_even_if_nothing_was_ever_synced():
    sink = RememberingSink(Verdict.KEPT)
    source, receiver = source_of(64), receiver_with(sink)
    feed(receiver, source)
    assert receiver.report().complete == (source.handle,)

    for image in receiver.disk.images(random.Random(1)):
        (found,) = DryReceiver(image, sink).restored
        assert found.is_whole


def test_frames_of_a_complete_object_are_dropped_and_answered():
    old, new, receiver = source_of(seed=1), source_of(seed=2), receiver_with()
    feed(receiver, old)
    feed(receiver, new)
    assert receiver.report().complete == (new.handle, old.handle)

    assert not receiver.receive(old.frames()[0])

    assert receiver.report().complete == (old.handle, new.handle)
    assert receiver.core.statistics().symbols_surplus == 1


def test_an_object_the_owner_needs_again_is_not_listed_as_complete():
    source, receiver = source_of(), receiver_with()
    feed(receiver, source)
    receiver.sink.consumed.clear()

    receiver.receive(source.frames()[0])

    assert receiver.report().complete == ()
    assert receiver.core.statistics().open_objects == 1


def test_a_command_is_handed_over_once_though_its_owner_knows_no_handles():
    source = source_of(200, object_kind=ObjectKind.COMMAND)
    receiver = receiver_with()
    feed(receiver, source)
    receiver.sink.consumed.clear()

    feed(receiver, source)

    assert len(receiver.sink.offered) == 1
    assert receiver.report().complete == (source.handle,)


def test_a_foreign_shape_is_refused_until_its_own_has_fallen_silent():
    source, receiver = source_of(symbol_size=64), receiver_with()
    foreign = Source(source.data, symbol_size=128)
    receiver.receive(source.frames()[0])
    receiver.sync()

    for _ in range(FOREIGN_MAX):
        assert not receiver.receive(foreign.frames()[0])
    feed(receiver, foreign)

    assert receiver.core.statistics().symbols_refused == {"layout": FOREIGN_MAX}
    assert receiver.sink.consumed == {source.handle: source.data}


@pytest.mark.parametrize(
    "frame",
    [
        Frame(kind=FrameKind.RAPTORQ, handle=bytes(6), num_symbols=5, block=1, esi=0, payload=bytes(64)),
        Frame(kind=FrameKind.RAPTORQ, handle=bytes(6), num_symbols=2**24 - 1, block=0, esi=0, payload=bytes(64)),
    ],
    ids=["no such block", "too large an object"],
)
def test_an_impossible_layout_opens_nothing(frame):
    receiver = receiver_with()

    assert not receiver.receive(frame)

    statistics = receiver.core.statistics()
    assert (statistics.open_objects, statistics.symbols_refused) == (0, {"layout": 1})


def test_a_poisoned_object_is_thrown_away_reported_and_collected_again():
    source = source_of()
    liar = Source(make_object(random.Random(9), 1000), handle=source.handle)
    receiver = receiver_with()
    receiver.receive(liar.frames()[0])
    receiver.sync()
    assert have(receiver.report(), source) == 1
    feed(receiver, liar)

    assert receiver.core.statistics().objects_poisoned == 1
    assert receiver.disk.list_directory(receiver.inbox.root) == []
    assert OpenBlock(handle=source.handle, block=0, have=0) in receiver.report().open_blocks

    feed(receiver, source)
    assert receiver.sink.consumed == {source.handle: source.data}


def test_a_refused_object_is_forgotten_and_collected_again():
    source, receiver = source_of(), receiver_with(RememberingSink(Verdict.REFUSED))
    feed(receiver, source)
    assert have(receiver.report(), source) == 0

    receiver.sink.verdict = Verdict.CONSUMED
    feed(receiver, source)

    assert len(receiver.sink.offered) == 2
    assert receiver.core.statistics().objects_refused == 1
    assert receiver.report().complete == (source.handle,)


def test_a_kept_object_is_complete_for_the_link_and_offered_again_when_told():
    source, receiver = source_of(), receiver_with(RememberingSink(Verdict.KEPT))
    feed(receiver, source)
    assert receiver.report().complete == (source.handle,)
    receiver.work()
    assert len(receiver.sink.offered) == 1

    receiver.sink.verdict = Verdict.CONSUMED
    receiver.core.offer_again()
    receiver._dispatch()
    receiver.work()

    assert receiver.sink.consumed == {source.handle: source.data}
    assert receiver.core.statistics().open_bytes == 0


def test_a_kept_object_is_offered_again_after_a_restart():
    sink = RememberingSink(Verdict.KEPT)
    source, receiver = source_of(), receiver_with(sink)
    feed(receiver, source)

    again = DryReceiver(receiver.disk, sink)
    again.work()

    assert [handle for handle, _, _ in sink.offered] == [source.handle] * 2
    assert again.core.statistics().blocks_solved == 0


def test_the_least_recently_active_object_gives_way_and_is_reported_gone():
    sources, receiver = [source_of(seed=seed) for seed in range(3)], receiver_with(open_objects_max=2)
    for source in sources[:2]:
        receiver.receive(source.frames()[0])
        receiver.sync()
    receiver.receive(sources[0].frames()[1])

    receiver.receive(sources[2].frames()[0])
    receiver.sync()
    report = receiver.report()

    assert [have(report, source) for source in sources] == [2, 0, 1]
    assert receiver.core.statistics().objects_dropped == 1
    assert len(receiver.disk.list_directory(receiver.inbox.root)) == 2


def test_what_is_wanted_never_gives_way():
    sources = [source_of(seed=seed) for seed in range(3)]
    core = ReceiverCore(
        session=bytes(6),
        options=CoreOptions(open_objects_max=2),
        is_complete=lambda _: False,
        is_wanted=lambda handle: handle != sources[1].handle,
    )
    for source in sources:
        assert core.receive_symbol(source.frames()[0], 0.0)
    assert core.statistics().objects_dropped == 1

    assert core.receive_symbol(sources[1].frames()[0], 0.0) is None
    assert core.statistics().symbols_refused == {"quota": 1}


def test_the_quota_bounds_bytes_and_leaves_room_for_small_objects():
    large = [Source(make_object(random.Random(seed), 900_000), symbol_size=1280) for seed in range(3)]
    small = source_of(500)
    core = ReceiverCore(
        session=bytes(6),
        options=CoreOptions(inbox_bytes_max=3_700_000),
        is_complete=lambda _: False,
        is_wanted=lambda _: True,
    )
    taken = [core.receive_symbol(source.frames()[0], 0.0) is not None for source in [*large, small]]

    assert taken == [True, False, False, True]
    assert core.statistics().open_bytes <= 3_700_000


def test_an_object_the_solver_works_on_does_not_give_way():
    busy, other = source_of(64, seed=1), source_of(seed=2)
    receiver = receiver_with(open_objects_max=1)
    receiver.receive(busy.frames()[0])

    assert not receiver.receive(other.frames()[0])
    receiver.work()

    assert receiver.sink.consumed == {busy.handle: busy.data}
    assert receiver.receive(other.frames()[0])


def test_while_the_disk_takes_nothing_symbols_are_refused_and_solves_wait():
    source, receiver = source_of(), receiver_with()
    *frames, last = source.frames()
    for frame in frames:
        receiver.receive(frame)
    receiver.core.pause_storing(Reason.DISK_FAILED)

    assert not receiver.receive(last)
    assert receiver.core.statistics().symbols_refused == {"store": 1}
    receiver.core.resume_storing()
    receiver.receive(last)
    receiver.work()

    assert receiver.sink.consumed == {source.handle: source.data}


def test_a_block_that_never_solves_costs_its_object():
    source, receiver = source_of(), receiver_with()
    for frame in source.frames():
        receiver.receive(frame)
    (entry,) = receiver.core._shelf
    shape = entry.shape
    for _ in range(3):
        receiver.core.block_short(shape, 0, has_died=True)

    assert receiver.core.statistics().objects_poisoned == 1


def reporting_core(**options):
    options = {"interval_s": 0.1, "bytes_per_s": 1e9} | options
    return ReceiverCore(
        session=b"sessio", options=CoreOptions(report=ReportOptions(**options)), is_complete=lambda _: False
    )


def test_nothing_is_reported_before_the_first_frame():
    core = reporting_core()

    assert core.next_deadline() is None
    assert core.frames_to_send(ReportStatus(), 100.0) == []


def test_reports_keep_their_interval_while_frames_arrive_then_beacon_then_fall_silent():
    core, frame = reporting_core(), source_of().frames()[0]
    times, now = [], 50.0
    core.receive_symbol(frame, now)
    while (due := core.next_deadline()) is not None:
        now = max(now, due)
        (sent,) = core.frames_to_send(ReportStatus(), now)
        assert sent.sequence == len(times)
        times.append(now)
        if len(times) < 3:
            core.receive_symbol(frame, now)

    assert times[:4] == pytest.approx([50.0, 50.1, 50.2, 55.2])
    assert all(after - before == pytest.approx(BEACON_INTERVAL_S) for before, after in pairwise(times[2:]))
    assert times[-1] == pytest.approx(50.1 + BEACON_DURATION_S, abs=BEACON_INTERVAL_S)


def test_reports_stay_within_their_budget():
    core, frame = reporting_core(bytes_per_s=300), source_of().frames()[0]
    sent_bytes, now = 0, 0.0
    while now < 20:
        core.receive_symbol(frame, now)
        frames = core.frames_to_send(ReportStatus(), now)
        sent_bytes += sum(len(sent.payload) + HEADER_SIZE + TAG_SIZE for sent in frames)
        now += 0.01

    assert 5_000 < sent_bytes < 6_200


def test_a_silent_receiver_never_reports():
    core = reporting_core(is_silent=True)
    core.receive_symbol(source_of().frames()[0], 1.0)

    assert core.next_deadline() is None
    assert not core.is_heard(1.0)


def test_a_report_carries_what_the_owner_knows():
    receiver = receiver_with()
    receiver.receive(source_of().frames()[0])
    update = UpdateStatus(handle=b"update", state=UpdateState.RECEIVING, bundle_ranges=((0, 4),))
    status = ReportStatus(accepted=7, boot_count=3, free_mib=12, updates=(update,), serving=b"releas")
    (frame,) = receiver.core.frames_to_send(status, 1.0)
    report = Report.decode(frame.payload)

    assert (report.accepted, report.boot_count, report.free_mib) == (7, 3, 12)
    assert (report.bundle_ranges, report.serving, report.update) == (((0, 4),), b"releas", b"update")


def test_a_report_of_the_ground_says_what_it_has():
    core = reporting_core()
    payload = Report(complete=(b"answr1", b"answr2")).encode()
    frame = Frame(kind=FrameKind.REPORT, handle=bytes(6), num_symbols=0, block=0, esi=0, payload=payload)

    assert core.receive_report(frame, 1.0) == (b"answr1", b"answr2")
    assert core.next_deadline() is not None


def test_a_damaged_report_is_counted():
    core = reporting_core()
    frame = Frame(kind=FrameKind.REPORT, handle=bytes(6), num_symbols=0, block=0, esi=0, payload=b"no")

    assert core.receive_report(frame, 1.0) == ()
    assert core.statistics().frames_rejected == {"malformed": 1}


def test_solved_blocks_of_an_unfinished_object_are_listed():
    source, receiver = source_of(70_000, symbol_size=8), receiver_with()
    for frame in source.frames(0):
        receiver.receive(frame)
    receiver.receive(source.frames(1)[0])
    receiver.work()
    receiver.sync()
    report = receiver.report()

    assert (have(report, source, 0), have(report, source, 1)) == (SOLVED, 1)


def test_what_the_owner_needs_no_more_is_let_go_of_when_it_says_that_something_changed():
    half, receiver = source_of(), receiver_with(RememberingSink(Verdict.KEPT))
    kept = source_of(seed=2)
    for frame in half.frames()[:-1]:
        receiver.receive(frame)
    feed(receiver, kept)
    receiver.sync()
    assert receiver.core.statistics().open_objects == 2

    receiver.sink.consumed = {half.handle: b"", kept.handle: b""}  # an update was cancelled, say
    receiver.core.offer_again()
    receiver._dispatch()

    assert receiver.core.statistics().open_bytes == 0
    assert receiver.disk.list_directory(receiver.inbox.root) == []
    assert set(receiver.report().complete) == {half.handle, kept.handle}


def test_tiny_symbols_cannot_take_more_memory_than_the_quota_thinks():
    core = ReceiverCore(session=b"sessn!", options=CoreOptions(), is_complete=lambda _: False)
    for number in range(100):  # each the largest object that there is of eight-byte symbols
        frame = Frame(
            kind=FrameKind.RAPTORQ,
            handle=number.to_bytes(8, "big"),
            num_symbols=255 * 8000,
            block=0,
            esi=0,
            payload=bytes(8),
        )
        core.receive_symbol(frame, float(number))
    num_symbols = 255 * 8000 * core.statistics().open_objects
    assert num_symbols * 130 <= 256 * MIB


def test_the_smallest_inbox_that_may_be_configured_takes_the_largest_object():
    core = ReceiverCore(
        session=b"sessn!", options=CoreOptions(inbox_bytes_max=INBOX_BYTES_MIN), is_complete=lambda _: False
    )
    for number, symbol_size in enumerate((128, 1280, 8192)):
        frame = Frame(
            kind=FrameKind.RAPTORQ,
            handle=number.to_bytes(8, "big"),
            num_symbols=OBJECT_SIZE_MAX // symbol_size,
            block=0,
            esi=0,
            payload=bytes(symbol_size),
        )
        is_too_small_a_symbol = symbol_size < 512
        assert (core.receive_symbol(frame, float(number)) is None) is is_too_small_a_symbol
