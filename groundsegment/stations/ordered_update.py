"""An update as orders have it: what the depot's row says of it, and the files to fetch. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from groundsegment.depot.records import Bundle, FlightState, Update
from groundsegment.stations.reading import Reader, utc_text
from protocol.limits import BUNDLES_MAX, OBJECT_SIZE_MAX, STATIONS_MAX, SYMBOL_SIZE_MAX
from protocol.names import is_safe_name
from protocol.objects import handle_of_digest

_PATH_MAX = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderedFile:
    """A file to fetch.

    Attributes:
        path: below the exchange's root, one safe name after the other.
        size_bytes: of all of it.
        sha256: of all of it.
    """

    path: PurePosixPath
    size_bytes: int
    sha256: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderedUpdate:
    """An update to fly.

    Attributes:
        update: as home has it; its directory is below the exchange's root.
        metadata: its first file.
        bundles: the others; their paths are below the exchange's root.
    """

    update: Update
    metadata: OrderedFile
    bundles: tuple[Bundle, ...]

    def files(self) -> tuple[OrderedFile, ...]:
        """All of it, metadata first."""
        listed = (
            OrderedFile(path=PurePosixPath(entry.path), size_bytes=entry.size_bytes, sha256=entry.sha256)
            for entry in self.bundles
        )
        return (self.metadata, *listed)


def update_json(entry: OrderedUpdate) -> dict[str, Any]:
    """As JSON values."""
    update, metadata = entry.update, entry.metadata
    return {
        "sequence": update.sequence,
        "release_name": update.release_name,
        "release_digest": update.release_digest.hex(),
        "base_digest": None if update.base_digest is None else update.base_digest.hex(),
        "priority": update.priority,
        "weight": update.weight,
        "lanes": update.lanes,
        "symbol_size": update.symbol_size,
        "beside": update.beside,
        "expires_utc": None if update.expires_utc is None else utc_text(update.expires_utc),
        "created_utc": utc_text(update.created_utc),
        "metadata": {"path": str(metadata.path), "size": metadata.size_bytes, "sha256": metadata.sha256.hex()},
        "bundles": [_bundle_json(bundle) for bundle in entry.bundles],
    }


def _bundle_json(bundle: Bundle) -> Mapping[str, Any]:
    return {
        "path": str(bundle.path),
        "size": bundle.size_bytes,
        "sha256": bundle.sha256.hex(),
        "segments": bundle.num_segments,
    }


def read_update(reader: Reader) -> OrderedUpdate:
    """Read one; its satellite is not said here."""
    metadata = _file(reader.child("metadata"))
    files = reader.items("bundles", lambda item: (_file(item), item.integer("segments")), count_max=BUNDLES_MAX)
    handle = handle_of_digest(metadata.sha256)
    update = Update(
        handle=handle,
        sequence=reader.integer("sequence"),
        satellite="",
        release_name=reader.text("release_name", length_max=128),
        release_digest=reader.data("release_digest", size=32),
        base_digest=reader.optional("base_digest", lambda name: reader.data(name, size=32)),
        state=FlightState.STAGED,
        priority=reader.integer("priority", lowest=-(2**31), highest=2**31 - 1),
        weight=reader.number("weight", lowest=1e-9, highest=1e9),
        lanes=reader.integer("lanes", lowest=1, highest=STATIONS_MAX),
        symbol_size=reader.integer("symbol_size", lowest=8, highest=SYMBOL_SIZE_MAX),
        beside=reader.flag("beside"),
        expires_utc=reader.optional("expires_utc", reader.utc),
        payload_bytes=sum(file.size_bytes for file, _ in files),
        directory=Path(metadata.path.parent),
        created_utc=reader.utc("created_utc"),
    )
    bundles = tuple(
        Bundle(
            update=handle,
            number=number,
            sha256=file.sha256,
            size_bytes=file.size_bytes,
            num_segments=num_segments,
            path=Path(file.path),
        )
        for number, (file, num_segments) in enumerate(files)
    )
    return OrderedUpdate(update=update, metadata=metadata, bundles=bundles)


def _file(reader: Reader) -> OrderedFile:
    return OrderedFile(
        path=_path(reader, "path"),
        size_bytes=reader.integer("size", lowest=1, highest=OBJECT_SIZE_MAX),
        sha256=reader.data("sha256", size=32),
    )


def _path(reader: Reader, name: str) -> PurePosixPath:
    path = PurePosixPath(reader.text(name, length_max=_PATH_MAX))
    if path.is_absolute() or not path.parts or not all(is_safe_name(part) for part in path.parts):
        raise reader.error(name, "not a path of safe names")
    return path
