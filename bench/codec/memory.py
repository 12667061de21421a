"""Peak memory of both ends: packing and rebuilding releases, each in a process of its own.

The models of the bench are small, and what holds a whole tensor, or a list that grows with the release, would not show
with them. So there are two synthetic updates of 1.3 GB, base included, whose tensors are as wide as a large model's:
bf16 after a light fine-tune, and int4 in groups of 128 as compressed-tensors packs it. Their values are drawn from a
seeded pool, so that they are written as fast as the disk takes them, and still have the entropies of weights.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.codec.samples import FORMATS, config_of
from bench.memory_watch import MemoryWatch
from groundsegment.models.bfloat16 import to_bfloat16
from groundsegment.models.rounding import pack_nibbles
from groundsegment.models.safetensors_file import SafetensorsWriter, TensorSpec

RELEASE_BYTES = 650_000_000  # and its base as much
COLUMNS, ROWS = 4096, 8192  # of a matrix: 67 MB of bf16
GROUP = 128
_POOL_VALUES = 2**24
_BLOCK_ROWS = 512
_SEED = 4
_ROOT = Path(__file__).parent.parent.parent
_INT4 = FORMATS["int4_g128"]
Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """Peak memory of both ends with one release.

    Attributes:
        name: of the release.
        raw_mb: of its files, base included.
        packer_mb: resident memory of the packer and its workers.
        decoder_mb: of the decoder.
    """

    name: str
    raw_mb: float
    packer_mb: float
    decoder_mb: float


def measure(new: Path, old: Path, scratch: Path, *, release_bytes: int = RELEASE_BYTES) -> list[Peak]:
    """Return the peaks with an update from `old` to `new`, and with both synthetic ones."""
    peaks = [_watched("bf16 fine-tune", new, old, scratch / "whole")]
    for kind in ("bf16", "int4"):
        directory = scratch / f"large-{kind}"
        make(directory, kind, release_bytes)
        peaks.append(_watched(f"{kind}, synthetic", directory / "new", directory / "old", directory / "out"))
        shutil.rmtree(directory)
    return peaks


def make(directory: Path, kind: str, release_bytes: int = RELEASE_BYTES) -> None:
    """Write a release, `new`, and its base, `old`: at least so many bytes each."""
    rng = np.random.default_rng(_SEED)
    pool = rng.standard_normal(_POOL_VALUES, dtype=np.float32) * np.float32(0.02)
    specs = _specs(kind, release_bytes)
    for name in ("old", "new"):
        (directory / name).mkdir(parents=True)
        config = config_of(_INT4.kind, _INT4.group_columns) if kind == "int4" else {"model_type": "qwen2"}
        (directory / name / "config.json").write_text(json.dumps(config))
    writers = [SafetensorsWriter(directory / name / "model.safetensors", specs) for name in ("old", "new")]
    olds, news = _pools(kind, pool, rng)
    for spec in specs:
        blocks = _shape_blocks() if spec.name.endswith("_shape") else _blocks(spec, olds, news, rng)
        for old, new in blocks:
            writers[0].write(spec.name, old.tobytes())
            writers[1].write(spec.name, new.tobytes())
    for writer in writers:
        writer.close()


def _specs(kind: str, release_bytes: int) -> list[TensorSpec]:
    matrix_bytes = ROWS * COLUMNS * (2 if kind == "bf16" else 0.5 + 2 / GROUP)
    specs = []
    for number in range(1 + int(release_bytes / matrix_bytes)):
        name = f"model.layers.{number}.mlp.up_proj.weight"
        if kind == "bf16":
            specs.append(TensorSpec(name=name, dtype="BF16", shape=(ROWS, COLUMNS)))
        else:
            specs.append(TensorSpec(name=f"{name}_packed", dtype="I32", shape=(ROWS, COLUMNS // 8)))
            specs.append(TensorSpec(name=f"{name}_scale", dtype="BF16", shape=(ROWS, COLUMNS // GROUP)))
            specs.append(TensorSpec(name=f"{name}_shape", dtype="I64", shape=(2,)))
    return specs


def _pools(kind: str, pool: NDArray[np.float32], rng: np.random.Generator) -> tuple[dict[str, Bytes], dict[str, Bytes]]:
    """Return old and new bytes by dtype, from which tensors are cut anywhere."""
    bits = to_bfloat16(pool)
    moved = to_bfloat16(pool + rng.standard_normal(pool.size, dtype=np.float32) * np.float32(0.02 * 0.0015))
    olds, news = {"BF16": bits.view(np.uint8)}, {"BF16": moved.view(np.uint8)}
    if kind == "int4":
        codes = np.clip(np.rint(pool / 0.008), -8, 7).astype(np.int8)
        changed = np.clip(codes + (rng.random(codes.size) < 0.01), -8, 7).astype(np.int8)
        olds["I32"], news["I32"] = (pack_nibbles(each[None]).view(np.uint8).reshape(-1) for each in (codes, changed))
        scales = to_bfloat16(np.abs(pool) + np.float32(0.004))
        fresh = np.where(rng.random(scales.size) < 0.03, scales + np.uint16(1), scales)
        olds["BF16"], news["BF16"] = scales.view(np.uint8), fresh.astype(np.uint16).view(np.uint8)
    return olds, news


def _blocks(
    spec: TensorSpec, olds: dict[str, Bytes], news: dict[str, Bytes], rng: np.random.Generator
) -> Iterator[tuple[Bytes, Bytes]]:
    row_bytes = spec.size_bytes // spec.shape[0]
    size = row_bytes * _BLOCK_ROWS
    old, new = olds[spec.dtype], news[spec.dtype]
    for _ in range(spec.shape[0] // _BLOCK_ROWS):
        start = int(rng.integers((old.size - size) // 4)) * 4
        yield old[start : start + size], new[start : start + size]


def _shape_blocks() -> Iterator[tuple[Bytes, Bytes]]:
    shape = np.array([ROWS, COLUMNS], "<i8").view(np.uint8)
    yield shape, shape


def _watched(name: str, new: Path, old: Path, out: Path) -> Peak:
    command = [sys.executable, "-m", "bench.codec.packer_process", str(new), str(old), str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=_ROOT)
    with MemoryWatch(process.pid) as watch:
        if process.wait():
            raise SystemExit("codec: the packer failed")
    command = [sys.executable, "-m", "bench.codec.decoder_process", str(out)]
    decoder = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, cwd=_ROOT).stdout)
    return Peak(
        name=name,
        raw_mb=sum(path.stat().st_size for directory in (new, old) for path in directory.iterdir()) / 1e6,
        packer_mb=watch.peak_tree_bytes / 1e6,
        decoder_mb=decoder["rss_bytes"] / 1e6,
    )


def figures(peaks: Sequence[Peak]) -> dict[str, float]:
    """Return the highest of each end."""
    return {
        "decode_rss_mb": round(max(peak.decoder_mb for peak in peaks), 1),
        "packer_rss_mb": round(max(peak.packer_mb for peak in peaks), 1),
    }
