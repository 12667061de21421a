"""The tensors that codec, peers and bounds are measured on: a fixed, seeded sample of real weights in every format.

A sample is a real file, safetensors or GGUF, with as few tensors as tell the truth: of each of the seven kinds of
linear layer one, of a seeded block, and a slice of the embedding where the format quantizes or holds it. Groups of 128
and Q4_K's blocks of 256 do not divide the 576 columns of SmolLM2's other layers; there the sample is the down
projections of four seeded blocks. The same tensors in every model, so that one is the base of the other.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.codec import q4_k
from bench.codec.checkpoints import Weights
from groundsegment.models.bfloat16 import from_bfloat16, to_bfloat16
from groundsegment.models.rounding import pack_nibbles, quantize_rows
from groundsegment.models.safetensors_file import SafetensorsWriter, TensorSpec

KINDS = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
KINDS += ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
EMBEDDING = "model.embed_tokens.weight"
EMBEDDING_ROWS = 2048
SEED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """How a sample stores its matrices.

    Attributes:
        name: as the results say it.
        kind: bf16, int8, int4, int4_asym, or a type of GGUF.
        group_columns: that share a scale; 0 is a whole row.
        has_embedding: whether it holds a slice of the embedding.
    """

    name: str
    kind: str
    group_columns: int = 0
    has_embedding: bool = False

    @property
    def is_gguf(self) -> bool:
        """Whether the file is a GGUF file."""
        return self.kind.startswith("q")

    @property
    def columns_multiple(self) -> int:
        """What the columns of its matrices have to be a multiple of."""
        return {"q4_k": q4_k.BLOCK_VALUES, "q8_0": 32, "q4_1": 32}.get(self.kind, self.group_columns or 1)


FORMATS = {
    form.name: form
    for form in (
        Format(name="bf16", kind="bf16", has_embedding=True),
        Format(name="int8", kind="int8"),
        Format(name="int4_g32", kind="int4", group_columns=32),
        Format(name="int4_g128", kind="int4", group_columns=128),
        Format(name="int4_g32_asym", kind="int4_asym", group_columns=32),
        Format(name="int4_g128_asym", kind="int4_asym", group_columns=128),
        Format(name="q8_0", kind="q8_0", has_embedding=True),
        Format(name="q4_1", kind="q4_1", has_embedding=True),
        Format(name="q4_k", kind="q4_k"),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """One matrix of a sample, as it is stored.

    Attributes:
        name: of the weights.
        kind: of its format.
        rows: outputs.
        columns: inputs.
        group_columns: that share a scale; 0 is a whole row.
        parts: stored bytes by what they are: values; codes, scales, zeros; or blocks.
    """

    name: str
    kind: str
    rows: int
    columns: int
    group_columns: int
    parts: Mapping[str, NDArray[np.uint8]]

    @property
    def size_bytes(self) -> int:
        """Bytes of all parts."""
        return sum(part.nbytes for part in self.parts.values())


def select(weights: Mapping[str, NDArray[np.float32]], form: Format) -> dict[str, NDArray[np.float32]]:
    """Return the matrices of a sample, by name; the embedding's slice under the embedding's name."""
    rng = np.random.default_rng(SEED)
    blocks = num_blocks(weights)
    chosen = _drawn(rng, blocks)
    if any(weights[name].shape[1] % form.columns_multiple for name in chosen):
        chosen = [
            f"model.layers.{block}.mlp.down_proj.weight" for block in sorted(rng.choice(blocks, 4, replace=False))
        ]
    first = int(rng.integers(len(weights[EMBEDDING]) - EMBEDDING_ROWS))
    found = {name: weights[name] for name in chosen}
    if form.has_embedding:
        found[EMBEDDING] = weights[EMBEDDING][first : first + EMBEDDING_ROWS]
    return found


def linears(num_blocks: int) -> list[str]:
    """Return the names of the sample's linear layers: of each kind one, of a seeded block."""
    return _drawn(np.random.default_rng(SEED), num_blocks)


def num_blocks(names: Iterable[str]) -> int:
    """Return how many blocks a model of these tensors has."""
    return 1 + max(int(name.split(".")[2]) for name in names if name.startswith("model.layers."))


def quantize(name: str, values: NDArray[np.float32], form: Format) -> Matrix:
    """Store a matrix as the format does: Skyload's own rounding for int8 and int4, gguf's for its types."""
    rows, columns = values.shape
    group = form.group_columns or columns
    if form.kind == "bf16":
        parts = {"values": to_bfloat16(values)}
    elif form.kind in {"int8", "int4"}:
        block = quantize_rows(values, num_bits=8 if form.kind == "int8" else 4, group_columns=group)
        codes = block.codes if form.kind == "int8" else pack_nibbles(block.codes)
        parts = {"codes": codes, "scales": block.scales}
    elif form.kind == "int4_asym":
        parts = _asymmetric(values, group)
    elif form.kind == "q4_k":
        parts = {"blocks": q4_k.quantize(values)}
    else:
        from gguf.constants import GGMLQuantizationType
        from gguf.quants import quantize as quantize_gguf

        parts = {"blocks": quantize_gguf(values, GGMLQuantizationType[form.kind.upper()])}
    raw = {part: np.ascontiguousarray(data).view(np.uint8).reshape(-1) for part, data in parts.items()}
    return Matrix(name=name, kind=form.kind, rows=rows, columns=columns, group_columns=form.group_columns, parts=raw)


def write(path: Path, matrices: list[Matrix]) -> None:
    """Write the matrices as a file of their format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.stem}.part{path.suffix}")
    if path.suffix == ".gguf":
        _write_gguf(part, matrices)
    else:
        tensors = [tensor for matrix in matrices for tensor in _tensors(matrix)]
        writer = SafetensorsWriter(part, [spec for spec, _ in tensors])
        for spec, data in tensors:
            writer.write(spec.name, data.tobytes())
        writer.close()
        (path.parent / "config.json").write_text(
            json.dumps(config_of(matrices[0].kind, matrices[0].group_columns), indent=2) + "\n"
        )
    part.replace(path)


def build(weights: Weights, form: Format, directory: Path) -> tuple[Path, list[Matrix]]:
    """Return the file of a sample, written into `directory`, and its matrices."""
    matrices = [quantize(name, values, form) for name, values in select(weights, form).items()]
    path = directory / ("model.gguf" if form.is_gguf else "model.safetensors")
    write(path, matrices)
    return path, matrices


def _drawn(rng: np.random.Generator, blocks: int) -> list[str]:
    drawn = zip(KINDS, rng.integers(blocks, size=len(KINDS)), strict=True)
    return [f"model.layers.{block}.{kind}.weight" for kind, block in drawn]


def _asymmetric(values: NDArray[np.float32], group: int) -> dict[str, NDArray[np.generic]]:
    """Round to nearest on a grid with a zero point, as compressed-tensors packs it: codes and zeros 0 .. 15."""
    rows, columns = values.shape
    grouped = values.reshape(rows, columns // group, group)
    low, high = np.minimum(grouped.min(axis=2), 0), np.maximum(grouped.max(axis=2), 0)
    scales = to_bfloat16(np.maximum((high - low) / np.float32(15), np.float32(2.0**-126)))
    step = from_bfloat16(scales)
    zeros = np.clip(np.rint(-low / step), 0, 15)
    codes = np.clip(np.rint(grouped / step[:, :, None]) + zeros[:, :, None], 0, 15).astype(np.uint8)
    signed = (codes.reshape(rows, columns).astype(np.int16) - 8).astype(np.int8)
    # Zero points are packed down the rows, eight to an int32.
    packed_zeros = pack_nibbles(np.ascontiguousarray((zeros - 8).astype(np.int8).T)).T
    return {"codes": pack_nibbles(signed), "scales": scales, "zeros": np.ascontiguousarray(packed_zeros)}


def _tensors(matrix: Matrix) -> Iterator[tuple[TensorSpec, NDArray[np.uint8]]]:
    rows, columns, name = matrix.rows, matrix.columns, matrix.name
    groups = columns // (matrix.group_columns or columns)
    layouts = {
        "values": (name, "BF16", (rows, columns)),
        "codes": (name, "I8", (rows, columns))
        if matrix.kind == "int8"
        else (f"{name}_packed", "I32", (rows, columns // 8)),
        "scales": (f"{name}_scale", "BF16", (rows, groups)),
        "zeros": (f"{name}_zero_point", "I32", (rows // 8, groups)),
    }
    for part, data in matrix.parts.items():
        tensor, dtype, shape = layouts[part]
        yield TensorSpec(name=tensor, dtype=dtype, shape=shape), data
    if matrix.kind.startswith("int4"):
        shape_bytes = np.array([rows, columns], "<i8").view(np.uint8)
        yield TensorSpec(name=f"{name}_shape", dtype="I64", shape=(2,)), shape_bytes


def config_of(kind: str, group_columns: int) -> dict[str, object]:
    """Return the config.json of a release of such matrices, as compressed-tensors writes it."""
    if kind == "bf16":
        return {"model_type": "qwen2"}
    weights = {
        "num_bits": 8 if kind == "int8" else 4,
        "type": "int",
        "symmetric": kind != "int4_asym",
        "strategy": "group" if group_columns else "channel",
        "group_size": group_columns or None,
    }
    layout = "int-quantized" if kind == "int8" else "pack-quantized"
    groups = {"group_0": {"targets": ["Linear"], "format": layout, "weights": weights}}
    settings = {"quant_method": "compressed-tensors", "format": layout, "config_groups": groups}
    return {"model_type": "qwen2", "quantization_config": settings}


def _write_gguf(path: Path, matrices: list[Matrix]) -> None:
    from gguf import GGUFWriter
    from gguf.constants import GGMLQuantizationType

    writer = GGUFWriter(path, "qwen2")
    for matrix in matrices:
        blocks = matrix.parts["blocks"].reshape(matrix.rows, -1)
        writer.add_tensor(matrix.name, blocks, raw_dtype=GGMLQuantizationType[matrix.kind.upper()])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
