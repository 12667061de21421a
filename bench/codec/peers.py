"""Compressors and differs that others use, on the same bytes as the codec: run here, each at its best setting.

Each gets what it was made for: ZipNN and OpenZL the item type, OpenZL all graphs that fit and the best of them, differs
both files, XOR and SUB the arrays item by item. Whatever a library packs is unpacked again and compared.
"""

import functools
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.codec.q4_k import BLOCK_BYTES
from bench.codec.samples import Matrix

_ZSTD_LEVEL = 19
_TRIAL_BYTES = 192 << 10
_STRUCT_BYTES = {"q8_0": 34, "q4_1": 20, "q4_k": BLOCK_BYTES}
_ZSTD = f"zstd -{_ZSTD_LEVEL}"
_AFTER = {_ZSTD, "ZipNN", "OpenZL"}
FULL = [_ZSTD, "xz -9", "ZipNN", "OpenZL"]
DELTA = [f"{_ZSTD} --patch-from", "xdelta3 -9", "bsdiff4"]
DELTA += [f"{operation} + {coder}" for operation in ("XOR", "SUB") for coder in (_ZSTD, "ZipNN", "OpenZL")]


def prepare() -> list[str]:
    """Install the peers that are Python packages where they are missing; returns what cannot be run for want of it."""
    if any(not _is_installed(name) for name in _LIBRARIES.values()):
        wanted = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["bench"]
        options = ["--quiet", "--disable-pip-version-check", "--constraint", str(_ROOT / "constraints.txt")]
        for requirement in wanted:  # one by one: the one without a wheel may fail, and the others are there
            subprocess.run([sys.executable, "-m", "pip", "install", *options, requirement], check=False)
    missing = [label for label, name in _LIBRARIES.items() if not _is_installed(name)]
    return missing + [name for name in _PROGRAMS if shutil.which(name) is None]


@functools.cache
def versions() -> str:
    """Return name and version of every peer that is here."""
    found = [f"{name} {_program_version(command)}" for name, command in _PROGRAMS.items() if shutil.which(name)]
    found += [f"{label} {version(name)}" for label, name in _LIBRARIES.items() if _is_installed(name)]
    return ", ".join(found)


def full_sizes(matrix: Matrix) -> dict[str, int]:
    """Return what each peer makes of a matrix: the sizes of its parts, added up."""
    coders = _coders()
    sizes = dict.fromkeys((name for name in FULL if name in coders), 0)
    for part, data in matrix.parts.items():
        for name in sizes:
            sizes[name] += coders[name](data, _kind(matrix, part))
    return sizes


def delta_sizes(new: Matrix, old: Matrix) -> dict[str, int]:
    """Return what each peer makes of a matrix given the base's."""
    coders, differs = _coders(), _differs()
    sizes: dict[str, int] = {}
    for part, data in new.parts.items():
        before, kind = old.parts[part], _kind(new, part)
        for name, differ in differs.items():
            sizes[name] = sizes.get(name, 0) + differ(data.tobytes(), before.tobytes())
        for operation, variants in _differences(data, before, kind).items():
            for coder in coders.keys() & _AFTER:
                name = f"{operation} + {coder}"
                sizes[name] = sizes.get(name, 0) + min(coders[coder](item, as_kind) for item, as_kind in variants)
    return {name: sizes[name] for name in DELTA if name in sizes}


def zipnn_size(data: NDArray[np.generic], kind: str) -> int:
    """Return the size under ZipNN, the best of the types that it can be told; as it is if none shrinks it."""
    from zipnn import ZipNN

    raw = data.tobytes()
    types = ["bfloat16"] if kind in {"bf16", "u16"} else ["float8_e4m3fn", "bfloat16", "float32"]
    # Its lanes are two or four bytes wide; an odd tail it cannot take.
    padded = raw + bytes(-len(raw) % 4)
    best = len(raw)
    for dtype in types:
        try:
            # It reorders bits in the buffer that it is given, so it gets one of its own.
            packed = bytes(ZipNN(input_format="byte", bytearray_dtype=dtype).compress(bytearray(padded)))
            unpacked = ZipNN(input_format="byte", bytearray_dtype=dtype).decompress(packed)
        except (ValueError, RuntimeError, TypeError, KeyError):
            continue
        if bytes(unpacked) == padded:
            best = min(best, len(packed))
    return best


def openzl_size(data: NDArray[np.generic], kind: str) -> int:
    """Return the size under OpenZL: the best of all graphs that fit the type."""
    raw = np.ascontiguousarray(data).view(np.uint8).reshape(-1)
    # All graphs see the beginning, the three best of them all of it.
    begin = raw[: _TRIAL_BYTES // _width(kind) * _width(kind)]
    tried = [(size, number, graph) for number, graph in enumerate(_graphs(kind)) if (size := _openzl(begin, graph))]
    if len(raw) == len(begin):
        return min(tried)[0]
    return min(size for _, _, graph in sorted(tried)[:3] if (size := _openzl(raw, graph)))


_LIBRARIES = {"ZipNN": "zipnn", "OpenZL": "openzl", "bsdiff4": "bsdiff4"}
_PROGRAMS = {"zstd": ["zstd", "--version"], "xz": ["xz", "--version"], "xdelta3": ["xdelta3", "-V"]}
_ROOT = Path(__file__).resolve().parent.parent.parent
_Graph = Callable[[object], object]
_Coder = Callable[[NDArray[np.generic], str], int]


def _coders() -> dict[str, _Coder]:
    found: dict[str, _Coder] = {}
    if shutil.which("zstd"):
        zstd = ["zstd", f"-{_ZSTD_LEVEL}", "-T1", "--no-check", "-c", "-q"]
        found[_ZSTD] = lambda data, kind: _piped(zstd, data.tobytes())
    if shutil.which("xz"):
        found["xz -9"] = lambda data, kind: _piped(["xz", "-9", "-T1", "-c"], data.tobytes())
    sizes = {"ZipNN": zipnn_size, "OpenZL": openzl_size}
    return found | {label: size for label, size in sizes.items() if _is_installed(_LIBRARIES[label])}


def _differs() -> dict[str, Callable[[bytes, bytes], int]]:
    found = {f"{_ZSTD} --patch-from": ("zstd", _patch_from), "xdelta3 -9": ("xdelta3", _xdelta)}
    differs = {name: differ for name, (program, differ) in found.items() if shutil.which(program)}
    return differs | ({"bsdiff4": _bsdiff} if _is_installed("bsdiff4") else {})


def _is_installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def _program_version(command: list[str]) -> str:
    shown = subprocess.run(command, capture_output=True, text=True, check=False)
    match = re.search(r"\d+(\.\d+)+", shown.stdout + shown.stderr)
    return match[0] if match else "unknown"


def _kind(matrix: Matrix, part: str) -> str:
    if part in {"values", "scales"}:
        return "bf16"
    return {"int4_asym": "int4"}.get(matrix.kind, matrix.kind)


def _width(kind: str) -> int:
    return _STRUCT_BYTES.get(kind, 2 if kind in {"bf16", "u16"} else 1)


def _graphs(kind: str) -> Iterator[_Graph]:
    from openzl.ext import graphs, nodes

    plain = [graphs.Compress, graphs.Fse, graphs.Entropy, functools.partial(graphs.Zstd, compression_level=_ZSTD_LEVEL)]
    for graph in plain:
        yield lambda c, graph=graph: graph()(c)
        if _width(kind) > 1:
            yield lambda c, graph=graph: nodes.ConvertSerialToStruct(struct_size_bytes=_width(kind))(
                c, nodes.TransposeSplit()(c, graph()(c))
            )
    if kind in {"bf16", "u16"}:
        to_numbers = nodes.ConvertSerialToNumLE16()
        yield lambda c: to_numbers(c, graphs.FieldLz()(c))
        yield lambda c: to_numbers(c, graphs.Compress()(c))
    if kind == "bf16":
        yield lambda c: to_numbers(c, nodes.BFloat16Deconstruct()(c, graphs.Store()(c), graphs.Fse()(c)))
        yield lambda c: to_numbers(c, nodes.BFloat16Deconstruct()(c, graphs.Fse()(c), graphs.Fse()(c)))
    if kind == "int4":
        yield lambda c: nodes.Bitunpack(num_bits=4)(c, nodes.ConvertNumToSerialLE()(c, graphs.Fse()(c)))


def _openzl(raw: NDArray[np.uint8], build: _Graph) -> int:
    """Return the size under one graph, or 0 if the data does not fit it."""
    from openzl import ext

    compressor = ext.Compressor()
    compressor.set_parameter(ext.CParam.FormatVersion, ext.MAX_FORMAT_VERSION)
    compressor.select_starting_graph(build(compressor))
    context = ext.CCtx()
    context.ref_compressor(compressor)
    try:
        packed = context.compress([ext.Input(ext.Type.Serial, raw)])
    except RuntimeError:
        return 0
    assert ext.DCtx().decompress(packed)[0].content.as_bytes() == raw.tobytes()
    return len(packed)


def _differences(
    new: NDArray[np.uint8], old: NDArray[np.uint8], kind: str
) -> Mapping[str, list[tuple[NDArray[np.generic], str]]]:
    """Return XOR and SUB of two arrays, each in the layouts that may help a coder, with the type it then has."""
    if kind == "bf16":
        words, before = new.view("<u2"), old.view("<u2")
        xor = words ^ before
        signed = (_rising(words) - _rising(before)).astype(np.int16)
        folded = ((signed << 1) ^ (signed >> 15)).astype(np.uint16)
        return {
            "XOR": [(xor, "u16"), (_planes(xor), "u8")],
            "SUB": [(words - before, "u16"), (folded, "u16"), (_planes(folded), "u8")],
        }
    found: dict[str, list[tuple[NDArray[np.generic], str]]] = {"XOR": [(new ^ old, kind)], "SUB": [(new - old, kind)]}
    if kind == "int4":
        apart = [np.stack([part & 15, part >> 4], axis=-1).reshape(-1) for part in (new, old)]
        found["SUB"].append((apart[0] - apart[1], "u8"))
    return found


def _rising(bits: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Map bfloat16 bits to integers that rise with their values."""
    return np.where(bits & 0x8000, ~bits, bits | np.uint16(0x8000)).astype(np.uint16)


def _planes(words: NDArray[np.uint16]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(words.view(np.uint8).reshape(-1, 2).T).reshape(-1)


def _patch_from(new: bytes, old: bytes) -> int:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "new").write_bytes(new)
        (directory / "old").write_bytes(old)
        command = [
            "zstd",
            f"-{_ZSTD_LEVEL}",
            "-T1",
            "--no-check",
            "-q",
            "-q",
            "-f",
            f"--patch-from={directory / 'old'}",
        ]
        subprocess.run([*command, str(directory / "new"), "-o", str(directory / "patch")], check=True)
        return (directory / "patch").stat().st_size


def _xdelta(new: bytes, old: bytes) -> int:
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "old").write_bytes(old)
        return _piped(["xdelta3", "-9", "-e", "-c", "-n", "-A", "-s", str(Path(name) / "old")], new)


def _bsdiff(new: bytes, old: bytes) -> int:
    import bsdiff4

    return len(bsdiff4.diff(old, new))


def _piped(command: list[str], raw: bytes) -> int:
    return len(subprocess.run(command, input=raw, stdout=subprocess.PIPE, check=True).stdout)
