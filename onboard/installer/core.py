"""Decisions of an installation, without disk, clock or engine.

One table says which state follows which input; a pair that is not in it is a bug of ours (`MisuseError`), never
something the link can cause. What the shell finds (an obstacle, an answer, a crash) becomes an input here; what is
durable is the record, so the next life needs nothing else to go on after a power cut. Several updates may be pending;
each goes its own way through the table, and what ties them together is decided here too: who ends whom, who is tried
first, what must stay on board.

    NONE ──ACCEPTED──> RECEIVING ──SEALED──> VERIFIED ──TRIAL_STARTED──> TRIAL ──TRIAL_PASSED──> CONFIRMED
                        │     ^  │            ^    │                      │ │
               OBSTACLE v     │  └UNBUILDABLE─│────│──> REJECTED <────────┘ │ TRIAL_FAILED, GIVEN_UP
                       BLOCKED┘ CLEARED       │    └──GIVEN_UP──^           │
                                              └───── TRIAL_INTERRUPTED ─────┘
    CANCELLED is reached from every state that is not final; REJECTED also by FORBIDDEN, from all of them but TRIAL.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from protocol.canary import Canary
from protocol.errors import MisuseError
from protocol.report import Reason, UpdateState

PERMILLE = 1000


class Input(Enum):
    """What can happen to an update."""

    ACCEPTED = auto()  # its metadata is trusted
    OBSTACLE = auto()  # it cannot go on for now
    CLEARED = auto()  # the obstacle may be gone
    SEALED = auto()  # all files rebuilt, digests right, renamed
    UNBUILDABLE = auto()  # what was signed does not give the files that were signed
    TRIAL_STARTED = auto()  # the attempt is counted
    TRIAL_INTERRUPTED = auto()  # we died during the trial
    TRIAL_PASSED = auto()
    TRIAL_FAILED = auto()
    GIVEN_UP = auto()  # too many attempts
    FORBIDDEN = auto()  # another update was confirmed, with a floor above it
    CANCELLED = auto()  # by command, or a newer update came


_S = UpdateState
TRANSITIONS: Mapping[tuple[UpdateState, Input], UpdateState] = {
    (_S.NONE, Input.ACCEPTED): _S.RECEIVING,
    (_S.RECEIVING, Input.OBSTACLE): _S.BLOCKED,
    (_S.RECEIVING, Input.SEALED): _S.VERIFIED,
    (_S.RECEIVING, Input.UNBUILDABLE): _S.REJECTED,
    (_S.RECEIVING, Input.CANCELLED): _S.CANCELLED,
    (_S.RECEIVING, Input.FORBIDDEN): _S.REJECTED,
    (_S.BLOCKED, Input.OBSTACLE): _S.BLOCKED,
    (_S.BLOCKED, Input.CLEARED): _S.RECEIVING,
    (_S.BLOCKED, Input.CANCELLED): _S.CANCELLED,
    (_S.BLOCKED, Input.FORBIDDEN): _S.REJECTED,
    (_S.VERIFIED, Input.TRIAL_STARTED): _S.TRIAL,
    (_S.VERIFIED, Input.GIVEN_UP): _S.REJECTED,
    (_S.VERIFIED, Input.FORBIDDEN): _S.REJECTED,
    (_S.VERIFIED, Input.CANCELLED): _S.CANCELLED,
    (_S.TRIAL, Input.TRIAL_INTERRUPTED): _S.VERIFIED,
    (_S.TRIAL, Input.TRIAL_PASSED): _S.CONFIRMED,
    (_S.TRIAL, Input.TRIAL_FAILED): _S.REJECTED,
    (_S.TRIAL, Input.CANCELLED): _S.CANCELLED,
}
FINAL = frozenset({_S.CONFIRMED, _S.REJECTED, _S.CANCELLED})


OBSTACLES = frozenset({Reason.DISK_FULL, Reason.DISK_FAILED, Reason.BASE_MISSING, Reason.BASE_DAMAGED})


class Fate(Enum):
    """What became of an object that was handed over."""

    USED = auto()  # durably; or of no use ever
    KEPT = auto()  # of no use yet: offer it again
    BAD = auto()
    SPOILT = auto()  # its bytes are no longer what was checked: throw it away, and have it sent again


def is_obstacle(reason: Reason) -> bool:
    """Whether what stands in the way may go away by itself, or by a newer update."""
    return reason in OBSTACLES


def next_state(state: UpdateState, happened: Input) -> UpdateState:
    """Return the state that follows.

    Raises:
        MisuseError: this cannot happen in that state.
    """
    following = TRANSITIONS.get((state, happened))
    if following is None:
        raise MisuseError(f"update: {happened.name} cannot happen in state {state.name}")
    return following


def is_unfinished(state: UpdateState) -> bool:
    """Whether an update in that state still wants something."""
    return state not in FINAL and state is not UpdateState.NONE


class Step(Enum):
    """What the shell has to do next for the update."""

    NOTHING = auto()
    WAIT_FOR_BUNDLES = auto()
    RETRY_LATER = auto()  # blocked: see whether the obstacle is gone
    SEAL = auto()  # all bundles are in: check digests, seal
    GIVE_UP = auto()
    FORBID = auto()  # it lies below the floor by now
    TRY = auto()  # count an attempt, load, ask the canary
    RECOVER = auto()  # the trial was interrupted


def next_step(
    state: UpdateState,
    *,
    attempts: int,
    attempts_max: int,
    is_complete: bool,
    is_trying: bool,
    is_forbidden: bool = False,
    is_held: bool = False,
) -> Step:
    """Decide what to do.

    Args:
        state: durable state of the update.
        attempts: trials begun so far, counted before each.
        attempts_max: how many there may be.
        is_complete: whether every bundle is installed.
        is_trying: whether this process runs the trial right now (False after a restart).
        is_forbidden: whether the floor is above it.
        is_held: whether its trial waits for a command.
    """
    if is_forbidden and (state, Input.FORBIDDEN) in TRANSITIONS:
        return Step.FORBID
    match state:
        case UpdateState.RECEIVING:
            return Step.SEAL if is_complete else Step.WAIT_FOR_BUNDLES
        case UpdateState.BLOCKED:
            return Step.RETRY_LATER
        case UpdateState.VERIFIED if is_held:
            return Step.NOTHING
        case UpdateState.VERIFIED:
            return Step.TRY if attempts < attempts_max else Step.GIVE_UP
        case UpdateState.TRIAL:
            return Step.NOTHING if is_trying else Step.RECOVER
        case _:
            return Step.NOTHING


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A pending update, as far as others are concerned.

    Attributes:
        handle: of its metadata object.
        version: of its metadata; the higher one is newer.
        release: digest of the release it makes.
        state: where it stands.
        is_held: whether its trial waits for a command.
    """

    handle: bytes
    version: int
    release: bytes
    state: UpdateState = UpdateState.RECEIVING
    is_held: bool = False


def overtaken_by(newcomer: Standing, pending: Sequence[Standing], *, beside: bool) -> tuple[Standing, ...]:
    """The pending updates that a new one ends: all older ones, or, beside them, older ones that make its release."""
    older = [each for each in pending if each.version < newcomer.version]
    return tuple(each for each in older if not beside or each.release == newcomer.release)


def is_overtaken(newcomer: Standing, known: Sequence[Standing]) -> bool:
    """Whether an update comes late: a newer one makes its release, or did, or was given up."""
    return any(each.version > newcomer.version and each.release == newcomer.release for each in known)


def next_to_try(pending: Sequence[Standing]) -> bytes | None:
    """The update whose turn it is to be tried: the newest that is ready, none while one is on trial."""
    if any(each.state is UpdateState.TRIAL for each in pending):
        return None
    ready = [each for each in pending if each.state is UpdateState.VERIFIED and not each.is_held]
    return max(ready, key=lambda each: each.version).handle if ready else None


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryVerdict:
    """How the answers of a trial compare with the signed ones.

    Attributes:
        agreeing: leading tokens that agree, over all prompts.
        expected: tokens that were signed, over all prompts.
        agreement_permille: thousandths, rounded down.
        is_passed: whether that is enough.
    """

    agreeing: int
    expected: int
    agreement_permille: int
    is_passed: bool


def judge_canary(canary: Canary, answers: Sequence[Sequence[int]]) -> CanaryVerdict:
    """Compare a trial's answers with the contract: leading tokens that agree, over all prompts together.

    A first token that differs makes all that follow different text, so what comes after it says nothing.
    """
    agreeing = expected = 0
    for index, prompt in enumerate(canary.prompts):
        answer = answers[index] if index < len(answers) else ()
        agreeing += _leading(prompt.expected, answer)
        expected += len(prompt.expected)
    permille = PERMILLE * agreeing // expected if expected else PERMILLE
    return CanaryVerdict(
        agreeing=agreeing,
        expected=expected,
        agreement_permille=permille,
        is_passed=permille >= canary.agreement_permille,
    )


def _leading(expected: Sequence[int], answer: Sequence[int]) -> int:
    for index, (want, got) in enumerate(zip(expected, answer, strict=False)):
        if want != got:
            return index
    return min(len(expected), len(answer))


@dataclass(frozen=True, slots=True, kw_only=True)
class OnBoard:
    """A confirmed release on board, as far as decisions need it.

    Attributes:
        digest: of the release.
        sequence: of the update that brought it; 0 for what was there before launch.
    """

    digest: bytes
    sequence: int


def releases_to_delete(
    on_board: Sequence[OnBoard],
    *,
    serving: bytes | None,
    needed: Collection[bytes | None],
    keep: int,
    floor: int,
    golden: bytes | None = None,
) -> tuple[bytes, ...]:
    """Choose the releases that may go.

    Args:
        on_board: latest used first.
        serving: never goes.
        needed: nor do these: what pending updates make or build on.
        keep: how many may stay, the serving one included.
        floor: no release with a smaller sequence may ever serve again, so none is worth keeping.
        golden: stays whatever its sequence, beside those.
    """
    others = [r.digest for r in on_board if r.digest not in {serving, golden} and r.sequence >= floor]
    kept = {serving, golden, *needed, *others[: keep - 1]}
    return tuple(r.digest for r in on_board if r.digest not in kept)


def release_to_return_to(
    on_board: Sequence[OnBoard],
    *,
    leaving: Collection[bytes | None],
    previous: bytes | None,
    floor: int,
    golden: bytes | None = None,
) -> OnBoard | None:
    """The release to go back to: `previous` if it may serve, else the latest used one that may, else the golden one.

    Args:
        on_board: latest used first.
        leaving: never one of these: what serves now, and what failed to take over from it.
        previous: what served before it.
        floor: lowest sequence that may serve.
        golden: the last resort, whatever its sequence.
    """
    candidates = [r for r in on_board if r.digest not in leaving]
    allowed = [r for r in candidates if r.digest != golden and r.sequence >= floor]
    allowed.sort(key=lambda r: r.digest != previous)  # stable: the latest used first
    return next(iter([*allowed, *(r for r in candidates if r.digest == golden)]), None)


REASON_TEXT: Mapping[Reason, str] = {
    Reason.NONE: "",
    Reason.UNTRUSTED: "its metadata is not to be trusted",
    Reason.ROLLBACK: "it is older than what may be installed",
    Reason.EXPIRED: "its metadata has expired",
    Reason.WRONG_SATELLITE: "it is for another satellite",
    Reason.DISK_FULL: "there is no space for its files",
    Reason.DISK_FAILED: "the disk refused",
    Reason.BASE_MISSING: "the release it builds on is not on board",
    Reason.BASE_DAMAGED: "a file of the release it builds on is damaged",
    Reason.BUNDLE_DAMAGED: "a bundle does not hold what its manifest says",
    Reason.DIGEST_MISMATCH: "its files came out different from what was signed",
    Reason.LOAD_FAILED: "the engine could not load it",
    Reason.CANARY_FAILED: "its answers differ from the signed ones",
    Reason.WORKER_FAILED: "its worker crashed while it was on probation",
    Reason.TOO_MANY_ATTEMPTS: "its trial was interrupted too often",
    Reason.ENGINE_UNSUITABLE: "the engine on board cannot run it",
    Reason.COMMANDED: "the ground commanded it",
    Reason.SUPERSEDED: "a newer update was accepted",
    Reason.INTERNAL: "an error of our own; see the log",
    Reason.HELD: "all files are there; it waits to be activated",
    Reason.REPLAYED: "it was accepted before, or a newer update shut it out",
    Reason.MIXED: "its metadata is put together from different updates",
    Reason.UNSIGNED: "its metadata is not signed by the keys that our root names",
    Reason.ROOT_UNSIGNED: "it brings a root that the one before it, or it itself, does not accept",
    Reason.MALFORMED: "its metadata is malformed",
    Reason.NOT_FRESH: "it does not show that it was signed lately, as this satellite wants",
    Reason.EPOCH_ENDED: "keys were revoked, and a new epoch has begun",
    Reason.TRUST_LOST: "our root is damaged: it must be sent again",
    Reason.METADATA_LOST: "its metadata was damaged on board after it was accepted: it must be sent again",
    Reason.TOO_MANY_UPDATES: "as many updates as can be kept apart are pending",
}
