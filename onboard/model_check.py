"""Whether a directory holds a model that an engine may be given: looked at before it is copied in by hand.

What comes over the link is signed and was checked on the ground; `skyloadd provision` takes whatever lies there. Only
headers are read, and nothing is unpickled, ever. It knows two layouts: a transformers directory with safetensors, and
a directory with one GGUF file.
"""

import json
from pathlib import Path
from typing import Any

from onboard.errors import ConfigError

_PICKLE_SUFFIXES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz"}
_HEADER_SIZE_MAX = 100 << 20  # as the safetensors library has it
_CONFIG_SIZE_MAX = 64 << 20
_HINT = "give the directory that holds config.json, the tokenizer and *.safetensors, or one GGUF file"
_DAMAGED = "copy the model again; `skyload model inspect` on the ground says what is wrong with it"


def check_model(directory: Path) -> None:
    """Refuse what no engine should be given.

    Raises:
        ConfigError: a pickle, a damaged weight file, or no model at all.
        OSError: a file cannot be read.
    """
    if not directory.is_dir():
        raise ConfigError(f"{directory}: is not a directory", hint=_HINT)
    files = sorted(path for path in directory.iterdir() if path.is_file() and not path.name.startswith("."))
    for path in files:
        _refuse_pickle(path)
    weights = [path for path in files if path.suffix == ".safetensors"]
    for path in weights:
        _check_safetensors(path)
    ggufs = [path for path in files if path.suffix == ".gguf"]
    if ggufs and not weights:
        _check_gguf(ggufs)
        return
    if not weights:
        raise ConfigError(f"{directory}: no weights in it", hint=_HINT)
    config = directory / "config.json"
    if not config.is_file():
        raise ConfigError(f"{directory}: no config.json", hint=_HINT)
    if config.stat().st_size > _CONFIG_SIZE_MAX or not isinstance(_parse(config.read_bytes()), dict):
        raise ConfigError(f"{config}: not a JSON object", hint=_DAMAGED)


def _refuse_pickle(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(4)
    is_pickle = len(head) > 1 and head[0] == 0x80 and 2 <= head[1] <= 5 and path.suffix != ".safetensors"
    if is_pickle or head.startswith(b"PK\x03\x04") or path.suffix.lower() in _PICKLE_SUFFIXES:
        raise ConfigError(
            f"{path}: a pickle or an archive of pickles, which can run code",
            hint="convert it to safetensors (transformers: model.save_pretrained(DIR)), or move the file away",
        )


def _check_safetensors(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(8)
        length = int.from_bytes(head, "little")
        header = _parse(file.read(length)) if len(head) == 8 and length <= _HEADER_SIZE_MAX else None
    if not isinstance(header, dict):
        raise ConfigError(f"{path}: not a safetensors file", hint=_DAMAGED)
    try:
        ends = [int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"]
    except (TypeError, KeyError, IndexError, ValueError, OverflowError):  # JSON has infinities in Python
        raise ConfigError(f"{path}: not a safetensors file", hint=_DAMAGED) from None
    promised, found = 8 + length + max(ends, default=0), path.stat().st_size
    if promised != found:
        raise ConfigError(f"{path}: its header promises {promised} bytes, the file has {found}", hint=_DAMAGED)


def _check_gguf(ggufs: list[Path]) -> None:
    if len(ggufs) > 1:
        raise ConfigError(f"{ggufs[0].parent}: {len(ggufs)} GGUF files", hint="give a directory with one of them")
    with ggufs[0].open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ConfigError(f"{ggufs[0]}: not a GGUF file", hint=_DAMAGED)


def _parse(data: bytes) -> Any:  # noqa: ANN401 - any JSON, None if it is none
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None
