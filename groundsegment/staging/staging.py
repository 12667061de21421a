"""Staging: scan, hash, choose a base, pack, rehearse, sign, register. Nothing is sent, and nothing half done is seen.

`prepare` reads and decides, and writes nothing; `stage` does the rest under the depot's `stage` lock. Until the last
step the depot's tables know nothing of it. Killed anywhere, the same call goes on where it was: bundles that were
packed are used again.
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from groundsegment.depot.depot import Depot
from groundsegment.depot.records import FlightState, RegisteredRelease, Satellite, Update
from groundsegment.errors import DiskError, InputError
from groundsegment.packer.encoding import LEVEL_DEFAULT
from groundsegment.packer.packing import Packed, Sources, estimate, fitting_bundle_size, pack
from groundsegment.packer.plan import PackPlan
from groundsegment.signer.key_store import KeyStore
from groundsegment.signer.signing import check_signers, sign_update
from groundsegment.staging.base import AUTO, ChosenBase, HashedRelease, choose_base, hash_release
from groundsegment.staging.workplace import TWIN_DIRECTORY, Workplace, open_workplace
from groundsegment.twin import Rehearsal, TwinAnswer, find_twin, rehearse
from protocol.errors import DecodeError
from protocol.frame import HANDLE_SIZE
from protocol.limits import BUNDLES_MAX, MIB
from protocol.link_keys import wrap_release_key
from protocol.manifest import Canary, CanaryPrompt, Manifest
from protocol.names import is_safe_name
from protocol.objects import object_handle

_SLACK_BYTES = 64 * MIB  # database, metadata, file system
_PREFLIGHT_SAMPLES = 32
_PREFLIGHT_LEVEL = 3  # fast, and never an underestimate

OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageOptions:
    """What the operator wants.

    Attributes:
        satellite: whom it is for.
        base: see `base.choose_base`.
        name: of the release; None takes the directory's.
        prompts: of the canary; none for no canary.
        max_tokens: of one canary answer.
        twin: command line in place of `skyloadd`.
        bundle_size_bytes: None for the default.
        level: highest zstd level.
        priority: higher flies first.
        floor: no release with a smaller sequence may serve once this one is confirmed.
        num_workers: processes that pack.
    """

    satellite: str
    base: str = AUTO
    name: str | None = None
    prompts: tuple[str, ...] = ()
    max_tokens: int = 16
    twin: str | None = None
    bundle_size_bytes: int | None = None
    level: int = LEVEL_DEFAULT
    priority: int = 0
    floor: int = 0
    num_workers: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What is to be staged, read and checked."""

    satellite: Satellite
    name: str
    release: HashedRelease
    base: ChosenBase
    plan: PackPlan
    sources: Sources
    accepted: int
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """A registered update."""

    update: Update
    manifest: Manifest
    packed: Packed
    answers: tuple[TwinAnswer, ...] = field(default=())


def prepare(depot: Depot, path: Path, options: StageOptions, on_progress: OnProgress) -> Prepared:
    """Read a release and its base, and check that it makes sense to stage it. Writes nothing.

    Raises:
        UnknownError: no such satellite.
        InputError: the release cannot fly, or there is nothing to do.
    """
    satellite = depot.satellite(options.satellite)
    if options.name is not None and not is_safe_name(options.name):
        raise InputError(
            f"{options.name!r} cannot be a release's name", hint="use letters, digits, dot, dash, underscore"
        )
    counter = _Counter("reading", on_progress)
    release = hash_release(path, counter.add)
    _refuse_known(depot, satellite.name, release)
    base = choose_base(depot, satellite.name, options.base, counter.add)
    counter.finish()
    if base.release is not None and base.release.digest == release.digest:
        raise InputError(f"{path}: the same release as its base, nothing to do", hint="give another --base")
    plan = PackPlan(
        satellite=satellite.name,
        release_digest=release.digest,
        files=release.files,
        base_digest=base.release.digest if base.release else None,
        base_files=base.release.files if base.release else (),
        bundle_size_bytes=options.bundle_size_bytes or fitting_bundle_size(release.size_bytes),
        level=options.level,
    )
    report = depot.journal.last_report(satellite.name)
    return Prepared(
        satellite=satellite,
        name=options.name or release.source.release_name,
        release=release,
        base=base,
        plan=plan,
        sources=_sources(release, base.release),
        accepted=report.report.accepted if report else 0,
        warnings=(
            *_warnings(depot, satellite.name, release, base),
            *_overtaken(depot, satellite.name, options.priority),
        ),
    )


def stage(depot: Depot, prepared: Prepared, options: StageOptions, *, utc: datetime, on_progress: OnProgress) -> Staged:
    """Pack, rehearse, sign and register what was prepared. The caller holds the depot's `stage` lock.

    Raises:
        DiskError: there is not enough room.
        TwinError: the twin is missing or failed; the bundles are kept for the next try.
        KeyStoreError: a key is missing or wrong.
    """
    check_signers(KeyStore(depot.keys_path))
    twin = find_twin(options.twin) if options.prompts else None
    _check_room(depot, prepared, needs_twin=twin is not None)
    workplace = open_workplace(depot, prepared.plan.digest())
    packed = pack(
        prepared.plan,
        prepared.sources,
        workplace.path,
        release_key=workplace.release_key,
        num_workers=options.num_workers,
        on_progress=lambda done: on_progress("packing", done, prepared.plan.raw_bytes),
    )
    for release in (prepared.release, prepared.base.release):
        if release is not None:
            release.check_unchanged()
    manifest = _manifest(depot, prepared, options, packed, workplace)
    answers: tuple[TwinAnswer, ...] = ()
    if twin is not None:
        on_progress("rehearsing", 0, 0)
        answers = _rehearse(prepared, options, manifest, workplace, twin)
        prompts = [
            CanaryPrompt(text=text, expected=answer.tokens)
            for text, answer in zip(options.prompts, answers, strict=True)
        ]
        manifest = replace(manifest, canary=Canary(prompts=tuple(prompts), max_tokens=options.max_tokens))
    return Staged(
        update=_register(depot, prepared, options, manifest, workplace, utc),
        manifest=manifest,
        packed=packed,
        answers=answers,
    )


def _refuse_known(depot: Depot, satellite: str, release: HashedRelease) -> None:
    report = depot.journal.last_report(satellite)
    if report is not None and report.report.serving == release.digest[:HANDLE_SIZE]:
        hint = "nothing to do; `skyload status` shows what it serves"
        raise InputError(f"{satellite} reported serving this release already", hint=hint)
    for update in _open_updates(depot, satellite, release.digest):
        if _is_whole(depot, update):
            hint = f"next: skyload uplink --for {satellite}"
            raise InputError(f"this release is {update.state} already, as update {update.handle.hex()}", hint=hint)


def _open_updates(depot: Depot, satellite: str, release_digest: bytes) -> list[Update]:
    """Updates to that release of which something can still come."""
    found = depot.updates(satellite, [state for state in FlightState if state.is_open])
    return [update for update in found if update.release_digest == release_digest]


def _is_whole(depot: Depot, update: Update) -> bool:
    """Whether its files can still fly; one that lost some may be staged anew."""
    try:
        sizes = [bundle.path.stat().st_size == bundle.size_bytes for bundle in depot.bundles(update.handle)]
        return all(sizes) and object_handle(update.metadata_path.read_bytes()) == update.handle
    except OSError:
        return False


def _sources(release: HashedRelease, base: HashedRelease | None) -> Sources:
    return Sources(
        files=tuple(file.path for file in release.source.files),
        base_files=tuple(file.path for file in base.source.files) if base else (),
    )


def _warnings(depot: Depot, satellite: str, release: HashedRelease, base: ChosenBase) -> tuple[str, ...]:
    warnings = [f"{file.name} does not fly: {file.reason}" for file in release.source.skipped]
    received = depot.journal.last_report(satellite)
    if received is None:
        return tuple(warnings)
    free_bytes = received.report.free_mib * MIB
    if free_bytes < release.size_bytes:
        warnings.append(
            f"{satellite} last reported {received.report.free_mib} MiB free, this release takes "
            f"{release.size_bytes // MIB} MiB: it may stand still as disk full"
        )
    if base.release is not None and base.release.digest[:HANDLE_SIZE] != received.report.serving:
        warnings.append(f"{satellite} last reported serving another release than the base: is the base on board?")
    return tuple(warnings)


def _overtaken(depot: Depot, satellite: str, priority: int) -> Iterator[str]:
    """Older updates that would fly after this one: the satellite takes none that is older than what it accepted."""
    waiting = depot.updates(satellite, [state for state in FlightState if state.is_open])
    for update in waiting:
        if update.priority < priority:
            yield (
                f"flies before update {update.handle.hex()} ({update.release_name}), which is then refused as older: "
                "stage that again afterwards"
            )


def _check_room(depot: Depot, prepared: Prepared, *, needs_twin: bool) -> None:
    plan = replace(prepared.plan, level=_PREFLIGHT_LEVEL)
    guess = estimate(plan, prepared.sources, num_samples=_PREFLIGHT_SAMPLES)
    if guess.payload_bytes > plan.bundle_size_bytes * (BUNDLES_MAX * 3 // 4):
        raise InputError(
            f"{guess.num_bundles} bundles are more than a manifest can list", hint="give a larger --bundle-size"
        )
    needed = guess.payload_bytes * 11 // 10 + _SLACK_BYTES + (prepared.release.size_bytes if needs_twin else 0)
    packed = sum(file.stat().st_size for file in (depot.staging_path / plan.digest()[:16]).glob("*.skb"))
    free = shutil.disk_usage(depot.path).free + packed
    if free < needed:
        raise DiskError(
            f"{depot.path}: {free // MIB} MiB free, about {needed // MIB} MiB needed",
            hint="free some space, or put the depot on a larger disk (--depot)",
        )


def _manifest(
    depot: Depot, prepared: Prepared, options: StageOptions, packed: Packed, workplace: Workplace
) -> Manifest:
    satellite = prepared.satellite
    digest = prepared.release.digest
    sequence = depot.allocate_sequence(above=prepared.accepted)
    if options.floor > sequence:
        hint = f"at most {sequence + 1}: the number this update gets when you stage it again"
        raise InputError(f"--floor {options.floor} is above this update's own sequence {sequence}", hint=hint)
    wrapped = wrap_release_key(
        workplace.release_key, satellite.release_public, satellite=satellite.name, release_digest=digest
    )
    return Manifest(
        sequence=sequence,
        satellites=(satellite.name,),
        release_name=prepared.name,
        release_digest=digest,
        files=prepared.release.files,
        base=prepared.plan.base_digest,
        bundles=packed.bundles,
        keys={satellite.name: wrapped},
        floor=options.floor,
        engine_format=prepared.release.source.kind,
        memory_bytes=prepared.release.size_bytes,
    )


def _rehearse(
    prepared: Prepared, options: StageOptions, manifest: Manifest, workplace: Workplace, twin: list[str]
) -> tuple[TwinAnswer, ...]:
    base = prepared.base.release
    rehearsal = Rehearsal(
        manifest=_encode(manifest),
        release_digest=manifest.release_digest,
        bundles=workplace.path,
        release_key=workplace.release_key,
        base_files={file.name: file.path for file in base.source.files} if base else {},
        prompts=options.prompts,
        max_tokens=options.max_tokens,
    )
    return rehearse(rehearsal, twin, workplace.path / TWIN_DIRECTORY)


def _register(
    depot: Depot, prepared: Prepared, options: StageOptions, manifest: Manifest, workplace: Workplace, utc: datetime
) -> Update:
    encoded = _encode(manifest)
    metadata = sign_update(KeyStore(depot.keys_path), encoded, utc=utc)
    handle = object_handle(metadata)
    release = RegisteredRelease(
        digest=manifest.release_digest,
        name=prepared.name,
        path=prepared.release.source.path.resolve(),
        size_bytes=prepared.release.size_bytes,
        registered_utc=utc,
    )
    update = Update(
        handle=handle,
        sequence=manifest.sequence,
        satellite=prepared.satellite.name,
        release_name=prepared.name,
        release_digest=manifest.release_digest,
        base_digest=manifest.base,
        state=FlightState.STAGED,
        priority=options.priority,
        payload_bytes=manifest.payload_bytes,
        directory=depot.updates_path / handle.hex(),
        created_utc=utc,
    )
    registered = workplace.register(update, encoded, metadata, release)
    for old in _open_updates(depot, update.satellite, update.release_digest):
        if old.handle != update.handle:  # `_refuse_known` let it pass, for its files are damaged
            depot.set_update_state(old.handle, FlightState.CANCELLED, reason="its files were lost; staged anew")
    return registered


def _encode(manifest: Manifest) -> bytes:
    try:
        return manifest.encode()
    except DecodeError as error:
        hint = "a larger --bundle-size, fewer files, or shorter prompts make it smaller"
        raise InputError(f"the manifest would not be accepted: {error}", hint=hint) from error


class _Counter:
    """Adds up bytes for a progress display; the total is not known beforehand."""

    def __init__(self, phase: str, on_progress: OnProgress) -> None:
        self._phase, self._on_progress, self._done = phase, on_progress, 0

    def add(self, size_bytes: int) -> None:
        self._done += size_bytes
        self._on_progress(self._phase, self._done, 0)

    def finish(self) -> None:
        self._on_progress(self._phase, self._done, self._done)
