"""A repair: an update whose base is the release itself, with what was lost of it on board, to the block, and no more.

What is there is copied on board, once it was found right there; so the update is some hundred bytes and what was lost.
No twin and no canary: the release was tried before, and the files' digests say that it is the same again.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from groundsegment.damage import damage_of
from groundsegment.depot.depot import Depot
from groundsegment.errors import InputError
from groundsegment.packer.packing import Sources, fitting_bundle_size
from groundsegment.packer.plan import PackPlan, Survey
from groundsegment.packer.tensors.counterparts import Match, Run
from groundsegment.packer.tensors.cut import cut
from groundsegment.packer.tensors.jobs import BaseRef
from groundsegment.packer.tensors.parts import WHOLE_FILE, Part, bytes_part
from groundsegment.staging.base import ChosenBase, HashedRelease, hash_release
from groundsegment.staging.checks import open_updates_to, symbol_size_of
from groundsegment.staging.records import Prepared, StageOptions
from protocol.damage import WHOLE, DamageReport, LostRange
from protocol.limits import SEGMENT_SIZE_MAX
from protocol.manifest import FileEntry


def prepare_repair(depot: Depot, path: Path, options: StageOptions) -> Prepared:
    """Read a release, and plan to send what a satellite said that it lost of it. Writes nothing.

    Raises:
        UnknownError: no such satellite.
        InputError: nothing was lost, or of another release, or a repair is under way.
    """
    satellite = depot.satellite(options.satellite)
    release = hash_release(path, lambda size: None)
    lost = _lost_of(depot, satellite.name, release)
    for update in open_updates_to(depot, satellite.name, release.digest):
        hint = f"next: skyload uplink --for {satellite.name}"
        raise InputError(f"an update to this release is {update.state} already: {update.handle.hex()}", hint=hint)
    bundle_size_bytes = options.bundle_size_bytes or fitting_bundle_size(release.size_bytes)
    paths = tuple(release.paths[entry.name].resolve() for entry in release.files)
    report = depot.journal.last_report(satellite.name)
    return Prepared(
        satellite=satellite,
        name=options.name or release.source.release_name,
        release=release,
        base=ChosenBase(release=release, reason=f"repair: {sum(each.size for each in lost)} bytes were lost on board"),
        plan=PackPlan(
            satellite=satellite.name,
            release_digest=release.digest,
            files=release.files,
            base_digest=release.digest,
            base_files=release.files,
            bundle_size_bytes=bundle_size_bytes,
            level=options.level,
            survey=repair_survey(release.files, lost),
            lost=lost,
        ),
        sources=Sources(files=paths, base_files=paths),
        symbol_size=symbol_size_of(options, satellite, bundle_size_bytes),
        accepted=report.report.accepted if report else 0,
    )


def repair_survey(files: tuple[FileEntry, ...], lost: Iterable[LostRange]) -> Survey:
    """Return how to cut a release whose base is itself, without what was lost."""
    ranges = list(lost)
    parts = tuple(bytes_part(entry.name, WHOLE_FILE, 0, entry.size_bytes) for entry in files if entry.size_bytes)
    numbers = {entry.name: number for number, entry in enumerate(files)}
    matches = {part: _match(part, [each for each in ranges if each.file == numbers[part.file]]) for part in parts}
    return Survey(
        parts=parts,
        matches=matches,
        unmatched={},
        removed=(),
        segment_bytes=SEGMENT_SIZE_MAX,
        num_segments=sum(1 for _ in cut(parts, matches)),
    )


def _match(part: Part, lost: list[LostRange]) -> Match:
    """What there still is of a file."""
    runs, at = [], 0
    for first, end in [(each.offset, each.offset + each.size) for each in lost] + [(part.size_bytes, 0)]:
        if first > at:
            runs.append(Run(first=at, num_units=first - at, refs=(BaseRef(file=part.file, offset=at),)))
        at = end
    return Match(runs=tuple(runs), base_name=part.name, reason="what was not lost")


def _lost_of(depot: Depot, satellite: str, release: HashedRelease) -> tuple[LostRange, ...]:
    known = damage_of(depot, satellite)
    found = next((each.report for each in known if each.report.release == release.digest), None)
    if found is None:
        damaged = ", ".join(f"{each.name} {each.report.release.hex()[:16]}".strip() for each in known)
        hint = f"damaged are: {damaged}" if known else "`skyload scrub --now` has it look; `skyload status` shows it"
        raise InputError(f"{satellite} has not said that it lost anything of this release", hint=hint)
    sizes = [entry.size_bytes for entry in release.files]
    found = with_known_sizes(found, sizes)
    if any(each.file >= len(sizes) or each.offset + each.size > sizes[each.file] for each in found.lost):
        raise InputError(f"{satellite} lost bytes that this release never had", hint="have it scrub again")
    return with_all_behind(found, sizes)


def with_known_sizes(report: DamageReport, sizes: Sequence[int]) -> DamageReport:
    """Return what was lost with the size of files that are lost as a whole, which the satellite does not know."""
    lost = (
        replace(each, size=sizes[each.file]) if each.size == WHOLE and each.file < len(sizes) else each
        for each in report.lost
    )
    return replace(report, lost=tuple(lost))


def with_all_behind(report: DamageReport, sizes: Sequence[int]) -> tuple[LostRange, ...]:
    """Return what was lost; where that is more than a message takes, all behind what it lists.

    Without it the repair would wait on board for ever, for what is lost cannot be copied there.

    Args:
        report: with at least one range.
        sizes: of the release's files.
    """
    if report.is_all:
        return report.lost
    *others, last = report.lost  # they rise, and the first ones are listed
    behind = [LostRange(file=last.file, offset=last.offset, size=sizes[last.file] - last.offset)]
    behind += [LostRange(file=file, offset=0, size=sizes[file]) for file in range(last.file + 1, len(sizes))]
    return (*others, *(each for each in behind if each.size))
