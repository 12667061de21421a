import pytest

from groundsegment.uplink.sender.cargo import OutgoingObject, Progress
from groundsegment.uplink.sender.core import Uplink, UplinkOptions
from groundsegment.uplink.sender.events import (
    AllBundlesComplete,
    ObjectComplete,
    ObjectReopened,
    ReceiverRestarted,
    ReturnPathSilent,
    StateChanged,
)
from groundsegment.uplink.sender.loss import LossEstimate
from protocol.report import SOLVED, OpenBlock, Reason, Report, UpdateState, UpdateStatus

META, FIRST, SECOND = b"metada", b"bundl0", b"bundl1"
SESSION, OTHER = b"sessn1", b"sessn2"
K = 1000


def objects(num_symbols=K):
    items = [OutgoingObject(handle=META, num_symbols=2, symbol_size=8, bundle=None)]
    return items + [
        OutgoingObject(handle=handle, num_symbols=num_symbols, symbol_size=8, bundle=number)
        for number, handle in enumerate((FIRST, SECOND))
    ]


def with_update(items, progress=(), options=None):
    uplink = Uplink(options)
    uplink.add_update(items, progress)
    return uplink


def an_uplink(**changes):
    uplink = with_update(objects(), **changes)
    uplink.begin_contact(0.0)
    return uplink


def a_report(*, have=(), complete=(), echo=None, received=0, **fields):
    blocks = tuple(OpenBlock(handle=handle, block=0, have=count) for handle, count in have)
    handle, esi = echo or (bytes(6), 0)
    status = {name: fields.pop(name) for name in ("state", "reason", "bundle_ranges") if name in fields}
    if "update" in fields:
        fields["updates"] = (UpdateStatus(**{"handle": fields.pop("update"), "state": UpdateState.NONE, **status}),)
    return Report(
        echo_handle=handle,
        echo_esi=esi,
        frames_received=received,
        complete=tuple(complete),
        open_blocks=blocks,
        **fields,
    )


def events_of(uplink, kind):
    found = []
    while (event := uplink.next_event()) is not None:
        if isinstance(event, kind):
            found.append(event)
    return found


def sent(runs, handle):
    return [esi for run in runs if run.handle == handle for esi in range(run.first_esi, run.first_esi + run.count)]


def test_the_metadata_goes_first():
    first = an_uplink().frames_to_send(0.0, 100)[0]

    assert first.handle == META
    assert first.first_esi == 0
    assert first.count >= 3  # with two source symbols, one more at least


def test_the_metadata_is_repeated_with_fresh_symbols_until_it_is_there():
    uplink = an_uplink()
    esis = []
    for second in range(30):
        uplink.receive_report(a_report(), session=SESSION, now=float(second))
        esis += sent(uplink.frames_to_send(float(second), 50), META)
    uplink.receive_report(a_report(complete=[META]), session=SESSION, now=31.0)

    assert len(esis) >= 12
    assert esis == list(range(len(esis)))
    assert not sent(uplink.frames_to_send(60.0, 50), META)


def test_source_symbols_go_before_repair_symbols_and_bundles_in_order():
    runs = an_uplink().frames_to_send(0.0, 5000)
    order = [run.handle for run in runs if run.handle != META]

    assert order == [FIRST, SECOND]
    esis = sent(runs, FIRST)
    assert esis == list(range(len(esis)))
    assert len(esis) >= 0.98 * K  # reports will say what that lacks


def test_nothing_is_sent_outside_a_contact():
    uplink = an_uplink()
    uplink.end_contact()

    assert uplink.frames_to_send(1.0, 100) == []
    assert uplink.next_deadline(1.0) is None


def test_a_budget_is_never_exceeded():
    uplink = an_uplink()

    for now in range(10):
        assert sum(run.count for run in uplink.frames_to_send(now / 100, 37)) <= 37


def test_at_the_end_of_a_contact_idle_time_is_used_to_be_sure():
    def sent_in_idle_time(end_s):
        uplink = with_update(objects(), options=UplinkOptions(loss=LossEstimate.of_mean(0.1, 20000)))
        uplink.begin_contact(0.0, end_s)
        runs = uplink.frames_to_send(0.0, 10_000)
        report = a_report(complete=[META], have=[(FIRST, 90)], echo=(FIRST, 99), received=95)
        uplink.receive_report(report, session=SESSION, now=0.5)
        return len(sent(runs + uplink.frames_to_send(0.6, 10_000), FIRST))

    # Half a second for an answer: none comes any more before 0.9, so nothing is gained by holding back.
    assert sent_in_idle_time(60.0) + 15 < sent_in_idle_time(0.9) < sent_in_idle_time(60.0) + 90


def test_a_report_gets_exactly_what_it_lacks():
    loss = LossEstimate.of_mean(0.1, 20000)
    uplink = an_uplink(options=UplinkOptions(loss=loss))
    runs = uplink.frames_to_send(0.0, 10_000)
    last = sent(runs, SECOND)[-1]
    # All that was sent is settled; the first bundle lacks 30, the second is solved.
    report = a_report(have=[(FIRST, K - 30), (SECOND, SOLVED)], complete=[META], echo=(SECOND, last), received=2 * K)
    uplink.receive_report(report, session=SESSION, now=0.5)

    again = uplink.frames_to_send(0.5, 10_000)

    assert {run.handle for run in again} == {FIRST}
    assert 30 / 0.9 - 1 <= len(sent(again, FIRST)) <= 30 / 0.9 + 6


def test_what_is_in_flight_is_not_sent_again():
    uplink = an_uplink(options=UplinkOptions(loss=LossEstimate.of_mean(0.1, 20000)))
    uplink.frames_to_send(0.0, 10_000)
    uplink.receive_report(a_report(complete=[META], have=[(FIRST, 10)], echo=(FIRST, 9)), session=SESSION, now=0.1)

    assert len(sent(uplink.frames_to_send(0.1, 10_000), FIRST)) < 60  # 10 settled of 10 sent: no reason to worry


def test_symbols_that_no_report_covers_for_long_are_lost():
    uplink = an_uplink(options=UplinkOptions(loss=LossEstimate.of_mean(0.01, 20000)))
    uplink.frames_to_send(0.0, 10_000)
    for tenth in range(1, 60):
        uplink.receive_report(
            a_report(complete=[META], have=[(FIRST, 10)], echo=(FIRST, 9)), session=SESSION, now=tenth / 10
        )

    assert len(sent(uplink.frames_to_send(6.0, 10_000), FIRST)) >= K - 20


def test_solved_blocks_and_complete_objects_get_nothing():
    uplink = an_uplink()
    uplink.receive_report(a_report(complete=[META, FIRST], have=[(SECOND, SOLVED)]), session=SESSION, now=0.1)

    assert uplink.frames_to_send(0.2, 1000) == []
    assert [event.bundle for event in events_of(uplink, ObjectComplete)] == [None, 0]


def test_bundle_ranges_complete_bundles_and_all_of_them_are_an_event():
    uplink = an_uplink()
    report = a_report(update=META, state=UpdateState.RECEIVING, bundle_ranges=((0, 1),))
    uplink.receive_report(report, session=SESSION, now=0.1)
    uplink.receive_report(report, session=SESSION, now=0.2)

    assert len(events_of(uplink, AllBundlesComplete)) == 1
    assert uplink.frames_to_send(0.3, 1000) == []


@pytest.mark.parametrize("state", [UpdateState.CONFIRMED, UpdateState.REJECTED, UpdateState.CANCELLED])
def test_a_decision_ends_it(state):
    uplink = an_uplink()
    uplink.receive_report(a_report(update=META, state=state, reason=Reason.COMMANDED), session=SESSION, now=0.1)

    assert uplink.is_decided
    assert uplink.frames_to_send(10.0, 1000) == []
    assert events_of(uplink, StateChanged)[0].state is state


def test_the_state_of_another_update_is_not_ours():
    uplink = an_uplink()
    uplink.receive_report(a_report(update=b"other!", state=UpdateState.CONFIRMED), session=SESSION, now=0.1)

    assert not uplink.is_decided
    assert uplink.frames_to_send(0.2, 100)


def test_a_full_disk_on_board_pauses_the_sender():
    uplink = an_uplink()
    blocked = a_report(update=META, state=UpdateState.BLOCKED, reason=Reason.DISK_FULL)
    uplink.receive_report(blocked, session=SESSION, now=0.1)
    assert uplink.frames_to_send(0.2, 1000) == []

    uplink.receive_report(a_report(update=META, state=UpdateState.RECEIVING), session=SESSION, now=1)
    assert uplink.frames_to_send(1.1, 1000)


def test_in_silence_all_unfinished_blocks_advance_together_without_end():
    uplink = an_uplink(options=UplinkOptions(loss=LossEstimate.of_mean(0.1, 20000)))
    total = {FIRST: 0, SECOND: 0}
    for second in range(60):
        for run in uplink.frames_to_send(float(second), 500):
            if run.handle != META:
                total[run.handle] += run.count
    gone = events_of(uplink, ReturnPathSilent)

    assert len(gone) == 1
    assert sum(total.values()) > 25_000
    assert abs(total[FIRST] - total[SECOND]) < 0.05 * total[FIRST]


@pytest.mark.parametrize("state", [UpdateState.VERIFIED, UpdateState.TRIAL])
def test_silence_is_nothing_to_tell_once_everything_is_on_board(state):
    uplink = an_uplink()
    uplink.receive_report(a_report(update=META, state=state), session=SESSION, now=0.1)

    assert uplink.frames_to_send(12.0, 1000) == []
    assert uplink.statistics(12.0).is_silent
    assert not events_of(uplink, ReturnPathSilent)


def test_a_late_report_puts_everything_right():
    uplink = an_uplink(options=UplinkOptions(loss=LossEstimate.of_mean(0.1, 20000)))
    for second in range(20):
        last = uplink.frames_to_send(float(second), 500)[-1]
    report = a_report(
        complete=[META], have=[(FIRST, SOLVED), (SECOND, K - 5)], echo=(last.handle, last.first_esi + last.count - 1)
    )
    uplink.receive_report(report, session=SESSION, now=20.0)

    again = uplink.frames_to_send(20.0, 10_000)

    assert {run.handle for run in again} == {SECOND}
    assert len(sent(again, SECOND)) <= 12


def test_a_receiver_that_lost_symbols_is_believed():
    uplink = an_uplink(options=UplinkOptions(loss=LossEstimate.of_mean(0.01, 20000)))
    last = sent(uplink.frames_to_send(0.0, 10_000), SECOND)[-1]
    before = a_report(complete=[META], have=[(FIRST, 900), (SECOND, 900)], echo=(SECOND, last))
    uplink.receive_report(before, session=SESSION, now=0.5)
    uplink.frames_to_send(0.5, 10_000)

    after = a_report(complete=[META], have=[(FIRST, 500), (SECOND, 900)])
    uplink.receive_report(after, session=OTHER, now=10.0)

    assert len(events_of(uplink, ReceiverRestarted)) == 1
    assert len(sent(uplink.frames_to_send(10.0, 10_000), FIRST)) >= 450


def test_a_restarted_receiver_that_lists_nothing_has_nothing():
    uplink = an_uplink(options=UplinkOptions(loss=LossEstimate.of_mean(0.01, 20000)))
    last = sent(uplink.frames_to_send(0.0, 10_000), SECOND)[-1]
    uplink.receive_report(
        a_report(complete=[META], have=[(FIRST, 900), (SECOND, 900)], echo=(SECOND, last)), session=SESSION, now=0.5
    )
    uplink.receive_report(a_report(complete=[META]), session=OTHER, now=10.0)

    runs = uplink.frames_to_send(10.0, 10_000)

    assert len(sent(runs, FIRST)) >= K
    assert len(sent(runs, SECOND)) >= K


def test_a_bundle_thrown_away_on_board_is_sent_again():
    uplink = an_uplink()
    uplink.receive_report(a_report(complete=[META, FIRST]), session=SESSION, now=0.1)
    uplink.receive_report(a_report(complete=[META], have=[(FIRST, 0)]), session=SESSION, now=0.2)

    assert [event.bundle for event in events_of(uplink, ObjectReopened)] == [0]
    assert len(sent(uplink.frames_to_send(0.3, 10_000), FIRST)) >= 0.98 * K


def test_metadata_that_the_satellite_lost_is_sent_again_at_once_and_no_bundle_is():
    uplink = an_uplink()
    whole = a_report(update=META, state=UpdateState.RECEIVING, bundle_ranges=((0, 0),), complete=[META, FIRST])
    uplink.receive_report(whole, session=SESSION, now=0.1)
    lost = a_report(update=META, state=UpdateState.BLOCKED, reason=Reason.METADATA_LOST)
    uplink.receive_report(lost, session=OTHER, now=0.2)  # it was found after a restart
    for now in range(3, 6):
        uplink.receive_report(lost, session=OTHER, now=float(now))

    assert [event.bundle for event in events_of(uplink, ObjectReopened)] == [None]
    runs = uplink.frames_to_send(6.0, 100)
    assert sent(runs, META)
    assert not sent(runs, FIRST)


def test_a_report_without_room_for_all_blocks_takes_nothing_back():
    handles = [b"%06d" % number for number in range(150)]
    items = [objects()[0]] + [
        OutgoingObject(handle=handle, num_symbols=100, symbol_size=8, bundle=number)
        for number, handle in enumerate(handles)
    ]
    uplink = with_update(items)
    uplink.begin_contact(0.0)
    full = a_report(complete=[META], have=[(handle, 100) for handle in handles[:100]])
    for now in range(10):
        uplink.receive_report(Report.decode(full.encode()), session=SESSION, now=float(now))
    room = len(Report.decode(full.encode()).open_blocks)
    assert room == 100  # the next one is cut short: what it leaves out is still there
    listed = [(handle, 100) for handle in handles[100:]] + [(handle, 7) for handle in handles[:100]]
    cut = Report.decode(a_report(complete=[META], have=listed).encode())
    for now in range(10, 20):
        uplink.receive_report(cut, session=SESSION, now=float(now))

    num_low = len(cut.open_blocks) - 50
    assert uplink.statistics(20.0).symbols_there == 50 * 100 + num_low * 7 + (100 - num_low) * 100


def test_progress_is_asked_for_before_new_symbols_are_used():
    uplink = an_uplink()
    uplink.frames_to_send(0.0, 10)

    assert uplink.has_unsaved_progress
    reserved = {(entry.handle, entry.block): entry.next_esi for entry in uplink.progress()}
    while not uplink.has_unsaved_progress:
        for run in uplink.frames_to_send(0.0, 10):
            limit = reserved[run.handle, run.block]
            assert run.first_esi + run.count <= limit or uplink.has_unsaved_progress


def test_the_next_process_goes_on_after_the_last_reserved_symbol():
    uplink = an_uplink()
    used = sent(uplink.frames_to_send(0.0, 400), FIRST)
    again = with_update(objects(), uplink.progress())
    again.begin_contact(5.0)
    again.receive_report(a_report(complete=[META], have=[(FIRST, 300)]), session=SESSION, now=5.1)

    fresh = sent(again.frames_to_send(5.2, 2000), FIRST)

    assert min(fresh) > max(used)
    assert len(fresh) <= 0.85 * K


def test_exact_progress_skips_nothing():
    uplink = an_uplink()
    used = sent(uplink.frames_to_send(0.0, 400), FIRST)
    kept = {entry.handle: entry.next_esi for entry in uplink.progress(exact=True)}

    assert kept[FIRST] == max(used) + 1


def test_blocks_of_unknown_fate_wait_for_a_report_and_untouched_ones_do_not():
    uplink = with_update(objects(), [Progress(handle=FIRST, block=0, next_esi=900, have=0)])
    uplink.begin_contact(0.0)

    assert not sent(uplink.frames_to_send(0.1, 3000), FIRST)
    assert sent(uplink.frames_to_send(2.5, 3000), FIRST)  # nobody answers: go on


def test_solved_blocks_are_remembered():
    uplink = with_update(objects(), [Progress(handle=FIRST, block=0, next_esi=1100, have=SOLVED)])
    uplink.begin_contact(0.0)

    assert not sent(uplink.frames_to_send(0.1, 3000), FIRST)
    assert Progress(handle=FIRST, block=0, next_esi=1100, have=SOLVED) in uplink.progress()


def test_the_deadline_is_when_the_return_path_counts_as_silent():
    uplink = an_uplink(options=UplinkOptions(silence_s=2.0))
    uplink.receive_report(a_report(complete=[META]), session=SESSION, now=1.0)
    uplink.frames_to_send(1.0, 10_000)

    assert uplink.next_deadline(1.0) == pytest.approx(3.0)
    assert uplink.next_deadline(4.0) == 4.0
