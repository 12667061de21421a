"""The same weather for schemes that are only modelled: which frame slot of which contact the link would take.

Made by the emulator's own channel with the seed of the mission, one frame after the other at the contact's rate. So a
burst or a bad contact is the same for all of them, and as bad as for the real run.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from groundsegment.emulator.channel import Channel
from groundsegment.emulator.conditions import Direction, DirectionProfile, LinkProfile
from groundsegment.simulation.seeds import source
from groundsegment.simulation.station import PACE_SHARE

Slots = NDArray[np.bool_]
GUARD_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class ContactWeather:
    """One contact.

    Attributes:
        start_s: virtual seconds.
        duration_s: of sending.
        arrives: for each frame that can be sent, in order, whether it gets through.
    """

    start_s: float
    duration_s: float
    arrives: Slots


def make_weather(
    links: Sequence[LinkProfile], rates_bps: Sequence[float], *, until_s: float, frame_size: int, seed: int, most: int
) -> list[ContactWeather]:
    """Return the weather of all contacts by their start, until so many slots get through."""
    contacts = sorted(
        (start_s, end_s, number)
        for number, link in enumerate(links)
        for start_s, end_s in link.contact_windows(until_s)
    )
    channels = [
        Channel(LinkProfile(up=_losses_only(link.up, frame_size)), source(seed, "channel", number))
        for number, link in enumerate(links)
    ]
    found, total = [], 0
    for start_s, end_s, number in contacts:
        duration_s = end_s - start_s - links[number].up.delay_s - GUARD_S
        count = max(0, int(duration_s * rates_bps[number] * PACE_SHARE / 8 / frame_size))
        arrives = _slots(channels[number], count, start_s)
        found.append(ContactWeather(start_s=start_s, duration_s=max(0.0, duration_s), arrives=arrives))
        total += int(arrives.sum())
        if total >= most:
            break
    return found


def _slots(channel: Channel, count: int, now: float) -> Slots:
    arrives = np.zeros(count, dtype=np.bool_)
    send, deliver = channel.send, channel.deliver
    for number in range(count):
        send(Direction.UP, number.to_bytes(4, "big"), now)
    for _, data in deliver(now):
        arrives[int.from_bytes(data, "big")] = True
    return arrives


def _losses_only(up: DirectionProfile, frame_size: int) -> DirectionProfile:
    damaged = 1 - (1 - up.bit_error_rate) ** (8 * frame_size)
    return DirectionProfile(loss=1 - (1 - up.loss) * (1 - damaged), burst=up.burst)
