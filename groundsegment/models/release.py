"""A release on disk as its owner has it, checked and listed: what will fly, what will not, and why.

`scan_release` takes a Hugging Face model directory or one GGUF file, reads headers only, and either
refuses with words or returns a `ReleaseSource`. Nothing in it ever unpickles or runs anything. It does
not know bundles or links.
"""

import hashlib
import json
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from groundsegment.errors import InputError
from groundsegment.models import gguf_file, safetensors_file
from groundsegment.models.tensor_info import TensorInfo
from protocol import manifest
from protocol.limits import FILES_MAX
from protocol.names import is_safe_name

INDEX_NAME = "model.safetensors.index.json"
_PICKLE_SUFFIXES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz"}
_KEPT_NAMES = {
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "preprocessor_config.json",
    "processor_config.json",
    "quant_config.json",
    "quantize_config.json",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
}
_JSON_BYTES_MAX = 64 << 20
_READ_BYTES = 4 << 20
_CONVERT_HINT = (
    "only safetensors and GGUF fly, a pickle can run code; convert it (transformers: "
    "model.save_pretrained(DIR)), or move the file away if the weights are also there as safetensors"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseFile:
    """One file of a release: its name on board, where it is here, its size."""

    name: str
    path: Path
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedFile:
    """Something in the directory that does not fly, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseSource:
    """A checked release.

    Attributes:
        path: what was scanned.
        kind: how it is laid out.
        release_name: a safe name made of the path's.
        files: what flies, sorted by name.
        skipped: what does not.
    """

    path: Path
    kind: Literal["huggingface", "gguf"]
    release_name: str
    files: tuple[ReleaseFile, ...]
    skipped: tuple[SkippedFile, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Return the size of all files."""
        return sum(file.size_bytes for file in self.files)

    def tensors(self) -> Iterator[TensorInfo]:
        """Yield every tensor, file by file, in order of its data; reads headers only."""
        for file in self.files:
            if file.name.endswith(".safetensors"):
                yield from safetensors_file.read_header(file.path)[0]
            elif self.kind == "gguf":
                yield from gguf_file.read_gguf(file.path).tensors

    def path_of(self, name: str) -> Path:
        """Return where the file of this name is."""
        return next(file.path for file in self.files if file.name == name)


def scan_release(path: Path) -> ReleaseSource:
    """Check a model directory or GGUF file and list what flies.

    Raises:
        InputError: it is not a release that can fly; the hint says what to do.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or directory", hint="give a model directory or a GGUF file")
    if path.is_dir():
        return _scan_directory(path)
    return _scan_gguf(path)


def digest_files(source: ReleaseSource, progress: Callable[[int], None] | None = None) -> list[tuple[str, int, str]]:
    """Return (name, size, SHA-256 in hex) of every file, in order of names.

    Args:
        source: a checked release.
        progress: called with the number of bytes just read.

    Raises:
        InputError: a file changed since it was scanned.
    """
    return [(file.name, file.size_bytes, _digest(file, progress)) for file in source.files]


def release_digest(files: Iterable[tuple[str, int, str]]) -> str:
    """Return the release's digest: what `sha256sum * | sha256sum` prints in a directory of these files."""
    entries = [
        manifest.FileEntry(name=name, size_bytes=size_bytes, sha256=bytes.fromhex(digest))
        for name, size_bytes, digest in files
    ]
    return manifest.release_digest(entries).hex()


def _scan_gguf(path: Path) -> ReleaseSource:
    _check_regular(path)
    if not _starts_with_gguf(path):
        _refuse_pickle(path)
        hint = "give the model's directory, with config.json and tokenizer, or a GGUF file"
        raise InputError(f"{path}: not a GGUF file", hint=hint)
    if not is_safe_name(path.name):
        raise InputError(f"{path}: unsafe file name", hint="rename it to letters, digits, dot, dash, underscore")
    parsed = gguf_file.read_gguf(path)
    if parsed.metadata.get("split.count", 0) > 1:
        raise InputError(
            f"{path}: one of several parts of a split model", hint="merge them with llama-gguf-split --merge"
        )
    if not parsed.tensors:
        raise InputError(f"{path}: holds no tensors", hint="give a GGUF file with weights, not a vocabulary")
    file = ReleaseFile(name=path.name, path=path, size_bytes=path.stat().st_size)
    return ReleaseSource(path=path, kind="gguf", release_name=path.stem, files=(file,))


def _scan_directory(path: Path) -> ReleaseSource:
    kept, skipped = _list_directory(path)
    config = kept.get("config.json")
    if config is None:
        raise InputError(f"{path}: no config.json", hint=_no_config_hint(path))
    parsed = _read_json(config.path)
    if "model_type" not in parsed and "architectures" not in parsed:
        raise InputError(f"{config.path}: names no model_type", hint="give a transformers model's directory")
    if "auto_map" in parsed:
        note = "config.json asks for the model's own code (auto_map), which is never run"
        skipped.append(SkippedFile(name="*.py", reason=note))
    if not any(name.startswith(("tokenizer", "vocab", "spiece")) for name in kept):
        skipped.append(SkippedFile(name="tokenizer.json", reason="not there; engines need it to answer"))
    weights = {name: file for name, file in kept.items() if name.endswith(".safetensors")}
    used = _check_weights(path, weights, kept.get(INDEX_NAME))
    for name in sorted(set(weights) - used):
        skipped.append(SkippedFile(name=name, reason="not part of the model that config.json and index describe"))
        del kept[name]
    if used == {"model.safetensors"} and INDEX_NAME in kept:
        del kept[INDEX_NAME]
        skipped.append(SkippedFile(name=INDEX_NAME, reason="model.safetensors holds the whole model"))
    if len(kept) > FILES_MAX:
        raise InputError(f"{path}: {len(kept)} files, at most {FILES_MAX} fly", hint="write it in larger shards")
    files = tuple(kept[name] for name in sorted(kept))
    return ReleaseSource(
        path=path,
        kind="huggingface",
        release_name=release_name(path),
        files=files,
        skipped=tuple(sorted(skipped, key=lambda item: item.name)),
    )


def _list_directory(path: Path) -> tuple[dict[str, ReleaseFile], list[SkippedFile]]:
    kept: dict[str, ReleaseFile] = {}
    skipped: list[SkippedFile] = []
    for entry in sorted(path.iterdir()):
        name = entry.name
        reason = _reason_to_skip(entry)
        if reason:
            skipped.append(SkippedFile(name=name, reason=reason))
            continue
        if entry.suffix.lower() in _PICKLE_SUFFIXES:
            raise InputError(f"{entry}: a pickle or an archive of pickles", hint=_CONVERT_HINT)
        if name not in _KEPT_NAMES and name != INDEX_NAME and entry.suffix != ".safetensors":
            skipped.append(SkippedFile(name=name, reason="not needed to serve the model"))
            continue
        if not is_safe_name(name):
            hint = "rename it to letters, digits, dot, dash, underscore, at most 128, and the index with it"
            raise InputError(f"{entry}: unsafe file name", hint=hint)
        _check_link(path, entry)
        _check_regular(entry)
        _refuse_pickle(entry)
        kept[name] = ReleaseFile(name=name, path=entry, size_bytes=entry.stat().st_size)
    return kept, skipped


def _reason_to_skip(entry: Path) -> str:
    if entry.name.startswith("."):
        return "hidden"
    if entry.is_dir():
        return "a subdirectory; a release is flat"
    return ""


def _check_link(directory: Path, entry: Path) -> None:
    """Let a link lead to a file of the same directory, or from a hub cache's snapshot to its blobs."""
    if not entry.is_symlink():
        return
    target = entry.resolve()
    allowed = [directory.resolve()]
    snapshots = allowed[0].parent
    if snapshots.name == "snapshots":
        allowed.append(snapshots.parent / "blobs")
    if target.parent not in allowed:
        raise InputError(
            f"{entry}: a link that leads out of the directory, to {target}", hint="copy it: cp -rL DIR NEW"
        )


def _check_regular(path: Path) -> None:
    if not path.exists():
        raise InputError(f"{path}: a link to nothing", hint="download the model again")
    if not stat.S_ISREG(path.stat().st_mode):
        raise InputError(f"{path}: not a regular file", hint="a release holds plain files only")


def _refuse_pickle(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(4)
    is_pickle = len(head) > 1 and head[0] == 0x80 and 2 <= head[1] <= 5 and path.suffix != ".safetensors"
    if head.startswith(b"PK\x03\x04") or is_pickle or path.suffix.lower() in _PICKLE_SUFFIXES:
        raise InputError(f"{path}: a pickle or an archive of pickles", hint=_CONVERT_HINT)


def _starts_with_gguf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == gguf_file.MAGIC


def _check_weights(path: Path, weights: dict[str, ReleaseFile], index: ReleaseFile | None) -> set[str]:
    """Read every header of the model and return the names of its weight files."""
    if not weights:
        hint = "give a directory with model.safetensors or its shards; a model of pickles must be converted"
        raise InputError(f"{path}: no weights (*.safetensors)", hint=hint)
    if "model.safetensors" in weights:
        safetensors_file.read_header(weights["model.safetensors"].path)
        return {"model.safetensors"}
    if index is None:
        hint = f"download {INDEX_NAME} too; without it no engine knows which shard holds what"
        raise InputError(f"{path}: neither model.safetensors nor {INDEX_NAME}", hint=hint)
    weight_map = _read_json(index.path).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise InputError(f"{index.path}: no weight_map", hint="download the index again")
    used = set(weight_map.values())
    missing = sorted(used - set(weights))
    if missing:
        names = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise InputError(f"{path}: the index names {names}, not there", hint="download the missing shards")
    found = {tensor.name: name for name in sorted(used) for tensor in _shard_tensors(weights[name])}
    for tensor, shard in weight_map.items():
        if found.get(tensor) != shard:
            raise InputError(
                f"{index.path}: tensor {tensor} is not in {shard}",
                hint="download index and shards again, together",
            )
    return used


def _shard_tensors(file: ReleaseFile) -> tuple[TensorInfo, ...]:
    return safetensors_file.read_header(file.path)[0]


def _read_json(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _JSON_BYTES_MAX:
        raise InputError(f"{path}: larger than {_JSON_BYTES_MAX} bytes", hint="download the file again")
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not usable JSON ({error})", hint="download the file again") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: not a JSON object", hint="download the file again")
    return value


def _no_config_hint(path: Path) -> str:
    ggufs = sorted(path.glob("*.gguf"))
    if ggufs:
        return f"give the GGUF file itself: {ggufs[0]}"
    if (path / "adapter_config.json").exists():
        return "this is an adapter: `skyload stage` takes it, with the model that it was trained on as --base"
    snapshots = sorted((path / "snapshots").glob("*/config.json"))
    if snapshots:
        return f"this is a hub cache; give one of its snapshots: {snapshots[-1].parent}"
    return "give the directory that holds config.json, the tokenizer and *.safetensors"


def release_name(path: Path) -> str:
    """Return a safe name made of the path's."""
    resolved = path.resolve()
    name = resolved.name
    if resolved.parent.name == "snapshots":  # a hub cache: models--owner--name/snapshots/REVISION
        name = resolved.parent.parent.name.rsplit("--", 1)[-1]
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-")
    return safe[:128] or "release"


def _digest(file: ReleaseFile, progress: Callable[[int], None] | None) -> str:
    hasher = hashlib.sha256()
    left = file.size_bytes
    with file.path.open("rb") as source:
        while block := source.read(_READ_BYTES):
            hasher.update(block)
            left -= len(block)
            if progress:
                progress(len(block))
    if left:
        raise InputError(f"{file.path}: its size changed while it was read", hint="wait until it is whole")
    return hasher.hexdigest()
