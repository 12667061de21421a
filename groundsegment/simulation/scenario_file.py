"""Scenarios as short YAML files, shipped or one's own.

description: one sentence
scale: 32                  # payload and contacts are so many times smaller; the number of contacts stays
days: 14                   # the plan's length
symbol_size: 1280
bundle: 16MB               # largest bundle
known_loss: 5%             # believed before the first contact
updates:
- {name: model, size: 5GB, priority: 0, weight: 1, staged_h: 0}
link: {...}                # a link profile: docs/link-emulator.md
passes:                    # contacts of a station, as an orbit gives them; else those of the link
chengdu: {per_day: 4.3, mean_s: 435, first_h: 0}
kills: {ground: 10, satellite: 10}     # at random times while sending
silences: [{from_h: 20, to_h: 40}]     # no return path
compare: true              # with other schemes
"""

import difflib
from dataclasses import replace
from importlib import resources
from pathlib import Path

import yaml

from groundsegment import plain_yaml
from groundsegment.emulator.conditions import LinkProfile
from groundsegment.emulator.profile import parse_profile
from groundsegment.errors import InputError
from groundsegment.planner.quantities import parse_share
from groundsegment.simulation import seeds
from groundsegment.simulation.mapping import HINT, Mapping
from groundsegment.simulation.passes import Passes, pass_contacts
from groundsegment.simulation.scenario import PlannedUpdate, Scenario
from protocol.limits import OBJECT_SIZE_MAX, SYMBOL_ALIGNMENT, SYMBOL_SIZE_DEFAULT, SYMBOL_SIZE_MAX

_SHIPPED = resources.files("groundsegment.simulation") / "scenarios"
_SCENARIO_BYTES_MAX = 256 * 1024
_UNITS = {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 1024.0, "MiB": 1024.0**2, "GiB": 1024.0**3}
SIZE_MAX = 200e9
HOUR_S = 3600.0
DAYS_MAX, PASSES_MAX = (
    3660.0,
    100.0,
)  # ten years, every quarter of an hour: what is more is a slip, and takes all memory


def scenario_names() -> list[str]:
    """The shipped scenarios, sorted."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _SHIPPED.iterdir() if entry.name.endswith(".yaml"))


def load_scenario(name_or_path: str, *, seed: int | None = None, is_full: bool = False) -> Scenario:
    """Read a scenario, shipped or a file's; scaled as it says, unless it is wanted in full.

    Raises:
        InputError: there is none, or it is not valid.
    """
    if name_or_path in scenario_names():
        text = (_SHIPPED / f"{name_or_path}.yaml").read_text(encoding="utf-8")
    else:
        text = _text_of(Path(name_or_path), name_or_path)
    try:
        content = plain_yaml.load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{name_or_path}: not YAML: {error}", hint=HINT) from error
    scenario, scale = parse_scenario(content, name=Path(name_or_path).stem, source=name_or_path, seed=seed)
    return scenario if is_full else scenario.scaled(scale)


def parse_scenario(content: object, *, name: str, source: str, seed: int | None) -> tuple[Scenario, float]:
    """Check the content of a scenario; returns it in full, and by how much to scale it.

    Raises:
        InputError: not valid; names the key.
    """
    fields = Mapping(content, source, "")
    scale = fields.number("scale", 1.0, least=1.0)
    until_s = fields.number("days", 14.0, least=0.001, most=DAYS_MAX) * 86_400
    seed = int(fields.number("seed", 1.0)) if seed is None else seed
    link = _link(fields.take("link", {}), name, source)
    passes = {
        str(station): _passes(value, f"{source}: passes.{station}")
        for station, value in Mapping(fields.take("passes", {}), source, "passes").items()
    }
    updates = fields.take("updates", None)
    if not isinstance(updates, list) or not updates:
        raise InputError(f"{source}: updates must be a list with at least one update", hint=HINT)
    kills = Mapping(fields.take("kills", {}), source, "kills")
    scenario = Scenario(
        name=name,
        description=str(fields.take("description", "")),
        updates=tuple(_update(item, f"{source}: update {number}") for number, item in enumerate(updates, start=1)),
        links=_links(link, passes, until_s, seed, source),
        until_s=until_s,
        symbol_size=check_symbol_size(int(fields.number("symbol_size", float(SYMBOL_SIZE_DEFAULT)))),
        bundle_bytes=min(parse_size(fields.take("bundle", "16MiB"), option=f"{source}: bundle"), OBJECT_SIZE_MAX),
        known_loss=parse_share(str(fields.take("known_loss", "5%")), option=f"{source}: known_loss"),
        ground_kills=int(kills.number("ground", 0.0)),
        satellite_kills=int(kills.number("satellite", 0.0)),
        silences=tuple(_silence(item, f"{source}: silences") for item in fields.items_of("silences")),
        is_compared=bool(fields.take("compare", False)),
        seed=seed,
    )
    kills.close()
    fields.close()
    return scenario, scale


def parse_size(text: object, *, option: str) -> int:
    """Read a size with its unit; returns bytes.

    Raises:
        InputError: it is none.
    """
    word = str(text).strip()
    number = word.rstrip("BkMGKi")
    unit = word[len(number) :] or "B"
    try:
        size = float(number) * _UNITS[unit]
    except (ValueError, KeyError):
        size = -1.0
    if not 1 <= size <= SIZE_MAX:
        raise InputError(f"{option}: {word!r} is not a size of at most 200GB", hint="write 5GB, 300MB or 64MiB")
    return int(size)


def check_symbol_size(size: int) -> int:
    """Return a symbol size as it is, if symbols may have it.

    Raises:
        InputError: they may not.
    """
    if size % SYMBOL_ALIGNMENT or not SYMBOL_ALIGNMENT <= size <= SYMBOL_SIZE_MAX:
        raise InputError(
            f"symbol size {size} is not a multiple of 8 from 8 to {SYMBOL_SIZE_MAX}", hint="1280 is what flies"
        )
    return size


def _text_of(path: Path, name: str) -> str:
    if not path.is_file():
        near = difflib.get_close_matches(name, scenario_names(), n=1)
        question = f"did you mean {near[0]}? " if near else ""
        raise InputError(f"no scenario {name!r}", hint=f"{question}{HINT}")
    if path.stat().st_size > _SCENARIO_BYTES_MAX:
        raise InputError(f"{path}: larger than {_SCENARIO_BYTES_MAX} bytes", hint=HINT)
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not text", hint=HINT) from error


def _link(value: object, name: str, source: str) -> LinkProfile:
    return parse_profile(yaml.safe_dump(value), name=name, source=f"{source}: link")


def _links(
    link: LinkProfile, passes: dict[str, Passes], until_s: float, seed: int, source: str
) -> tuple[LinkProfile, ...]:
    links = link.stations or (replace(link, name=next(iter(passes), "")),)
    unknown = [station for station in passes if station not in {one.name for one in links}]
    if unknown:
        raise InputError(f"{source}: passes.{unknown[0]}: the link has no such station", hint=HINT)
    found = []
    for one in links:
        contacts = one.contacts
        if one.name in passes:
            rng = seeds.source(seed, "passes", one.name)
            contacts = pass_contacts(passes[one.name], until_s=until_s, rng=rng, station=one.name)
        found.append(replace(one, contacts=contacts, stations=()))
    return tuple(found)


def _update(item: object, place: str) -> PlannedUpdate:
    fields = Mapping(item, place, "")
    update = PlannedUpdate(
        name=str(fields.take("name", "update")),
        size_bytes=parse_size(fields.take("size", ""), option=f"{place}: size"),
        priority=int(fields.number("priority", 0.0, least=-1e6)),
        weight=fields.number("weight", 1.0, least=1e-6),
        staged_s=fields.number("staged_h", 0.0) * HOUR_S,
    )
    fields.close()
    return update


def _passes(item: object, place: str) -> Passes:
    fields = Mapping(item, place, "")
    passes = Passes(
        per_day=fields.number("per_day", 4.3, least=0.01, most=PASSES_MAX),
        mean_s=fields.number("mean_s", 435.0, least=1.0),
        first_s=fields.number("first_h", 0.0) * HOUR_S,
    )
    fields.close()
    return passes


def _silence(item: object, place: str) -> tuple[float, float]:
    fields = Mapping(item, place, "")
    span = fields.number("from_h", 0.0) * HOUR_S, fields.number("to_h", 0.0) * HOUR_S
    fields.close()
    if span[1] <= span[0]:
        raise InputError(f"{place}: ends before it starts", hint=HINT)
    return span
