"""The architecture is executable: import-linter and ruff go red when someone plants a forbidden import.

Each plant is made in a copy of the three packages, so that a contract which stopped seeing anything
(a renamed module, a wildcard that matches nothing) fails here instead of staying green for ever.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("protocol", "groundsegment", "onboard")
SHARE_ONLY_PROTOCOL = "Ground and onboard share only the protocol"
PURE_CORES = "The protocol and the cores do no I/O, read no clock, draw no randomness"
SIBLINGS = "Onboard components meet only in the store and the daemon"
STATION = "A ground station signs and packs nothing"
TORCH = "torch lives only in an engine worker, and where models are requantized"
ENGINES = "Engines are reached only by starting a worker"

PLANTS = {
    "the ground imports onboard code": (
        "groundsegment/errors.py",
        "import onboard.errors",
        SHARE_ONLY_PROTOCOL,
    ),
    "onboard imports ground code": ("onboard/errors.py", "import groundsegment.errors", SHARE_ONLY_PROTOCOL),
    "a station signs": ("groundsegment/stations/shell.py", "import groundsegment.signer.key_store", STATION),
    "the protocol imports a side": ("protocol/errors.py", "import onboard.errors", SHARE_ONLY_PROTOCOL),
    "the protocol opens files": ("protocol/errors.py", "import pathlib", PURE_CORES),
    "the channel reads a clock": ("groundsegment/emulator/channel.py", "import time", PURE_CORES),
    "a core onboard logs": ("onboard/receiver/core.py", "import logging", PURE_CORES),
    "a core on the ground draws randomness": ("groundsegment/uplink/sender/core.py", "import secrets", PURE_CORES),
    "a core reaches a socket through its shell": (
        "onboard/receiver/core.py",
        "import onboard.receiver.shell",
        PURE_CORES,
    ),
    "siblings know each other": ("onboard/receiver/__init__.py", "import onboard.installer", SIBLINGS),
    "the store knows the daemon": ("onboard/store/__init__.py", "import onboard.daemon", SIBLINGS),
    "the daemon imports torch": ("onboard/daemon.py", "import torch", TORCH),
    "the serving process imports torch": ("onboard/inference/supervisor.py", "import torch", TORCH),
    "the serving process imports an engine": (
        "onboard/inference/supervisor.py",
        "import onboard.inference.engines.transformers",
        ENGINES,
    ),
    "the daemon imports a worker": ("onboard/daemon.py", "import onboard.inference.worker", ENGINES),
    "staging imports torch": ("groundsegment/staging/staging.py", "import torch", TORCH),
    "the ground imports transformers": ("groundsegment/errors.py", "import transformers", TORCH),
}


@pytest.fixture
def planted(tmp_path):
    """Return a copy of the packages' sources, with the contracts, that a test may spoil."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint_imports(folder):
    """Run the contracts over a folder; its own packages win over the installed ones."""
    program = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    return subprocess.run(
        [sys.executable, "-c", program, "--no-cache"], cwd=folder, capture_output=True, text=True, timeout=60
    )


def test_the_contracts_hold(planted):
    found = lint_imports(planted)

    assert found.returncode == 0, found.stdout + found.stderr
    assert "0 broken" in found.stdout


@pytest.mark.parametrize(("module", "line", "contract"), PLANTS.values(), ids=PLANTS.keys())
def test_a_planted_import_breaks_its_contract(planted, module, line, contract):
    source = planted / module
    assert source.is_file(), f"{module} moved: plant this import somewhere else"
    source.write_text(source.read_text() + f"\n{line}\n")

    found = lint_imports(planted)

    assert found.returncode == 1, found.stdout + found.stderr
    assert f"{contract} BROKEN" in found.stdout


@pytest.mark.parametrize(
    "call",
    ["import time\n\nstarted = time.monotonic()\n", "import random\n", "from unittest.mock import Mock\n"],
    ids=["clock", "randomness", "mock"],
)
@pytest.mark.parametrize("core", ["protocol/frame.py", "onboard/receiver/core.py", "groundsegment/emulator/channel.py"])
def test_ruff_bans_clocks_randomness_and_mocks_outside_shells(core, call):
    found = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--select", "TID251", "--stdin-filename", core, "-"],
        input=call,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert found.returncode == 1
    assert "TID251" in found.stdout
