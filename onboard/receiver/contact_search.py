"""The search for a station's contact: whose number is in no frame. Pure.

Driven by the intake, with whole frames whose tag fails under the contact that a station was last heard in. It tries the
numbers that may have come since (`protocol.contacts`), only forward: what was recorded in an earlier contact finds
nothing. Each search costs up to 320 tags, so there is a budget: whoever sends garbage at line rate costs a constant
share of a core, and frames that are genuine have their share of the searches. Each station also has a little of its
own, that no noise in another's name uses up.
"""

from protocol.contacts import STEPS, later_contacts
from protocol.frame import FrameCodec
from protocol.limits import STATIONS_MAX

SEARCHES_PER_S = 40.0  # of 64 tags, 0.4 ms each; those further ahead cost four
OWN_SEARCHES_PER_S = 1.0  # of each station beside that
_BURST, _OWN_BURST = 40.0, 4.0
_FAR_COST = len(STEPS) - 1
_FAR_EVERY = 8  # searches look further than the next few, where the budget is short


class ContactSearch:
    """See the module.

    Args:
        codec: of the frames that come, of the satellite's own.
    """

    def __init__(self, codec: FrameCodec) -> None:
        self._codec = codec
        self._tokens, self._own_tokens = _BURST, [_OWN_BURST] * STATIONS_MAX
        self._at, self._own_at = 0.0, [0.0] * STATIONS_MAX
        self._keys: dict[int, tuple[tuple[int, int], list[list[tuple[int, bytes]]]]] = {}
        self.num_searches = 0

    def find(self, data: bytes, now: float) -> int | None:
        """Find the contact that a whole frame was sent in, if there is budget; None: it is of no later one.

        Args:
            data: refused by the codec for its tag alone.
            now: seconds, rising.
        """
        station = data[0] & 0x0F
        if not self._codec.has_keys or not self._take(station, now):
            return None
        self.num_searches += 1
        near, *far = self._candidates(station)
        found = self._try(data, near)
        if found is None and self._may_look_further():
            found = next((number for keys in far if (number := self._try(data, keys)) is not None), None)
        return found

    def _try(self, data: bytes, keys: list[tuple[int, bytes]]) -> int | None:
        return next((number for number, key in keys if self._codec.is_under(data, key)), None)

    def _candidates(self, station: int) -> list[list[tuple[int, bytes]]]:
        """Numbers and keys, nearest first, made once for each contact."""
        codec = self._codec
        state = codec.generation(station), codec.contact(station)
        known = self._keys.get(station)
        if known is None or known[0] != state:
            keys = [
                [(number, codec.contact_key(station, number)) for number in later_contacts(state[1], step)]
                for step in STEPS
            ]
            known = self._keys[station] = state, keys
        return known[1]

    def _take(self, station: int, now: float) -> bool:
        """Use up a search of the budget, if there is one."""
        self._tokens = min(_BURST, self._tokens + max(0.0, now - self._at) * SEARCHES_PER_S)
        own = self._own_tokens[station] + max(0.0, now - self._own_at[station]) * OWN_SEARCHES_PER_S
        self._at, self._own_at[station] = now, now
        self._own_tokens[station] = min(_OWN_BURST, own)
        if self._tokens >= 1.0:
            self._tokens -= 1.0
        elif self._own_tokens[station] >= 1.0:
            self._own_tokens[station] -= 1.0
        else:
            return False
        return True

    def _may_look_further(self) -> bool:
        if self._tokens < _BURST / 2 and self.num_searches % _FAR_EVERY:
            return False
        self._tokens -= _FAR_COST
        return True
