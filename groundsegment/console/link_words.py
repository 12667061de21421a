"""What `skyload link` says: counters and states of a running emulator, a line that follows it, profiles as JSON."""

import dataclasses
import math
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from groundsegment.console.output import err, out
from groundsegment.emulator.conditions import DirectionProfile, LinkProfile
from groundsegment.emulator.shell import LinkProxy, write_statistics

STATISTICS_PERIOD_S = 1.0


def print_statistics(statistics: dict[str, Any]) -> None:
    """The statistics for people."""
    out.print(_headline(statistics), markup=False)
    for direction in ("up", "down"):
        out.print(f"  {direction:4} {_counters(statistics[direction])}", markup=False)
    for name, link in statistics["links"].items():
        out.print(f"{name}: {_state(link)}", markup=False)
        for direction in ("up", "down"):
            out.print(f"  {direction:4} {_counters(link[direction])}", markup=False)


def _headline(statistics: dict[str, Any]) -> str:
    return f"{statistics['profile']} at {statistics['link_time_s']:.0f} s: {_state(statistics)}"


def _state(statistics: dict[str, Any]) -> str:
    state = "contact" if statistics["is_contact"] else "gap"
    cuts = [direction for direction in ("up", "down") if statistics[direction]["is_cut"]]
    if cuts:
        state += f", cut {' and '.join(cuts)}"
    left = statistics["changes_in_s"]
    return state + (f", {left:.0f} s more" if left is not None else "")


def _counters(counters: dict[str, Any]) -> str:
    share = 100 * counters["lost"] / max(1, counters["offered"])
    causes = {
        "random": counters["lost_random"],
        "burst": counters["lost_burst"],
        "gap": counters["lost_gap"],
        "queue": counters["lost_queue"],
        "damaged": counters["corrupted"],
        "doubled": counters["duplicated"],
        "reordered": counters["reordered"],
        "unsendable": counters["unsendable"],
        "dropped by the machine": counters["socket_drops"],
    }
    said = ", ".join(f"{name} {number}" for name, number in causes.items() if number)
    return f"{counters['offered']} frames in, {counters['delivered']} out, {share:.1f} % lost" + (
        f" ({said})" if said else ""
    )


def profile_json(profile: LinkProfile) -> dict[str, Any]:
    """A profile as JSON values."""

    def conditions(direction: DirectionProfile | None) -> dict[str, Any] | None:
        if direction is None:
            return None
        return {**dataclasses.asdict(direction), "mean_loss": round(direction.mean_loss, 6)}

    def contacts() -> Any:  # noqa: ANN401 - JSON
        if not isinstance(profile.contacts, tuple):
            return dataclasses.asdict(profile.contacts)
        listed = [dataclasses.asdict(contact) for contact in profile.contacts]
        return [{key: None if value == math.inf else value for key, value in row.items()} for row in listed]

    return {
        "name": profile.name,
        "description": profile.description,
        "up": conditions(profile.up),
        "down": conditions(profile.down),
        "contacts": contacts(),
        "time_scale": profile.time_scale,
        "stations": [profile_json(link) for link in profile.stations],
    }


class Follower:
    """Tells people and files how the link is doing: one line rewritten on a terminal, a line per change in a log."""

    def __init__(self, statistics_file: Path | None) -> None:
        self.latest: dict[str, Any] = {}
        self._file = statistics_file
        self._is_terminal = sys.stderr.isatty()
        self._state = ""
        self._written_s = -STATISTICS_PERIOD_S

    def tick(self, proxy: LinkProxy) -> None:
        """Look at the proxy, several times a second."""
        is_first = not self.latest
        self.latest = proxy.statistics()
        if is_first:
            ends = f"ground {self.latest['ground']}, space {self.latest['space']}"
            ends += "".join(f", {name} {link['ground']}" for name, link in self.latest["links"].items())
            err.print(f"link {self.latest['profile']} is up: {ends}, satellite {self.latest['satellite']}")
        if self._file is not None and time.monotonic() - self._written_s >= STATISTICS_PERIOD_S:
            self._written_s = time.monotonic()
            write_statistics(self._file, self.latest)
        self._say()

    def close(self) -> None:
        """Leave the terminal on a fresh line."""
        if self._is_terminal:
            sys.stderr.write("\n")

    def _say(self) -> None:
        line = f"{_headline(self.latest)} | up {_brief(self.latest['up'])} | down {_brief(self.latest['down'])}"
        if self._is_terminal:
            sys.stderr.write(f"\r\x1b[2K{line[: _columns()]}")
            sys.stderr.flush()
            return
        links = self.latest["links"]
        state = " ".join(
            f"{link['is_contact']} {link['up']['is_cut']} {link['down']['is_cut']}"
            for link in (self.latest, *links.values())
        )
        if state != self._state:
            self._state = state
            err.print(line + "".join(f" | {name} {_state(link)}" for name, link in links.items()), markup=False)


def _brief(counters: dict[str, Any]) -> str:
    share = 100 * counters["lost"] / max(1, counters["offered"])
    return f"{counters['offered']} frames {share:.1f} % lost"


def _columns() -> int:
    return shutil.get_terminal_size().columns - 1
