"""Commands from the ground: verified, counted, carried out, answered.

A command is obeyed at most once: its counter is durable before anything is done. So a power cut may swallow one, and
the ground, which hears no answer, asks again with a new one. Questions wait in a bounded queue and never hold up the
receiver; an answer is a message to the ground like any other.

Dangerous ones are armed first (`protocol.arming`): what is armed is in the trust record, and firing takes it out in
the same write that uses up the counter. What is not obeyed has a name (`Refusal`) in events and, where a command key
signed it and its counter is new, in an answer.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from onboard.errors import OnboardError
from onboard.installer.changeover import Reverted
from onboard.installer.core import Fate
from onboard.installer.serving import ServingProblem
from onboard.store.record import RecordStore
from onboard.telemetry import COMMAND_ACCEPTED, COMMAND_FAILED, COMMAND_REFUSED, Telemetry
from protocol.arming import (
    Armed,
    ArmedClock,
    CommandRefusedError,
    Refusal,
    check_fire,
    open_command,
    read_arm,
    with_armed,
)
from protocol.command import DANGEROUS, NONCE_SIZE, Command, CounterWindow, Operation
from protocol.errors import DecodeError
from protocol.frame import HANDLE_SIZE
from protocol.limits import PROMPT_SIZE_MAX
from protocol.message import MessageKind
from protocol.packing import Fields
from protocol.trust import command_keys

_QUESTIONS_MAX = 32  # waiting or being answered; one more is refused
_COMMANDS_MAX = 64  # questions or not: a full queue of questions does not keep a revert out
_ASK_TOKENS_MAX = 4096
_MESSAGES_MAX = 64
_BLIND_WAITING_MAX = 4  # fires that overtook their arm on the link; of a power cut they know nothing
_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What an `ask` command wants to know.

    Attributes:
        messages: the conversation, each {"role", "content"}.
        max_tokens: longest answer.
        temperature: 0 is greedy.
        seed: for temperatures above 0.
    """

    messages: tuple[Mapping[str, str], ...]
    max_tokens: int
    temperature: float
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What the model answered."""

    text: str
    release: bytes
    num_tokens: int
    seconds: float


Handler = Callable[[Mapping[str, Any]], Awaitable[dict[str, Any]]]
"""Carries a command out by its arguments; returns what to answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmingOptions:
    """How dangerous commands are taken.

    Attributes:
        expires_s: how long an arm is good.
        may_be_blind: whether one may be fired without the answer to its arm.
    """

    expires_s: float = 600.0
    may_be_blind: bool = False


class Installing(Protocol):
    """What a command may ask of the installer."""

    async def revert(self, digest: bytes | None, *, why: str = ...) -> Reverted:
        """See `installer.shell`."""
        ...

    async def cancel(self, handle: bytes) -> None:
        """See `installer.shell`."""
        ...

    def activate(self, handle: bytes) -> None:
        """See `installer.shell`."""
        ...

    async def forget(self, digest: bytes) -> str:
        """See `installer.shell`."""
        ...


class Answering(Protocol):
    """Queues messages."""

    def say(self, kind: MessageKind, *, re: bytes = ..., body: Mapping[str, Any], is_kept: bool = ...) -> object:
        """See `messages`."""
        ...


class Commander:
    """Carries commands out.

    Args:
        satellite: our name.
        root: gives the trusted root metadata as it is now.
        store: the trust record, loaded.
        installer: reverts, cancels, activates, forgets.
        ask: asks the model that serves; raises ServingProblem.
        messages: to the ground.
        telemetry: events.
        now: monotonic seconds.
        arming: how dangerous commands are taken.
        others: handlers of operations that the installer has no part in.
        make_nonce: makes so many unpredictable bytes.
    """

    def __init__(
        self,
        *,
        satellite: str,
        root: Callable[[], bytes],
        store: RecordStore,
        installer: Installing,
        ask: Callable[[Question], Awaitable[Reply]],
        messages: Answering,
        telemetry: Telemetry,
        now: Callable[[], float],
        arming: ArmingOptions | None = None,
        others: Mapping[Operation, Handler] | None = None,
        make_nonce: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._satellite, self._root, self._store = satellite, root, store
        self._installer, self._ask, self._messages = installer, ask, messages
        self._telemetry, self._now, self._make_nonce = telemetry, now, make_nonce
        self._arming = arming or ArmingOptions()
        self._started_s = now()
        self._armed_at_s: dict[int, float] = {}  # by the arm's counter; those of earlier lives are not there
        self._blind_waiting: dict[int, tuple[bytes, bytes]] = {}  # fires, by the arm that they overtook
        self._tasks: set[asyncio.Task[None]] = set()
        self._handlers: dict[Operation, Handler] = {
            Operation.ASK: self._answer,
            Operation.REVERT: self._revert,
            Operation.CANCEL: self._cancel,
            Operation.ACTIVATE: self._activate,
            Operation.FORGET: self._forget,
            **(others or {}),
        }

    def receive(self, handle: bytes, data: bytes) -> Fate:
        """Take a command object; it is carried out in the background."""
        record = self._store.record
        window = CounterWindow(highest=record.command_highest, seen=record.command_seen)
        keys = command_keys(self._root())
        try:
            command = open_command(data, public_keys=keys, satellite=self._satellite, window=window)
        except CommandRefusedError as error:
            self._refuse(handle, error)
            return Fate.USED  # it will be no better next time
        if self._has_overtaken_its_arm(command, window):
            self._keep_waiting(handle, command, data)
            return Fate.USED
        window = window.with_used(command.counter)
        record = replace(record, command_highest=window.highest, command_seen=window.seen)
        try:
            armed = self._arms_after(command)
        except CommandRefusedError as error:
            self._store.store(record)
            self._refuse(handle, error, command)
            return Fate.USED
        # One write: the counter is used, and what is fired is disarmed, before anything is done.
        self._store.store(replace(record, armed=armed))
        self._telemetry.emit(COMMAND_ACCEPTED, about=handle, operation=command.operation.value, counter=command.counter)
        if command.operation is Operation.ARM:
            self._say_armed(handle, armed[0])
        else:
            self._start(handle, command)
        return Fate.USED

    # -- two steps -----------------------------------------------------------------------------------------

    def _arms_after(self, command: Command) -> tuple[Armed, ...]:
        """What is armed once a command is obeyed; raises CommandRefusedError if it may not be."""
        record = self._store.record
        if command.operation is Operation.ARM:
            try:
                _, intent = read_arm(command.args)
            except DecodeError as error:
                raise CommandRefusedError(Refusal.MALFORMED, str(error)) from None
            nonce = self._make_nonce(NONCE_SIZE)
            new = Armed(counter=command.counter, intent=intent, nonce=nonce, boot=record.boot_count)
            return with_armed((old for old in record.armed if not self._clock_of(old.counter).is_over(old)), new)
        if command.operation in DANGEROUS:
            clock = self._clock_of(command.arm)
            return check_fire(command, record.armed, clock=clock, may_be_blind=self._arming.may_be_blind)
        if command.arm:
            raise CommandRefusedError(Refusal.NOT_DANGEROUS, f"{command.operation} is not fired: send it by itself")
        return record.armed

    def _clock_of(self, arm: int) -> ArmedClock:
        age_s = self._now() - self._armed_at_s.get(arm, self._started_s)
        return ArmedClock(boot=self._store.record.boot_count, age_s=age_s, expires_s=self._arming.expires_s)

    def _say_armed(self, handle: bytes, armed: Armed) -> None:
        self._armed_at_s[armed.counter] = self._now()
        known = {entry.counter for entry in self._store.record.armed}
        self._armed_at_s = {counter: at_s for counter, at_s in self._armed_at_s.items() if counter in known}
        body = {
            "ok": True,
            "text": f"armed: fire within {self._arming.expires_s:.0f} s",
            "armed": armed.counter,
            "nonce": armed.nonce,
            "expires_s": int(self._arming.expires_s),
        }
        self._messages.say(MessageKind.RESULT, re=handle, body=body)
        waiting = self._blind_waiting.pop(armed.counter, None)
        if waiting is not None:
            self.receive(*waiting)

    def _has_overtaken_its_arm(self, command: Command, window: CounterWindow) -> bool:
        is_blind = command.operation in DANGEROUS and command.arm > 0 and not command.nonce
        return is_blind and self._arming.may_be_blind and window.is_new(command.arm)

    def _keep_waiting(self, handle: bytes, command: Command, data: bytes) -> None:
        self._blind_waiting[command.arm] = handle, data
        while len(self._blind_waiting) > _BLIND_WAITING_MAX:
            del self._blind_waiting[next(iter(self._blind_waiting))]

    def _refuse(self, handle: bytes, error: CommandRefusedError, command: Command | None = None) -> None:
        """Count it; whoever has a command key is told as well."""
        counter = {"counter": command.counter} if command else {}
        self._telemetry.emit(COMMAND_REFUSED, about=handle, refusal=error.refusal.value, error=str(error), **counter)
        if command is not None:
            self._say_error(handle, command, str(error), refusal=error.refusal)

    # -- carrying out --------------------------------------------------------------------------------------

    def _start(self, handle: bytes, command: Command) -> None:
        is_too_many = len(self._tasks) >= (_QUESTIONS_MAX if command.operation is Operation.ASK else _COMMANDS_MAX)
        if is_too_many:
            self._say_error(handle, command, f"{len(self._tasks)} commands are being carried out; ask again later")
            return
        task = asyncio.create_task(self._carry_out(handle, command))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Drop what is being carried out."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _carry_out(self, handle: bytes, command: Command) -> None:
        handler = self._handlers.get(command.operation)
        if handler is None:
            self._say_error(handle, command, f"{command.operation} is not known here")
            return
        try:
            body = await handler(command.args)
        except (OnboardError, ServingProblem, DecodeError) as error:
            self._say_error(handle, command, str(error))
        except Exception as error:  # noqa: BLE001 - a bug of ours: whoever asked must not wait for ever
            self._telemetry.emit(COMMAND_FAILED, about=handle, error=repr(error))
            self._say_error(handle, command, f"an error of our own: {error!r}")
        else:
            self._messages.say(_kind_of(command), re=handle, body=body)

    def _say_error(self, handle: bytes, command: Command, text: str, *, refusal: Refusal | None = None) -> None:
        kind = _kind_of(command)
        body: dict[str, Any] = {"error": text} if kind is MessageKind.ANSWER else {"ok": False, "text": text}
        if refusal is not None:
            body["refusal"] = refusal.value
        self._messages.say(kind, re=handle, body=body)

    async def _answer(self, args: Mapping[str, Any]) -> dict[str, Any]:
        reply = await self._ask(parse_question(args))
        return {
            "text": reply.text,
            "release": reply.release,
            "tokens": reply.num_tokens,
            "seconds_milli": round(1000 * reply.seconds),
        }

    async def _revert(self, args: Mapping[str, Any]) -> dict[str, Any]:
        fields = Fields(args, unit="revert")
        digest = None if fields.is_none("digest") else fields.data("digest", size=32)
        fields.finish()
        reverted = await self._installer.revert(digest, why="command")
        known, text = reverted.known, ""
        if reverted.interrupted is not None:
            text = f"; the trial of update {reverted.interrupted.hex()} was interrupted and is made again now"
        return {"ok": True, "text": f"release {known.name} {known.digest.hex()[:16]} serves{text}"}

    async def _cancel(self, args: Mapping[str, Any]) -> dict[str, Any]:
        fields = Fields(args, unit="cancel")
        handle = fields.data("update", size=HANDLE_SIZE)
        fields.finish()
        await self._installer.cancel(handle)
        return {"ok": True, "text": f"update {handle.hex()} is cancelled"}

    async def _activate(self, args: Mapping[str, Any]) -> dict[str, Any]:
        fields = Fields(args, unit="activate")
        handle = fields.data("update", size=HANDLE_SIZE)
        fields.finish()
        self._installer.activate(handle)
        return {"ok": True, "text": f"update {handle.hex()} is tried now; a receipt will say what came of it"}

    async def _forget(self, args: Mapping[str, Any]) -> dict[str, Any]:
        fields = Fields(args, unit="forget")
        digest = fields.data("release", size=32)
        fields.finish()
        return {"ok": True, "text": await self._installer.forget(digest)}


def _kind_of(command: Command) -> MessageKind:
    return MessageKind.ANSWER if command.operation is Operation.ASK else MessageKind.RESULT


def parse_question(args: Mapping[str, Any]) -> Question:
    """Check the arguments of an `ask` command.

    Raises:
        DecodeError: one is missing or out of range.
    """
    fields = Fields(args, unit="ask")
    question = Question(
        messages=tuple(_chat_message(item) for item in fields.items("messages", length_max=_MESSAGES_MAX)),
        max_tokens=fields.integer("max_tokens", lowest=1, highest=_ASK_TOKENS_MAX),
        temperature=fields.integer("temperature_milli", highest=10_000) / 1000,
        seed=fields.integer("seed"),
    )
    fields.finish()
    if not question.messages:
        raise DecodeError("ask: there is no message")
    return question


def _chat_message(item: object) -> dict[str, str]:
    fields = Fields(item, unit="ask message")
    message = {
        "role": fields.text("role", length_max=16),
        "content": fields.text("content", length_max=PROMPT_SIZE_MAX),
    }
    fields.finish()
    if message["role"] not in _ROLES:
        raise DecodeError(f"ask: role {message['role']!r} is not one of {', '.join(_ROLES)}")
    return message
