"""`make bench NAME=transport`: bytes, speed and staying power of the transport, beside UFTP and cfdp-py.

Everything is run here, nothing quoted: the same payload over the same link, in turn. With `--quick`, once each and
with a small payload, as the tests do.
"""

import argparse
import json
import os
import pickle
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from bench.results import PAGE, markdown_table
from bench.transport.cfdp import Cfdp
from bench.transport.flight import Outcome, Row, fly
from bench.transport.link import Loss, why_impossible
from bench.transport.offered import offer_frames
from bench.transport.one_way import one_flight, worst_of_99_percent
from bench.transport.peer import Peer
from bench.transport.plot import ratio_plot
from bench.transport.skyload import SYMBOL_SIZE, Skyload, Template
from bench.transport.table import Cell, ratios_of, results_table, symbols_table
from bench.transport.uftp import BLOCK_DEFAULT, Uftp

LOSS_ROWS = [
    Row(key="0", title="no loss", loss=Loss()),
    Row(key="0.05", title="5 %", loss=Loss(share=0.05)),
    Row(key="0.1", title="10 %", loss=Loss(share=0.1)),
    Row(key="0.2", title="20 %", loss=Loss(share=0.2)),
    Row(key="0.3", title="30 %", loss=Loss(share=0.3)),
    Row(key="bursts", title="bursts of 5, 10 %", loss=Loss(share=0.1, burst_packets=5)),
]
TROUBLE_ROWS = [
    Row(key="cut", title="10 %, cut at half", loss=Loss(share=0.1), trouble="cut"),
    Row(key="kill", title="10 %, receiver kill -9 at half", loss=Loss(share=0.1), trouble="kill"),
    Row(key="one way", title="10 %, no return path", loss=Loss(share=0.1, one_way=True)),
    Row(key="one way, cut", title="10 %, no return path, cut", loss=Loss(share=0.1, one_way=True), trouble="cut"),
]
BAR = 1.035
SPEEDS = [
    ("receiver_mb_s", "at least 60, receiver and solver together on one core, 10 % loss"),
    ("receiver_rss_mb", "under 200"),
    ("sender_mb_s", "at least 60, sender and encoder together on one core, 10 % loss"),
    ("rate_fps", "20000 frames a second offered to the daemon"),
    ("offered", "frames in all"),
    ("dropped", "0 dropped by the daemon's socket"),
]
NOTES = """\
- `ratio`: IP bytes both ways (all headers above Ethernet, tags, reports, acknowledgements, metadata, receipts),
  counted by iptables at the senders before any loss, over payload / (1 - p). p is the share of data packets that the
  link really took in that flight (`loss`), for the draw differs from flight to flight by more than the transports do.
  `nominal` takes the loss that was asked for.
- Up and down, packets are lost alike and independently; bursts are Gilbert-Elliott; both by iptables in the receiving
  namespace, so they are not seeded. No delay, no reordering.
- A link that is cut stays dark for 15 s, and nobody is told. What was sent into the dark is shown apart, for every
  transport, and is not in its ratio. A receiver that is killed is started again at once; all bytes count.
- A ratio in brackets is of what was sent until time was up or the sender gave up: the payload did not arrive, or (bytes
  right) it did and the sender never came to know.
- UFTP runs with its largest blocks for this MTU, unencrypted, with a restart file; cfdp-py 0.7.0 in class 2 with
  deferred lists of what is missing, the largest PDUs for this MTU, no CRC, timers of 1 s and limits of 10,000. Neither
  authenticates what it carries; Skyload's frames carry a tag of 8 bytes, and its bytes count until the signed receipt
  is down. Its satellite syncs its disk and reports five times a second."""
NOT_COVERED = """\
`one way, 99 %` is simulated with the uplink's real core: symbols sent, the metadata's among them, until the last block
can be solved, over K / (1 - p) at the nominal p, so that 99 % of the seeds suffice. A real flight without a return path
ends when the satellite has enough of every block: the bench looks on board, as nobody else could, and stops the uplink.
`surplus` are symbols that arrived after their block had enough.

Not covered: delay and jitter, other MTUs, several receivers of one stream (which UFTP is made for), UFTP's congestion
control and encryption, CFDP implementations other than cfdp-py 0.7.0, and DTN (LTP, BPv7)."""
TIME_LIMIT_FACTOR, TIME_LIMIT_S = 3.0, 30.0
ROOT = Path(__file__).resolve().parent.parent.parent
PLOT = PAGE.parent / "benchmarks-transport.svg"


def measure(options: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Run it all; returns tables and figures."""
    arguments = _arguments(options)
    reason = why_impossible()
    if not reason and shutil.which("uftp") is None:
        reason = "uftp not installed"
    if reason:
        raise SystemExit(f"transport: cannot be measured here: {reason}")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # namespaces go in any case
    directory = Path(tempfile.mkdtemp(prefix="skyb-template-"))
    try:
        template = Template(directory, int(arguments.megabytes * 1e6), seed=1)
        print(f"  payload {template.payload_bytes} bytes, {template.num_symbols} symbols", flush=True)
        cells = _fly_all(template, arguments)
        if arguments.only_flights:
            return results_table(cells), {}
        one_way = _one_way(template.bundle_sizes, arguments.seeds, arguments.checkpoint)
        offered = {} if arguments.no_speeds else offer_frames(template, 20_000, 32 if arguments.quick else 128)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    speeds = {} if arguments.no_speeds else _speeds(arguments.quick)
    figures = figures_of(cells, one_way, speeds)
    return _text(cells, one_way, speeds | offered, template, arguments), figures


def illustrate(figures: dict[str, Any]) -> str:
    """Write the plot beside docs/benchmarks.md; returns what shows it there."""
    series = {"Skyload": figures["total_ratio"], "UFTP": figures["uftp_ratio"], "cfdp-py": figures["cfdp_ratio"]}
    labels = [row.title.split(" of ")[0] for row in LOSS_ROWS]
    PLOT.write_text(ratio_plot(series, [row.key for row in LOSS_ROWS], labels, BAR))
    return f"![Bytes over the limit by loss]({PLOT.name})\n\n"


def _arguments(options: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench NAME=transport")
    parser.add_argument("--quick", action="store_true", help="once each, a small payload, few seeds")
    parser.add_argument("--megabytes", type=float, help="of the release (default: 43.6, two bundles)")
    parser.add_argument("--runs", type=int, help="of each row without trouble (default: 3)")
    parser.add_argument("--seeds", type=int, help="of the one-way simulation (default: 200)")
    parser.add_argument("--rate", type=float, default=40e6, help="bits per second (default: 40e6)")
    parser.add_argument("--checkpoint", type=Path, help="keep flights in this file, and go on from it")
    parser.add_argument("--only-flights", action="store_true", help="stop before simulation and speeds")
    parser.add_argument("--no-speeds", action="store_true", help="leave speeds out")
    parser.add_argument("--remark", default="", help="what else a reader of the result should know")
    parser.add_argument("--rows", nargs="*", help="only these")
    parser.add_argument("--only", nargs="*", help="only these transports")
    arguments = parser.parse_args(options)
    quick = arguments.quick
    arguments.megabytes = arguments.megabytes or (4.0 if quick else 43.6)
    arguments.runs = arguments.runs or (1 if quick else 3)
    arguments.seeds = arguments.seeds or (10 if quick else 200)
    return arguments


# Flights


def _fly_all(template: Template, arguments: argparse.Namespace) -> list[Cell]:
    cells = []
    rate_bps: float = arguments.rate
    for row in [*LOSS_ROWS, *TROUBLE_ROWS]:
        if arguments.rows and row.key not in arguments.rows:
            continue
        runs = arguments.runs if row in LOSS_ROWS else _runs_with_trouble(arguments)
        silent: dict[str, object] = {"link.silent": True} if row.loss.one_way else {}
        makers: dict[str, Callable[[], Peer]] = {
            "Skyload": partial(Skyload, template, rate_bps, silent),
            "UFTP": partial(Uftp, template.payload, rate_bps),
            "UFTP, default blocks": partial(Uftp, template.payload, rate_bps, BLOCK_DEFAULT),
            "cfdp-py": partial(Cfdp, template.payload, rate_bps),
            "cfdp-py, PDUs of 1280": partial(Cfdp, template.payload, rate_bps, 1280),
        }
        for name, make in makers.items():
            if arguments.only and name not in arguments.only:
                continue
            is_main = name in {"Skyload", "UFTP", "cfdp-py"}
            if not is_main and (row.key not in {"0", "0.1"} or arguments.quick):
                continue
            is_hopeless = row.loss.one_way and name != "Skyload"
            limit_s = TIME_LIMIT_S + TIME_LIMIT_FACTOR * template.payload_bytes * 8 / rate_bps / (1 - row.loss.share)
            num_runs = runs if is_main and not is_hopeless else 1
            known = _saved(arguments.checkpoint).get((row.key, name))
            if known is None:
                known = Cell(row=row, name=name, outcomes=_fly_often(make, row, name, num_runs, limit_s))
                _save(arguments.checkpoint, known)
            cells.append(known)
    return cells


def _saved(checkpoint: Path | None) -> dict[tuple[str, str], Cell]:
    if checkpoint is None or not checkpoint.exists():
        return {}
    cells: list[Cell] = pickle.loads(checkpoint.read_bytes())
    return {(cell.row.key, cell.name): cell for cell in cells}


def _save(checkpoint: Path | None, cell: Cell) -> None:
    if checkpoint is not None:
        checkpoint.write_bytes(pickle.dumps([*_saved(checkpoint).values(), cell]))


def _fly_often(make: Callable[[], Peer], row: Row, name: str, num_runs: int, limit_s: float) -> list[Outcome]:
    """Fly so often, or until it is clear that most flights do not finish: each of those takes all its time."""
    outcomes: list[Outcome] = []
    while len(outcomes) < num_runs and 2 * sum(not outcome.finished for outcome in outcomes) <= num_runs:
        outcomes.append(fly(make(), row, time_limit_s=limit_s))
        _tell(row, name, outcomes[-1])
    return outcomes


def _runs_with_trouble(arguments: argparse.Namespace) -> int:
    runs: int = arguments.runs
    return min(runs, 2)


def _tell(row: Row, name: str, outcome: Outcome) -> None:
    how = "right" if outcome.finished and outcome.right else f"finished {outcome.finished}, right {outcome.right}"
    drops = f", {outcome.socket_drops} dropped by a socket" if outcome.socket_drops else ""
    print(f"  {row.title}: {name} {outcome.ratio:.4f}, {outcome.seconds:.1f} s, {how}{drops}", flush=True)


# Without a return path


def _one_way(bundle_sizes: list[int], num_seeds: int, checkpoint: Path | None) -> dict[str, float]:
    known = checkpoint.with_suffix(".one-way.json") if checkpoint else None
    ratios: dict[str, float] = json.loads(known.read_text()) if known and known.exists() else {}
    with ProcessPoolExecutor() as pool:
        for row in LOSS_ROWS:
            if row.key in ratios:
                continue
            fly_seed = partial(one_flight, bundle_sizes, SYMBOL_SIZE, row.loss)
            # Without loss all seeds are alike.
            seeds = range(num_seeds if row.loss.share else 5)
            ratios[row.key] = round(worst_of_99_percent(pool.map(fly_seed, seeds, chunksize=5)), 4)
            print(f"  {row.title}: one way, 99 % of {len(seeds)} seeds: {ratios[row.key]:.4f}", flush=True)
            if known:
                known.write_text(json.dumps(ratios))
    return ratios


# Speeds


def _speeds(quick: bool) -> dict[str, float]:
    mebibytes, runs = ("16", 1) if quick else ("128", 3)
    receiver = [_last_line("bench.receiver_speed", "--mib", mebibytes) for _ in range(runs)]
    sender = [_last_line("bench.transport.sender_speed", "--mib", mebibytes) for _ in range(runs)]
    figures = {name: [one[name] for one in receiver] for name in ("receiver_mb_s", "receiver_rss_mb")}
    figures["sender_mb_s"] = [one["sender_mb_s"] for one in sender]
    return {name: round(statistics.median(values), 1) for name, values in figures.items()}


def _last_line(module: str, *options: str) -> dict[str, float]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", module, *options]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


# Results


def figures_of(cells: Sequence[Cell], one_way: dict[str, float], speeds: dict[str, float]) -> dict[str, Any]:
    """What the measurement ends with."""
    symbols = {cell.row.key: cell.symbol_ratio for cell in cells if cell.name == "Skyload"}
    return {
        "total_ratio": ratios_of(cells, "Skyload", LOSS_ROWS),
        "symbol_ratio": {row.key: symbols.get(row.key) for row in LOSS_ROWS},
        "one_way_ratio": {row.key: one_way.get(row.key) for row in LOSS_ROWS},
        "uftp_ratio": ratios_of(cells, "UFTP", LOSS_ROWS),
        "cfdp_ratio": ratios_of(cells, "cfdp-py", LOSS_ROWS),
        **{name: speeds.get(name) for name in ("receiver_mb_s", "receiver_rss_mb", "sender_mb_s")},
    }


def _text(
    cells: Sequence[Cell],
    one_way: dict[str, float],
    speeds: dict[str, float],
    template: Template,
    arguments: argparse.Namespace,
) -> str:
    head = (
        f"One payload of {template.payload_bytes / 1e6:.1f} MB at {arguments.rate / 1e6:g} Mbit/s; median of "
        f"{arguments.runs} flights, in rows with trouble of {_runs_with_trouble(arguments)}. `ratio` is the bar. "
        f"{arguments.remark}"
    ).rstrip()
    parts = [head, results_table(cells), NOTES, symbols_table(cells, "Skyload", one_way)]
    if speeds:
        parts.append(markdown_table(["speed", "value", "bar"], [[name, speeds.get(name), bar] for name, bar in SPEEDS]))
    return "\n\n".join([*parts, NOT_COVERED])
