"""The metadata object: all that must be trusted about one update, in one piece, so nothing arrives by halves.

    offset  size  field
    0       8     object prefix: SKM1, total size (`objects`)
    8       n     zstd frame (content size stated, window at most 8 MiB, a dictionary) of one msgpack map:
                  roots      [bin]   root metadata that follow the satellite's own, oldest first; usually none
                  timestamp  bin     TUF metadata as compact JSON, its exact bytes, packed (`metadata_packing`)
                  snapshot   bin     so, too, and each of the roots
                  targets    bin
                  manifest   bin     the TUF target, see `manifest`

A **rotation** has `roots` alone, at least one: keys are replaced without an update. Beside them it may have `label`
(str), which nobody reads: who sends the same roots to several satellites gives each object a name of its own by it.

Decoding says nothing of trust: `trust.accept_metadata` does.
"""

from dataclasses import dataclass
from typing import Self

import zstandard

from protocol.errors import DecodeError
from protocol.limits import (
    MANIFEST_SIZE_MAX,
    METADATA_UNPACKED_MAX,
    NAME_LENGTH_MAX,
    ROOT_SIZE_MAX,
    ROOTS_MAX,
    ZSTD_WINDOW_MAX,
)
from protocol.metadata_packing import DICTIONARY, pack_text, unpack_text
from protocol.objects import PREFIX_SIZE, ObjectKind, object_prefix, unpack_object
from protocol.packing import Fields, pack_map, unpack_map

_ROLE_SIZE_MAX = 64 * 1024
_LEVEL = 19
_DICTIONARY = zstandard.ZstdCompressionDict(DICTIONARY, dict_type=zstandard.DICT_TYPE_RAWCONTENT)


@dataclass(frozen=True, slots=True, kw_only=True)
class MetadataBundle:
    """The raw, unverified parts of a metadata object.

    Attributes:
        roots: newer root metadata, oldest first.
        timestamp: signed timestamp metadata.
        snapshot: signed snapshot metadata.
        targets: signed targets metadata.
        manifest: the manifest's bytes.
        label: of a rotation.

    All but `roots` and `label` are empty in a rotation.
    """

    roots: tuple[bytes, ...] = ()
    timestamp: bytes = b""
    snapshot: bytes = b""
    targets: bytes = b""
    manifest: bytes = b""
    label: str = ""

    @property
    def is_rotation(self) -> bool:
        """Whether it brings roots and no update."""
        return not (self.timestamp or self.snapshot or self.targets or self.manifest)

    def encode(self) -> bytes:
        """Return the metadata object."""
        fields: dict[str, object] = {"roots": [pack_text(root) for root in self.roots]}
        if not self.is_rotation:
            fields |= {
                "timestamp": pack_text(self.timestamp),
                "snapshot": pack_text(self.snapshot),
                "targets": pack_text(self.targets),
                "manifest": self.manifest,
            }
        elif self.label:
            fields["label"] = self.label
        packed = pack_map(fields)
        body = zstandard.ZstdCompressor(level=_LEVEL, dict_data=_DICTIONARY).compress(packed)
        return object_prefix(ObjectKind.METADATA, PREFIX_SIZE + len(body)) + body

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Parse a metadata object.

        Raises:
            DecodeError: not one, or a part is over its limit.
        """
        body = unpack_object(data, ObjectKind.METADATA)
        fields = Fields(unpack_map(_decompress(body), unit="metadata", size_max=METADATA_UNPACKED_MAX), unit="metadata")
        packed = fields.items("roots", length_max=ROOTS_MAX)
        if not all(isinstance(root, bytes) for root in packed):
            raise DecodeError("metadata: roots must be bytes")
        roots = tuple(unpack_text(root, size_max=ROOT_SIZE_MAX) for root in packed)
        if roots and not fields.has("timestamp"):
            label = fields.text("label", length_max=NAME_LENGTH_MAX) if fields.has("label") else ""
            fields.finish()
            return cls(roots=roots, label=label)
        bundle = cls(
            roots=roots,
            timestamp=unpack_text(fields.data("timestamp"), size_max=_ROLE_SIZE_MAX),
            snapshot=unpack_text(fields.data("snapshot"), size_max=_ROLE_SIZE_MAX),
            targets=unpack_text(fields.data("targets"), size_max=_ROLE_SIZE_MAX),
            manifest=fields.data("manifest", size_max=MANIFEST_SIZE_MAX),
        )
        fields.finish()
        if not (bundle.timestamp and bundle.snapshot and bundle.targets and bundle.manifest):
            raise DecodeError("metadata: a part is empty")
        return bundle


def _decompress(body: bytes) -> bytes:
    try:
        # The stated size is checked first: `decompress` trusts it and would allocate whatever it says.
        size = zstandard.get_frame_parameters(body).content_size
        if not 0 < size <= METADATA_UNPACKED_MAX:
            raise DecodeError(f"metadata: {size} decompressed bytes are not in 1..{METADATA_UNPACKED_MAX}")
        decompressor = zstandard.ZstdDecompressor(dict_data=_DICTIONARY, max_window_size=ZSTD_WINDOW_MAX)
        return decompressor.decompress(body, max_output_size=METADATA_UNPACKED_MAX, allow_extra_data=False)
    except (zstandard.ZstdError, MemoryError) as error:
        raise DecodeError(f"metadata: zstd refused it: {error}") from None
