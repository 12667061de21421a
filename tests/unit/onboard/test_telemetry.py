"""The dictionary of events: unique ids, throttles, and one line of key=value."""

import logging

from onboard import telemetry
from onboard.telemetry import EVENTS, Event, Severity, Telemetry


def test_ids_and_names_are_unique():
    entries = [value for value in vars(telemetry).values() if isinstance(value, Event)]
    assert len({event.id for event in entries}) == len({event.name for event in entries}) == len(entries)
    assert set(EVENTS.values()) == set(entries)


def test_a_line_is_key_value_with_quotes_where_needed(caplog):
    with caplog.at_level(logging.DEBUG, logger="onboard"):
        Telemetry(lambda: 0.0).emit(telemetry.FLIPPED, about=b"\x01\x02", swap_ms=1.23456, reason="two words")
    assert caplog.messages == [
        'event=flipped about=0102 swap_ms=1.235 reason="two words" text="requests go to another release"'
    ]


def test_an_event_that_repeats_is_counted_but_told_only_so_often(caplog):
    now = [0.0]
    events = Telemetry(lambda: now[0])
    event = Event(id=999, name="test", severity=Severity.ACTIVITY, text="x", throttle=3)
    with caplog.at_level(logging.INFO, logger="onboard"):
        for _ in range(10):
            events.emit(event)
        assert len(caplog.messages) == 3
        now[0] = 61.0
        events.emit(event)
    assert len(caplog.messages) == 4
    assert events.counters() == {"test": 11}


def test_only_events_for_the_ground_go_down():
    events, down = Telemetry(lambda: 0.0), []
    events.send_down = lambda event, text, about: down.append((event.name, text, about))
    events.emit(telemetry.UPDATE_ACCEPTED, sequence=1)
    events.emit(telemetry.UPDATE_REFUSED, about=b"12345678", reason="ROLLBACK")
    assert down == [("update_refused", "its metadata is not trusted reason=ROLLBACK", b"12345678")]
