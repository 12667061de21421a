"""Staging: scan, hash, choose a base, pack, rehearse, sign, register. Nothing is sent, and nothing half done is seen.

`prepare` reads and decides, and writes nothing; `stage` does the rest under the depot's `stage` lock. Until the last
step the depot's tables know nothing of it. Killed anywhere, the same call goes on where it was: bundles that were
packed are used again.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path

from groundsegment.depot.depot import Depot
from groundsegment.depot.records import FlightState, RegisteredRelease, Satellite, Update
from groundsegment.errors import InputError
from groundsegment.models.adapter import is_adapter
from groundsegment.packer.packing import Packed, fitting_bundle_size, pack
from groundsegment.signer.key_store import KeyStore
from groundsegment.signer.signing import check_signers, expiry, sign_update
from groundsegment.staging.adapters import choose_adapter, prune_adapters
from groundsegment.staging.base import ChosenBase, hash_release
from groundsegment.staging.checks import (
    SameAsBaseError,
    accepted_by,
    check_fits,
    check_room,
    open_updates_to,
    overtaken,
    refuse_known,
    still_on_board,
    symbol_size_of,
    useless_base,
    warnings_of,
)
from groundsegment.staging.choice import choose
from groundsegment.staging.quality import check_judging, check_quality, unjudged
from groundsegment.staging.records import Prepared, Staged, StageOptions
from groundsegment.staging.repairing import prepare_repair
from groundsegment.staging.workplace import TWIN_DIRECTORY, Workplace, open_workplace
from groundsegment.twin import Rehearsal, Rehearsed, TwinAnswer, find_twin, rehearse
from protocol.canary import Canary, CanaryPrompt
from protocol.errors import DecodeError
from protocol.link_keys import wrap_release_key
from protocol.manifest import Manifest, sized
from protocol.names import is_safe_name
from protocol.objects import object_handle
from protocol.report import NO_NONCE
from protocol.sealed_metadata import seal_metadata

OnProgress = Callable[[str, int, int], None]


def prepare(depot: Depot, path: Path, options: StageOptions, on_progress: OnProgress) -> Prepared:
    """Read a release and its base, and check that it makes sense to stage it. Writes nothing but an adapter's release.

    Raises:
        UnknownError: no such satellite.
        InputError: the release cannot fly, or there is nothing to do.
    """
    if options.is_repair:
        return prepare_repair(depot, path, options)
    satellite = depot.satellite(options.satellite)
    if options.name is not None and not is_safe_name(options.name):
        raise InputError(
            f"{options.name!r} cannot be a release's name", hint="use letters, digits, dot, dash, underscore"
        )
    if options.judging is not None:
        check_judging(options.judging)
    counter = _Counter("reading", on_progress)
    if is_adapter(path):
        return _prepare_adapter(depot, satellite, path, options, counter)
    if options.adapter is not None:
        raise InputError(f"{path}: no adapter, so there is nothing to {options.adapter}", hint="leave out --adapter")
    release = hash_release(path, counter.add)
    refuse_known(depot, satellite.name, release)
    bundle_size_bytes = options.bundle_size_bytes or fitting_bundle_size(release.size_bytes)
    choice = choose(
        depot,
        release,
        options,
        bundle_size_bytes=bundle_size_bytes,
        on_bytes=counter.add,
        on_estimate=partial(on_progress, "comparing"),
    )
    base = choice.base
    counter.finish()
    if base.release is not None and base.release.digest == release.digest:
        raise SameAsBaseError(path)
    return Prepared(
        satellite=satellite,
        name=options.name or release.source.release_name,
        release=release,
        base=base,
        plan=choice.plan,
        sources=choice.sources,
        symbol_size=symbol_size_of(options, satellite, bundle_size_bytes),
        accepted=accepted_by(depot, satellite.name),
        warnings=(
            *still_on_board(depot, satellite.name, release),
            *warnings_of(depot, satellite.name, release, base),
            *useless_base(choice.plan),
            *unjudged(path, options.judging),
            *overtaken(depot, satellite.name, options),
        ),
    )


def _prepare_adapter(
    depot: Depot, satellite: Satellite, path: Path, options: StageOptions, counter: "_Counter"
) -> Prepared:
    choice = choose_adapter(depot, path, options, counter.add)
    counter.finish()
    refuse_known(depot, satellite.name, choice.release)
    return Prepared(
        satellite=satellite,
        name=options.name or choice.source.release_name,
        release=choice.release,
        base=choice.base,
        plan=choice.plan,
        sources=choice.sources,
        symbol_size=symbol_size_of(options, satellite, choice.plan.bundle_size_bytes),
        accepted=accepted_by(depot, satellite.name),
        warnings=(
            *choice.warnings,
            *still_on_board(depot, satellite.name, choice.release),
            *warnings_of(depot, satellite.name, choice.release, ChosenBase(release=None, reason="")),
            *overtaken(depot, satellite.name, options),
        ),
        adapter=choice,
    )


def stage(depot: Depot, prepared: Prepared, options: StageOptions, *, utc: datetime, on_progress: OnProgress) -> Staged:
    """Pack, rehearse, sign and register what was prepared. The caller holds the depot's `stage` lock.

    Raises:
        TooLargeError: it was packed, and takes more than `options.payload_bytes_max`.
        DiskError: there is not enough room.
        TwinError: the twin is missing or failed; the bundles are kept for the next try.
        KeyStoreError: a key is missing or wrong.
    """
    check_signers(KeyStore(depot.keys_path))
    twin = find_twin(options.twin) if options.needs_twin else None
    check_room(depot, prepared, options, partial(on_progress, "estimating"), needs_twin=twin is not None)
    workplace = open_workplace(depot, prepared.plan.digest())
    packed = pack(
        prepared.plan,
        prepared.sources,
        workplace.path,
        release_key=workplace.release_key,
        workers=options.workers,
        on_progress=lambda done: on_progress("packing", done, prepared.plan.raw_bytes),
    )
    check_fits(packed, options)
    for release in (prepared.release, prepared.base.release):
        if release is not None:
            release.check_unchanged()
    if prepared.adapter is not None:
        prepared.adapter.lay_out(_Counter("merging", on_progress).add)
    manifest = _manifest(depot, prepared, options, packed, workplace)
    answers: tuple[TwinAnswer, ...] = ()
    if twin is not None:
        on_progress("rehearsing", 0, 0)
        found = _rehearse(prepared, options, manifest, workplace, twin)
        answers = found.answers
        manifest = replace(manifest, canary=_canary(options, answers), quality=found.quality)
        if found.quality is not None and options.judging is not None:
            check_quality(found.quality, options.judging)
    update = _register(depot, prepared, options, manifest, packed, workplace, utc)
    prune_adapters(depot, utc)
    return Staged(
        update=update,
        manifest=manifest,
        packed=packed,
        answers=answers,
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
        files=sized(prepared.release.files),
        base=prepared.base.release.digest if prepared.base.release else None,
        bundles=tuple(bundle.entry for bundle in packed.bundles),
        keys={satellite.name: wrapped},
        floor=options.floor,
        beside=options.beside,
        hold=options.hold,
        engine_format=prepared.release.source.kind,
        memory_bytes=prepared.memory_bytes,
        adapter=prepared.adapter.entry if prepared.adapter else None,
    )


def _canary(options: StageOptions, answers: tuple[TwinAnswer, ...]) -> Canary:
    if not options.prompts:
        return Canary()
    prompts = [
        CanaryPrompt(text=text, expected=answer.tokens) for text, answer in zip(options.prompts, answers, strict=True)
    ]
    return Canary(prompts=tuple(prompts), max_tokens=options.max_tokens)


def _rehearse(
    prepared: Prepared, options: StageOptions, manifest: Manifest, workplace: Workplace, twin: list[str]
) -> Rehearsed:
    base = prepared.base.release
    rehearsal = Rehearsal(
        manifest=_encode(manifest),
        release_digest=manifest.release_digest,
        bundles=workplace.path,
        release_key=workplace.release_key,
        base_files={file.name: file.path for file in base.source.files} if base else {},
        prompts=options.prompts,
        max_tokens=options.max_tokens,
        judging=options.judging,
    )
    return rehearse(rehearsal, twin, workplace.path / TWIN_DIRECTORY)


def _register(
    depot: Depot,
    prepared: Prepared,
    options: StageOptions,
    manifest: Manifest,
    packed: Packed,
    workplace: Workplace,
    utc: datetime,
) -> Update:
    encoded = _encode(manifest)
    heard = depot.journal.last_report(prepared.satellite.name)
    metadata = sign_update(
        KeyStore(depot.keys_path),
        encoded,
        utc=utc,
        root_version=heard.report.root_version if heard else 0,
        nonce=heard.report.nonce if heard else NO_NONCE,
    )
    satellite = prepared.satellite
    metadata = seal_metadata(metadata, satellite.release_public, satellite=satellite.name)
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
        weight=options.weight,
        lanes=depot.num_lanes(prepared.satellite.name),
        symbol_size=prepared.symbol_size,
        beside=options.beside,
        expires_utc=expiry(utc),
        payload_bytes=manifest.payload_bytes,
        directory=depot.updates_path / handle.hex(),
        created_utc=utc,
    )
    if prepared.adapter is not None:
        prepared.adapter.register_base(depot, utc)
    registered = workplace.register(update, encoded, metadata, release, packed.bundles)
    for old in open_updates_to(depot, update.satellite, update.release_digest):
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
