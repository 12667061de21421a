"""Messages: what a satellite tells the ground beyond reports. An envelope (`envelope`) around one map.

v          1
satellite  str     who says it
counter    int     rising for each satellite, across reboots
kind       str     `MessageKind`
re         bin8    handle of the command or update it answers, all zero for none
body       map     answer: text, release bin32, tokens int, seconds_milli int | error str
                   result: ok bool, text str           (what came of a command)
                   receipt: see `receipt`
                         canary, of a trial that passed: agreeing int, expected int (tokens), permille int,
                         swap_ms float (how long the flip to the new release took)
                   event: name str, severity str, text str
                   damage: what of a release only the ground can bring back, see `damage`
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

from protocol.envelope import open_statement, seal_statement
from protocol.names import check_name
from protocol.objects import ObjectKind
from protocol.packing import Fields
from protocol.report import NO_HANDLE

VERSION = 1


class MessageKind(StrEnum):
    """What a message is."""

    ANSWER = "answer"
    RESULT = "result"
    RECEIPT = "receipt"
    EVENT = "event"
    DAMAGE = "damage"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message; the fields are those of the layout above."""

    satellite: str
    counter: int
    kind: MessageKind
    re: bytes = NO_HANDLE
    body: Mapping[str, Any] = field(default_factory=dict)

    def seal(self, *, public_key: bytes, sign: Callable[[bytes], bytes]) -> bytes:
        """Return the signed message object."""
        statement = {
            "v": VERSION,
            "satellite": self.satellite,
            "counter": self.counter,
            "kind": self.kind.value,
            "re": self.re,
            "body": dict(self.body),
        }
        return seal_statement(ObjectKind.MESSAGE, statement, public_key=public_key, sign=sign)

    @classmethod
    def open(cls, data: bytes, *, public_keys: Mapping[bytes, bytes]) -> Self:
        """Verify and parse a message object.

        Raises:
            DecodeError: not a message.
            SignatureError: not signed by a known satellite key.
        """
        fields = Fields(open_statement(ObjectKind.MESSAGE, data, public_keys), unit="message")
        fields.version(VERSION)
        kind = fields.choice("kind", MessageKind)
        message = cls(
            satellite=check_name(fields.text("satellite"), unit="message"),
            counter=fields.integer("counter", lowest=1),
            kind=kind,
            re=fields.data("re", size=len(NO_HANDLE)),
            body=fields.mapping("body"),
        )
        fields.finish()
        return message
