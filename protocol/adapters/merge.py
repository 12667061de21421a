"""Merging: what an adapter changes in which file of its base, and the bytes of the merged files, one block at a time.

A merged release has the files of its base, of the same sizes. In its safetensors files the weights that the adapter
is for are replaced by those of `rule`; all other bytes stay. So the ground can say what comes out before it flies, and
the satellite makes the same from base and adapter: both use this module.

    merge = Merge.plan(Adapter.read(config, source), base)     # reads headers only
    for block in merge.blocks("model.safetensors"): ...

Promises: memory is bounded by A of the largest layer (RIGHT_VALUES_MAX) and a block of rows, whatever the model's size;
what does not fit is refused (`AdapterError`) before the first byte. It does not know releases or disks.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import numpy as np

from protocol.adapters.config import LoraConfig
from protocol.adapters.errors import AdapterError
from protocol.adapters.header import Source, Tensor, read_tensors
from protocol.adapters.names import WEIGHTS_NAME
from protocol.adapters.rule import (
    FLOATS,
    Doubles,
    change,
    fixed_columns,
    fixed_rows,
    merge_codes,
    merge_floats,
    widen,
)

RIGHT_VALUES_MAX = 4 << 20
_BLOCK_VALUES = 256 * 1024
_COPY_SIZE = 1 << 20
_FACTOR = re.compile(r"base_model\.model\.(.+)\.lora_([AB])(?:\.default)?\.weight")
OnCodes = Callable[[bytes, bytes, Doubles, Doubles], None]
"""(old codes, merged codes, scale of each row, change of the weights)"""

_BESIDE = "serve it beside its base instead: --adapter beside"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """The two factors of one layer: A (rank, columns) and B (rows, rank)."""

    a: Tensor
    b: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """Of the layer's weight."""
        return self.b.shape[0], self.a.shape[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A layer of the base that an adapter changes.

    Attributes:
        file: where its weight lies.
        weight: floats, int8 codes, or packed codes.
        pair: the adapter's factors.
        scale: file and tensor of an int8 weight's scales.
        has_zero_points: its codes are not around zero.
    """

    file: str
    weight: Tensor
    pair: Pair
    scale: tuple[str, Tensor] | None = None
    has_zero_points: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """A checked adapter; made by `read`."""

    config: LoraConfig
    source: Source
    pairs: Mapping[str, Pair]

    @classmethod
    def read(cls, config: bytes, source: Source) -> Self:
        """Check an adapter's configuration and the header of its weights.

        Args:
            config: adapter_config.json.
            source: adapter_model.safetensors.

        Raises:
            AdapterError: it is not plain LoRA on linear layers.
        """
        parsed = LoraConfig.decode(config)
        factors: dict[str, dict[str, Tensor]] = {}
        for name, tensor in read_tensors(source, WEIGHTS_NAME).items():
            match = _FACTOR.fullmatch(name)
            if match is None:
                hint = "only LoRA factors of linear layers fly; merge it yourself and stage the model"
                raise AdapterError(f"{WEIGHTS_NAME}: {name!r} is no factor of a linear layer", hint=hint)
            if match[2] in factors.setdefault(match[1], {}):
                raise AdapterError(f"{WEIGHTS_NAME}: {match[1]} has two factors {match[2]}", hint="save it again")
            factors[match[1]][match[2]] = tensor
        if not factors:
            raise AdapterError(f"{WEIGHTS_NAME}: holds no factors", hint="save the adapter again")
        pairs = {layer: _pair(layer, found, parsed.rank) for layer, found in factors.items()}
        return cls(config=parsed, source=source, pairs=pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge:
    """An adapter and the layers of its base that it changes; made by `plan`."""

    adapter: Adapter
    base: Mapping[str, Source]
    targets: Mapping[str, tuple[Target, ...]]

    @classmethod
    def plan(cls, adapter: Adapter, base: Mapping[str, Source]) -> Self:
        """Find what an adapter changes.

        Args:
            adapter: checked.
            base: all files of the base, by name.

        Raises:
            AdapterError: it is not of this base, or cannot be merged into it.
        """
        targets = find_targets(adapter, base)
        for target in targets:
            _check_mergeable(target)
        by_file: dict[str, tuple[Target, ...]] = {}
        for target in sorted(targets, key=lambda target: target.weight.offset):
            by_file[target.file] = (*by_file.get(target.file, ()), target)
        return cls(adapter=adapter, base=base, targets=by_file)

    def blocks(self, file: str, on_codes: OnCodes | None = None) -> Iterator[bytes]:
        """Yield the bytes of a merged file, in order; those of the base where nothing changes.

        Args:
            file: its name.
            on_codes: told what became of int8 codes, block by block.

        Raises:
            AdapterError: the values cannot be merged (not finite, too large).
        """
        at, source = 0, self.base[file]
        for target in self.targets.get(file, ()):
            yield from _copy(source, at, target.weight.offset)
            yield from self._weight(target, on_codes)
            at = target.weight.end
        yield from _copy(source, at, source.size_bytes)

    def _weight(self, target: Target, on_codes: OnCodes | None) -> Iterator[bytes]:
        rows, columns = target.pair.shape
        right = self._right(target.pair)
        step = max(1, _BLOCK_VALUES // max(1, columns))
        for first in range(0, rows, step):
            count = min(step, rows - first)
            t = change(self._left(target.pair, first, count), right, self.adapter.config.scale)
            width = target.weight.size_bytes // rows
            raw = self.base[target.file].read(target.weight.offset + first * width, count * width)
            if target.scale is None:
                yield merge_floats(raw, target.weight.dtype, t)
            else:
                scales = self._scales(target.scale, first, count)
                merged = merge_codes(raw, scales, t)
                if on_codes is not None:
                    on_codes(raw, merged, scales, t)
                yield merged

    def _right(self, pair: Pair) -> Doubles:
        # Row by row: the doubles are all that is ever whole.
        values = np.empty(pair.a.shape, np.float64)
        for number in range(len(values)):
            values[number] = self._values(pair.a, number, 1)
        return fixed_columns(values)

    def _left(self, pair: Pair, first: int, count: int) -> Doubles:
        return fixed_rows(self._values(pair.b, first, count).reshape(count, -1))

    def _values(self, factor: Tensor, first: int, count: int) -> Doubles:
        width = factor.size_bytes // factor.shape[0]
        return widen(self.adapter.source.read(factor.offset + first * width, count * width), factor.dtype)

    def _scales(self, scale: tuple[str, Tensor], first: int, count: int) -> Doubles:
        file, tensor = scale
        width = tensor.size_bytes // tensor.shape[0]
        return widen(self.base[file].read(tensor.offset + first * width, count * width), tensor.dtype)


def find_targets(adapter: Adapter, base: Mapping[str, Source]) -> tuple[Target, ...]:
    """Return the layers of a base that an adapter changes, whether or not it can be merged.

    Raises:
        AdapterError: it is not of this base.
    """
    where: dict[str, tuple[str, Tensor]] = {}
    for file in sorted(name for name in base if name.endswith(".safetensors")):
        for name, tensor in read_tensors(base[file], file).items():
            if name in where:
                raise AdapterError(f"tensor {name!r} is in {where[name][0]} and in {file} of the base")
            where[name] = file, tensor
    if not where:
        raise AdapterError("the base has no safetensors file", hint="adapters need a base in Hugging Face layout")
    return tuple(_target(layer, pair, where) for layer, pair in adapter.pairs.items())


def _pair(layer: str, found: Mapping[str, Tensor], rank: int) -> Pair:
    if set(found) != {"A", "B"}:
        raise AdapterError(f"{WEIGHTS_NAME}: {layer} has only one of its two factors", hint="save the adapter again")
    a, b = found["A"], found["B"]
    for factor in (a, b):
        if factor.dtype not in FLOATS or len(factor.shape) != 2 or not factor.size_bytes:
            kind = f"{factor.dtype} of shape {list(factor.shape)}"
            raise AdapterError(f"{WEIGHTS_NAME}: {factor.name} is {kind}", hint="factors are BF16, F16, F32 matrices")
    if a.shape[0] != rank or b.shape[1] != rank:
        shapes = f"A {list(a.shape)} and B {list(b.shape)}"
        raise AdapterError(f"{WEIGHTS_NAME}: {layer} has {shapes}, its rank is {rank}", hint="save the adapter again")
    return Pair(a=a, b=b)


def _target(layer: str, pair: Pair, where: Mapping[str, tuple[str, Tensor]]) -> Target:
    rows, columns = pair.shape
    for suffix in ("weight", "weight_packed"):
        if f"{layer}.{suffix}" not in where:
            continue
        file, weight = where[f"{layer}.{suffix}"]
        packed = -(-columns // 8) if suffix == "weight_packed" else columns
        if weight.shape != (rows, packed):
            shapes = f"{list(weight.shape)}, the adapter is for {[rows, packed]}"
            raise AdapterError(f"{weight.name} of the base is {shapes}", hint="give the base it was trained on")
        return Target(
            file=file,
            weight=weight,
            pair=pair,
            scale=where.get(f"{layer}.weight_scale"),
            has_zero_points=f"{layer}.weight_zero_point" in where,
        )
    raise AdapterError(
        f"the base has no layer {layer!r}", hint="give the base it was trained on; a tied head cannot be adapted"
    )


def _check_mergeable(target: Target) -> None:
    rows, columns = target.pair.shape
    weight, scale = target.weight, target.scale
    if target.pair.a.shape[0] * columns > RIGHT_VALUES_MAX:
        raise AdapterError(f"{weight.name}: its adapter's rank is too large to merge on board", hint=_BESIDE)
    if weight.dtype in FLOATS and scale is None:
        return
    if weight.name.endswith("weight_packed"):
        hint = f"{_BESIDE}, which loses nothing; or merge it into the float model, quantize that and stage it"
        raise AdapterError(f"{weight.name}: 4-bit codes, of whose steps an adapter's change is a small part", hint=hint)
    if weight.dtype != "I8" or scale is None or target.has_zero_points:
        raise AdapterError(f"{weight.name}: no rule to merge into {weight.dtype} of its format", hint=_BESIDE)
    if scale[1].dtype not in FLOATS or scale[1].shape not in {(rows,), (rows, 1)}:
        raise AdapterError(f"{weight.name}: only int8 with one scale a row can be merged", hint=_BESIDE)


def _copy(source: Source, begin: int, end: int) -> Iterator[bytes]:
    edges = [*range(begin, end, _COPY_SIZE), end]
    for first, stop in pairwise(edges):
        yield source.read(first, stop - first)
