"""What `skyload stage --explain` prints: every tensor, how it is sent, and why; totals by kind, use and layer."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from groundsegment.console.output import out
from groundsegment.console.stage_words import TRANSFORM_WORDS

if TYPE_CHECKING:
    from groundsegment.packer.explain import Explanation, Line
    from groundsegment.packer.tally import Totals

_NAME_WIDTH = 52


def print_explanation(explanation: "Explanation") -> None:
    """Print it for people."""
    from groundsegment.planner.quantities import format_bytes

    out.print(f"\n  {'raw':>9} {'to send':>9} {'share':>7}  {'tensor':{_NAME_WIDTH}} how, and why", markup=False)
    shown = [line for line in explanation.lines if line.coded_bytes or not line.is_unchanged]
    for line in shown:
        sizes = f"{format_bytes(line.raw_bytes):>9} {format_bytes(line.coded_bytes):>9} {line.share:7.2%}"
        out.print(f"  {sizes}  {_short(_name(line)):{_NAME_WIDTH}} {_how(line)}", markup=False)
    _print_unchanged([line for line in explanation.lines if line.is_unchanged and not line.coded_bytes])
    out.print(f"  {'':9} {format_bytes(explanation.overhead_bytes):>9} {'':7}  rows, tags and heads", markup=False)
    _print_totals("values", explanation.by_kind)
    _print_totals("use", explanation.by_use)
    layers = {("outside" if layer is None else str(layer)): totals for layer, totals in explanation.by_layer.items()}
    if len(layers) > 1:
        _print_totals("layer", layers)
    if explanation.removed:
        names = ", ".join(explanation.removed[:8]) + (" ..." if len(explanation.removed) > 8 else "")
        out.print(f"\n  {len(explanation.removed)} tensors of the base are gone: {names}", markup=False)
    if not explanation.is_exact:
        out.print("\n  from a sample: other tensors are taken to shrink as those of their sort did", markup=False)


def _print_unchanged(lines: "Sequence[Line]") -> None:
    """Print what costs nothing as one line for each way it was found."""
    from groundsegment.planner.quantities import format_bytes

    groups: dict[str, list[Line]] = {}
    for line in lines:
        groups.setdefault(_how(line, is_one=False), []).append(line)
    for how, group in groups.items():
        raw = format_bytes(sum(line.raw_bytes for line in group))
        name = _short(_name(group[0]) if len(group) == 1 else f"{_name(group[0])} and {len(group) - 1} more")
        out.print(f"  {raw:>9} {'0 B':>9} {'0.00%':>7}  {name:{_NAME_WIDTH}} {how}", markup=False)


def explanation_as_json(explanation: "Explanation") -> dict[str, Any]:
    """The same as JSON; sizes in bytes."""
    return {
        "is_exact": explanation.is_exact,
        "tensors": [_line_as_json(line) for line in explanation.lines],
        "overhead_bytes": explanation.overhead_bytes,
        "by_kind": _totals_as_json(explanation.by_kind),
        "by_use": _totals_as_json(explanation.by_use),
        "by_layer": _totals_as_json(explanation.by_layer),
        "removed": list(explanation.removed),
    }


def _print_totals(title: str, sums: Mapping[Any, "Totals"]) -> None:
    from groundsegment.planner.quantities import format_bytes

    out.print(f"\n  {'raw':>9} {'to send':>9} {'share':>7}  by {title}", markup=False)
    for key, totals in sums.items():
        sizes = f"{format_bytes(totals.raw_bytes):>9} {format_bytes(totals.coded_bytes):>9}"
        out.print(f"  {sizes} {totals.coded_bytes / max(1, totals.raw_bytes):7.2%}  {key}", markup=False)


def _name(line: "Line") -> str:
    return f"{line.file} {line.name}" if line.name.startswith("(") else line.name


def _how(line: "Line", *, is_one: bool = True) -> str:
    ways = sorted(line.by_transform.items(), key=lambda item: -item[1].raw_bytes)
    words = " + ".join(TRANSFORM_WORDS[transform.name] for transform, _ in ways) or "empty"
    kind = "" if line.kind == "bytes" else f" ({line.kind})"
    old = f": {line.base_name}" if is_one and line.base_name not in {"", line.name} else ""
    if not is_one:
        kind = ""
    return f"{words}{kind}" + (f"; {line.reason}{old}" if line.reason else "")


def _line_as_json(line: "Line") -> dict[str, Any]:
    return {
        "file": line.file,
        "name": line.name,
        "kind": line.kind,
        "use": str(line.use),
        "layer": line.layer,
        "raw_bytes": line.raw_bytes,
        "coded_bytes": line.coded_bytes,
        "share": round(line.share, 6),
        "transforms": {transform.name.lower(): totals.num_pieces for transform, totals in line.by_transform.items()},
        "reason": line.reason,
        "base_name": line.base_name,
    }


def _totals_as_json(sums: Mapping[Any, "Totals"]) -> dict[str, Any]:
    return {
        "outside" if key is None else str(key): {"raw_bytes": totals.raw_bytes, "coded_bytes": totals.coded_bytes}
        for key, totals in sums.items()
    }


def _short(name: str) -> str:
    return name if len(name) <= _NAME_WIDTH else f"...{name[3 - _NAME_WIDTH :]}"
