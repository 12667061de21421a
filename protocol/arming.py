"""Two steps for dangerous commands: ARM says what is meant, the satellite answers with a nonce, FIRE brings it back.

    ground                                     satellite
    arm, counter 7: revert, intent D   ──>     remembers (7, D, nonce, boot), durably
                                       <──     result: armed 7, nonce, expires_s      (signed)
    revert, counter 8, arm 7, nonce    ──>     D is this command's, the nonce is right, not expired: forgotten, obeyed

So one signed message never does it, whoever recorded, repeated or signed it by mistake; and a FIRE is younger than the
answer it names. An arm is good for `expires_s` of the life that took it and, once, of the next one: monotonic seconds
and boots are all the time that a satellite is sure of. One fire uses it up.

Where nobody can hear the answer, a satellite whose configuration allows it takes a *blind* fire: no nonce, and a
counter at least BLIND_GAP above its arm's, so that no two commands that were simply numbered in turn are a pair.

Pure: `now` and boots are passed in; who writes the record is the satellite's commander.
"""

import hashlib
import hmac
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from protocol.command import DANGEROUS, NONCE_SIZE, Command, CounterWindow, Operation
from protocol.errors import DecodeError, SignatureError, VerificationError, WrongSatelliteError
from protocol.packing import Fields, pack_map

ARMED_MAX = 4  # at once; one more, and the oldest is disarmed
BLIND_GAP = 8
INTENT_SIZE = 32
_CONTEXT = b"skyload intent v1\0"


class Refusal(StrEnum):
    """Why a command is not obeyed: one name for each attack, and for each mistake."""

    MALFORMED = "malformed"
    FORGED = "forged"  # not signed by a command key of our root
    OTHER_SATELLITE = "other-satellite"
    REPLAYED = "replayed"  # its counter was used, or is too old to tell
    NOT_ARMED = "not-armed"
    OTHER_INTENT = "other-intent"  # armed was something else
    WRONG_NONCE = "wrong-nonce"  # not the answer of this arm
    ARM_EXPIRED = "arm-expired"
    BLIND_FORBIDDEN = "blind-forbidden"  # without our answer, which the configuration does not allow
    NOT_DANGEROUS = "not-dangerous"  # armed, or fired, was something that needs none


class CommandRefusedError(VerificationError):
    """A command that is not obeyed.

    Attributes:
        refusal: why.
    """

    def __init__(self, refusal: Refusal, text: str) -> None:
        super().__init__(f"{refusal}: {text}")
        self.refusal = refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class Armed:
    """A command that may be fired; durable.

    Attributes:
        counter: of the arm.
        intent: digest of what may be fired.
        nonce: that we answered.
        boot: in which life.
    """

    counter: int
    intent: bytes
    nonce: bytes
    boot: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmedClock:
    """What time it is, as far as arms are concerned.

    Attributes:
        boot: which life this is.
        age_s: monotonic seconds since the arm was taken or, if that was in an earlier life, since this one began.
        expires_s: how long an arm is good.
    """

    boot: int
    age_s: float
    expires_s: float

    def is_over(self, armed: Armed) -> bool:
        """Whether an arm has expired: too old in the life that took it or the next one, or from before that."""
        return self.age_s > self.expires_s or not 0 <= self.boot - armed.boot <= 1


def intent_digest(satellite: str, operation: Operation, args: Mapping[str, Any]) -> bytes:
    """Return the digest of what a dangerous command will do, whatever its counter will be."""
    intent = {"satellite": satellite, "op": operation.value, "args": dict(args)}
    return hashlib.sha256(_CONTEXT + pack_map(intent)).digest()


def arm_args(satellite: str, operation: Operation, args: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the arm for a dangerous command."""
    assert operation in DANGEROUS
    return {"op": operation.value, "intent": intent_digest(satellite, operation, args)}


def read_arm(args: Mapping[str, Any]) -> tuple[Operation, bytes]:
    """Parse the arguments of an arm: what is to be fired, and the digest of it.

    Raises:
        DecodeError: they are none.
        CommandRefusedError: NOT_DANGEROUS.
    """
    fields = Fields(args, unit="arm")
    operation, intent = fields.choice("op", Operation), fields.data("intent", size=INTENT_SIZE)
    fields.finish()
    if operation not in DANGEROUS:
        raise CommandRefusedError(Refusal.NOT_DANGEROUS, f"{operation} is not armed: send it by itself")
    return operation, intent


def open_command(data: bytes, *, public_keys: Mapping[bytes, bytes], satellite: str, window: CounterWindow) -> Command:
    """Verify and parse a command that was not obeyed before.

    Raises:
        CommandRefusedError: MALFORMED, FORGED, OTHER_SATELLITE, REPLAYED.
    """
    try:
        command = Command.open(data, public_keys=public_keys, satellite=satellite)
    except WrongSatelliteError as error:
        raise CommandRefusedError(Refusal.OTHER_SATELLITE, str(error)) from None
    except SignatureError as error:
        raise CommandRefusedError(Refusal.FORGED, str(error)) from None
    except DecodeError as error:
        raise CommandRefusedError(Refusal.MALFORMED, str(error)) from None
    if not window.is_new(command.counter):
        raise CommandRefusedError(Refusal.REPLAYED, f"counter {command.counter} was used before")
    return command


def with_armed(armed: Iterable[Armed], new: Armed) -> tuple[Armed, ...]:
    """Return the arms with one more, newest first."""
    return (new, *armed)[:ARMED_MAX]


def check_fire(command: Command, armed: Sequence[Armed], *, clock: ArmedClock, may_be_blind: bool) -> tuple[Armed, ...]:
    """Decide whether a dangerous command may be obeyed; returns the arms that are left then.

    Args:
        command: verified, of DANGEROUS.
        armed: what may be fired.
        clock: for the arm that it names.
        may_be_blind: whether the configuration allows a fire without the nonce.

    Raises:
        CommandRefusedError: NOT_ARMED, OTHER_INTENT, WRONG_NONCE, ARM_EXPIRED, BLIND_FORBIDDEN.
    """
    if command.arm and not command.nonce and not may_be_blind:  # known or not: another arm would not help
        raise CommandRefusedError(Refusal.BLIND_FORBIDDEN, f"{command.operation}: it must bring our answer to its arm")
    arm = next((entry for entry in armed if entry.counter == command.arm), None)
    if arm is None:
        what = f"arm {command.arm} is not known here, or was fired" if command.arm else "it names no arm"
        raise CommandRefusedError(Refusal.NOT_ARMED, f"{command.operation}: {what}")
    if not hmac.compare_digest(arm.intent, intent_digest(command.satellite, command.operation, command.args)):
        raise CommandRefusedError(Refusal.OTHER_INTENT, f"{command.operation}: arm {arm.counter} is for something else")
    if clock.is_over(arm):
        raise CommandRefusedError(Refusal.ARM_EXPIRED, f"{command.operation}: arm {arm.counter} has expired")
    _check_nonce(command, arm)
    return tuple(entry for entry in armed if entry is not arm)


def _check_nonce(command: Command, arm: Armed) -> None:
    if command.nonce:
        if len(arm.nonce) != NONCE_SIZE or not hmac.compare_digest(command.nonce, arm.nonce):
            raise CommandRefusedError(Refusal.WRONG_NONCE, f"{command.operation}: not what we answered to its arm")
    elif command.counter < arm.counter + BLIND_GAP:
        text = f"{command.operation}: blind, and its counter is not {BLIND_GAP} above its arm's"
        raise CommandRefusedError(Refusal.BLIND_FORBIDDEN, text)
