"""What the codec calls things on the wire: transforms and coders, by number."""

from enum import IntEnum


class TransformKind(IntEnum):
    """How the bytes of a piece were turned into streams; DELTA needs the base's bytes."""

    BYTES = 0  # one stream of bytes; for what is not understood
    SAME = 1  # the base's bytes, unchanged; no stream
    BYTES_DELTA = 2  # (new - old) modulo 256, one stream
    FLOATS = 3
    FLOATS_DELTA = 4
    INTEGERS = 5
    INTEGERS_DELTA = 6
    NIBBLES = 7
    NIBBLES_DELTA = 8
    GGUF = 9
    GGUF_DELTA = 10
    BYTES_MATCHES = 11  # bytes that repeat runs of the base's, wherever these lie: text of another length

    @property
    def needs_base(self) -> bool:
        """Whether every extent of a piece must name base bytes."""
        return self in _NEED_BASE


_NEED_BASE = {
    TransformKind.SAME,
    TransformKind.BYTES_DELTA,
    TransformKind.FLOATS_DELTA,
    TransformKind.INTEGERS_DELTA,
    TransformKind.NIBBLES_DELTA,
    TransformKind.GGUF_DELTA,
    TransformKind.BYTES_MATCHES,
}


class Coder(IntEnum):
    """How the values of a stream are stored."""

    RAW = 0  # little-endian values
    ZSTD = 1  # zstd of the little-endian values
    PCO = 2  # pcodec's bins and tANS, integer tables only
    CONSTANT = 3  # one little-endian value, repeated
    SPARSE = 4  # where values are that are not 0, as gaps, and these as a stream of another coder
