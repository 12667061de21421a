"""Rebuilds a packed release in a process of its own, with the code that flies: `OUT` of packer_process.

Nothing of the ground is imported. Prints peak resident memory, CPU and wall seconds as JSON.
"""

import json
import sys
import time
from pathlib import Path

from onboard.installer.assemble import Assembly, Plan
from onboard.installer.release import ReleaseDirectory
from protocol.manifest import FileEntry, Manifest

_RELEASE_KEY = bytes(32)


def main() -> None:
    """Install every bundle, verify every file."""
    out = Path(sys.argv[1])
    manifest = Manifest.decode((out / "manifest").read_bytes())
    assembly = Assembly.open(
        out / "release.part", Plan(manifest=manifest, release_key=_RELEASE_KEY, base=_base(out, manifest))
    )
    began, began_cpu = time.monotonic(), time.process_time()
    for number, path in enumerate(sorted((out / "bundles").glob("*.skb*"))):
        assembly.install(path, number)
    assembly.verify()
    assert assembly.is_complete
    figures = {
        "rss_bytes": _peak_resident_bytes(),
        "cpu_s": time.process_time() - began_cpu,
        "wall_s": time.monotonic() - began,
    }
    print(json.dumps(figures))


def _peak_resident_bytes() -> int:
    """Return the peak of this program: ru_maxrss would count what the parent had when it started us."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM:")).split()[1]) * 1024


def _base(out: Path, manifest: Manifest) -> ReleaseDirectory | None:
    if manifest.base is None:
        return None
    base = json.loads((out / "base.json").read_text())
    files = tuple(
        FileEntry(name=name, size_bytes=size, sha256=bytes.fromhex(digest)) for name, size, digest in base["files"]
    )
    return ReleaseDirectory(directory=Path(base["directory"]), digest=manifest.base, files=files)


if __name__ == "__main__":
    main()
