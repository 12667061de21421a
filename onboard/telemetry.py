"""The dictionary of events: everything the satellite may say about itself, each with an id that is never reused.

Severity: DIAGNOSTIC (for developers), ACTIVITY (what it did), WARNING_LO (local, it recovers by itself), WARNING_HI
(wider, somebody should look), FATAL (the daemon stops). Each event has a throttle: after so many in a minute the
rest are only counted, so that a fault that repeats cannot fill the log or the downlink.

Events go to the log as one line of key=value. Those marked `down` also go to the ground as signed messages.
"""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

logger = logging.getLogger("onboard")
_WINDOW_S = 60.0


class Severity(StrEnum):
    """How bad it is."""

    DIAGNOSTIC = "diagnostic"
    ACTIVITY = "activity"
    WARNING_LO = "warning_lo"
    WARNING_HI = "warning_hi"
    FATAL = "fatal"


_LEVELS = {
    Severity.DIAGNOSTIC: logging.DEBUG,
    Severity.ACTIVITY: logging.INFO,
    Severity.WARNING_LO: logging.WARNING,
    Severity.WARNING_HI: logging.ERROR,
    Severity.FATAL: logging.CRITICAL,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One entry of the dictionary.

    Attributes:
        id: never reused.
        name: what logs and messages call it.
        severity: how bad it is.
        text: for people; arguments stand beside it.
        throttle: how many a minute are told.
        down: whether the ground is told by a message.
    """

    id: int
    name: str
    severity: Severity
    text: str
    throttle: int = 20
    down: bool = False


_A, _LO, _HI = Severity.ACTIVITY, Severity.WARNING_LO, Severity.WARNING_HI

DAEMON_STARTED = Event(id=1, name="daemon_started", severity=_A, text="the daemon runs")
DAEMON_STOPPED = Event(id=2, name="daemon_stopped", severity=_A, text="the daemon stops")
DAEMON_FAILED = Event(id=3, name="daemon_failed", severity=Severity.FATAL, text="the daemon cannot go on")
CONFIG_WARNING = Event(id=4, name="config_warning", severity=_LO, text="the configuration is not as it should be")
RECORD_CREATED = Event(id=5, name="record_created", severity=_A, text="first start: a new trust record")
ROOT_MENDED = Event(id=6, name="root_mended", severity=_HI, text="copies of the trusted root were damaged or lost")
LEFTOVER_DELETED = Event(id=7, name="leftover_deleted", severity=_A, text="what no record speaks of was deleted")
INBOX_TROUBLE = Event(
    id=8, name="inbox_trouble", severity=_HI, text="the disk takes no symbols for now", throttle=6, down=True
)
LINK_NOT_SET = Event(id=9, name="link_not_set", severity=_LO, text="the link to the release that serves was not set")
LEFTOVER_STAYS = Event(id=10, name="leftover_stays", severity=_LO, text="what no record speaks of cannot be deleted")
ROOT_LOST = Event(
    id=15,
    name="root_lost",
    severity=_HI,
    text="no copy of the trusted root is good; nothing new is trusted until the roots are sent again",
    down=True,
)
RECORD_MENDED = Event(
    id=12, name="record_mended", severity=_LO, text="copies of the trust record were damaged", throttle=6, down=True
)
RECORD_CAUGHT_UP = Event(
    id=13, name="record_caught_up", severity=_A, text="a cut had left copies of the trust record behind"
)
RECORD_COPY_FAILED = Event(
    id=14,
    name="record_copy_failed",
    severity=_HI,
    text="a copy of the trust record cannot be written; the others hold it",
    throttle=6,
    down=True,
)

MEDIUM_READ_ONLY = Event(
    id=16,
    name="medium_read_only",
    severity=_HI,
    text="the state directory takes no writes: what is there serves, and nothing is taken until a later start",
)

OBJECT_POISONED = Event(
    id=11,
    name="object_poisoned",
    severity=_LO,
    text="an object was thrown away: its symbols made other bytes than it names; it is fetched once more",
    throttle=6,
    down=True,
)

SERVING_STARTED = Event(id=20, name="serving_started", severity=_A, text="the serving process listens")
SERVING_ENDED = Event(id=21, name="serving_ended", severity=_LO, text="the serving process ended and is restarted")
RELEASE_LOADED = Event(id=22, name="release_loaded", severity=_A, text="a release serves")
RELEASE_LOAD_FAILED = Event(
    id=23, name="release_load_failed", severity=_HI, text="the release that should serve does not load"
)
WORKER_FAILED = Event(id=24, name="worker_failed", severity=_LO, text="an engine worker ended")
SERVING_NOT_STARTED = Event(
    id=26, name="serving_not_started", severity=_HI, text="the serving process does not start", throttle=6, down=True
)
SERVING_HANGS = Event(id=27, name="serving_hangs", severity=_HI, text="the serving process hangs and is killed")
ENGINE_NOT_CONFINED = Event(
    id=28,
    name="engine_not_confined",
    severity=_LO,
    text="an engine runs without some of the locks that should hold it",
    throttle=6,
    down=True,
)
NOTHING_TO_SERVE = Event(id=25, name="nothing_to_serve", severity=_LO, text="no release is on board yet")

UPDATE_ACCEPTED = Event(id=40, name="update_accepted", severity=_A, text="its metadata is trusted")
UPDATE_REFUSED = Event(
    id=41, name="update_refused", severity=_HI, text="its metadata is not trusted", throttle=6, down=True
)
UPDATE_BLOCKED = Event(id=42, name="update_blocked", severity=_LO, text="the update cannot go on for now")
UPDATE_RESUMED = Event(id=43, name="update_resumed", severity=_A, text="the update goes on")
BUNDLE_INSTALLED = Event(
    id=44, name="bundle_installed", severity=Severity.DIAGNOSTIC, text="a bundle is in place", throttle=100
)
BUNDLE_SPOILT = Event(
    id=66,
    name="bundle_spoilt",
    severity=_LO,
    text="a bundle was damaged on our medium before it was in place: it must be sent again",
    throttle=6,
    down=True,
)
METADATA_LOST = Event(
    id=67,
    name="metadata_lost",
    severity=_HI,
    text="the metadata of an accepted update was damaged on our medium: it must be sent again",
    down=True,
)
UPDATE_VERIFIED = Event(id=45, name="update_verified", severity=_A, text="all files are there and as signed")
TRIAL_STARTED = Event(id=46, name="trial_started", severity=_A, text="the new release is tried beside the old")
TRIAL_INTERRUPTED = Event(id=47, name="trial_interrupted", severity=_LO, text="the trial did not end")
CANARY_ANSWERED = Event(id=48, name="canary_answered", severity=_A, text="the new release answered the canary")
FLIPPED = Event(id=49, name="flipped", severity=_A, text="requests go to another release")
FLIPPED_BACK = Event(id=50, name="flipped_back", severity=_LO, text="requests go to the old release again")
UPDATE_CONFIRMED = Event(id=51, name="update_confirmed", severity=_A, text="the new release serves for good")
UPDATE_REJECTED = Event(id=52, name="update_rejected", severity=_HI, text="the update is given up")
UPDATE_CANCELLED = Event(id=53, name="update_cancelled", severity=_A, text="the update is dropped")
RELEASE_DELETED = Event(id=54, name="release_deleted", severity=_A, text="a release that is not needed was deleted")
OLD_NOT_DRAINED = Event(id=55, name="old_not_drained", severity=_LO, text="the old release did not finish in time")
REVERTED = Event(id=56, name="reverted", severity=_A, text="another release on board serves, as it was told", down=True)
REVERT_FAILED = Event(
    id=57, name="revert_failed", severity=_HI, text="no older release could take over", throttle=6, down=True
)
INSTALLER_FAILED = Event(
    id=58, name="installer_failed", severity=_HI, text="an error of our own", throttle=6, down=True
)
RETURNED = Event(
    id=59,
    name="returned",
    severity=_HI,
    text="the release before serves again, for its successor kept failing",
    down=True,
)

UPDATE_WAITS = Event(
    id=60, name="update_waits", severity=_LO, text="it is trusted, and waits to be accepted", throttle=6, down=True
)

ROOT_ROTATED = Event(id=64, name="root_rotated", severity=_A, text="a new root is trusted", down=True)
EPOCH_BEGUN = Event(
    id=65, name="epoch_begun", severity=_HI, text="a root began a new epoch: what was pending ended", down=True
)
UPDATE_HELD = Event(
    id=61, name="update_held", severity=_A, text="all files are there; it waits to be activated", down=True
)
UPDATE_ACTIVATED = Event(id=62, name="update_activated", severity=_A, text="the ground lets its trial begin")
RELEASE_FORGOTTEN = Event(
    id=63, name="release_forgotten", severity=_A, text="a release and its keys were wiped, as commanded", down=True
)

STATION_WITHDRAWN = Event(
    id=75, name="station_withdrawn", severity=_A, text="a ground station's key was made void, as commanded", down=True
)
COMMAND_ACCEPTED = Event(id=70, name="command_accepted", severity=_A, text="a command is carried out")
COMMAND_REFUSED = Event(id=71, name="command_refused", severity=_LO, text="a command is not obeyed")
COMMAND_FAILED = Event(id=74, name="command_failed", severity=_HI, text="an error of our own", throttle=6)
MESSAGE_QUEUED = Event(
    id=72, name="message_queued", severity=Severity.DIAGNOSTIC, text="a message waits for the downlink"
)
MESSAGE_NOT_KEPT = Event(id=73, name="message_not_kept", severity=_LO, text="a message would be lost by a restart")

RELEASE_SCRUBBED = Event(
    id=100, name="release_scrubbed", severity=Severity.DIAGNOSTIC, text="a release was read from the medium, every byte"
)
FLIPS_REPAIRED = Event(
    id=101, name="flips_repaired", severity=_LO, text="flipped bits of a release were found and undone", down=True
)
RELEASE_DAMAGED = Event(
    id=102, name="release_damaged", severity=_HI, text="a release is damaged; the ground is asked for it", down=True
)
SCRUB_FAILED = Event(id=103, name="scrub_failed", severity=_HI, text="a scrub did not end", throttle=6, down=True)
RELEASE_RELOADED = Event(
    id=105, name="release_reloaded", severity=_A, text="what serves is loaded anew: its files were mended", down=True
)
WEIGHTS_FLIPPED = Event(
    id=104,
    name="weights_flipped",
    severity=_HI,
    text="a bit of the weights in memory was flipped; they are loaded anew",
    throttle=6,
    down=True,
)

EVENTS: Mapping[str, Event] = {event.name: event for event in list(globals().values()) if isinstance(event, Event)}


class Telemetry:
    """Counts events, throttles them, writes them to the log, and hands those meant for the ground on.

    Args:
        now: monotonic seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._counts: dict[str, int] = {}
        self._windows: dict[str, tuple[float, int]] = {}
        self.send_down: Callable[[Event, str, bytes | None], None] = lambda event, text, about: None
        self.on_event: Callable[[Event], None] = lambda event: None
        self.on_told: Callable[[Event, bytes | None, Mapping[str, object]], None] = lambda event, about, arguments: None
        """Hears of every event that is not throttled, with what it is about and its arguments."""

    def emit(self, event: Event, *, about: bytes | None = None, **arguments: object) -> None:
        """Tell that something happened.

        Args:
            event: what.
            about: handle of the update or command it is about.
            arguments: numbers and words; no secrets, no payload.
        """
        self._counts[event.name] = self._counts.get(event.name, 0) + 1
        self.on_event(event)
        if not self._may_tell(event):
            return
        words = {"event": event.name, **({"about": about.hex()} if about else {}), **arguments}
        line = " ".join(f"{key}={_value(value)}" for key, value in words.items())
        logger.log(_LEVELS[event.severity], "%s text=%s", line, _value(event.text))
        if event.down:
            details = " ".join(f"{key}={_value(value)}" for key, value in arguments.items())
            self.send_down(event, f"{event.text} {details}".strip(), about)
        self.on_told(event, about, arguments)

    def counters(self) -> dict[str, int]:
        """How often each event happened, told or not."""
        return dict(sorted(self._counts.items()))

    def _may_tell(self, event: Event) -> bool:
        start, told = self._windows.get(event.name, (self._now(), 0))
        if self._now() - start >= _WINDOW_S:
            start, told = self._now(), 0
        self._windows[event.name] = (start, told + 1)
        return told < event.throttle


def _value(value: Any) -> str:  # noqa: ANN401 - whatever an event carries
    if isinstance(value, bytes):
        return value.hex()
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    return text if text and all(c.isalnum() or c in "._:/+-" for c in text) else json.dumps(text)
