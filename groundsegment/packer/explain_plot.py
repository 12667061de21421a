"""The picture of `stage --explain-plot`: bytes to send by layer and use, and what share of the raw bytes they are.

What lies outside the layers has an axis of its own: an embedding would make layers too small to see. PNG or SVG, as the
file's name ends. matplotlib draws; an installation without it does everything else.
"""

from pathlib import Path
from typing import Any, cast

from groundsegment.errors import InputError
from groundsegment.packer.explain import Explanation, Use
from groundsegment.planner.quantities import format_bytes
from groundsegment.simulation.palette import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY, percent_fine

_COLOURS = {
    Use.EMBEDDING: PURPLE,
    Use.ATTENTION: BLUE,
    Use.MLP: ORANGE,
    Use.EXPERTS: GREEN,
    Use.NORM: BLACK,
    Use.ADAPTER: RED,
    Use.OTHER: SKY,
    Use.FILES: GREY,
}
_HATCHES = {Use.ATTENTION: "//", Use.EXPERTS: "..", Use.EMBEDDING: "xx"}  # no meaning in colour alone
_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "hatch.linewidth": 0.4,
    "legend.frameon": False,
    "svg.hashsalt": "skyload",
}
_SUFFIXES = (".png", ".svg")
_SIZE, _DPI = (10.5, 6.0), 150
_COLUMNS_MIN = 3  # a bar is no wider than a third

_Columns = list[list[tuple[int | None, Use]]]
_Sums = dict[tuple[int | None, Use], tuple[int, int]]


def check_plot(path: Path) -> None:
    """Find out at once whether the picture can be made.

    Raises:
        InputError: matplotlib is not installed, or the file's name ends otherwise.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise InputError(f"--explain-plot: {path} is neither PNG nor SVG", hint="end its name in .png or .svg")
    try:
        import matplotlib as drawing
    except ImportError:
        hint = "pip install 'skyload[plots]', or leave --explain-plot out"
        raise InputError("--explain-plot needs matplotlib, which is not installed", hint=hint) from None
    drawing.use("agg")


def save_plot(explanation: Explanation, path: Path, *, title: str) -> None:
    """Draw the picture."""
    import matplotlib.pyplot as plt

    check_plot(path)
    sums = _sums(explanation)
    layers = sorted({layer for layer, _ in sums if layer is not None})
    with plt.rc_context(cast(Any, _STYLE)):
        figure, axes = plt.subplots(
            2,
            2 if layers else 1,
            figsize=_SIZE,
            layout="constrained",
            squeeze=False,
            sharex="col",
            gridspec_kw={"height_ratios": (3, 1.3), "width_ratios": (1, 3.2) if layers else (1,)},
        )
        outside = [use for use in Use if (None, use) in sums]
        _draw(axes[:, 0], [[(None, use)] for use in outside], sums, [str(use).replace(" ", "\n") for use in outside])
        axes[0][0].set_title("outside the layers")
        if layers:
            keys: _Columns = [[(layer, use) for use in Use if (layer, use) in sums] for layer in layers]
            _draw(axes[:, 1], keys, sums, [str(layer) for layer in layers])
            axes[0][1].set_title("layers")
            axes[1][1].set_xlabel("layer")
            axes[1][1].sharey(axes[1][0])
            axes[1][0].autoscale(axis="y")
        _add_legend(figure, {use for _, use in sums})
        figure.suptitle(title, fontweight="bold", x=0.01, ha="left")
        metadata = {"Date": None} if path.suffix.lower() == ".svg" else {"Software": None}
        figure.savefig(path, dpi=_DPI, metadata=metadata)
        plt.close(figure)


def _sums(explanation: Explanation) -> _Sums:
    sums: _Sums = {}
    for line in explanation.lines:
        raw, coded = sums.get((line.layer, line.use), (0, 0))
        sums[line.layer, line.use] = (raw + line.raw_bytes, coded + line.coded_bytes)
    return sums


def _draw(axes: Any, columns: _Columns, sums: _Sums, names: list[str]) -> None:  # noqa: ANN401
    sizes, shares = axes
    for at, keys in enumerate(columns):
        bottom = 0
        for key in keys:
            coded, use = sums[key][1], key[1]
            sizes.bar(
                at, coded, bottom=bottom, color=_COLOURS[use], hatch=_HATCHES.get(use), edgecolor="white", linewidth=0.4
            )
            bottom += coded
        raw = sum(sums[key][0] for key in keys)
        shares.bar(at, bottom / max(1, raw), color=GREY)
    middle, half = (len(names) - 1) / 2, max(len(names), _COLUMNS_MIN) / 2 + 0.2
    shares.set_xlim(middle - half, middle + half)
    step = max(1, len(names) // 16)
    shares.set_xticks(range(0, len(names), step), names[::step], fontsize=8)
    sizes.yaxis.set_major_formatter(lambda value, _: format_bytes(value))
    shares.yaxis.set_major_formatter(percent_fine)
    sizes.set_ylabel("to send")
    shares.set_ylabel("of raw")


def _add_legend(figure: Any, uses: set[Use]) -> None:  # noqa: ANN401 - matplotlib
    from matplotlib.patches import Patch

    handles = [
        Patch(facecolor=_COLOURS[use], hatch=_HATCHES.get(use), edgecolor="white", label=str(use))
        for use in Use
        if use in uses
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=9)
