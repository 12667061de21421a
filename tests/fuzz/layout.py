"""Where each value of a seed lies, what may stand there instead, and the seed with its structure changed."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from typing import Any

import msgpack

from tests.fuzz.target import Form

_NESTED = (10, 500, 5000)
_ODD_TEXTS = (
    "", "a", "0", "v", "../x", "a/b", "/etc/passwd", "C:\\x", "\\\\host\\x", "CON", "aux.txt", "x.", "x ", "\0",
    "a\0b", "~", ".", "..",
    "\u202e", "e\u0301", "\u212b", "\uff0e\uff0e/x", "\x1b[2J", "\n", "\ud7ff", "\U0001f600", "x" * 300, "1e9", "%s",
    "{}", "ff" * 32,
    "2030-01-01T00:00:00Z", "9999-12-31T23:59:59Z",
)  # fmt: skip
_ODD_NUMBERS = (
    0, 1, -1, 2, 127, 128, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**63 - 1, 2**63,
    2**64 - 1, -(2**31), -(2**63),
    0.5, -0.0, 1e-320, 1e300,
)  # fmt: skip
_ODD_VALUES: tuple[Any, ...] = (None, True, False, *_ODD_NUMBERS, *_ODD_TEXTS, [], [[]], [0], {}, {"": {}}, {"v": 1})
_MSGPACK_ODD = (b"", b"\0", b"\xff" * 32, b"x" * 300, bytes(6), bytes(8), bytes(32), bytes(64))
_MSGPACK_RAW = (  # what no encoder writes: reserved, extensions, sizes of 4 GiB, text that is none, numbers too long
    b"\xc1", b"\xd6\xff\0\0\0\0", b"\xc7\x0c\xff" + bytes(12), b"\xd4\x01\0", b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff",
    b"\xdb\x7f\xff\xff\xff", b"\xa2\xff\xfe", b"\xa3\xed\xa0\x80", b"\xcf\0\0\0\0\0\0\0\1", b"\xca\x7f\xc0\0\0",
    b"\xcb\x7f\xf0\0\0\0\0\0\0",
    b"\xcb\x7f\xf8\0\0\0\0\0\0", b"\x81\x01\x02", b"\x81\xc0\x02", b"\x82\xa1a\1\xa1a\2",
)  # fmt: skip
_JSON_RAW = (
    b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1E400", b"1" * 4400, b"0." + b"1" * 400, b"01", b"+1", b".5",
    b"'a'", b"\"\\ud800\"", b"\"\xff\"",
    b"\"\\u0000\"", b'"\t"', b"undefined", b'{"a":1,"a":2}', b"[1,]", b"// x\n0", b"\xef\xbb\xbf1", b"[" * 2000,
    b'{"a":' * 800,
)  # fmt: skip
_TEXT_RAW = (
    b"", b"0", b"-1", b"1", b"1e308", b"1e999", b"nan", b"inf", b"-inf", b"9" * 5000, b"0x7fffffff", b"1_0", b"true",
    b"null", b"~", b"''", b'""', b"[", b"]",
    b"{", b"}", b"[]", b"{}", b":", b": ", b"=", b"#", b"\n", b"\t", b"\r", b"\0", b"\x7f", b"\xff", b"\xed\xa0\x80",
    b"\xe2\x80\xae", b"-", b"- ", b"&a", b"*a", b"<<",
    b"!!python/object:os.system", b"|", b">", b"%", b"@", b"`", b"1979-05-27", b"1979-05-27T07:32:00",
    b"9999-12-31T23:59:59Z", b"0001-01-01", b"99:99",
    b"1000000000Mbit/s", b"0%", b"200%", b"[" * 600, b"{a: " * 300, b"a." * 300, b"x" * 300,
)  # fmt: skip
_TOKEN = re.compile(rb"[A-Za-z_]+|[0-9.+-]+|[^\sA-Za-z0-9]|\s+")


class _Pairs(list[tuple[Any, Any]]):
    """A map whose keys may come twice."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Bytes, and of each value where it starts, where it ends, and what to put there."""

    data: bytes
    spans: tuple[tuple[int, int, tuple[bytes, ...]], ...]


class Layouts:
    """A seed, as it is and with its structure changed; all of it made when it is asked for."""

    def __init__(self, form: Form, seed: bytes) -> None:
        self._form, self._seed = form, seed
        self._made: dict[int, Layout] = {}

    @cached_property
    def as_it_is(self) -> Layout:
        """The seed."""
        return _tokens(self._seed) if self._form is Form.TEXT else _lay_out(self._form, self._tree)

    def varied(self, draw: Callable[[], float]) -> Layout:
        """One of the others."""
        if self._form is Form.TEXT or not self._variants:
            return self.as_it_is
        number = int(draw() * len(self._variants))
        if number not in self._made:
            self._made[number] = _lay_out(self._form, self._variants[number])
        return self._made[number]

    @cached_property
    def _tree(self) -> Any:
        if self._form is Form.MSGPACK:
            return msgpack.unpackb(self._seed, object_pairs_hook=_Pairs, strict_map_key=False)
        return json.loads(self._seed, object_pairs_hook=_Pairs)

    @cached_property
    def _variants(self) -> list[Any]:
        return list(_changed(self._tree))


@cache
def layouts_of(form: Form, seed: bytes) -> Layouts:
    """The layouts of a seed, made once."""
    return Layouts(form, seed)


def _changed(tree: Any) -> Iterator[Any]:
    """Yield a tree with one thing left out, said twice, or added; all else is shared with it."""
    if isinstance(tree, _Pairs):
        for at, (key, value) in enumerate(tree):
            yield _Pairs(tree[:at] + tree[at + 1 :])
            yield _Pairs([*tree[: at + 1], tree[at], *tree[at + 1 :]])
            for changed in _changed(value):
                yield _Pairs([*tree[:at], (key, changed), *tree[at + 1 :]])
        yield _Pairs([*tree, ("extra", 1)])
        yield _Pairs(reversed(tree))
    elif isinstance(tree, list):
        for at, value in enumerate(tree):
            yield tree[:at] + tree[at + 1 :]
            yield tree[:at] + [value] * 2 + tree[at + 1 :]
            for changed in _changed(value):
                yield [*tree[:at], changed, *tree[at + 1 :]]
        yield tree[:1] * 100
        yield tree[::-1]


def _lay_out(form: Form, tree: Any) -> Layout:
    data, spans = bytearray(), []
    packer = msgpack.Packer(use_bin_type=True)
    is_msgpack = form is Form.MSGPACK

    def put(value: Any) -> None:
        start = len(data)
        if isinstance(value, _Pairs):
            data.extend(packer.pack_map_header(len(value)) if is_msgpack else b"{")
            for at, (key, inner) in enumerate(value):
                if not is_msgpack and at:
                    data.extend(b",")
                put(key)
                if not is_msgpack:
                    data.extend(b":")
                put(inner)
            if not is_msgpack:
                data.extend(b"}")
        elif isinstance(value, list):
            data.extend(packer.pack_array_header(len(value)) if is_msgpack else b"[")
            for at, inner in enumerate(value):
                if not is_msgpack and at:
                    data.extend(b",")
                put(inner)
            if not is_msgpack:
                data.extend(b"]")
        else:
            data.extend(_written(form, value))
        spans.append((start, len(data), _odd(form, value if isinstance(value, int | float | str | bytes) else None)))

    put(tree)
    return Layout(bytes(data), tuple(spans))


def _tokens(seed: bytes) -> Layout:
    found = [(match.start(), match.end(), match.group()) for match in _TOKEN.finditer(seed)]
    words = tuple({text for _, _, text in found})
    return Layout(seed, tuple((start, end, (*_TEXT_RAW, *words, text * 2)) for start, end, text in found))


def _written(form: Form, value: Any) -> bytes:
    if form is Form.MSGPACK:
        return msgpack.packb(value, use_bin_type=True, unicode_errors="surrogatepass")  # type: ignore[no-any-return]
    return json.dumps(value).encode("utf-8", "surrogatepass")


@cache
def _common(form: Form) -> tuple[bytes, ...]:
    if form is Form.MSGPACK:
        deep = tuple(b"\x91" * depth + b"\x90" for depth in _NESTED) + tuple(
            b"\x81\xa1a" * depth + b"\x80" for depth in _NESTED
        )
        return (*(_written(form, value) for value in (*_ODD_VALUES, *_MSGPACK_ODD)), *_MSGPACK_RAW, *deep)
    deep = tuple(b"[" * depth + b"]" * depth for depth in _NESTED) + tuple(
        b'{"a":' * depth + b"0" + b"}" * depth for depth in _NESTED
    )
    return (*(_written(form, value) for value in _ODD_VALUES), *_JSON_RAW, *deep)


@lru_cache(maxsize=None, typed=True)
def _odd(form: Form, value: Any) -> tuple[bytes, ...]:
    """What may stand for a value: half of it near the value, as far as that can be."""
    near: list[Any] = []
    if isinstance(value, bool) or value is None:
        pass
    elif isinstance(value, int | float):
        near = [value + 1, value - 1, -value, value * 2, value * 1000, value * 2**32, float(value), str(value), [value]]
    elif isinstance(value, str | bytes):
        near = [value[:-1], value + value[:1], value[::-1], value * 3, value[1:], [value]]
        if isinstance(value, str):
            near += [
                value.upper(),
                value + " ",
                "\0" + value,
                value + "\n",
                value.encode() if form is Form.MSGPACK else value + "\u0301",
            ]
        else:
            near += [bytes(len(value)), b"\xff" * len(value), value.hex()]
    written = []
    for each in near:
        try:
            written.append(_written(form, each))
        except (ValueError, OverflowError, TypeError):
            continue  # what cannot be written cannot be sent
    common = _common(form)
    return (*common, *written * (len(common) // (2 * len(written)) if written else 0))
