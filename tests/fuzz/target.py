"""A parser under attack: what is called, what it may say no with, and what good input looks like."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Form(StrEnum):
    """What a seed's bytes are, so that the mutator can go deeper than flipped bits."""

    BYTES = "bytes"
    MSGPACK = "msgpack"
    JSON = "json"
    TEXT = "text"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One parser.

    Attributes:
        parse: takes any bytes; returns, or raises one of `refusals`.
        refusals: errors that are an answer. Anything else is a finding.
        seeds: input that it accepts.
        form: of the seeds.
        size_max: of made-up input, bytes; a little over what the parser's own limit allows.
    """

    parse: Callable[[bytes], object]
    refusals: tuple[type[Exception], ...]
    seeds: Sequence[bytes]
    form: Form = Form.BYTES
    size_max: int = 4096

    def attack(self, data: bytes) -> bool:
        """Give it some bytes; returns whether it took them. Raises what is a finding."""
        try:
            self.parse(data)
        except self.refusals:
            return False
        return True
