"""A picture of bytes against quality. matplotlib draws it; it is imported here alone.

Colours are those of Okabe and Ito, which colour-blind people can tell apart; markers say the same again.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from groundsegment.errors import InputError
from groundsegment.requantize.report import Point, Report

_BLUE, _ORANGE, _GREEN, _GREY = "#0072B2", "#D55E00", "#009E73", "#666666"
_DPI = 150


def check_plots() -> None:
    """Find out at once whether a picture can be made.

    Raises:
        InputError: matplotlib is not installed.
    """
    try:
        import matplotlib as drawing
    except ImportError:
        hint = "pip install 'skyload[plots]', or leave --curve out"
        raise InputError("--curve needs matplotlib, which is not installed", hint=hint) from None
    drawing.use("agg")


def save_curve(report: Report, path: Path) -> None:
    """Draw perplexity and divergence over the delta's size.

    Raises:
        InputError: the name ends in nothing that can be drawn.
    """
    if path.suffix.lower() not in {".png", ".svg", ".pdf"}:
        raise InputError(f"{path}: neither .png, .svg nor .pdf", hint="name the picture curve.png")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 4.2), layout="constrained")
    _draw(left, report, [point.perplexity for point in _points(report)])
    left.axhline(report.new_perplexity, color=_GREY, linestyle=":", linewidth=1)
    left.annotate("new model, not quantized", (0, report.new_perplexity), fontsize=8, color=_GREY, va="bottom")
    left.set_ylabel("perplexity, held-out text")
    _draw(right, report, [point.divergence for point in _points(report)])
    right.set_ylabel("divergence from the new model, nats a token")
    right.legend(frameon=False, fontsize=8)
    figure.suptitle(f"{report.format}: what a delta carries", x=0.01, ha="left", fontweight="bold")
    figure.savefig(path, dpi=_DPI)
    plt.close(figure)


def _points(report: Report) -> Sequence[Point]:
    return [report.nothing, report.naive, report.gptq, report.fresh, *report.curve]


def _draw(axes: Any, report: Report, values: Sequence[float]) -> None:  # noqa: ANN401 - matplotlib has no types
    sizes = [point.delta_bytes / 1e6 for point in _points(report)]
    axes.plot(sizes[:1] + sizes[4:], [*values[:1], *values[4:]], "o-", color=_BLUE, label="update-aware", markersize=4)
    axes.plot(sizes[1], values[1], "s", color=_ORANGE, label="rounded to nearest")
    axes.plot(sizes[2], values[2], "^", color=_GREY, label="GPTQ afresh")
    axes.plot(sizes[3], values[3], "D", color=_GREEN, label="GPTQ afresh, polished")
    axes.axhline(values[3], color=_GREEN, linestyle="--", linewidth=0.8)
    axes.set_xlabel("delta to what is on board, MB")
    axes.set_xlim(left=-0.02 * max(sizes))
    axes.grid(color="#E3E3E3", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
