"""Several updates on one link's core: who goes first, who gets how much, and what a report says of each."""

import pytest

from groundsegment.uplink.sender.cargo import OutgoingObject, Progress
from groundsegment.uplink.sender.core import COMMAND_PRIORITY, Uplink, UplinkOptions
from groundsegment.uplink.sender.events import AllBundlesComplete, ObjectComplete, ObjectReopened, StateChanged
from groundsegment.uplink.sender.loss import LossEstimate
from protocol.report import SOLVED, OpenBlock, Report, UpdateState, UpdateStatus

SESSION = b"sessn1"
K = 1000
LITTLE_LOSS, SOME_LOSS = LossEstimate.of_mean(0.001, 20_000), LossEstimate.of_mean(0.1, 20_000)


def an_update(name, num_bundles=2, num_symbols=K):
    items = [OutgoingObject(handle=f"{name}meta".encode(), num_symbols=2, symbol_size=8, bundle=None)]
    return items + [
        OutgoingObject(handle=f"{name}bun{number}".encode(), num_symbols=num_symbols, symbol_size=8, bundle=number)
        for number in range(num_bundles)
    ]


A, B, C = an_update("a-"), an_update("b-"), an_update("c-")
COMMAND = [OutgoingObject(handle=b"comand", num_symbols=1, symbol_size=8, bundle=None)]


def a_link(*updates, options=None):
    """Updates are (objects, terms); their metadata is on board."""
    link = Uplink(options or UplinkOptions(loss=LITTLE_LOSS))
    for objects, terms in updates:
        link.add_update(objects, **terms)
    link.begin_contact(0.0)
    hear(link, complete=[objects[0].handle for objects, _ in updates])
    return link


def a_silent_link(*updates, **options):
    link = Uplink(UplinkOptions(silence_s=0.0, loss=SOME_LOSS, **options))
    for objects, terms in updates:
        link.add_update(objects, **terms)
    link.begin_contact(0.0)
    return link


def hear(link, now=0.0, **fields):
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    link.receive_report(Report(**fields), session=SESSION, now=now)


def status_of(objects, state=UpdateState.RECEIVING, ranges=()):
    return UpdateStatus(handle=objects[0].handle, state=state, bundle_ranges=ranges)


def block(objects, bundle, have):
    return OpenBlock(handle=objects[1 + bundle].handle, block=0, have=have)


def sent_of(runs, objects):
    handles = {item.handle for item in objects}
    return sum(run.count for run in runs if run.handle in handles)


def events_of(link, kind):
    found = []
    while (event := link.next_event()) is not None:
        if isinstance(event, kind):
            found.append(event)
    return found


def test_a_higher_priority_goes_first_to_the_last_symbol():
    link = a_link((A, {}), (B, {"priority": 1}))

    first = link.frames_to_send(0.0, 500)
    then = link.frames_to_send(0.0, 5000)

    assert sent_of(first, B) == 500
    assert sent_of(then, A) >= 0.98 * 2 * K
    order = [run.handle in {item.handle for item in B} for run in first + then]
    assert order == sorted(order, reverse=True)


def test_an_urgent_update_overtakes_a_big_one_in_mid_flight_and_the_big_one_goes_on():
    link = a_link((A, {}))
    runs = link.frames_to_send(0.0, 300)
    link.add_update(B, priority=5, now=1.0)

    urgent = link.frames_to_send(1.0, 2000)
    hear(link, now=2.0, complete=[A[0].handle, *(item.handle for item in B)])
    after = link.frames_to_send(2.0, 100)

    assert urgent[0].handle == B[0].handle
    assert sent_of(urgent, A) < 30
    assert sent_of(after, A) == 100
    runs = [run for run in runs + urgent + after if run.handle == A[1].handle]
    esis = [esi for run in runs for esi in range(run.first_esi, run.first_esi + run.count)]
    assert esis == list(range(len(esis)))


def test_a_command_is_an_update_of_one_object_that_goes_before_all():
    link = a_link((A, {"priority": 9}))
    command = link.add_update(COMMAND, priority=COMMAND_PRIORITY, now=0.0)

    assert link.frames_to_send(0.0, 100)[0].handle == command
    hear(link, now=0.5, complete=[A[0].handle, command])
    assert link.is_complete(command)
    assert not events_of(link, AllBundlesComplete)
    assert sent_of(link.frames_to_send(0.5, 100), COMMAND) == 0


@pytest.mark.parametrize("budget", [10, 256])
def test_updates_of_one_priority_share_by_weight(budget):
    link = a_link((A, {"weight": 3.0}), (B, {}), (C, {"priority": -1}))
    runs = []
    for _ in range(1000 // budget):
        runs += link.frames_to_send(0.0, budget)

    assert sent_of(runs, A) == pytest.approx(0.75 * sent_of(runs, A + B), abs=64)
    assert sent_of(runs, C) == 0


def test_who_has_nothing_to_send_gives_its_share_away_and_cannot_claim_it_later():
    link = a_link((A, {}), (B, {}))
    hear(link, complete=[item.handle for item in B] + [A[0].handle])
    assert sent_of(link.frames_to_send(0.0, 600), A) == 600

    hear(link, now=0.1, complete=[A[0].handle, B[0].handle], open_blocks=(block(B, 0, 0), block(B, 1, 0)))
    runs = link.frames_to_send(0.1, 512)

    assert sent_of(runs, A) == pytest.approx(256, abs=70)


def test_each_update_learns_from_its_own_entry():
    link = a_link((A, {}), (B, {}))
    hear(link, now=0.1, updates=(status_of(B, UpdateState.VERIFIED), status_of(A, ranges=((1, 1),))))

    assert (link.state(A[0].handle), link.state(B[0].handle)) == (UpdateState.RECEIVING, UpdateState.VERIFIED)
    assert link.is_complete(B[0].handle)
    assert [link.share_there(objects[0].handle) for objects in (A, B)] == [0.5, 1.0]
    assert {run.handle for run in link.frames_to_send(0.1, 5000)} == {A[1].handle}


def test_events_say_which_update_they_are_about():
    link = a_link((A, {}), (B, {}))
    events_of(link, object)
    hear(link, now=0.1, updates=(status_of(B, ranges=((0, 1),)),))
    found = events_of(link, (AllBundlesComplete, ObjectComplete, StateChanged))

    assert len(found) == 4
    assert {event.update for event in found} == {B[0].handle}


def test_a_decided_update_stops_and_the_others_go_on():
    link = a_link((A, {"priority": 1}), (B, {}))
    hear(link, now=0.1, updates=(status_of(A, UpdateState.REJECTED),))

    runs = link.frames_to_send(0.1, 5000)

    assert sent_of(runs, A) == 0
    assert sent_of(runs, B) >= 0.98 * 2 * K
    assert not link.is_decided


def test_bundles_of_an_update_that_a_report_does_not_tell_of_are_not_missed():
    link = a_link((A, {}), (B, {}))
    hear(link, now=0.1, updates=(status_of(A, ranges=((0, 1),)), status_of(B)))
    others = tuple(status_of(an_update(f"{number}-")) for number in range(3))
    for second in range(1, 200):  # four updates are told of, A is not among them
        hear(link, now=float(second), updates=(status_of(B), *others))
        link.frames_to_send(float(second), 100)

    assert link.is_complete(A[0].handle)
    assert not events_of(link, ObjectReopened)


def test_bundles_that_an_update_s_own_entry_does_not_list_are_sent_again_after_a_while():
    link = a_link((A, {}))
    hear(link, now=0.1, updates=(status_of(A, ranges=((0, 1),)),))
    for second in range(1, 40):
        hear(link, now=float(second), updates=(status_of(A, ranges=((1, 1),)),))

    assert [event.bundle for event in events_of(link, ObjectReopened)] == [0]
    assert {run.handle for run in link.frames_to_send(40.0, 5000)} == {A[1].handle}


def test_metadata_that_no_report_knows_of_any_more_is_sent_again():
    link = a_link((A, {}))
    hear(link, now=0.1, updates=(status_of(A),))
    for second in range(1, 40):
        hear(link, now=float(second))

    assert A[0].handle in {run.handle for run in link.frames_to_send(40.0, 5000)}


def test_an_update_that_is_removed_is_sent_no_more():
    link = a_link((A, {"priority": 1}), (B, {}))
    link.frames_to_send(0.0, 300)
    kept = link.progress(A[0].handle, exact=True)
    link.remove_update(A[0].handle)

    assert sent_of(link.frames_to_send(0.1, 5000), A) == 0
    assert link.updates == (B[0].handle,)
    assert Progress(handle=A[1].handle, block=0, next_esi=300, have=0) in kept


def test_progress_is_that_of_all_updates():
    link = a_link((A, {}), (B, {}))
    link.frames_to_send(0.0, 500)
    assert link.has_unsaved_progress

    handles = {entry.handle for entry in link.progress()}

    assert {A[1].handle, B[1].handle} <= handles
    assert not link.has_unsaved_progress


def test_in_silence_a_higher_priority_is_made_sure_before_a_lower_one_begins():
    link = a_silent_link((A, {}), (B, {"priority": 1}))

    first = link.frames_to_send(0.0, 2200)
    then = link.frames_to_send(0.0, 5_000)

    assert sent_of(first, B) == 2200
    assert sent_of(then, A) > 2 * K / 0.9


def test_in_silence_blocks_advance_together_symbol_by_symbol():
    items = an_update("x-", num_bundles=4)
    runs = a_silent_link((items, {})).frames_to_send(0.0, 2000)
    turns = [run.handle for run in runs if run.handle != items[0].handle]

    assert {run.count for run in runs if run.handle != items[0].handle} == {1}
    assert all(len(set(turns[start : start + 4])) == 4 for start in range(0, 1600, 4))


def test_in_silence_no_more_is_begun_than_a_receiver_keeps_open():
    cost = 2 * 8 * K  # an object, and a block of it being solved
    items = an_update("x-", num_bundles=5)
    link = a_silent_link((items, {}), window_bytes=2 * cost)
    begun = [{run.handle for run in link.frames_to_send(0.0, 1150)} - {items[0].handle} for _ in range(4)]

    assert begun[0] == begun[1] == {b"x-bun0", b"x-bun1"}
    assert begun[3] <= {b"x-bun2", b"x-bun3"}


def test_in_silence_the_metadata_goes_up_now_and_then_and_first_in_each_contact():
    link = a_silent_link((A, {}))
    times = [0.1 * step for step in range(400) if sent_of(link.frames_to_send(0.1 * step, 20), A[:1])]
    link.end_contact()
    link.begin_contact(5000.0)

    assert times[0] == 0.0
    assert 4 <= len(times) <= 8
    assert link.frames_to_send(5000.0, 20)[0].handle == A[0].handle


def test_a_report_of_solved_blocks_ends_what_silence_began():
    link = a_link((A, {}), options=UplinkOptions(silence_s=1.0, loss=SOME_LOSS))
    link.frames_to_send(5.0, 3000)
    hear(link, now=6.0, complete=[A[0].handle], open_blocks=(block(A, 0, SOLVED), block(A, 1, SOLVED)))

    assert not link.frames_to_send(6.0, 100)


def test_where_answers_may_come_the_rounds_of_blind_sending_are_further_and_further_apart():
    link = a_link((A, {}), options=UplinkOptions(silence_s=1.0, loss=SOME_LOSS))
    times = [now for now in range(1, 130) if sent_of(link.frames_to_send(float(now), 100_000), A)]

    assert 5 <= len(times) <= 9
    assert times[-1] - times[-2] > 10 * (times[2] - times[1])
