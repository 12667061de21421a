"""The daemon's configuration: one TOML file, read once, every mistake named with its key and line.

    [satellite]  name, state_dir
    [link]       listen, link_key_file, report_interval_s, report_bytes_per_s, sync_interval_s, silent
    [trust]      root_file, release_key_file, identity_key_file, clock = "untrusted" | "trusted",
                 freshness = "optional" | "required"
    [endpoint]   listen
    [engine]     kind, command, threads
    [install]    probation_s, attempts_max, keep_releases, drain_timeout_s
    [limits]     inbox_bytes_max, open_objects_max
    [commands]   arm_expires_s, blind
    [scrub]      period_s

Relative paths are relative to the file. Nothing is created or opened here but the file itself, and the key files
when `read_key` is asked for them. A key the code does not know is an error, with the nearest known one as a hint:
a misspelt limit that is silently ignored would be found out in orbit.
"""

import difflib
import re
import stat
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from onboard.errors import ConfigError
from protocol.limits import MIB
from protocol.names import is_safe_name

KEY_SIZE = 32
INBOX_BYTES_MIN = 96 * MIB  # the largest object, its largest block once more, and the share of small objects
_CLOCKS = ("untrusted", "trusted")
_FRESHNESS = ("optional", "required")
_CONFINEMENTS = ("required", "best-effort", "off")
_ENGINES = ("transformers", "command")
_TABLE_LINE = re.compile(r"^\s*\[{1,2}\s*([A-Za-z0-9_.-]+)\s*\]")
_KEY_LINE = re.compile(r"^\s*([A-Za-z0-9_.-]+)\s*=")


@dataclass(frozen=True, slots=True, kw_only=True)
class SatelliteConfig:
    """Who we are and where our state lies."""

    name: str
    state_dir: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkConfig:
    """The link: where frames come in, and what goes down.

    Attributes:
        listen: address of the UDP socket.
        link_key_file: the key shared with the ground; None: frames carry a CRC only, on links that authenticate below.
        report_interval_s: between two reports while frames arrive.
        report_bytes_per_s: the return link's rate.
        sync_interval_s: how often symbols are made durable.
        silent: send nothing at all (one-way links, radio silence).
    """

    listen: tuple[str, int]
    link_key_file: Path | None
    report_interval_s: float = 0.1
    report_bytes_per_s: int = 20000
    sync_interval_s: float = 1.0
    silent: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustConfig:
    """Whom we believe.

    Attributes:
        root_file: the TUF root of the day of integration; later ones are kept in the state directory.
        release_key_file: our private key for what is wrapped for us: X25519 or hybrid (`protocol.recipient_keys`).
        identity_key_file: our Ed25519 private key; signs what we say.
        is_clock_trusted: whether the system clock decides about expiry.
        must_be_fresh: whether an update must echo what reports told lately.
    """

    root_file: Path
    release_key_file: Path
    identity_key_file: Path
    is_clock_trusted: bool = False
    must_be_fresh: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """How a release is run.

    Attributes:
        kind: the built-in engine, or "command".
        command: replaces the worker's command; empty for the built-in one.
        threads: CPU threads of one worker.
        confinement: "required", "best-effort" or "off": whether a worker may run without locks that cannot be had.
        user: account that workers run as, where the daemon is root; empty for our own.
        readable: more paths that workers may read.
        devices: device files that workers may use, such as a GPU's.
        network: whether workers may use TCP, for engines of several processes.
        memory_bytes_max: of one worker; 0 for what a release of its size needs.
    """

    kind: str = "transformers"
    command: tuple[str, ...] = ()
    threads: int = 1
    confinement: str = "best-effort"
    user: str = ""
    readable: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    network: bool = False
    memory_bytes_max: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallConfig:
    """How careful an installation is.

    Attributes:
        probation_s: a new release must serve so long without a crash before it is confirmed.
        attempts_max: trials of one update, interrupted ones included.
        keep_releases: confirmed releases kept on board, the serving one included.
        drain_timeout_s: how long the old release may finish its answers.
    """

    probation_s: float = 2.0
    attempts_max: int = 3
    keep_releases: int = 2
    drain_timeout_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsConfig:
    """What the inbox may take."""

    inbox_bytes_max: int = 512 * MIB
    open_objects_max: int = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandsConfig:
    """How dangerous commands are taken, see `protocol.arming`.

    Attributes:
        arm_expires_s: how long one that is armed may be fired.
        is_blind_allowed: whether one may be fired by a ground that cannot hear us.
    """

    arm_expires_s: float = 600.0
    is_blind_allowed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrubConfig:
    """How often flipped bits are looked for.

    Attributes:
        period_s: in which every release on board is read once, and the weights in memory are; 0: only when told.
    """

    period_s: float = 5700.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole configuration, and warnings that do not stop anything."""

    path: Path
    satellite: SatelliteConfig
    link: LinkConfig
    trust: TrustConfig
    endpoint_listen: tuple[str, int]
    engine: EngineConfig
    install: InstallConfig
    limits: LimitsConfig
    commands: CommandsConfig = field(default_factory=CommandsConfig)
    scrub: ScrubConfig = field(default_factory=ScrubConfig)
    warnings: tuple[str, ...] = ()


def load_config(path: Path) -> Config:
    """Read a configuration file.

    Raises:
        ConfigError: it cannot be read, or a key is missing, unknown or out of range.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"{path}: {reason}", hint="Give --config FILE; `skyload keys init` on the ground makes one."
        ) from None
    return parse_config(text, path=path)


def parse_config(text: str, *, path: Path) -> Config:
    """Parse a configuration; `path` is for messages and relative paths. Looks at the mode of key files."""
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        line = re.search(r"at line (\d+)", str(error))
        where = f"{path}:{line.group(1)}" if line else str(path)
        raise ConfigError(f"{where}: not valid TOML: {error}", hint="See https://toml.io for the syntax.") from None
    reader = _Reader(document, _line_numbers(text), path)
    config = _build(reader, path)
    reader.finish()
    return config


def read_link_key(link: LinkConfig) -> bytes | None:
    """Return the link's key, None on a link that authenticates below. Raises as `read_key`."""
    return None if link.link_key_file is None else read_key(link.link_key_file, what="link.link_key_file")


def read_key(path: Path, *, what: str, sizes: tuple[int, ...] = (KEY_SIZE,)) -> bytes:
    """Return the 32 bytes of a key file (64 hexadecimal digits), or as many as `sizes` allows.

    Raises:
        ConfigError: it cannot be read, or is not a key.
    """
    try:
        text = path.read_text(encoding="ascii").strip()
        key = bytes.fromhex(text)
    except OSError as error:
        raise ConfigError(
            f"{path}: {what}: {error.strerror}", hint="The kit made by `skyload keys init` holds it."
        ) from None
    except ValueError:
        key = b""
    if len(key) not in sizes:
        raise ConfigError(
            f"{path}: {what}: expected {2 * sizes[0]} hexadecimal digits", hint="Copy the file from the kit again."
        )
    return key


def parse_address(value: str) -> tuple[str, int]:
    """Split "host:port"; brackets around an IPv6 host.

    Raises:
        ValueError: it is not one.
    """
    host, colon, port = value.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f'expected "host:port", got "{value}"')
    return host, int(port)


def _build(reader: "_Reader", path: Path) -> Config:
    satellite = SatelliteConfig(
        name=reader.text("satellite.name", check=_check_name), state_dir=reader.path("satellite.state_dir")
    )
    link = LinkConfig(
        listen=reader.address("link.listen"),
        link_key_file=reader.path_or_none("link.link_key_file"),
        report_interval_s=reader.number("link.report_interval_s", 0.1, lowest=0.01, highest=3600),
        report_bytes_per_s=reader.integer("link.report_bytes_per_s", 20000, lowest=1),
        sync_interval_s=reader.number("link.sync_interval_s", 1.0, lowest=0.01, highest=60),
        silent=reader.boolean("link.silent", default=False),
    )
    trust = TrustConfig(
        root_file=reader.path("trust.root_file"),
        release_key_file=reader.path("trust.release_key_file"),
        identity_key_file=reader.path("trust.identity_key_file"),
        is_clock_trusted=reader.choice("trust.clock", _CLOCKS, "untrusted") == "trusted",
        must_be_fresh=reader.choice("trust.freshness", _FRESHNESS, "optional") == "required",
    )
    endpoint_listen = reader.address("endpoint.listen", ("127.0.0.1", 8080))
    engine = EngineConfig(
        kind=reader.choice("engine.kind", _ENGINES, "transformers"),
        command=reader.texts("engine.command"),
        threads=reader.integer("engine.threads", 1, lowest=1, highest=1024),
        confinement=reader.choice("engine.confinement", _CONFINEMENTS, "best-effort"),
        user=reader.text_or("engine.user", ""),
        readable=reader.texts("engine.readable"),
        devices=reader.texts("engine.devices"),
        network=reader.boolean("engine.network", default=False),
        memory_bytes_max=reader.integer("engine.memory_bytes_max", 0, lowest=0),
    )
    if engine.kind == "command" and not engine.command:
        reader.fail("engine.command", 'is needed with kind = "command"', "Give the worker's command as an array.")
    install = InstallConfig(
        probation_s=reader.number("install.probation_s", 2.0, lowest=0, highest=86400),
        attempts_max=reader.integer("install.attempts_max", 3, lowest=1, highest=100),
        keep_releases=reader.integer("install.keep_releases", 2, lowest=1, highest=6),
        drain_timeout_s=reader.number("install.drain_timeout_s", 60.0, lowest=0, highest=86400),
    )
    scrub = ScrubConfig(period_s=reader.number("scrub.period_s", 5700.0, lowest=0, highest=31_536_000))
    limits = LimitsConfig(
        inbox_bytes_max=reader.integer("limits.inbox_bytes_max", 512 * MIB, lowest=INBOX_BYTES_MIN),
        open_objects_max=reader.integer("limits.open_objects_max", 64, lowest=2, highest=4096),
    )
    commands = CommandsConfig(
        arm_expires_s=reader.number("commands.arm_expires_s", 600.0, lowest=1, highest=7 * 86400),
        is_blind_allowed=reader.boolean("commands.blind", default=False),
    )
    return Config(
        path=path,
        satellite=satellite,
        link=link,
        trust=trust,
        endpoint_listen=endpoint_listen,
        engine=engine,
        install=install,
        limits=limits,
        scrub=scrub,
        commands=commands,
        warnings=(*_link_warnings(link), *_mode_warnings(trust.release_key_file, trust.identity_key_file)),
    )


def _check_name(value: str) -> str | None:
    return None if is_safe_name(value) else "must be one word of A-Z a-z 0-9 . _ -"


def _link_warnings(link: LinkConfig) -> list[str]:
    if link.link_key_file is None:
        return ["link.link_key_file is empty: frames carry a CRC only; the link below must authenticate them"]
    return _mode_warnings(link.link_key_file)


def _mode_warnings(*key_files: Path) -> list[str]:
    warnings = []
    for path in key_files:
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
        except OSError:
            continue  # whoever reads the key says what is wrong
        if mode & 0o077:
            warnings.append(f"{path}: others may read this secret (mode {mode:04o}); chmod 600 it")
    return warnings


def _line_numbers(text: str) -> dict[str, int]:
    """Find the line of each table and key; `tomllib` does not tell. What it misses is named without a line."""
    lines: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if match := _TABLE_LINE.match(line):
            table = match.group(1)
            lines.setdefault(table, number)
        elif match := _KEY_LINE.match(line):
            lines.setdefault(f"{table}.{match.group(1)}" if table else match.group(1), number)
    return lines


class _Reader:
    """Takes values out of the parsed document one by one; what nobody took is unknown."""

    def __init__(self, document: Mapping[str, Any], lines: Mapping[str, int], path: Path) -> None:
        self._document, self._lines, self._path = document, lines, path
        self._known: set[str] = set()

    def fail(self, key: str, problem: str, hint: str = "") -> NoReturn:
        """Raise a ConfigError that names the file, the line and the key."""
        hint = hint or "Correct that line; the file that `skyload keys init` makes explains every key."
        line = self._lines.get(key) or self._lines.get(key.partition(".")[0])
        where = f"{self._path}:{line}" if line else str(self._path)
        error = ConfigError(f"{where}: {key}: {problem}", hint=hint)
        error.key, error.line = key, line or 0
        raise error

    def text(self, key: str, *, check: Callable[[str], str | None] = lambda value: None) -> str:
        """A string that must be there."""
        value = self._take(key)
        if value is None:
            self._fail_missing(key)
        if not isinstance(value, str) or not value:
            self.fail(key, f"must be a string that is not empty, got {value!r}")
        if problem := check(value):
            self.fail(key, f"{problem}, got {value!r}")
        return value

    def text_or(self, key: str, default: str) -> str:
        """A string that may be absent or empty."""
        value = self._take(key)
        if value is None:
            return default
        if not isinstance(value, str):
            self.fail(key, f"must be a string, got {value!r}")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """An array of strings; empty if absent."""
        value = self._take(key)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            self.fail(key, f"must be an array of strings, got {value!r}", 'For example ["/usr/bin/engine", "--fast"].')
        return tuple(value)

    def path(self, key: str) -> Path:
        """A path, relative to the configuration file."""
        text = self.text(key, check=lambda value: "must hold no NUL" if "\0" in value else None)
        try:
            return self._path.parent.absolute() / Path(text).expanduser()
        except RuntimeError:  # nobody's home
            self.fail(key, f"no such user, got {text!r}", "Give the path without ~.")

    def path_or_none(self, key: str) -> Path | None:
        """A path as `path`, or None where it says so with an empty string. It must be there all the same."""
        if self._peek(key) == "":
            self._take(key)
            return None
        return self.path(key)

    def address(self, key: str, default: tuple[str, int] | None = None) -> tuple[str, int]:
        """A "host:port"."""
        if default is not None and self._peek(key) is None:
            self._take(key)
            return default
        try:
            return parse_address(self.text(key))
        except ValueError as error:
            self.fail(key, str(error), 'For example "127.0.0.1:7003" or "[::]:7003".')

    def choice(self, key: str, choices: tuple[str, ...], default: str) -> str:
        """One of a few words."""
        value = self._take(key)
        if value is None:
            return default
        if value not in choices:
            self.fail(key, f"must be one of {', '.join(choices)}, got {value!r}", _nearest(str(value), choices))
        return str(value)

    def boolean(self, key: str, *, default: bool) -> bool:
        """True or false."""
        value = self._take(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.fail(key, f"must be true or false, got {value!r}")
        return value

    def integer(self, key: str, default: int, *, lowest: int, highest: int = 2**62) -> int:
        """A whole number in lowest .. highest."""
        value = self._take(key)
        if value is None:
            return default
        if type(value) is not int or not lowest <= value <= highest:
            upper = f"..{highest}" if highest < 2**62 else " or more"
            self.fail(key, f"must be a whole number, {lowest}{upper}, got {value!r}")
        return value

    def number(self, key: str, default: float, *, lowest: float, highest: float) -> float:
        """A number in lowest .. highest."""
        value = self._take(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not lowest <= value <= highest:
            self.fail(key, f"must be a number in {lowest:g}..{highest:g}, got {value!r}")
        return float(value)

    def finish(self) -> None:
        """Refuse the first key that nobody took."""
        tables = {key.partition(".")[0] for key in self._known}
        for table, content in self._document.items():
            if table not in tables:
                self.fail(table, "is not a table this version knows", _nearest(table, tables))
            for name in content:
                key = f"{table}.{name}"
                if key not in self._known:
                    names = [known.partition(".")[2] for known in self._known if known.startswith(f"{table}.")]
                    self.fail(key, "is not a key this version knows", _nearest(name, names))

    def _fail_missing(self, key: str) -> NoReturn:
        table, _, name = key.partition(".")
        misspelt = difflib.get_close_matches(name, self._document.get(table, {}), n=1)
        if misspelt:
            self.fail(f"{table}.{misspelt[0]}", "is not a key this version knows", f"Did you mean {name}?")
        self.fail(key, "is missing", f"Add it to the table [{table}].")

    def _peek(self, key: str) -> Any:  # noqa: ANN401 - checked by the callers
        table, _, name = key.partition(".")
        content = self._document.get(table, {})
        if not isinstance(content, dict):
            self.fail(table, "must be a table", f"Write [{table}] on a line of its own.")
        return content.get(name)

    def _take(self, key: str) -> Any:  # noqa: ANN401 - checked by the callers
        self._known.add(key)
        return self._peek(key)


def _nearest(word: str, known: "tuple[str, ...] | set[str] | list[str]") -> str:
    near = difflib.get_close_matches(word, sorted(known), n=1)
    return f"Did you mean {near[0]}?" if near else f"Known are: {', '.join(sorted(known))}."
