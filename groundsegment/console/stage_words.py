"""Words that `skyload stage` uses for transforms."""

from protocol.codec.kinds import TransformKind

TRANSFORM_WORDS = {
    TransformKind.BYTES: "bytes",
    TransformKind.SAME: "unchanged",
    TransformKind.BYTES_DELTA: "difference of bytes",
    TransformKind.FLOATS: "floats",
    TransformKind.FLOATS_DELTA: "difference of floats",
    TransformKind.INTEGERS: "integers",
    TransformKind.INTEGERS_DELTA: "difference of integers",
    TransformKind.NIBBLES: "4-bit codes",
    TransformKind.NIBBLES_DELTA: "difference of 4-bit codes",
    TransformKind.GGUF: "GGUF blocks",
    TransformKind.GGUF_DELTA: "difference of GGUF blocks",
}
