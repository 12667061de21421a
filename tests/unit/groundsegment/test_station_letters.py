"""Letters between home and stations: sealed, strict, and hostile until checked."""

import json
import math
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundsegment.depot.records import (
    BlockProgress,
    Bundle,
    CommandState,
    ContactLog,
    FlightState,
    QueuedCommand,
    Update,
)
from groundsegment.planner.contact_plan import PlannedContact
from groundsegment.stations import letters
from groundsegment.stations.letters import LETTER_BYTES_MAX, LetterError, LetterKind, open_letter, seal_letter
from groundsegment.stations.logbook import Claim, HeardReport, Logbook, Loss
from groundsegment.stations.ordered_update import OrderedFile, OrderedUpdate
from groundsegment.stations.orders import Ended, Orders
from groundsegment.stations.reading import line_text
from protocol.link_keys import Direction, derive_station_key
from protocol.objects import handle_of_digest, object_handle
from protocol.report import SOLVED

NOW = datetime(2026, 11, 22, 6, 0, 0, 250_000, tzinfo=UTC)
MASTER = bytes(range(32))
KEY, OTHER_KEY = derive_station_key(MASTER, 1), derive_station_key(MASTER, 2)

METADATA = OrderedFile(path=PurePosixPath("updates/ab/metadata.skm"), size_bytes=900, sha256=b"m" * 32)
HANDLE = handle_of_digest(METADATA.sha256)
UPDATE = Update(
    handle=HANDLE, sequence=7, satellite="", release_name="r-7", release_digest=b"d" * 32, base_digest=None,
    state=FlightState.STAGED, priority=-3, weight=2.5, lanes=4, symbol_size=1448, beside=True, expires_utc=NOW,
    payload_bytes=5000, directory=Path("updates/ab"), created_utc=NOW,
)  # fmt: skip
BUNDLE = Bundle(
    update=HANDLE, number=0, sha256=b"b" * 32, size_bytes=5000, num_segments=3, path=Path("updates/ab/bundle-00000.skb")
)
COMMAND = QueuedCommand(
    handle=object_handle(b"signed"), satellite="", counter=5, operation="cancel", data=b"signed",
    state=CommandState.QUEUED, created_utc=NOW,
)  # fmt: skip
ORDERS = Orders(
    satellite="SAT-1", station=3, name="svalbard", instance="abc", serial=9, written_utc=NOW, endpoint="modem:7001",
    contacts=(
        PlannedContact(station="", start_s=5.5, end_s=math.inf, rate_bps=2e6, guard_s=0.25, loss=0.1),
        PlannedContact(station="", start_s=-math.inf, end_s=3.0),
    ),
    updates=(OrderedUpdate(update=UPDATE, metadata=METADATA, bundles=(BUNDLE,)),),
    ended=(Ended(handle=b"e" * 6, state=FlightState.CANCELLED, reason="superseded: 8"),),
    on_board=(BlockProgress(handle=HANDLE, block=1, next_esi=0, have=SOLVED),),
    on_board_utc=NOW, commands=(COMMAND,),
)  # fmt: skip
LOGBOOK = Logbook(
    satellite="SAT-1", station=3, instance="abc", serial=4, orders=9, written_utc=NOW, is_complete=False,
    progress=(BlockProgress(handle=HANDLE, block=2, next_esi=400, have=17),),
    report=HeardReport(session=b"s" * 6, sequence=12, received_utc=NOW, data=b"report"),
    messages=(b"one", b"two"),
    contacts=(ContactLog(id=0, satellite="SAT-1", station="", station_id=3, start_utc=NOW, frames_sent=5, loss=0.25),),
    claims=(Claim(handle=HANDLE, state=FlightState.FLYING, reason=""),),
    losses=(Loss(direction=Direction.UP, state={"alpha": 3.5, "beta": 2}),),
)  # fmt: skip


@pytest.mark.parametrize("letter", [ORDERS, LOGBOOK, replace(ORDERS, contacts=None, updates=(), on_board_utc=None)])
def test_opening_undoes_sealing(letter):
    assert type(letter).open(letter.seal(KEY), KEY) == letter


def test_what_stands_in_a_letter_can_be_read_by_people_and_changed_by_nobody():
    data = ORDERS.seal(KEY)
    assert b'"release_name": "r-7"' in data
    for changed in (
        data.replace(b"r-7", b"r-8"),
        data + b" ",
        data[:-1],
        data.replace(b"skyload-letter-1", b"skyload-letter-2"),
        data.replace(b"orders", b"logbook", 1),
        b"",
    ):
        with pytest.raises(LetterError):
            Orders.open(changed, KEY)


def test_no_station_can_write_in_the_name_of_another_and_no_logbook_is_an_order():
    with pytest.raises(LetterError, match="this station's key"):
        Logbook.open(LOGBOOK.seal(OTHER_KEY), KEY)
    body = seal_letter(LetterKind.LOGBOOK, KEY, ORDERS.as_json())
    with pytest.raises(LetterError, match="this station's key"):
        Orders.open(body.replace(b"logbook", b"orders", 1), KEY)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data):
    for kind in LetterKind:
        with pytest.raises(LetterError):
            open_letter(kind, KEY, data)


def test_a_letter_is_not_read_beyond_its_limit():
    with pytest.raises(LetterError, match="larger"):
        open_letter(LetterKind.ORDERS, KEY, bytes(LETTER_BYTES_MAX + 1))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def paths_of(value, at=()):
    """Every place in a JSON value."""
    yield at
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from paths_of(item, (*at, key))


def with_value(value, path, new):
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = with_value(copy[path[0]], path[1:], new)
    return copy


@settings(max_examples=60)
@given(st.data())
def test_whoever_has_the_key_can_still_say_only_what_has_a_type_and_a_range(data):
    kind, letter = data.draw(st.sampled_from([(LetterKind.ORDERS, ORDERS), (LetterKind.LOGBOOK, LOGBOOK)]))
    body = json.loads(json.dumps(letter.as_json()))
    path = data.draw(st.sampled_from(list(paths_of(body))))
    changed = with_value(body, path, data.draw(JSON))
    sealed = seal_letter(kind, KEY, changed if isinstance(changed, dict) else {"x": changed})
    try:
        opened = type(letter).open(sealed, KEY)
    except LetterError:
        return
    assert type(letter).open(opened.seal(KEY), KEY) == opened  # what was let in is sound


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("updates", 0, "metadata", "path"), "../../etc/passwd", "not a path of safe names"),
        (("updates", 0, "metadata", "path"), "/etc/passwd", "not a path of safe names"),
        (("updates", 0, "metadata", "size"), 0, "not a whole number"),
        (("updates", 0, "lanes"), 17, "1..16"),
        (("updates", 0, "bundles", 0, "sha256"), "zz" * 32, "not 32 bytes in hex"),
        (("updates", 0, "weight"), 0, "not in"),
        (("contacts", 0, "start_s"), True, "not a number"),
        (("ended", 0, "state"), "flying", "not an end"),
        (("station",), 0, "1..15"),
        (("satellite",), "a/b", "not a safe name"),
        (("serial",), 2**63, "not a whole number"),
        (("written_utc",), "2026-11-22T06:00:00", "not a time in UTC"),
        (("commands", 0, "data"), "!!", "not base64"),
        (("on_board", 0, "block"), 16, "0..15"),
    ],
)
def test_bad_orders_name_the_place(path, value, words):
    with pytest.raises(LetterError, match=words):
        Orders.open(seal_letter(LetterKind.ORDERS, KEY, with_value(ORDERS.as_json(), path, value)), KEY)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("progress", 0, "have"), SOLVED + 1, "have"),
        (("progress", 0, "next_esi"), 2**20 + 1, "next_esi"),
        (("progress", 0), [], "not a mapping"),
        (("messages",), [{"data": "QUJD"}] * 33, "at most 32"),
        (("messages", 0, "data"), "QUJD" * 30_000, "at most 65536 bytes"),
        (("contacts", 0, "loss"), 1.5, "not in 0..1"),
        (("contacts", 0, "start_utc"), "9999-12-31T23:59:59+00:00", "not a time"),
        (("report", "sequence"), 2**40, "sequence"),
        (("claims", 0, "reason"), "a\nb", "not a line"),
        (("claims", 0, "state"), "great", "not one of"),
        (("losses", 0, "state"), {"x" * 65: 1}, "short names"),
        (("losses", 0, "state"), {"x": 1e301}, "not in"),
        (("losses", 0, "direction"), "sideways", "not one of"),
        (("is_complete",), 1, "neither true nor false"),
    ],
)
def test_a_bad_logbook_names_the_place(path, value, words):
    with pytest.raises(LetterError, match=words):
        Logbook.open(seal_letter(LetterKind.LOGBOOK, KEY, with_value(LOGBOOK.as_json(), path, value)), KEY)


def test_json_that_is_none_is_refused_though_the_seal_is_right():
    for text in (b'{"serial": NaN}', b"[" * 100_000, b"{" + b"1" * 10_000, b"[]", b"\xff"):
        head = f"skyload-letter-1 orders {letters._mac(LetterKind.ORDERS, KEY, text)}\n"
        with pytest.raises(LetterError, match=r"not JSON|not a mapping"):
            open_letter(LetterKind.ORDERS, KEY, head.encode() + text)


def test_any_reason_becomes_a_line():
    assert line_text("two\nlines \x00 and\ttabs") == "two lines and tabs"
    assert len(line_text("x" * 5000)) == 1000
