"""The metadata object: all that must be trusted about one update, in one piece, so nothing arrives by halves.

    offset  size  field
    0       8     object prefix: SKM1, total size (`objects`)
    8       n     zstd frame (content size stated, window at most 8 MiB, a dictionary) of one msgpack map:
                  roots      [bin]   root metadata that follow the satellite's own, oldest first; usually none
                  number     int     the version that the roles have in common, 0 if they have none
                  expires    int     when they expire, seconds since 1970, 0 likewise
                  manifest   bin     the TUF target, see `manifest`
                  targets    bin     TUF metadata as compact JSON, its exact bytes, packed (`metadata_packing`): less
                                     number, time, and the hash and size of the manifest, which it names
                  snapshot   bin     so, too, less the hash and size of the targets
                  timestamp  bin     so, too, less those of the snapshot

Each of the roots is packed as well, and names nothing. The hash that a role gives of the next one is the one that the
reader works out: it holds by being left out, and where a role gives another one it is sent, and will not hold.

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
from protocol.metadata_dictionary import DICTIONARY
from protocol.metadata_packing import WORD_MAX, Known, expires_s_of, number_of, pack_text, unpack_text
from protocol.objects import PREFIX_SIZE, ObjectKind, object_prefix, unpack_object
from protocol.packing import Fields, pack_map, unpack_map

_ROLE_SIZE_MAX = 64 * 1024
_NAMES = (("targets", "manifest"), ("snapshot", "targets"), ("timestamp", "snapshot"))  # each with what it names
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
            number, expires_s = number_of(self.timestamp), expires_s_of(self.timestamp)
            fields |= {"number": number, "expires": expires_s, "manifest": self.manifest}
            for name, named in _NAMES:
                known = Known(named=getattr(self, named), number=number, expires_s=expires_s)
                fields[name] = pack_text(getattr(self, name), known)
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
        number, expires_s = fields.integer("number", highest=WORD_MAX), fields.integer("expires", highest=WORD_MAX)
        parts = {"manifest": fields.data("manifest", size_max=MANIFEST_SIZE_MAX)}
        for name, named in _NAMES:
            known = Known(named=parts[named], number=number, expires_s=expires_s)
            parts[name] = unpack_text(fields.data(name), known, size_max=_ROLE_SIZE_MAX)
        fields.finish()
        if not all(parts.values()):
            raise DecodeError("metadata: a part is empty")
        return cls(
            roots=roots,
            timestamp=parts["timestamp"],
            snapshot=parts["snapshot"],
            targets=parts["targets"],
            manifest=parts["manifest"],
        )


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
