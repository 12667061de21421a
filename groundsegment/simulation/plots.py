"""Pictures of a mission, PNG and SVG: what each contact brought, schemes compared, loss believed and true.

matplotlib draws them; it is imported here alone, and an installation without it does everything else. Colours are
those of Okabe and Ito, which colour-blind people can tell apart; no meaning is in colour alone.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from groundsegment.errors import InputError
from groundsegment.planner.quantities import format_bytes
from groundsegment.simulation.flying import Comparison
from groundsegment.simulation.palette import BLACK, BLUE, GREEN, ORANGE, PURPLE, percent, percent_fine, scale_words
from groundsegment.simulation.records import ContactRow, MissionResult
from groundsegment.simulation.scenario import Scenario
from groundsegment.simulation.scheme_plot import draw_schemes

_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.edgecolor": "#666666",
    "legend.frameon": False,
    "svg.hashsalt": "skyload",
    "figure.dpi": 100,
}
_SIZE = (9.6, 4.6)
_DPI = 150
_SHARE_MAX = 1.08
_FRAMES_MIN = 200  # of a contact: the loss of fewer is noise


def check_plots() -> None:
    """Find out at once whether pictures can be made.

    Raises:
        InputError: matplotlib is not installed.
    """
    try:
        import matplotlib as drawing
    except ImportError:
        raise InputError(
            "--plot needs matplotlib, which is not installed", hint="pip install 'skyload[plots]', or leave --plot out"
        ) from None
    drawing.use("agg")


def save_plots(scenario: Scenario, comparison: Comparison, directory: Path) -> list[Path]:
    """Draw all pictures into a directory; returns their paths."""
    import matplotlib.pyplot as plt

    check_plots()
    directory.mkdir(parents=True, exist_ok=True)
    mission = comparison.mission
    drawn: list[tuple[str, Callable[[Any], None]]] = [
        ("contacts", lambda axes: _draw_contacts(axes, scenario, mission))
    ]
    if comparison.schemes:
        drawn.append(("schemes", lambda axes: draw_schemes(axes, scenario, comparison.schemes)))
    drawn.append(("loss", lambda axes: _draw_loss(axes, scenario, mission)))
    paths = []
    with plt.rc_context(cast(Any, _STYLE)):
        for name, draw in drawn:
            figure, axes = plt.subplots(figsize=_SIZE, layout="constrained")
            draw(axes)
            for suffix in ("png", "svg"):
                path = directory / f"{scenario.name}-{name}.{suffix}"
                metadata = {"Date": None} if suffix == "svg" else {"Software": None}
                figure.savefig(path, dpi=_DPI, metadata=metadata)
                paths.append(path)
            plt.close(figure)
    return paths


def _draw_contacts(axes: Any, scenario: Scenario, mission: MissionResult) -> None:  # noqa: ANN401 - matplotlib
    rows = [row for row in mission.contacts if row.symbols_sent]
    at = [row.number for row in rows]
    unit = 1e6 / scenario.symbol_size
    useful, lost, surplus = (
        [getattr(row, name) / unit for row in rows] for name in ("symbols_useful", "symbols_lost", "symbols_surplus")
    )
    axes.bar(at, useful, 0.82, color=BLUE, label="useful")
    axes.bar(at, lost, 0.82, bottom=useful, color=ORANGE, label="lost on the link", hatch="////", edgecolor="white")
    stacked = [a + b for a, b in zip(useful, lost, strict=True)]
    axes.bar(at, surplus, 0.82, bottom=stacked, color=BLACK, label="surplus")
    axes.set_xlabel("contact")
    axes.set_ylabel("sent in the contact, MB of symbols")
    axes.set_xlim(0.3, (at[-1] if at else 0) + 0.7)
    axes.set_ylim(0, 1.08 * max((a + b for a, b in zip(stacked, surplus, strict=True)), default=1.0))
    _whole_ticks(axes)
    share = axes.twinx()
    share.plot([0.5, *(n + 0.41 for n in at)], [0.0, *(row.share_done for row in rows)], color=GREEN, linewidth=2.2)
    share.lines[0].set_path_effects(_outlined())
    share.set_ylim(0, _SHARE_MAX)
    share.set_ylabel("on board, share of the payload", color=GREEN)
    share.yaxis.set_major_formatter(percent)
    share.spines["right"].set_visible(True)
    share.spines["right"].set_color(GREEN)
    share.tick_params(axis="y", colors=GREEN)
    share.grid(visible=False)
    _mark_updates(share, rows, mission)
    line = share.lines[0]
    line.set_label("on board (right axis)")
    handles, labels = axes.get_legend_handles_labels()
    axes.legend([*handles, line], [*labels, line.get_label()], **_above(4))
    days = (rows[-1].start_s if rows else 0.0) / 86_400
    axes.set_title(
        f"{scenario.name}: {format_bytes(mission.payload_bytes)} in {mission.num_contacts} contacts, {days:.1f} days"
        f"{scale_words(scenario)}",
        pad=30,
    )


def _mark_updates(share: Any, rows: Sequence[ContactRow], mission: MissionResult) -> None:  # noqa: ANN401
    """Where there are several updates: in which contact each of them was whole."""
    ended = [(row.start_s + row.duration_s, row.number + 0.41, row.share_done) for row in rows]
    for update in mission.updates if len(mission.updates) > 1 else ():
        when = update.on_board_s
        if when is None or not ended:
            continue
        place = next(((x, y) for end_s, x, y in ended if end_s >= when), ended[-1][1:])
        share.plot(*place, marker="o", markersize=7, color=GREEN, markeredgecolor="white", zorder=5, clip_on=False)
        words = share.annotate(
            f"{update.name} is on board",
            place,
            xytext=(-8, 5),
            textcoords="offset points",
            ha="right",
            color=GREEN,
            fontweight="bold",
            gid=f"on-board-{update.name}",  # in an SVG outlined letters are shapes, and nothing says what they mean
        )
        words.set_path_effects(_outlined())


def _draw_loss(axes: Any, scenario: Scenario, mission: MissionResult) -> None:  # noqa: ANN401
    names = list(dict.fromkeys(row.station for row in mission.contacts))
    rows = [row for row in mission.contacts if row.loss_true is not None and row.frames_sent > _FRAMES_MIN]
    colours = (BLUE, ORANGE, GREEN, PURPLE)
    for number, name in enumerate(names):
        own = [row for row in rows if row.station == name]
        _draw_station(axes, own, name if len(names) > 1 else "", colours[number % len(colours)])
    top = max((max(row.loss_true or 0.0, row.loss_estimated + 2 * row.loss_deviation) for row in rows), default=0.1)
    axes.set_ylim(0, top * 1.15)
    axes.set_xlim(0.3, max((row.number for row in rows), default=0) + 0.7)
    axes.set_xlabel("contact")
    axes.set_ylabel("frames lost")
    axes.yaxis.set_major_formatter(percent_fine)
    _whole_ticks(axes)
    handles, labels = axes.get_legend_handles_labels()
    order = sorted(
        range(len(labels)), key=lambda at: (names.index(labels[at].partition(":")[0]) if len(names) > 1 else 0, at)
    )
    axes.legend([handles[at] for at in order], [labels[at] for at in order], **_above(max(2, len(names))))
    title = f"{scenario.name}: what the sender believed of the link, and what was{scale_words(scenario)}"
    axes.set_title(title, pad=30 if len(names) == 1 else 44)


def _draw_station(axes: Any, own: Sequence[ContactRow], name: str, colour: str) -> None:  # noqa: ANN401
    at = [row.number for row in own]  # as the table and the other picture have it
    axes.errorbar(
        at,
        [row.loss_estimated for row in own],
        yerr=[2 * row.loss_deviation for row in own],
        fmt="o",
        markersize=4.5,
        color=colour,
        elinewidth=1.4,
        capsize=2.5,
        label=f"{name}: believed" if name else "believed at the contact's end, ± 2 deviations",
    )
    axes.plot(
        at,
        [row.loss_true for row in own],
        linestyle="none",
        marker="_",
        markersize=11,
        markeredgewidth=2.0,
        color=colour if name else ORANGE,
        label=f"{name}: true" if name else "true, of that contact's frames",
    )


def _above(columns: int) -> dict[str, Any]:
    return {
        "loc": "lower left",
        "bbox_to_anchor": (-0.01, 1.0),
        "ncols": columns,
        "borderaxespad": 0.3,
        "columnspacing": 1.6,
    }


def _whole_ticks(axes: Any) -> None:  # noqa: ANN401
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _outlined() -> list[Any]:
    from matplotlib.patheffects import Normal, Stroke

    return [Stroke(linewidth=4.6, foreground="white"), Normal()]
