"""`skyload ask`: a question up the link, the model's answer down."""

from pathlib import Path
from typing import Annotated, Any

import typer

from groundsegment.console.output import command, err, out, print_json

_TEXT_BYTES_MAX = 60 * 1024  # of the 64 KiB that a command may have


@command
def ask(
    prompt: Annotated[str, typer.Argument(help="The question.")],
    satellite: Annotated[str, typer.Option("--for", help="The satellite's name.")],
    link: Annotated[
        str, typer.Option("--link", envvar="SKYLOAD_LINK", help="HOST:PORT of modem, emulator, satellite.")
    ],
    system: Annotated[str | None, typer.Option("--system", help="A system message before the question.")] = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, max=4096, help="Longest answer.")] = 128,
    temperature: Annotated[float, typer.Option("--temperature", min=0.0, max=10.0, help="0 is greedy.")] = 0.0,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, help="For temperatures above 0.")] = 0,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds to wait for the answer.")] = 180.0,
    depot: Annotated[Path, typer.Option("--depot", envvar="SKYLOAD_DEPOT", help="The depot directory.")] = Path(
        "depot"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Ask the model on board, through the link; its answer goes to stdout.

    Works beside a running uplink. The question is signed, so a satellite answers its own ground only.

    Examples:
    ```
    skyload ask "What is the capital of France?" --for SAT-1 --link 127.0.0.1:7001
    skyload ask "Sum up the last pass." --for SAT-1 --link modem:7001 --max-tokens 64 --timeout 600 --json
    ```
    """
    from groundsegment.depot.depot import Depot
    from groundsegment.errors import InputError
    from groundsegment.uplink.wire.exchange import send_command
    from groundsegment.uplink.wire.link_socket import Endpoint
    from protocol.command import Operation
    from protocol.limits import PROMPT_SIZE_MAX

    for what, text in (("question", prompt), ("system message", system or "none")):
        if not text.strip() or len(text) > PROMPT_SIZE_MAX:
            hint = f"write something, in at most {PROMPT_SIZE_MAX} characters"
            raise InputError(f"a {what} of {len(text)} characters", hint=hint)
    try:
        size = len(f"{system or ''}{prompt}".encode())
    except UnicodeEncodeError:
        raise InputError("the question is not text in UTF-8", hint="check the encoding of terminal and file") from None
    if size > _TEXT_BYTES_MAX:
        hint = f"at most {_TEXT_BYTES_MAX} bytes fit one command"
        raise InputError(f"question and system message have {size} bytes", hint=hint)
    endpoint = Endpoint.parse(link)
    messages = [{"role": "user", "content": prompt}]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    args = {
        "messages": messages,
        "max_tokens": max_tokens,
        "temperature_milli": round(1000 * temperature),
        "seed": seed,
    }
    with Depot.open(depot) as opened:
        answer = send_command(opened, satellite, endpoint, Operation.ASK, args, timeout_s=timeout, tell=err.print)
        body = dict(answer.message.body)
        error = body.get("error")
        release = str(body.get("release", ""))
        known = opened.find_release(bytes.fromhex(release)) if release else None
    values: dict[str, Any] = {
        "satellite": satellite,
        "text": body.get("text", ""),
        "error": error,
        "release": release,
        "release_name": known.name if known else "",
        "tokens": body.get("tokens", 0),
        "seconds_on_board": body.get("seconds_milli", 0) / 1000,
        "seconds": round(answer.seconds, 3),
    }
    if as_json:
        print_json(values)
    elif error is None:
        _print_answer(values)
    if error is not None:
        err.print(f"error: {satellite} could not answer: {error}", markup=False)
        err.print("hint: `skyload status` shows what it serves; ask again when a model is ready", markup=False)
        raise typer.Exit(1)


def _print_answer(values: dict[str, Any]) -> None:
    import sys

    text = str(values["text"]).strip()
    if out.is_terminal:
        out.print(text, markup=False, soft_wrap=False)  # for people: no word is cut at the edge
    else:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    name = f"{values['release_name']} " if values["release_name"] else ""
    err.print(
        f"answered by {name}{values['release'][:16]}: {values['tokens']} tokens, "
        f"{values['seconds_on_board']:.1f} s on board, {values['seconds']:.1f} s in all",
        markup=False,
    )
