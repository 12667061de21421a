"""What `revert`, `activate` and `forget` have in common: confirm, arm, fire, and say what came of it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from groundsegment.console.output import err, out, print_json

if TYPE_CHECKING:
    from groundsegment.depot.depot import Depot
    from protocol.command import Operation

LINK_HELP = "HOST:PORT of modem, emulator, satellite."
BLIND_HELP = "Nobody can hear its answer: queue both steps for the uplink. The satellite must allow it."


def confirm(question: str) -> bool:
    """Ask a person; whoever is none must say --yes."""
    import sys

    from groundsegment.errors import InputError

    sys.stderr.write(f"{question} [y/N]: ")  # typer's own prompt writes to stdout too, where scripts read
    sys.stderr.flush()
    answer = sys.stdin.readline()
    if not answer:
        sys.stderr.write("\n")
        raise InputError("nobody is there to confirm; nothing was done", hint="--yes does without asking")
    return answer.strip().lower() in {"y", "yes"}


def check_way(link: str | None, *, is_blind: bool) -> None:
    """Make sure that there is a way to the satellite.

    Raises:
        InputError: there is none.
    """
    from groundsegment.errors import InputError
    from groundsegment.uplink.wire.link_socket import Endpoint

    if not is_blind and link is None:
        raise InputError("how is the satellite to be reached?", hint="give --link, or --blind on a link without return")
    if link is not None:
        Endpoint.parse(link)


def command_dangerously(
    depot: "Depot",
    satellite: str,
    operation: "Operation",
    args: Mapping[str, Any],
    *,
    link: str | None,
    timeout_s: float,
) -> dict[str, Any]:
    """Carry out both steps over a link or, without one, queue them; returns what `--json` prints.

    Raises:
        LinkError: no answer in time; the same command goes on where it was.
    """
    from groundsegment.uplink.wire.link_socket import Endpoint
    from groundsegment.uplink.wire.two_steps import fire, queue_blind

    values: dict[str, Any] = {"satellite": satellite, "operation": str(operation), "blind": link is None}
    if link is None:
        armed, fired = queue_blind(depot, satellite, operation, args)
        text = f"queued blind: {satellite} gets both steps from the uplink and obeys if its configuration allows that"
        return {**values, "ok": None, "text": text, "refusal": "", "arm": armed.counter, "fire": fired.counter}
    done = fire(depot, satellite, Endpoint.parse(link), operation, args, timeout_s=timeout_s, tell=err.print)
    return {
        **values,
        "ok": bool(done.body.get("ok")),
        "text": str(done.body.get("text", "")),
        "refusal": done.refusal,
        "arm": done.arm,
        "fire": done.fire,
        "seconds": round(done.seconds, 3),
        "resumed": done.is_resumed,
    }


def tell_outcome(values: Mapping[str, Any], *, as_json: bool, verb: str, hint: str) -> bool:
    """Print what came of it; returns whether it was done or queued."""
    has_failed = values["ok"] is False
    if as_json:
        print_json(values)
    elif not has_failed:
        out.print(values["text"] or f"{values['satellite']}: done", markup=False)
    if has_failed:
        err.print(f"error: {values['satellite']} did not {verb}: {values['text']}", markup=False)
        err.print(f"hint: {hint}", markup=False)
    return not has_failed
