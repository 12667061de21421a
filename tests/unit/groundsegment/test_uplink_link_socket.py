"""The uplink's socket: datagrams one by one and in trains arrive as the same single datagrams, or are counted."""

import asyncio
import contextlib
import errno
import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundsegment.uplink.wire import link_socket
from groundsegment.uplink.wire.link_socket import Endpoint, LinkSocket, trains_of

SIZES = [1468, *[1460] * 150, 1468, *[1460] * 40, 8200, 8200, 20, 4]


class Counted:
    """A real socket that counts system calls; has no room for the first few, or refuses trains as a route may."""

    def __init__(self, real, *, num_full=0, refusal=0):
        self._real, self._num_full, self._refusal = real, num_full, refusal
        self.num_trains = self.num_single = 0

    def __getattr__(self, name):
        return getattr(self._real, name)

    def sendmsg(self, *arguments):
        self.num_trains += 1
        self._fill()
        if self._refusal:
            raise OSError(self._refusal, os.strerror(self._refusal))
        return self._real.sendmsg(*arguments)

    def sendto(self, *arguments):
        self.num_single += 1
        self._fill()
        return self._real.sendto(*arguments)

    def _fill(self):
        if self._num_full > 0:
            self._num_full -= 1
            raise BlockingIOError


@pytest.fixture(params=["127.0.0.1", "::1"])
def sink(request):
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        try:
            made.bind((request.param, 0))
        except OSError:
            pytest.skip("no such addresses here")
        made.setblocking(False)
        yield made


def datagrams_of(sizes):
    return [number.to_bytes(4, "big").ljust(size, b".") for number, size in enumerate(sizes)]


def received(sink):
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(sink.recv(65_535))
    return found


def send(address, datagrams, *, in_trains=True, attempts=1, **options):
    """Send them all so many times; returns the link and its counting socket."""

    async def run():
        async with LinkSocket(Endpoint(host=address[0], port=address[1]), lambda _: None) as link:
            link._socket = counted = Counted(link._socket, **options)
            for _ in range(attempts):
                await link.send_all(datagrams, in_trains=in_trains)
            return link, counted

    return asyncio.run(run())


def has_trains():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        return link_socket._takes_trains(made)


needs_trains = pytest.mark.skipif(not has_trains(), reason="this system cannot cut trains up")


@pytest.mark.parametrize("in_trains", [False, True])
def test_all_arrive_as_single_datagrams_in_order(sink, in_trains):
    link, _ = send(sink.getsockname(), datagrams_of(SIZES), in_trains=in_trains)

    assert received(sink) == datagrams_of(SIZES)
    assert link.num_unsendable == 0


@needs_trains
def test_a_train_is_one_system_call(sink):
    _, counted = send(sink.getsockname(), datagrams_of([1460] * 128))

    assert (counted.num_trains, counted.num_single) == (3, 0)


def test_without_trains_there_is_a_call_for_each(sink):
    _, counted = send(sink.getsockname(), datagrams_of([1460] * 128), in_trains=False)

    assert (counted.num_trains, counted.num_single) == (0, 128)


def test_a_system_without_trains_sends_one_by_one(sink, monkeypatch):
    monkeypatch.setattr(link_socket, "_takes_trains", lambda _: False)
    _, counted = send(sink.getsockname(), datagrams_of(SIZES))

    assert received(sink) == datagrams_of(SIZES)
    assert counted.num_trains == 0


@needs_trains
@pytest.mark.parametrize("refusal", [errno.EINVAL, errno.EIO, errno.EMSGSIZE])
def test_a_route_that_refuses_trains_is_asked_once_and_loses_nothing(sink, refusal):
    link, counted = send(sink.getsockname(), datagrams_of(SIZES), refusal=refusal, attempts=2)

    assert received(sink) == datagrams_of(SIZES) * 2
    assert (counted.num_trains, link.num_unsendable) == (1, 0)


def test_what_finds_no_room_waits_and_arrives_in_order(sink):
    link, counted = send(sink.getsockname(), datagrams_of(SIZES), num_full=4)

    assert received(sink) == datagrams_of(SIZES)
    assert link.num_unsendable == 0
    assert counted.num_single > 0


@pytest.mark.parametrize("in_trains", [False, True])
def test_each_datagram_that_cannot_leave_is_counted(in_trains):
    forbidden = ("255.255.255.255", 9)  # broadcast is not allowed to such a socket
    link, _ = send(forbidden, datagrams_of([1460] * 100), in_trains=in_trains)

    assert link.num_unsendable == 100


@given(st.lists(st.tuples(st.sampled_from([12, 1280, 1460, 1468, 8212]), st.integers(1, 140)), max_size=8))
def test_trains_keep_order_and_what_the_kernel_asks_of_them(runs):
    sizes = [size for size, count in runs for _ in range(count)]
    trains = list(trains_of(datagrams_of(sizes)))

    assert [data for train in trains for data in train] == datagrams_of(sizes)
    for train in trains:
        first, *others, last = [*map(len, train), 0] if len(train) == 1 else map(len, train)
        assert set(others) <= {first}
        assert last <= first
        assert 0 < len(train) <= 64
        assert sum(map(len, train)) <= 65_000
