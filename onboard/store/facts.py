"""The facts that a satellite must never forget, as one value, and how it is packed. Pure; `record` makes it durable.

How to add a fact:

1. Give `OnboardRecord` a field with a default that means "never heard of", and a line in its docstring.
2. Give it a line in `encode`, and one in `decode` under `facts.has(...)`: a record that an older build wrote lacks the
   fact and gets the default, so a satellite outlives a new build of its software. A fact that this build does not know
   is an error, because dropping it silently could forget a revoked key.
3. Give it its largest value in LARGEST of `tests/unit/onboard/test_store_facts.py`: it must still fit a slot, since the
   record cannot grow on a full disk. So facts are small; what is large goes into a synced file named by its digest,
   written before the record holds the digest.
4. Change it with `store.store(replace(store.record, fact=...))`, before anybody acts on it, without an `await` between
   reading the record and storing it.
"""

from dataclasses import dataclass, field, replace
from typing import Any, Self

from onboard.store.slots import DATA_SIZE_MAX
from protocol.arming import ARMED_MAX, INTENT_SIZE, Armed
from protocol.command import NONCE_SIZE
from protocol.errors import DecodeError
from protocol.limits import NAME_LENGTH_MAX, STATIONS_MAX
from protocol.packing import Fields, pack_map, unpack_map
from protocol.report import FRESHNESS_SIZE, NO_HANDLE, UPDATES_MAX, Reason, UpdateState
from protocol.trust import ALL_CLOSED

RECORD_SIZE_MAX = DATA_SIZE_MAX
PENDING_MAX = UPDATES_MAX  # at once: a report must have a seat for each
ENDED_MAX = 4  # remembered with how they ended, newest first
RELEASES_MAX = 16  # at once: six kept, what pending updates make or build on, the one just confirmed, the golden one
NONCES_MAX = 2  # what was told a little before counts as fresh, too
REJECTED_MAX = 16  # updates remembered as rejected, newest first
FIRST_GENERATIONS = (0,) * STATIONS_MAX
_VERSION = 1
_DIGEST_SIZE = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownRelease:
    """A sealed release on board.

    Attributes:
        digest: SHA-256 of its manifest of files; names its directory.
        name: what people call it.
        sequence: of the update that brought it.
    """

    digest: bytes
    name: str
    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedUpdate:
    """An accepted update and how it stands.

    Attributes:
        handle: of its metadata object.
        version: of its metadata; the higher one is newer.
        sequence: of the update.
        release: digest of the release it makes.
        state: of the table in the installer.
        reason: why it is rejected or stands still.
        attempts: trials begun, the running one included.
        metadata: SHA-256 of its metadata object, by which it is believed again if our copy is damaged: a handle is too
            short for that. Empty if an older build accepted it.
    """

    handle: bytes
    version: int
    sequence: int
    release: bytes
    state: UpdateState
    reason: Reason = Reason.NONE
    attempts: int = 0
    metadata: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectedUpdate:
    """An update that ended REJECTED; it is not tried again.

    Attributes:
        handle: of its metadata object.
        reason: why.
    """

    handle: bytes
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class OnboardRecord:
    """Everything the satellite must never forget.

    Attributes:
        accepted: version of the newest metadata accepted in this epoch; stops replay, and never goes back within it.
        closed: which versions before it may not be accepted either, see `protocol.trust.TrustState`.
        floor: lowest release sequence that may ever serve; raised only after a confirmation.
        boot_count: starts of the daemon.
        message_counter: counters below it may have been used; see `MessageCounters`.
        command_highest: `protocol.command.CounterWindow.highest`.
        command_seen: `protocol.command.CounterWindow.seen`.
        armed: dangerous commands that may be fired, newest first, at most ARMED_MAX; see `protocol.arming`.
        stations: generation of each ground station's key, by its number; see `protocol.link_keys`. Older ones are void.
        current: digest of the release that serves, None before the first.
        previous: digest of the release to return to.
        golden: digest of the release that is never deleted, and serves when nothing else can.
        releases: all sealed releases on board, newest first.
        pending: updates that have not ended, newest version first, at most PENDING_MAX.
        ended: the updates that ended last, newest end first, at most ENDED_MAX.
        rejected: newest first, at most REJECTED_MAX.
        epoch: of `accepted`, `closed`, `floor` and `time_floor`; it never goes back (`protocol.trust`).
        time_floor: seconds since 1970: root keys signed that it is later than that.
        root_version: of the newest root ever trusted, 0 before the first start.
        root_digest: SHA-256 of that root, which lies in files of its own (`roots`).
        nonces: what timestamps may echo to show that they are fresh, newest first, at most NONCES_MAX.
        num_mended: slots of this record that were found damaged or lost, and were written again, ever.
    """

    accepted: int = 0
    closed: int = ALL_CLOSED
    floor: int = 0
    boot_count: int = 0
    message_counter: int = 1
    command_highest: int = 0
    command_seen: int = 0
    armed: tuple[Armed, ...] = ()
    stations: tuple[int, ...] = FIRST_GENERATIONS
    current: bytes | None = None
    previous: bytes | None = None
    golden: bytes | None = None
    releases: tuple[KnownRelease, ...] = ()
    pending: tuple[RecordedUpdate, ...] = ()
    ended: tuple[RecordedUpdate, ...] = ()
    rejected: tuple[RejectedUpdate, ...] = field(default=())
    epoch: int = 0
    time_floor: int = 0
    root_version: int = 0
    root_digest: bytes | None = None
    nonces: tuple[bytes, ...] = ()
    num_mended: int = 0

    def release(self, digest: bytes) -> KnownRelease | None:
        """The known release with that digest."""
        return next((known for known in self.releases if known.digest == digest), None)

    def with_release(self, known: KnownRelease) -> Self:
        """Return a record that knows one release more; one with the same digest is replaced."""
        others = (other for other in self.releases if other.digest != known.digest)
        return replace(self, releases=(known, *others))

    def without_release(self, digest: bytes) -> Self:
        """Return a record that does not know a release any more."""
        return replace(self, releases=tuple(known for known in self.releases if known.digest != digest))

    def update(self, handle: bytes) -> RecordedUpdate | None:
        """The pending or lately ended update with that handle."""
        return next((update for update in (*self.pending, *self.ended) if update.handle == handle), None)

    def is_pending(self, handle: bytes) -> bool:
        """Whether an update has not ended."""
        return any(update.handle == handle for update in self.pending)

    def with_pending(self, update: RecordedUpdate) -> Self:
        """Return a record with a pending update; one with the same handle is replaced."""
        others = (other for other in self.pending if other.handle != update.handle)
        pending = sorted((update, *others), key=lambda each: each.version, reverse=True)
        return replace(self, pending=tuple(pending))

    def with_ended(self, update: RecordedUpdate) -> Self:
        """Return a record in which a pending update has ended."""
        return replace(
            self,
            pending=tuple(other for other in self.pending if other.handle != update.handle),
            ended=(update, *self.ended)[:ENDED_MAX],
        )

    def with_rejected(self, handle: bytes, reason: Reason) -> Self:
        """Return a record that remembers one rejected update more, and forgets the oldest if there are too many."""
        others = (old for old in self.rejected if old.handle != handle)
        entries = (RejectedUpdate(handle=handle, reason=reason), *others)
        return replace(self, rejected=entries[:REJECTED_MAX])

    def is_rejected(self, handle: bytes) -> bool:
        """Whether an update ended REJECTED."""
        return any(old.handle == handle for old in self.rejected)

    def encode(self) -> bytes:
        """Return the record as msgpack; it always fits a slot."""
        assert len(self.releases) <= RELEASES_MAX
        assert len(self.armed) <= ARMED_MAX
        assert len(self.rejected) <= REJECTED_MAX
        assert len(self.pending) <= PENDING_MAX
        assert len(self.ended) <= ENDED_MAX
        assert len(self.nonces) <= NONCES_MAX
        data = pack_map(
            {
                "v": _VERSION,
                "accepted": self.accepted,
                "closed": self.closed.to_bytes(8, "big"),
                "floor": self.floor,
                "boots": self.boot_count,
                "message": self.message_counter,
                "command": self.command_highest,
                "seen": self.command_seen.to_bytes(8, "big"),
                "armed": [{"c": a.counter, "d": a.intent, "n": a.nonce, "b": a.boot} for a in self.armed],
                "stations": list(self.stations),
                "current": self.current,
                "previous": self.previous,
                "golden": self.golden,
                "releases": [{"d": r.digest, "n": r.name, "s": r.sequence} for r in self.releases],
                "pending": [_packed(update) for update in self.pending],
                "ended": [_packed(update) for update in self.ended],
                "rejected": [{"h": old.handle, "re": int(old.reason)} for old in self.rejected],
                "epoch": self.epoch,
                "time": self.time_floor,
                "root": self.root_version,
                "root_sha256": self.root_digest,
                "nonces": list(self.nonces),
                "mended": self.num_mended,
            }
        )
        assert len(data) <= RECORD_SIZE_MAX
        return data

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Parse a record.

        Raises:
            DecodeError: not a record of this version.
        """
        facts = Fields(unpack_map(data, unit="record", size_max=RECORD_SIZE_MAX), unit="record")
        version = facts.integer("v")
        if version != _VERSION:
            raise DecodeError(f"record: version {version} is not known")
        record = cls(
            accepted=facts.integer("accepted"),
            closed=int.from_bytes(facts.data("closed", size=8), "big"),
            floor=facts.integer("floor"),
            boot_count=facts.integer("boots"),
            message_counter=facts.integer("message", lowest=1),
            command_highest=facts.integer("command"),
            command_seen=int.from_bytes(facts.data("seen", size=8), "big"),
            armed=_armed(facts) if facts.has("armed") else (),
            stations=_stations(facts) if facts.has("stations") else FIRST_GENERATIONS,
            current=_optional_digest(facts, "current"),
            previous=_optional_digest(facts, "previous"),
            golden=_optional_digest(facts, "golden") if facts.has("golden") else None,
            releases=tuple(_known_release(item) for item in facts.items("releases", length_max=RELEASES_MAX)),
            pending=tuple(_update(item) for item in facts.items("pending", length_max=PENDING_MAX)),
            ended=tuple(_update(item) for item in facts.items("ended", length_max=ENDED_MAX)),
            rejected=tuple(_rejected(item) for item in facts.items("rejected", length_max=REJECTED_MAX)),
            epoch=facts.integer("epoch") if facts.has("epoch") else 0,
            time_floor=facts.integer("time") if facts.has("time") else 0,
            root_version=facts.integer("root") if facts.has("root") else 0,
            root_digest=_optional_digest(facts, "root_sha256") if facts.has("root_sha256") else None,
            nonces=_nonces(facts.items("nonces", length_max=NONCES_MAX)) if facts.has("nonces") else (),
            num_mended=facts.integer("mended") if facts.has("mended") else 0,
        )
        facts.finish()
        return record


def _armed(facts: Fields) -> tuple[Armed, ...]:
    return tuple(map(_armed_item, facts.items("armed", length_max=ARMED_MAX)))


def _armed_item(item: Any) -> Armed:  # noqa: ANN401 - Fields checks it
    fields = Fields(item, unit="record armed")
    armed = Armed(
        counter=fields.integer("c", lowest=1),
        intent=fields.data("d", size=INTENT_SIZE),
        nonce=fields.data("n", size=NONCE_SIZE),
        boot=fields.integer("b"),
    )
    fields.finish()
    return armed


def _stations(facts: Fields) -> tuple[int, ...]:
    numbers = facts.items("stations", length_max=STATIONS_MAX)
    if len(numbers) != STATIONS_MAX or not all(type(number) is int and 0 <= number < 2**32 for number in numbers):
        raise DecodeError("record: a generation of a station's key is out of range")
    return tuple(numbers)


def _nonces(items: list[Any]) -> tuple[bytes, ...]:
    if not all(isinstance(item, bytes) and len(item) == FRESHNESS_SIZE for item in items):
        raise DecodeError(f"record: nonces must have {FRESHNESS_SIZE} bytes")
    return tuple(items)


def _optional_digest(fields: Fields, name: str) -> bytes | None:
    return None if fields.is_none(name) else fields.data(name, size=_DIGEST_SIZE)


def _known_release(item: Any) -> KnownRelease:  # noqa: ANN401 - Fields checks it
    fields = Fields(item, unit="record release")
    known = KnownRelease(
        digest=fields.data("d", size=_DIGEST_SIZE),
        name=fields.text("n", length_max=NAME_LENGTH_MAX),
        sequence=fields.integer("s"),
    )
    fields.finish()
    return known


def _packed(update: RecordedUpdate) -> dict[str, Any]:
    return {
        "h": update.handle,
        "v": update.version,
        "sq": update.sequence,
        "d": update.release,
        "st": int(update.state),
        "re": int(update.reason),
        "a": update.attempts,
        **({"m": update.metadata} if update.metadata else {}),
    }


def _update(item: Any) -> RecordedUpdate:  # noqa: ANN401 - Fields checks it
    fields = Fields(item, unit="record update")
    update = RecordedUpdate(
        handle=fields.data("h", size=len(NO_HANDLE)),
        version=fields.integer("v"),
        sequence=fields.integer("sq"),
        release=fields.data("d", size=_DIGEST_SIZE),
        state=_update_state(fields),
        reason=_reason(fields),
        attempts=fields.integer("a"),
        metadata=fields.data("m", size=_DIGEST_SIZE) if fields.has("m") else b"",
    )
    fields.finish()
    return update


def _rejected(item: Any) -> RejectedUpdate:  # noqa: ANN401 - Fields checks it
    fields = Fields(item, unit="record rejected")
    rejected = RejectedUpdate(handle=fields.data("h", size=len(NO_HANDLE)), reason=_reason(fields))
    fields.finish()
    return rejected


def _update_state(fields: Fields) -> UpdateState:
    try:
        return UpdateState(fields.integer("st"))
    except ValueError as error:
        raise DecodeError(f"record: {error}") from None


def _reason(fields: Fields) -> Reason:
    try:
        return Reason(fields.integer("re"))
    except ValueError as error:
        raise DecodeError(f"record: {error}") from None
