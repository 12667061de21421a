"""The words of `skyloadd`: its commands, their arguments and help. What they do is `console`."""

import argparse
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

_CONFIG_DEFAULT = "satellite.toml"
Function = Callable[[argparse.Namespace], int]
Functions = Mapping[str, Function]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the words, and where to look."""
        self.exit(2, f"error: {message}\nhint: `{self.prog} --help` has the words, and examples\n")


def make_parser(functions: Functions) -> argparse.ArgumentParser:
    """What `skyloadd` takes; `command` of what it parses is the function of that command."""
    parser = _Parser(
        prog="skyloadd",
        description="The satellite's side of Skyload: receives model updates, installs them, serves the model.",
        epilog="Examples:\n  skyloadd provision models/first --config kit/satellite.toml\n"
        "  skyloadd run --config kit/satellite.toml",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    daemon = _command(commands, "run", functions["run"], "run the daemon", ["skyloadd run --config kit/satellite.toml"])
    _takes_config(daemon)
    daemon.add_argument("--verbose", action="store_true", help="log developers' events, too")

    status = _command(
        commands,
        "status",
        functions["status"],
        "say how the daemon, its update and its model are",
        ["skyloadd status --config kit/satellite.toml", "skyloadd status --json | jq .update.state"],
    )
    _takes_config(status)
    _takes_json(status)

    releases = _command(
        commands, "releases", functions["releases"], "list the releases on board", ["skyloadd releases --json"]
    )
    _takes_config(releases)
    _takes_json(releases)

    revert = _command(
        commands,
        "revert",
        functions["revert"],
        "let an older release serve again",
        ["skyloadd revert", "skyloadd revert 3f2a9c"],
    )
    revert.add_argument("digest", nargs="?", help="first digits of its digest; default: the release before")
    _takes_config(revert)
    _takes_json(revert)

    verify = _command(
        commands,
        "verify",
        functions["verify"],
        "read releases back from the disk and compare every file with its digest; exit code 10 on damage",
        ["skyloadd verify", "skyloadd verify 3f2a9c --json"],
    )
    verify.add_argument("digest", nargs="?", default="all", help="first digits of a digest, or all (default)")
    _takes_config(verify)
    _takes_json(verify)

    scrub = _command(
        commands,
        "scrub",
        functions["scrub"],
        "read releases from the medium, undo flipped bits, say what is lost; exit code 10 if anything is",
        ["skyloadd scrub", "skyloadd scrub 3f2a9c --json"],
    )
    scrub.add_argument("digest", nargs="?", help="first digits of a digest; default: all releases on board")
    _takes_config(scrub)
    _takes_json(scrub)

    provision = _command(
        commands,
        "provision",
        functions["provision"],
        "put a model on board before launch, as the release that serves",
        ["skyloadd provision models/first --config kit/satellite.toml --name first"],
    )
    provision.add_argument("directory", type=Path, help="model directory: config.json, tokenizer, safetensors")
    provision.add_argument(
        "--name", default="", help="what people call it, unless it is on board; default: the directory's name"
    )
    provision.add_argument(
        "--golden",
        action="store_true",
        help="a small model that is never deleted and serves when nothing else can; what serves already goes on",
    )
    _takes_config(provision)
    _takes_json(provision)
    _add_import(commands, functions)
    _add_export_messages(commands, functions)
    _add_rehearse(commands, functions)
    # Started by `skyload simulate` and spoken to in msgpack: no word of it in the list of commands.
    commands.add_parser("simulate", description="The satellite of `skyload simulate`.").set_defaults(
        command=functions["simulate"]
    )
    return parser


def _add_import(commands: Any, functions: Functions) -> None:  # noqa: ANN401 - argparse has no public name for it
    imported = _command(
        commands,
        "import",
        functions["import"],
        "take in updates and commands that `skyload export` wrote, in any order, with or without a daemon",
        ["skyloadd import /media/stick --config kit/satellite.toml", "skyloadd import *.skb --json | jq .num_refused"],
    )
    imported.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="a file, or a directory of files")
    _takes_config(imported)
    _takes_json(imported)


def _add_export_messages(commands: Any, functions: Functions) -> None:  # noqa: ANN401 - argparse has no public name for it
    exported = _command(
        commands,
        "export-messages",
        functions["export-messages"],
        "write receipts, answers, and how things stand, as files for `skyload import` on the ground",
        ["skyloadd export-messages /media/stick --config kit/satellite.toml"],
    )
    exported.add_argument("directory", type=Path, metavar="DIR", help="where the files go; made if it is not there")
    _takes_config(exported)
    _takes_json(exported)


def _add_rehearse(commands: Any, functions: Functions) -> None:  # noqa: ANN401 - argparse has no public name for it
    rehearse = _command(
        commands,
        "rehearse",
        functions["rehearse"],
        "the ground's twin: rebuild a release from its bundles as on board, and let the engine answer prompts",
        [
            "skyloadd rehearse --manifest manifest.msgpack --bundles . --release-key-file release.key \\",
            "    --prompts prompts.json --max-tokens 16 --work-dir /tmp/twin --json",
        ],
    )
    rehearse.add_argument("--manifest", type=Path, required=True, metavar="FILE", help="the update's manifest")
    rehearse.add_argument("--bundles", type=Path, required=True, metavar="DIR", help="where its bundles lie")
    rehearse.add_argument("--release-key-file", type=Path, required=True, metavar="FILE", help="64 hex digits")
    rehearse.add_argument("--base", type=Path, metavar="DIR", help="the base release, if the update has one")
    rehearse.add_argument("--prompts", type=Path, metavar="FILE", help="JSON array of texts; default: rebuild only")
    rehearse.add_argument("--max-tokens", type=_positive, default=16, metavar="N", help="longest answer")
    rehearse.add_argument(
        "--engine-command", type=_words, default=[], metavar="WORDS", help="replaces the engine worker"
    )
    rehearse.add_argument("--held-out", type=Path, metavar="FILE", help="text to judge the release on")
    rehearse.add_argument("--held-out-tokens", type=_positive, default=4096, metavar="N", help="of it, at most")
    rehearse.add_argument("--reference", type=Path, metavar="DIR", help="model that it is compared with there")
    rehearse.add_argument("--judge-command", type=_words, default=[], metavar="WORDS", help="replaces the judge")
    rehearse.add_argument("--threads", type=_positive, default=1, metavar="N", help="CPU threads of the engine")
    rehearse.add_argument("--work-dir", type=Path, required=True, metavar="DIR", help="room for the release")
    _takes_json(rehearse)


def _command(
    commands: Any,  # noqa: ANN401 - argparse has no public name for it
    name: str,
    function: Function,
    text: str,
    examples: list[str],
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog="Examples:\n" + "\n".join(f"  {example}" for example in examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=function)
    return parser


def _takes_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        type=Path,
        default=Path(_CONFIG_DEFAULT),
        metavar="FILE",
        help=f"the satellite's configuration (default: {_CONFIG_DEFAULT})",
    )


def _takes_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a command line: {error}") from None
