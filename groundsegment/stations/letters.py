"""Letters between home and a station: JSON under a MAC that only the two can make. Pure.

    skyload-letter-1 KIND MAC        KIND: orders (home to station) or logbook (station to home); MAC: 64 hex digits
    {...}                            JSON; the MAC, HMAC-SHA256, covers everything after the first line

The MAC's key follows from the station's, so that no other station can write in its name and whoever
carries a letter (a shared disk, a stick in a pocket) can read it but not change it. It says nothing of age: letters
have serial numbers. Whoever stole the station can write logbooks too, so what they say is checked all the same.
"""

import hmac
import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NoReturn

from groundsegment.errors import InputError

LETTER_BYTES_MAX = 8 << 20  # twenty thousand blocks, and all else at its largest
_MAGIC = "skyload-letter-1"
_MAC_DIGITS = 64


class LetterKind(StrEnum):
    """Who writes."""

    ORDERS = "orders"
    LOGBOOK = "logbook"


class LetterError(InputError):
    """A letter is not one, is not from whom it says, or says what cannot be."""


def seal_letter(kind: LetterKind, letters_key: bytes, body: Mapping[str, Any]) -> bytes:
    """Return a letter."""
    text = json.dumps(body, indent=1, sort_keys=True, allow_nan=False).encode() + b"\n"
    return f"{_MAGIC} {kind} {_mac(kind, letters_key, text)}\n".encode() + text


def open_letter(kind: LetterKind, letters_key: bytes, data: bytes) -> Mapping[str, Any]:
    """Verify and parse a letter.

    Raises:
        LetterError: too long, not a letter of this kind, or not under this key.
    """
    if len(data) > LETTER_BYTES_MAX:
        raise LetterError(f"{kind}: larger than {LETTER_BYTES_MAX} bytes")
    head, newline, text = data.partition(b"\n")
    words = head.split(b" ")
    if not newline or len(words) != 3 or words[:2] != [_MAGIC.encode(), kind.encode()]:
        raise LetterError(f"{kind}: not a letter of this kind")
    if not hmac.compare_digest(words[2], _mac(kind, letters_key, text).encode()):
        raise LetterError(f"{kind}: not written with this station's key, or changed on its way")
    try:
        body = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise LetterError(f"{kind}: not JSON ({error})") from None
    if not isinstance(body, dict):
        raise LetterError(f"{kind}: not a mapping")
    return body


def _mac(kind: LetterKind, letters_key: bytes, text: bytes) -> str:
    key = hmac.digest(letters_key, f"skyload letter v1 {kind}".encode(), "sha256")
    return hmac.new(key, text, "sha256").hexdigest()


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")
