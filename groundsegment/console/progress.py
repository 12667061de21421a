"""How much of an update is on board, as the depot knows it: for `status` and `plan`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from groundsegment.depot.depot import Depot
    from groundsegment.depot.records import Update


@dataclass(frozen=True, slots=True, kw_only=True)
class OnBoard:
    """Blocks and symbols of the bundles of one update, over all stations.

    Attributes:
        blocks: in all; blocks_begun: of them, those that anything was sent or heard of; blocks_solved: of them.
        symbols: source symbols in all; symbols_there: of them, on board or no longer needed.
    """

    blocks: int
    blocks_begun: int
    blocks_solved: int
    symbols: int
    symbols_there: int

    @property
    def share(self) -> float:
        """How much of it is there, 0..1."""
        return self.symbols_there / max(1, self.symbols)


def on_board(depot: "Depot", entry: "Update") -> OnBoard:
    """What is known to be there of an update, whoever told which blocks of it.

    All of it, once the satellite has it complete; nothing, once it is forgotten.
    """
    from groundsegment.depot.records import FlightState
    from protocol.blocks import block_layout, symbols_needed
    from protocol.report import SOLVED

    is_there = entry.state in {FlightState.COMPLETE, FlightState.CONFIRMED}
    is_gone = entry.is_forgotten_on_board
    reported = _bundles_reported(depot, entry)
    known = {} if is_gone else depot.journal.on_board(entry.satellite)
    blocks = begun = solved = symbols = there = 0
    for bundle in depot.bundles(entry.handle):
        layout = block_layout(symbols_needed(bundle.size_bytes, entry.symbol_size), entry.symbol_size)
        blocks, symbols = blocks + layout.num_blocks, symbols + layout.num_symbols
        is_whole = is_there or bundle.number in reported
        for number in range(layout.num_blocks):
            have = SOLVED if is_whole and not is_gone else known.get((bundle.handle, number))
            needed = layout.symbols_of(number)
            begun, solved = begun + (have is not None), solved + (have == SOLVED)
            there += min(have or 0, needed)
    return OnBoard(blocks=blocks, blocks_begun=begun, blocks_solved=solved, symbols=symbols, symbols_there=there)


def _bundles_reported(depot: "Depot", entry: "Update") -> set[int]:
    """Bundles of an open update that the newest report calls whole; one that was brought by hand has no blocks here."""
    received = depot.journal.last_report(entry.satellite) if entry.state.is_open else None
    status = None if received is None else received.report.status_of(entry.handle)
    ranges = () if status is None else status.bundle_ranges
    return {number for low, high in ranges for number in range(low, high + 1)}
