"""The canary: the trial of a new release, as its manifest says it. Pure.

A map in the manifest:

    max_tokens          int     tokens to generate for each prompt
    timeout_s           int     for loading and answering together
    agreement_permille  int     leading tokens that must agree, over all prompts, in thousandths
    prompts             [[text: str, expected: bin], ...]

`expected` are token ids, in order, each as LEB128: seven bits a byte, the least first, bit 7 set if more follow, in as
few bytes as it takes. The tokens that models use most have the lowest ids, so most take two bytes.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

from protocol.errors import DecodeError, TruncatedError
from protocol.limits import CANARY_PROMPTS_MAX, CANARY_TOKENS_MAX, PROMPT_SIZE_MAX
from protocol.packing import Fields, unpack_row

_UNIT = "manifest canary"
TOKEN_MAX = 2**31 - 1
_TOKEN_SIZE_MAX = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryPrompt:
    """One canary prompt and the greedy tokens that the twin answered.

    Attributes:
        text: sent as one user message.
        expected: token ids, in order.
    """

    text: str
    expected: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """The signed trial that decides CONFIRMED or REJECTED.

    Attributes:
        prompts: what is asked; none means that loading is the whole trial.
        max_tokens: tokens to generate for each prompt.
        timeout_s: for loading and answering together.
        agreement_permille: leading tokens that must agree, over all prompts, in thousandths.
    """

    prompts: tuple[CanaryPrompt, ...] = ()
    max_tokens: int = 16
    timeout_s: int = 600
    agreement_permille: int = 1000

    def as_map(self) -> dict[str, Any]:
        """Return the map that stands in a manifest.

        Raises:
            DecodeError: a token id is out of range.
        """
        return {
            "max_tokens": self.max_tokens,
            "timeout_s": self.timeout_s,
            "agreement_permille": self.agreement_permille,
            "prompts": [[prompt.text, pack_tokens(prompt.expected)] for prompt in self.prompts],
        }

    @classmethod
    def from_map(cls, value: dict[str, Any]) -> Self:
        """Parse and validate the map.

        Raises:
            DecodeError: it is not valid.
        """
        fields = Fields(value, unit=_UNIT)
        prompts = []
        for item in fields.items("prompts", length_max=CANARY_PROMPTS_MAX):
            row = unpack_row(item, ("text", "expected"), unit=f"{_UNIT} prompt")
            text = row.text("text", length_max=PROMPT_SIZE_MAX)
            packed = row.data("expected", size_max=_TOKEN_SIZE_MAX * CANARY_TOKENS_MAX)
            prompts.append(CanaryPrompt(text=text, expected=unpack_tokens(packed)))
        canary = cls(
            prompts=tuple(prompts),
            max_tokens=fields.integer("max_tokens", lowest=1, highest=CANARY_TOKENS_MAX),
            timeout_s=fields.integer("timeout_s", lowest=1, highest=86400),
            agreement_permille=fields.integer("agreement_permille", highest=1000),
        )
        fields.finish()
        return canary


def pack_tokens(tokens: Iterable[int]) -> bytes:
    """Return token ids as LEB128.

    Raises:
        DecodeError: one is not in 0..TOKEN_MAX.
    """
    packed = bytearray()
    for token in tokens:
        if not 0 <= token <= TOKEN_MAX:
            raise DecodeError(f"{_UNIT}: token id {token} is not in 0..{TOKEN_MAX}")
        left = token
        while left > 0x7F:
            packed.append(left & 0x7F | 0x80)
            left >>= 7
        packed.append(left)
    return bytes(packed)


def unpack_tokens(packed: bytes) -> tuple[int, ...]:
    """Return the token ids that were packed, at most CANARY_TOKENS_MAX.

    Raises:
        DecodeError: it was not packed so.
    """
    tokens: list[int] = []
    value, size = 0, 0
    for byte in packed:
        value |= (byte & 0x7F) << 7 * size
        size += 1
        if byte & 0x80:
            continue
        if value > TOKEN_MAX or (size > 1 and not byte):
            raise DecodeError(f"{_UNIT}: a token id above {TOKEN_MAX}, or in more bytes than it takes")
        if len(tokens) == CANARY_TOKENS_MAX:
            raise DecodeError(f"{_UNIT}: more than {CANARY_TOKENS_MAX} expected tokens")
        tokens.append(value)
        value, size = 0, 0
    if size:
        raise TruncatedError(f"{_UNIT} tokens", expected=len(packed) + 1, got=len(packed))
    return tuple(tokens)
