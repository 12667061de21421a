"""What the installer is given, and what it says of itself."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from onboard.config import InstallConfig
from onboard.installer.book import Messages
from onboard.installer.freshness import Nonces
from onboard.installer.serving import Serving
from onboard.store.layout import StateLayout
from onboard.store.record import RecordStore
from onboard.telemetry import Telemetry
from protocol.report import NO_HANDLE, NO_NONCE, Reason, UpdateState


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the installer is given.

    Attributes:
        layout: the state directory; its directories exist.
        store: the trust record, loaded.
        root: trusted root metadata.
        is_root_lost: it is an older one, for the newest was lost: roots must come before anything else is trusted.
        nonces: what timestamps may echo.
        must_be_fresh: refuse an update that echoes none.
        satellite: our name.
        release_private_key: opens release keys.
        options: from the configuration.
        serving: whatever serves.
        messages: to the ground.
        telemetry: events.
        utc: the time, if the clock is believed.
        offer_again: tells the receiver to offer kept objects again.
        crash_point: called with a name where a power cut would be most unkind; for tests.
        retry_s: first pause before a blocked update is tried again; doubles up to ten minutes.
    """

    layout: StateLayout
    store: RecordStore
    root: bytes
    satellite: str
    release_private_key: bytes
    options: InstallConfig
    serving: Serving
    messages: Messages
    telemetry: Telemetry
    nonces: Nonces
    is_root_lost: bool = False
    must_be_fresh: bool = False
    utc: Callable[[], datetime | None] = lambda: None
    offer_again: Callable[[], None] = lambda: None
    crash_point: Callable[[str], None] = lambda name: None
    retry_s: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateStanding:
    """Where one update stands; for reports and people.

    Attributes:
        handle: of its metadata object.
        state: of the table.
        reason: why it is rejected or stands still.
        sequence: of the update; 0 if it was not accepted.
        release: digest of the release it makes; None if it was not accepted.
        attempts: trials begun.
        num_bundles: how many it has; 0 if that is not known any more.
        bundle_ranges: those in place, as inclusive ranges.
    """

    handle: bytes
    state: UpdateState
    reason: Reason = Reason.NONE
    sequence: int = 0
    release: bytes | None = None
    attempts: int = 0
    num_bundles: int = 0
    bundle_ranges: tuple[tuple[int, int], ...] = ()


NO_UPDATE = UpdateStanding(handle=NO_HANDLE, state=UpdateState.NONE)


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallStatus:
    """Where things stand.

    Attributes:
        updates: pending ones, newest first, and as far as a report takes more: one that waits to be accepted, the one
            that ended last, one that was refused, others that ended.
        serving: digest of the release that answers.
        accepted: version of the newest accepted metadata.
        floor: lowest sequence that may serve.
        free_mib: of the disk.
        root_version: of the newest root ever trusted.
        epoch: of `accepted`.
        nonce: what a timestamp may echo to show that it is fresh.
        commands: highest number of a command so far.
    """

    updates: tuple[UpdateStanding, ...]
    serving: bytes | None
    accepted: int
    floor: int
    free_mib: int
    root_version: int = 0
    epoch: int = 0
    nonce: bytes = NO_NONCE
    commands: int = 0

    @property
    def first(self) -> UpdateStanding:
        """The most urgent update."""
        return self.updates[0] if self.updates else NO_UPDATE
