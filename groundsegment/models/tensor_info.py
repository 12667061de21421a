"""One tensor's place in a release: what a header says about it, and nothing of its values."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """Where one tensor lies.

    Attributes:
        name: as the file spells it.
        dtype: as the format spells it: "BF16", "I8" in safetensors; "Q4_1", "F32" in GGUF.
        shape: outermost axis first, for both formats.
        file: name of the file inside the release.
        offset: of its first byte from the start of that file.
        size_bytes: of its stored bytes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    offset: int
    size_bytes: int

    @property
    def num_values(self) -> int:
        """Return the number of stored elements."""
        total = 1
        for axis in self.shape:
            total *= axis
        return total
