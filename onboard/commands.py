"""Commands from the ground: verified, counted, carried out, answered.

A command is obeyed at most once: its counter is durable before anything is done. So a power cut may swallow one, and
the ground, which hears no answer, asks again with a new one. Questions wait in a bounded queue and never hold up the
receiver; an answer is a message to the ground like any other.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from onboard.errors import OnboardError
from onboard.installer.changeover import Reverted
from onboard.installer.core import Fate
from onboard.installer.serving import ServingProblem
from onboard.store.record import RecordStore
from onboard.telemetry import COMMAND_ACCEPTED, COMMAND_FAILED, COMMAND_REFUSED, Telemetry
from protocol.command import Command, CounterWindow, Operation
from protocol.errors import DecodeError, ProtocolError
from protocol.frame import HANDLE_SIZE
from protocol.limits import PROMPT_SIZE_MAX
from protocol.message import MessageKind
from protocol.packing import Fields
from protocol.trust import command_keys

_QUESTIONS_MAX = 32  # waiting or being answered; one more is refused
_COMMANDS_MAX = 64  # questions or not: a full queue of questions does not keep a revert out
_ASK_TOKENS_MAX = 4096
_MESSAGES_MAX = 64
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


class Installing(Protocol):
    """The two things a command may ask of the installer."""

    async def revert(self, digest: bytes | None, *, why: str = ...) -> Reverted:
        """See `installer.shell`."""
        ...

    async def cancel(self, handle: bytes) -> None:
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
        installer: reverts and cancels.
        ask: asks the model that serves; raises ServingProblem.
        messages: to the ground.
        telemetry: events.
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
    ) -> None:
        self._satellite, self._root, self._store = satellite, root, store
        self._installer, self._ask, self._messages = installer, ask, messages
        self._telemetry = telemetry
        self._tasks: set[asyncio.Task[None]] = set()

    def receive(self, handle: bytes, data: bytes) -> Fate:
        """Take a command object; it is carried out in the background."""
        try:
            command = Command.open(data, public_keys=command_keys(self._root()), satellite=self._satellite)
        except ProtocolError as error:
            self._telemetry.emit(COMMAND_REFUSED, about=handle, error=str(error))
            return Fate.USED  # it will be no better next time
        record = self._store.record
        window = CounterWindow(highest=record.command_highest, seen=record.command_seen)
        if not window.is_new(command.counter):
            self._telemetry.emit(COMMAND_REFUSED, about=handle, error="counter used before", counter=command.counter)
            return Fate.USED
        window = window.with_used(command.counter)
        self._store.store(replace(record, command_highest=window.highest, command_seen=window.seen))
        self._telemetry.emit(COMMAND_ACCEPTED, about=handle, operation=command.operation.value, counter=command.counter)
        is_too_many = len(self._tasks) >= (_QUESTIONS_MAX if command.operation is Operation.ASK else _COMMANDS_MAX)
        if is_too_many:
            self._say_error(handle, command, f"{len(self._tasks)} commands are being carried out; ask again later")
            return Fate.USED
        task = asyncio.create_task(self._carry_out(handle, command))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return Fate.USED

    async def close(self) -> None:
        """Drop what is being carried out."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _carry_out(self, handle: bytes, command: Command) -> None:
        operations = {Operation.ASK: self._answer, Operation.REVERT: self._revert, Operation.CANCEL: self._cancel}
        try:
            body = await operations[command.operation](command.args)
        except (OnboardError, ServingProblem, DecodeError) as error:
            self._say_error(handle, command, str(error))
        except Exception as error:  # noqa: BLE001 - a bug of ours: whoever asked must not wait for ever
            self._telemetry.emit(COMMAND_FAILED, about=handle, error=repr(error))
            self._say_error(handle, command, f"an error of our own: {error!r}")
        else:
            self._messages.say(_kind_of(command), re=handle, body=body)

    def _say_error(self, handle: bytes, command: Command, text: str) -> None:
        kind = _kind_of(command)
        body = {"error": text} if kind is MessageKind.ANSWER else {"ok": False, "text": text}
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
