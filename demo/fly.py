"""`make demo`: fly a real model over a lossy, gappy link, and see the new one answer.

Everything is real: the weights (SmolLM2-135M-Instruct, as a Qwen2 checkpoint), the processes, the sockets, the
signatures. Only the sky is emulated, and its passes run in fast-forward.
"""

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # run as a script by `make demo`, from wherever

from demo.rehearsal import SATELLITE, Rehearsal, RehearsalError, stop  # noqa: E402

CACHE = ROOT / ".cache" / "demo"
RUN = ROOT / "demo-run"
PROFILE = "demo"
SEED = 43  # as many passes as the flight to beat took
QUESTION = "What is 2 + 2?"
SMALL_TALK = "Name one planet."
HEAD_START_S = 2.5  # the first contact begins when the uplink is there to use it
OLD, NEW = "smollm2-int4", "smollm2-int8"

console = Console(highlight=False, soft_wrap=True)


@dataclass(slots=True)
class Chatter:
    """Keeps asking the endpoint while the update flies and swaps; counts what failed.

    Attributes:
        asked: requests that came back, well or not.
        failures: what the failed ones said.
    """

    rehearsal: Rehearsal
    asked: int = 0
    slowest_s: float = 0.0
    failures: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self, num_threads: int = 1) -> None:
        """Start asking."""
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(num_threads)]
        for thread in self._threads:
            thread.start()

    def finish(self) -> None:
        """Let the last questions come back."""
        self._stop.set()
        for thread in self._threads:
            thread.join(120)

    def _ask(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                reply = self.rehearsal.chat(SMALL_TALK, max_tokens=4)
                assert reply["choices"][0]["message"]["content"] is not None
            except (OSError, ValueError, KeyError, AssertionError) as error:
                self.failures.append(f"{type(error).__name__}: {error}")
            self.asked += 1
            self.slowest_s = max(self.slowest_s, time.monotonic() - began)
            self._stop.wait(0.2)


def main() -> int:
    """Fly the demo; returns the exit code."""
    arguments = _arguments()
    began = time.monotonic()
    rehearsal = Rehearsal(RUN, outlives_us=arguments.keep)
    rehearsal.settings["link.sync_interval_s"] = 0.25
    try:
        old, new = releases()
        start(rehearsal, old)
        before = ask(rehearsal)
        update = stage(rehearsal, new)
        chatter = Chatter(rehearsal)
        chatter.start()
        summary = fly(rehearsal)
        after = ask(rehearsal)
        chatter.finish()
        show_what_happened(rehearsal, update, summary, chatter, before, after, time.monotonic() - began)
        if summary.get("state") != "confirmed" or chatter.failures:
            return 1
        if arguments.keep:
            show_what_is_left_running(rehearsal)
    except RehearsalError as error:
        console.print(f"\n[bold red]the demo stopped:[/] {error}", markup=True)
        console.print(f"hint: logs are in {RUN}; `make demo` starts over")
        return 1
    except KeyboardInterrupt:
        console.print("\ninterrupted: everything that was started is being ended")
        rehearsal.close()
        return 130
    finally:
        if not arguments.keep:
            rehearsal.close()
    if not arguments.keep:
        shutil.rmtree(RUN, ignore_errors=True)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Fly a real model over an emulated link.")
    parser.add_argument("--keep", action="store_true", help="leave satellite and link running, and the files")
    return parser.parse_args()


def releases() -> tuple[Path, Path]:
    """Make the two releases from SmolLM2's published weights, once."""
    step(1, "Weights: SmolLM2-135M-Instruct, quantized to four and to eight bits")
    skyload = str(Path(sys.executable).parent / "skyload")
    source, old, new = CACHE / "smollm2-qwen2-bf16", CACHE / OLD, CACHE / NEW
    commands = [
        (source, [skyload, "model", "import", "smollm2", "--out", str(source), "--cache", str(CACHE)]),
        (old, [skyload, "model", "quantize", str(source), "--out", str(old), "--format", "int4"]),
        (new, [skyload, "model", "quantize", str(source), "--out", str(new), "--format", "int8"]),
    ]
    CACHE.mkdir(parents=True, exist_ok=True)
    for directory, command in commands:
        if not directory.exists():
            show_command(command)
            if subprocess.run(command, check=False).returncode:
                raise RehearsalError(f"{' '.join(command)} failed")
    console.print(f"   release 1: {OLD}, {size_mb(old):.0f} MB     release 2: {NEW}, {size_mb(new):.0f} MB")
    return old, new


def start(rehearsal: Rehearsal, old: Path) -> None:
    """Ground keys, a satellite with release 1, a bad link."""
    step(2, "Ground keys, a satellite that serves release 1, and a link")
    shutil.rmtree(RUN, ignore_errors=True)
    rehearsal.init_keys()
    rehearsal.provision(old, OLD)
    rehearsal.start_satellite(wait_for_model=True)
    rehearsal.start_link("clear", seed=SEED)  # for the first question; the flight gets the bad one
    console.print(f"   endpoint on board: {rehearsal.endpoint}/v1     frames go to {rehearsal.link_address}")


def ask(rehearsal: Rehearsal) -> dict[str, Any]:
    """Ask the model on board through the link."""
    command = ["ask", QUESTION, "--for", SATELLITE, "--link", rehearsal.link_address, "--max-tokens", "24"]
    show_command(["skyload", *command])
    answer: dict[str, Any] = json.loads(rehearsal.skyload(*command, "--timeout", "180", "--json"))
    console.print(
        Panel(
            str(answer.get("text", "")).strip() or "(nothing)",
            title=f"{answer.get('release_name') or 'answer'}",
            width=min(100, console.width),
        )
    )
    return answer


def stage(rehearsal: Rehearsal, new: Path) -> dict[str, Any]:
    """Pack, rehearse on the twin, sign; then show the plan."""
    step(3, "Stage release 2: pack, rebuild and try it on a twin, sign")
    command = ["stage", str(new), "--for", SATELLITE, "--name", NEW, "--base", "none", "--depot", str(rehearsal.depot)]
    skyload = str(Path(sys.executable).parent / "skyload")
    show_command(["skyload", *command[:-2]])
    done = subprocess.run([skyload, *command, "--json"], check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise RehearsalError(f"skyload stage ended with {done.returncode}")
    update: dict[str, Any] = json.loads(done.stdout)
    plan = ["plan", "--for", SATELLITE, "--profile", PROFILE, "--loss", "10%", "--depot", str(rehearsal.depot)]
    show_command(["skyload", *plan[:-2]])
    subprocess.run([skyload, *plan], check=False)
    return update


def fly(rehearsal: Rehearsal) -> dict[str, Any]:
    """Fly it; the display is the uplink's own."""
    step(4, "Fly it, while somebody asks on: 10 % of frames get lost, three gaps")
    stop(rehearsal.link)
    rehearsal.control.unlink(missing_ok=True)
    epoch = time.time() + HEAD_START_S
    rehearsal.start_link(PROFILE, seed=SEED, epoch=epoch)
    command = rehearsal.uplink_command("--profile", PROFILE, "--epoch", str(epoch), "--json")
    show_command(["skyload", *command[1 : command.index("--depot")], "--profile", PROFILE])
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True, timeout=600)
    if not done.stdout.strip():
        raise RehearsalError(f"skyload uplink ended with {done.returncode} and no summary")
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary


def show_what_happened(
    rehearsal: Rehearsal,
    update: dict[str, Any],
    summary: dict[str, Any],
    chatter: Chatter,
    before: dict[str, Any],
    after: dict[str, Any],
    seconds: float,
) -> None:
    """Print the figures of the flight."""
    step(5, "What happened")
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in facts(rehearsal, update, summary, chatter).items():
        table.add_row(f"   {name}", value)
    console.print(table)
    width = min(100, console.width)
    console.print(Panel(str(before.get("text", "")).strip(), title=f"before: {OLD}", width=width))
    console.print(Panel(str(after.get("text", "")).strip(), title=f"after: {NEW}", width=width))
    console.print(f"failed requests: {len(chatter.failures)}   (of {chatter.asked} asked during flight and swap)")
    for failure in chatter.failures[:3]:
        console.print(f"   {failure}")
    console.print(f"[dim]{seconds:.0f} s in all[/]", markup=True)


def facts(rehearsal: Rehearsal, update: dict[str, Any], summary: dict[str, Any], chatter: Chatter) -> dict[str, str]:
    """The figures, by name."""
    link = json.loads(rehearsal.link_statistics.read_text()) if rehearsal.link_statistics.exists() else {}
    up = link.get("up", {})
    return {
        "state on board": str(summary.get("state", "unknown")).upper(),
        "model": f"{size_text(update.get('installed_bytes', 0))} on disk, "
        f"{size_text(update.get('payload_bytes', 0))} as bundles",
        "bytes on the link": f"{size_text(summary.get('bytes_sent', 0))}, "
        f"{summary.get('link_ratio') or 0:.3f} x payload / (1 - loss)",
        "contacts": f"{summary.get('contacts_used', '?')}, {summary.get('transfer_s', 0):.1f} s until all was there",
        "frames": f"{summary.get('frames_sent', 0):,} sent, {up.get('lost', summary.get('frames_lost') or 0):,} lost",
        "swap": swap_text(summary.get("swap_ms")),
        "slowest answer meanwhile": f"{chatter.slowest_s:.1f} s",
    }


def show_what_is_left_running(rehearsal: Rehearsal) -> None:
    """Say how to reach what KEEP=1 left."""
    pids = [process.pid for process in (rehearsal.satellite, rehearsal.link) if process]
    console.print("\nSatellite and link are still running. For the ground, in this directory:")
    console.print("   . .venv/bin/activate")
    console.print(f"   export SKYLOAD_DEPOT={short_path(str(rehearsal.depot))} SKYLOAD_LINK={rehearsal.link_address}")
    console.print("and try")
    console.print(f"   skyload ask 'Who are you?' --for {SATELLITE}")
    console.print(f"   skyload status --for {SATELLITE}")
    console.print(f"   skyload revert --for {SATELLITE}")
    console.print(f"   skyload link cut --control {short_path(str(rehearsal.control))}      # and restore")
    console.print(f"   skyloadd status --config {short_path(str(rehearsal.config))}")
    console.print(f"   curl -s {rehearsal.endpoint}/v1/models")
    console.print(f"End it with: kill {' '.join(map(str, pids))}      (logs and files are in {RUN.name})")


def step(number: int, text: str) -> None:
    """Print a heading."""
    console.print(f"\n[bold]{number}. {text}[/]", markup=True)


def show_command(command: list[str]) -> None:
    """Print a command as a person would type it from here; a long one goes on in the next line, at an option."""
    words = [Path(command[0]).name, *(shlex.quote(short_path(word)) for word in command[1:])]
    name, *options = " ".join(words).split(" --")
    lines = [f"   $ {name}"]
    for option in options:
        if len(lines[-1]) + len(option) + 5 > console.width:
            lines.append("       ")
        lines[-1] += f" --{option}"
    console.print(Text(" \\\n".join(lines), style="dim"))


def short_path(word: str) -> str:
    """A path as it is from the current directory, if it lies below it."""
    here = f"{Path.cwd()}/"
    return word.removeprefix(here)


def size_mb(directory: Path) -> float:
    """Megabytes of a directory's files."""
    return sum(path.stat().st_size for path in directory.iterdir()) / 1e6


def swap_text(swap_ms: float | None) -> str:
    """How long requests had no model to go to."""
    return "unknown" if swap_ms is None else f"{swap_ms:.2f} ms from the old model to the new one"


def size_text(size_bytes: float) -> str:
    """Bytes for people."""
    return f"{size_bytes / 1e6:.1f} MB"


if __name__ == "__main__":
    sys.exit(main())
