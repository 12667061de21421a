"""A dangerous command in two steps: arm, hear the satellite's answer, fire. A shell over `exchange`.

Every step is kept in the depot before it is sent, so whoever is interrupted calls the same again and goes on where it
was: an arm that was answered is fired, a fire that was sent is sent again (the satellite obeys a counter once), an
answer that came meanwhile is returned. An arm that has expired by then is made anew, once.

Where no answer can come, `queue_blind` leaves both for the uplink; a satellite obeys that only if its configuration
says so (`protocol.arming`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

from groundsegment.depot.depot import Depot
from groundsegment.depot.records import CommandState, QueuedCommand
from groundsegment.signer.key_store import KeyStore
from groundsegment.uplink.wire.exchange import Answer, NoAnswerError, keep_command, seconds_since, send_kept
from groundsegment.uplink.wire.link_socket import Endpoint
from protocol.arming import BLIND_GAP, Refusal, arm_args
from protocol.command import Command, Operation
from protocol.errors import ProtocolError
from protocol.trust import command_keys

_RESUME_S = timedelta(days=1).total_seconds()  # older ones were given up
_MARGIN_S = 5.0  # the answer was on its way for a while
_STALE = {str(Refusal.NOT_ARMED), str(Refusal.ARM_EXPIRED), str(Refusal.WRONG_NONCE)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fired:
    """What came of a dangerous command.

    Attributes:
        body: what the satellite answered.
        arm: counter of the arm.
        fire: counter of the fire; 0 if the arm was refused.
        seconds: of both steps, in this call.
        is_resumed: whether an earlier call had begun.
    """

    body: Mapping[str, Any]
    arm: int
    fire: int
    seconds: float
    is_resumed: bool = False

    @property
    def refusal(self) -> str:
        """Why the satellite did not obey, by name; empty if it has no name, or it obeyed."""
        return str(self.body.get("refusal", ""))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    queued: QueuedCommand
    command: Command


class Send(Protocol):
    """Sends a kept command and returns its answer: `exchange.send_kept`, or what stands for it in a test."""

    def __call__(
        self,
        depot: Depot,
        command: QueuedCommand,
        endpoint: Endpoint,
        *,
        timeout_s: float,
        tell: Callable[[str], None],
    ) -> Answer:
        """See `exchange.send_kept`."""
        ...


def fire(
    depot: Depot,
    satellite: str,
    endpoint: Endpoint,
    operation: Operation,
    args: Mapping[str, Any],
    *,
    timeout_s: float,
    tell: Callable[[str], None] = lambda _: None,
    send: Send = send_kept,
) -> Fired:
    """Arm a dangerous command, wait for the answer, and fire it; or go on where an interrupted call was.

    Raises:
        UnknownError, KeyStoreError: the depot lacks satellite or keys.
        BusyError: another process does the same now.
        LinkError: no answer in time; what was done is kept.
    """
    depot.satellite(satellite)
    with depot.lock(f"two-steps-{satellite}"):
        steps = _Steps(depot, satellite, endpoint, operation, args, timeout_s=timeout_s, tell=tell, send=send)
        fired = steps.run()
        if fired.is_resumed and fired.refusal in _STALE:
            tell(f"what had been armed is not any more ({fired.refusal}): arming anew")
            fired = steps.run(is_anew=True)
        return fired


def queue_blind(
    depot: Depot, satellite: str, operation: Operation, args: Mapping[str, Any]
) -> tuple[QueuedCommand, QueuedCommand]:
    """Queue arm and fire of a command for the uplink, without waiting for an answer between them."""
    arm = keep_command(depot, satellite, Operation.ARM, arm_args(satellite, operation, args), state=CommandState.QUEUED)
    above = arm.counter + BLIND_GAP - 1
    return arm, keep_command(depot, satellite, operation, args, state=CommandState.QUEUED, arm=arm.counter, above=above)


class _Steps:
    def __init__(
        self,
        depot: Depot,
        satellite: str,
        endpoint: Endpoint,
        operation: Operation,
        args: Mapping[str, Any],
        *,
        timeout_s: float,
        tell: Callable[[str], None],
        send: Send,
    ) -> None:
        self._depot, self._satellite, self._endpoint = depot, satellite, endpoint
        self._operation, self._args = operation, dict(args)
        self._arm_args = arm_args(satellite, operation, args)
        self._timeout_s, self._tell, self._send_kept = timeout_s, tell, send
        self._seconds, self._is_resumed = 0.0, False

    def run(self, *, is_anew: bool = False) -> Fired:
        self._is_resumed = False
        begun = None if is_anew else self._find(self._operation, self._args)
        if begun is not None:
            self._is_resumed = True
            self._tell("an interrupted call had fired: asking what came of it")
        else:
            arm, answer = self._armed(is_anew=is_anew)
            if not answer.get("ok"):
                return self._fired(answer, arm=arm.counter, fire=0)
            self._tell(f"{self._satellite} is armed ({arm.counter}); firing")
            begun = self._keep(self._operation, self._args, arm=arm.counter, nonce=bytes.fromhex(str(answer["nonce"])))
        body = self._send(begun.queued)
        return self._fired(body, arm=begun.command.arm, fire=begun.command.counter)

    def _armed(self, *, is_anew: bool) -> tuple[QueuedCommand, Mapping[str, Any]]:
        """An arm that the satellite has answered, from an earlier call if there is a good one."""
        kept = None if is_anew else self._find(Operation.ARM, self._arm_args, is_answered=True)
        if kept is not None:
            answer = self._fresh_answer(kept.queued)
            if answer is not None:
                self._is_resumed = True
                self._tell("it was armed before")
                return kept.queued, answer
        kept = None if is_anew else self._find(Operation.ARM, self._arm_args)
        self._is_resumed = self._is_resumed or kept is not None
        queued = (kept or self._keep(Operation.ARM, self._arm_args)).queued
        self._tell(f"arming: {self._operation}")
        return queued, self._send(queued)

    def _fresh_answer(self, arm: QueuedCommand) -> Mapping[str, Any] | None:
        """The answer to an arm, if it was not fired and is still good."""
        found = self._depot.journal.messages(self._satellite, re=arm.handle)
        if not found or self._is_fired(arm.counter):
            return None
        body = found[-1].body
        is_fresh = seconds_since(found[-1].received_utc) + _MARGIN_S < float(body.get("expires_s", 0))
        return body if body.get("ok") and is_fresh else None

    def _is_fired(self, arm: int) -> bool:
        return any(kept.command.arm == arm for kept in self._kept(self._operation))

    def _find(self, operation: Operation, args: Mapping[str, Any], *, is_answered: bool = False) -> _Kept | None:
        """The newest step of that kind and content that an earlier call left."""
        state = CommandState.DONE if is_answered else CommandState.IN_HAND
        found = [
            kept
            for kept in self._kept(operation)
            if kept.queued.state is state
            and kept.command.args == args
            and seconds_since(kept.queued.created_utc) < _RESUME_S
        ]
        return found[-1] if found else None

    def _kept(self, operation: Operation) -> list[_Kept]:
        keys = command_keys(KeyStore(self._depot.keys_path).root())
        found = []
        for queued in self._depot.journal.commands(self._satellite):
            if queued.operation != operation:
                continue
            try:
                command = Command.open(queued.data, public_keys=keys, satellite=self._satellite)
            except ProtocolError:
                continue  # signed by a key that is none any more: nobody will obey it
            found.append(_Kept(queued=queued, command=command))
        return found

    def _keep(self, operation: Operation, args: Mapping[str, Any], *, arm: int = 0, nonce: bytes = b"") -> _Kept:
        queued = keep_command(
            self._depot, self._satellite, operation, args, state=CommandState.IN_HAND, arm=arm, nonce=nonce
        )
        command = Command(
            satellite=self._satellite,
            counter=queued.counter,
            operation=operation,
            args=dict(args),
            arm=arm,
            nonce=nonce,
        )
        return _Kept(queued=queued, command=command)

    def _send(self, queued: QueuedCommand) -> Mapping[str, Any]:
        try:
            answer = self._send_kept(self._depot, queued, self._endpoint, timeout_s=self._timeout_s, tell=self._tell)
        except NoAnswerError as error:
            if error.has_arrived:  # a restart may have swallowed it: no use to send it again
                self._depot.journal.set_command_state(queued.handle, CommandState.DROPPED)
            raise
        self._seconds += answer.seconds
        return answer.message.body

    def _fired(self, body: Mapping[str, Any], *, arm: int, fire: int) -> Fired:
        return Fired(body=body, arm=arm, fire=fire, seconds=self._seconds, is_resumed=self._is_resumed)
