"""`skyload link`: run the link emulator, cut and restore the link by hand, look at profiles."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from groundsegment.console.output import command, out, print_json

if TYPE_CHECKING:
    from groundsegment.emulator.shell import Endpoint

app = typer.Typer(no_args_is_help=True, help="Emulate the link: loss, bursts, delay, contacts; cut it by hand.")

_AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
_Control = Annotated[
    Path,
    typer.Option("--control", envvar="SKYLOAD_LINK_CONTROL", help="The control socket of a running emulator."),
]
_OneDirection = Annotated[str | None, typer.Option("--direction", help="up or down; both if left out.")]
_OneStation = Annotated[str | None, typer.Option("--station", help="A station of the profile; all links if left out.")]


@app.command("run")
@command
def run(
    satellite: Annotated[str, typer.Option("--satellite", help="HOST:PORT where the satellite listens.")],
    profile: Annotated[str, typer.Option("--profile", help="A profile's name, or a YAML file.")] = "clear",
    seed: Annotated[int, typer.Option("--seed", help="Seed of everything random.")] = 1,
    ground: Annotated[str, typer.Option("--ground", help="HOST:PORT where ground stations send.")] = "127.0.0.1:7001",
    space: Annotated[str, typer.Option("--space", help="HOST:PORT the satellite hears us from.")] = "127.0.0.1:7002",
    listen: Annotated[
        list[str] | None,
        typer.Option("--listen", help="NAME=HOST:PORT where a station of the profile sends; may be given again."),
    ] = None,
    control: Annotated[Path | None, typer.Option("--control", help="Unix socket for cut and restore.")] = None,
    epoch: Annotated[
        float | None, typer.Option("--epoch", help="Unix seconds of link time 0; now if left out.")
    ] = None,
    statistics_file: Annotated[
        Path | None, typer.Option("--statistics-file", help="Keep statistics here, as JSON.")
    ] = None,
    as_json: _AsJson = False,
) -> None:
    """Carry frames between ground stations and a satellite, badly, until interrupted.

    Examples:
    ```
    skyload link run --profile demo --satellite 127.0.0.1:7003
    skyload link run --profile my-link.yaml --seed 7 --satellite sat:7003 --control link.sock
    skyload link run --satellite sat:7003 --ground 0.0.0.0:7001 --space 0.0.0.0:7002 --statistics-file link.json
    skyload link run --profile two-stations.yaml --satellite sat:7003 --listen svalbard=127.0.0.1:7011
    ```
    """
    import asyncio
    import signal

    from groundsegment.console.link_words import Follower, print_statistics
    from groundsegment.emulator.profile import load_profile
    from groundsegment.emulator.shell import Endpoint, LinkProxy, write_statistics
    from groundsegment.errors import InputError
    from groundsegment.planner.quantities import check_epoch

    conditions = load_profile(profile)
    ends = {
        "ground": Endpoint.parse(ground, option="--ground"),
        "space": Endpoint.parse(space, option="--space"),
        "satellite": Endpoint.parse(satellite, option="--satellite", lowest_port=1),
    }
    if ends["satellite"] in (ends["ground"], ends["space"]):
        raise InputError(f"--satellite {satellite}: the emulator listens there itself", hint="give the satellite's own")
    places = _places(listen or [])
    check_epoch(epoch)
    if statistics_file is not None and (statistics_file.is_dir() or not statistics_file.absolute().parent.is_dir()):
        raise InputError(
            f"--statistics-file {statistics_file}: not a place for a file", hint="make its directory first"
        )
    follower = Follower(statistics_file)

    async def carry() -> dict[str, Any]:
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        proxy = LinkProxy(conditions, seed=seed, epoch_unix_s=epoch, listen=places, **ends)
        await proxy.run(stop=stop, control=control, on_tick=follower.tick)
        return follower.latest

    statistics = asyncio.run(carry())
    follower.close()
    if statistics_file is not None:
        write_statistics(statistics_file, statistics)
    if as_json:
        print_json(statistics)
    else:
        print_statistics(statistics)


@app.command("profiles")
@command
def profiles(as_json: _AsJson = False) -> None:
    """List the profiles that come with skyload.

    Examples:
    ```
    skyload link profiles
    ```
    """
    from groundsegment.emulator.profile import load_profile, profile_names

    found = [load_profile(name) for name in profile_names()]
    if as_json:
        print_json([{"name": profile.name, "description": profile.description} for profile in found])
        return
    for profile in found:
        out.print(f"{profile.name:10} {profile.description}", markup=False)


@app.command("show")
@command
def show(
    name: Annotated[str, typer.Argument(help="A profile's name, or a YAML file.")], as_json: _AsJson = False
) -> None:
    """Check a profile and print it; what comes out is a file to start your own from.

    Examples:
    ```
    skyload link show s-band > my-link.yaml
    skyload link show my-link.yaml --json
    ```
    """
    from groundsegment.console.link_words import profile_json
    from groundsegment.emulator.profile import load_profile, profile_text

    profile = load_profile(name)
    if not as_json:
        sys.stdout.write(profile_text(name))
        return
    print_json(profile_json(profile))


@app.command("cut")
@command
def cut(
    control: _Control, direction: _OneDirection = None, station: _OneStation = None, as_json: _AsJson = False
) -> None:
    """Cut the link: everything in flight is lost, and all that is sent until it is restored.

    Examples:
    ```
    skyload link cut --control link.sock
    skyload link cut --control link.sock --direction down
    skyload link cut --control link.sock --station svalbard
    ```
    """
    _operate(control, {"op": "cut"}, as_json, direction=direction, station=station)


@app.command("restore")
@command
def restore(
    control: _Control, direction: _OneDirection = None, station: _OneStation = None, as_json: _AsJson = False
) -> None:
    """Undo `cut`; contacts and gaps are again as the profile says.

    Examples:
    ```
    skyload link restore --control link.sock
    ```
    """
    _operate(control, {"op": "restore"}, as_json, direction=direction, station=station)


@app.command("use")
@command
def use(
    name: Annotated[str, typer.Argument(help="A profile's name, or a YAML file.")],
    control: _Control,
    as_json: _AsJson = False,
) -> None:
    """Change a running emulator to another profile; counters and frames in flight stay.

    Examples:
    ```
    skyload link use degraded --control link.sock
    ```
    """
    from groundsegment.emulator.profile import load_profile, profile_names

    load_profile(name)  # an error in the file is better told here than by the emulator
    wanted = name if name in profile_names() else str(Path(name).resolve())
    _operate(control, {"op": "profile", "name": wanted}, as_json)


@app.command("stats")
@command
def stats(control: _Control, as_json: _AsJson = False) -> None:
    """Print the statistics of a running emulator.

    Examples:
    ```
    skyload link stats --control link.sock --json
    ```
    """
    _operate(control, {"op": "statistics"}, as_json)


def _places(options: list[str]) -> "dict[str, Endpoint]":
    """Where stations send to: NAME=HOST:PORT each."""
    from groundsegment.emulator.shell import Endpoint
    from groundsegment.errors import InputError

    places: dict[str, Endpoint] = {}
    for option in options:
        name, equals, place = option.partition("=")
        if not name or not equals or name in places:
            problem = "given twice" if name in places else "not NAME=HOST:PORT"
            raise InputError(f"--listen: {option!r}: {problem}", hint="for example --listen svalbard=127.0.0.1:7011")
        places[name] = Endpoint.parse(place, option=f"--listen {name}=")
    return places


def _operate(control: Path, request: dict[str, Any], as_json: bool, **where: str | None) -> None:
    from groundsegment.console.link_words import print_statistics
    from groundsegment.emulator.control import call_control

    answer = call_control(control, request | {name: value for name, value in where.items() if value is not None})
    del answer["ok"]
    if as_json:
        print_json(answer)
    else:
        print_statistics(answer)
