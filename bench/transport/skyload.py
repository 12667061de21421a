"""Skyload itself: `skyload uplink` at one end, `skyloadd run` at the other, as they fly; the engine has no model.

Keys, launch release and update are made once, in a template; a flight begins with a copy of it. The payload is the
update's bundles: what `skyload stage` says is to be carried, and the very bytes the peers carry.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.kills import twin_with_fake_engine
from bench.transport.link import SPACE_ADDRESS, Link
from bench.transport.peer import PORT
from demo.rehearsal import SATELLITE, Rehearsal, set_key
from onboard.control_socket import ask_daemon
from onboard.errors import OnboardError
from protocol.blocks import block_layout, symbols_needed
from tests.fakes.engine import engine_command
from tests.fakes.models import make_synthetic_release

SYMBOL_SIZE = 1448  # the largest whose whole frames fit this link: 1448 + 20 + 28 = 1,496 bytes; short ones are 8 less
REPORT_INTERVAL_S = 0.2  # more often costs more than it tells
SYNC_INTERVAL_S = 0.2  # reports count what is durable: the older that is, the more must be guessed at a block's end
_BIN = Path(sys.executable).parent


class Template:
    """A satellite before launch, and a depot with one update staged for it."""

    def __init__(self, directory: Path, size_bytes: int, seed: int, symbol_size: int = SYMBOL_SIZE) -> None:
        """Make it; takes some seconds."""
        self.directory, self.symbol_size = directory / "template", symbol_size
        settings: dict[str, object] = {
            "link.listen": f"{SPACE_ADDRESS}:{PORT}",
            "link.report_interval_s": REPORT_INTERVAL_S,
            "link.sync_interval_s": SYNC_INTERVAL_S,
        }
        rehearsal = Rehearsal(self.directory, engine_command=engine_command(), settings=settings)
        rehearsal.init_keys()
        rehearsal.provision(make_synthetic_release(directory / "launch", 100_000, seed), "launch")
        release = make_synthetic_release(directory / "release", size_bytes, seed, tensor_bytes=1 << 20)
        stage = ["stage", str(release), "--for", SATELLITE, "--name", "flown", "--base", "none", "--json"]
        stage += ["--symbol-size", str(symbol_size), "--twin", twin_with_fake_engine()]
        staged = json.loads(rehearsal.skyload(*stage))
        self.digest: str = staged["release_digest"]
        self.payload_bytes: int = staged["payload_bytes"]
        bundles = sorted((rehearsal.depot / "updates").glob("*/bundle-*"))

        self.bundle_sizes = [path.stat().st_size for path in bundles]
        assert sum(self.bundle_sizes) == self.payload_bytes
        counts = [symbols_needed(size, symbol_size) for size in self.bundle_sizes]
        self.num_symbols = sum(counts)
        self.num_blocks = sum(block_layout(count, symbol_size).num_blocks for count in counts)
        self.payload = directory / "payload.bin"
        with self.payload.open("wb") as file:
            for path in bundles:
                file.write(path.read_bytes())


class Skyload:
    """One transfer."""

    name = "Skyload"
    is_ours = True

    def __init__(self, template: Template, rate_bps: float, settings: dict[str, object] | None = None) -> None:
        """Prepare a flight.

        Args:
            template: copied.
            rate_bps: of the uplink.
            settings: of the satellite, on top of the template's.
        """
        self.payload_bytes = template.payload_bytes
        self._template, self._rate_bps, self._settings = template, rate_bps, settings or {}
        self._is_silent = bool(self._settings.get("link.silent"))
        self._num_uplinks = 0
        self._accepted = self._surplus = 0  # when last looked at

    def begin(self, link: Link, directory: Path) -> None:
        """Start the daemon, then the uplink."""
        self.prepare(link, directory)
        self._start_sender()

    def prepare(self, link: Link, directory: Path) -> None:
        """Start the daemon only."""
        self._link, self._directory = link, directory
        shutil.copytree(self._template.directory, directory / "flight")
        self._config = self.kit / "satellite.toml"
        text = self._config.read_text()
        for key, value in self._settings.items():
            text = set_key(text, key, value)
        self._config.write_text(text)
        self._start_receiver()

    @property
    def kit(self) -> Path:
        """What the satellite of this flight was given, and its state."""
        return self._directory / "flight" / "kit"

    def poll(self) -> int | None:
        """The uplink's exit status; without a return path it never ends, so look on board."""
        if not self._is_silent:
            return self._sender.poll()
        receiver = self._status().get("receiver", {})
        accepted, surplus = receiver.get("symbols_accepted", 0), receiver.get("symbols_surplus", 0)
        if self._template.num_symbols <= accepted == self._accepted and surplus > self._surplus:
            self._sender.kill()  # every block has enough: the contact may end, whatever solving them takes
        self._accepted, self._surplus = accepted, surplus
        return 0 if receiver.get("blocks_solved", 0) > self._template.num_blocks else None

    def resume(self) -> bool:
        """Start the uplink again."""
        self._start_sender()
        return True

    def kill_receiver(self) -> None:
        """SIGKILL the daemon, its children with it, and start it again."""
        os.killpg(self._receiver.pid, 9)
        self._receiver.wait()
        self._start_receiver()

    def is_right(self) -> bool:
        """Every file of the release that serves has the digest of what was staged."""
        if self._serving() != self._template.digest:
            return False
        verify = [str(_BIN / "skyloadd"), "verify", "all", "--config", str(self._config)]
        return subprocess.run(verify, check=False, capture_output=True).returncode == 0

    def figures(self) -> dict[str, float]:
        """Source symbols of the update's bundles, starts of the uplink, and what the satellite says of symbols."""
        receiver = self._status().get("receiver", {})
        counts = {name: receiver.get(f"symbols_{name}", 0) for name in ("accepted", "duplicate", "surplus")}
        return {"num_symbols": self._template.num_symbols, "attempts": self._num_uplinks, **counts}

    def _start_receiver(self) -> None:
        command = [str(_BIN / "skyloadd"), "run", "--config", str(self._config)]
        self._receiver = self._link.start(self._link.space, command, self._directory / "satellite.log")
        self._link.wait_for_socket(self._link.space, PORT)

    def _start_sender(self) -> None:
        self._num_uplinks += 1
        command = [str(_BIN / "skyload"), "uplink", "--for", SATELLITE, "--link", f"{SPACE_ADDRESS}:{PORT}"]
        command += ["--depot", str(self._directory / "flight" / "depot"), "--rate", f"{self._rate_bps / 1e6:g}Mbit/s"]
        with (self._directory / "uplink.json").open("wb") as file:
            self._sender: subprocess.Popen[bytes] = self._link.start(
                self._link.ground, [*command, "--json", "--quiet"], self._directory / "uplink.log", stdout=file
            )

    def _serving(self) -> str:
        return str((self._status().get("serving") or {}).get("digest", ""))

    def _status(self) -> dict[str, Any]:
        try:
            answer = ask_daemon(self.kit / "state" / "run", {"op": "status"})
        except OnboardError:  # it is starting
            return {}
        status: dict[str, Any] = answer["status"]
        return status
