"""Which reports of ground stations are new, and which may be repetitions of what was on the air before. Pure.

Each ground process numbers its reports upwards within a session of its own. A session that is not known here proves
nothing by its first report: that may be an old one, repeated. Every later one with a higher number is new.

It promises to call no report new twice. It forgets sessions, the one that was new longest ago first; so with reports of
many of them, recorded, somebody can seem new again.
"""

from collections import OrderedDict

_SESSIONS_MAX = 64  # of a station: each start of `skyload uplink`, `ask` or `station run` is one


class Hellos:
    """The newest report of each session of each station."""

    def __init__(self) -> None:
        self._newest: dict[int, OrderedDict[bytes, int]] = {}

    def is_new(self, station: int, session: bytes, sequence: int) -> bool:
        """Note an authentic report; tells whether it certainly never came before."""
        sessions = self._newest.setdefault(station, OrderedDict())
        newest = sessions.get(session)
        if newest is not None and sequence <= newest:
            return False
        sessions[session] = sequence
        sessions.move_to_end(session)
        if len(sessions) > _SESSIONS_MAX:
            sessions.popitem(last=False)
        return newest is not None
