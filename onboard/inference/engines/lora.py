"""A LoRA adapter beside its base: linear layers that add scale * B A x to whatever their layer computes.

The base's weights stay as they are, int8 too, so one worker answers with the adapter and without it: a switch that
all adapted layers share. The factors are few and are kept and multiplied in float32. What an adapter may be is
`protocol.adapters`' to say: here it is only checked again, for an engine believes no file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from protocol.adapters.config import CONFIG_SIZE_MAX
from protocol.adapters.header import Source
from protocol.adapters.merge import Adapter, find_targets
from protocol.adapters.names import CONFIG_NAME, WEIGHTS_NAME


class AdapterSwitch:
    """Whether the adapter takes part in what the model computes next.

    Attributes:
        is_on: set it before each step.
        num_layers: how many layers it changes.
    """

    def __init__(self, num_layers: int) -> None:
        self.is_on = True
        self.num_layers = num_layers


class LoraLinear(torch.nn.Module):  # type: ignore[misc]
    """A layer of the base with the two factors of its adapter: A (rank, in) and B (out, rank), scale included."""

    def __init__(self, inner: torch.nn.Module, a: torch.Tensor, b: torch.Tensor, switch: AdapterSwitch) -> None:
        super().__init__()
        self.inner = inner
        self.register_buffer("a", a, persistent=False)
        self.register_buffer("b", b, persistent=False)
        self.a: torch.Tensor
        self.b: torch.Tensor
        self._switch = switch

    @property
    def weight(self) -> torch.Tensor:
        """The base's: models ask their layers for a dtype or a device."""
        weight: torch.Tensor = self.inner.weight
        return weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the layer computes, with the adapter's part if it is on."""
        out: torch.Tensor = self.inner(x)
        if not self._switch.is_on:
            return out
        low = torch.nn.functional.linear(x.float(), self.a)
        return out + torch.nn.functional.linear(low, self.b).to(out.dtype)


def load_adapter(model: Any, directory: Path, base: Path) -> AdapterSwitch:  # noqa: ANN401 - transformers is untyped
    """Put an adapter around the layers of a freshly loaded model; returns its switch.

    Raises:
        AdapterError: it is not plain LoRA, or not of this base.
    """
    with (directory / CONFIG_NAME).open("rb") as file:
        adapter = Adapter.read(file.read(CONFIG_SIZE_MAX + 1), _source(directory / WEIGHTS_NAME))
    find_targets(adapter, {path.name: _source(path) for path in base.glob("*.safetensors")})
    factors = load_file(directory / WEIGHTS_NAME)
    switch = AdapterSwitch(len(adapter.pairs))
    for layer, pair in adapter.pairs.items():
        parent, _, last = layer.rpartition(".")
        inner = model.get_submodule(layer)
        device = next(tensor.device for tensor in (*inner.parameters(), *inner.buffers()))
        a = factors[pair.a.name].to(device, torch.float32)
        b = factors[pair.b.name].to(device, torch.float32) * adapter.config.scale
        setattr(model.get_submodule(parent), last, LoraLinear(inner, a, b, switch))
    return switch


def _source(path: Path) -> Source:
    def read(offset: int, size: int) -> bytes:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(size)

    return Source(size_bytes=path.stat().st_size, read=read)
