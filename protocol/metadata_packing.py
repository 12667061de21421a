"""TUF metadata in few bytes: what the reader knows is not sent, hexadecimal digits are bytes.

Exactly reversible, for signatures are over the text:

    00 00          a byte 0 of the text
    00 01          the SHA-256 of the part that this one names, as 64 lowercase hexadecimal digits
    00 02          the size of that part in bytes, in decimal digits
    00 03          the number of the update, in decimal digits
    00 04          when the update expires, as TUF writes it: 2027-11-23T00:00:00Z
    00 n  n bytes  2n lowercase hexadecimal digits of the text, n of 8..255
    other          a byte of the text

A reader substitutes, it does not look where a code stands: text that says something else than what follows from the
other parts is sent as it is, and comes back as it was. One text has several packed forms; nothing depends on which.
"""

import contextlib
import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime

from protocol.errors import DecodeError, TruncatedError

_ESCAPE = 0
_DIGEST, _SIZE, _NUMBER, _EXPIRES, _RUN_MIN = 1, 2, 3, 4, 8
_RUN = rb"(?P<run>(?:[0-9a-f]{2}){8,255})"
_ZERO = rb"(?P<zero>\0)"
_ALONE = re.compile(_RUN + b"|" + _ZERO)
_VERSION = re.compile(rb'"version":([1-9][0-9]{0,9})[,}]')
_EXPIRY = re.compile(rb'"expires":"([0-9TZ:-]{20})"')
_TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"
WORD_MAX = 2**32 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What the reader of a part knows before it has read it.

    Attributes:
        named: the part whose hash and size stand in it; None if it names none.
        number: of the update, 0 if it is said nowhere.
        expires_s: when it expires, seconds since 1970, 0 if it is said nowhere.
    """

    named: bytes | None = None
    number: int = 0
    expires_s: int = 0

    @property
    def words(self) -> dict[int, bytes]:
        """The text that each code stands for."""
        words = {}
        if self.named is not None:
            words[_DIGEST] = hashlib.sha256(self.named).hexdigest().encode()
            words[_SIZE] = b"%d" % len(self.named)
        if self.number:
            words[_NUMBER] = b"%d" % self.number
        if self.expires_s:
            words[_EXPIRES] = _time_text(self.expires_s)
        return words


NOTHING = Known()


def number_of(text: bytes) -> int:
    """Return the version that a text gives, to be said once; 0 if it gives none."""
    found = _VERSION.search(text)
    number = int(found[1]) if found else 0
    return number if number <= WORD_MAX else 0


def expires_s_of(text: bytes) -> int:
    """Return when a text says that it expires, seconds since 1970, to be said once; 0 if it does not say."""
    found = _EXPIRY.search(text)
    if found is not None:
        with contextlib.suppress(ValueError):  # nothing that is a time
            time = datetime.strptime(found[1].decode(), _TIME_FORMAT).replace(tzinfo=UTC)
            seconds = int(time.timestamp())
            return seconds if 0 < seconds <= WORD_MAX else 0
    return 0


def pack_text(text: bytes, known: Known = NOTHING) -> bytes:
    """Return a text with its hexadecimal runs as bytes, and without what is known."""
    codes = {word: bytes((_ESCAPE, code)) for code, word in known.words.items()}

    def packed(match: re.Match[bytes]) -> bytes:
        found = match[0]
        if match.lastgroup == "zero":
            return b"\0\0"
        if match.lastgroup == "run":
            return bytes((_ESCAPE, len(found) // 2)) + bytes.fromhex(found.decode())
        return codes[found]

    return _pattern(known.words).sub(packed, text)


def unpack_text(packed: bytes, known: Known = NOTHING, *, size_max: int) -> bytes:
    """Return the text that was packed.

    Raises:
        DecodeError: it was not packed so, or the text is longer than allowed.
    """
    words = known.words
    parts, at, size = [], 0, 0
    while (found := packed.find(_ESCAPE, at)) >= 0:
        if found + 1 == len(packed):
            raise TruncatedError("packed text", expected=found + 2, got=len(packed))
        code = packed[found + 1]
        end = found + 2 + (code if code >= _RUN_MIN else 0)
        if end > len(packed):
            raise TruncatedError("packed text", expected=end, got=len(packed))
        if code == 0:
            word = b"\0"
        elif code >= _RUN_MIN:
            word = packed[found + 2 : end].hex().encode()
        elif code in words:
            word = words[code]
        else:
            raise DecodeError(f"packed text: code {code} has no meaning here")
        parts += [packed[at:found], word]
        size += found - at + len(word)
        at = end
        if size > size_max:  # at once: half a megabyte of codes would take a fifth of a second
            break
    if size + len(packed) - at > size_max:
        raise DecodeError(f"packed text: more than {size_max} bytes")
    return b"".join((*parts, packed[at:]))


def _pattern(words: dict[int, bytes]) -> re.Pattern[bytes]:
    """Where a text may say what is known: a number is looked for only where TUF has that number."""
    places = {
        _DIGEST: (b'"sha256":"',),
        _SIZE: (b'"length":',),
        _NUMBER: (b'"version":', b'"updates/'),
        _EXPIRES: (b'"expires":"',),
    }
    known = [b"(?<=%b)%b" % (before, re.escape(word)) for code, word in words.items() for before in places[code]]
    return re.compile(b"|".join((*known, _RUN, _ZERO))) if known else _ALONE


def _time_text(seconds: int) -> bytes:
    return datetime.fromtimestamp(seconds, UTC).strftime(_TIME_FORMAT).encode()
