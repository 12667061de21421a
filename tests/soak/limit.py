"""How near the sender comes to the erasure limit, as a table: losses by with reports, one way, three stations.

    python -m tests.soak.limit [--seeds 20] [--link MEAN/BURST ...]

Each cell is symbols sent over K / (1 - loss): median and worst of all seeds, over 49 MB in blocks of 7500 and 8000
symbols, real sender's and receiver's cores. With reports and for three stations the loss is the one that happened; one
way it is the one to be expected, and the worst of N seeds is about the (1 - 1/N) quantile of finishing.
"""

import argparse
import os
import statistics
from concurrent.futures import ProcessPoolExecutor

from tests.fakes.sky import several_stations
from tests.property.test_uplink_limit import LINKS, one_way, with_reports

WITH_REPORTS = {"delay_s": 0.1, "rate_fps": 1000, "loss_down": 0.3}
TOGETHER = {"delay_s": 0.1, "rate_fps": 500, "loss_down": 0.1}


def reported(mean, burst, seed):
    """1000 frames a second, 0.2 s there and back, a sync each second, three reports in ten lost."""
    return with_reports(mean, burst, seed, **WITH_REPORTS)


def three(mean, burst, seed):
    """500 frames a second each; the second loses as said, the others half and twice as much; they come 5 s apart."""
    specs = [
        {"mean": min(share * mean, 0.6), "burst": burst, "contacts": ((5.0 * number, 1e9),), **TOGETHER}
        for number, share in enumerate((0.5, 1.0, 2.0))
    ]
    sky = several_stations(specs, seed=seed)
    assert sky.run(600)
    return sky.ratio


COLUMNS = {"with reports": reported, "one way": one_way, "three stations": three}


def cell(job):
    """One flight."""
    name, mean, burst, seed = job
    return COLUMNS[name](mean, burst, seed)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    os.nice(5)
    print("| loss | " + " | ".join(f"{name}: median, worst" for name in COLUMNS) + " |")
    print("|---|" + "---|" * len(COLUMNS))
    with ProcessPoolExecutor(options.processes) as pool:
        for mean, burst in LINKS:
            row = [f"{mean:.0%}" + (f", bursts of {burst}" if burst > 1 else "")]
            for name in COLUMNS:
                jobs = [(name, mean, burst, seed) for seed in range(options.seeds)]
                ratios = list(pool.map(cell, jobs, chunksize=4))
                row.append(f"{statistics.median(ratios):.4f}, {max(ratios):.4f}")
            print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
