"""What the installer is given, and what it says of itself."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from onboard.config import InstallConfig
from onboard.installer.book import Messages
from onboard.installer.serving import Serving
from onboard.store.layout import StateLayout
from onboard.store.record import RecordStore
from onboard.telemetry import Telemetry
from protocol.report import Reason, UpdateState


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the installer is given.

    Attributes:
        layout: the state directory; its directories exist.
        store: the trust record, loaded.
        root: trusted root metadata.
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
    utc: Callable[[], datetime | None] = lambda: None
    offer_again: Callable[[], None] = lambda: None
    crash_point: Callable[[str], None] = lambda name: None
    retry_s: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallStatus:
    """Where the newest update stands; for reports and people."""

    state: UpdateState
    reason: Reason
    update: bytes
    sequence: int
    release: bytes | None
    serving: bytes | None
    accepted: int
    floor: int
    attempts: int
    num_bundles: int
    bundle_ranges: tuple[tuple[int, int], ...]
    free_mib: int
