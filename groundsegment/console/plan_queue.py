"""What `skyload plan` counts: the updates asked for, and what goes up before them or takes its share beside them."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from groundsegment.depot.depot import Depot
from groundsegment.depot.records import HOME_STATION, Update
from groundsegment.errors import InputError, UnknownError
from groundsegment.naming import find_update
from groundsegment.planner.forecast import Load
from groundsegment.uplink.sender.loss import LossEstimate
from protocol.link_keys import Direction

if TYPE_CHECKING:
    from groundsegment.console.progress import OnBoard

_METADATA_BYTES_GUESS = 4096
_LOSS_GUESS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """What is to be carried until the updates asked for are there.

    Attributes:
        updates: those asked for.
        load: all of it.
        before: handles of other updates that fly strictly before.
        beside: handles of other updates that take their share meanwhile.
        other_symbols: of the load, what those take.
    """

    updates: tuple[Update, ...]
    load: Load
    before: tuple[bytes, ...]
    beside: tuple[bytes, ...]
    other_symbols: int


def chosen_updates(depot: Depot, update: str | None, satellite: str | None) -> tuple[Update, ...]:
    """The updates that the arguments mean: one, named as everywhere, or all open ones of a satellite.

    Raises:
        InputError: neither is given, or it has ended.
        UnknownError: there is none.
    """
    if update is not None:
        entry = find_update(depot, update, satellite=satellite, is_wanted=lambda entry: entry.state.is_open)
        if not entry.state.is_open:
            words = f"update {entry.handle.hex()} is {entry.state}: nothing of it will fly"
            raise InputError(words, hint="`skyload status` shows what is under way; `skyload stage` makes another")
        return (entry,)
    if satellite is None:
        raise InputError("which update?", hint="give an update, or --for SATELLITE for all that is staged")
    depot.satellite(satellite)
    found = depot.open_updates(satellite)
    if not found:
        raise UnknownError(
            f"nothing is staged for {satellite}", hint=f"stage an update first: skyload stage MODEL --for {satellite}"
        )
    return found


def queue_of(depot: Depot, updates: tuple[Update, ...], *, is_one_way: bool) -> Queue:
    """Count what is to be carried for these updates, with what others take before and meanwhile."""
    from groundsegment.console.progress import on_board

    there = {entry.handle: on_board(depot, entry) for entry in updates}
    own_symbols = sum(_left(progress) for progress in there.values())
    before, beside, others = [], [], 0
    for other, is_before in _others(depot, updates):
        left = _left(on_board(depot, other))
        if is_before:
            before.append(other.handle)
        else:  # it takes its share until ours is done, or until it is done itself
            weight = min(entry.weight for entry in updates if entry.priority == other.priority)
            left = min(left, math.ceil(own_symbols * other.weight / weight))
            beside.append(other.handle)
        others += left
    symbol_size = updates[0].symbol_size
    extra = sum(_metadata_bytes(entry) for entry in updates) + others * symbol_size // 3  # a Load repeats it thrice
    load = Load(
        bundle_sizes=tuple(bundle.size_bytes for entry in updates for bundle in depot.bundles(entry.handle)),
        extra_bytes=extra,
        symbol_size=symbol_size,
        already=sum(progress.symbols_there for progress in there.values()),
        is_one_way=is_one_way,
    )
    return Queue(updates=updates, load=load, before=tuple(before), beside=tuple(beside), other_symbols=others)


def known_loss(depot: Depot, satellite: str) -> LossEstimate:
    """What is believed of the loss on the way up, by the home ground or else by any station."""
    for station in (HOME_STATION, *(entry.id for entry in depot.stations(satellite))):
        state = depot.journal.loss(satellite, station, Direction.UP)
        if state is not None:
            return LossEstimate.from_dict(state)
    return LossEstimate.of_mean(_LOSS_GUESS)


def station_losses(depot: Depot, satellite: str) -> dict[str, float]:
    """What was learned of the loss on the way up from each registered station, by name."""
    states = {entry.name: depot.journal.loss(satellite, entry.id, Direction.UP) for entry in depot.stations(satellite)}
    return {name: LossEstimate.from_dict(state).mean for name, state in states.items() if state is not None}


def _others(depot: Depot, updates: tuple[Update, ...]) -> list[tuple[Update, bool]]:
    """Other open updates that take room before the last of these is there, and whether they fly strictly before it."""
    ours = {entry.handle for entry in updates}
    last = min(updates, key=lambda entry: (entry.priority, -entry.sequence))
    result = []
    for other in depot.open_updates(last.satellite):
        newer = max(other, last, key=lambda entry: entry.sequence)
        if other.handle in ours or other.priority < last.priority:
            continue
        if other.priority > last.priority:
            result.append((other, True))
        elif newer.beside:  # only such a one shares a turn; else the older is through before the newer begins
            result.append((other, False))
        elif newer is last:
            result.append((other, True))
    return result


def _left(progress: "OnBoard") -> int:
    return progress.symbols - progress.symbols_there


def _metadata_bytes(entry: Update) -> int:
    return entry.metadata_path.stat().st_size if entry.metadata_path.exists() else _METADATA_BYTES_GUESS
