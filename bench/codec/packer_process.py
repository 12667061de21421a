"""Packs a release in a process of its own, whose memory the bench watches: `NEW BASE OUT`; BASE may be `-`.

Writes bundles and manifest as staging does, and in `base.json` the digests of the base's files for the decoder.
"""

import hashlib
import json
import os
import sys
from pathlib import Path

from groundsegment.packer.packing import Sources, fitting_bundle_size, pack
from groundsegment.packer.plan import PackPlan, survey
from groundsegment.packer.workers import Workers
from protocol.manifest import FileEntry, Manifest, release_digest

RELEASE_KEY = bytes(32)
_LEVEL = 15


def main() -> None:
    """Pack, and print the sizes as JSON."""
    new, base, out = (Path(argument) for argument in sys.argv[1:4])
    has_base = base.name != "-"
    files, base_files = entries_of(new), entries_of(base) if has_base else ()
    paths, base_paths = (
        [(each.name, where / each.name) for each in found] for where, found in ((new, files), (base, base_files))
    )
    raw_bytes = sum(entry.size_bytes for entry in files)
    bundle_size = fitting_bundle_size(raw_bytes)
    plan = PackPlan(
        satellite="bench",
        release_digest=release_digest(files),
        files=files,
        base_digest=release_digest(base_files) if has_base else None,
        base_files=base_files,
        bundle_size_bytes=bundle_size,
        level=_LEVEL,
        survey=survey(dict(paths), dict(base_paths), bundle_size_bytes=bundle_size),
    )
    sources = Sources(files=tuple(path for _, path in paths), base_files=tuple(path for _, path in base_paths))
    bundles = out / "bundles"
    bundles.mkdir(parents=True)
    workers = Workers(count=os.cpu_count() or 1)
    packed = pack(plan, sources, bundles, release_key=RELEASE_KEY, workers=workers)
    manifest = Manifest(
        sequence=1,
        satellites=("bench",),
        release_name="bench",
        release_digest=plan.release_digest,
        files=files,
        base=plan.base_digest,
        bundles=tuple(bundle.entry for bundle in packed.bundles),
        keys={},
    )
    (out / "manifest").write_bytes(manifest.encode())
    listed = [[entry.name, entry.size_bytes, entry.sha256.hex()] for entry in base_files]
    (out / "base.json").write_text(json.dumps({"directory": str(base), "files": listed}))
    print(json.dumps({"raw_bytes": raw_bytes, "payload_bytes": packed.payload_bytes}))


def entries_of(directory: Path) -> tuple[FileEntry, ...]:
    """Return the files of a directory, digested."""
    found = []
    for path in sorted(path for path in directory.iterdir() if path.is_file()):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
        found.append(FileEntry(name=path.name, size_bytes=path.stat().st_size, sha256=digest))
    return tuple(found)


if __name__ == "__main__":
    main()
