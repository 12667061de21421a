"""Commands: what the ground may tell a satellite besides an update. An envelope (`envelope`) around one map.

v          1
satellite  str     only this one obeys
counter    int     strictly new: see `CounterWindow`
op         str     `Operation`
args       map     ask: messages [{role, content}], max_tokens, temperature_milli, seed
                   cancel: update bin6 (handle of the metadata object)
                   arm: op str, intent bin32 (`intent_digest` of the command that is to fire it)
                   revert: digest bin32 | nil (nil = the release before)
                   activate: update bin6 (handle of the metadata object)
                   forget: release bin32
                   withdraw: station int, generation int (above the one it has; see `link_keys`)
                   scrub: release bin32 | nil (nil = all of them), now bool (at full speed)
arm        int     counter of the `arm` command that this one fires } only in
nonce      bin     what the satellite answered to that: bin16; empty if nobody could hear it } dangerous ones

Dangerous ones (`DANGEROUS`) go in two steps, `arm` and then the command itself: see `arming`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

from protocol.envelope import open_statement, seal_statement
from protocol.errors import WrongSatelliteError
from protocol.names import check_name
from protocol.objects import ObjectKind
from protocol.packing import Fields

VERSION = 1
WINDOW_SIZE = 64
NONCE_SIZE = 16


class Operation(StrEnum):
    """What a command asks for."""

    ASK = "ask"
    CANCEL = "cancel"
    ARM = "arm"
    REVERT = "revert"
    ACTIVATE = "activate"
    FORGET = "forget"
    WITHDRAW = "withdraw"
    SCRUB = "scrub"


# What serves changes, or something is gone for good: one message, signed by mistake or recorded, must not do it.
DANGEROUS = frozenset({Operation.REVERT, Operation.ACTIVATE, Operation.FORGET, Operation.WITHDRAW})


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command.

    Attributes:
        satellite: who is meant.
        counter: 1 .. 2**63 - 1, never used twice.
        operation: what to do.
        args: its arguments, checked by whoever carries it out.
        arm: counter of the command that armed it; 0 for none.
        nonce: what the satellite answered to that; empty if nobody could hear it.
    """

    satellite: str
    counter: int
    operation: Operation
    args: Mapping[str, Any] = field(default_factory=dict)
    arm: int = 0
    nonce: bytes = b""

    def seal(self, *, public_key: bytes, sign: Callable[[bytes], bytes]) -> bytes:
        """Return the signed command object."""
        statement = {
            "v": VERSION,
            "satellite": self.satellite,
            "counter": self.counter,
            "op": self.operation.value,
            "args": dict(self.args),
            **({"arm": self.arm, "nonce": self.nonce} if self.arm else {}),
        }
        return seal_statement(ObjectKind.COMMAND, statement, public_key=public_key, sign=sign)

    @classmethod
    def open(cls, data: bytes, *, public_keys: Mapping[bytes, bytes], satellite: str) -> Self:
        """Verify and parse a command object.

        Raises:
            DecodeError: not a command.
            SignatureError: not signed by a command key.
            WrongSatelliteError: meant for another satellite.
        """
        fields = Fields(open_statement(ObjectKind.COMMAND, data, public_keys), unit="command")
        fields.version(VERSION)
        operation, is_fire = fields.choice("op", Operation), fields.has("arm")
        command = cls(
            satellite=check_name(fields.text("satellite"), unit="command"),
            counter=fields.integer("counter", lowest=1),
            operation=operation,
            args=fields.mapping("args"),
            arm=fields.integer("arm", lowest=1) if is_fire else 0,
            nonce=fields.data("nonce", size_max=NONCE_SIZE) if is_fire else b"",
        )
        fields.finish()
        if command.satellite != satellite:
            raise WrongSatelliteError(f"command: for {command.satellite}, we are {satellite}")
        return command


@dataclass(frozen=True, slots=True, kw_only=True)
class CounterWindow:
    """Which command counters were used: a sliding window (RFC 4303, 3.4.3), so order on the link is free.

    Attributes:
        highest: the highest counter seen, 0 for none.
        seen: bit i set = counter highest - i was seen.
    """

    highest: int = 0
    seen: int = 0

    def is_new(self, counter: int) -> bool:
        """Whether a counter was neither used nor is too old to tell."""
        behind = self.highest - counter
        return counter > 0 and (behind < 0 or (behind < WINDOW_SIZE and not self.seen >> behind & 1))

    def with_used(self, counter: int) -> "CounterWindow":
        """Return the window after a new counter was used."""
        assert self.is_new(counter)
        ahead = counter - self.highest
        if ahead > 0:
            seen = (self.seen << ahead | 1) & ((1 << WINDOW_SIZE) - 1) if ahead < WINDOW_SIZE else 1
            return CounterWindow(highest=counter, seen=seen)
        return CounterWindow(highest=self.highest, seen=self.seen | 1 << -ahead)
