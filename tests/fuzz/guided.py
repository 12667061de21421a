"""Atheris on one room of parsers: python -m tests.fuzz.guided ROOM [libFuzzer options] CORPUS

Coverage of our own packages guides it. Memory and time are libFuzzer's to watch; CPU seconds of one input are ours.
"""

import sys
import time

import atheris

with atheris.instrument_imports(include=["protocol", "groundsegment", "onboard"], enable_loader_override=False):
    from tests.fuzz.targets import ROOMS, TARGETS

from tests.fuzz.runner import SECONDS_MAX


def main() -> None:
    """Run until libFuzzer's own limits."""
    targets = [TARGETS[name] for name in ROOMS[sys.argv[1]]]

    def attack(data: bytes) -> None:
        if not data:
            return
        started = time.process_time()
        targets[data[0] % len(targets)].attack(data[1:])
        took_s = time.process_time() - started
        assert took_s < SECONDS_MAX, f"took {took_s:.2f} s"

    atheris.Setup([sys.argv[0], *sys.argv[2:]], attack)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
