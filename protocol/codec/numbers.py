"""Numbers on the wire in as few bytes as they need: seven bits a byte, lowest first, the top bit says that more follow.

Signed ones are folded first: 0, -1, 1, -2 ... become 0, 1, 2, 3. `Reader` takes them, and anything else, from the
front of some bytes, and never more than there are. Pure.
"""

from protocol.errors import DecodeError

_BYTES_MAX = 9  # 63 bits


def pack(*values: int) -> bytes:
    """Return numbers from 0 on, one after another."""
    packed = bytearray()
    for value in values:
        assert 0 <= value < 1 << 7 * _BYTES_MAX
        rest = value
        while rest > 0x7F:
            packed.append(rest & 0x7F | 0x80)
            rest >>= 7
        packed.append(rest)
    return bytes(packed)


def pack_signed(value: int) -> bytes:
    """Return a number that may be negative."""
    return pack(value << 1 if value >= 0 else ~value << 1 | 1)


class Reader:
    """Takes bytes and numbers from the front.

    Args:
        data: to be read.
        what: it is, for errors.
    """

    def __init__(self, data: bytes, what: str) -> None:
        self._data, self._what, self._at = data, what, 0

    def take(self, size: int) -> bytes:
        """Return the next bytes.

        Raises:
            DecodeError: there are not as many.
        """
        end = self._at + size
        if end > len(self._data):
            raise DecodeError(f"{self._what}: ends at {len(self._data)}, {end} expected")
        part = self._data[self._at : end]
        self._at = end
        return part

    def number(self, highest: int) -> int:
        """Return the next number.

        Raises:
            DecodeError: it is above `highest`, cut off, or longer than it need be.
        """
        value, data, start = 0, self._data, self._at
        for place in range(_BYTES_MAX):
            if start + place == len(data):
                raise DecodeError(f"{self._what}: ends at {len(data)}, {len(data) + 1} expected")
            byte = data[start + place]
            value |= (byte & 0x7F) << 7 * place
            if byte <= 0x7F:
                if value > highest or (place and not byte):
                    break
                self._at = start + place + 1
                return value
        raise DecodeError(f"{self._what}: a number that is not in 0 .. {highest}")

    def signed(self, highest: int) -> int:
        """Return the next number that may be negative, -highest .. highest.

        Raises:
            DecodeError: as for `number`.
        """
        folded = self.number(2 * highest)
        return -(folded >> 1) - 1 if folded & 1 else folded >> 1

    def rest(self) -> bytes:
        """Return all that was not taken yet, and take it."""
        return self.take(len(self._data) - self._at)

    def finish(self) -> None:
        """Check that all was taken.

        Raises:
            DecodeError: it was not.
        """
        if self._at != len(self._data):
            raise DecodeError(f"{self._what}: {len(self._data) - self._at} bytes too many")
