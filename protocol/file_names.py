"""What a file is called that carries an object through another transport than the link.

    u0007-HANDLE.skm                    metadata of the update with sequence 7
    u0007-HANDLE-b0003-HANDLE.skb       its bundle 3: the handle of the metadata, then the bundle's own
    command-HANDLE.skc                  a command
    message-HANDLE.ska                  a message of the satellite
    report-SESSION-SEQUENCE.skr         a report of the satellite: one whole frame, not an object

Names sort into the order in which files are best taken: oldest update first, its metadata before its bundles. Nothing
is believed because of a name; but a file whose bytes are not what its name says was damaged on its way, and it is
better to say so at once.
"""

import re

from protocol.frame import HANDLE_SIZE
from protocol.objects import ObjectKind

SUFFIXES = {
    ObjectKind.METADATA: ".skm",
    ObjectKind.BUNDLE: ".skb",
    ObjectKind.COMMAND: ".skc",
    ObjectKind.MESSAGE: ".ska",
}
REPORT_SUFFIX = ".skr"
_CLAIM = re.compile(rf"(?:^|[^0-9a-f])([0-9a-f]{{{2 * HANDLE_SIZE}}})\.sk[mbca]$")


def metadata_file_name(sequence: int, handle: bytes) -> str:
    """The file of an update's metadata object."""
    return f"{_update_stem(sequence, handle)}.skm"


def bundle_file_name(sequence: int, update: bytes, number: int, handle: bytes) -> str:
    """The file of one bundle of an update."""
    return f"{_update_stem(sequence, update)}-b{number:04d}-{handle.hex()}.skb"


def update_list_name(sequence: int, handle: bytes, suffix: str) -> str:
    """A file that says what the files of an update are."""
    return f"{_update_stem(sequence, handle)}{suffix}"


def object_file_name(kind: ObjectKind, handle: bytes) -> str:
    """The file of a command or a message."""
    return f"{kind.name.lower()}-{handle.hex()}{SUFFIXES[kind]}"


def report_file_name(session: bytes, sequence: int) -> str:
    """The file of a report."""
    return f"report-{session.hex()}-{sequence:013d}{REPORT_SUFFIX}"


def claimed_handle(name: str) -> bytes | None:
    """The handle that a file's name says it has; None if it says nothing."""
    match = _CLAIM.search(name)
    return bytes.fromhex(match[1]) if match else None


def goes_up(name: str) -> bool | None:
    """Whether a file is for the satellite, by its name, or for the ground; None if it is none of ours."""
    if not has_our_suffix(name):
        return None
    return not name.endswith((SUFFIXES[ObjectKind.MESSAGE], REPORT_SUFFIX))


def has_our_suffix(name: str) -> bool:
    """Whether a file should be one of ours, by its name."""
    return name.endswith((*SUFFIXES.values(), REPORT_SUFFIX))


def _update_stem(sequence: int, handle: bytes) -> str:
    return f"u{sequence:04d}-{handle.hex()}"
