"""What is checked before anything is packed: whether it makes sense, what it would end, whether there is room."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from groundsegment.depot.depot import Depot
from groundsegment.depot.records import FlightState, Satellite, Update
from groundsegment.errors import DiskError, InputError, KeyStoreError
from groundsegment.packer.estimating import OnProgress, estimate
from groundsegment.packer.packing import Packed
from groundsegment.packer.plan import PackPlan
from groundsegment.packer.tensors.parts import PartKind
from groundsegment.requantize.report import REPORT_NAME
from groundsegment.signer.key_store import KeyStore
from groundsegment.staging.base import ChosenBase, HashedRelease, candidates
from groundsegment.staging.records import Prepared, StageOptions
from protocol.blocks import block_layout, symbols_needed
from protocol.errors import DecodeError
from protocol.frame import HANDLE_SIZE
from protocol.limits import BUNDLES_MAX, MIB, SYMBOL_ALIGNMENT, SYMBOL_SIZE_MAX, SYMBOLS_MAX
from protocol.objects import object_handle
from protocol.roots import read_root

_VERSIONS_FORGOTTEN_MAX = 2**16  # by a depot made anew: no more, or a forged report would use all numbers up
_SLACK_BYTES = 64 * MIB  # database, metadata, file system
_PREFLIGHT_SAMPLES = 24
_LIKE_BASE_MIN = 0.1
_BUNDLES_SAFE = BUNDLES_MAX * 3 // 4


class SameAsBaseError(InputError):
    """There is nothing to send.

    Args:
        path: of the release.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path}: the same release as its base, nothing to do", hint="give another --base")


class TooLargeError(InputError):
    """What was packed takes more bytes than there are to spend.

    Args:
        payload_bytes: of all bundles.
        payload_bytes_max: that there are.
    """

    def __init__(self, payload_bytes: int, payload_bytes_max: int) -> None:
        super().__init__(f"{payload_bytes} bytes were packed where {payload_bytes_max} fit", hint="give it more room")
        self.payload_bytes = payload_bytes


def check_fits(packed: Packed, options: StageOptions) -> None:
    """Hold what was packed, to the byte, against what there is to spend.

    Raises:
        TooLargeError: it does not fit.
    """
    if options.payload_bytes_max is not None and packed.payload_bytes > options.payload_bytes_max:
        raise TooLargeError(packed.payload_bytes, options.payload_bytes_max)


def accepted_by(depot: Depot, satellite: str) -> int:
    """The version that an update has to be above; 0 where the satellite has still to begin our epoch.

    Raises:
        KeyStoreError: somebody has signed a version far above all of ours.
    """
    heard = depot.journal.last_report(satellite)
    if heard is None or heard.report.epoch < read_root(KeyStore(depot.keys_path).root()).epoch:
        return 0
    ours = max((update.sequence for update in depot.updates()), default=0)
    if heard.report.accepted > ours + _VERSIONS_FORGOTTEN_MAX:
        hint = "if nobody of yours signed that: `skyload keys revoke timestamp snapshot targets` begins a new epoch"
        raise KeyStoreError(
            f"{satellite} reports version {heard.report.accepted} accepted, our last one is {ours}", hint=hint
        )
    return heard.report.accepted


def refuse_known(depot: Depot, satellite: str, release: HashedRelease) -> None:
    """Refuse what the satellite serves already, or what is on its way.

    Raises:
        InputError: there is nothing to do.
    """
    report = depot.journal.last_report(satellite)
    if report is not None and report.report.serving == release.digest[:HANDLE_SIZE]:
        hint = "nothing to do; `skyload status` shows what it serves"
        raise InputError(f"{satellite} reported serving this release already", hint=hint)
    for update in open_updates_to(depot, satellite, release.digest):
        if _is_whole(depot, update):
            cancelling = f"skyload cancel {update.handle.hex()} --for {satellite}"
            hint = (
                f"next: skyload uplink --for {satellite}; to stage it otherwise (--base, --name), `{cancelling}` first"
            )
            raise InputError(f"this release is {update.state} already, as update {update.handle.hex()}", hint=hint)


def open_updates_to(depot: Depot, satellite: str, release_digest: bytes) -> list[Update]:
    """Updates to that release of which something can still come."""
    return [update for update in depot.open_updates(satellite) if update.release_digest == release_digest]


def _is_whole(depot: Depot, update: Update) -> bool:
    """Whether its files can still fly; one that lost some may be staged anew."""
    try:
        sizes = [bundle.path.stat().st_size == bundle.size_bytes for bundle in depot.bundles(update.handle)]
        return all(sizes) and object_handle(update.metadata_path.read_bytes()) == update.handle
    except OSError:
        return False


def warnings_of(depot: Depot, satellite: str, release: HashedRelease, base: ChosenBase) -> tuple[str, ...]:
    """What the operator may not expect of a release and its base."""
    skipped = [file for file in release.source.skipped if file.name != REPORT_NAME]  # that is of our own making
    warnings = [f"{file.name} does not fly: {file.reason}" for file in skipped]
    received = depot.journal.last_report(satellite)
    if received is None:
        return tuple(warnings)
    free_bytes = received.report.free_mib * MIB
    if free_bytes < release.size_bytes:
        warnings.append(
            f"{satellite} last reported {received.report.free_mib} MiB free, this release takes "
            f"{release.size_bytes // MIB} MiB: it may stand still as disk full"
        )
    if base.release is not None:
        known = [each for each in candidates(depot, satellite) if base.release.digest.startswith(each.digest_start)]
        if not known:
            warnings.append(f"{satellite} last reported serving another release than the base: is the base on board?")
        warnings += [f"the base {each.trouble}" for each in known if each.trouble]
    return tuple(warnings)


def still_on_board(depot: Depot, satellite: str, release: HashedRelease) -> Iterator[str]:
    """Say so where a command would do: the satellite should have this release, though another one serves."""
    digest, heard = release.digest, depot.journal.last_report(satellite)
    if heard is None:
        return
    updates = depot.updates(satellite, [FlightState.CONFIRMED])
    kept = {each.digest_start for each in candidates(depot, satellite)[1:] if not each.trouble}
    serving = [each for each in updates if each.release_digest.startswith(heard.report.serving)]
    kept |= {each.base_digest for each in serving if each.base_digest is not None}
    is_gone = any(each.release_digest == digest and each.is_forgotten_on_board for each in updates)
    if digest in kept and not is_gone:
        digits = digest.hex() if depot.find_release(digest) is None else digest.hex()[:16]
        yield (
            f"{satellite} should still have this release: `skyload revert {digits} --for {satellite}` has it serve "
            "without flying it again"
        )


def useless_base(plan: PackPlan) -> Iterator[str]:
    """Say so where a base, though it is there, explains next to nothing: an update of another format, say."""
    if plan.base_digest is None:
        return
    survey = plan.survey
    tensors = [part for part in survey.parts if part.kind is not PartKind.BYTES]
    total = sum(part.size_bytes for part in tensors)
    matched = sum(part.size_bytes for part in tensors if part in survey.matches)
    if matched < _LIKE_BASE_MIN * total:
        largest = max((part for part in tensors if part not in survey.matches), key=lambda part: part.size_bytes)
        yield (
            f"the base knows {matched / total:.0%} of the tensors' bytes: nearly a full update "
            f"({largest.name}: {survey.unmatched[largest]})"
        )


def overtaken(depot: Depot, satellite: str, options: StageOptions) -> Iterator[str]:
    """Older updates that end when this one arrives: a satellite follows the newest, unless that flies beside them."""
    if options.beside:
        return
    for update in depot.open_updates(satellite):
        if update.priority < options.priority:  # those of its own priority fly first
            yield (
                f"flies before update {update.handle.hex()} ({update.release_name}) and ends it: with --beside that "
                "goes on afterwards"
            )


def symbol_size_of(options: StageOptions, satellite: Satellite, bundle_size_bytes: int) -> int:
    """The bytes of a symbol, for bundles of that size.

    Raises:
        InputError: it is no symbol size, or such a bundle has too many symbols.
    """
    size = satellite.symbol_size if options.symbol_size is None else options.symbol_size
    try:
        block_layout(symbols_needed(bundle_size_bytes, size), size)
    except DecodeError as error:
        hint = f"a multiple of {SYMBOL_ALIGNMENT} up to {SYMBOL_SIZE_MAX}, at most {SYMBOLS_MAX} symbols a bundle"
        raise InputError(f"--symbol-size {size}: {error}", hint=hint) from error
    return size


def check_room(
    depot: Depot, prepared: Prepared, options: StageOptions, on_progress: OnProgress, *, needs_twin: bool
) -> None:
    """Make sure that what will be written fits, before it is; sampled only where the whole release would not.

    Raises:
        InputError: more bundles than a manifest can list.
        DiskError: there is not enough room.
    """
    plan = prepared.plan
    rehearsed = prepared.release.size_bytes if needs_twin else 0
    packed = sum(file.stat().st_size for file in (depot.staging_path / plan.digest()[:16]).glob("*.skb"))
    free = shutil.disk_usage(depot.path).free + packed
    is_small = prepared.release.size_bytes <= plan.bundle_size_bytes * _BUNDLES_SAFE
    if is_small and _needed(prepared.release.size_bytes) + rehearsed <= free:
        return
    guess = estimate(
        plan,
        prepared.sources,
        workers=options.workers,
        num_samples=_PREFLIGHT_SAMPLES,
        on_progress=on_progress,
    )
    likely_bytes = guess.payload_bytes + 2 * guess.error_bytes
    if likely_bytes > plan.bundle_size_bytes * _BUNDLES_SAFE:
        raise InputError(
            f"{guess.num_bundles} bundles are more than a manifest can list", hint="give a larger --bundle-size"
        )
    needed = _needed(likely_bytes) + rehearsed
    if free < needed:
        raise DiskError(
            f"{depot.path}: {free // MIB} MiB free, about {needed // MIB} MiB needed",
            hint="free some space, or put the depot on a larger disk (--depot)",
        )


def _needed(payload_bytes: int) -> int:
    return payload_bytes * 21 // 20 + _SLACK_BYTES
