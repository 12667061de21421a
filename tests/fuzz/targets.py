"""All parsers under attack, by name, and the rooms that they are in."""

from tests.fuzz.rooms import bundles, ground, link, memory, models, people, signed, sockets
from tests.fuzz.target import Target

_ROOMS = (link, signed, bundles, models, memory, sockets, people, ground)

# What is attacked together under guidance: the first byte of an input chooses among a room's parsers.
ROOMS: dict[str, tuple[str, ...]] = {room.__name__.rpartition(".")[2]: tuple(room.TARGETS) for room in _ROOMS}
TARGETS: dict[str, Target] = {name: target for room in _ROOMS for name, target in room.TARGETS.items()}
