"""What `skyload simulate` says: the list of scenarios, one line for each contact, the summary, and JSON."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from groundsegment.console.output import err, out, print_json

if TYPE_CHECKING:
    from groundsegment.simulation.flying import Comparison
    from groundsegment.simulation.records import ContactRow
    from groundsegment.simulation.scenario import Scenario
    from groundsegment.simulation.schemes import SchemeResult


def print_list(*, as_json: bool) -> None:
    """Name the shipped scenarios."""
    from groundsegment.simulation.scenario_file import load_scenario, scenario_names

    found = [load_scenario(name) for name in scenario_names()]
    if as_json:
        print_json([{"name": one.name, "description": one.description, "scale": one.scale} for one in found])
        return
    for one in found:
        out.print(f"{one.name:<16} {one.description} (at 1/{one.scale:g} unless --full)", markup=False)


def print_head(scenario: "Scenario", *, is_compared: bool) -> None:
    """Say what is about to be flown."""
    from groundsegment.planner.quantities import format_bytes, format_count

    scale = f", at 1/{scenario.scale:g} of its size" if scenario.scale > 1 else ""
    stations = ", ".join(link.name for link in scenario.links if link.name)
    err.print(
        f"{scenario.name}: {format_bytes(scenario.payload_bytes)} in {format_count(len(scenario.updates), 'update')}"
        f"{f' through {stations}' if stations else ''}{scale}, seed {scenario.seed}"
        f"{'; beside it other schemes' if is_compared else ''}",
        markup=False,
    )


class Table:
    """One line for each contact, as they end."""

    def __init__(self) -> None:
        self._is_begun = False

    def row(self, row: "ContactRow") -> None:
        """A contact is over."""
        from groundsegment.planner.quantities import format_bytes

        if not self._is_begun:
            self._is_begun = True
            out.print(
                "   #  start        lasts  station      frames    lost   useful  surplus      bytes  on board"
                "   loss true  believed",
                markup=False,
            )
        true = "-" if row.loss_true is None else f"{row.loss_true:.2%}"
        out.print(
            f"{row.number:>4}  {_clock(row.start_s)}  {row.duration_s:>7.1f}  {row.station[:10] or '-':<10}"
            f"  {row.frames_sent:>7}  {row.frames_lost:>6}  {row.symbols_useful:>7}  {row.symbols_surplus:>7}"
            f"  {format_bytes(row.bytes_sent):>9}  {row.share_done:>8.2%}  {true:>10}"
            f"  {row.loss_estimated:.2%} ±{row.loss_deviation:.2%}",
            markup=False,
        )


def tell_nothing(_: "ContactRow") -> None:
    """Show no progress."""


def _clock(seconds: float) -> str:
    minutes = int(seconds // 60)
    return f"{minutes // 1440:>2}d {minutes // 60 % 24:02}:{minutes % 60:02}"


def print_summary(comparison: "Comparison", paths: list[Path]) -> None:
    """Say what came of it."""
    from groundsegment.planner.quantities import format_bytes, format_count, format_duration

    mission = comparison.mission
    totals = mission.totals
    for update in mission.updates:
        when = "not on board" if update.on_board_s is None else f"on board at {_clock(update.on_board_s).strip()}"
        known = "" if update.is_known or update.on_board_s is None else "; the ground does not know"
        out.print(f"{update.name}: {format_bytes(update.payload_bytes)}, {when}{known}", markup=False)
    if mission.complete_s is not None:
        contacts = format_count(mission.num_contacts, "contact")
        out.print(f"complete in {contacts}, {format_duration(mission.complete_s)}", markup=False)
    out.print(
        f"{format_bytes(totals.bytes_sent)} on the link: {mission.link_ratio:.4f} x payload / (1 - loss), all headers;"
        f" symbols {mission.symbol_ratio:.4f} x their limit",
        markup=False,
    )
    if totals.num_kills:
        out.print(
            f"{totals.num_kills} kills: {totals.symbols_cut} symbols lost with the power and sent anew,"
            f" {totals.symbols_repeated} symbols sent twice",
            markup=False,
        )
    out.print(f"wrong bytes: {mission.wrong_bytes}; simulated in {mission.wall_s:.1f} s", markup=False)
    if comparison.schemes:
        _print_schemes(comparison.schemes)
    for path in paths:
        err.print(f"wrote {path}", markup=False)


def _print_schemes(schemes: "tuple[SchemeResult, ...]") -> None:
    out.print("\nscheme              contacts     frames  x limit", markup=False)
    for scheme in schemes:
        contacts = "never" if scheme.num_contacts is None else str(scheme.num_contacts)
        model = "" if scheme.is_measured else "   (model, in its favour)"
        out.print(
            f"{scheme.name:<18}  {contacts:>8}  {scheme.frames_sent:>9}  {scheme.limit_ratio:>7.4f}{model}",
            markup=False,
        )


def as_json_of(scenario: "Scenario", comparison: "Comparison", paths: list[Path]) -> dict[str, Any]:
    """All of it for a script."""
    return {
        "scenario": scenario.name,
        "scale": scenario.scale,
        "seed": scenario.seed,
        "mission": comparison.mission.as_json(),
        "one_way": None if comparison.one_way is None else comparison.one_way.as_json(),
        "schemes": [
            {
                "name": scheme.name,
                "num_contacts": scheme.num_contacts,
                "frames_sent": scheme.frames_sent,
                "limit_ratio": round(scheme.limit_ratio, 5),
                "is_measured": scheme.is_measured,
                "shares": [round(share, 5) for share in scheme.shares],
            }
            for scheme in comparison.schemes
        ],
        "plots": [str(path) for path in paths],
    }
