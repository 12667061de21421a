"""What `skyload receipt` says: verdicts, and what a satellite signed, as JSON values and for people."""

from typing import TYPE_CHECKING, Any

import typer

from groundsegment.console.output import err, out, print_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from groundsegment.receipts import Checked


def tell(found: "Sequence[Checked]", *, as_json: bool, is_long: bool) -> None:
    """Print receipts; ends the command with 1 unless all are good."""
    values = [values_of(checked) for checked in found]
    if as_json:
        print_json({"receipts": values, "verdict": next((v["verdict"] for v in values if v["text"]), "good")})
    else:
        for entry in values:
            _print_one(entry, is_long=is_long)
    if not all(checked.is_good for checked in found):
        err.print("error: not a receipt to rely on", markup=False)
        raise typer.Exit(1)


def values_of(checked: "Checked") -> dict[str, Any]:
    """A receipt as JSON values."""
    from groundsegment.receipts import utc_of

    receipt = checked.receipt
    values: dict[str, Any] = {
        "verdict": str(checked.verdict),
        "text": checked.text,
        "received_utc": checked.received_utc.isoformat() if checked.received_utc else None,
    }
    if receipt is None:
        return values
    utc = utc_of(receipt)
    return {
        **values,
        "satellite": receipt.satellite,
        "counter": receipt.counter,
        "update": receipt.update.hex() if any(receipt.update) else None,
        "state": str(receipt.state),
        "reason": receipt.reason,
        "says": receipt.text,
        "release": receipt.release.hex() if receipt.release else None,
        "sequence": receipt.sequence,
        "canary": dict(receipt.canary),
        "serving": receipt.serving.hex() if receipt.serving else None,
        "boot": receipt.boot,
        "uptime_s": receipt.uptime_s,
        "signed_utc": utc.isoformat() if utc else None,
    }


def _print_one(values: dict[str, Any], *, is_long: bool) -> None:
    if "state" not in values:
        out.print(f"{values['verdict']}: {values['text'].removeprefix(values['verdict'] + ': ')}", markup=False)
        return
    release = (values["release"] or "no release")[:16]
    about = f"update {values['update']}, " if values["update"] else ""
    out.print(
        f"{values['verdict']}: {values['satellite']} signed: {values['state']} ({about}release {release})", markup=False
    )
    if is_long:
        for name, value in values.items():
            if name not in {"verdict", "text"} and value not in (None, "", {}):
                out.print(f"  {name:<13} {_canary_words(value) if name == 'canary' else value}", markup=False)


def _canary_words(canary: "Mapping[str, Any]") -> str:
    """What the trial came to, as a satellite says it; of what it says otherwise, all."""
    words = []
    if "agreeing" in canary and "expected" in canary:
        words.append(f"{canary['agreeing']} of {canary['expected']} tokens as signed")
    if isinstance(canary.get("swap_ms"), int | float):
        words.append(f"swapped in {canary['swap_ms']:.2f} ms")
    told = {"agreeing", "expected", "permille", "swap_ms"} if words else set()
    return ", ".join([*words, *(f"{name} {value}" for name, value in canary.items() if name not in told)])


def print_table(found: "list[dict[str, Any]]") -> None:
    """Print receipts as a table."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("received", "satellite", "state", "update", "release", "reason", "verdict"):
        table.add_column(column, no_wrap=True)
    for values in found:
        table.add_row(
            (values["received_utc"] or "")[:19],
            values.get("satellite", ""),
            values.get("state", ""),
            values.get("update") or "",
            (values.get("release") or "")[:16],
            values.get("reason", ""),
            values["verdict"],
        )
    out.print(table)
