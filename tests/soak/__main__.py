"""`make soak`: fly updates of a tiny model over random links for as long as asked, and look at every promise.

make soak SECONDS=600            ten minutes, a new seed, which is printed
make soak SECONDS=600 SEED=7     the same flights again
python -m tests.soak --seed 7 --first 12 --flights 1     one of them
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from demo.rehearsal import Rehearsal, RehearsalError
from tests.fakes.models import make_tiny_qwen2
from tests.soak.mission import BrokenPromiseError, Mission
from tests.soak.weather import Weather, draw_weather

SIZE = {"hidden": 192, "layers": 4, "intermediate": 768}  # about 5 MB: some seconds on the link


def main() -> int:
    """Fly; returns the exit code."""
    arguments = _arguments()
    seed = arguments.seed if arguments.seed is not None else random.randrange(2**31)
    print(f"soak: seed {seed}, {arguments.seconds} s", flush=True)
    directory = Path(tempfile.mkdtemp(prefix="skyload-soak-"))
    began, flown, number = time.monotonic(), 0, arguments.first
    try:
        with Rehearsal(directory / "mission", settings={"link.sync_interval_s": 0.3}) as rehearsal:
            mission = _launch(rehearsal, directory, seed)
            while time.monotonic() - began < arguments.seconds and flown < arguments.flights:
                weather = draw_weather(seed, number)
                print(f"flight {number}: {_describe(weather)}", flush=True)
                summary = mission.fly(number, weather)
                flown, number = flown + 1, number + 1
                ratio = (
                    f"; link ratio of the last uplink {summary['link_ratio']:.3f}" if summary.get("link_ratio") else ""
                )
                print(f"    {summary['state']}{ratio}; {time.monotonic() - began:.0f} s so far", flush=True)
    except (BrokenPromiseError, RehearsalError) as error:
        print(f"FAILED in flight {number} of seed {seed}: {error}", flush=True)
        print(f"hint: logs are in {directory}; repeat with: make soak SECONDS={arguments.seconds} SEED={seed}")
        print(f"{flown} passed, 1 failed", flush=True)
        return 1
    shutil.rmtree(directory, ignore_errors=True)
    print(f"soak: seed {seed}, {flown} flights in {time.monotonic() - began:.0f} s", flush=True)
    print(f"{flown} passed, 0 failed", flush=True)
    return 0 if flown else 1


def _launch(rehearsal: Rehearsal, directory: Path, seed: int) -> Mission:
    def make_release(number: int, weather: Weather) -> Path:
        target = directory / f"release-{number}"
        related = weather.nudge is not None
        # A nudge of the launch model is a delta to it; unrelated weights travel whole.
        model_seed = seed if related else seed * 1000 + number
        nudge = (weather.nudge or 0.0) * (1 + number % 7) if related else 0.0
        return make_tiny_qwen2(target, seed=model_seed, nudge=nudge, **SIZE)

    rehearsal.init_keys()
    first = make_tiny_qwen2(directory / "launch", seed=seed, **SIZE)
    rehearsal.provision(first, "launch")
    mission = Mission(rehearsal, make_release, lambda line: print(line, flush=True))
    mission.begin()
    return mission


def _describe(weather: Weather) -> str:
    up, down = weather.profile["up"], weather.profile["down"]
    parts = [f"{up['rate_bps'] / 1e6:.0f} Mbit/s", f"loss {up['loss']:.0%}"]
    parts += ["bursts"] if "burst" in up else []
    parts += ["bit errors, duplicates, reordering"] if "reorder" in up else []
    parts += ["one way"] if down is None else [f"return loss {down['loss']:.0%}"]
    parts += ["contacts"] if "contacts" in weather.profile else ["always up"]
    parts += ["delta" if weather.nudge else "new weights", f"{len(weather.troubles)} troubles"]
    return ", ".join(parts)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=int, default=120, help="start no flight after so long (default 120)")
    parser.add_argument("--seed", type=int, help="repeat a run; a new one is drawn and printed otherwise")
    parser.add_argument("--first", type=int, default=0, help="number of the first flight (default 0)")
    parser.add_argument("--flights", type=int, default=10**9, help="at most so many")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
