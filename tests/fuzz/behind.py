"""What lies behind sums and signatures: parsers attacked as if whoever made the input had the keys, or were a fool.

A check that is passed by making it (a CRC, a MAC) is made again by a target itself. Signatures cost more than all else
of a case together, so here whoever verifies them is put to sleep for one call; the same parsers are targets with their
signatures in force, too.
"""

from collections.abc import Callable
from typing import Any

from protocol import envelope, roots, trust
from protocol.envelope import key_id
from protocol.objects import PREFIX_SIZE, ObjectKind, object_prefix
from tests.vectors import make


def _nothing(*_arguments: object) -> None:
    pass


def without_envelope_signatures(parse: Callable[[bytes], object]) -> Callable[[bytes], None]:
    """Any signature of an envelope is good while `parse` runs."""
    return _with(parse, (envelope, "_verify", _nothing))


def without_role_signatures(parse: Callable[[bytes], object]) -> Callable[[bytes], None]:
    """Any signatures of TUF roles are good while `parse` runs."""
    return _with(parse, (trust, "verify_signatures", _nothing), (roots, "verify_signatures", _nothing))


def _with(parse: Callable[[bytes], object], *changes: tuple[Any, str, object]) -> Callable[[bytes], None]:
    kept = [(module, name, getattr(module, name)) for module, name, _ in changes]

    def run(data: bytes) -> None:
        for module, name, value in changes:
            setattr(module, name, value)
        try:
            parse(data)
        finally:
            for module, name, value in kept:
                setattr(module, name, value)

    return run


_HEAD = key_id(make.PUBLIC_KEY) + bytes(64)


def enveloped(kind: ObjectKind, statement: bytes) -> bytes:
    """A statement in an envelope, under a signature of zeros."""
    return object_prefix(kind, PREFIX_SIZE + len(_HEAD) + len(statement)) + _HEAD + statement
