"""The picture of the codec's result: how far each is above the bound, row by row."""

from collections.abc import Sequence
from math import nan
from pathlib import Path

from bench.codec.rows import Row

_OURS, _PEER, _BOUND = "#0b6e4f", "#c1440e", "#222222"


def draw(full: Sequence[Row], delta: Sequence[Row], path: Path) -> None:
    """Write PATH.svg and PATH.png: size over raw bytes of bound, ours and the best peer; deltas on a log scale."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    # The same SVG from the same figures: no date, no random names in it.
    mpl.rcParams["svg.hashsalt"] = "skyload"
    height = 1.6 + 0.34 * max(len(full), len(delta))
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, height), layout="constrained")
    for axes, rows, title in ((left, full, "Whole"), (right, delta, "Delta to the model on board")):
        places = range(len(rows))
        for place, row in zip(places, rows, strict=True):
            sizes = [size / row.raw * 100 for size in (row.bound, row.ours, row.best) if size]
            axes.plot([min(sizes), max(sizes)], [place, place], color="#cccccc", linewidth=2, zorder=1)
        for name, colour, marker, values in (
            ("best peer", _PEER, "s", [row.best / row.raw * 100 if row.best else nan for row in rows]),
            ("Skyload", _OURS, "o", [row.ours / row.raw * 100 for row in rows]),
            ("bound", _BOUND, "|", [row.bound / row.raw * 100 for row in rows]),
        ):
            axes.scatter(
                values, places, color=colour, marker=marker, s=110 if marker == "|" else 42, label=name, zorder=3
            )
        axes.set_yticks(list(places), [row.key for row in rows])
        axes.invert_yaxis()
        axes.set_title(title, loc="left", fontweight="bold")
        axes.set_xlabel("% of the raw bytes")
        axes.grid(axis="x", color="#e4e4e4")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    right.set_xscale("log")
    right.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    right.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if str(value).strip("0.")[:1] in "25" else "")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    figure.savefig(path.with_suffix(".png"), dpi=110, metadata={"Software": None})
    pyplot.close(figure)
