"""Withdrawing the key of a ground station: a signed command raises its generation, and every earlier key is void.

The generation is in the trust record before the link hears of it, so a stolen key stays void across restarts. It only
rises; the same one again is no error, for the ground may not have heard our answer.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from onboard.errors import UnknownError
from onboard.store.record import RecordStore
from onboard.telemetry import STATION_WITHDRAWN, Telemetry
from protocol.limits import STATIONS_MAX
from protocol.packing import Fields

GENERATION_MAX = 2**31 - 1
GENERATION_STEP_MAX = 64  # at once: with a stolen command key nobody takes a station's number out of use for ever


class StationKeys:
    """Which generation of each station's key is good.

    Args:
        store: the trust record, loaded.
        apply: makes the link take a station's frames under one generation alone.
        telemetry: events.
    """

    def __init__(self, store: RecordStore, apply: Callable[[int, int], None], telemetry: Telemetry) -> None:
        self._store, self._apply, self._telemetry = store, apply, telemetry

    def start(self) -> None:
        """Let the link know what earlier lives were told."""
        for station, generation in enumerate(self._store.record.stations):
            if generation:
                self._apply(station, generation)

    async def withdraw(self, args: Mapping[str, Any]) -> dict[str, Any]:
        """Carry out a `withdraw` command.

        Raises:
            DecodeError: it is none.
            UnknownError: that generation was withdrawn before, or is too far ahead.
        """
        fields = Fields(args, unit="withdraw")
        # Home has the satellite's own link key, from which all follow: its key cannot be withdrawn without that.
        station = fields.integer("station", lowest=1, highest=STATIONS_MAX - 1)
        generation = fields.integer("generation", lowest=1, highest=GENERATION_MAX)
        fields.finish()
        before = self._store.record.stations
        if generation < before[station]:
            raise UnknownError(
                f"station {station} has generation {before[station]} already", hint="give it a higher one"
            )
        if generation > before[station] + GENERATION_STEP_MAX:
            raise UnknownError(
                f"station {station} has generation {before[station]}: {generation} is too far ahead",
                hint=f"one at most {GENERATION_STEP_MAX} above it",
            )
        if generation > before[station]:
            generations = (*before[:station], generation, *before[station + 1 :])
            self._store.store(replace(self._store.record, stations=generations))
            self._apply(station, generation)
            self._telemetry.emit(STATION_WITHDRAWN, station=station, generation=generation)
        return {"ok": True, "text": f"keys of station {station} before generation {generation} are void"}
