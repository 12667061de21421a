"""One satellite, flown to again and again; after each flight all that must hold is looked at."""

import json
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from demo.rehearsal import SATELLITE, Rehearsal, kill, stop
from tests.soak.weather import CUT_LINK, KILL_SATELLITE, KILL_UPLINK, Trouble, Weather

FLIGHT_S_MAX = 240.0


class BrokenPromiseError(AssertionError):
    """Something that must always hold did not."""


class Mission:
    """A satellite that is updated over bad links.

    Args:
        rehearsal: keys made, a first release provisioned.
        make_release: writes release number n, given the weather; returns its directory.
        say: prints a line.
    """

    def __init__(
        self, rehearsal: Rehearsal, make_release: Callable[[int, Weather], Path], say: Callable[[str], None]
    ) -> None:
        self._rehearsal, self._make_release, self._say = rehearsal, make_release, say
        self._accepted = 0
        self._digest = ""

    def begin(self) -> None:
        """Start the satellite with what it was launched with."""
        self._rehearsal.start_satellite(wait_for_model=True)
        self._digest = self.serving()

    def serving(self) -> str:
        """The digest of the release that answers on board."""
        return str(self._rehearsal.onboard_status()["serving"]["digest"])

    def fly(self, number: int, weather: Weather) -> dict[str, Any]:
        """Fly one update through its weather; returns the uplink's summary.

        Raises:
            BrokenPromiseError: a promise was broken.
        """
        directory = self._make_release(number, weather)
        staged = json.loads(
            self._rehearsal.skyload(
                "stage", str(directory), "--for", SATELLITE, "--name", f"soak-{number}", "--max-tokens", "4", "--json"
            )
        )
        profile = self._rehearsal.directory / "profile.yaml"
        profile.write_text(yaml.safe_dump(weather.profile))
        self._rehearsal.control.unlink(missing_ok=True)
        epoch = time.time()
        self._rehearsal.start_link(str(profile), seed=weather.link_seed, epoch=epoch)
        try:
            is_one_way = weather.profile["down"] is None
            arguments = ["--profile", str(profile), "--epoch", str(epoch), "--json"]
            summary = self._send(arguments, weather.troubles, staged["release_digest"] if is_one_way else None)
        finally:
            stop(self._rehearsal.link)
        self._check(staged, summary)
        return summary

    def _send(self, arguments: list[str], troubles: tuple[Trouble, ...], ends_at: str | None) -> dict[str, Any]:
        """Send until the uplink says that it is over; with no way back, until we see `ends_at` serve."""
        began = time.monotonic()
        uplink = self._start_uplink(arguments)
        for trouble in troubles:
            wait_s = began + trouble.at_s - time.monotonic()
            if wait_s > 0 and self._ended(uplink, wait_s):
                break
            uplink = self._strike(trouble, uplink, arguments)
        while not self._ended(uplink, 1.0):
            if ends_at is not None and self.serving() == ends_at:
                stop(uplink)
                return {"state": "confirmed, unheard"}
            if time.monotonic() - began > FLIGHT_S_MAX:
                stop(uplink)
                raise BrokenPromiseError(f"not done after {FLIGHT_S_MAX:.0f} s")
        return self._summary(uplink)

    def _start_uplink(self, arguments: list[str]) -> subprocess.Popen[bytes]:
        log = self._rehearsal.log("uplink").open("ab")
        output = (self._rehearsal.directory / "uplink.json").open("wb")
        with log, output:
            return subprocess.Popen(
                self._rehearsal.uplink_command(*arguments), stdin=subprocess.DEVNULL, stdout=output, stderr=log
            )

    def _summary(self, uplink: subprocess.Popen[bytes]) -> dict[str, Any]:
        text = (self._rehearsal.directory / "uplink.json").read_text()
        if uplink.returncode or not text:
            raise BrokenPromiseError(f"the uplink ended with {uplink.returncode}: see {self._rehearsal.log('uplink')}")
        summary: dict[str, Any] = json.loads(text)
        return summary

    def _ended(self, process: subprocess.Popen[bytes], wait_s: float) -> bool:
        try:
            process.wait(wait_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _strike(
        self, trouble: Trouble, uplink: subprocess.Popen[bytes], arguments: list[str]
    ) -> subprocess.Popen[bytes]:
        self._say(f"    {trouble.at_s:5.2f} s: {trouble.what} for {trouble.for_s:.2f} s")
        if trouble.what == CUT_LINK:
            control = ("--control", str(self._rehearsal.control))
            self._rehearsal.skyload("link", "cut", *control)
            threading.Event().wait(trouble.for_s)
            self._rehearsal.skyload("link", "restore", *control)
        elif trouble.what == KILL_SATELLITE:
            kill(self._rehearsal.satellite)
            threading.Event().wait(trouble.for_s)
            self._rehearsal.start_satellite()
        elif trouble.what == KILL_UPLINK:
            kill(uplink)
            threading.Event().wait(trouble.for_s)
            return self._start_uplink(arguments)
        return uplink

    def _check(self, staged: dict[str, Any], summary: dict[str, Any]) -> None:
        if not summary["state"].startswith("confirmed"):
            raise BrokenPromiseError(f"the ground believes {summary['state']}")
        self._wait_until_serving(staged["release_digest"])
        status = self._rehearsal.onboard_status()
        if status["accepted"] <= self._accepted:
            raise BrokenPromiseError(f"accepted counter went from {self._accepted} to {status['accepted']}")
        self._accepted = status["accepted"]
        self._rehearsal.skyloadd("verify", "all", "--config", str(self._rehearsal.config))
        reply = self._rehearsal.chat("hello", max_tokens=4)
        if not reply["usage"]["completion_tokens"]:
            raise BrokenPromiseError("the endpoint answered nothing")
        self._digest = staged["release_digest"]

    def _wait_until_serving(self, digest: str) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            serving = self.serving()
            if serving == digest:
                return
            if serving != self._digest:
                raise BrokenPromiseError(f"serves {serving[:16]}, which is neither old nor new")
            threading.Event().wait(0.5)
        raise BrokenPromiseError(f"still serves the old release, not {digest[:16]}")
