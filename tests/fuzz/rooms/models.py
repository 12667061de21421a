"""Models that somebody made: weights, configurations, adapters, directories; on the ground and on board."""

import os
from collections.abc import Callable
from pathlib import Path

from groundsegment.errors import GroundError
from groundsegment.models.gguf_file import read_gguf
from groundsegment.models.inspection import inspect_release
from groundsegment.models.release import scan_release
from groundsegment.models.safetensors_file import read_header
from groundsegment.packer.tensors.gguf_header import long_values
from groundsegment.packer.tensors.quantization import quantization_of
from onboard.errors import OnboardError
from onboard.model_check import check_model
from protocol.adapters import base_note, header
from protocol.adapters.config import LoraConfig
from protocol.adapters.errors import AdapterError
from tests.fuzz import good
from tests.fuzz.in_file import Paper, home, in_file
from tests.fuzz.target import Form, Target


class _Bytes:
    """A source of an adapter's bytes, as the installer's files are."""

    def __init__(self, data: bytes) -> None:
        self._data, self.size_bytes = data, len(data)

    def read(self, offset: int, size: int) -> bytes:
        """Some of them."""
        return self._data[offset : offset + size]


def _with_length(text: bytes) -> bytes:
    """A safetensors file of 15 bytes of data, behind the length of its header."""
    return len(text).to_bytes(8, "little") + text + bytes(15)


def _in_model(
    name: str, read: Callable[[Path], object], *, with_length: bool = False, shard: str = "model.safetensors"
) -> Callable[[bytes], None]:
    """One file of a model's directory is the input, the others are good."""
    directory = f"model-{name}"
    paper = Paper(f"{directory}/{name}")
    is_made = False

    def parse(data: bytes) -> None:
        nonlocal is_made
        if not is_made:
            (home() / directory).mkdir(exist_ok=True)
            for other, content in good.MODEL_FILES.items():
                called = other if "index" in other else other.replace("model.safetensors", shard)
                (home() / directory / called).write_bytes(content)
            is_made = True
        paper.write(_with_length(data) if with_length else data)
        read(home() / directory)

    return parse


def _gguf(path: Path) -> None:
    read_gguf(path)
    read_gguf(path, keep_arrays=True)
    long_values(path)


def _looked_at(directory: Path) -> None:
    source = scan_release(directory)
    inspect_release(source)
    quantization_of({file.name: file.path for file in source.files})


def _named(data: bytes) -> None:
    """A directory with a file of that name, or a link of that name to it."""
    name = os.fsdecode(data)
    if not name or "/" in name or "\0" in name or name in {".", ".."} or len(data) > 255:
        raise GroundError("not a case: no file can be called that")
    directory = home() / "named"
    if not directory.is_dir():
        directory.mkdir()
        for other, content in good.MODEL_FILES.items():
            (directory / other).write_bytes(content)
    path = directory / name
    if path.exists():
        raise GroundError("not a case: one of the others")
    is_link = not len(data) % 2
    path.symlink_to("/etc/hostname") if is_link else path.touch()
    try:
        files = {file.name for file in scan_release(directory).files}
        assert not is_link or name not in files, "a link out of the directory was taken"
    finally:
        path.unlink()


_read_entries = in_file("e.safetensors", read_header)

TARGETS: dict[str, Target] = {
    "adapter-config": Target(
        parse=LoraConfig.decode, refusals=(AdapterError,), seeds=good.ADAPTER_CONFIGS, form=Form.JSON
    ),
    "adapter-header": Target(
        parse=lambda data: header.read_tensors(_Bytes(data), "adapter"),
        refusals=(AdapterError,),
        seeds=good.SAFETENSORS,
    ),
    "adapter-entries": Target(
        parse=lambda data: header.read_tensors(_Bytes(_with_length(data)), "adapter"),
        refusals=(AdapterError,),
        seeds=[good.SAFETENSORS_TEXT],
        form=Form.JSON,
    ),
    "base-note": Target(
        parse=base_note.decode, refusals=(AdapterError,), seeds=[base_note.encode(b"\x11" * 32)], form=Form.JSON
    ),
    "safetensors": Target(parse=in_file("s.safetensors", read_header), refusals=(GroundError,), seeds=good.SAFETENSORS),
    "safetensors-entries": Target(
        parse=lambda data: _read_entries(_with_length(data)),
        refusals=(GroundError,),
        seeds=[good.SAFETENSORS_TEXT],
        form=Form.JSON,
    ),
    "gguf": Target(parse=in_file("g.gguf", _gguf), refusals=(GroundError,), seeds=good.GGUFS),
    "model-config": Target(
        parse=_in_model("config.json", _looked_at),
        refusals=(GroundError,),
        seeds=[good.MODEL_FILES["config.json"]],
        form=Form.JSON,
    ),
    "model-index": Target(
        parse=_in_model("model.safetensors.index.json", _looked_at, shard="model-1.safetensors"),
        refusals=(GroundError,),
        seeds=[good.MODEL_FILES["model.safetensors.index.json"].replace(b"model.safe", b"model-1.safe")],
        form=Form.JSON,
    ),
    "model-name": Target(
        parse=_named, refusals=(GroundError,), seeds=[b"vocab.txt", b"notes.txt", b".x"], form=Form.TEXT, size_max=300
    ),
    "provision-config": Target(
        parse=_in_model("config.json", check_model),
        refusals=(OnboardError,),
        seeds=[good.MODEL_FILES["config.json"]],
        form=Form.JSON,
    ),
    "provision-weights": Target(
        parse=_in_model("model.safetensors", check_model, with_length=True),
        refusals=(OnboardError,),
        seeds=[good.SAFETENSORS_TEXT],
        form=Form.JSON,
    ),
}
