"""How the state directory lies on the disk, what we assume of the disk, and what survives a power cut.

    trust-N.record          three copies of what must never be forgotten, two slots of 8 KiB each (`record`)
    ballast                 space that nobody uses, let go of when a lost copy of the record finds none (`ballast`)
    root-DIGEST16.N.json    three copies of the trusted TUF root (`roots`)
    update-HANDLE.skm       metadata object of the newest accepted update (`installer.update_file`)
    messages/               what the ground has not acknowledged yet (`messages`)
        HANDLE.ska              one signed message
        KEY.done                empty: the message with that key was queued once
    inbox/                  objects being received (`inbox`)
        HANDLE.KIND.N.T/        one object of N symbols of T bytes; all of it is in the name
            007.log             symbols of block 7 in groups, each with a sum (`symbol_log`)
            007.done            block 7 is solved and in `data`
            data                solved blocks at their offsets; holes where blocks are missing
            object              the whole object, its digest checked; then there is nothing else
        dropped-N/              being deleted
    import/                 objects that came as files and wait (`spool`)
    releases/
        DIGEST16/               one sealed release, named by the first 16 hex digits of its digest
            NAME                    its files
            .sha256sums             their digests; the SHA-256 of this file is the digest of the release
            .metadata.skm           the metadata object that brought it; not there for what was provisioned
            .guard-0, .guard-1      leaf hashes, twice, and .parity: what undoes damage (`scrub.guard`)
            .repair                 a file being repaired
        DIGEST16.part/          being rebuilt; worth nothing until it is renamed
            .progress               which bundles are in place (`installer.assemble`)
        provision.part/         a release being copied in before launch
    current                 symbolic link to the release that serves
    scrub.ledger            flips found, what is lost, how far a scrub is; replaced as a whole (`scrub.ledger`)
    contacts                the contact in which each ground station was heard last (`contact_file`)
    run/                    sockets, logs of workers; nothing here outlives a boot
    lock                    held by the one daemon that may write here; holds its process id
    *.new                   a file, or the link, about to take its name

Assumed of the disk and its file system (ext4 and XFS do this; measured by cutting the power in earnest):

1. A rename is atomic: after a cut the name is the old file or the new one.
2. What `fsync`, or `fdatasync` of a file whose size it must learn, has returned for is there after a cut. What is
   not synced may be there whole, in part, or not at all; parts may be there in any order.
3. The name of a new file survives only when its directory was synced; so does a rename.
4. A write of bytes in place touches no byte beside them. It may be torn anywhere.
5. An error of a sync is final. The kernel drops the pages, so a second sync may succeed and prove nothing.

Promised after `kill -9` or a power cut at any moment:

- The trust record has its old or its new value, and the new one once `store` has returned. It needs no space.
- `replace_file` leaves the old or the new file, and the new one once it has returned.
- Every symbol that a report counted, and every block it called solved, is there. A symbol found in a log after a
  crash is synced before it is counted: it may have been only in memory of the kernel. A group of symbols is there whole
  or not at all, and none is counted before its group is synced.
- A name without a dot in `releases/` is a release whose every byte and name was synced before it got that name.
- Space does not leak: what is neither an object nor a release is deleted at start.
"""

from dataclasses import dataclass
from pathlib import Path

from onboard.store.disk import Disk

_DIGEST_CHARACTERS = 16


@dataclass(frozen=True, slots=True)
class StateLayout:
    """Where things lie under a state directory."""

    state_dir: Path

    @property
    def record(self) -> Path:
        """The trust record; its copies are named after it, see `record.copy_paths`."""
        return self.state_dir / "trust.record"

    @property
    def ballast(self) -> Path:
        """Space held back."""
        return self.state_dir / "ballast"

    @property
    def inbox(self) -> Path:
        """Objects being received."""
        return self.state_dir / "inbox"

    @property
    def imports(self) -> Path:
        """Objects that came as files and wait."""
        return self.state_dir / "import"

    @property
    def releases(self) -> Path:
        """Sealed releases, and those being rebuilt."""
        return self.state_dir / "releases"

    @property
    def current(self) -> Path:
        """The symbolic link to the release that serves."""
        return self.state_dir / "current"

    @property
    def scrub_ledger(self) -> Path:
        """What was found wrong with releases."""
        return self.state_dir / "scrub.ledger"

    @property
    def contacts(self) -> Path:
        """In which contact each station was heard last."""
        return self.state_dir / "contacts"

    @property
    def run(self) -> Path:
        """Sockets and logs."""
        return self.state_dir / "run"

    @property
    def lock(self) -> Path:
        """The daemon's lock."""
        return self.state_dir / "lock"

    def release(self, digest: bytes) -> Path:
        """The directory of a sealed release."""
        return self.releases / directory_name(digest)

    def release_part(self, digest: bytes) -> Path:
        """The directory in which a release is being rebuilt."""
        return self.releases / f"{directory_name(digest)}.part"


def directory_name(digest: bytes) -> str:
    """What the directory of a release with that digest is called."""
    return digest.hex()[:_DIGEST_CHARACTERS]


def make_state_directories(layout: StateLayout, disk: Disk) -> None:
    """Make what is missing, and make the names survive a power cut."""
    for path in (layout.state_dir, layout.inbox, layout.releases, layout.run):
        disk.make_directory(path)
    disk.sync_directory(layout.state_dir)
    disk.sync_directory(layout.state_dir.parent)
