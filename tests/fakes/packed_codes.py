"""Quantized matrices for the tests of the codec: weights with loud rows, rounded as quantizers round, and packed."""

from dataclasses import dataclass, replace

import numpy as np
from hypothesis import strategies as st

from protocol.codec.fourbit.affine import Float
from protocol.codec.fourbit.nibble_layout import NibbleLayout, Packing, Zeros
from protocol.codec.payload import Stream

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def weights(rows: int, columns: int, seed: int) -> np.ndarray:
    """Return weights as a trained matrix has them: normal, loud and quiet rows."""
    rng = np.random.default_rng(seed)
    loud = np.exp(rng.normal(0, 0.3, (rows, 1)))
    return (rng.normal(0, 0.02, (rows, columns)) * loud).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Quantized:
    """codes (rows, groups, group), scales (rows, groups) as float16, zeros (rows, groups)."""

    codes: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray

    @classmethod
    def of(cls, matrix: np.ndarray, group: int) -> "Quantized":
        """Round to nearest on a grid from the smallest to the largest weight of each group."""
        table = matrix.reshape(matrix.shape[0], -1, group)
        low, high = np.minimum(table.min(axis=2), 0), np.maximum(table.max(axis=2), 0)
        scales = ((high - low) / 15).astype(np.float16)
        steps = scales.astype(np.float32)
        zeros = np.clip(np.rint(-low / steps), 0, 15)
        codes = np.clip(np.rint(table / steps[:, :, None]) + zeros[:, :, None], 0, 15)
        return cls(codes.astype(np.uint8), scales, zeros.astype(np.uint8))

    def pack(self, packing: Packing) -> tuple[list[np.ndarray], NibbleLayout]:
        """Return the extents and what they look like; rows of the matrix are outputs."""
        outputs, groups, group = self.codes.shape
        inputs = groups * group
        if packing is Packing.ROW:
            codes, scales = _words(self.codes.reshape(outputs, -1, 8)), self.scales
            zeros = _words(self.zeros.reshape(outputs // 8, 8, groups).transpose(0, 2, 1))
            rows, columns = outputs, inputs
        else:
            order = list(AWQ_ORDER) if packing is Packing.AWQ else list(range(8))
            table = self.codes.reshape(outputs, inputs).T
            if packing is Packing.GPTQ:
                codes = _words(table.reshape(inputs // 8, 8, outputs).transpose(0, 2, 1))
            else:
                codes = _words(table.reshape(inputs, outputs // 8, 8)[..., order])
            scales = self.scales.T
            zeros = _words(self.zeros.T.reshape(groups, outputs // 8, 8)[..., order])
            rows, columns = inputs, outputs
        layout = NibbleLayout(
            packing=packing, rows=rows, columns=columns, group=group, scales=Float.F16, zeros=Zeros.PACKED
        )
        extents = [codes, np.ascontiguousarray(scales).astype("<f2"), zeros]
        return [np.frombuffer(extent.tobytes(), np.uint8) for extent in extents], layout


def _words(codes: np.ndarray) -> np.ndarray:
    """Return int32 of eight codes each, the first lowest."""
    return np.sum(codes.astype(np.uint32) << (4 * np.arange(8, dtype=np.uint32)), axis=-1, dtype=np.uint32).astype(
        "<u4"
    )


def entropy_bits(values: np.ndarray, classes: np.ndarray | None = None) -> float:
    """Return the bits of all values at their empirical entropy, given their classes."""
    joint = values.reshape(-1).astype(np.int64)
    classes = np.zeros(joint.size, np.int64) if classes is None else classes.reshape(-1).astype(np.int64)
    counts = np.bincount(classes * (int(joint.max()) + 1) + joint).astype(np.float64)
    totals = np.bincount(classes).astype(np.float64)
    return _plogp(totals) - _plogp(counts)


def _plogp(counts: np.ndarray) -> float:
    seen = counts[counts > 0]
    return float((seen * np.log2(seen)).sum())


def damage(data: st.DataObject, parameters: bytes, streams: tuple[Stream, ...]) -> tuple[bytes, tuple[Stream, ...]]:
    """Return a piece with one thing wrong: a byte of the parameters or of a stream, a length, a count, an order."""
    what = data.draw(st.sampled_from(["parameters", "cut parameters", "bytes", "cut bytes", "count", "fewer", "more"]))
    if what == "parameters":
        return flip(data, parameters), streams
    if what == "cut parameters":
        return parameters[: data.draw(st.integers(0, len(parameters) - 1))], streams
    at = data.draw(st.integers(0, len(streams) - 1))
    stream = streams[at]
    changed = {
        "bytes": lambda: (replace(stream, data=flip(data, stream.data)),),
        "cut bytes": lambda: (replace(stream, data=stream.data[: data.draw(st.integers(0, len(stream.data)))]),),
        "count": lambda: (replace(stream, count=data.draw(st.integers(0, 2**23))),),
        "fewer": lambda: (),
        "more": lambda: (stream, stream),
    }[what]()
    return parameters, (*streams[:at], *changed, *streams[at + 1 :])


def flip(data: st.DataObject, raw: bytes) -> bytes:
    """Return the bytes with one of them different."""
    at = data.draw(st.integers(0, len(raw) - 1))
    return raw[:at] + bytes([raw[at] ^ data.draw(st.integers(1, 255))]) + raw[at + 1 :]
