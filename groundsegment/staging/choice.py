"""The choice of the base, and with it of the plan: of what should be on board, whatever makes the smallest update.

A base that is missing or damaged on board, or whose files are gone here, is passed over for the next, and in the end
for none: a full update. That is always told, and an error where the operator forbids it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from groundsegment.depot.depot import Depot
from groundsegment.errors import InputError
from groundsegment.packer.estimating import OnProgress, estimate
from groundsegment.packer.packing import Sources
from groundsegment.packer.plan import PackPlan
from groundsegment.staging.base import (
    AUTO,
    CURRENT,
    NONE,
    ChosenBase,
    HashedRelease,
    asked_base,
    candidates,
    open_candidate,
    why_no_candidates,
)
from groundsegment.staging.planning import plan_packing
from groundsegment.staging.records import StageOptions

_SAMPLES = 16
_GOOD_ENOUGH = 0.25  # of the release: no other base is looked at
_WORTH_IT = 0.9  # a base that does not serve must make the update that much smaller

OnBytes = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A base, and the plan to pack against it."""

    base: ChosenBase
    plan: PackPlan
    sources: Sources


def choose(
    depot: Depot,
    release: HashedRelease,
    options: StageOptions,
    *,
    bundle_size_bytes: int,
    on_bytes: OnBytes,
    on_estimate: OnProgress = lambda done, total: None,
) -> Choice:
    """Return the base for an update, and its plan.

    Args:
        depot: knows what the satellite reported, and where releases are.
        release: that is to be sent.
        options: `base` is AUTO (the best of what should be on board, or none), CURRENT (what serves, or an error),
            NONE, or a directory.
        bundle_size_bytes: of the plan.
        on_bytes: called with the number of bytes just read.
        on_estimate: called with the bytes encoded so far, and of how many, while bases are compared.

    Raises:
        InputError: the wanted base is not to be had, or would come to nothing.
    """

    def planned(base: ChosenBase) -> Choice:
        return _plan(release, base, options, bundle_size_bytes=bundle_size_bytes)

    if options.base == NONE:
        return planned(ChosenBase(release=None, reason="full update, as asked"))
    asked = asked_base(options.base, on_bytes)
    if asked is not None:
        return planned(asked)
    return _choose_known(depot, release, options, planned, on_bytes, _Shares(release, options, on_estimate))


def _choose_known(
    depot: Depot,
    release: HashedRelease,
    options: StageOptions,
    planned: Callable[[ChosenBase], Choice],
    on_bytes: OnBytes,
    shares: "_Shares",
) -> Choice:
    known = candidates(depot, options.satellite)
    usable, refused = [], []
    for candidate in known if options.base == AUTO else known[:1]:
        if release.digest.startswith(candidate.digest_start) and len(known) > 1:
            continue  # it is on board already: `refuse_known` and `revert` speak of that
        base = open_candidate(depot, candidate, on_bytes)
        if base.release is None:
            refused.append(base.reason)
            continue
        usable.append(planned(base))
        if len(usable) == 1 and candidate is not known[-1] and shares.of(usable[0]) <= _GOOD_ENOUGH:
            break
    if usable:
        return _best(usable, refused, shares)
    reason = "; ".join(refused) or why_no_candidates(depot, options.satellite)
    _refuse_full(release, options, reason)
    if any(not candidate.trouble for candidate in known):
        reason += " (--base DIR, with its files, sends the difference)"
    return planned(ChosenBase(release=None, reason=f"full update: {reason}"))


def _best(usable: list[Choice], refused: list[str], shares: "_Shares") -> Choice:
    best = usable[0]
    for other in usable[1:]:
        if shares.of(other) < _WORTH_IT * shares.of(best):
            best = other
    words = [best.base.reason, *refused]
    if best is not usable[0]:
        words.append("smaller than against what it serves")
    return replace(best, base=replace(best.base, reason="; ".join(words)))


class _Shares:
    """What updates come to, of the release; each is estimated once."""

    def __init__(self, release: HashedRelease, options: StageOptions, on_estimate: OnProgress) -> None:
        self._size_bytes, self._workers, self._on_estimate = release.size_bytes, options.workers, on_estimate
        self._known: dict[str, float] = {}

    def of(self, choice: Choice) -> float:
        """Return what an update against a base comes to."""
        key = choice.plan.digest()
        if key not in self._known:
            guess = estimate(
                choice.plan,
                choice.sources,
                workers=self._workers,
                num_samples=_SAMPLES,
                on_progress=self._on_estimate,
            )
            self._known[key] = guess.payload_bytes / max(1, self._size_bytes)
        return self._known[key]


def _refuse_full(release: HashedRelease, options: StageOptions, reason: str) -> None:
    if options.base == CURRENT:
        hint = "--base DIR names the base's files; --base none sends everything"
        raise InputError(f"no base for {options.satellite}: {reason}", hint=hint)
    if options.forbid_full_fallback:
        hint = (
            "--base DIR names the files of a release that is on board; without --forbid-full-fallback, "
            "or with --base none, everything is sent"
        )
        raise InputError(f"a full update of {release.size_bytes} bytes is forbidden: {reason}", hint=hint)


def _plan(release: HashedRelease, base: ChosenBase, options: StageOptions, *, bundle_size_bytes: int) -> Choice:
    paths = tuple(release.paths.values())
    plan, sources = plan_packing(
        release.digest, release.files, paths, base.release, options, bundle_size_bytes=bundle_size_bytes
    )
    return Choice(base=base, plan=plan, sources=sources)
