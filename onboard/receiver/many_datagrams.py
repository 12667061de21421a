"""Many datagrams in one system call: recvmmsg of Linux, which the standard library does not have.

A call for each datagram costs more than all that is done to it before its tag is checked. Buffers, headers and
addresses are laid out once; a call fills them, and what comes out is copied, so that nothing refers to them.
Where there is no such call (`is_available`), `link_socket` reads one by one.
"""

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator
from struct import Struct
from typing import Any

Datagram = tuple[bytes, Any]  # with its sender's address, as the socket has it

_ADDRESS_SIZE = 28  # struct sockaddr_in6, the larger of the two
_MSG_DONTWAIT = 0x40
_POINTER_SIZE = 8


class _Message(ctypes.Structure):
    """Struct msghdr on 64-bit Linux."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_size", ctypes.c_uint32),
        ("vectors", ctypes.c_void_p),
        ("num_vectors", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_size", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Header(ctypes.Structure):
    """Struct mmsghdr."""

    _fields_ = (("message", _Message), ("size", ctypes.c_uint32))


class _Vector(ctypes.Structure):
    """Struct iovec."""

    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


def _library_call() -> Any:  # noqa: ANN401 - a foreign function
    if struct.calcsize("P") != _POINTER_SIZE:
        return None
    return getattr(ctypes.CDLL(None, use_errno=True), "recvmmsg", None)


_recvmmsg = _library_call()


def is_available() -> bool:
    """Whether this system has the call."""
    return _recvmmsg is not None


class ManyDatagrams:
    """Reads from one socket.

    Args:
        bound: a UDP socket.
        num_max: datagrams at once.
        size_max: of a datagram; longer ones come out longer than that, and cut.
    """

    def __init__(self, bound: socket.socket, *, num_max: int, size_max: int) -> None:
        self._handle, self._is_ipv6 = bound.fileno(), bound.family == socket.AF_INET6
        self._num_max, self._stride = num_max, size_max + 1
        self._data = bytearray(num_max * self._stride)
        self._names = bytearray(num_max * _ADDRESS_SIZE)
        self._headers = (_Header * num_max)()
        self._vectors = (_Vector * num_max)()
        data = ctypes.addressof(ctypes.c_char.from_buffer(self._data))
        names = ctypes.addressof(ctypes.c_char.from_buffer(self._names))
        vectors = ctypes.addressof(self._vectors)
        for index, (header, vector) in enumerate(zip(self._headers, self._vectors, strict=True)):
            vector.base, vector.size = data + index * self._stride, self._stride
            message = header.message
            message.name, message.name_size = names + index * _ADDRESS_SIZE, _ADDRESS_SIZE
            message.vectors, message.num_vectors = vectors + index * ctypes.sizeof(_Vector), 1
        words = memoryview(self._headers).cast("B").cast("I")
        self._sizes = words[_Header.size.offset // 4 :: ctypes.sizeof(_Header) // 4]
        self._data_view, self._names_view = memoryview(self._data), memoryview(self._names)
        self._last_name = b"\xff"  # nobody's
        self._last_address: Any = None
        self._last_size = -1
        self._cut: Callable[[memoryview], Iterator[tuple[Any, ...]]]

    def read(self) -> list[Datagram]:
        """Return what has come; empty if nothing has.

        Raises:
            OSError: the answer to something that was sent.
        """
        num = _recvmmsg(self._handle, self._headers, self._num_max, _MSG_DONTWAIT, None)
        if num < 0:
            error = ctypes.get_errno()
            if error in {errno.EAGAIN, errno.EINTR}:
                return []
            raise OSError(error, os.strerror(error))
        sizes = self._sizes[:num].tolist()
        datagrams = self._of_one_size(sizes[0], num) if sizes.count(sizes[0]) == num else self._of_sizes(sizes)
        names = bytes(self._names_view[: num * _ADDRESS_SIZE])
        if names == self._last_name * num:
            return [(data, self._last_address) for data in datagrams]
        return [(data, self._address(names, number)) for number, data in enumerate(datagrams)]

    def _of_one_size(self, size: int, num: int) -> list[bytes]:
        """The usual case, at half the cost: the frames of an object are of one size."""
        if size != self._last_size:
            self._last_size, self._cut = size, Struct(f"{size}s{self._stride - size}x").iter_unpack
        return [data for (data,) in self._cut(self._data_view[: num * self._stride])]

    def _of_sizes(self, sizes: list[int]) -> list[bytes]:
        starts = range(0, len(sizes) * self._stride, self._stride)
        return [bytes(self._data_view[start : start + size]) for start, size in zip(starts, sizes, strict=True)]

    def _address(self, names: bytes, number: int) -> Any:  # noqa: ANN401 - as the socket has it
        name = names[number * _ADDRESS_SIZE : (number + 1) * _ADDRESS_SIZE]
        if name != self._last_name:
            self._note_address(name)
        return self._last_address

    def _note_address(self, name: bytes) -> None:
        self._last_name = name
        port = int.from_bytes(name[2:4], "big")
        if self._is_ipv6:
            flow, scope = int.from_bytes(name[4:8], "big"), struct.unpack_from("=I", name, 24)[0]
            self._last_address = (socket.inet_ntop(socket.AF_INET6, name[8:24]), port, flow, scope)
        else:
            self._last_address = (socket.inet_ntop(socket.AF_INET, name[4:8]), port)
