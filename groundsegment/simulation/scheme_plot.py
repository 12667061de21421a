"""The picture of schemes side by side: what is missing after each contact, and what each of them costs."""

from collections.abc import Sequence
from typing import Any

from groundsegment.simulation.palette import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    percent_fine,
    scale_words,
)
from groundsegment.simulation.scenario import Scenario
from groundsegment.simulation.schemes import SchemeResult

_WIDE = (11.6, 4.9)
_LABEL = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
_LEAST = 1e-5  # of the payload: below it there is nothing to see
_FAR = 2.0  # times the best: what takes longer is cut off, and its number said
_COLOURS = {
    "skyload": (BLUE, "-", 2.6),
    "skyload, one-way": (SKY, "-", 2.6),
    "bitmap-rounds": (GREEN, "--", 1.8),
    "nak-per-pass": (ORANGE, "-.", 1.8),
    "fixed-rate +20%": (PURPLE, (0, (1, 1)), 1.8),
    "fixed-rate +50%": (RED, (0, (4, 1, 1, 1, 1, 1)), 1.8),
    "carousel": (GREY, ":", 1.8),
}


def draw_schemes(axes: Any, scenario: Scenario, schemes: Sequence[SchemeResult]) -> None:  # noqa: ANN401
    """What is missing over the contacts, logarithmic, for all go alike until the end; beside it what each one costs."""
    import matplotlib.pyplot as plt

    figure = axes.figure
    figure.set_size_inches(*_WIDE)
    axes.remove()
    left, right = figure.subplots(1, 2, gridspec_kw={"width_ratios": [1.0, 1.0]})
    _draw_missing(left, schemes)
    _draw_cost(right, schemes)
    figure.suptitle(
        f"{scenario.name}: the same contacts and losses, other schemes{scale_words(scenario)}",
        x=0.01,
        ha="left",
        fontsize=plt.rcParams["axes.titlesize"],
        fontweight="bold",
    )


def _draw_missing(axes: Any, schemes: Sequence[SchemeResult]) -> None:  # noqa: ANN401
    needed = [scheme.num_contacts for scheme in schemes if scheme.num_contacts is not None]
    last = max([count for count in needed if count <= _FAR * min(needed)], default=10)
    for scheme in reversed(schemes):
        colour, style, width = _COLOURS.get(scheme.name, (BLACK, "-", 1.5))
        missing = [1.0, *(max(1 - share, _LEAST) for share in scheme.shares)]
        axes.plot(range(len(missing)), missing, color=colour, linestyle=style, linewidth=width)
        if scheme.num_contacts is not None and scheme.num_contacts <= last:
            axes.plot([scheme.num_contacts], [_LEAST], marker="o", color=colour, markersize=7, clip_on=False, zorder=5)
    axes.set_yscale("log")
    axes.set_ylim(_LEAST, 1.0)
    axes.set_xlim(0, last * 1.06)
    axes.set_xlabel("contacts used")
    axes.set_ylabel("still missing, share of the payload (log)")
    axes.yaxis.set_major_formatter(percent_fine)
    axes.yaxis.set_minor_locator(_no_ticks())


def _draw_cost(axes: Any, schemes: Sequence[SchemeResult]) -> None:  # noqa: ANN401
    finished = [scheme.limit_ratio for scheme in schemes if scheme.num_contacts is not None]
    top = max([ratio for ratio in finished if ratio <= _FAR] or [_FAR]) * 1.12
    for at, scheme in enumerate(schemes):
        colour, style, width = _COLOURS.get(scheme.name, (BLACK, "-", 1.5))
        length = min(scheme.limit_ratio, top)
        axes.barh(at, length, 0.34, color=colour)
        axes.plot([0, 0.14 * top], [at - 0.36, at - 0.36], color=colour, linestyle=style, linewidth=width)
        done = "not done" if scheme.num_contacts is None else f"{scheme.num_contacts} contacts"
        words = f"{scheme.name}{'' if scheme.is_measured else ' (model)'}"
        text = f"{words}: {scheme.limit_ratio:.3f} x, {done}"
        axes.text(0.16 * top, at - 0.36, text, va="center", bbox=_LABEL).set_in_layout(False)
    axes.axvline(1.0, color=BLACK, linewidth=1.0, linestyle=(0, (3, 3)), zorder=0.5)
    axes.set_xlim(0, top)
    axes.set_ylim(len(schemes) - 0.6, -0.75)
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("x limit: frames that arrived until all was there / frames needed")


def _no_ticks() -> Any:  # noqa: ANN401
    from matplotlib.ticker import NullLocator

    return NullLocator()
