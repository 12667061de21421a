import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from groundsegment.downlink import Downlink, MessageReceived, ReportReceived
from protocol.exchange import Outbox
from protocol.frame import Frame, FrameCodec, FrameKind
from protocol.link_keys import Direction
from protocol.message import Message, MessageKind
from protocol.report import Report
from tests.fakes.contacts import contact_key

KEY = bytes(range(32))
IDENTITY = Ed25519PrivateKey.from_private_bytes(b"\x11" * 32)
STRANGER = Ed25519PrivateKey.from_private_bytes(b"\x22" * 32)
NOW = 100.0


def a_downlink(**changes):
    return Downlink(
        satellite="SAT-1",
        identity_public=IDENTITY.public_key().public_bytes_raw(),
        session=b"groun1",
        **{"contact_key": contact_key(KEY), **changes},
    )


def a_report_datagram(sequence=1, session=b"sessn1", key=KEY, **fields):
    frame = Frame(kind=FrameKind.REPORT, handle=session, sequence=sequence, payload=Report(**fields).encode())
    return FrameCodec(Direction.DOWN, key).encode(frame)


def message_datagrams(signer=IDENTITY, satellite="SAT-1", text="hello"):
    message = Message(satellite=satellite, counter=1, kind=MessageKind.ANSWER, body={"text": text})
    outbox = Outbox(retry_s=1.0)
    handle = outbox.put(message.seal(public_key=signer.public_key().public_bytes_raw(), sign=signer.sign), 0.0)
    codec = FrameCodec(Direction.DOWN, KEY)
    return handle, [codec.encode(frame) for frame in outbox.frames_to_send(0.0)]


def heard(downlink):
    events = []
    while (event := downlink.next_event()) is not None:
        events.append(event)
    return events


def acknowledged(datagrams):
    codec = FrameCodec(Direction.UP, KEY)
    return [handle for data in datagrams for handle in Report.decode(codec.decode(data).payload).complete]


def test_a_report_is_heard_once():
    downlink = a_downlink()
    for _ in range(2):
        downlink.receive(a_report_datagram(frames_received=7))

    assert heard(downlink) == [ReportReceived(report=Report(frames_received=7), session=b"sessn1", sequence=1)]
    assert downlink.statistics().reports_stale == 1


def test_reports_of_an_older_session_are_replays():
    downlink = a_downlink(known_sessions={b"sessn0": 5, b"sessn1": 9})
    for session, sequence in ((b"sessn0", 6), (b"sessn1", 9), (b"sessn1", 10), (b"sessn2", 0)):
        downlink.receive(a_report_datagram(sequence, session))
    downlink.receive(a_report_datagram(11, b"sessn1"))

    assert [(event.session, event.sequence) for event in heard(downlink)] == [(b"sessn1", 10), (b"sessn2", 0)]
    assert downlink.statistics().reports_stale == 3


@pytest.mark.parametrize("data", [b"", b"x" * 40, a_report_datagram(key=bytes(32)), a_report_datagram()[:-1]])
def test_what_is_no_frame_of_this_link_is_counted(data):
    downlink = a_downlink()
    downlink.receive(data)

    assert heard(downlink) == []
    assert downlink.statistics().frames_rejected == 1


def test_a_message_is_verified_and_acknowledged_once_it_is_kept():
    downlink = a_downlink()
    handle, datagrams = message_datagrams()
    for data in datagrams:
        downlink.receive(data)

    (event,) = heard(downlink)
    assert isinstance(event, MessageReceived)
    assert event.message.body == {"text": "hello"}
    assert downlink.frames_to_send(NOW) == []
    downlink.message_kept(handle)
    assert acknowledged(downlink.frames_to_send(NOW)) == [handle]
    assert downlink.frames_to_send(NOW + 1) == []


def test_a_lost_acknowledgement_is_repeated_when_the_message_comes_again():
    downlink = a_downlink()
    handle, datagrams = message_datagrams()
    for data in datagrams:
        downlink.receive(data)
    downlink.message_kept(handle)
    downlink.frames_to_send(NOW)
    downlink.receive(datagrams[0])

    assert downlink.frames_to_send(NOW + 0.01) == []  # not for each frame
    assert acknowledged(downlink.frames_to_send(NOW + 1)) == [handle]


@pytest.mark.parametrize("options", [{"signer": STRANGER}, {"satellite": "SAT-2"}])
def test_messages_of_others_are_refused_and_never_acknowledged(options):
    downlink = a_downlink()
    _, datagrams = message_datagrams(**options)
    for data in datagrams:
        downlink.receive(data)

    assert heard(downlink) == []
    assert downlink.statistics().messages_refused == 1
    assert downlink.frames_to_send(NOW) == []


def test_a_hello_is_a_report_that_the_satellite_can_read():
    downlink = a_downlink()
    frames = [FrameCodec(Direction.UP, KEY).decode(downlink.hello(NOW)) for _ in range(2)]

    assert [(frame.handle, frame.sequence) for frame in frames] == [(b"groun1", 1), (b"groun1", 2)]


def test_a_station_hears_its_own_reports_only_and_writes_its_own_number():
    downlink = a_downlink(contact_key=contact_key(KEY, 3), station=3)
    for station in (3, 4):
        frame = Frame(kind=FrameKind.REPORT, handle=b"sessn1", sequence=1, station=station, payload=Report().encode())
        downlink.receive(FrameCodec(Direction.DOWN, KEY).encode(frame))

    assert len(heard(downlink)) == 1
    assert downlink.statistics().frames_rejected == 1
    assert FrameCodec(Direction.UP, KEY).decode(downlink.hello(NOW)).station == 3


def test_missing_numbers_tell_how_many_reports_were_lost_but_not_those_of_a_gap():
    downlink = a_downlink()
    for sequence in (10, 11, 13, 16):
        downlink.receive(a_report_datagram(sequence))
    assert (downlink.statistics().reports_expected, downlink.statistics().reports_heard) == (6, 3)

    downlink.begin_contact()
    downlink.receive(a_report_datagram(700))
    downlink.receive(a_report_datagram(701))
    downlink.receive(a_report_datagram(9, session=b"sessn2"))  # restarted: nobody knows how many it had sent
    assert (downlink.statistics().reports_expected, downlink.statistics().reports_heard) == (7, 4)
