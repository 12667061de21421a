"""`skyload simulate`: days of contacts in seconds, with the cores that fly, real bytes and an emulated sky."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from groundsegment.console.output import UPDATE_HELP, command, err, out, print_json

if TYPE_CHECKING:
    from groundsegment.simulation.records import MissionResult
    from groundsegment.simulation.scenario import Scenario


@command
def simulate(
    scenario: Annotated[str, typer.Argument(help="A shipped scenario (--list), or a scenario's YAML file.")] = "",
    show_list: Annotated[bool, typer.Option("--list", help="Name the shipped scenarios.")] = False,
    full: Annotated[bool, typer.Option("--full", help="Full size: payload and contacts as they are.")] = False,
    scale: Annotated[
        float | None, typer.Option("--scale", min=1.0, help="Payload and contacts so many times smaller.")
    ] = None,
    plan: Annotated[Path | None, typer.Option("--plan", help="Contacts of a contact plan (YAML).")] = None,
    profile: Annotated[str | None, typer.Option("--profile", help="Links and contacts of an emulator profile.")] = None,
    size: Annotated[str | None, typer.Option("--size", help="Payload, as 300MB.")] = None,
    rate: Annotated[str | None, typer.Option("--rate", help="Rate of all stations, as 2Mbit/s.")] = None,
    loss: Annotated[str | None, typer.Option("--loss", help="Independent loss of all links, as 10%.")] = None,
    symbol_size: Annotated[
        int | None, typer.Option("--symbol-size", help="Of a symbol, bytes; a multiple of 8.")
    ] = None,
    update: Annotated[
        str | None, typer.Option("--update", help=f"Fly the bundles of a staged update. {UPDATE_HELP}")
    ] = None,
    satellite: Annotated[
        str | None, typer.Option("--for", help="Whose update; without --update, the newest that is staged for it.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Of everything random.")] = None,
    compare: Annotated[
        bool | None, typer.Option("--compare/--no-compare", help="With other schemes. Default: as the scenario says.")
    ] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Write PNG and SVG pictures into this directory.")] = None,
    missions: Annotated[int, typer.Option("--missions", min=0, help="Fly so many random missions instead.")] = 0,
    jobs: Annotated[int, typer.Option("--jobs", min=0, help="Missions at once; 0: one for each core.")] = 0,
    depot: Annotated[Path, typer.Option("--depot", envvar="SKYLOAD_DEPOT", help="The depot directory.")] = Path(
        "depot"
    ),
    satellite_command: Annotated[
        str | None, typer.Option("--satellite-command", help="Instead of `skyloadd simulate`.", hidden=True)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Fly an update over days of contacts in virtual time, and say what each contact brought.

    The sender, the channel and the receiver are the ones that fly, and so are the bytes; only time is simulated. The
    same seed gives the same mission. Scenarios are scaled to run in seconds; --full takes minutes.

    Exit codes:
    ```
    0 all on board, no wrong byte    1 not, or a random mission failed
    ```

    Examples:
    ```
    skyload simulate --list
    skyload simulate adaspace --plot pictures
    skyload simulate --profile s-band --size 300MB --loss 20% --seed 7 --json
    skyload simulate --plan contacts.yaml --for SAT-1
    skyload simulate --profile s-band --update second
    skyload simulate --missions 100 --seed 1
    ```
    """
    if show_list:
        from groundsegment.console.simulate_words import print_list

        print_list(as_json=as_json)
        return
    if missions:
        _check_alone(
            scenario=bool(scenario), plan=plan, profile=profile, plot=plot, update=update, size=size, loss=loss
        )
        _fly_missions(missions, seed, jobs, satellite_command, as_json=as_json, quiet=quiet)
        return
    from groundsegment.console.simulate_words import Table, as_json_of, print_head, print_summary, tell_nothing
    from groundsegment.simulation.flying import fly_scenario
    from groundsegment.simulation.plots import check_plots, save_plots

    if plot is not None:
        check_plots()
    chosen = _scenario(scenario, plan, profile, seed=seed, full=full, scale=scale, size=size)
    chosen = _changed(chosen, rate=rate, loss=loss, symbol_size=symbol_size)
    chosen, bundles = _with_bundles(chosen, depot, update, satellite)
    is_compared = chosen.is_compared if compare is None else compare
    if not as_json and not quiet:
        print_head(chosen, is_compared=is_compared)
    with _interrupted(lambda: "nothing of a simulation is kept; the same command flies it from the start"):
        comparison = fly_scenario(
            chosen,
            bundles=bundles,
            is_compared=is_compared,
            satellite_command=satellite_command,
            on_contact=tell_nothing if quiet or as_json else Table().row,
        )
    paths = [] if plot is None else save_plots(chosen, comparison, plot)
    if as_json:
        print_json(as_json_of(chosen, comparison, paths))
    else:
        print_summary(comparison, paths)
    _finish(comparison.mission)


# What is flown


def _scenario(
    name: str,
    plan: Path | None,
    profile: str | None,
    *,
    seed: int | None,
    full: bool,
    scale: float | None,
    size: str | None,
) -> "Scenario":
    from dataclasses import replace

    from groundsegment.errors import InputError
    from groundsegment.simulation.ad_hoc import DEFAULT_SIZE, of_plan, of_profile
    from groundsegment.simulation.scenario import PlannedUpdate
    from groundsegment.simulation.scenario_file import load_scenario, parse_size

    if sum(bool(given) for given in (name, plan, profile)) != 1:
        raise InputError(
            "which contacts?", hint="give one of: a scenario (`skyload simulate --list`), --plan, --profile"
        )
    size_bytes = None if size is None else parse_size(size, option="--size")
    if not name:
        chosen = of_plan(plan, seed=seed) if plan is not None else of_profile(str(profile), seed=seed)
        update = PlannedUpdate(name="update", size_bytes=size_bytes or DEFAULT_SIZE)
        chosen = replace(chosen, updates=(update,))
    else:
        chosen = load_scenario(name, seed=seed, is_full=full or scale is not None)
        if size_bytes is not None:
            first = replace(chosen.updates[0], size_bytes=max(1, round(size_bytes / chosen.scale)))
            chosen = replace(chosen, updates=(first, *chosen.updates[1:]))
    return chosen if scale is None else chosen.scaled(scale)


def _changed(scenario: "Scenario", *, rate: str | None, loss: str | None, symbol_size: int | None) -> "Scenario":
    from dataclasses import replace

    from groundsegment.planner.quantities import parse_rate, parse_share
    from groundsegment.simulation.scenario_file import check_symbol_size

    links = []
    for link in scenario.links:
        up = link.up if rate is None else replace(link.up, rate_bps=parse_rate(rate))
        if loss is not None:
            up = replace(up, loss=parse_share(loss, option="--loss"), burst=None)
        links.append(replace(link, up=up))
    size = scenario.symbol_size if symbol_size is None else check_symbol_size(symbol_size)
    return replace(scenario, links=tuple(links), symbol_size=size)


def _with_bundles(
    scenario: "Scenario", depot: Path, update: str | None, satellite: str | None
) -> "tuple[Scenario, list[Path]]":
    """The scenario with a staged update, if one is asked for, and the files of its bundles."""
    if update is None and satellite is None:
        return scenario, []
    from dataclasses import replace

    from groundsegment.depot.depot import Depot
    from groundsegment.errors import UnknownError
    from groundsegment.naming import NEWEST, find_update

    with Depot.open(depot) as opened:
        found = find_update(opened, update or NEWEST, satellite=satellite, is_wanted=lambda entry: entry.state.is_open)
        if found.is_forgotten_here:
            words = f"update {found.handle.hex()} ({found.release_name}) was forgotten: its files are no more"
            raise UnknownError(words, hint="--size flies so many bytes of no update")
        bundles = opened.bundles(found.handle)
    flown = replace(scenario.updates[0], name=found.release_name, size_bytes=sum(one.size_bytes for one in bundles))
    return replace(scenario, updates=(flown, *scenario.updates[1:])), [bundle.path for bundle in bundles]


def _check_alone(**given: object) -> None:
    """Random missions have plans, payloads and losses of their own."""
    from groundsegment.errors import InputError

    names = [name if name == "scenario" else f"--{name}" for name, value in given.items() if value]
    if names:
        raise InputError(f"--missions has no use for {', '.join(names)}", hint="leave it out, or leave out --missions")


def _fly_missions(
    count: int, seed: int | None, jobs: int, satellite_command: str | None, *, as_json: bool, quiet: bool
) -> None:
    from groundsegment.simulation.random_missions import MissionReport, fly_missions, summarize

    done: list[MissionReport] = []

    def tell(report: MissionReport) -> None:
        done.append(report)
        for problem in report.problems:
            err.print(f"mission {report.seed}: {problem}", markup=False)
            err.print(f"repeat it: skyload simulate --missions 1 --seed {report.seed}", markup=False)
        if not quiet and len(done) % max(1, count // 20) == 0:
            err.print(f"{len(done)} of {count} missions flown", markup=False)

    def standing() -> str:
        return f"{len(done)} of {count} missions were flown, {sum(bool(one.problems) for one in done)} failed"

    with _interrupted(standing):
        reports = fly_missions(count, seed=1 if seed is None else seed, jobs=jobs, command=satellite_command, tell=tell)
    summary = summarize(reports)
    if as_json:
        print_json(summary)
    else:
        for name, value in summary.items():
            out.print(f"{name:<28} {value}", markup=False)
    if any(report.problems for report in reports):
        raise typer.Exit(1)


@contextlib.contextmanager
def _interrupted(words: Callable[[], str]) -> Iterator[None]:
    """Say what ctrl-C means here: a simulation does not go on where it was."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted: {words()}") from None


def _finish(mission: "MissionResult") -> None:
    if mission.wrong_bytes or mission.complete_s is None:
        what = "a wrong byte was delivered" if mission.wrong_bytes else "the plan ended before all was on board"
        err.print(f"error: {what}", markup=False)
        err.print("hint: give it more contacts, a higher --rate, or a smaller --size", markup=False)
        raise typer.Exit(1)
