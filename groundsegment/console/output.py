"""Words for people on stderr, data on stdout, and one place that turns errors into exit codes.

Data goes to stdout, everything else to stderr; no meaning by colour alone; `NO_COLOR` is obeyed (rich does).
"""

import errno
import functools
import json
import os
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from groundsegment.errors import DiskError, GroundError, InputError

P = ParamSpec("P")
R = TypeVar("R")

UPDATE_HELP = "The update: first digits of its handle, the release's name, or newest."
_NOT_SHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
WIDTH_OF_FILES = 160  # a table in a file or a pipe must not lose digits for want of a terminal


def _width() -> int | None:
    return None if sys.stdout.isatty() or "COLUMNS" in os.environ else WIDTH_OF_FILES


class PlainConsole(Console):
    """A console that moves its cursor by itself alone.

    What a model answered, a stick brought or a satellite told may hold what moves the cursor, wipes lines or turns the
    direction of writing, and so hide from people what they are about to sign; it is shown, and not done.
    """

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield what is to be written."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else _NOT_SHOWN.sub(_named, text), style, control)


def _named(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


out = PlainConsole(highlight=False, soft_wrap=True, width=_width())
err = PlainConsole(stderr=True, highlight=False, soft_wrap=True)


def print_json(value: Any) -> None:  # noqa: ANN401 - any JSON value
    """Print one JSON document on stdout, stable key order, nothing else."""
    sys.stdout.write(json.dumps(value, indent=2, sort_keys=True, default=str) + "\n")


def report_error(error: GroundError) -> None:
    """Print an error and its hint on stderr."""
    err.print(f"error: {error}", markup=False)
    if error.hint:
        err.print(f"hint: {error.hint}", markup=False)


def command(function: Callable[P, R]) -> Callable[P, R]:
    """Turn the errors of a command into words, a hint and an exit code."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except GroundError as error:
            report_error(error)
            raise typer.Exit(error.exit_code) from error
        except OSError as error:
            wrapped = _from_os_error(error)
            report_error(wrapped)
            raise typer.Exit(wrapped.exit_code) from error
        except KeyboardInterrupt as interrupt:
            words = str(interrupt) or "interrupted: what was done is kept; run the same command again to go on"
            err.print(words, markup=False)
            raise typer.Exit(130) from None

    return run


def _from_os_error(error: OSError) -> GroundError:
    name = f"{error.filename}: " if error.filename else ""
    text = f"{name}{error.strerror or error}"
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS}:
        return DiskError(text, hint="free some space or choose another disk, then run the same command again")
    if error.errno == errno.EADDRINUSE:
        return InputError(text, hint="another process uses that address; stop it or choose another port")
    return InputError(text, hint="check the path and its permissions")
