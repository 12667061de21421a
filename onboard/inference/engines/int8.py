"""Int8 weights used as they are: linear layers of a compressed-tensors checkpoint, without unpacking them.

transformers unpacks such a checkpoint to bfloat16 before the first answer, which doubles memory and gives the speed
away again: a CPU decodes a small model as fast as it can read its weights. Here one row goes through torch's int8
kernel, which reads half the bytes; many rows (a prompt) are faster with the weights unpacked for the moment.
"""

from __future__ import annotations

from typing import Any

import torch

_MAX_KERNEL_ROWS = 4
"""Measured: the kernel's time grows with every row, some 33 us where unpacking costs 130 us once (docs/serving.md)."""


class Int8Linear(torch.nn.Module):  # type: ignore[misc]
    """A linear layer with int8 weights and one scale for each output."""

    def __init__(self, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.register_buffer("weight", weight, persistent=False)
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("bias", bias, persistent=False)
        self.weight: torch.Tensor
        self.scale: torch.Tensor
        self.bias: torch.Tensor | None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x @ weight.T * scale + bias."""
        rows = x.reshape(-1, x.shape[-1])
        if rows.shape[0] <= _MAX_KERNEL_ROWS:
            out = torch._weight_int8pack_mm(rows, self.weight, self.scale)
        else:
            out = torch.nn.functional.linear(rows, self.weight.to(x.dtype)) * self.scale
        if self.bias is not None:
            out = out + self.bias
        return out.reshape(*x.shape[:-1], -1)


def keep_int8(model: Any) -> int:  # noqa: ANN401 - transformers is untyped
    """Replace the int8 linear layers of a freshly loaded model; returns how many.

    Only symmetric weights with one scale per output row and no quantized activations are taken; whatever else the
    checkpoint holds is left to transformers, which unpacks it.
    """
    found = [(name, module) for name, module in model.named_modules() if _is_plain_int8(module)]
    for name, module in found:
        parent, _, last = name.rpartition(".")
        bias = None if module.bias is None else module.bias.detach()
        replacement = Int8Linear(module.weight.detach(), module.weight_scale.detach().flatten(), bias)
        setattr(model.get_submodule(parent), last, replacement)
    return len(found)


def _is_plain_int8(module: torch.nn.Module) -> bool:
    weight, scale = getattr(module, "weight", None), getattr(module, "weight_scale", None)
    scheme = getattr(module, "quantization_scheme", None)
    return (
        isinstance(module, torch.nn.Linear)
        and isinstance(weight, torch.Tensor)
        and weight.dtype == torch.int8
        and weight.device.type == "cpu"
        and isinstance(scale, torch.Tensor)
        and scale.shape == (weight.shape[0], 1)
        and getattr(module, "weight_zero_point", None) is None
        and scheme is not None
        and scheme.input_activations is None
        and scheme.output_activations is None
    )
