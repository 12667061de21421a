"""What a long requantization has done so far, kept on disk until it is finished.

Arrays by name in a hidden neighbour of the output, each file whole or not there. A record made from other inputs or
options is thrown away: what is kept is what the same command would have made again.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]

_NOTE = "note"


class Keeper:
    """Keeps the stages of one requantization.

    Args:
        out: the output directory; the record lies beside it.
        key: what decides the results.
    """

    def __init__(self, out: Path, key: str) -> None:
        self.directory = out.absolute().with_name(f".{out.absolute().name}.requantize")
        self._key = key

    def __enter__(self) -> Self:
        saved = self.directory / "key"
        if not saved.is_file() or saved.read_text(encoding="utf-8") != self._key:
            shutil.rmtree(self.directory, ignore_errors=True)
            self.directory.mkdir(parents=True)
            saved.write_text(self._key, encoding="utf-8")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            shutil.rmtree(self.directory, ignore_errors=True)

    def load(self, name: str) -> tuple[dict[str, NDArray[Any]], dict[str, Any]] | None:
        """Return the arrays and the note that were kept under a name, or None."""
        path = self.directory / f"{name}.npz"
        if not path.is_file():
            return None
        with np.load(path, allow_pickle=False) as kept:
            arrays = {key: kept[key] for key in kept.files}
        return arrays, json.loads(arrays.pop(_NOTE).tobytes())

    def save(self, name: str, arrays: Arrays, note: Mapping[str, Any]) -> None:
        """Keep arrays and a note under a name."""
        part = self.directory / f"{name}.part.npz"
        text = np.frombuffer(json.dumps(note).encode(), np.uint8)
        with part.open("wb") as file:
            np.savez(file, **dict(arrays), **{_NOTE: text})  # type: ignore[arg-type]
        part.replace(self.directory / f"{name}.npz")
