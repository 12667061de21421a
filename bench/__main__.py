"""`make bench NAME=...`: run one measurement; without a name, list them."""

import argparse
import importlib
import json
import sys

from bench.results import keep

# name: (module, what it measures)
MEASUREMENTS = {
    "flight": (
        "bench.flight",
        "fly a 90 MB release of a real model over 10 % loss with gaps, while requests keep coming",
    ),
    "memory": ("bench.memory", "stage and receive a synthetic 4 GB release; the peak memory of packer and daemon"),
    "transport": (
        "bench.transport.measure",
        "bytes of the transport beside UFTP and cfdp-py, over lossy, cut and one-way links; speeds of both ends",
    ),
    "codec": (
        "bench.codec.measure",
        "bytes of the weight codec beside its peers and the entropy bounds, on real weights; speeds, memory",
    ),
    "durability": (
        "bench.durability.measure",
        "cut the power before every step on ext4 and XFS, flip bits, fail system calls: what is broken after",
    ),
    "kills": ("bench.kills", "30 flights, each with a kill -9 of daemon or uplink at a random moment"),
}


def main() -> int:
    """Run or list."""
    parser = argparse.ArgumentParser(prog="make bench", description="Run one measurement; without a name, list them.")
    parser.add_argument("name", nargs="?", choices=sorted(MEASUREMENTS))
    parser.add_argument("--keep", action="store_true", help="write the result into docs/benchmarks.md")
    arguments, options = parser.parse_known_args()
    if arguments.name is None:
        for name, (_, what) in MEASUREMENTS.items():
            print(f"  make bench NAME={name:10} {what}")
        return 0
    name, what = MEASUREMENTS[arguments.name]
    module = importlib.import_module(name)
    table, figures = module.measure(options)
    print(table)
    if arguments.keep:
        picture = module.illustrate(figures) if hasattr(module, "illustrate") else ""
        keep(arguments.name, what, f"{picture}{table}", figures)
    print(json.dumps(figures), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
