"""`skyloadd simulate`: a simulated satellite behind standard input and output, for `skyload simulate`.

Each message is its length (4 bytes, big-endian) and that many bytes of msgpack. A request is an array, an answer too:

    ["begin", directory, link key, {options}]   -> []                            a new satellite in an empty directory
    ["step", now_s, [datagram, ...]]            -> [[[station, datagram], ...], updates that are whole]
    ["kill", now_s]                             -> []                            the power goes, and comes back
    ["look"]                                    -> [{counters}]

It ends when its input does. Time is what the requests say, and never goes back.
"""

import signal
import struct
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import msgpack

from onboard.errors import ConfigError
from onboard.simulation.satellite import SatelliteOptions, SimulatedSatellite

_LENGTH = struct.Struct(">I")
MESSAGE_SIZE_MAX = 256 * 1024 * 1024


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until there are no more.

    Raises:
        ConfigError: a request is not one of ours.
    """
    service = _Service()
    while (request := _read(requests)) is not None:
        answer = msgpack.packb(service.answer(request))
        answers.write(_LENGTH.pack(len(answer)) + answer)
        answers.flush()


def run() -> None:
    """Serve standard input and output."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C is for whoever started us, and our input ends with it
    serve(sys.stdin.buffer, sys.stdout.buffer)


class _Service:
    def __init__(self) -> None:
        self._satellite: SimulatedSatellite | None = None

    def answer(self, request: list[Any]) -> list[Any]:
        match request:
            case ["begin", str(directory), bytes(link_key), dict(options)]:
                self._satellite = SimulatedSatellite(Path(directory), link_key, SatelliteOptions(**options))
                return []
            case ["step", float(now), list(datagrams)] if self._satellite is not None:
                return _step(self._satellite, now, datagrams)
            case ["kill", float(now)] if self._satellite is not None:
                self._satellite.kill(now)
                return []
            case ["look"] if self._satellite is not None:
                return [look(self._satellite)]
        raise _not_ours(f"{request[:1]} is no request, or came before `begin`")


def _step(satellite: SimulatedSatellite, now: float, datagrams: list[bytes]) -> list[Any]:
    satellite.advance(now)
    if datagrams:
        satellite.receive(datagrams, now)
    outgoing = [list(entry) for entry in satellite.outgoing]
    satellite.outgoing.clear()
    return [outgoing, satellite.owner.num_whole]


def look(satellite: SimulatedSatellite) -> dict[str, Any]:
    """All counters of a satellite, as JSON types and bytes."""
    statistics = satellite.statistics()
    return {
        "symbols_held": satellite.useful.num_held,
        "symbols_useful": satellite.useful.by_station,
        "symbols_received": satellite.num_received,
        "symbols_cut": satellite.num_cut,
        "boot_count": satellite.owner.boot_count,
        "frames_rejected": sum(statistics.frames_rejected.values()),
        "objects_poisoned": statistics.objects_poisoned,
        "objects_dropped": statistics.objects_dropped,
        "arrivals": [asdict(arrival) for arrival in satellite.owner.arrivals],
        "confirmed": satellite.owner.confirmed(),
    }


def _read(requests: BinaryIO) -> list[Any] | None:
    head = requests.read(_LENGTH.size)
    if not head:
        return None
    size = _LENGTH.unpack(head)[0] if len(head) == _LENGTH.size else MESSAGE_SIZE_MAX + 1
    if size > MESSAGE_SIZE_MAX:
        raise _not_ours("the input is not length and msgpack")
    try:
        request = msgpack.unpackb(requests.read(size), strict_map_key=False)
    except ValueError as error:
        raise _not_ours(str(error)) from None
    if not isinstance(request, list):
        raise _not_ours("a request is an array")
    return request


def _not_ours(text: str) -> ConfigError:
    return ConfigError(text, hint="`skyload simulate` starts this command; it is not for people")
