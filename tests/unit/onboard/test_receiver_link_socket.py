"""The receiver's socket, with and without the system call that reads many datagrams at once."""

import select
import socket

import pytest

from onboard.receiver import link_socket
from onboard.receiver.link_socket import LinkSocket
from protocol.frame import FRAME_SIZE_MAX


@pytest.fixture(params=["many at once", "one by one"])
def link(request, monkeypatch):
    if request.param == "one by one":
        monkeypatch.setattr(link_socket, "is_available", lambda: False)
    made = LinkSocket(("127.0.0.1", 0))
    yield made
    made.close()


@pytest.fixture
def senders(link):
    made = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
    for sender in made:
        sender.connect(link.address)
    yield made
    for sender in made:
        sender.close()


def test_nothing_is_there_when_nothing_came(link):
    assert link.read(10) == []


def test_what_came_is_read_whole_in_order_and_with_its_sender(link, senders):
    sent = []
    for number in range(150):
        sender, data = senders[number % 3 == 0], bytes([number]) * (number * 37 % 1500)
        sender.send(data)
        sent.append((data, sender.getsockname()))

    assert link.read(1000) == sent
    assert link.read(1000) == []


def test_no_more_is_read_at_once_than_asked_for_and_nothing_is_lost(link, senders):
    for number in range(150):
        senders[0].send(bytes([number]))
    first = link.read(64)

    assert [data for data, _ in first] == [bytes([number]) for number in range(64)]
    assert len(link.read(1000)) == 86


def test_too_long_a_datagram_does_not_look_whole(link, senders):
    senders[0].send(bytes(FRAME_SIZE_MAX))
    senders[0].send(bytes(FRAME_SIZE_MAX + 1))
    senders[0].send(bytes(FRAME_SIZE_MAX + 500))
    sizes = [len(data) for data, _ in link.read(10)]

    assert sizes[0] == FRAME_SIZE_MAX
    assert min(sizes[1:]) > FRAME_SIZE_MAX


def test_an_answer_that_nobody_hears_is_no_trouble(link):
    gone = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    gone.bind(("127.0.0.1", 0))
    address = gone.getsockname()
    gone.close()
    assert link.send(b"x", address)
    select.select([link], [], [], 0.05)

    assert link.read(10) == []
    assert link.send(b"x", address)


def test_a_link_over_ipv6_knows_its_senders(monkeypatch):
    try:
        link = LinkSocket(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 here")
    sender = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sender.connect(("::1", link.address[1]))
    sender.send(b"six")

    assert link.read(10) == [(b"six", sender.getsockname())]
    link.close()
    sender.close()
