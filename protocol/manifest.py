"""The manifest of one update: what is to be on board afterwards, and how the satellite can tell that it is good.

One msgpack map, at most 64 kB. Its bytes are a TUF target: they are hashed as they came and never re-encoded.

    v          1
    sequence   int          number of this update; a release is never older than the floor it was sent with
    satellites [str]        who may install it
    release    {name: str, digest: bin32, files: [[name: str, size: int], ...]}  rising by name
    base       bin32 | nil  digest of the release that segments may refer to; the release's own: a repair, whose
                            segments bring what was lost and refer to the rest
    bundles    [[size: int, digest: bin16, segments: int], ...]   in order; segment numbers count on through them; the
                            first half of the SHA-256 tells damage and poison, the release's digest decides in the end
    keys       {satellite: bin}    the release key, wrapped for each satellite (`link_keys`)
    floor      int          no release with a smaller sequence may serve once this one is confirmed
    beside     bool         updates accepted before it go on; without it, it ends all of them
    hold       true         only there if its trial is to wait for an `activate` command
    engine     {format: "huggingface" | "gguf", memory_bytes: int}
    canary     map          the trial that decides, see `canary`
    adapter    {how: "merge" | "beside", rule: int, files: [[name: str, size: int], ...], digest: bin32 | nil}
                            only there if what flies is an adapter of the base, which must be named then; the digest is
                            that of a release of those files, if there are any
    quality    {text: bin32, tokens: int, perplexity: int, reference: nil | [perplexity: int, divergence: int]}
                            only there if the twin judged what it had rebuilt; see `quality` for the units

Segments count files as the release lists them; those of an adapter to be merged (`adapters.merge`) as `adapter.files`
does, and `release.files` are then what the rule makes of it and the base. One that is served beside its base is a
release of its own, with a file that names the base (`adapters.base_note`), and `adapter.files` is empty.

The digest of a release is the SHA-256 over its file list in the form `sha256sum` prints it, sorted by name:
anybody can check it with `sha256sum * | sha256sum`. It is all that says what the files are to be: their own digests do
not fly, for whoever has the files has those, too.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

from protocol.adapters.names import CONFIG_NAME, NOTE_NAME, RULE, WEIGHTS_NAME
from protocol.canary import Canary
from protocol.errors import DecodeError
from protocol.limits import (
    BUNDLES_MAX,
    FILES_MAX,
    MANIFEST_SIZE_MAX,
    OBJECT_SIZE_MAX,
    SEGMENTS_PER_BUNDLE_MAX,
)
from protocol.names import check_name
from protocol.packing import Fields, pack_map, unpack_map, unpack_row
from protocol.quality import Quality

VERSION = 1
DIGEST_SIZE = 32
BUNDLE_DIGEST_SIZE = 16
_UNIT = "manifest"
_FILE_SIZE_MAX = 2**47  # segment offsets are 48 bits
_FORMATS = ("huggingface", "gguf")


@dataclass(frozen=True, slots=True, kw_only=True)
class SizedFile:
    """One file of a release that is yet to be made.

    Attributes:
        name: one safe path component.
        size_bytes: its size.
    """

    name: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry(SizedFile):
    """One file of a release that is there.

    Attributes:
        sha256: digest of its bytes, 32 bytes.
    """

    sha256: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleEntry:
    """One bundle of an update.

    Attributes:
        size_bytes: of the whole bundle object.
        digest: the first BUNDLE_DIGEST_SIZE bytes of the SHA-256 of the whole bundle object; the first HANDLE_SIZE of
            them are its handle on the link.
        num_segments: how many segments it holds.
    """

    size_bytes: int
    digest: bytes
    num_segments: int


class AdapterUse(StrEnum):
    """What becomes of an adapter on board."""

    MERGE = "merge"  # a release with the files of its base, changed by the rule
    BESIDE = "beside"  # a release of its own, served with its base, which stays on board


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterEntry:
    """That the bundles bring an adapter.

    Attributes:
        use: what becomes of it.
        files: its files, rising by name, where they are not the release's own.
        digest: that of a release of `files`; None if there are none.
    """

    use: AdapterUse
    files: tuple[SizedFile, ...] = ()
    digest: bytes | None = None

    @classmethod
    def to_merge(cls, files: Sequence[FileEntry]) -> Self:
        """Return the entry of an adapter with those files that is to be merged into its base."""
        return cls(use=AdapterUse.MERGE, files=sized(files), digest=release_digest(files))


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A decoded manifest, its fields as in the layout above. Decoded is not trusted: see `trust.TrustedUpdate`."""

    sequence: int
    satellites: tuple[str, ...]
    release_name: str
    release_digest: bytes
    files: tuple[SizedFile, ...]
    base: bytes | None
    bundles: tuple[BundleEntry, ...]
    keys: Mapping[str, bytes]
    floor: int = 0
    beside: bool = False
    hold: bool = False
    engine_format: str = "huggingface"
    memory_bytes: int = 0
    canary: Canary = field(default_factory=Canary)
    adapter: AdapterEntry | None = None
    quality: Quality | None = None

    @property
    def carried_files(self) -> tuple[SizedFile, ...]:
        """What the bundles turn into: the release's files, or those of an adapter that is merged."""
        return self.files if self.adapter is None or not self.is_merged else self.adapter.files

    @property
    def is_repair(self) -> bool:
        """Whether it brings back what was lost of a release that is on board: it builds on itself."""
        return self.base == self.release_digest

    @property
    def is_merged(self) -> bool:
        """Whether the release is made of its base and an adapter."""
        return self.adapter is not None and self.adapter.use is AdapterUse.MERGE

    @property
    def installed_bytes(self) -> int:
        """Bytes of the release on disk."""
        return sum(entry.size_bytes for entry in self.files)

    @property
    def payload_bytes(self) -> int:
        """Bytes of all bundles: what has to cross the link."""
        return sum(entry.size_bytes for entry in self.bundles)

    @property
    def num_segments(self) -> int:
        """Segments of the whole update."""
        return sum(entry.num_segments for entry in self.bundles)

    def first_segment(self, bundle: int) -> int:
        """The number of the first segment of a bundle."""
        return sum(entry.num_segments for entry in self.bundles[:bundle])

    def encode(self) -> bytes:
        """Return the manifest's bytes.

        Raises:
            DecodeError: it would not be accepted (too many files or bundles, unsafe names, ...).
        """
        data = pack_map(
            {
                "v": VERSION,
                "sequence": self.sequence,
                "satellites": list(self.satellites),
                "release": {
                    "name": self.release_name,
                    "digest": self.release_digest,
                    "files": _file_rows(self.files),
                },
                "base": self.base,
                "bundles": [[entry.size_bytes, entry.digest, entry.num_segments] for entry in self.bundles],
                "keys": dict(self.keys),
                "floor": self.floor,
                "beside": self.beside,
                **({"hold": True} if self.hold else {}),
                "engine": {"format": self.engine_format, "memory_bytes": self.memory_bytes},
                "canary": self.canary.as_map(),
                **({} if self.adapter is None else {"adapter": _adapter_map(self.adapter)}),
                **({} if self.quality is None else {"quality": self.quality.as_map()}),
            }
        )
        self.decode(data)  # what we make must pass our own gate
        return data

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Parse and validate a manifest.

        Raises:
            DecodeError: it is not valid; nothing of it may be used.
        """
        fields = Fields(unpack_map(data, unit=_UNIT, size_max=MANIFEST_SIZE_MAX), unit=_UNIT)
        fields.version(VERSION)
        name, digest, files = _decode_release(fields.mapping("release"))
        engine = Fields(fields.mapping("engine"), unit=f"{_UNIT} engine")
        engine_format = engine.text("format", length_max=32)
        if engine_format not in _FORMATS:
            raise DecodeError(f"{_UNIT}: engine format {engine_format!r} is not one of {_FORMATS}")
        satellites = tuple(check_name(item, unit=_UNIT) for item in fields.items("satellites", length_max=4096))
        manifest = cls(
            sequence=fields.integer("sequence", lowest=1, highest=2**32 - 1),
            satellites=satellites,
            release_name=name,
            release_digest=digest,
            files=files,
            base=None if fields.is_none("base") else fields.data("base", size=DIGEST_SIZE),
            bundles=tuple(_decode_bundle(item) for item in fields.items("bundles", length_max=BUNDLES_MAX)),
            keys=_decode_keys(fields.mapping("keys"), satellites),
            floor=fields.integer("floor", highest=2**32 - 1),
            beside=fields.boolean("beside"),
            hold=fields.boolean("hold") if fields.has("hold") else False,
            engine_format=engine_format,
            memory_bytes=engine.integer("memory_bytes"),
            canary=Canary.from_map(fields.mapping("canary")),
            adapter=_decode_adapter(fields.mapping("adapter")) if fields.has("adapter") else None,
            quality=Quality.from_map(fields.mapping("quality")) if fields.has("quality") else None,
        )
        engine.finish()
        fields.finish()
        if manifest.floor > manifest.sequence:
            raise DecodeError(f"{_UNIT}: floor {manifest.floor} is above its own sequence {manifest.sequence}")
        if manifest.adapter is not None:
            _check_adapter(manifest, manifest.adapter)
        return manifest


def bundle_digest(sha256: bytes) -> bytes:
    """Return what a manifest says of a bundle's SHA-256."""
    return sha256[:BUNDLE_DIGEST_SIZE]


def sized(files: Iterable[FileEntry]) -> tuple[SizedFile, ...]:
    """Return what a manifest says of files."""
    return tuple(SizedFile(name=entry.name, size_bytes=entry.size_bytes) for entry in files)


def release_digest(files: Iterable[FileEntry]) -> bytes:
    """Return the digest of a release: SHA-256 over the sorted `sha256sum` listing of its files."""
    listing = hashlib.sha256()
    for entry in sorted(files, key=lambda entry: entry.name):
        listing.update(f"{entry.sha256.hex()}  {entry.name}\n".encode())
    return listing.digest()


def _decode_release(value: dict[str, Any]) -> tuple[str, bytes, tuple[SizedFile, ...]]:
    fields = Fields(value, unit=f"{_UNIT} release")
    name = check_name(fields.text("name"), unit=_UNIT)
    digest = fields.data("digest", size=DIGEST_SIZE)
    files = _decode_files(fields)
    fields.finish()
    if not files:
        raise DecodeError(f"{_UNIT}: a release without files")
    return name, digest, files


def _adapter_map(adapter: AdapterEntry) -> dict[str, Any]:
    return {"how": str(adapter.use), "rule": RULE, "files": _file_rows(adapter.files), "digest": adapter.digest}


def _decode_adapter(value: dict[str, Any]) -> AdapterEntry:
    fields = Fields(value, unit=f"{_UNIT} adapter")
    use = fields.choice("how", AdapterUse)
    fields.integer("rule", lowest=RULE, highest=RULE)
    files = _decode_files(fields)
    digest = None if fields.is_none("digest") else fields.data("digest", size=DIGEST_SIZE)
    fields.finish()
    if bool(files) != (digest is not None):
        raise DecodeError(f"{_UNIT}: an adapter has a digest if it has files")
    return AdapterEntry(use=use, files=files, digest=digest)


def _check_adapter(manifest: Manifest, adapter: AdapterEntry) -> None:
    if manifest.base is None or manifest.engine_format != "huggingface":
        raise DecodeError(f"{_UNIT}: an adapter without a base in Hugging Face layout")
    brought, released = ([entry.name for entry in files] for files in (adapter.files, manifest.files))
    if manifest.is_merged:
        is_right = brought == [CONFIG_NAME, WEIGHTS_NAME]
    else:
        is_right = not brought and released == [CONFIG_NAME, WEIGHTS_NAME, NOTE_NAME]
    if not is_right:
        raise DecodeError(f"{_UNIT}: its files are not those of an adapter to {adapter.use}")


def _file_rows(files: Iterable[SizedFile]) -> list[list[object]]:
    return [[entry.name, entry.size_bytes] for entry in files]


def _decode_files(fields: Fields) -> tuple[SizedFile, ...]:
    files = tuple(_decode_file(item) for item in fields.items("files", length_max=FILES_MAX))
    names = [entry.name for entry in files]
    if names != sorted(set(names)):
        raise DecodeError(f"{_UNIT}: files must be unique and sorted by name")
    return files


def _decode_file(item: object) -> SizedFile:
    fields = unpack_row(item, ("name", "size"), unit=f"{_UNIT} file")
    return SizedFile(
        name=check_name(fields.text("name"), unit=_UNIT),
        size_bytes=fields.integer("size", highest=_FILE_SIZE_MAX),
    )


def _decode_bundle(item: object) -> BundleEntry:
    fields = unpack_row(item, ("size", "digest", "segments"), unit=f"{_UNIT} bundle")
    return BundleEntry(
        size_bytes=fields.integer("size", lowest=1, highest=OBJECT_SIZE_MAX),
        digest=fields.data("digest", size=BUNDLE_DIGEST_SIZE),
        num_segments=fields.integer("segments", lowest=1, highest=SEGMENTS_PER_BUNDLE_MAX),
    )


def _decode_keys(value: dict[str, Any], satellites: tuple[str, ...]) -> dict[str, bytes]:
    if set(value) - set(satellites):
        raise DecodeError(f"{_UNIT}: keys for satellites it is not for")
    fields = Fields(value, unit=f"{_UNIT} keys")
    return {name: fields.data(name, size_max=2048) for name in value}
