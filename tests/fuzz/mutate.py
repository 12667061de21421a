"""Hostile input from good input: bytes spoiled, cut, joined, repeated; in trees, values of the wrong kind or size."""

import json
import random
from typing import Any

import msgpack

from tests.fuzz.target import Form, Target

_ODD_BYTES = (0, 1, 0x7F, 0x80, 0xFE, 0xFF)
_ODD_SIZES = (1, 2, 4, 8)
_ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**32 - 1, 2**63, 2**64 - 1, -(2**63), 0.5, float("inf"), float("nan"),
    "", "a", "../x", "\0", "\ud7ff", "x" * 300, b"", b"\0", b"\xff" * 32, b"x" * 300, [], [[]], {}, {"": {}}, {"v": 1},
)  # fmt: skip
_JSON_ODD = tuple(value for value in _ODD_VALUES if not isinstance(value, bytes))


class Mutator:
    """Makes input for one target, the same for the same seed."""

    def __init__(self, target: Target, rng: random.Random) -> None:
        self._target, self._rng = target, rng
        self._trees = [tree for seed in target.seeds if (tree := _tree(target.form, seed)) is not None]

    def next_input(self) -> bytes:
        """Return the next one."""
        rng = self._rng
        if not self._target.seeds or rng.random() < 0.02:
            return rng.randbytes(rng.randrange(self._target.size_max))
        if self._trees and rng.random() < 0.6:
            tree = _copy(rng.choice(self._trees))
            for _ in range(rng.choice((1, 1, 1, 2, 4))):
                tree = self._spoil_tree(tree)
            try:
                data = _bytes(self._target.form, tree)
                return data if len(data) <= self._target.size_max else data[: self._target.size_max]
            except (ValueError, OverflowError, TypeError):
                pass  # what cannot be written cannot be sent
        data = bytearray(rng.choice(self._target.seeds))
        for _ in range(rng.choice((1, 1, 2, 4, 16))):
            self._spoil(data)
        return bytes(data)

    def _spoil(self, data: bytearray) -> None:
        rng = self._rng
        at = rng.randrange(len(data) + 1)
        match rng.randrange(9):
            case 0 if data:
                data[at % len(data)] ^= 1 << rng.randrange(8)
            case 1 if data:
                data[at % len(data)] = rng.choice(_ODD_BYTES)
            case 2:
                del data[at:]
            case 3:
                del data[at : at + rng.randrange(1, 16)]
            case 4:
                data[at:at] = rng.randbytes(rng.randrange(1, 16))
            case 5:
                size = rng.choice(_ODD_SIZES)
                number = rng.choice((0, 1, 2 ** (8 * size) - 1, 2 ** (8 * size - 1), rng.randrange(2 ** (8 * size))))
                data[at : at + size] = number.to_bytes(size, rng.choice(("big", "little")))
            case 6:
                run = data[at : at + rng.randrange(1, 32)]
                data[at:at] = run * rng.choice((1, 1, 2, 64))
            case 7:
                other = rng.choice(self._target.seeds)
                data[at:] = other[rng.randrange(len(other) + 1) :]
            case _:
                data += rng.randbytes(rng.randrange(1, 64))
        del data[self._target.size_max :]

    def _spoil_tree(self, tree: Any) -> Any:
        rng = self._rng
        if isinstance(tree, dict) and tree and rng.random() < 0.85:
            key = rng.choice(list(tree))
            match rng.randrange(8):
                case 0:
                    del tree[key]
                case 1:
                    tree[rng.choice(("extra", "", "v", key + "x" if isinstance(key, str) else 7))] = self._odd(
                        tree[key]
                    )
                case _:
                    tree[key] = self._spoil_tree(tree[key])
            return tree
        if isinstance(tree, list) and tree and rng.random() < 0.85:
            at = rng.randrange(len(tree))
            match rng.randrange(8):
                case 0:
                    del tree[at]
                case 1:
                    tree[at:at] = [_copy(tree[at])] * rng.choice((1, 2, 100))
                case _:
                    tree[at] = self._spoil_tree(tree[at])
            return tree
        return self._odd(tree)

    def _odd(self, value: Any) -> Any:
        rng = self._rng
        if isinstance(value, int) and not isinstance(value, bool) and rng.random() < 0.5:
            return rng.choice((value + 1, value - 1, -value, value * 2, value * 1000, value << 32))
        if isinstance(value, (str, bytes)) and value and rng.random() < 0.5:
            return rng.choice((value[:-1], value + value[:1], value[::-1], value * 3))
        if rng.random() < 0.05:
            return _nested(rng.choice((10, 500, 5000)))
        return _copy(rng.choice(_ODD_VALUES if self._target.form is Form.MSGPACK else _JSON_ODD))


def _nested(depth: int) -> list[Any]:
    tree: list[Any] = []
    for _ in range(depth):
        tree = [tree]
    return tree


def _copy(tree: Any) -> Any:
    match tree:
        case dict():
            return {key: _copy(value) for key, value in tree.items()}
        case list():
            return [_copy(value) for value in tree] if len(tree) != 1 or not isinstance(tree[0], list) else list(tree)
        case _:
            return tree


def _tree(form: Form, seed: bytes) -> Any:
    if form is Form.MSGPACK:
        return msgpack.unpackb(seed)
    return json.loads(seed) if form is Form.JSON else None


def _bytes(form: Form, tree: Any) -> bytes:
    try:
        return msgpack.packb(tree) if form is Form.MSGPACK else json.dumps(tree).encode()  # type: ignore[no-any-return]
    except RecursionError:
        depth = 5000
        return b"\x91" * depth + b"\x90" if form is Form.MSGPACK else b"[" * depth + b"]" * depth
