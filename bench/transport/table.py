"""The table, the figures and the plot of many flights."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench.results import markdown_table
from bench.transport.flight import Outcome, Row

HEAD = ["link", "transport", "finished", "bytes right", "up, MB", "down, kB", "ratio", "nominal", "loss", "time, s"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """All flights of one transport in one row.

    Attributes:
        row: what they had to live through.
        name: of the transport.
        outcomes: in the order flown.
    """

    row: Row
    name: str
    outcomes: Sequence[Outcome]

    @property
    def good(self) -> list[Outcome]:
        """Flights that finished with every byte right."""
        return [outcome for outcome in self.outcomes if outcome.finished and outcome.right]

    @property
    def finishes(self) -> bool:
        """Whether more flights finished than not."""
        return 2 * len(self.good) > len(self.outcomes)

    @property
    def ratio(self) -> float | None:
        """Median of all IP bytes over the erasure limit; None if it does not finish."""
        return round(statistics.median(outcome.ratio for outcome in self.good), 4) if self.finishes else None

    @property
    def symbol_ratio(self) -> float | None:
        """Median of data packets that arrived over source symbols; None if it does not finish, or has no symbols."""
        ratios = [outcome.symbol_ratio for outcome in self.good if outcome.symbol_ratio is not None]
        return round(statistics.median(ratios), 4) if self.finishes and ratios else None


def ratios_of(cells: Iterable[Cell], name: str, rows: Iterable[Row]) -> dict[str, float | None]:
    """The ratios of one transport, by the key of the row."""
    found = {cell.row.key: cell.ratio for cell in cells if cell.name == name}
    return {row.key: found.get(row.key) for row in rows}


def results_table(cells: Sequence[Cell]) -> str:
    """What happened, one line for each transport in each row."""
    lines = []
    for cell in cells:
        # What did not finish is shown by what it had sent when time was up or it gave up.
        shown = cell.good if cell.finishes else list(cell.outcomes)

        def middle(values: Iterable[float]) -> float:
            return statistics.median(values)

        dark = middle(outcome.up.dark.size_bytes for outcome in shown) / 1e6
        up = f"{middle(outcome.up.used.size_bytes for outcome in shown) / 1e6:.3f}"
        ratio = f"{middle(outcome.ratio for outcome in shown):.4f}"
        lines.append(
            [
                cell.row.title,
                cell.name,
                f"{len(cell.good)} of {len(cell.outcomes)}",
                f"{sum(outcome.right for outcome in cell.outcomes)} of {len(cell.outcomes)}",
                f"{up} (+ {dark:.1f} into the dark)" if dark else up,
                f"{middle(outcome.down.used.size_bytes for outcome in shown) / 1e3:.1f}",
                ratio if cell.finishes else f"({ratio})",
                f"{middle(outcome.nominal_ratio for outcome in shown):.4f}",
                f"{middle(outcome.loss for outcome in shown):.4f}",
                f"{middle(outcome.seconds for outcome in shown):.1f}",
            ]
        )
    return markdown_table(HEAD, lines)


def symbols_table(cells: Sequence[Cell], name: str, one_way: Mapping[str, float]) -> str:
    """Where the bytes of our own transport go."""
    head = ["link", "symbols over K / (1 - p)", "one way, 99 %", "beside symbols up, kB", "reports down, kB", "surplus"]
    lines = []
    for cell in cells:
        if cell.name != name or not cell.finishes:
            continue

        def middle(values: Iterable[float]) -> float:
            return statistics.median(values)

        small = middle((outcome.up.used - outcome.up.large).size_bytes for outcome in cell.good)
        lines.append(
            [
                cell.row.title,
                f"{cell.symbol_ratio:.4f}",
                f"{one_way[cell.row.key]:.4f}" if cell.row.key in one_way else "",
                f"{small / 1e3:.1f}",
                f"{middle(outcome.down.used.size_bytes for outcome in cell.good) / 1e3:.1f}",
                f"{middle(outcome.figures.get('surplus', 0) for outcome in cell.good):.0f}",
            ]
        )
    return markdown_table(head, lines)
