"""Attack parsers: python -m tests.fuzz [NAME ...] [--count N | --seconds S] [--seed N] [--guided] [--jobs N] [--resume]

    python -m tests.fuzz --count 1000000 --resume         a million cases each, our own mutator; interrupted, it goes on
    python -m tests.fuzz --guided --seconds 60            a minute for each room of parsers, guided (atheris)
    python -m tests.fuzz manifest --seed 7                one parser, again

Every parser, or room of them, runs in a process of its own. What is found lies in build/fuzz/NAME.bin; once mended, it
goes to `tests/fuzz/found/NAME/`, and from then on every test run tries it.
"""

import argparse
import importlib.util
import re
import secrets
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_FOUND = Path("build/fuzz")
_DONE = _FOUND / "done"
_KEPT = Path(__file__).parent / "found"
_ENDLESS = 10**9
_RSS_LIMIT_MB = 400  # an interpreter with all parsers and the instrumentation has 170


def main() -> int:
    """Attack; returns 1 if something was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--count", type=int, default=_ENDLESS)
    parser.add_argument("--seconds", type=float, default=None)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**31))
    parser.add_argument("--guided", action="store_true", help="by coverage, with atheris")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--resume", action="store_true", help="leave out who has had as many cases with no finding")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.seconds is None:
        arguments.seconds = 1e9 if arguments.count < _ENDLESS else 10.0
    if arguments.one:
        return _attack_here(arguments)
    if arguments.guided and importlib.util.find_spec("atheris") is None:
        print("no atheris here: our own mutator, unguided")
        arguments.guided = False
    names = arguments.names or _names(is_guided=arguments.guided)
    if arguments.resume:
        names = [name for name in names if not _is_done(name, arguments.count)]
    print(f"seed {arguments.seed}", flush=True)
    with ThreadPoolExecutor(arguments.jobs) as pool:
        run = _guided if arguments.guided else _plain
        outcomes = list(pool.map(lambda name: run(name, arguments), names))
    bad = [name for name, is_good in zip(names, outcomes, strict=True) if not is_good]
    print(f"{len(names)} parsers, {len(bad)} with a finding{': ' if bad else ''}{', '.join(bad)}")
    return bool(bad)


def _names(*, is_guided: bool) -> list[str]:
    from tests.fuzz.targets import ROOMS, TARGETS

    return list(ROOMS if is_guided else TARGETS)


def _plain(name: str, arguments: argparse.Namespace) -> bool:
    told = ["--count", str(arguments.count), "--seconds", str(arguments.seconds), "--seed", str(arguments.seed)]
    ran = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--one", name, *told], capture_output=True, text=True, check=False
    )
    line = ran.stdout.strip() or f"{name:<18} died: {ran.stderr.strip()[-500:]}"
    print(line, flush=True)
    if ran.returncode == 0 and arguments.count < _ENDLESS:
        _DONE.mkdir(parents=True, exist_ok=True)
        (_DONE / f"{name}-{arguments.count}").write_text(line + "\n")
    return ran.returncode == 0


def _is_done(name: str, count: int) -> bool:
    return (_DONE / f"{name}-{count}").exists()


def _attack_here(arguments: argparse.Namespace) -> int:
    from tests.fuzz.runner import attack, keep
    from tests.fuzz.targets import TARGETS

    (name,) = arguments.names
    outcome = attack(TARGETS[name], seed=arguments.seed, count=arguments.count, seconds=arguments.seconds)
    figures = f"{outcome.cases:>9,} cases, {outcome.cases / max(outcome.took_s, 1e-9):>7,.0f}/s"
    figures += f", {outcome.taken / max(outcome.cases, 1):>4.0%} taken, refused in {len(outcome.places):>2} places"
    slowest = f"{outcome.slowest_s * 1000:.0f} ms" if outcome.slowest_s else "under 2 ms"
    line = f"{name:<18} {figures}, slowest {slowest}, {outcome.growth_bytes >> 20} MiB more"
    if outcome.finding:
        line += f"\n{'':<18} FOUND {outcome.finding}: {keep(_FOUND, name, outcome.culprit)}"
    print(line)
    return bool(outcome.finding)


def _guided(room: str, arguments: argparse.Namespace) -> bool:
    from tests.fuzz.targets import ROOMS, TARGETS

    corpus = _FOUND / "corpus" / room
    corpus.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(ROOMS[room]):
        kept = [path.read_bytes() for path in sorted((_KEPT / name).glob("*"))]
        for number, seed in enumerate([*TARGETS[name].seeds, *kept]):
            (corpus / f"{name}-{number}").write_bytes(bytes([index]) + seed)
    size_max = max(TARGETS[name].size_max for name in ROOMS[room]) + 1
    options = [f"-max_total_time={arguments.seconds:.0f}", f"-seed={arguments.seed or 1}", "-print_final_stats=1"]
    options += [f"-max_len={size_max}", f"-rss_limit_mb={_RSS_LIMIT_MB}", "-timeout=30"]
    options.append(f"-artifact_prefix={_FOUND}/{room}-")
    if arguments.count < _ENDLESS:
        options.append(f"-runs={arguments.count}")
    ran = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.guided", room, *options, str(corpus)],
        capture_output=True, text=True, errors="replace", check=False,
    )  # fmt: skip
    told = dict(re.findall(r"stat::(\w+):\s+(\d+)", ran.stderr))
    covered = re.findall(r"cov: (\d+)", ran.stderr)
    cases = int(told.get("number_of_executed_units", 0))
    line = f"{room:<15} {cases:>9,} cases, {covered[-1] if covered else 0} branches"
    print(f"{line}, peak {told.get('peak_rss_mb', '?')} MiB{'' if ran.returncode == 0 else ' FOUND'}", flush=True)
    if ran.returncode:
        print(ran.stderr[-3000:], flush=True)
    return ran.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
