"""What update-aware quantization is worth: the curves of bench/codec/curves.py as figures, table and picture.

Held against what one would send without it, as a delta by the same packer: int8 rounded to nearest, int4 calibrated by
GPTQ; and against every other fresh release that is clearly better than that, by its name: GPTQ polished by the same
descent that makes our releases. Bytes are the packer's.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.codec.curves import CASES, Case, load
from bench.results import markdown_table

LOSSES = {0.005: 0.5, 0.01: 0.4}  # of perplexity, and the share of the fresh delta that may be sent for it
_AS_GOOD = 0.002  # perplexities closer than this do not tell two releases apart
_OURS, _FRESH, _FLOAT = "#0b6e4f", "#c1440e", "#222222"
_WORST_SHOWN = 1.25  # of the reference's perplexity; what is above is in the table
_MARKERS = {"rounded": "s", "gptq": "^", "gptq, polished": "D"}

Point = Mapping[str, Any]


def curves(directory: Path) -> list[tuple[Case, dict[str, Any]]]:
    """Return the curves that have what they are held against, and at least one release of ours."""
    found = []
    for case in CASES:
        curve = load(directory, case)
        if curve is not None and ours_of(curve) and next(iter(case.fresh)) in _names(curve):
            found.append((case, curve))
    return found


def ours_of(curve: Mapping[str, Any]) -> list[Point]:
    """Return the update-aware releases of a curve, from few bytes to many."""
    return sorted((point for point in curve["points"] if point["name"].startswith("aware")), key=_size)


def references_of(curve: Mapping[str, Any], case: Case) -> dict[str, Point]:
    """Return what one would send without all this, by its name: the usual first, then what is clearly better."""
    fresh = _fresh_of(curve, case)
    usual = fresh[0]
    better = [point for point in fresh[1:] if point["ppl"] < usual["ppl"] * (1 - _AS_GOOD)]
    return {point["name"]: point for point in [usual, *better]}


def cheapest_within(curve: Mapping[str, Any], reference: Point, loss: float) -> Point | None:
    """Return the smallest of ours that loses at most so much against the reference; None if none is good enough."""
    good = [point for point in ours_of(curve) if point["ppl"] <= reference["ppl"] * (1 + loss)]
    return min(good, key=_size, default=None)


def figures(directory: Path) -> dict[str, Any]:
    """Return bytes and perplexities of each curve: of the smallest release within 0.5 % of what it is held against."""
    found = {}
    for case, curve in curves(directory):
        for number, (how, reference) in enumerate(references_of(curve, case).items()):
            chosen = cheapest_within(curve, reference, min(LOSSES)) or min(ours_of(curve), key=lambda each: each["ppl"])
            further = cheapest_within(curve, reference, max(LOSSES))
            found[case.name if number == 0 else f"{case.name} against {how}"] = {
                "bytes": chosen["bytes"],
                "lossless_bytes": reference["bytes"],
                "ppl": chosen["ppl"],
                "naive_ppl": reference["ppl"],
                "within_1_percent": None if further is None else {"bytes": further["bytes"], "ppl": further["ppl"]},
            }
    return found


def text(directory: Path) -> str:
    """Return the tables for people, one for each curve, and how to read them."""
    parts = []
    for case, curve in curves(directory):
        reference = next(iter(references_of(curve, case).values()))
        head = [f"{case.name}: {case.new} where {case.base} is", "MB", "share", "perplexity", "against fresh", "KL"]
        rows: list[list[Any]] = [["not quantized", "", "", f"{curve['float']['ppl']:.3f}", "", ""]]
        rows += [_row(point, reference) for point in sorted(curve["points"], key=_size)]
        parts.append(markdown_table(head, rows))
    return "\n\n".join(parts)


def draw(directory: Path, path: Path) -> None:
    """Write PATH.svg and PATH.png: perplexity over bytes, a panel for each curve; none without curves."""
    found = curves(directory)
    if not found:
        return
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    mpl.rcParams["svg.hashsalt"] = "skyload"
    columns = 2 if len(found) > 1 else 1
    rows = math.ceil(len(found) / columns)
    figure, panels = pyplot.subplots(
        rows, columns, figsize=(6 * columns, 3.6 * rows), layout="constrained", squeeze=False
    )
    for axes, (case, curve) in zip(panels.flat, found, strict=False):
        _draw_panel(axes, case, curve)
    for axes in panels.flat[len(found) :]:
        axes.set_visible(False)
    handles: dict[str, Any] = {}
    for axes in panels.flat:
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    figure.savefig(path.with_suffix(".png"), dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def _draw_panel(axes: Any, case: Case, curve: Mapping[str, Any]) -> None:
    reference = next(iter(references_of(curve, case).values()))
    nothing = next(point for point in curve["points"] if point["name"] == "nothing")
    ours = ours_of(curve)
    low = 0.7 * ours[0]["bytes"] / 1e6
    sizes = [point["bytes"] / 1e6 for point in ours]
    axes.plot(sizes, [point["ppl"] for point in ours], "o-", color=_OURS, label="update-aware", markersize=5, zorder=3)
    for point in _fresh_of(curve, case):
        name = point["name"]
        axes.plot(
            point["bytes"] / 1e6, point["ppl"], _MARKERS[name], color=_FRESH, label=f"fresh, {name}", linestyle=""
        )
    axes.axhline(curve["float"]["ppl"], color=_FLOAT, linestyle=":", linewidth=1, label="not quantized")
    for loss, share in LOSSES.items():
        height = [reference["ppl"] * (1 + loss)] * 2
        label = f"bar: {loss:.1%} at {share:g} of the bytes"
        style = "-" if loss == min(LOSSES) else "--"
        axes.plot([low, share * reference["bytes"] / 1e6], height, style, color=_FRESH, linewidth=1.2, label=label)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:.0e}"[0] in "25" else "")
    axes.set_xlim(left=low)
    shown = [point["ppl"] for point in ours if point["ppl"] < _WORST_SHOWN * reference["ppl"]]
    lowest = min([*shown, curve["float"]["ppl"], *(point["ppl"] for point in _fresh_of(curve, case))])
    highest = max([*shown, 1.03 * reference["ppl"]])
    axes.set_ylim(lowest - 0.08 * (highest - lowest), highest + 0.12 * (highest - lowest))
    axes.text(0.98, 0.95, f"nothing sent: {nothing['ppl']:.2f}", transform=axes.transAxes, ha="right", fontsize=8)
    axes.set_title(f"{case.name}: {case.new} where {case.base} is", loc="left", fontweight="bold", fontsize=10)
    axes.set_xlabel("delta, MB")
    axes.set_ylabel("perplexity")
    axes.grid(color="#e4e4e4")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _row(point: Point, reference: Point) -> list[Any]:
    loss = 100 * (point["ppl"] / reference["ppl"] - 1)
    return [
        point["name"] if not point["name"].startswith("aware") else "update-aware",
        f"{point['bytes'] / 1e6:.3f}",
        f"{point['bytes'] / reference['bytes']:.3f}",
        f"{point['ppl']:.3f}",
        "reference" if point is reference else f"{loss:+.2f} % ± {_doubt(point, reference):.2f}",
        f"{point['kl']:.4f}",
    ]


def _doubt(point: Point, reference: Point) -> float:
    """Return the standard error of the difference of two perplexities on the same text, in per cent."""
    differences = [mine - other for mine, other in zip(point["surprise"], reference["surprise"], strict=True)]
    return 100 * statistics.stdev(differences) / math.sqrt(len(differences))


def _fresh_of(curve: Mapping[str, Any], case: Case) -> Sequence[Point]:
    known = {point["name"]: point for point in curve["points"]}
    return [known[name] for name in case.fresh if name in known]


def _names(curve: Mapping[str, Any]) -> set[str]:
    return {point["name"] for point in curve["points"]}


def _size(point: Point) -> int:
    size: int = point["bytes"]
    return size
