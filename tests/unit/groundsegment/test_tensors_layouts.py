"""The ground's words and the codec's agree: every piece of every format comes back from its codec module as it was."""

import numpy as np
import pytest

from groundsegment.packer.tensors import layouts
from groundsegment.packer.tensors.catalogue import parts_of, reader
from groundsegment.packer.tensors.cut import cut
from groundsegment.packer.tensors.matching import match
from groundsegment.packer.tensors.parts import PartKind
from protocol.codec import floats, integers
from protocol.codec.fourbit import nibbles
from protocol.codec.ggml import gguf
from tests.fakes.tensor_files import awq, bf16, f16, gptq, int8, pack_quantized, words, write_safetensors
from tests.unit.groundsegment.test_tensors_catalogue import write_gguf

CODECS = {
    PartKind.FLOATS: (layouts.float_layout, floats),
    PartKind.INTEGERS: (layouts.integer_layout, integers),
    PartKind.NIBBLES: (layouts.nibble_layout_of, nibbles),
    PartKind.GGUF: (layouts.gguf_layout, gguf),
}
FP8 = ("F8_E4M3", (32, 64), bytes(range(256)) * 8)
RELEASES = {
    "gptq": lambda seed: gptq("a", inputs=256, outputs=64, group=32, seed=seed),
    "gptq, 8 bits": lambda seed: gptq("a", inputs=64, outputs=32, group=32, seed=seed, num_bits=8),
    "awq": lambda seed: awq("a", inputs=256, outputs=64, group=64, seed=seed),
    "compressed-tensors": lambda seed: pack_quantized("a", rows=64, columns=256, group=32, seed=seed),
    "with zero points": lambda seed: pack_quantized("a", rows=64, columns=256, group=32, seed=seed, zeros=True),
    "of odd rows": lambda seed: pack_quantized("a", rows=13, columns=64, group=32, seed=seed, zeros=True),
    "8 bits": lambda seed: pack_quantized("a", rows=64, columns=64, group=32, seed=seed, num_bits=8),
    "codes alone": lambda seed: {"a.qweight": words((16, 33), seed), "b.qzeros": words((3, 5), seed)},
    "numbers": lambda seed: {
        "a": bf16((40, 64), seed),
        "b": f16((64,), seed),
        "c": ("F32", (7, 9), bytes(range(252))),
        "d": FP8,
        "e": int8((40, 64), seed),
        "f": ("I16", (6, 5), bytes(range(60))),
        "g": ("U32", (3,), bytes(range(12))),
        "h": ("BOOL", (5,), b"\0\1\1\0\1"),
        "i": ("F8_E8M0", (16, 4), bytes(range(64))),
        "j": ("F4", (16, 6), bytes(range(48))),
        "k": bf16((), seed),
    },
}


def check(new_path, old_path):
    """Encode and decode every piece, whole and as a difference; give the kinds that were seen."""
    parts, base_parts = parts_of(new_path, new_path.name), parts_of(old_path, old_path.name)
    read, base_read = reader({new_path.name: new_path}), reader({old_path.name: old_path})
    matches = match(parts, base_parts, read, base_read)
    seen = set()
    for job in cut(parts, matches, segment_bytes=4000):
        for piece in job.pieces:
            if piece.kind is PartKind.BYTES:
                continue
            layout_of, module = CODECS[piece.kind]
            layout = layout_of(piece)
            assert layout is not None, piece
            news = [np.frombuffer(read(job.file, x.offset, x.size_bytes), np.uint8) for x in piece.extents]
            olds = [np.frombuffer(base_read(x.base.file, x.base.offset, x.size_bytes), np.uint8) for x in piece.extents]
            for base in (None, olds):
                parameters, streams = module.encode(news, base, layout, level=8)
                back = module.decode(parameters, streams, [new.size for new in news], base)
                assert all(np.array_equal(one, other) for one, other in zip(back, news, strict=True))
            seen.add((piece.kind, len(piece.extents)))
    return seen


@pytest.mark.parametrize("release", RELEASES)
def test_every_piece_comes_back_from_the_codec(tmp_path, release):
    new = write_safetensors(tmp_path / "new.safetensors", RELEASES[release](1))
    old = write_safetensors(tmp_path / "old.safetensors", RELEASES[release](100))
    seen = check(new, old)
    if release in {"gptq", "awq", "with zero points"}:
        assert (PartKind.NIBBLES, 3) in seen


@pytest.mark.parametrize("types", [("Q8_0", "Q4_K"), ("Q4_0", "Q4_1", "Q5_K", "Q6_K")])
def test_every_gguf_block_comes_back_from_the_codec(tmp_path, types):
    new, old = write_gguf(tmp_path / "new.gguf", types), write_gguf(tmp_path / "old.gguf", types, name="old")
    assert (PartKind.GGUF, 1) in check(new, old)


def test_each_layout_is_for_its_kind_only(tmp_path):
    path = write_safetensors(tmp_path / "x.safetensors", {"a": bf16((40, 64), 1), "b": int8((40, 64), 1)})
    for job in cut(parts_of(path, path.name), {}):
        for piece in job.pieces:
            made = {kind for kind, (layout_of, _) in CODECS.items() if layout_of(piece) is not None}
            assert made == ({piece.kind} if piece.kind is not PartKind.BYTES else set())
