"""Which symbols go with a short header: those of an object that the satellite has seen whole frames of. Pure.

A short header costs 8 bytes less and says nothing to a receiver that does not know the object (`protocol.frame`). So
the first frames of each object in a contact are whole, and now and then one after them, for a receiver that has lost
it: nothing has to be asked or remembered, on a one-way link too.
"""

WHOLE_FIRST = 32  # even at 50 % loss one of them arrives but for 1 in 4 billion
WHOLE_EVERY = 64  # after that; a receiver that forgot an object knows it again after so many


class Headers:
    """What was sent of each object in this contact."""

    def __init__(self) -> None:
        self._num_sent: dict[bytes, int] = {}

    def start_over(self) -> None:
        """A contact begins, or the receiver restarted: it may have lost everything."""
        self._num_sent.clear()

    def take(self, handle: bytes, count: int) -> list[bool]:
        """Choose for the next symbols of an object: which of them may go short."""
        first = self._num_sent.get(handle, 0)
        self._num_sent[handle] = first + count
        return [number >= WHOLE_FIRST and number % WHOLE_EVERY != 0 for number in range(first, first + count)]
