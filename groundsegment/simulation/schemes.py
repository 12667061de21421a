"""Other ways to send the same: models, simple and in their favour, on the very weather of the real run. Pure.

Each is an idealised protocol of its kind, not a product: no state is ever lost, no report is ever lost, headers are as
small as ours. The products themselves are run in `bench`. What each models, and what was measured of it:

- `carousel`: source symbols round and round, no code, no way back. (A dumb broadcast; 5.4 x the limit at 10 %.)
- `fixed-rate`: Reed-Solomon over 200 symbols with a fixed share of repair, interleaved over all blocks, round and
  round, no way back. (FLUTE with RS(2^8); measured to need 1.2 to 2.1 x with parities chosen for the loss.)
- `nak-per-pass`: all symbols in order; each contact begins with the list of what is missing, and sends that first,
  then what is new; more lists follow only when everything was sent once, each after a turnaround. (CFDP class 2 with
  deferred NAKs: 3 to 7 rounds and 1.00 x the limit in PDUs, where it finishes; cfdp-py 0.7.0 stalled in 5 to 95 % of
  runs, and begins anew after a restart: neither is modelled.)
- `bitmap-rounds`: rounds over the whole file; a bitmap after each says what the next one has to send. Each contact
  opens with an announcement and registration. (UFTP: 4 to 8 rounds, 1.004 to 1.011 x; it needs a restart file and a
  live session, both taken for granted here.)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from groundsegment.simulation.weather import ContactWeather, Slots

RS_SYMBOLS = 200
TURNAROUND_S = 2.0  # the end of data, a list down, and its first answer up
HANDSHAKE_S = 3.0  # announce and register, once in each contact
_Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemeResult:
    """How a scheme fared.

    Attributes:
        name: of the scheme.
        shares: of all source symbols, on board after each contact.
        num_contacts: until everything was there; None if it never was.
        frames_sent: until then, or in all.
        limit_ratio: frames that arrived until then, over what was needed.
        is_measured: run for real, not modelled.
    """

    name: str
    shares: tuple[float, ...]
    num_contacts: int | None
    frames_sent: int
    limit_ratio: float
    is_measured: bool = False


class _Tally:
    """Symbols there, slots used, contact by contact."""

    def __init__(self, name: str, num_source: int) -> None:
        self._name, self._num_source = name, num_source
        self._shares: list[float] = []
        self._sent = self._arrived = 0
        self.is_done = False

    def note(self, arrives: Slots) -> None:
        self._sent += len(arrives)
        self._arrived += int(arrives.sum())

    def end_contact(self, have: int) -> None:
        self._shares.append(have / self._num_source)
        self.is_done = have >= self._num_source

    def result(self) -> SchemeResult:
        return SchemeResult(
            name=self._name,
            shares=tuple(self._shares),
            num_contacts=len(self._shares) if self.is_done else None,
            frames_sent=self._sent,
            limit_ratio=self._arrived / self._num_source,
        )


def fly_carousel(weather: Sequence[ContactWeather], num_source: int) -> SchemeResult:
    """See the module."""
    return _fly_cycle("carousel", weather, num_source, lambda slots: slots % num_source, num_source, 1)


def fly_fixed_rate(weather: Sequence[ContactWeather], num_source: int, repair_share: float) -> SchemeResult:
    """See the module."""
    num_blocks = -(-num_source // RS_SYMBOLS)
    length = round(RS_SYMBOLS * (1 + repair_share))

    def symbol_of(slots: _Indices) -> _Indices:
        return (slots % num_blocks) * length + (slots // num_blocks) % length

    name = f"fixed-rate +{repair_share:.0%}"
    return _fly_cycle(name, weather, num_source, symbol_of, num_blocks * length, length)


def _fly_cycle(
    name: str,
    weather: Sequence[ContactWeather],
    num_source: int,
    symbol_of: Callable[[_Indices], _Indices],
    num_symbols: int,
    length: int,
) -> SchemeResult:
    """Send symbols in a fixed order, without a way back; each group of `length` needs at most RS_SYMBOLS of them."""
    tally, there, slot = _Tally(name, num_source), np.zeros(num_symbols, dtype=np.bool_), 0
    needed = min(RS_SYMBOLS, length) if length > 1 else 1
    last_needs = num_source - (num_symbols // length - 1) * needed  # the last block is short, padded for free

    def have() -> int:
        counts = np.minimum(there.reshape(-1, length).sum(axis=1), needed)
        counts[-1] = min(int(counts[-1]), last_needs)
        return int(counts.sum())

    for contact in weather:
        arrives = contact.arrives
        sent = symbol_of(np.arange(slot, slot + len(arrives)))
        slot += len(arrives)
        before = there.copy()
        there[sent[arrives]] = True
        if have() >= num_source:
            low, high = 0, len(arrives)  # where in this contact was it done?
            while low < high:
                middle = (low + high) // 2
                there[:] = before
                there[sent[:middle][arrives[:middle]]] = True
                low, high = (low, middle) if have() >= num_source else (middle + 1, high)
            there[:] = before
            there[sent[:low][arrives[:low]]] = True
            arrives = arrives[:low]
        tally.note(arrives)
        tally.end_contact(have())
        if tally.is_done:
            break
    return tally.result()


def fly_nak_per_pass(weather: Sequence[ContactWeather], num_source: int, *, scale: float = 1.0) -> SchemeResult:
    """See the module. `scale`: contacts are so many times shorter than they would be; turnarounds are, too."""
    tally = _Tally("nak-per-pass", num_source)
    missing: _Indices = np.empty(0, dtype=np.int64)  # sent before, known to be lost
    next_new, have = 0, 0
    for contact in weather:
        arrives = contact.arrives
        rounds_slots = _slots_in(contact, TURNAROUND_S / scale)
        at = 0
        while at < len(arrives) and have < num_source:
            queue = np.concatenate((missing, np.arange(next_new, num_source)))[: len(arrives) - at]
            if not len(queue):
                break
            got = arrives[at : at + len(queue)]
            tally.note(got)
            next_new = max(next_new, int(queue[-1]) + 1)
            missing = np.concatenate((queue[~got], missing[len(queue) :]))
            have += int(got.sum())
            at += len(queue) + rounds_slots
        tally.end_contact(have)
        if tally.is_done:
            break
    return tally.result()


def fly_bitmap_rounds(weather: Sequence[ContactWeather], num_source: int, *, scale: float = 1.0) -> SchemeResult:
    """See the module."""
    tally = _Tally("bitmap-rounds", num_source)
    todo: _Indices = np.arange(num_source)
    lost: list[_Indices] = []
    have = 0
    for contact in weather:
        arrives, at = contact.arrives, _slots_in(contact, HANDSHAKE_S / scale)
        while at < len(arrives) and have < num_source:
            now = todo[: len(arrives) - at]
            got = arrives[at : at + len(now)]
            tally.note(got)
            lost.append(now[~got])
            have, at, todo = have + int(got.sum()), at + len(now), todo[len(now) :]
            if not len(todo):
                todo, lost = np.concatenate(lost), []
                at += _slots_in(contact, TURNAROUND_S / scale)
        tally.end_contact(have)
        if tally.is_done:
            break
    return tally.result()


def _slots_in(contact: ContactWeather, seconds: float) -> int:
    return round(len(contact.arrives) * seconds / contact.duration_s) if contact.duration_s else 0


def fly_all(weather: Sequence[ContactWeather], num_source: int, *, scale: float) -> list[SchemeResult]:
    """All models."""
    return [
        fly_bitmap_rounds(weather, num_source, scale=scale),
        fly_nak_per_pass(weather, num_source, scale=scale),
        fly_fixed_rate(weather, num_source, 0.2),
        fly_fixed_rate(weather, num_source, 0.5),
        fly_carousel(weather, num_source),
    ]
