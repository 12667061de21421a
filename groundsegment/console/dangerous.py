"""What `revert`, `activate`, `station rotate` and `forget` have in common: confirm, arm, fire, say what came of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from groundsegment.console.output import err, out, print_json

if TYPE_CHECKING:
    from groundsegment.depot.depot import Depot
    from protocol.command import Operation

LINK_HELP = "HOST:PORT of modem, emulator, satellite."
BLIND_HELP = "Nobody can hear its answer: queue both steps for the uplink. The satellite must allow it."

SatelliteOption = Annotated[str, typer.Option("--for", help="The satellite's name.")]
LinkOption = Annotated[str | None, typer.Option("--link", envvar="SKYLOAD_LINK", help=LINK_HELP)]
BlindOption = Annotated[bool, typer.Option("--blind", help=BLIND_HELP)]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
TimeoutOption = Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds to wait for each answer.")]
DepotOption = Annotated[Path, typer.Option("--depot", envvar="SKYLOAD_DEPOT", help="The depot directory.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How a dangerous command gets to the satellite, and whether somebody has to be asked before.

    Attributes:
        link: HOST:PORT; None for blind.
        is_sure: nobody is asked.
        timeout_s: how long to wait for each answer.
    """

    link: str | None
    is_sure: bool
    timeout_s: float

    @classmethod
    def of_options(cls, link: str | None, *, blind: bool, yes: bool, timeout: float) -> "Way":
        """What the options mean.

        Raises:
            InputError: there is no way to the satellite.
        """
        chosen = None if blind else link
        check_way(chosen, is_blind=blind)
        return cls(link=chosen, is_sure=yes, timeout_s=timeout)

    def ask(self, question: str) -> None:
        """Ask, if somebody has to be asked; ends the command if the answer is no."""
        if not self.is_sure and not confirm(question):
            err.print("nothing was sent")
            raise typer.Exit(1)

    def command(
        self, depot: "Depot", satellite: str, operation: "Operation", args: Mapping[str, Any], *, question: str = ""
    ) -> dict[str, Any]:
        """Ask where there is a question, then carry out both steps; returns what `--json` prints."""
        if question:
            self.ask(question)
        return command_dangerously(depot, satellite, operation, args, link=self.link, timeout_s=self.timeout_s)


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
