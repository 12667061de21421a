"""From a release, or the files of one that fly, to the plan of its packing and where its files are."""

from collections.abc import Sequence
from pathlib import Path

from groundsegment.packer.packing import Sources
from groundsegment.packer.plan import PackPlan, survey
from groundsegment.staging.base import HashedRelease
from groundsegment.staging.records import StageOptions
from protocol.manifest import FileEntry


def plan_packing(
    release_digest: bytes,
    files: Sequence[FileEntry],
    paths: Sequence[Path],
    base: HashedRelease | None,
    options: StageOptions,
    *,
    bundle_size_bytes: int,
) -> tuple[PackPlan, Sources]:
    """Plan to pack files.

    Args:
        release_digest: of the release that they are, or become on board.
        files: that fly.
        paths: where they are, in the same order.
        base: what they are packed against; None packs them whole.
        options: satellite and level.
        bundle_size_bytes: no bundle is larger.
    """
    base_paths = {} if base is None else base.paths
    plan = PackPlan(
        satellite=options.satellite,
        release_digest=release_digest,
        files=tuple(files),
        base_digest=base.digest if base else None,
        base_files=base.files if base else (),
        bundle_size_bytes=bundle_size_bytes,
        level=options.level,
        survey=survey(
            {entry.name: path for entry, path in zip(files, paths, strict=True)},
            base_paths,
            bundle_size_bytes=bundle_size_bytes,
        ),
    )
    # Resolved: workers elsewhere know no directory of ours.
    sources = Sources(
        files=tuple(path.resolve() for path in paths),
        base_files=tuple(path.resolve() for path in base_paths.values()),
    )
    return plan, sources
